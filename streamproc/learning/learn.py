"""`learn`: a River model that scores each row and learns it once its label is known.

A row is scored with what the model knows when the row comes, and waits. When its label comes, or its horizon is over
where silence is an answer, it joins a block; every `every` rows the model learns the block. All of that happens in
the order of rows and of time, so the model is a function of the recorded input: neither a cut nor a restart shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, LATE, ROW, WATERMARK, Batch, Meta
from streamproc.columns import grow
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, StateError, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import MIN_TIME, Span, span_us
from streamproc.graph import Step, Stream
from streamproc.learning.calibration import CALIBRATION, GIVEN, Calibration, calibrate, no_calibration
from streamproc.learning.evaluation import METRICS, REMEMBERED, Evaluation, judge_until, no_evaluation
from streamproc.learning.kept_model import Categories, KeptModel, Kind, kind_of, numbers_of
from streamproc.learning.learning_step import Block, Learner, in_row_events
from streamproc.models.snapshot import read_snapshot, unseeded_part, write_snapshot
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.event_order import absorb, as_released, pass_in_order
from streamproc.operators.key_runs import merge_by_position
from streamproc.operators.lateness import split_late
from streamproc.operators.outcome import Outcome
from streamproc.operators.pending import Events, Pending, no_pending, run_pending
from streamproc.operators.row_store import RowStore, row_store
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]
_TEXTS: Final = (pl.String, pl.Categorical, pl.Enum)
_NEVER: Final = -(2**62)


@dataclass(slots=True)
class LearnState:
    """The model of a task and what waits for it.

    categories  per input its texts, None for numbers; the last one is the segments
    kept        float64[places, inputs + 5, or 7 where scores are calibrated]: what is remembered of each waiting row
    """

    model: KeptModel
    pending: Pending
    categories: list[Categories | None]
    kept: Floats
    block: Block
    evaluation: Evaluation
    calibration: Calibration | None
    reports: int
    passed: int
    in_order: int
    left_waits: RowStore
    right_waits: RowStore | None


@dataclass(frozen=True, slots=True)
class Learn:
    """Scores rows and learns them, see `learn`.

    blueprint  the model as it starts, as a snapshot
    on         the columns that join rows and labels; () where rows bring their own label
    negative   the label of a row whose horizon is over, NaN if there is none
    """

    blueprint: bytes = field(repr=False)
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

    @property
    def verb(self) -> str:
        return "learn"

    @property
    def keys_wanted(self) -> tuple[tuple[str, ...], ...] | None:
        """Rows and labels meet under this key: the plan cuts a stage there."""
        return (self.on, self.on) if self.on else None

    @property
    def _silent(self) -> bool:
        """Whether an event is the label by itself."""
        return bool(self.on) and not self.label

    def schema(self, *inputs: StreamType) -> StreamType:
        """The rows' columns and the score, null where the model could not say anything.

        Raises UnknownColumn, DuplicateName, and TypeMismatch for inputs or labels of the wrong type.
        """
        rows = inputs[0]
        for name in (*self.inputs, *((self.segment,) if self.segment else ()), *self.on):
            _require(rows.schema, name, "its rows")
        for name in self.inputs:
            dtype = rows.schema[name].dtype
            if not (dtype.is_numeric() or isinstance(dtype, (pl.Boolean, *_TEXTS))):
                raise TypeMismatch(
                    f"step 'learn' takes input '{name}', which is {dtype}",
                    hint="make it a number or a text: hours since, day of week, ...",
                )
        made = [Field(name, pl.Float64(), nullable=True) for name in (self.into, self.calibrated) if name]
        for word, name, taken in (("into", self.into, ()), ("calibrated", self.calibrated, (self.into,))):
            if name in (*rows.schema.names, *taken):
                said = f"step 'learn' makes column '{name}', which is there"
                raise DuplicateName(said, hint=f"choose another {word}=")
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
            _require(inputs[1].schema, self.on[0], "its labels")
        ordered = rows.ordered and all(kind.ordered for kind in inputs)
        return replace(rows, schema=rows.schema.with_fields(made), ordered=ordered)

    def sides(self, *inputs: StreamType) -> dict[str, StreamType]:
        """ "metrics": what the model is worth so far, every `report` labels; "calibration": what its chances mean."""
        sides = {"metrics": StreamType(METRICS)}
        return {**sides, "calibration": StreamType(CALIBRATION)} if self.calibrated else sides

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        own = (*self.inputs, *((self.segment,) if self.segment else ()), *self.on)
        label = frozenset((self.label,) if self.label else ())
        made = (self.into, self.calibrated)
        if not self.on:
            return (passes_through(needed, own, made) | label,)
        return passes_through(needed, own, made), label | frozenset(self.on)

    def open(self, *inputs: StreamType) -> LearnState:
        rows = inputs[0]
        texts = [isinstance(rows.schema[name].dtype, _TEXTS) for name in self.inputs]
        many = self.most_categories
        categories = [Categories([], [], many) if text else None for text in texts]
        kept = len(self.inputs) + REMEMBERED + (GIVEN if self.calibrated else 0)
        keyed = rows.keyed_by is not None
        ordered = bool(self.on) and all(kind.ordered for kind in inputs)
        return LearnState(
            KeptModel(read_snapshot(self.blueprint), self.blueprint), no_pending(),
            [*categories, Categories([], [], many)], np.zeros((0, kept)),
            Block(np.zeros((self.every, len(self.inputs) + 1))), no_evaluation(binary=self.kind == "binary"),
            no_calibration() if self.calibrated else None, 0, MIN_TIME, int(ordered),
            row_store(rows.schema.polars(), keyed=keyed),
            row_store(inputs[1].schema.polars(), keyed=True) if self.on else None,
        )  # fmt: skip

    def process(self, state: LearnState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[LearnState, Output]:
        left, late, right = inputs[0], None, None
        others: tuple[Batch | None, ...] = ()
        if self.on:
            (left, late), (right, late_right) = split_late(left), split_late(inputs[1])
            if state.in_order and state.right_waits is not None:
                left = pass_in_order(state.left_waits, left, time, by=None)
                right = pass_in_order(state.right_waits, right, time, by=None)
            absorb(time.fates, right.meta)
            others = () if late_right is None else (late_right,)
        events, merged = self._events(state, left, right, time)
        scores, zero = self._run(state, events, left)
        said = np.full(len(left), math.nan)
        sides = self._judge(state, events, scores=scores, zero=zero, said=said, merged=merged, time=time)
        state.passed = state.passed if time.end is None else time.end
        made = [pl.Series(self.into, scores)] + [pl.Series(name, said) for name in (self.calibrated,) if name]
        rows = left.with_frame(left.frame.with_columns(column.fill_nan(None) for column in made))
        return state, Output(rows, late, late_others=others, sides=sides)

    # ── what happens, in order ───────────────────────────────────────────────────────────────────────────────────────

    def _events(self, state: LearnState, left: Batch, right: Batch | None, time: StepTime) -> tuple[Events, Meta]:
        """The events of the step, and the meta of the rows that cause them."""
        if right is None:
            labels = self._labels(left) if self.label else np.full(len(left), math.nan)
            state.kept = grow(state.kept, len(left))
            return in_row_events(labels, unlabelled=not self.label), left.meta
        assert left.keys is not None and right.keys is not None, "the plan gives learners keyed inputs"
        pending = state.pending
        left_slots, right_slots = pending.table.intern(left.keys), pending.table.intern(right.keys)
        slots = max(int(left_slots.max(initial=-1)), int(right_slots.max(initial=-1))) + 1
        pending.make_room(slots, len(left), len(right))
        state.kept = grow(state.kept, pending.places)
        order = merge_by_position(_positions(left.meta), _positions(right.meta), state.in_order)
        merged = np.concatenate((left.meta, right.meta))
        before = np.concatenate((np.array([state.passed], np.int64), time.watermarks))[merged[order, ROW] // 2]
        events = run_pending(
            pending, order, np.maximum(merged[order, WATERMARK], before),
            last_limit=_NEVER if time.end is None else time.end,
            left_slots=left_slots, left_times=np.ascontiguousarray(left.event_time),
            right_slots=right_slots, right_times=np.ascontiguousarray(right.event_time),
            right_values=np.ones(len(right)) if self._silent else self._labels(right),
            horizon=self.horizon_us, negative=self.negative,
        )  # fmt: skip
        return events, merged

    def _labels(self, rows: Batch) -> Floats:
        """Labels as numbers, NaN where they are not known."""
        column = rows.frame[self.label]
        if self.kind == "binary":
            column = (column.cast(pl.Float64) != 0.0).cast(pl.Float64)
        return numbers_of(column)

    def _run(self, state: LearnState, events: Events, left: Batch) -> tuple[Floats, Floats]:
        """Lets the model answer and learn; gives its scores and, per event, its answers at delay zero."""
        k = len(self.inputs)
        names = (*self.inputs, *((self.segment,) if self.segment else ()))
        categories = [*state.categories[:-1], *((state.categories[-1],) if self.segment else ())]
        columns = [
            numbers_of(left.frame[name]) if category is None
            else category.codes(left.frame[name], {text: i for i, text in enumerate(category.names)})
            for name, category in zip(names, categories, strict=True)
        ]  # fmt: skip
        inputs = np.stack(columns[:k], axis=1) if len(left) else np.zeros((0, k))
        asked = events.kinds == 0
        places, lefts = events.places[asked], events.lefts[asked]
        state.kept[places, :k] = inputs[lefts]
        state.kept[places, k + REMEMBERED - 1] = columns[k][lefts] if self.segment else math.nan
        learner = Learner(state.model, self.inputs, tuple(state.categories[:-1]), state.block, state.evaluation)
        return learner.run(events, inputs, state.kept)

    # ── what it is worth ─────────────────────────────────────────────────────────────────────────────────────────────

    def _judge(
        self, state: LearnState, events: Events, *, scores: Floats, zero: Floats, said: Floats, merged: Meta,
        time: StepTime,
    ) -> tuple[tuple[str, Batch], ...]:  # fmt: skip
        """Judges what was learned, and calibrates what is `said`; gives the reports that fall due, by side."""
        evaluation, calibration, k = state.evaluation, state.calibration, len(self.inputs)
        segments = state.categories[-1]
        assert segments is not None, "segments are texts"
        evaluation.make_room(len(segments.names))
        sides = [_Side("metrics", METRICS, merged.shape[1])]
        if calibration is not None:
            calibration.make_room(len(segments.names))
            sides.append(_Side("calibration", CALIBRATION, merged.shape[1]))
        at = 0
        while at < events.kinds.size:
            wait = self.report - evaluation.labels % self.report
            before, start = evaluation.labels, at
            at = judge_until(
                at, wait, events.kinds, events.lefts, events.places, events.labels, scores, zero, state.kept, k,
                evaluation.known, evaluation.sums, evaluation.bins, evaluation.segments, self.kind == "binary",
            )  # fmt: skip
            if calibration is not None:
                calibrate(
                    start, at, events.kinds, events.lefts, events.places, events.labels, scores, state.kept,
                    k + REMEMBERED - 1, calibration.shared, calibration.groups, calibration.sums, calibration.bins,
                    said,
                )  # fmt: skip
            if evaluation.labels == before + wait:
                state.reports += 1
                reports = [evaluation.report(segments.names, binary=self.kind == "binary")]
                if calibration is not None:
                    reports.append(calibration.report(evaluation.labels, segments.names))
                for side, frame in zip(sides, reports, strict=True):
                    side.frames.append(frame)
                    side.metas.append(_report_meta(events, at - 1, merged, time, state.reports, frame.height))
        return tuple((side.name, side.batch) for side in sides)


class _Side:
    """Reports of one kind as they fall due."""

    def __init__(self, name: str, schema: Schema, width: int) -> None:
        self.name = name
        self.frames, self.metas = [schema.empty()], [np.empty((0, width), np.int64)]

    @property
    def batch(self) -> Batch:
        return Batch(pl.concat(self.frames), np.concatenate(self.metas))


def _report_meta(events: Events, event: int, merged: Meta, time: StepTime, number: int, rows: int) -> Meta:
    """The meta of a report: where the row stands that brought the last label, or time if it did."""
    cause = int(events.causes[event])
    if cause >= 0:
        one = merged[cause : cause + 1].copy()
    else:
        due = events.moments[event : event + 1]
        one = as_released(np.zeros((1, merged.shape[1]), np.int64), due, time)
    meta = np.repeat(one, rows, axis=0)
    meta[:, ACCOUNT], meta[:, LATE] = -1, 0
    meta[:, C0], meta[:, C1], meta[:, C2], meta[:, C3] = time.rank << 32, number, 0, np.arange(rows)
    return meta


def learn(
    model: Any,
    *,
    inputs: tuple[str, ...],
    into: str,
    labels: Stream | Outcome | None = None,
    label: str = "",
    on: str | tuple[str, ...] = (),
    horizon: Span | None = None,
    every: int = 1,
    report: int = 1000,
    segment: str = "",
    most_categories: int = 1000,
    calibrated: str = "",
    name: str = "",
) -> Step:
    """Scores each row with a River model, and lets the model learn the row once its label is known.

    model     a classifier (the score is the chance of True), a regressor, or a detector of anomalies of River, plain or
              as a pipeline. It may have learned before; models that draw random numbers need a seed
    inputs    columns that the model sees: numbers, booleans, texts. Null, NaN and infinite values, and texts that the
              model has not learned, never reach it: it takes them as unknown
    into      the column of the score; null where the model cannot say anything yet
    labels    a stream of labels, keyed by `on`; or `sp.outcome(events, within="14d")`, where an event is the label and
              silence is the other one; or None: each row brings its own
    label     the column of the label; a row without one is not learned
    on        the columns that join labels to rows. Rows go to the task of that key, one model a task. A label belongs
              to every row of its key with row <= label <= row + horizon in event time; each row takes the first
    horizon   how long a row waits for its label; then it is given up and counted
    every     the model learns so many rows at once, in the order in which labels became known: linear models behind
              scalers with River's `learn_many` from 32 on, others row by row
    report    a report every so many labels on the side "metrics"
    segment   a text column by which the model is judged too
    calibrated  a further column with the score as a chance that means what it says: corrected by what became of earlier
              scores, with an intercept of its own for each segment; the side "calibration" reports before and after
              (`streamproc.learning.calibration`). For classifiers
    Late rows and late labels go to `.late`.  Cost: River's, twice asked and once learned.

    Raises DefinitionError for a model that cannot be kept or has no seed.

    >>> from river import linear_model, preprocessing
    >>> model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    >>> learn(model, inputs=("amount",), label="fraud", into="risk", every=256).operator
    Learn(kind='binary', inputs=('amount',), into='risk', label='fraud', on=(), horizon_us=0, negative=nan, every=256, \
report=1000, segment='', most_categories=1000, calibrated='')
    """
    if not inputs or isinstance(inputs, str):
        raise DefinitionError(
            "step 'learn' needs the columns that the model sees", hint="inputs=('amount', 'spend_1h')"
        )
    for word, number in (("every", every), ("report", report), ("most_categories", most_categories)):
        if number < 1:
            raise DefinitionError(f"step 'learn': {word}={number}", hint="count from 1")
    columns = (on,) if isinstance(on, str) else tuple(on)
    kind = kind_of(model)
    if calibrated and kind != "binary":
        raise DefinitionError("step 'learn' calibrates chances, and this model gives none", hint="use a classifier")
    span, negative = horizon, math.nan
    others: tuple[Stream, ...] = ()
    if isinstance(labels, Outcome):
        if label or horizon is not None:
            raise DefinitionError("step 'learn': an outcome is the label", hint="leave out label= and horizon=")
        if kind != "binary":
            raise DefinitionError("step 'learn': an outcome is true or false", hint="use a classifier")
        others, span, negative = (labels.events,), labels.within, 0.0
    elif labels is not None:
        others = (labels,)
        if not label or horizon is None:
            raise DefinitionError(
                "step 'learn' needs to know which column the label is, and how long it may take to come",
                hint="label='fraud', horizon='30d'",
            )
    elif not label and kind != "anomaly":
        raise DefinitionError("step 'learn' has no labels", hint="labels=stream, on='payment_id', label=...; or label=")
    if bool(others) != bool(columns):
        raise DefinitionError("step 'learn' joins labels to rows by columns", hint="give labels= and on= together")
    return Step(
        Learn(
            _blueprint(model), kind, tuple(inputs), into, label, columns, 0 if span is None else span_us(span),
            negative, every, report, segment, most_categories, calibrated,
        ),
        others,
        name,
    )  # fmt: skip


def _blueprint(model: Any) -> bytes:
    try:
        blueprint = write_snapshot(model)
    except StateError as problem:
        raise DefinitionError(f"step 'learn': {problem.message}", hint=problem.hint) from None
    unseeded = unseeded_part(blueprint)
    if unseeded:
        raise DefinitionError(
            f"step 'learn': {unseeded} draws random numbers and has no seed", hint="give it one: seed=1"
        )
    return blueprint


def _require(schema: Schema, name: str, whose: str) -> None:
    if name not in schema:
        raise UnknownColumn(f"step 'learn' reads '{name}' of {whose}", hint=did_you_mean(name, schema.names))


def _positions(meta: Meta) -> Int64s:
    return np.ascontiguousarray(meta[:, ROW : ROW + 3])
