"""Aggregates as values: `count()`, `total("amount")`, `max("amount")` and the others, for windows and features.

An aggregate names what to compute over the rows of one key in one window. Nulls are left out everywhere; what is left
decides. None of them depends on the order in which rows came (`first` and `last` go by event time, then coordinate), so
a late arrival within the lateness, another cut, or another number of partitions changes nothing.

    count()            rows                          Int64
    count("c")         values of c                   Int64
    total("c")         sum, 0 of nothing             Float64 of floats, Int64 of integers, Decimal, Duration
    mean("c")          exact total / n               Float64, null of nothing
    var("c")           sample variance (n - 1)       Float64, null below two values
    min("c") max("c")                                as c, null of nothing; NaN is above every number
    first("c") last("c") by (event time, coordinate) as c
    distinct("c")      how many different values     Int64, exact
    approx_distinct("c") the same by a HyperLogLog   Int64, standard error 1.6 %, 4 KiB at most a window
    top_k("c", 3)      most frequent values          List(Struct(value, count)), ties by value

Only over the span before a row, in `features`:

    quantile("c", 0.9) between neighbours linearly   Float64, null of nothing
    ewma("c", "10m")   exponentially weighted mean   Float64, null of nothing
    trend("c")         least-squares slope, per second  Float64, null below two moments
    time_since_last()  since the row before          Int64, µs, null if there is none

Totals of floats are exact and rounded once; totals of integers and decimals are kept in 128 bits, and one that does not
fit its column's type stops the step with an error rather than wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Keys
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, StreamprocError, TypeMismatch
from streamproc.event_time import Span, span_us
from streamproc.operators import accumulators
from streamproc.operators.accumulators import Accumulator, Reading
from streamproc.operators.by_value import ValueEdges, ValueTallies, value_extremes
from streamproc.operators.edges import edges
from streamproc.operators.event_records import EVER
from streamproc.operators.hyperloglog import Registers
from streamproc.operators.inputs import Inputs
from streamproc.operators.moments import variances
from streamproc.operators.tallies import Tallies
from streamproc.operators.value_table import ValueTable, from_value_keys, has_value_keys
from streamproc.operators.values import decimal_from_wide, from_codes, has_codes
from streamproc.ports import Int64s

NO_SPAN: Final = -1
EVER_US: Final = EVER
"""The span of `ever`."""


@dataclass(frozen=True, slots=True)
class Absent:
    """What stands where a feature has no value: nothing ("null"), the last one ("carry"), or a "default".

    An "indicator" is a default with a column beside that says whether the value is one.
    """

    kind: str = "null"
    value: float | int | str | bool | None = None
    max_age_us: int = 0


NULL: Final = Absent()


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What to compute; build it with the functions of this module.

    kind     the function's name
    column   the input column; "" for `count()`
    k        how many values `top_k` gives
    span_us  the look-back of `over`, EVER_US for `ever`, or -1
    amount   the share of a quantile, the half-life of an average in µs
    where_   only rows for which this holds count, or None
    absent   what stands where there is no value, see `Absent`
    sources  names of the sources whose rows count, () for all: see `of`

    The rest of the fields serve `features`; windows refuse them.
    """

    kind: str
    column: str = ""
    k: int = 0
    span_us: int = NO_SPAN
    amount: float = 0.0
    where_: pl.Expr | None = field(default=None, compare=False)
    absent: Absent = NULL
    sources: tuple[str, ...] = ()

    def over(self, span: Span) -> Aggregate:
        """The same over the rows of the last `span` before each row, itself included: for `features`.

        >>> total("amount").over("1h").span_us
        3600000000
        """
        us = span_us(span)
        if us == 0:
            raise DefinitionError("a look-back over an empty span holds no row", hint="write for example .over('1h')")
        return replace(self, span_us=us)

    def ever(self) -> Aggregate:
        """The same over all rows of the key so far, however old, in memory that does not grow with them.

        For count, total, mean, var, min, max, first, last and time_since_last.
        """
        return replace(self, span_us=EVER_US)

    def where(self, predicate: pl.Expr) -> Aggregate:
        """The same over those rows only for which the predicate is true; several are joined by "and".

        >>> str(total("amount").where(pl.col("country") == "GB").over("1h"))
        "total('amount')"
        """
        both = predicate if self.where_ is None else self.where_ & predicate
        return replace(self, where_=both)

    def of(self, *sources: str) -> Aggregate:
        """The same over the rows of these sources of a `together` only; their coverage is what counts for it."""
        if not sources:
            raise DefinitionError("of() names no source", hint="write for example .of('orders')")
        return replace(self, sources=sources)

    def default(self, value: float | int | str | bool) -> Aggregate:
        """Where there is no value this one stands; the status still says why."""
        return replace(self, absent=Absent("default", value))

    def indicator(self, value: float | int | str | bool = 0) -> Aggregate:
        """As `default`, with a column `<name>_known` beside: whether the value is one."""
        return replace(self, absent=Absent("indicator", value))

    def carry(self, max_age: Span) -> Aggregate:
        """Where there is no value the key's last one stands, if it is at most `max_age` old; older it is EXPIRED."""
        return replace(self, absent=Absent("carry", max_age_us=span_us(max_age)))

    def __str__(self) -> str:
        given = [f"'{self.column}'"] if self.column else []
        given += [str(self.k)] if self.k else []
        given += [f"{self.amount:g}"] if self.kind == "quantile" else []
        given += [f"'{self.amount / 1e6:g}s'"] if self.kind == "ewma" else []
        return f"{self.kind}({', '.join(given)})"


def count(column: str = "") -> Aggregate:
    """How many rows, or how many that have a value in the column."""
    return Aggregate("count", column)


def total(column: str) -> Aggregate:
    """The exact sum of the values, rounded once; zero of nothing."""
    return Aggregate("total", column)


def mean(column: str) -> Aggregate:
    """The exact sum, rounded, by the number of values; null of nothing."""
    return Aggregate("mean", column)


def var(column: str) -> Aggregate:
    """The sample variance, (n S2 - S1^2) / (n (n - 1)) from exact sums; null below two values."""
    return Aggregate("var", column)


def min(column: str) -> Aggregate:
    """The least value; -0.0 counts as below 0.0, NaN as above all numbers."""
    return Aggregate("min", column)


def max(column: str) -> Aggregate:
    """The greatest value; NaN is greater than all numbers."""
    return Aggregate("max", column)


def first(column: str) -> Aggregate:
    """The value of the earliest row by event time, then coordinate."""
    return Aggregate("first", column)


def last(column: str) -> Aggregate:
    """The value of the latest row by event time, then coordinate."""
    return Aggregate("last", column)


def distinct(column: str) -> Aggregate:
    """How many different values there are; -0.0 and 0.0 are one, and so are all NaN. Keeps each of them."""
    return Aggregate("distinct", column)


def approx_distinct(column: str) -> Aggregate:
    """How many different values there are, with a standard error of 1.6 %: a HyperLogLog of 4,096 registers.

    The same whatever the order and the cut. Needs at most 4,096 registers a window; not for emit="update".
    """
    return Aggregate("approx_distinct", column)


def top_k(column: str, k: int) -> Aggregate:
    """The k most frequent values with their counts, most frequent first, ties by value; exact."""
    return Aggregate("top_k", column, k)


def quantile(column: str, share: float) -> Aggregate:
    """The value below which this share of the values lies, between neighbours linearly; exact. For `features`.

    >>> str(quantile("amount", 0.95).over("1d"))
    "quantile('amount', 0.95)"
    """
    if not 0 <= share <= 1:
        raise DefinitionError(f"a quantile at {share} does not exist", hint="the share is between 0 and 1")
    return Aggregate("quantile", column, amount=float(share))


def ewma(column: str, half_life: Span) -> Aggregate:
    """The mean of the values, each weighted by 2^-(its age / half_life). For `features`.

    Weights are made of plain multiplications and sums are exact, so it has the same bits on every machine and in
    whatever order rows of one moment came.
    """
    us = span_us(half_life)
    if us == 0:
        raise DefinitionError("a half-life of nothing forgets everything", hint="write for example '10m'")
    return Aggregate("ewma", column, amount=float(us))


def trend(column: str) -> Aggregate:
    """By how much the values grow a second: the slope of the least-squares line over event time. For `features`.

    Null below two moments.
    """
    return Aggregate("trend", column)


def time_since_last(column: str = "") -> Aggregate:
    """How many µs ago the newest row before this one was (with a value in the column): this row does not count.

    Of rows at one moment the ones that came before count, so zero is possible. For `features`.
    """
    return Aggregate("time_since_last", column)


# ── plan time ────────────────────────────────────────────────────────────────────────────────────────────────────────

Finish = Callable[[str, Reading], pl.Series]


@dataclass(frozen=True, slots=True)
class Part:
    """One accumulator of a plan: what it reads, and how an empty one is made. Equal parts are kept once.

    kind, column  what is remembered of which column
    form          which arrays it takes: a method of `Inputs`
    """

    kind: str
    column: str
    form: str
    make: Callable[[], Accumulator] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Computed:
    """One aggregate after planning: its output column, the part that it reads, and how a reading becomes a column."""

    field: Field
    part: int
    finish: Finish


@dataclass(frozen=True, slots=True)
class AggregatePlan:
    """Aggregates bound to the columns of a stream."""

    parts: tuple[Part, ...]
    computed: tuple[Computed, ...]

    @property
    def fields(self) -> tuple[Field, ...]:
        """The output columns."""
        return tuple(one.field for one in self.computed)

    def open(self) -> tuple[Accumulator, ...]:
        """Empty accumulators, one per part."""
        return tuple(part.make() for part in self.parts)

    def add(self, state: tuple[Accumulator, ...], slots: Int64s, inputs: Inputs) -> None:
        """Takes one input row into each element of `slots`."""
        for part, accumulator in zip(self.parts, state, strict=True):
            accumulator.add(slots, *inputs.form(part.form, part.column))

    def add_each(self, state: tuple[Accumulator, ...], slots: Int64s, inputs: Inputs) -> list[pl.Series]:
        """Takes the rows in one by one, and gives the aggregates of each row's slot right after it."""
        return self._finish(
            [
                accumulator.add_each(slots, *inputs.form(part.form, part.column))
                for part, accumulator in zip(self.parts, state, strict=True)
            ]
        )

    def read(self, state: tuple[Accumulator, ...], slots: Int64s) -> list[pl.Series]:
        """The aggregates of these slots, a column each."""
        return self._finish([accumulator.read(slots) for accumulator in state])

    def _finish(self, readings: list[Reading]) -> list[pl.Series]:
        return [one.finish(one.field.name, readings[one.part]) for one in self.computed]


def plan_aggregates(aggregates: Mapping[str, Aggregate], schema: Schema, *, step: str) -> AggregatePlan:
    """The aggregates with their columns looked up, their types checked and their shared parts found.

    Raises UnknownColumn for a column that is not there, TypeMismatch for a type that an aggregate has no meaning for.
    """
    parts: list[Part] = []
    computed: list[Computed] = []
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate):
            raise DefinitionError(
                f"step '{step}': {name}={aggregate!r} is not an aggregate", hint="write for example total('amount')"
            )
        if aggregate.kind in PER_ROW:
            raise DefinitionError(
                f"step '{step}': {aggregate} looks back from a row",
                hint=f"sp.features({name}={aggregate}.over('1h'))",
            )
        if (aggregate.where_, aggregate.absent, aggregate.sources) != (None, NULL, ()):
            raise DefinitionError(
                f"step '{step}': {name}={aggregate} says what only features can",
                hint="filter rows before the window, sp.where(...)",
            )
        made, part, finish = bind_aggregate(aggregate, schema, step=step)
        if part not in parts:
            parts.append(part)
        computed.append(Computed(replace(made, name=name), parts.index(part), finish))
    return AggregatePlan(tuple(parts), tuple(computed))


Bound = tuple[Field, Part, Finish]


def bind_aggregate(aggregate: Aggregate, schema: Schema, *, step: str) -> Bound:
    """One aggregate's output column, the part that it reads, and how a reading becomes the column."""
    source = schema[aggregate.column] if aggregate.column else Field("", pl.Null())
    return _KINDS[aggregate.kind](aggregate, source, step)


def _refuse(aggregate: Aggregate, source: Field, step: str, takes: str) -> TypeMismatch:
    return TypeMismatch(
        f"step '{step}': {aggregate} takes {takes}, but '{source.name}' is {source.dtype}",
        hint="cast the column before the step",
    )


def _derived(source: Field, dtype: pl.DataType, *, nullable: bool, unit: str = "") -> Field:
    """The output column of an aggregate: what governs the input column governs it too."""
    return Field("", dtype, nullable, unit, source.pii, "", source.origins)


def _count(aggregate: Aggregate, source: Field, step: str) -> Bound:
    return (
        _derived(source, pl.Int64(), nullable=False),
        Part("count", aggregate.column, "valid", accumulators.counts),
        lambda name, reading: pl.Series(name, reading[0]),
    )


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() and dtype not in (pl.Int128, pl.UInt128)


def _totals(aggregate: Aggregate, source: Field) -> Part:
    if source.dtype.is_float():
        return Part("total", aggregate.column, "floats", accumulators.float_totals)
    return Part("total", aggregate.column, "wide", accumulators.wide_totals)


def _total(aggregate: Aggregate, source: Field, step: str) -> Bound:
    dtype = source.dtype
    if not (_is_number(dtype) or isinstance(dtype, pl.Duration) or dtype == pl.Boolean):
        raise _refuse(aggregate, source, step, "numbers, decimals or durations")
    part = _totals(aggregate, source)
    if dtype.is_float():
        return (
            _derived(source, pl.Float64(), nullable=False, unit=source.unit),
            part,
            lambda name, reading: pl.Series(name, reading[0]),
        )
    if isinstance(dtype, pl.Decimal):
        scale = dtype.scale
        made = pl.Decimal(38, scale)
        return (
            _derived(source, made, nullable=False, unit=source.unit),
            part,
            lambda name, reading: _decimal(f"{step}: {aggregate}", name, reading, scale),
        )
    result = dtype if isinstance(dtype, pl.Duration) else pl.UInt64() if dtype == pl.UInt64 else pl.Int64()
    return (
        _derived(source, result, nullable=False, unit=source.unit),
        part,
        lambda name, reading: _narrow(f"step '{step}': {aggregate}", name, reading, result),
    )


def _narrow(what: str, name: str, reading: Reading, dtype: pl.DataType) -> pl.Series:
    low, high = reading[0], reading[1]
    if dtype == pl.UInt64:
        fits = bool((high == 0).all())
    else:
        fits = bool((high == low >> 63).all())
    if not fits:
        raise StreamprocError(
            f"{what} does not fit {dtype}", hint="cast the column to Decimal or Float64 before the step"
        )
    return pl.Series(name, low.view(np.uint64)) if dtype == pl.UInt64 else pl.Series(name, low).cast(dtype)


_DECIMAL_LIMIT: Final = 10**38


def _decimal(what: str, name: str, reading: Reading, scale: int) -> pl.Series:
    low, high = reading[0], reading[1]
    limit = _DECIMAL_LIMIT >> 64
    for i in np.flatnonzero((high >= limit) | (high <= -limit)):
        if abs((int(high[i]) << 64) + int(low[i].view(np.uint64))) >= _DECIMAL_LIMIT:
            raise StreamprocError(
                f"step '{what}' does not fit 38 digits", hint="cast the column to Float64 before the step"
            )
    return decimal_from_wide(name, low, high, scale)


def _quotient(name: str, totals: npt.NDArray[np.float64], counts: Int64s) -> pl.Series:
    some = counts > 0
    values = totals / np.where(some, counts, 1)
    return _where(pl.Series(name, values), some)


def _where(column: pl.Series, some: npt.NDArray[np.bool_]) -> pl.Series:
    """The column, null where not `some`."""
    return column if some.all() else column.set(pl.Series(~some), None)


def _mean(aggregate: Aggregate, source: Field, step: str) -> Bound:
    dtype = source.dtype
    if not (_is_number(dtype) or dtype == pl.Boolean):
        raise _refuse(aggregate, source, step, "numbers or decimals")
    finish: Finish
    if dtype.is_float():

        def finish(name: str, reading: Reading) -> pl.Series:
            return _quotient(name, reading[0], reading[1])

    else:
        scale = 10 ** (dtype.scale if isinstance(dtype, pl.Decimal) else 0)

        def finish(name: str, reading: Reading) -> pl.Series:
            totals = _wide_as_float(reading[0], reading[1], scale)
            return _quotient(name, totals, reading[2])

    return (
        _derived(source, pl.Float64(), nullable=source.nullable, unit=source.unit),
        _totals(aggregate, source),
        finish,
    )


def _wide_as_float(low: Int64s, high: Int64s, scale: int) -> npt.NDArray[np.float64]:
    """The 128-bit integers divided by `scale` (a power of ten), each rounded once."""
    exact = (high == low >> 63) & (low < 2**53) & (low > -(2**53))
    values = low.astype(np.float64) / float(scale) if scale <= 10**22 else low.astype(np.float64)
    rest = np.flatnonzero(~exact) if scale <= 10**22 else np.arange(low.size)
    for i in rest:  # numbers beyond 2**53: Python's integer division rounds correctly
        values[i] = ((int(high[i]) << 64) + int(low[i].view(np.uint64))) / scale
    return values


def _as_value(aggregate: Aggregate, source: Field, step: str) -> bool:
    """Whether the column's values are kept as bytes, not as numbers; raises TypeMismatch if neither works."""
    if has_codes(source.dtype):
        return False
    if has_value_keys(source.dtype):
        return True
    raise _refuse(aggregate, source, step, "numbers, booleans, dates, times, text or bytes")


def _value(name: str, reading: Reading, dtype: pl.DataType) -> pl.Series:
    buffer, starts, ends, present = reading
    return from_value_keys(name, Keys(buffer, starts, ends, np.zeros(starts.size, np.uint64)), present, dtype)


def _extreme(aggregate: Aggregate, source: Field, step: str) -> Bound:
    dtype, smallest = source.dtype, aggregate.kind == "min"
    field = _derived(source, dtype, nullable=source.nullable, unit=source.unit)
    if _as_value(aggregate, source, step):
        part = Part(aggregate.kind, aggregate.column, "keys", lambda: value_extremes(smallest=smallest))
        return field, part, lambda name, reading: _value(name, reading, dtype)
    part = Part(aggregate.kind, aggregate.column, "codes", lambda: accumulators.extremes(smallest=smallest))
    return field, part, lambda name, reading: from_codes(name, reading[0], reading[1], dtype)


def _edge(aggregate: Aggregate, source: Field, step: str) -> Bound:
    dtype, latest = source.dtype, aggregate.kind == "last"
    field = _derived(source, dtype, nullable=source.nullable, unit=source.unit)
    if _as_value(aggregate, source, step):
        made = Part(
            aggregate.kind, aggregate.column, "placed keys", lambda: ValueEdges(ValueTable(), edges(latest=latest))
        )
        return field, made, lambda name, reading: _value(name, reading, dtype)
    part = Part(aggregate.kind, aggregate.column, "placed", lambda: edges(latest=latest))
    return field, part, lambda name, reading: from_codes(name, reading[0], reading[1], dtype)


def _tally(aggregate: Aggregate, source: Field, *, by_value: bool) -> Part:
    k = aggregate.k
    if by_value:
        return Part(
            f"tally {k}", aggregate.column, "keys", lambda: ValueTallies(ValueTable(), Tallies(k, largest=False))
        )
    return Part(f"tally {k}", aggregate.column, "labels", lambda: Tallies(k, largest=False))


def _distinct(aggregate: Aggregate, source: Field, step: str) -> Bound:
    part = _tally(aggregate, source, by_value=_as_value(aggregate, source, step))
    return _derived(source, pl.Int64(), nullable=False), part, lambda name, reading: pl.Series(name, reading[0])


def _approx_distinct(aggregate: Aggregate, source: Field, step: str) -> Bound:
    _as_value(aggregate, source, step)
    return (
        _derived(source, pl.Int64(), nullable=False),
        Part("registers", aggregate.column, "hashes", lambda: Registers(Tallies(0, largest=True))),
        lambda name, reading: pl.Series(name, np.rint(reading[0]).astype(np.int64)),
    )


def _top_k(aggregate: Aggregate, source: Field, step: str) -> Bound:
    if aggregate.k < 1:
        raise DefinitionError(f"step '{step}': {aggregate} with k={aggregate.k}", hint="k is at least 1")
    dtype, by_value = source.dtype, _as_value(aggregate, source, step)
    made = pl.List(pl.Struct({"value": dtype, "count": pl.Int64()}))

    def finish(name: str, reading: Reading) -> pl.Series:
        found = reading[0]
        if by_value:
            counted, values = reading[1], _value("value", reading[2:], dtype)
        else:
            counted, values = reading[2], from_codes("value", reading[1], np.ones(reading[1].size, np.uint8), dtype)
        rows = pl.DataFrame({"row": np.repeat(np.arange(found.size), found), "value": values, "count": counted})
        lists = rows.group_by("row", maintain_order=True).agg(pl.struct("value", "count").alias(name))
        every = pl.DataFrame({"row": np.arange(found.size)}).join(lists, on="row", how="left", maintain_order="left")
        return every.select(pl.col(name).fill_null(pl.lit([], made))).to_series().cast(made)

    return _derived(source, made, nullable=False), _tally(aggregate, source, by_value=by_value), finish


def _var(aggregate: Aggregate, source: Field, step: str) -> Bound:
    if not _is_number(source.dtype):
        raise _refuse(aggregate, source, step, "numbers or decimals")
    unit = f"{source.unit}2" if source.unit else ""

    def finish(name: str, reading: Reading) -> pl.Series:
        return _where(pl.Series(name, reading[0]), reading[1] > 1)

    return (
        _derived(source, pl.Float64(), nullable=True, unit=unit),
        Part("var", aggregate.column, "floats", variances),
        finish,
    )


def _no_window() -> Accumulator:
    raise DefinitionError("this aggregate looks back from a row", hint="use it in sp.features")


def _of_numbers(aggregate: Aggregate, source: Field, step: str) -> Bound:
    if not _is_number(source.dtype):
        raise _refuse(aggregate, source, step, "numbers or decimals")
    unit = "" if aggregate.kind == "trend" else source.unit
    nullable = source.nullable or aggregate.kind == "trend"

    def finish(name: str, reading: Reading) -> pl.Series:
        return _where(pl.Series(name, reading[0]), reading[1] != 0)

    return (
        _derived(source, pl.Float64(), nullable=nullable, unit=unit),
        Part(aggregate.kind, aggregate.column, "floats", _no_window),
        finish,
    )


def _time_since_last(aggregate: Aggregate, source: Field, step: str) -> Bound:
    return (
        _derived(source, pl.Int64(), nullable=True, unit="us"),
        Part("time_since_last", aggregate.column, "valid", _no_window),
        lambda name, reading: _where(pl.Series(name, reading[0]), reading[1] != 0),
    )


PER_ROW: Final = frozenset({"quantile", "ewma", "trend", "time_since_last"})
"""Aggregates that only a look-back has."""

_KINDS: Final[Mapping[str, Callable[[Aggregate, Field, str], Bound]]] = {
    "count": _count,
    "total": _total,
    "mean": _mean,
    "min": _extreme,
    "max": _extreme,
    "first": _edge,
    "last": _edge,
    "var": _var,
    "distinct": _distinct,
    "approx_distinct": _approx_distinct,
    "top_k": _top_k,
    "quantile": _of_numbers,
    "ewma": _of_numbers,
    "trend": _of_numbers,
    "time_since_last": _time_since_last,
}
