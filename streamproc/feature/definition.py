"""`features`: what is known of a key at the moment of each of its rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import EVENT_TIME, WATERMARK, Batch
from streamproc.columns import grow
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, StreamprocError
from streamproc.event_time import MIN_TIME, Span, span_us
from streamproc.feature.leaves import (
    OWN,
    Leaves,
    check_followed,
    forget_rows,
    is_followed,
    keep_rows,
    move,
    no_leaves,
    stretches,
    taken,
)
from streamproc.feature.plan import EVER, FeaturePlan, Planned, columns_read, plan_features
from streamproc.feature.statuses import (
    MISSING,
    NOT_COVERED,
    SOURCE_LATE,
    STATUS,
    VALUE,
    Carried,
    Valued,
    filled,
    valued,
)
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.aggregates import NULL, Absent, Aggregate
from streamproc.operators.coverage import Coverage
from streamproc.operators.evaluation import evaluate
from streamproc.operators.event_records import Results
from streamproc.operators.expressions import check_elementwise, expression_columns
from streamproc.operators.follow import LEAF
from streamproc.operators.lateness import split_late
from streamproc.operators.lookback import LookbackState, forget, open_lookback, take_in
from streamproc.operators.lookback_plan import EVENTS_AT_MOST
from streamproc.operators.tiles import Seen, TileState, forget_tiles, open_tiles, see_tiles
from streamproc.ports import Int64s

AT_BOUND: Final = ("stop", "not_covered")
_NO_SLOTS: Final = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """A feature computed from other columns of its row; build it with `derived`."""

    expression: pl.Expr
    absent: Absent = NULL

    def default(self, value: float | int | str | bool) -> Derived:
        """Where there is no value this one stands; the status still says why."""
        return replace(self, absent=Absent("default", value))

    def indicator(self, value: float | int | str | bool = 0) -> Derived:
        """As `default`, with a column `<name>_known` beside: whether the value is one."""
        return replace(self, absent=Absent("indicator", value))


@dataclass(slots=True)
class FeaturesState:
    """Events, and what is carried on, by the slots of their key table; and the tiles of each span and hop.

    leaves  below `follow`: rows by entity and leaf
    """

    lookback: LookbackState
    tiles: list[TileState]
    carried: list[Carried]
    leaves: Leaves | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The operator of `features`."""

    made: tuple[tuple[str, Aggregate | Derived], ...]
    coverage: tuple[tuple[str, Coverage], ...] = ()
    max_lag_us: int | None = None
    events_per_key: int = EVENTS_AT_MOST
    at_bound: str = "stop"
    status: bool = False
    verb: str = "features"

    @property
    def aggregates(self) -> tuple[tuple[str, Aggregate], ...]:
        """Those that look back."""
        return tuple((name, one) for name, one in self.made if isinstance(one, Aggregate))

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns, then those of each feature in turn."""
        stream = inputs[0]
        stream.require_key(self.verb)
        plan = self._plan(stream.schema)
        fields = {one.name: one.field for one in plan.planned}
        seen = stream.schema.with_fields(fields.values())
        made: list[Field] = []
        for name, one in self.made:
            if isinstance(one, Derived):
                computed = check_elementwise(one.expression, seen, self.verb).renamed(name)
                nullable = one.absent.kind == "null" and (computed.nullable or computed.dtype.is_float())
                fields[name] = replace(computed, nullable=nullable)
                seen = seen.with_fields([fields[name]])
            made += self._columns_of(name, one, fields[name])
        for column in made:
            if column.name in stream.schema:
                raise DuplicateName(
                    f"step '{self.verb}': the input already has a column '{column.name}'", hint="choose another name"
                )
        stays = stream.schema.fields
        if is_followed(stream.schema):
            tiled = [name for tiling in plan.tilings for name in tiling.columns]
            check_followed(
                self.verb, stream.schema, self.aggregates, tiled, ordered=stream.ordered, at_bound=self.at_bound
            )
            stays = tuple(column for column in stays if column.name not in OWN)
        return replace(stream, schema=Schema((*stays, *made)))

    def _columns_of(self, name: str, one: Aggregate | Derived, field: Field) -> list[Field]:
        made = [field]
        if one.absent.kind == "indicator":
            made.append(Field(f"{name}_known", pl.Boolean()))
        if self.status:
            made += [Field(f"{name}_status", STATUS), Field(f"{name}_age", pl.Int64(), nullable=True, unit="us")]
        return made

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and the columns under the features."""
        names = [name for name, _ in self.made]
        made = [f"{name}{end}" for name in names for end in ("", "_known", "_status", "_age")]
        of_leaves = (LEAF, *OWN) if is_followed(inputs[0]) else ()
        return (passes_through(needed, (*sorted(self._under(inputs[0])), *of_leaves), made),)

    def _under(self, schema: Schema) -> frozenset[str]:
        under: frozenset[str] = frozenset()
        for _, one in self.made:
            under |= expression_columns(one.expression) if isinstance(one, Derived) else columns_read(one)
        return under & frozenset(schema.names)

    def open(self, *inputs: StreamType) -> FeaturesState:
        """No event yet."""
        schema = inputs[0].schema
        under = self._under(schema)
        columns = pl.DataFrame(schema={name: schema[name].dtype for name in schema.names if name in under})
        plan = self._plan_of(columns)
        none = np.zeros(0, np.int64)
        carried = [Carried(none.copy(), none.copy()) for one in plan.planned if one.absent.kind == "carry"]
        tiles = [open_tiles(tiling) for tiling in plan.tilings]
        leaves = no_leaves(plan.kept(columns.schema)) if is_followed(schema) else None
        return FeaturesState(open_lookback(plan.lookback, columns), tiles, carried, leaves)

    def _plan(self, schema: Schema) -> FeaturePlan:
        return plan_features(
            dict(self.aggregates), schema, step=self.verb, coverage=dict(self.coverage),
            may_blank=self.max_lag_us is not None or self.at_bound == "not_covered",
            events_per_key=self.events_per_key, aged=self.status,
        )  # fmt: skip

    def _plan_of(self, columns: pl.DataFrame) -> FeaturePlan:
        return _planned(self, tuple(columns.schema.items()))

    def process(self, state: FeaturesState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[FeaturesState, Output]:
        """Gives each row in time its features; late rows go to the late stream."""
        batch, late = split_late(inputs[0])
        plan = self._plan_of(state.lookback.columns)
        under = plan.prepare(batch.frame, len(batch))
        if state.leaves is None:
            made = self._valued(state, plan, batch, under)
        else:
            batch, made = self._of_leaves(state, state.leaves, plan, batch, under, time.end)
        due = forget(state.lookback, plan.lookback, time.end) if _looks_back(plan, state) else _NO_SLOTS
        for carried in state.carried:
            carried.moments[due] = MIN_TIME
        for tiles in state.tiles:
            forget_tiles(tiles, time.end)
        return state, Output(batch.with_frame(made), late)

    def _of_leaves(
        self,
        state: FeaturesState,
        leaves: Leaves,
        plan: FeaturePlan,
        batch: Batch,
        under: pl.DataFrame,
        end: int | None,
    ) -> tuple[Batch, pl.DataFrame]:
        """The rows that happened, with their features, once leaves have come and gone as the rows between them say."""
        made, places = [], [np.empty(0, np.int64)]
        for stretch in stretches(batch.frame):
            moves, rows = np.arange(stretch.begin, stretch.moved), np.arange(stretch.moved, stretch.end)
            if moves.size:
                move(leaves, state.lookback, plan.lookback, batch.take(moves), taken(under, moves), step=self.verb)
            happened, below = batch.take(rows), taken(under, rows)
            keep_rows(leaves, happened, below, plan.lookback.longest or 0)
            made.append(self._valued(state, plan, happened, below))
            places.append(rows)
        forget_rows(leaves, end)
        frame = pl.concat(made, rechunk=True).drop(OWN, strict=False)
        return batch.take(np.concatenate(places)), frame

    def _valued(self, state: FeaturesState, plan: FeaturePlan, batch: Batch, under: pl.DataFrame) -> pl.DataFrame:
        """The columns of rows and of their features."""
        below = Batch(under, batch.meta, batch.keys)
        slots, seen, covered = _NO_SLOTS, {}, [np.full(len(batch), MIN_TIME, np.int64)]
        if _looks_back(plan, state):
            out, slots = take_in(state.lookback, plan.lookback, below, step=self.verb, keep_us=plan.keep_us)
            seen, covered = _seen(plan, out, state.lookback), [out.covered]
        for tiling, tiles in zip(plan.tilings, state.tiles, strict=True):
            tiled, reaches = see_tiles(tiles, tiling, below)
            seen |= tiled
            covered.append(reaches)
        if self.at_bound == "stop" and any((reaches != MIN_TIME).any() for reaches in covered):
            raise StreamprocError(
                f"step '{self.verb}': a key has more than {self.events_per_key:,} events in its window",
                hint="raise events_per_key, shorten the spans, or let old events go: at_bound='not_covered'",
            )
        found = self._found(state, plan, seen, covered, batch, slots)
        frame = batch.frame
        if any(isinstance(one, Derived) for _, one in self.made):
            self._derive(found, frame, len(batch))
        made = [
            column
            for name, one in self.made
            for column in found[name].columns(name, status=self.status, indicator=one.absent.kind == "indicator")
        ]
        return pl.DataFrame([*frame.get_columns(), *made])

    def _found(
        self, state: FeaturesState, plan: FeaturePlan, seen: Mapping[str, Seen], covered: list[Int64s], batch: Batch,
        slots: Int64s,
    ) -> dict[str, Valued]:  # fmt: skip
        times = batch.meta[:, EVENT_TIME].copy()
        lags = None if self.max_lag_us is None else times - batch.meta[:, WATERMARK] > self.max_lag_us
        found = {}
        place = 0
        for one in plan.planned:
            feature = _read(one, [seen[name] for name in one.parts])
            if lags is not None:
                feature.blank(lags, SOURCE_LATE)
            if one.coverage or self.at_bound == "not_covered":
                ever = one.span_us >= EVER
                begins = times if ever else times - one.span_us
                if one.tiling >= 0:
                    begins = plan.tilings[one.tiling].begins(times)
                missed = covered[one.tiling + 1] > begins
                for coverage in one.coverage:
                    missed |= coverage.misses(times, None if ever else times - begins)
                feature.blank(missed, NOT_COVERED)
            if one.absent.kind == "carry":
                carried, place = state.carried[place], place + 1
                capacity = state.lookback.keys.capacity
                carried.codes = grow(carried.codes, capacity)
                carried.moments = grow(carried.moments, capacity, fill=MIN_TIME)
                carried.carry(feature, slots, times, one.absent.max_age_us)
            filled(feature, one.absent)
            found[one.name] = feature
        return found

    def _derive(self, found: dict[str, Valued], frame: pl.DataFrame, rows: int) -> None:
        seen = pl.DataFrame([*frame.get_columns(), *(one.column.alias(name) for name, one in found.items())])
        for name, one in self.made:
            if not isinstance(one, Derived):
                continue
            seen = evaluate(seen, [(name, one.expression)], rows)
            made = valued(seen.get_column(name), None, None)
            made.column = made.column.alias(name)
            for under in sorted(expression_columns(one.expression) & found.keys()):
                other = found[under]
                made.status = np.maximum(made.status, other.status)
                made.age = np.where(other.aged, np.maximum(made.age, other.age), made.age)
                made.aged = made.aged | other.aged
            made.status = np.where(made.status == VALUE, made.column.is_null().to_numpy() * MISSING, made.status)
            made.status = made.status.astype(np.uint8)
            filled(made, one.absent)
            seen = seen.with_columns(made.column)
            found[name] = made


def _seen(plan: FeaturePlan, out: Results, state: LookbackState) -> dict[str, Seen]:
    """What rows see of events, by name."""
    seen = {}
    for (field, read, finish), edge in zip(plan.lookback.columns, plan.lookback.newest, strict=True):
        column = finish(field.name, read(out, state.texts))
        seen[field.name] = Seen(column)
        if edge >= 0:
            has = out.has[:, out.extremes.shape[1] + edge].copy()
            seen[field.name] = Seen(column, out.edges[:, edge].copy(), has)
    return seen


def _read(one: Planned, parts: list[Seen]) -> Valued:
    """A feature as it was computed."""
    columns = [part.column for part in parts]
    ages = [(part.age, part.aged) for part in parts if part.age is not None and part.aged is not None]
    column = columns[0] if one.field.dtype != pl.List(pl.String()) else _contributors(one, columns)
    if not ages:
        return valued(column, None, None)
    far = np.iinfo(np.int64).max
    age = np.minimum.reduce([np.where(has != 0, age, far) for age, has in ages])
    aged = (age != far).astype(np.uint8)
    return valued(column, np.where(aged != 0, age, 0), aged)


def _contributors(one: Planned, counts: list[pl.Series]) -> pl.Series:
    """Names of the sources of which there is a row, in the order of the sources."""
    frame = pl.DataFrame([column.alias(str(place)) for place, column in enumerate(counts)])
    named = [pl.when(pl.col(str(place)) > 0).then(pl.lit(source)) for place, source in enumerate(one.sources)]
    return frame.select(pl.concat_list(named).list.drop_nulls().cast(pl.List(pl.String))).to_series()


@functools.lru_cache(maxsize=256)
def _planned(operator: Features, columns: tuple[tuple[str, pl.DataType], ...]) -> FeaturePlan:
    """The plan that runs; checked before, so only types matter."""
    return operator._plan(Schema(tuple(Field(name, dtype, True) for name, dtype in columns)))


def _looks_back(plan: FeaturePlan, state: FeaturesState) -> bool:
    """Whether anything is computed from events: tiles need none."""
    return bool(plan.lookback.columns or state.carried)


def derived(expression: pl.Expr) -> Derived:
    """A feature computed from other features and columns of its row, element by element.

    Its status is the worst of the features that it reads, its age the largest; a result that is null, NaN or infinite
    (a ratio to zero) is MISSING. A bare Polars expression in `features` means the same.

    >>> derived(pl.col("refunds_30d") / pl.col("spend_30d")).default(0.0).absent.value
    0.0
    """
    return Derived(expression)


def contributors() -> Aggregate:
    """Names of the sources with a row in the window, in the order of `together`: List(String). For `features`."""
    return Aggregate("contributors")


def features(
    *,
    coverage: Coverage | Mapping[str, Coverage] | None = None,
    max_lag: Span | None = None,
    events_per_key: int = EVENTS_AT_MOST,
    at_bound: str = "stop",
    status: bool = False,
    name: str = "",
    **made: Aggregate | Derived | pl.Expr,
) -> Step:
    """Each row, with features of its key at its moment: aggregates over spans that end with the row.

    A row at event time t sees, for `.over(span)`, exactly the rows of its key with event time in (t - span, t] that
    came before it in the task's order, and itself; for `.ever()` all of them up to t. So a row that is exactly one span
    old no longer counts, of rows at one moment each sees those that came before it, and nothing that arrives later
    changes what was said. Below `ordered` rows come in order of event time, and what a row sees is the same live, in a
    replay and in a training set, bit for bit: totals of floats are exactly rounded, and a history that begins
    anywhere before the span gives the same. Late rows go to the late stream.

    Nulls are left out everywhere, NaN and infinities too: no NaN comes out, and where a sum leaves the range of floats
    it stands at its end. A value has a status (see `streamproc.feature.statuses`): where it is none of VALUE it is
    null, unless `.default(x)`, `.indicator(x)` or `.carry(max_age)` says otherwise.

    coverage        when sources were there, one for all or by the source's name in `together`: a window that reaches
                    outside is NOT_COVERED, never zero
    max_lag         a row whose watermark lags behind it by more has SOURCE_LATE instead of values
    events_per_key  events (with a hop: tiles, and events after the watermark) that a key keeps at most
    at_bound        one more "stop"s the task, or drops the oldest: windows that reach it are "not_covered"
    status          adds `<name>_status` and `<name>_age`, µs since the newest row that counts

    Needs a keyed stream. Rows keep their order, position and coordinate.
    With `.over(span, hop=...)` the window begins at the multiple of the hop at or before t - span: the value is exactly
    that of `.over(s)` for one s with span <= s < span + hop. Coverage is asked of that window.

    Memory: an event of 32 bytes and 8 a column (16 more a minimum or maximum), kept for the longest span. With a hop
    span / hop + 2 tiles a key and the events after the watermark, each with what its aggregates hold, twice; a sketch
    holds 32 KB at most.
    Cost: O(1) a row in order, for quantile, ewma, trend, distinct and top_k O(events of the window); a row out of order
    costs as much as the disorder around it. With a hop a few merges a row.
    Raises DefinitionError without a feature, for one without a span, or for one that does not merge and has a hop.

    >>> from streamproc.operators.aggregates import count, total
    >>> step = features(n=count().over("1h"), spend=total("amount").over("7d"), mean=pl.col("spend") / pl.col("n"))
    >>> step.operator.verb
    'features'
    """
    if not made:
        raise DefinitionError("features: none is named", hint="give at least one, for example n=sp.count().over('1h')")
    if at_bound not in AT_BOUND:
        raise DefinitionError(f"features: at_bound='{at_bound}'", hint=f"use one of {', '.join(AT_BOUND)}")
    if events_per_key < 1:
        raise DefinitionError(f"features: events_per_key={events_per_key}", hint="a key keeps at least one event")
    for each, one in made.items():
        if not isinstance(one, Aggregate | Derived | pl.Expr):
            raise DefinitionError(f"features: {each}={one!r} is no feature", hint="sp.count().over('1h'), for example")
    if not any(isinstance(one, Aggregate) for one in made.values()):
        raise DefinitionError("features: nothing looks back", hint="sp.with_columns computes from the row alone")
    given = {"": coverage} if isinstance(coverage, Coverage) else dict(coverage or {})
    operator = Features(
        tuple((each, Derived(one) if isinstance(one, pl.Expr) else one) for each, one in made.items()),
        tuple(given.items()),
        None if max_lag is None else span_us(max_lag),
        events_per_key, at_bound, status,
    )  # fmt: skip
    return Step(operator, (), name)
