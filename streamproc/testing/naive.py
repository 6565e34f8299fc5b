"""Operators written again as a person would on paper: one row at a time, plain Python, nothing remembered cleverly.

They are the twins of law 8. They follow the protocol's words and share no code with the operators: no NumPy, no kernel,
no state that is ever forgotten. They are slow, and meant to be read.

A twin says when it next wants something done (`due`), does it (`release`), and takes rows (`take`). `play` lets time
run as the protocol has it: before each row everything due is released, then the row goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from streamproc.batch import C0, C3, DUE, EVENT_TIME, LATE, RANK, ROW, WATERMARK, Batch

Position = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its values by column, and what the engine knows of it (see `streamproc.batch`)."""

    values: Mapping[str, Any]
    event_time: int
    watermark: int
    position: Position
    coordinate: tuple[int, int, int, int] = (0, 0, 0, 0)
    key: bytes = b""
    late: bool = False
    port: int = 0

    @property
    def in_time(self) -> bool:
        """Neither marked late by its source nor behind the watermark that held when it came."""
        return not self.late and self.event_time >= self.watermark

    @property
    def released(self) -> bool:
        """Whether time released it further up, before input row position[0] / 2."""
        return self.position[0] % 2 == 0


class Twin(Protocol):
    """A naive operator.

    strict  whether a thing due at t is released by a watermark above t; otherwise a watermark of t suffices
    """

    strict: bool

    def due(self) -> int | None:
        """The earliest moment at which something waits to be released."""
        ...

    def release(self, due: int, at: int, rank: int) -> list[Row]:
        """What is due at this moment, in order; `at` is the input row before which it goes."""
        ...

    def take(self, row: Row) -> list[Row] | None:
        """What the row makes at once, or None if it came too late."""
        ...


def rows_of(batch: Batch, *, port: int = 0) -> list[Row]:
    """The rows of a batch."""
    rows = []
    for index, values in enumerate(batch.frame.iter_rows(named=True)):
        meta = [int(number) for number in batch.meta[index]]
        c0, c1, c2, c3 = meta[C0 : C3 + 1]
        rows.append(
            Row(
                values,
                meta[EVENT_TIME],
                meta[WATERMARK],
                (meta[ROW], meta[DUE], meta[RANK]),
                (c0, c1, c2, c3),
                b"" if batch.keys is None else batch.keys.get(index),
                meta[LATE] == 1,
                port,
            )
        )
    return rows


def play(twin: Twin, rows: Sequence[Row], watermarks: Sequence[int], rank: int) -> tuple[list[Row], list[Row]]:
    """Rows that a twin makes, and rows that came too late for it.

    rows        in any order of ports; they are taken by position, then port
    watermarks  the stage's watermark at each input row
    rank        the operator's rank in the plan

    >>> rows = [Row({"n": n}, time, time, (2 * n + 1, 0, 0)) for n, time in enumerate([5, 7])]
    >>> [(row.values["n"], row.position) for row in play(Ordered(), rows, [5, 7], 3)[0]]
    [(0, (2, 5, 3))]
    """
    made: list[Row] = []
    late: list[Row] = []

    def release(until: int) -> None:
        while (due := twin.due()) is not None and (due < until if twin.strict else due <= until):
            at = next(i for i, w in enumerate(watermarks) if (w > due if twin.strict else w >= due))
            made.extend(twin.release(due, at, rank))

    for row in sorted(rows, key=lambda row: (row.position, row.port)):
        if row.position[0] >= 2:
            release(watermarks[row.position[0] // 2 - 1])
        release(row.watermark - 1 if row.released and not twin.strict else row.watermark)
        given = twin.take(row)
        if given is None:
            late.append(row)
        else:
            made.extend(given)
    if watermarks:
        release(watermarks[-1])
    return made, late


def where(rows: Sequence[Row], predicate: Callable[[Mapping[str, Any]], bool | None]) -> list[Row]:
    """The rows for which the predicate is true, not false and not null."""
    return [row for row in rows if predicate(row.values) is True]


def with_columns(rows: Sequence[Row], **made: Callable[[Mapping[str, Any]], Any]) -> list[Row]:
    """The rows with columns computed from their own values."""
    return [
        replace(row, values={**row.values, **{name: compute(row.values) for name, compute in made.items()}})
        for row in rows
    ]


def nulls_first(value: Any) -> tuple[bool, Any]:
    """A key for sorting values of one type and nulls; text goes by its bytes."""
    return (value is not None, 0 if value is None else value.encode() if isinstance(value, str) else value)


@dataclass(slots=True)
class Ordered:
    """Rows in order of event time, then of columns, then of coordinate, each once the watermark is above it."""

    by: tuple[str, ...] = ()
    waiting: list[Row] = field(default_factory=list)
    strict: bool = True

    def due(self) -> int | None:
        """The earliest event time that waits."""
        return min((row.event_time for row in self.waiting), default=None)

    def release(self, due: int, at: int, rank: int) -> list[Row]:
        """All rows of one event time; each carries its own time as watermark."""
        rows = [row for row in self.waiting if row.event_time == due]
        self.waiting = [row for row in self.waiting if row.event_time != due]
        rows.sort(key=lambda row: (*(nulls_first(row.values[name]) for name in self.by), row.coordinate))
        return [replace(row, watermark=due, position=(2 * at, due, rank)) for row in rows]

    def take(self, row: Row) -> list[Row] | None:
        """Nothing at once."""
        if not row.in_time:
            return None
        self.waiting.append(row)
        return []


@dataclass(slots=True)
class Dedupe:
    """Rows of which no row with the same id went on that is at most `within_us` away."""

    columns: tuple[str, ...]
    within_us: int
    gone: list[Row] = field(default_factory=list)
    strict: bool = False

    def due(self) -> int | None:
        """Never: nothing waits."""
        return None

    def release(self, due: int, at: int, rank: int) -> list[Row]:
        """Nothing."""
        return []

    def take(self, row: Row) -> list[Row] | None:
        """The row, if it is no repetition."""
        if not row.in_time:
            return None
        for other in self.gone:
            same = all(row.values[name] == other.values[name] for name in self.columns)
            if same and abs(row.event_time - other.event_time) <= self.within_us:
                return []
        self.gone.append(row)
        return [row]
