"""Windows as a person keeps them: every window holds the list of its rows, and computes anew each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from streamproc.testing.naive import Position, Row
from streamproc.testing.naive_aggregates import aggregate


@dataclass(frozen=True, slots=True)
class Wanted:
    """One aggregate of a window, see `naive_aggregates.aggregate`."""

    kind: str
    column: str = ""
    k: int = 0
    zero: Any = 0.0


@dataclass(slots=True)
class Window:
    """[start, end) of one key, and its rows in order of arrival."""

    key: bytes
    start: int
    end: int
    rows: list[Row]


@dataclass(slots=True)
class Windows:
    """Windows of fixed length, tumbling or sliding; or sessions, where `gap_us` is given.

    shown    the key's columns
    updates  a row for every input row, as the window stands after it, instead of one when it closes
    """

    shown: tuple[str, ...]
    wanted: Mapping[str, Wanted]
    span_us: int = 0
    every_us: int = 0
    offset_us: int = 0
    gap_us: int = 0
    updates: bool = False
    open: list[Window] = field(default_factory=list)
    strict: bool = False

    def due(self) -> int | None:
        """The earliest end of an open window."""
        return min((window.end for window in self.open), default=None)

    def release(self, due: int, at: int, rank: int) -> list[Row]:
        """The windows that end here, in order of key bytes."""
        over = sorted((window for window in self.open if window.end == due), key=lambda window: window.key)
        self.open = [window for window in self.open if window.end != due]
        if self.updates:
            return []
        return [self.result(window, due, due, (2 * at, due, rank)) for window in over]

    def take(self, row: Row) -> list[Row] | None:
        """Puts the row into its windows; None if they are all closed."""
        if row.late:
            return None
        windows = self.session_of(row) if self.gap_us else self.windows_of(row)
        if not windows:
            return None
        for window in windows:
            window.rows.append(row)
        if not self.updates:
            return []
        # The event time of a window's row is the window's end, also while it is open.
        return [self.result(window, window.end, row.watermark, row.position) for window in windows]

    def windows_of(self, row: Row) -> list[Window]:
        """The open windows that the row falls into, earliest first."""
        found = []
        start = (row.event_time - self.offset_us) // self.every_us * self.every_us + self.offset_us
        while start + self.span_us > row.event_time:
            if start + self.span_us > row.watermark:
                found.append(self.window(row.key, start, start + self.span_us))
            start -= self.every_us
        return found[::-1]

    def session_of(self, row: Row) -> list[Window]:
        """The one session that the row belongs to, made of all open ones that it touches; none if it is closed."""
        touched = [
            window
            for window in self.open
            if window.key == row.key and window.start - self.gap_us < row.event_time < window.end
        ]
        if not touched and row.event_time + self.gap_us <= row.watermark:
            return []
        self.open = [window for window in self.open if window not in touched]
        rows = [one for window in touched for one in window.rows]
        start = min([row.event_time, *(window.start for window in touched)])
        end = max([row.event_time + self.gap_us, *(window.end for window in touched)])
        self.open.append(Window(row.key, start, end, rows))
        return [self.open[-1]]

    def window(self, key: bytes, start: int, end: int) -> Window:
        """The open window of this key and start, begun if need be."""
        for window in self.open:
            if (window.key, window.start) == (key, start):
                return window
        self.open.append(Window(key, start, end, []))
        return self.open[-1]

    def result(self, window: Window, event_time: int, watermark: int, position: Position) -> Row:
        """The window as a row: the key, its bounds in µs, the aggregates, and the number of rows as `revision`."""
        values = {name: window.rows[-1].values[name] for name in self.shown}
        values |= {"window_start": window.start, "window_end": window.end}
        values |= {
            name: aggregate(one.kind, one.column, window.rows, k=one.k, zero=one.zero)
            for name, one in self.wanted.items()
        }
        if self.updates:
            values["revision"] = len(window.rows)
        last = window.rows[-1]
        return replace(last, values=values, event_time=event_time, watermark=watermark, position=position, late=False)


@dataclass(slots=True)
class Lookback:
    """Each row with aggregates over the rows of its key that came before it, and itself, in the last span of each.

    wanted  for each new column the aggregate and its span in µs
    """

    wanted: Mapping[str, tuple[Wanted, int]]
    gone: list[Row] = field(default_factory=list)
    strict: bool = False

    def due(self) -> int | None:
        """Never: nothing waits."""
        return None

    def release(self, due: int, at: int, rank: int) -> list[Row]:
        """Nothing."""
        return []

    def take(self, row: Row) -> list[Row] | None:
        """The row with its aggregates."""
        if not row.in_time:
            return None
        self.gone.append(row)
        values = dict(row.values)
        for name, (one, span_us) in self.wanted.items():
            first = row.event_time - span_us
            rows = [other for other in self.gone if other.key == row.key and first < other.event_time <= row.event_time]
            values[name] = aggregate(one.kind, one.column, rows, k=one.k, zero=one.zero)
        return [replace(row, values=values)]
