"""Features that are computed from others, and from columns of the row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from streamproc.operators.aggregates import NULL, Absent


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


def derived(expression: pl.Expr) -> Derived:
    """A feature computed from other features and columns of its row, element by element.

    Its status is the worst of the features that it reads, its age the largest; a result that is null, NaN or infinite
    (a ratio to zero) is MISSING. A bare Polars expression in `features` means the same.

    >>> derived(pl.col("refunds_30d") / pl.col("spend_30d")).default(0.0).absent.value
    0.0
    """
    return Derived(expression)
