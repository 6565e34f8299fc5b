"""From the counts of windows to alerts: raised when a rule is first broken, folded while it stays so, then cleared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import EVENT_TIME, Batch
from streamproc.contracts.model import Schema
from streamproc.hashing import frozen
from streamproc.kernels import kernel, tight
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.explode import child_meta
from streamproc.operators.quality.alerts import ALERT, CLEARED, ONGOING, RAISED, STATUS
from streamproc.operators.quality.rule import Rule
from streamproc.ports import Int64s


@dataclass(slots=True)
class Standing:
    """How each rule stands, by its place in the declaration.

    since    the start of the window that broke it first, or -1 beyond all times where it is kept
    told     the end of the window of the last alert
    last     the end of the last window that had rows; the least number before the first
    windows  broken windows since the last alert; `broken` rows in them; `all_` since it was raised
    """

    since: Int64s
    told: Int64s
    last: Int64s
    windows: Int64s
    broken: Int64s
    all_windows: Int64s
    all_broken: Int64s

    @property
    def arrays(self) -> tuple[Int64s, ...]:
        """All of them, as the kernel gets them."""
        return (self.since, self.told, self.last, self.windows, self.broken, self.all_windows, self.all_broken)


_NEVER = -(2**63)


@dataclass(frozen=True, slots=True)
class RuleVerdicts:
    """Gives an alert where a window changes how a rule stands, and every `remind_us` while it stays broken."""

    declared: tuple[tuple[str, Rule], ...]
    span_us: int
    remind_us: int
    verb: str = "rule_verdicts"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The columns of alerts."""
        return StreamType(ALERT, ("rule",))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """The counts."""
        return (frozenset(("rule", "rows", "broken")),)

    def open(self, *inputs: StreamType) -> Standing:
        n = len(self.declared)
        never, none = np.full(n, _NEVER, np.int64), np.zeros(n, np.int64)
        return Standing(never, never.copy(), never.copy(), none, none.copy(), none.copy(), none.copy())

    def process(self, state: Standing, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Standing, Output]:
        """Cost O(counts), of which there are as many as rules, once a window."""
        (batch,) = inputs
        known = {name: place for place, (name, _) in enumerate(self.declared)}
        counts = batch.frame.select(pl.col("rows", "broken").fill_null(0).cast(pl.Int64))
        # The time of a count is the end of its window, at most a microsecond later: `window_start` is not needed.
        ends = batch.meta[:, EVENT_TIME] // self.span_us * self.span_us
        # A rule of another declaration has no place.
        places = np.array([known.get(name, -1) for name in batch.frame["rule"].to_list()], np.int64)
        alerts, measured = judge(
            places, frozen(counts["rows"].to_numpy()), frozen(counts["broken"].to_numpy()), ends,
            self._bounds(), self._shares(), np.array([self.span_us, self.remind_us]), state.arrays,
        )  # fmt: skip
        names = pl.Series("rule", [name for name, _ in self.declared], dtype=pl.String)
        columns = {name: alerts[:, column] for column, name in enumerate(_NUMBERS, _STATUS)}
        frame = pl.DataFrame({"rule": names[pl.Series(alerts[:, _PLACE])], **columns, "measured": measured})
        frame = frame.with_columns(pl.col("status").cast(pl.UInt8).cat.to(STATUS))
        index = alerts[:, _PARENT].copy()
        children = batch.take(index)
        meta = child_meta(children.meta, alerts[:, _ORDINAL].copy()) if index.size else children.meta
        return state, Output(Batch(frame.cast(ALERT.polars()), meta, children.keys))

    def _bounds(self) -> Int64s:
        """int64[rules, 3]: whether it is of volume, the fewest rows and the most, -1 for none."""
        return np.array(
            [
                (rule.kind == "volume", rule.at_least, -1 if rule.at_most is None else int(rule.at_most))
                for _, rule in self.declared
            ],
            np.int64,
        )

    def _shares(self) -> npt.NDArray[np.float64]:
        return np.array([rule.at_most or 0.0 for _, rule in self.declared])


_PARENT, _ORDINAL, _PLACE, _STATUS = range(4)
_NUMBERS = ("status", "since", "window_start", "window_end", "windows", "broken", "rows")
_WIDTH = _STATUS + len(_NUMBERS)
_SINCE, _TOLD, _LAST, _WINDOWS, _BROKEN, _ALL_WINDOWS, _ALL_BROKEN = range(7)


@kernel
def judge(
    places: Int64s, rows: Int64s, broken: Int64s, ends: Int64s, bounds: Int64s, shares: npt.NDArray[np.float64],
    spans: Int64s, standing: tuple[Int64s, ...],
) -> tuple[Int64s, npt.NDArray[np.float64]]:  # fmt: skip
    """The alerts of counts, one after the other: int64[alerts, 10], see `_PARENT` and `_NUMBERS`, and their measures.

    bounds, shares  see `RuleVerdicts`; spans: of a window and between reminders
    """
    out = np.empty((2 * places.size, _WIDTH), np.int64)
    measured = np.empty(2 * places.size, np.float64)
    n = 0
    for row in range(places.size):
        place = places[row]
        if place < 0:
            continue
        before = n
        volume, end = bounds[place, 0] == 1, ends[row]
        start, last = end - spans[0], standing[_LAST][place]
        if volume and bounds[place, 1] > 0 and last != _NEVER and start > last:
            measured[n] = 0.0
            n += _met(out[n], place, last, start, (start - last) // spans[0], 0, 0, True, spans[1], standing)
        standing[_LAST][place] = end
        counted = broken[row]
        if volume:
            counted = rows[row]
            broke = counted < bounds[place, 1] or (bounds[place, 2] >= 0 and counted > bounds[place, 2])
            measured[n] = np.float64(counted)
        else:
            measured[n] = np.float64(counted) / np.float64(rows[row]) if rows[row] != 0 else 0.0
            broke = counted > 0 and measured[n] > shares[place]
        n += _met(out[n], place, start, end, 1, counted, rows[row], broke, spans[1], standing)
        for made in range(before, n):
            out[made, _PARENT], out[made, _ORDINAL], out[made, _PLACE] = row, made - before, place
    return out[:n].copy(), measured[:n].copy()


@tight
def _met(
    out: Int64s, place: int, start: int, end: int, windows: int, broken: int, rows: int, broke: bool, remind: int,
    standing: tuple[Int64s, ...],
) -> int:  # fmt: skip
    """What a window says of a rule: 1 if that is an alert, which is written to `out`."""
    since = standing[_SINCE]
    raised = since[place] != _NEVER
    out[_STATUS + 2], out[_STATUS + 3], out[_STATUS + 6] = start, end, rows
    if not broke:
        if raised:
            out[_STATUS], out[_STATUS + 1] = CLEARED, since[place]
            out[_STATUS + 4], out[_STATUS + 5] = standing[_ALL_WINDOWS][place], standing[_ALL_BROKEN][place]
            since[place] = _NEVER
        return int(raised)
    if not raised:
        since[place] = start
        for column in (_WINDOWS, _BROKEN, _ALL_WINDOWS, _ALL_BROKEN):
            standing[column][place] = 0
    standing[_WINDOWS][place] += windows
    standing[_BROKEN][place] += broken
    standing[_ALL_WINDOWS][place] += windows
    standing[_ALL_BROKEN][place] += broken
    if raised and end - standing[_TOLD][place] < remind:
        return 0
    out[_STATUS], out[_STATUS + 1] = ONGOING if raised else RAISED, since[place]
    out[_STATUS + 4], out[_STATUS + 5] = standing[_WINDOWS][place], standing[_BROKEN][place]
    standing[_TOLD][place] = end
    standing[_WINDOWS][place] = 0
    standing[_BROKEN][place] = 0
    return 1
