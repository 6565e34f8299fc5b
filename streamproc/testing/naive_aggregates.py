"""Aggregates as a person computes them: over a list of rows, with fractions, rounded once."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from streamproc.testing.naive import Row

AGGREGATES = ("count", "total", "mean", "var", "min", "max", "first", "last", "distinct", "top_k")
"""What `aggregate` knows, by the name of the function that makes it."""


def aggregate(kind: str, column: str, rows: Sequence[Row], *, k: int = 0, zero: Any = 0.0) -> Any:
    """One aggregate over some rows; nulls are left out.

    column  "" counts rows
    k       how many values `top_k` gives
    zero    the total of nothing: 0, 0.0 or Decimal(0), which also says the column's type

    >>> rows = [Row({"x": x}, 0, 0, (1, 0, 0)) for x in (0.1, 0.2, 0.3, None)]
    >>> aggregate("total", "x", rows), aggregate("count", "x", rows), aggregate("max", "x", rows)
    (0.6, 3, 0.3)
    """
    if kind == "count" and not column:
        return len(rows)
    there = [row for row in rows if row.values[column] is not None]
    values = [row.values[column] for row in there]
    match kind:
        case "count":
            return len(values)
        case "total":
            return total(values) if isinstance(zero, float) else sum(values, zero)
        case "mean":
            return _float(total(values)) / len(values) if values else None
        case "var":
            return variance(values)
        case "min":
            return min(values, key=_rank) if values else None
        case "max":
            return max(values, key=_rank) if values else None
        case "first":
            return min(there, key=_age).values[column] if there else None
        case "last":
            return max(there, key=_age).values[column] if there else None
        case "distinct":
            return len({_bits(value) for value in values})
        case "top_k":
            counts = {value: values.count(value) for value in values}
            best = sorted(counts, key=lambda value: (-counts[value], _rank(value)))[:k]
            return [{"value": value, "count": counts[value]} for value in best]
    raise ValueError(f"no aggregate is named '{kind}'")


def total(values: Sequence[Any]) -> float:
    """The sum of floats, exact and rounded once to the nearest, ties to even; NaN and infinities as IEEE 754 has them.

    >>> total([1e308, 1e308, -1e308]), total([float("inf"), float("-inf")]), total([-0.0])
    (1e+308, nan, 0.0)
    """
    floats = [_float(value) for value in values]
    if any(math.isnan(value) for value in floats) or {math.inf, -math.inf} <= set(floats):
        return math.nan
    infinite = [value for value in floats if math.isinf(value)]
    return infinite[0] if infinite else rounded(sum((Fraction(value) for value in floats), Fraction(0)))


def variance(values: Sequence[Any]) -> float | None:
    """The sample variance: n S2 - S1^2 exact and rounded once, divided by n (n - 1); null below two values.

    >>> variance([1, 2, 4]), variance([1])
    (2.3333333333333335, None)
    """
    n = len(values)
    if n < 2:
        return None
    if any(not math.isfinite(value) for value in values):
        return math.nan
    exact = [Fraction(value) for value in values]
    squares = sum((value * value for value in exact), Fraction(0))
    return rounded(n * squares - sum(exact, Fraction(0)) ** 2) / (n * (n - 1))


def rounded(exact: Fraction) -> float:
    """The nearest float, ties to even; infinite beyond the largest."""
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def _float(value: Any) -> float:
    return float(value) if not isinstance(value, Decimal) else rounded(Fraction(value))


@functools.total_ordering
class _Rank:
    """Values in order: -0.0 below 0.0, NaN above every number, text by its bytes."""

    def __init__(self, value: Any) -> None:
        self.key: Any = value
        if isinstance(value, float):
            self.key = (math.isnan(value), 0.0 if math.isnan(value) else value, math.copysign(1.0, value))
        if isinstance(value, str):
            self.key = value.encode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rank) and self.key == other.key

    def __lt__(self, other: _Rank) -> bool:
        return bool(self.key < other.key)

    def __hash__(self) -> int:
        return hash(self.key)


def _rank(value: Any) -> _Rank:
    return _Rank(value)


def _age(row: Row) -> tuple[int, tuple[int, int, int, int]]:
    return row.event_time, row.coordinate


def _bits(value: Any) -> Any:
    """Floats by their bits, so that NaN is one value; -0.0 and 0.0 are one too."""
    return struct.pack(">d", value + 0.0) if isinstance(value, float) else value
