"""One step of a race: what happens at labels is told, and who takes too much leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Meta
from streamproc.contracts.model import Field, Schema
from streamproc.learning.budget import leaving
from streamproc.learning.e_process import evidence
from streamproc.learning.evaluation import METRICS, Evaluation, worth
from streamproc.learning.kept_model import KeptModel
from streamproc.learning.race import RaceRules
from streamproc.learning.racing import CHANGES, HELD, NOTHING, READY, REIGN, TOLD, RaceState, gate, race_until
from streamproc.operator import StepTime
from streamproc.operators.pending import LEARN, Events
from streamproc.operators.reports import Side, report_meta
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]

RACE: Final = Schema((
    Field("labels", pl.Int64()), Field("event", pl.String()), Field("learner", pl.String()),
    Field("champion", pl.String()), Field("loss", pl.Float64(), nullable=True),
    Field("evidence", pl.Float64(), nullable=True), Field("wanted", pl.Float64()),
    Field("segment", pl.String(), nullable=True), Field("cost_us", pl.Float64(), nullable=True),
    Field("bytes", pl.Int64(), nullable=True), Field("reason", pl.String()),
))  # fmt: skip
"""Columns of the side "race".

event     "promoted"; "waits", "held": better on the whole, but a segment cannot say yet, or is hurt; "dropped"; "over
          budget": the last model takes more than it may, and stays; "standing": how it stands, at each report
champion  after the event
loss      mean over all labels so far, of squared errors, 1 at most
evidence  that the learner was lately better than the champion; null for the champion
bytes     of the snapshot when it was measured last
"""


@dataclass(slots=True)
class LeftScores:
    """What leaves of all that the models said.

    scores  float64[rows], by int64[rows]: whose; zero  float64[events]: at delay zero
    """

    scores: Floats
    zero: Floats
    by: Int64s


@dataclass(slots=True)
class RaceStep:
    """A race during one step.

    base, segment_at  the columns of `kept` where the models' scores begin, and with the row's segment
    """

    rules: RaceRules
    state: RaceState
    segments: list[str]
    most_segments: int
    merged: Meta
    time: StepTime
    base: int
    segment_at: int
    binary: bool
    side: Side = field(init=False)

    def __post_init__(self) -> None:
        self.side = Side(RACE, self.merged.shape[1])
        self.state.make_room(len(self.segments), gated=self.rules.delta >= 0.0)

    def looks(self, events: Events) -> list[int]:
        """The events after which the budget is looked at; they are the same for every cut."""
        rules = self.rules
        if math.isinf(rules.budget_us) and math.isinf(rules.budget_bytes):
            return []
        learns = np.flatnonzero(events.kinds == LEARN)
        ends = learns[rules.measure - 1 - self.state.labels % rules.measure :: rules.measure] + 1
        return [int(end) for end in ends]

    def run(
        self, events: Events, start: int, learned: int, scores: Floats, zero: Floats, kept: Floats, left: LeftScores
    ) -> int:
        """Goes on until so many labels are known, and tells what happened; gives the event after the last one."""
        state, rules = self.state, self.rules
        end = state.labels + learned
        while True:
            start, what, model, segment = race_until(
                start, end - state.labels, events.kinds, events.lefts, events.places, events.labels, scores, zero,
                kept, self.base, self.segment_at, self.binary, rules.largest, rules.delta, rules.wanted,
                rules.wanted_of_harm(self.most_segments), rules.reign, rules.memory, rules.patience, state.numbers,
                state.runs, state.known, state.losses, state.sums, state.bins, state.bets, state.by_segment, state.ages,
                state.clear, state.hurt, state.waited, state.told, left.scores, left.zero, left.by,
            )  # fmt: skip
            if what == NOTHING:
                return start
            if what == READY:
                shown = evidence(state.bets[model])
                old = rules.names[state.champion]
                state.crown(model)
                row = self._row("promoted", model, f"lately better than '{old}' on average", shown=shown)
            else:
                name = self.segments[segment]
                row = self._row("held" if what == HELD else "waits", model, self._holds(what == HELD, name), name)
            self._tell([row], events, start - 1)

    def look(self, events: Events, event: int, models: list[KeptModel | None]) -> None:
        """Looks at the budget after an event; models that leave are gone."""
        state, rules = self.state, self.rules
        if not math.isinf(rules.budget_bytes):
            for m, model in enumerate(models):
                state.bytes[m] = -1 if model is None else len(model.packed())
        champion, gone = leaving(rules, state.champion, state.runs, state.losses[:, 1], state.bytes)
        rows = []
        for one in gone:
            models[one.model], state.runs[one.model] = None, False
        if champion != state.champion:
            state.crown(champion)
            rows.append(self._row("promoted", champion, "the champion takes more than the budget"))
        rows += [self._row("dropped", one.model, one.reason) for one in gone]
        if state.bytes[champion] > rules.budget_bytes:
            said = f"its snapshot takes {state.bytes[champion]} bytes, the budget is {rules.budget_bytes:.0f}"
            rows.append(self._row("over budget", champion, f"{said}; it is the last one"))
        state.losses[:, 1] = 0.0
        if rows:
            self._tell(rows, events, event)

    def report(self, events: Events, event: int, evaluation: Evaluation) -> pl.DataFrame:
        """Tells how all stand; gives their metrics, as rows of `METRICS` at the label's delay."""
        state = self.state
        self._tell([self._standing(m) for m in self._running], events, event)
        rows: list[tuple[object, ...]] = []
        for m in self._running:
            lost = evaluation.given_up, int(state.failed[m])
            judged = worth(state.sums[m], evaluation.no_change_right, state.bins[m], binary=self.binary)
            rows.append((evaluation.labels, "label", self.rules.names[m], None, *judged, *lost))
            for s in np.flatnonzero(state.by_segment[:, m, 0] > 0).tolist():
                judged = worth(state.by_segment[s, m], None, None, binary=self.binary)
                rows.append((evaluation.labels, "label", self.rules.names[m], self.segments[s], *judged, *lost))
        return pl.DataFrame(rows, METRICS.polars(), orient="row")

    @property
    def _running(self) -> list[int]:
        return [int(m) for m in np.flatnonzero(self.state.runs)]

    def _standing(self, model: int) -> tuple[object, ...]:
        state, rules = self.state, self.rules
        if model == state.champion:
            return self._row("standing", model, "the champion")
        if evidence(state.bets[model]) < rules.wanted:
            return self._row("standing", model, "not shown to be better")
        if state.losses[model, 2] >= state.losses[state.champion, 2]:
            return self._row("standing", model, f"better lately, not over some {rules.memory} labels")
        if state.numbers[REIGN] < rules.reign and not (state.numbers[CHANGES] == 0 and rules.delta < 0.0):
            return self._row("standing", model, f"better; a champion stays for {rules.reign} labels")
        found = gate(
            state.ages, state.clear, state.hurt, model, rules.wanted, rules.wanted_of_harm(self.most_segments)
        )  # fmt: skip
        name = self.segments[abs(found) - 1]
        return self._row("standing", model, self._holds(found < 0, name), name)

    def _holds(self, hurt: bool, name: str) -> str:
        how = "is worse" if hurt else "may be worse"
        return f"better on the whole; segment '{name}' {how} by more than {self.rules.delta:g}"

    def _row(
        self, event: str, model: int, reason: str, segment: str | None = None, *, shown: float | None = None
    ) -> tuple[object, ...]:
        state, rules = self.state, self.rules
        if shown is None and model != state.champion:
            shown = evidence(state.bets[model])
        n = float(state.sums[model, 0])
        return (
            state.labels, event, rules.names[model], rules.names[state.champion],
            float(state.losses[model, 0]) / n if n else None, shown, rules.wanted, segment,
            rules.costs_us[model] if rules.costs_us else None,
            int(state.bytes[model]) if state.bytes[model] >= 0 else None, reason,
        )  # fmt: skip

    def _tell(self, rows: Sequence[tuple[object, ...]], events: Events, event: int) -> None:
        state = self.state
        state.numbers[TOLD] += 1
        frame = pl.DataFrame(rows, RACE.polars(), orient="row")
        meta = report_meta(events, event, self.merged, self.time, int(state.numbers[TOLD]), frame.height)
        self.side.add(frame, meta)
