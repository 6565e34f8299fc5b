"""The operator of `features`: columns of each row from what came before it, of its key or of its entity's leaves."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, EVENT_TIME, WATERMARK, Batch, concat
from streamproc.columns import grow
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, StreamprocError
from streamproc.event_time import MIN_TIME
from streamproc.feature.derived import Derived
from streamproc.feature.leaves import (
    OWN,
    Leaves,
    check_followed,
    forget_rows,
    keep_rows,
    move,
    no_leaves,
    of_touched,
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
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.aggregates import Aggregate
from streamproc.operators.coverage import Coverage
from streamproc.operators.evaluation import evaluate
from streamproc.operators.event_records import Results
from streamproc.operators.expressions import check_elementwise, expression_columns
from streamproc.operators.follow import EPOCH, LEAF, is_followed
from streamproc.operators.join import DELETED
from streamproc.operators.lateness import split_late
from streamproc.operators.lookback import LookbackState, forget, open_lookback, take_in
from streamproc.operators.lookback_plan import EVENTS_AT_MOST
from streamproc.operators.tiles import Seen, TileState, forget_tiles, open_tiles, see_tiles
from streamproc.ports import Int64s

CORRECTED_AT: Final = "corrected_at"
MOMENT: Final = pl.Datetime("us", "UTC")
AT_BOUND: Final = ("stop", "not_covered")
_NO_SLOTS: Final = np.zeros(0, np.int64)
_ASKS: Final = -1
"""The stay of a row that only asks."""


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
    corrections: bool = False
    verb: str = "features"

    @property
    def aggregates(self) -> tuple[tuple[str, Aggregate], ...]:
        """Those that look back. What only asks, for a correction, has no stay, and is seen by none."""
        looking = ((name, one) for name, one in self.made if isinstance(one, Aggregate))
        if not self.corrections:
            return tuple(looking)
        return tuple((name, one.where(pl.col(EPOCH) >= 0)) for name, one in looking)

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns, then those of each feature in turn."""
        stream = inputs[0]
        stream.require_key(self.verb)
        if self.corrections and not is_followed(stream.schema):
            raise DefinitionError(
                f"step '{self.verb}' corrects what it said where entities merge and split, and none do here",
                hint="leave corrections out, or put sp.follow and a key_by of the entity before it",
            )
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
            made += self.columns_of(name, one, fields[name])
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
        if self.corrections:
            for name in (CORRECTED_AT, DELETED):
                if name in (column.name for column in (*stays, *made)):
                    raise DuplicateName(
                        f"step '{self.verb}' makes a column '{name}' for its corrections, which is there already",
                        hint="rename the other one",
                    )
            made += [Field(CORRECTED_AT, MOMENT, nullable=True), Field(DELETED, pl.Boolean(), deletes=True)]
        return replace(stream, schema=Schema((*stays, *made)))

    def columns_of(self, name: str, one: Aggregate | Derived, field: Field) -> list[Field]:
        """The columns that a feature makes, the first of them as the field says."""
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
        made += [CORRECTED_AT, DELETED] if self.corrections else []
        of_leaves = (LEAF, *OWN) if is_followed(inputs[0]) else ()
        return (passes_through(needed, (*sorted(self._under(inputs[0])), *of_leaves), made),)

    def _under(self, schema: Schema) -> frozenset[str]:
        under: frozenset[str] = frozenset((EPOCH,) if self.corrections else ())
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
            batch, made = self._of_leaves(state, state.leaves, plan, batch, under, time)
        due = forget(state.lookback, plan.lookback, time.end) if _looks_back(plan, state) else _NO_SLOTS
        for carried in state.carried:
            carried.moments[due] = MIN_TIME
        for tiles in state.tiles:
            forget_tiles(tiles, time.end)
        return state, Output(batch.with_frame(made), late)

    def recall(self, state: FeaturesState, batch: Batch, unread: int) -> pl.DataFrame:
        """Takes rows in, in time and not below `follow`, and gives those from `unread` on with their features.

        As `process` gives them, bit for bit, but what the first rows see is not computed: a row costs O(1), whatever
        is aggregated, and only the others cost what `process` does. Where a value is carried on, all are computed.
        """
        plan = self._plan_of(state.lookback.columns)
        under = plan.prepare(batch.frame, len(batch))
        if state.carried:
            return self._valued(state, plan, batch, under)[unread:]
        return self._valued(state, plan, batch, under, unread)

    def _of_leaves(
        self,
        state: FeaturesState,
        leaves: Leaves,
        plan: FeaturePlan,
        batch: Batch,
        under: pl.DataFrame,
        time: StepTime,
    ) -> tuple[Batch, pl.DataFrame]:
        """The rows that happened, with their features, once leaves have come and gone as the rows between them say.

        With corrections each moment's moves are followed by a row for every entity that they touched.
        """
        made: list[Batch] = []
        for stretch in stretches(batch, by_moment=self.corrections):
            moves, rows = np.arange(stretch.begin, stretch.moved), np.arange(stretch.moved, stretch.end)
            if moves.size:
                moved = batch.take(moves)
                move(leaves, state.lookback, plan.lookback, moved, taken(under, moves), step=self.verb)
                if self.corrections:
                    made.append(self._corrected(state, leaves, plan, moved, time.rank))
            happened, below = batch.take(rows), taken(under, rows)
            keep_rows(leaves, happened, below, plan.lookback.longest or 0)
            frame = self._valued(state, plan, happened, below)
            if self.corrections:
                none = pl.lit(None, MOMENT).alias(CORRECTED_AT)
                frame = frame.with_columns(none, pl.lit(False).alias(DELETED))
            made.append(happened.with_frame(frame))
        forget_rows(leaves, time.end)
        whole = concat(made)
        return whole, whole.frame.drop(OWN, strict=False)

    def _corrected(self, state: FeaturesState, leaves: Leaves, plan: FeaturePlan, moves: Batch, rank: int) -> Batch:
        """What is known now of each entity that these moves, of one moment, touched."""
        last, gone = of_touched(leaves, moves, plan.lookback.longest or 0)
        told = moves.take(last)
        assert told.keys is not None  # features need a key
        frame = told.frame.with_columns(pl.lit(_ASKS, pl.Int64).alias(EPOCH))
        meta = told.meta.copy()
        meta[:, ACCOUNT], meta[:, C0], meta[:, C3] = -1, rank << 32, 0
        meta[:, C1], meta[:, C2] = told.keys.hashes.view(np.int64), told.event_time
        asking = Batch(frame, meta, told.keys)
        valued = self._valued(state, plan, asking, plan.prepare(frame, len(asking)))
        moment = pl.Series(CORRECTED_AT, told.event_time).cast(MOMENT)
        return asking.with_frame(valued.with_columns(moment, pl.Series(DELETED, gone)))

    def _valued(
        self, state: FeaturesState, plan: FeaturePlan, batch: Batch, under: pl.DataFrame, unread: int = 0
    ) -> pl.DataFrame:
        """The columns of rows from `unread` on, and of their features."""
        below = Batch(under, batch.meta, batch.keys)
        batch = batch.take(np.arange(unread, len(batch))) if unread else batch
        slots, seen, covered = _NO_SLOTS, {}, [np.full(len(batch), MIN_TIME, np.int64)]
        if _looks_back(plan, state):
            keep = plan.keep_us
            out, slots = take_in(state.lookback, plan.lookback, below, step=self.verb, keep_us=keep, unread=unread)
            seen, covered = _seen(plan, out, state.lookback), [out.covered]
        for tiling, tiles in zip(plan.tilings, state.tiles, strict=True):
            tiled, reaches = see_tiles(tiles, tiling, below)
            seen |= {name: one.since(unread) for name, one in tiled.items()}
            covered.append(reaches[unread:])
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
