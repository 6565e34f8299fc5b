"""From the counts of windows to alerts: raised when a rule is first broken, folded while it stays so, then cleared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from streamproc.batch import EVENT_TIME, Batch
from streamproc.contracts.model import Schema
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
        """Goes through the counts one by one: there are as many as rules, once a window."""
        (batch,) = inputs
        places = {name: place for place, (name, _) in enumerate(self.declared)}
        parents: list[int] = []
        ordinals: list[int] = []
        alerts: list[tuple[object, ...]] = []
        # The time of a count is the end of its window: of the column `window_start` nothing is needed.
        moments = batch.meta[:, EVENT_TIME].tolist()
        counts = zip(batch.frame["rule"], batch.frame["rows"], batch.frame["broken"], moments, strict=True)
        for row, (name, rows, broken, moment) in enumerate(counts):
            place = places.get(name, -1)
            if place < 0:  # A rule of another declaration.
                continue
            made = self._judged(state, place, int(rows or 0), int(broken or 0), self._end(moment))
            alerts += [(name, *alert) for alert in made]
            parents += [row] * len(made)
            ordinals += range(len(made))
        frame = pl.DataFrame(alerts, schema=_PLAIN, orient="row").with_columns(pl.col("status").cat.to(STATUS))
        index = np.array(parents, np.int64)
        children = batch.take(index)
        meta = child_meta(children.meta, np.array(ordinals, np.int64)) if index.size else children.meta
        return state, Output(Batch(frame.cast(ALERT.polars()), meta, children.keys))

    def _end(self, moment: int) -> int:
        """The end of the window whose counts were brought together at this moment, at most a microsecond later."""
        return moment // self.span_us * self.span_us

    def _judged(self, state: Standing, place: int, rows: int, broken: int, end: int) -> list[tuple[object, ...]]:
        """The alerts of one rule for one window."""
        rule = self.declared[place][1]
        made: list[tuple[object, ...]] = []
        start, last = end - self.span_us, int(state.last[place])
        if rule.kind == "volume" and rule.at_least > 0 and last != _NEVER and start > last:
            made += self._met(state, place, (last, start), (start - last) // self.span_us, 0, 0, 0.0, broke=True)
        state.last[place] = end
        if rule.kind == "volume":
            broke = rows < rule.at_least or (rule.at_most is not None and rows > rule.at_most)
            measured = float(rows)
        else:
            measured = broken / rows if rows else 0.0
            broke = broken > 0 and measured > (rule.at_most or 0.0)
        counted = rows if rule.kind == "volume" else broken
        return [*made, *self._met(state, place, (start, end), 1, counted, rows, measured, broke=broke)]

    def _met(
        self, state: Standing, place: int, window: tuple[int, int], windows: int, broken: int, rows: int,
        measured: float, *, broke: bool,
    ) -> list[tuple[object, ...]]:  # fmt: skip
        start, end = window
        raised = int(state.since[place]) != _NEVER
        if not broke:
            if not raised:
                return []
            since = int(state.since[place])
            state.since[place] = _NEVER
            return [
                (
                    CLEARED,
                    since,
                    start,
                    end,
                    int(state.all_windows[place]),
                    int(state.all_broken[place]),
                    rows,
                    measured,
                )
            ]
        if not raised:
            state.since[place] = start
            for counts in (state.windows, state.broken, state.all_windows, state.all_broken):
                counts[place] = 0
        state.windows[place] += windows
        state.broken[place] += broken
        state.all_windows[place] += windows
        state.all_broken[place] += broken
        if raised and end - int(state.told[place]) < self.remind_us:
            return []
        alert = (
            ONGOING if raised else RAISED, int(state.since[place]), start, end, int(state.windows[place]),
            int(state.broken[place]), rows, measured,
        )  # fmt: skip
        state.told[place] = end
        state.windows[place] = state.broken[place] = 0
        return [alert]


_PLAIN = {
    "rule": pl.String, "status": pl.UInt8, "since": pl.Int64, "window_start": pl.Int64, "window_end": pl.Int64,
    "windows": pl.Int64, "broken": pl.Int64, "rows": pl.Int64, "measured": pl.Float64,
}  # fmt: skip
