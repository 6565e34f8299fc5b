"""Features bound to the columns of a stream: what is prepared, what the look-back computes, what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, TypeMismatch, did_you_mean
from streamproc.operators.aggregates import EVER_US, NO_SPAN, Absent, Aggregate, count
from streamproc.operators.coverage import Coverage
from streamproc.operators.evaluation import evaluate
from streamproc.operators.expressions import canonical_text, check_predicate, expression_columns
from streamproc.operators.lookback_plan import LookbackPlan, plan_lookback
from streamproc.operators.tiles import TilePlan, plan_tiles, tiling_of
from streamproc.operators.values import has_codes

SOURCE: Final = "source"
"""The column in which `together` says which source a row came from."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A column as an aggregate reads it: only rows under a condition, without what is not finite.

    condition  its place among the conditions, or -1
    """

    name: str
    column: str
    condition: int
    floats: bool


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """One aggregate of a `features`.

    parts     names of what is seen: one, or for contributors one a source
    tiling    the place of the tile plan that has them, -1 for the look-back over events
    sources   names of the parts' sources, for contributors
    coverage  what must be covered for the value to be one
    """

    name: str
    field: Field
    span_us: int
    absent: Absent
    parts: tuple[str, ...]
    tiling: int
    sources: tuple[str, ...]
    coverage: tuple[Coverage, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FeaturePlan:
    """What a `features` does to a batch."""

    conditions: tuple[pl.Expr, ...]
    prepared: tuple[Prepared, ...]
    lookback: LookbackPlan
    tilings: tuple[TilePlan, ...]
    planned: tuple[Planned, ...]

    @property
    def keep_us(self) -> int:
        """How long carried values are needed."""
        return max((2 * one.absent.max_age_us for one in self.planned), default=0)

    def kept(self, columns: pl.Schema) -> pl.Schema:
        """Names and types of what `prepare` gives for such columns."""
        return pl.Schema({
            one.name: columns[one.column] if one.column else pl.Boolean() for one in self.prepared
        })  # fmt: skip

    def prepare(self, frame: pl.DataFrame, rows: int) -> pl.DataFrame:
        """The columns under the look-back."""
        if not self.prepared:
            return pl.DataFrame()
        named = [(f"?{i}", predicate.fill_null(False)) for i, predicate in enumerate(self.conditions)]
        held = evaluate(frame, named, rows) if named else frame
        made: list[pl.Series] = []
        for one in self.prepared:
            condition = pl.col(f"?{one.condition}") if one.condition >= 0 else None
            if not one.column:
                assert condition is not None  # a count of all rows reads no column
                made.append(held.select(pl.when(condition).then(pl.lit(True)).alias(one.name)).to_series())
                continue
            column = held.get_column(one.column)
            finite = pl.col(one.column).is_finite() if one.floats and not column.is_finite().all() else None
            both = [part for part in (condition, finite) if part is not None]
            if both:
                column = held.select(pl.when(pl.all_horizontal(both)).then(pl.col(one.column))).to_series()
            made.append(column.alias(one.name))
        return pl.DataFrame(made)


@dataclass(slots=True)
class _Gathering:
    """Columns and conditions collected while features are planned."""

    schema: Schema
    step: str
    conditions: dict[str, pl.Expr] = field(default_factory=dict)
    prepared: dict[tuple[str, int], Prepared] = field(default_factory=dict)
    fields: dict[str, Field] = field(default_factory=dict)

    def column(self, aggregate: Aggregate) -> str:
        """The prepared column that the aggregate reads, "" for all rows."""
        predicate = _condition(aggregate)
        place = -1
        if predicate is not None:
            check_predicate(predicate, self.schema, self.step)
            text = canonical_text(predicate)
            self.conditions.setdefault(text, predicate)
            place = list(self.conditions).index(text)
        if not aggregate.column and place < 0:
            return ""
        known = self.prepared.get((aggregate.column, place))
        if known is None:
            source = self.schema[aggregate.column] if aggregate.column else Field("", pl.Boolean())
            known = Prepared(f"{aggregate.column}?{place}", aggregate.column, place, source.dtype.is_float())
            self.prepared[aggregate.column, place] = known
            nullable = source.nullable or place >= 0 or source.dtype.is_float()
            self.fields[known.name] = replace(source, name=known.name, nullable=nullable)
        return known.name


def _condition(aggregate: Aggregate) -> pl.Expr | None:
    predicate = aggregate.where_
    if aggregate.sources:
        of = pl.any_horizontal([pl.col(SOURCE) == name for name in aggregate.sources])
        predicate = of if predicate is None else of & predicate
    return predicate


def columns_read(aggregate: Aggregate) -> frozenset[str]:
    """Columns of the input that an aggregate needs."""
    predicate = _condition(aggregate)
    under = expression_columns(predicate) if predicate is not None else frozenset()
    tagged = {SOURCE} if aggregate.kind == "contributors" else set()
    return under | tagged | ({aggregate.column} if aggregate.column else set())


def plan_features(
    aggregates: Mapping[str, Aggregate],
    schema: Schema,
    *,
    step: str,
    coverage: Mapping[str, Coverage],
    may_blank: bool,
    events_per_key: int,
    aged: bool,
) -> FeaturePlan:
    """The plan of aggregates over a stream; raises DefinitionError (UnknownColumn, TypeMismatch) where it cannot be.

    may_blank  whether any value may be taken away: for want of room, or of sources in time
    aged       whether all ages are wanted
    """
    known = schema[SOURCE].dtype.categories.to_list() if _is_tagged(schema) else []  # type: ignore[attr-defined]
    for name in coverage:
        if name and name not in known:
            raise _unknown_source(step, name, known)
    gathering = _Gathering(schema, step)
    inner: dict[str, Aggregate] = {}
    planned: list[tuple[str, Aggregate, tuple[str, ...], tuple[str, ...]]] = []
    for name, aggregate in aggregates.items():
        for source in aggregate.sources:
            if source not in known:
                raise _unknown_source(step, source, known)
        parts = {name: aggregate}
        if aggregate.kind == "contributors":
            if not known:
                raise DefinitionError(
                    f"step '{step}': {name}=contributors() needs a stream of several sources",
                    hint="sp.together(orders=..., refunds=...)",
                )
            parts = {f"{name}?{source}": _rows_of(source, aggregate) for source in aggregate.sources or known}
        for part, one in parts.items():
            inner[part] = replace(one, column=gathering.column(one), where_=None, sources=(), absent=Absent())
        planned.append((name, aggregate, tuple(parts), tuple(aggregate.sources or known)))
    wanted = {part for _, one, parts, _ in planned if aged or one.absent.kind == "carry" for part in parts}
    prepared = Schema(tuple(gathering.fields.values()))
    tiled: dict[tuple[int, int], dict[str, Aggregate]] = {}
    events: dict[str, Aggregate] = {}
    for part, one in inner.items():
        tiling = None if one.span_us == NO_SPAN else tiling_of(one, prepared, step=step)
        (events if tiling is None else tiled.setdefault(tiling, {}))[part] = one
    lookback = plan_lookback(events, prepared, step=step, events_at_most=events_per_key, aged=wanted)
    tilings = tuple(
        plan_tiles(group, prepared, *spans, step=step, at_most=events_per_key, aged=wanted)
        for spans, group in tiled.items()
    )
    fields = {name: column[0] for plan in tilings for name, column in plan.columns.items()}
    fields |= {column[0].name: column[0] for column in lookback.columns}
    made = []
    for name, one, names, sources in planned:
        # Who contributed is known, whoever may be missing.
        covered = () if one.kind == "contributors" else _covered(coverage, one.sources, known)
        column = _field(name, one, fields[names[0]], step=step, may_blank=may_blank or bool(covered))
        place = next((place for place, plan in enumerate(tilings) if names[0] in plan.columns), -1)
        made.append(Planned(name, column, one.span_us, one.absent, names, place, sources, covered))
    return FeaturePlan(
        tuple(gathering.conditions.values()), tuple(gathering.prepared.values()), lookback, tilings, tuple(made)
    )


def _rows_of(source: str, aggregate: Aggregate) -> Aggregate:
    counted = replace(count().of(source), span_us=aggregate.span_us, hop_us=aggregate.hop_us)
    return counted if aggregate.where_ is None else counted.where(aggregate.where_)


def _is_tagged(schema: Schema) -> bool:
    return SOURCE in schema and isinstance(schema[SOURCE].dtype, pl.Enum)


def _unknown_source(step: str, name: str, known: list[str]) -> DefinitionError:
    if not known:
        return DefinitionError(
            f"step '{step}' speaks of source '{name}', but its stream does not tell sources apart",
            hint="sp.together(orders=..., refunds=...) does, in the column 'source'",
        )
    return DefinitionError(f"step '{step}' speaks of source '{name}'", hint=did_you_mean(name, known))


def _covered(coverage: Mapping[str, Coverage], sources: tuple[str, ...], known: list[str]) -> tuple[Coverage, ...]:
    wanted = ("", *(sources or known))
    return tuple(coverage[name] for name in wanted if name in coverage)


def _field(name: str, aggregate: Aggregate, computed: Field, *, step: str, may_blank: bool) -> Field:
    made = computed.renamed(name)
    if aggregate.kind == "contributors":
        made = Field(name, pl.List(pl.String()))
    nullable = made.nullable or may_blank
    absent = aggregate.absent
    if absent.kind in ("default", "indicator"):
        try:
            pl.Series([absent.value], dtype=made.dtype, strict=True)
        except (TypeError, pl.exceptions.PolarsError):
            raise TypeMismatch(
                f"step '{step}': {name} is {made.dtype}, its default is {absent.value!r}",
                hint="give a default of the same type",
            ) from None
        nullable = False
    if absent.kind == "carry" and not has_codes(made.dtype):
        raise TypeMismatch(
            f"step '{step}': {name} is {made.dtype}, which cannot be carried on",
            hint="numbers, booleans, dates and times can; give a default instead",
        )
    return replace(made, nullable=nullable)


EVER: Final = EVER_US
