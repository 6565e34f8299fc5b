"""One aggregate bound to a column: what it keeps, which arrays it takes, how a reading becomes a column."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Keys
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, StreamprocError, TypeMismatch
from streamproc.operators import accumulators
from streamproc.operators.accumulators import Accumulator, Reading
from streamproc.operators.aggregates import UNBOUNDED, Aggregate
from streamproc.operators.by_value import ValueEdges, ValueTallies, value_extremes
from streamproc.operators.coarse_tallies import LEVEL, SIZE, START, coarse_set, coarse_values, quantiles
from streamproc.operators.edges import edges
from streamproc.operators.hyperloglog import estimates
from streamproc.operators.moments import variances
from streamproc.operators.tallies import Tallies
from streamproc.operators.value_table import ValueTable, from_value_keys, has_value_keys
from streamproc.operators.values import decimal_from_wide, from_codes, has_codes
from streamproc.ports import Int64s

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
            f"tally {k}", aggregate.column, "keys", lambda: ValueTallies(ValueTable(), Tallies(k))
        )
    return Part(f"tally {k}", aggregate.column, "labels", lambda: Tallies(k))


def _distinct(aggregate: Aggregate, source: Field, step: str) -> Bound:
    if aggregate.bound != UNBOUNDED:
        return _coarse_distinct(aggregate, source, step)
    part = _tally(aggregate, source, by_value=_as_value(aggregate, source, step))
    return _derived(source, pl.Int64(), nullable=False), part, lambda name, reading: pl.Series(name, reading[0])


def _coarse_distinct(aggregate: Aggregate, source: Field, step: str) -> Bound:
    _as_value(aggregate, source, step)
    exact = aggregate.bound

    def finish(name: str, reading: Reading) -> pl.Series:
        runs, codes, _ = reading
        out = np.empty(runs.shape[0], np.int64)
        estimates(runs[:, START].copy(), runs[:, SIZE].copy(), runs[:, LEVEL].copy(), codes, exact, out)
        return pl.Series(name, out)

    part = Part(f"set {exact}", aggregate.column, "hashes", lambda: coarse_set(exact))
    return _derived(source, pl.Int64(), nullable=False), part, finish


def _coarse_quantile(aggregate: Aggregate, source: Field, step: str) -> Bound:
    if not _is_number(source.dtype):
        raise _refuse(aggregate, source, step, "numbers or decimals")
    share, bound = aggregate.amount, aggregate.bound
    bits = max(0, -math.frexp(aggregate.error)[1])  # half an interval's width, 2**-(bits + 1), is at most the error

    def finish(name: str, reading: Reading) -> pl.Series:
        runs, codes, numbers = reading
        out, has = np.zeros(runs.shape[0], np.uint64), np.zeros(runs.shape[0], np.uint8)
        quantiles(runs, codes, numbers, 52 - bits, share, out, has)
        return _where(pl.Series(name, out.view(np.float64)), has != 0)

    part = Part(f"values {bits} {bound}", aggregate.column, "finite codes", lambda: coarse_values(bits, bound))
    return _derived(source, pl.Float64(), nullable=True, unit=source.unit), part, finish


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
    if aggregate.error:
        return _coarse_quantile(aggregate, source, step)
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
"""Aggregates that only a look-back has, unless they are sketches."""

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
    "top_k": _top_k,
    "quantile": _of_numbers,
    "ewma": _of_numbers,
    "trend": _of_numbers,
    "time_since_last": _time_since_last,
}
