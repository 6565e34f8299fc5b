"""Aggregates over a list of rows, by fractions and Python's own containers: what windows are compared with."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

from streamproc.operators.aggregates import Aggregate

Row = dict[str, Any]
"""The cells of a row, and "place": its event time and coordinate."""


ZERO: dict[str, Any] = {"x": 0.0, "i": 0, "d": Decimal("0.00")}
"""The total of nothing, by column."""


def float_total(values: list[float]) -> float:
    """The exact sum rounded once; NaN and infinities decide as IEEE addition would."""
    if any(math.isnan(v) for v in values) or {math.inf, -math.inf} <= set(values):
        return math.nan
    for end in (math.inf, -math.inf):
        if end in values:
            return end
    return rounded(sum(map(Fraction, values), Fraction(0)))


def rounded(value: Fraction) -> float:
    """The nearest float; beyond the range an infinity."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _order(value: Any) -> Any:
    """A key that orders floats totally: -0.0 < 0.0, NaN last."""
    if isinstance(value, float):
        return (
            math.isnan(value),
            0.0 if math.isnan(value) else value,
            0 if math.isnan(value) else math.copysign(1, value),
        )
    return value.encode() if isinstance(value, str) else value


def _label(value: Any) -> Any:
    return value + 0.0 if isinstance(value, float) else value


def naive(aggregate: Aggregate, rows: list[Row]) -> Any:
    """The value of an aggregate over rows, in the order in which they came."""
    if not aggregate.column:
        return len(rows)
    some = [row for row in rows if row[aggregate.column] is not None]
    values = [row[aggregate.column] for row in some]
    n = len(values)
    is_float = any(isinstance(value, float) for value in values)
    match aggregate.kind:
        case "count":
            return n
        case "total":
            return float_total(values) if is_float else sum(values, ZERO[aggregate.column])
        case "mean":
            if not n:
                return None
            if is_float:
                return float_total(values) / n
            return float(Fraction(sum(values, Decimal(0)) if isinstance(values[0], Decimal) else sum(values))) / n
        case "var":
            return _variance([float(value) for value in values])
        case "min":
            return min(values, key=_order, default=None)
        case "max":
            return max(values, key=_order, default=None)
        case "first":
            return min(some, key=lambda row: row["place"])[aggregate.column] if some else None
        case "last":
            return max(some, key=lambda row: row["place"])[aggregate.column] if some else None
        case "distinct":
            return len({_order(_label(value)) for value in values})
        case "top_k":
            counts: dict[Any, tuple[Any, int]] = {}
            for value in map(_label, values):
                counts[_order(value)] = (value, counts.get(_order(value), (value, 0))[1] + 1)
            best = sorted(counts.items(), key=lambda item: (-item[1][1], item[0]))[: aggregate.k]
            return [{"value": value, "count": number} for _, (value, number) in best]
    raise AssertionError(aggregate)


def _variance(values: list[float]) -> float | None:
    n = len(values)
    if n < 2:
        return None
    if not all(map(math.isfinite, values)):
        return math.nan
    exact = [Fraction(value) for value in values]
    numerator = rounded(n * sum(v * v for v in exact) - sum(exact) ** 2)
    return numerator / (float(n) * float(n - 1))
