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
    distinct("c", exact=1_000)  exact up to there, beyond by a HyperLogLog with a standard error of 1.6 %
    quantile("c", 0.9, error=0.01)  within 1 % of the value   Float64, null of nothing
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

from dataclasses import dataclass, field, replace
from typing import Final

import polars as pl

from streamproc.errors import DefinitionError
from streamproc.event_time import Span, span_us
from streamproc.operators.event_records import EVER

NO_SPAN: Final = -1
UNBOUNDED: Final = -1
EXACT_AT_MOST: Final = 1 << 20
LEAST_ERROR: Final = 2.0**-21
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
    hop_us   the length of its tiles, 0 for none
    amount   the share of a quantile, the half-life of an average in µs
    bound    how many different values are counted exactly, how many intervals a quantile keeps; -1 for all
    error    the relative error of a quantile, 0 for none
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
    hop_us: int = 0
    bound: int = UNBOUNDED
    error: float = 0.0
    where_: pl.Expr | None = field(default=None, compare=False)
    absent: Absent = NULL
    sources: tuple[str, ...] = ()

    def over(self, span: Span, *, hop: Span | None = None) -> Aggregate:
        """The same over the rows of the last `span` before each row, itself included: for `features`.

        With a hop, what lies behind the watermark is kept as tiles of that length instead of as events: span / hop
        tiles a key, however many events. The window then begins at the multiple of the hop at or before t - span: the
        value is exactly that of `.over(s)` for one s with span <= s < span + hop, and its newest end is exact. That is
        the only error; it is none where t - span is a multiple of the hop.

        >>> total("amount").over("1h").span_us
        3600000000
        >>> total("amount").over("30d", hop="1h").hop_us
        3600000000
        """
        us, hop_length = span_us(span), 0 if hop is None else span_us(hop)
        if us == 0:
            raise DefinitionError("a look-back over an empty span holds no row", hint="write for example .over('1h')")
        if hop is not None and not 0 < hop_length <= us:
            raise DefinitionError(
                f"a look-back over '{span}' cannot hop by '{hop}'", hint="write for example .over('30d', hop='1h')"
            )
        return replace(self, span_us=us, hop_us=hop_length)

    def ever(self) -> Aggregate:
        """The same over all rows of the key so far, however old, in memory that does not grow with them.

        For count, total, mean, var, min, max, first, last and time_since_last, and for distinct and quantile with a
        bound: distinct("c", exact=1_000), quantile("c", 0.9, error=0.01).
        """
        return replace(self, span_us=EVER_US, hop_us=0)

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
        given += [f"error={self.error:g}"] if self.error else []
        given += [f"exact={self.bound}"] if self.kind == "distinct" and self.bound != UNBOUNDED else []
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


def distinct(column: str, *, exact: int | None = None) -> Aggregate:
    """How many different values there are; -0.0 and 0.0 are one, and so are all NaN. Keeps each of them.

    exact  up to so many are counted, by 64-bit hashes; more are estimated by a HyperLogLog of 4,096 registers with a
           standard error of 1.6 %, and are at least exact + 1. So at most 8 bytes a value up to the larger of `exact`
           and 4,096 are kept. The same whatever the order and the cut. Not for emit="update".

    >>> str(distinct("card", exact=1_000).over("30d", hop="1h"))
    "distinct('card', exact=1000)"
    """
    if exact is not None and not 0 <= exact <= EXACT_AT_MOST:
        raise DefinitionError(f"distinct: exact={exact}", hint=f"count between 0 and {EXACT_AT_MOST:,} values exactly")
    return Aggregate("distinct", column, bound=UNBOUNDED if exact is None else exact)


def top_k(column: str, k: int) -> Aggregate:
    """The k most frequent values with their counts, most frequent first, ties by value; exact."""
    return Aggregate("top_k", column, k)


def quantile(column: str, share: float, *, error: float | None = None, intervals: int = 2_048) -> Aggregate:
    """The value below which this share of the values lies, between neighbours linearly. For `features`.

    Exact, from all values of the window. With an `error` from a sketch, in windows too: each of the two neighbours is
    off by at most this share of itself, as long as `intervals` intervals of that width hold all values, which they do
    for values between x and 10^9 x at an error of 1 % (both signs together). Beyond, intervals double in width, and so
    does the error; 16 bytes an interval are kept, never more. NaN and infinities are left out. The same bits whatever
    the order, the cut and the way in which parts were merged.

    >>> str(quantile("amount", 0.95).over("1d"))
    "quantile('amount', 0.95)"
    >>> str(quantile("amount", 0.95, error=0.01).over("30d", hop="1h"))
    "quantile('amount', 0.95, error=0.01)"
    """
    if not 0 <= share <= 1:
        raise DefinitionError(f"a quantile at {share} does not exist", hint="the share is between 0 and 1")
    if error is None:
        return Aggregate("quantile", column, amount=float(share))
    if not LEAST_ERROR <= error <= 0.5:
        raise DefinitionError(f"quantile: error={error}", hint=f"an error lies between {LEAST_ERROR:g} and 0.5")
    if not 2 <= intervals <= EXACT_AT_MOST:
        raise DefinitionError(f"quantile: intervals={intervals}", hint=f"keep between 2 and {EXACT_AT_MOST:,} of them")
    return Aggregate("quantile", column, amount=float(share), bound=intervals, error=float(error))


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
