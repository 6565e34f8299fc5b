"""The operator of `learn`: models that score each row and learn it once its label is known.

A row is scored with what the model knows when the row comes, and waits. When its label comes, or its horizon is over
where silence is an answer, it joins a block; every `every` rows the model learns the block. All of that happens in
the order of rows and of time, so the model is a function of the recorded input: neither a cut nor a restart shows.
Models of a race are all asked and all learn; which of them speaks is decided label by label (`racing`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Batch, Meta
from streamproc.columns import grow
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import MIN_TIME
from streamproc.learning.calibration import CALIBRATION, GIVEN, calibrate, no_calibration
from streamproc.learning.evaluation import METRICS, REMEMBERED, judge_until, no_evaluation
from streamproc.learning.importance import IMPORTANCE, Importance
from streamproc.learning.importance_step import ImportanceStep, Questions, no_importance, questions
from streamproc.learning.kept_model import Categories, KeptModel, Kind, numbers_of
from streamproc.learning.learn_state import LearnState
from streamproc.learning.learning_step import Block, Learner, in_row_events
from streamproc.learning.race import RaceRules
from streamproc.learning.race_step import RACE, LeftScores, RaceStep
from streamproc.learning.racing import no_race
from streamproc.models.snapshot import read_snapshot
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.event_order import absorb, pass_in_order
from streamproc.operators.follow import require_own_id
from streamproc.operators.lateness import split_late, split_late_labels
from streamproc.operators.pending import PREDICT, Events, no_pending
from streamproc.operators.reports import Side, beside, report_meta
from streamproc.operators.row_store import row_store
from streamproc.operators.waiting import meet

Floats = npt.NDArray[np.float64]
_TEXTS: Final = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True, slots=True)
class Learn:
    """Scores rows and learns them, see `learn`.

    blueprints  the models as they start, as snapshots
    on         the columns that join rows and labels; () where rows bring their own label
    negative   the label of a row whose horizon is over, NaN if there is none
    texts      per input the texts that the models have learned before; () where they begin with none
    """

    blueprints: tuple[bytes, ...] = field(repr=False)
    kind: Kind
    inputs: tuple[str, ...]
    into: str
    label: str
    on: tuple[str, ...]
    horizon_us: int
    negative: float
    every: int
    report: int
    segment: str
    most_categories: int
    calibrated: str = ""
    race: RaceRules | None = None
    importance: Importance | None = None
    texts: tuple[tuple[str, ...], ...] = ()

    @property
    def verb(self) -> str:
        return "learn"

    @property
    def keys_wanted(self) -> tuple[tuple[str, ...], ...] | None:
        """Rows and labels meet under this key: the plan cuts a stage there."""
        return (self.on, self.on) if self.on else None

    @property
    def made(self) -> dict[str, str]:
        """Columns of the step by the word that names them."""
        champion = self.race.champion if self.race is not None else ""
        words = {"into": self.into, "calibrated": self.calibrated, "champion": champion}
        return {word: name for word, name in words.items() if name}

    @property
    def _own(self) -> tuple[str, ...]:
        """Columns of the rows that the step reads."""
        return (*self.inputs, *((self.segment,) if self.segment else ()), *self.on)

    @property
    def _silent(self) -> bool:
        """Whether an event is the label by itself."""
        return bool(self.on) and not self.label

    def schema(self, *inputs: StreamType) -> StreamType:
        """The rows' columns and the score, null where the model could not say anything.

        Raises UnknownColumn, DuplicateName, and TypeMismatch for inputs or labels of the wrong type.
        """
        rows = inputs[0]
        for name in self._own:
            _require(rows.schema, name, "its rows")
        for name in self.inputs:
            dtype = rows.schema[name].dtype
            if not (dtype.is_numeric() or isinstance(dtype, (pl.Boolean, *_TEXTS))):
                raise TypeMismatch(
                    f"step 'learn' takes input '{name}', which is {dtype}",
                    hint="make it a number or a text: hours since, day of week, ...",
                )
        made: list[Field] = []
        for word, name in self.made.items():
            if name in rows.schema or name in [field.name for field in made]:
                said = f"step 'learn' makes column '{name}', which is there"
                raise DuplicateName(said, hint=f"choose another {word}=")
            spoken = word == "champion"
            made.append(Field(name, pl.String() if spoken else pl.Float64(), nullable=not spoken))
        if self.label:
            labels = inputs[-1].schema
            _require(labels, self.label, "its labels" if self.on else "its rows")
            dtype = labels[self.label].dtype
            if not (
                isinstance(dtype, pl.Boolean) or dtype.is_integer() or (self.kind == "number" and dtype.is_numeric())
            ):
                wanted = "true or false" if self.kind == "binary" else "a number"
                raise TypeMismatch(f"step 'learn' takes the label from '{self.label}', which is {dtype}, not {wanted}")
        if self.on:
            require_own_id(self.verb, rows.schema, self.on, "joins labels to rows")
            _require(inputs[1].schema, self.on[0], "its labels")
        ordered = rows.ordered and all(kind.ordered for kind in inputs)
        return replace(rows, schema=rows.schema.with_fields(made), ordered=ordered)

    def sides(self, *inputs: StreamType) -> dict[str, StreamType]:
        """ "metrics": what the model is worth so far, every `report` labels; "calibration": what its chances mean;
        "importance": what its inputs are worth; of a race "race": what happened, and "shadows": what each model said.
        """
        sides = {"metrics": StreamType(METRICS)}
        if self.calibrated:
            sides["calibration"] = StreamType(CALIBRATION)
        if self.importance is not None:
            sides["importance"] = StreamType(IMPORTANCE)
        if self.race is not None:
            sides["race"] = StreamType(RACE)
            sides["shadows"] = StreamType(self._shadows(inputs[0].schema))
        return sides

    def _shadows(self, rows: Schema) -> Schema:
        assert self.race is not None, "only a race has shadows"
        for name in self.race.names:
            if name in self.on:
                raise DuplicateName(f"a model of the race is named as column '{name}'", hint="name it otherwise")
        said = tuple(Field(name, pl.Float64(), nullable=True) for name in self.race.names)
        return Schema((*(rows[name] for name in self.on), *said))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        label, made = frozenset((self.label,) if self.label else ()), tuple(self.made.values())
        if not self.on:
            return (passes_through(needed, self._own, made) | label,)
        return passes_through(needed, self._own, made), label | frozenset(self.on)

    def open(self, *inputs: StreamType) -> LearnState:
        rows = inputs[0]
        texts = [isinstance(rows.schema[name].dtype, _TEXTS) for name in self.inputs]
        many = self.most_categories
        known = self.texts or ((),) * len(self.inputs)
        categories = [
            Categories(list(told), [True] * len(told), many) if text else None
            for text, told in zip(texts, known, strict=True)
        ]
        binary, models = self.kind == "binary", len(self.blueprints)
        keyed = rows.keyed_by is not None
        ordered = bool(self.on) and all(kind.ordered for kind in inputs)
        return LearnState(
            [KeptModel(read_snapshot(blueprint), blueprint) for blueprint in self.blueprints], no_pending(),
            [*categories, Categories([], [], many)],
            np.zeros((0, self._said + (models * len(self.inputs) if self.importance else 0))),
            Block(np.zeros((self.every, len(self.inputs) + 1))), no_evaluation(binary=binary),
            no_calibration() if self.calibrated else None, no_race(models, binary=binary) if self.race else None,
            no_importance(models, len(self.inputs)) if self.importance else None, 0, MIN_TIME, int(ordered),
            row_store(rows.schema.polars(), keyed=keyed),
            row_store(inputs[1].schema.polars(), keyed=True) if self.on else None,
        )  # fmt: skip

    @property
    def _base(self) -> int:
        """The first column of what is kept for the models of a race."""
        return len(self.inputs) + REMEMBERED + (GIVEN if self.calibrated else 0)

    @property
    def _said(self) -> int:
        """The first column of what is kept for the importance of models' inputs."""
        return self._base + (len(self.blueprints) if self.race else 0)

    def process(self, state: LearnState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[LearnState, Output]:
        walk = self.begin(state, inputs, time)
        walk.go()
        return state, self.finish(state, walk)

    def finish(self, state: LearnState, walk: Walk) -> Output:
        """What leaves a step that has gone through all that happens."""
        state.passed = state.passed if walk.time.end is None else walk.time.end
        made = [pl.Series(self.into, walk.left.scores).fill_nan(None)]
        if self.calibrated:
            made.append(pl.Series(self.calibrated, walk.said).fill_nan(None))
        if self.race is not None:
            names = pl.Series(self.race.names, dtype=pl.String)
            made.append(names.gather(walk.left.by).alias(self.race.champion))
        rows = walk.rows.with_frame(walk.rows.frame.with_columns(made))
        return Output(rows, walk.late, late_others=walk.late_others, sides=walk.sides())

    def begin(self, state: LearnState, inputs: tuple[Batch, ...], time: StepTime) -> Walk:
        """Takes a step's rows in and says in which order what happens; nothing is asked or learned yet (`asked`)."""
        left, late, right = inputs[0], None, None
        others: tuple[Batch | None, ...] = ()
        if self.on:
            (left, late), (right, late_right) = split_late(left), split_late_labels(inputs[1])
            if state.in_order and state.right_waits is not None:
                left = pass_in_order(state.left_waits, left, time, by=None)
                right = pass_in_order(state.right_waits, right, time, by=None)
            absorb(time.fates, right.meta)
            others = () if late_right is None else (late_right,)
        events, merged = self._events(state, left, right, time)
        told = self._inputs(state, events, left)  # first: texts that are new get their numbers
        asking = self._importance(state, left, events, told, merged.shape[1])
        return Walk(self, state, left, merged, time, asking, events, told, late, others)

    def _importance(
        self, state: LearnState, rows: Batch, events: Events, told: Floats, width: int
    ) -> ImportanceStep | None:
        if self.importance is None or state.importance is None:
            return None
        asked = questions(self.importance, state.importance, rows.meta, told, events.lefts[events.kinds == PREDICT])
        own, learners = (self._base, self.race.names) if self.race is not None else (len(self.inputs), ("model",))
        return ImportanceStep(
            self.importance, state.importance, self.inputs, learners, own, self._said, asked, Side(IMPORTANCE, width)
        )

    # ── what happens, in order ───────────────────────────────────────────────────────────────────────────────────────

    def _events(self, state: LearnState, left: Batch, right: Batch | None, time: StepTime) -> tuple[Events, Meta]:
        """The events of the step, and the meta of the rows that cause them."""
        if right is None:
            labels = self._labels(left) if self.label else np.full(len(left), math.nan)
            state.kept = grow(state.kept, len(left))
            return in_row_events(labels, unlabelled=not self.label), left.meta
        values = np.ones(len(right)) if self._silent else self._labels(right)
        met = meet(
            state.pending, left, right, values, time=time, passed=state.passed, horizon=self.horizon_us,
            negative=self.negative, in_order=state.in_order,
        )  # fmt: skip
        state.kept = grow(state.kept, state.pending.places)
        return met

    def _labels(self, rows: Batch) -> Floats:
        """Labels as numbers, NaN where they are not known."""
        column = rows.frame[self.label]
        if self.kind == "binary":
            column = (column.cast(pl.Float64) != 0.0).cast(pl.Float64)
        return numbers_of(column)

    def _inputs(self, state: LearnState, events: Events, left: Batch) -> Floats:
        """What models are told of the rows that came; it is kept until their labels are known."""
        k = len(self.inputs)
        names = (*self.inputs, *((self.segment,) if self.segment else ()))
        categories = [*state.categories[:-1], *((state.categories[-1],) if self.segment else ())]
        columns = [
            numbers_of(left.frame[name]) if category is None
            else category.codes(left.frame[name], {text: i for i, text in enumerate(category.names)})
            for name, category in zip(names, categories, strict=True)
        ]  # fmt: skip
        inputs = np.stack(columns[:k], axis=1) if len(left) else np.zeros((0, k))
        asked = events.kinds == PREDICT
        places, lefts = events.places[asked], events.lefts[asked]
        state.kept[places, :k] = inputs[lefts]
        state.kept[places, k + REMEMBERED - 1] = columns[k][lefts] if self.segment else math.nan
        return inputs


class Walk:
    """One step: models answer and learn, what they said is judged, and what falls due is reported.

    rows    those that are scored, float64[rows, inputs] `told` of them; events: what happens, in order
    left    scores, and whose they are, once it went
    """

    def __init__(
        self, step: Learn, state: LearnState, rows: Batch, merged: Meta, time: StepTime, asking: ImportanceStep | None,
        events: Events, told: Floats, late: Batch | None, late_others: tuple[Batch | None, ...],
    ) -> None:  # fmt: skip
        self.step, self.state, self.rows, self.merged, self.time = step, state, rows, merged, time
        self.asking, self.events, self.told = asking, events, told
        self.late, self.late_others = late, late_others
        self.binary, self.k = step.kind == "binary", len(step.inputs)
        segments = state.categories[-1]
        assert segments is not None, "segments are texts"
        self.segments = segments.names
        self.said = np.full(len(rows), math.nan)
        self.scores = np.full((len(state.models), len(rows)), math.nan)
        width = merged.shape[1]
        self.metrics, self.calibration = Side(METRICS, width), Side(CALIBRATION, width)
        state.evaluation.make_room(len(self.segments))
        if state.calibration is not None:
            state.calibration.make_room(len(self.segments))
        self.race: RaceStep | None = None
        if step.race is not None and state.race is not None:
            self.race = RaceStep(
                step.race, state.race, self.segments, step.most_categories, merged, time, step._base,
                self.k + REMEMBERED - 1, self.binary,
            )  # fmt: skip

    def go(self, pause: int = -1, then: Callable[[], None] = lambda: None) -> None:
        """Goes through what happens; where a race looks at its budget, models stop exactly there.

        pause, then  a number of events after which somebody wants to look at the models, and how
        """
        events, inputs = self.events, self.told
        rows, n = len(self.rows), events.kinds.size
        self.left = LeftScores(np.full(rows, math.nan), np.full(n, math.nan), np.zeros(rows, np.int64))
        looks = [] if self.race is None else self.race.looks(events)
        start = 0
        for stop in sorted({*looks, n, *((pause,) if pause > 0 else ())}):
            part = events.between(start, stop)
            zero = self._learn(part, inputs)
            self._judge(part, zero, replace(self.left, zero=self.left.zero[start:stop]))
            if self.race is not None and stop in looks:
                self.race.look(part, stop - start - 1, self.state.models)
            if stop == pause:
                then()
            start = stop

    def _learn(self, events: Events, inputs: Floats) -> Floats:
        """Lets all models answer and learn; gives their answers at delay zero, float64[models, events]."""
        state, step = self.state, self.step
        zero = np.full((len(state.models), events.kinds.size), math.nan)
        answers: list[Questions | None] = [None] * len(state.models)
        running = [(m, model) for m, model in enumerate(state.models) if model is not None]
        for m, model in running:
            last = m == running[-1][0]  # it takes the block and the texts themselves, those before it copies
            categories = tuple(one if one is None or last else one.again() for one in state.categories[:-1])
            block = state.block if last else state.block.again()
            learner = Learner(model, step.inputs, categories, block, None if self.asking is None else self.asking.put())
            scores, zero[m] = learner.run(events, inputs, state.kept)
            asked = events.lefts[events.kinds == PREDICT]
            self.scores[m, asked] = scores[asked]
            answers[m] = learner.questions
            state.evaluation.fail(learner.failed)
            if state.race is not None:
                state.race.failed[m] += learner.failed
        if self.asking is not None:
            self.asking.keep(events, answers, state.kept)
        return zero

    def _judge(self, events: Events, zero: Floats, left: LeftScores) -> None:
        """Judges what was learned, lets the race go on, and calibrates what is said."""
        state, step, k = self.state, self.step, self.k
        evaluation, calibration = state.evaluation, state.calibration
        if self.race is None:
            asked = events.lefts[events.kinds == PREDICT]
            left.scores[asked], left.zero[:] = self.scores[0, asked], zero[0]
        at = 0
        while at < events.kinds.size:
            wait = step.report - evaluation.labels % step.report
            before, start = evaluation.labels, at
            if self.race is not None:
                self.race.run(events, at, wait, self.scores, zero, state.kept, left)
            at = judge_until(
                at, wait, events.kinds, events.lefts, events.places, events.labels, left.scores, left.zero,
                state.kept, k, evaluation.known, evaluation.sums, evaluation.bins, evaluation.segments, self.binary,
            )  # fmt: skip
            if calibration is not None:
                calibrate(
                    start, at, events.kinds, events.lefts, events.places, events.labels, left.scores, state.kept,
                    k + REMEMBERED - 1, calibration.shared, calibration.groups, calibration.sums, calibration.bins,
                    self.said,
                )  # fmt: skip
            if self.asking is not None:
                self.asking.weigh(events, start, at, state.kept)
            if evaluation.labels == before + wait:
                self._report(events, at - 1)

    def _report(self, events: Events, event: int) -> None:
        state, self.state.reports = self.state, self.state.reports + 1
        metrics = state.evaluation.report(self.segments, binary=self.binary)
        if self.race is not None:
            metrics = pl.concat((metrics, self.race.report(events, event, state.evaluation)))
        due = [(self.metrics, metrics)]
        if state.calibration is not None:
            due.append((self.calibration, state.calibration.report(state.evaluation.labels, self.segments)))
        if self.asking is not None:
            due.append((self.asking.side, self.asking.report(state.evaluation.labels)))
        for side, frame in due:
            side.add(frame, report_meta(events, event, self.merged, self.time, state.reports, frame.height))

    def sides(self) -> tuple[tuple[str, Batch], ...]:
        """What leaves beside the rows."""
        sides = [("metrics", self.metrics.batch)]
        if self.state.calibration is not None:
            sides.append(("calibration", self.calibration.batch))
        if self.asking is not None:
            sides.append(("importance", self.asking.side.batch))
        if self.race is not None:
            said = [
                pl.Series(name, scores).fill_nan(None)
                for name, scores in zip(self.race.rules.names, self.scores, strict=True)
            ]
            frame = pl.DataFrame([*self.rows.frame.select(self.step.on).get_columns(), *said])
            sides += [("race", self.race.side.batch), ("shadows", Batch(frame, beside(self.rows.meta, self.time)))]
        return tuple(sides)


def _require(schema: Schema, name: str, whose: str) -> None:
    if name not in schema:
        raise UnknownColumn(f"step 'learn' reads '{name}' of {whose}", hint=did_you_mean(name, schema.names))
