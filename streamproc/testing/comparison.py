"""Where two tables differ first: the row, the column and both values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place at which two tables differ; `row` is -1 where their columns do."""

    row: int
    column: str
    left: str
    right: str

    def told(self, left: str, right: str) -> str:
        """The difference in words, under names for the two tables."""
        if self.row < 0:
            return f"columns: {left} {self.left}, {right} {self.right}"
        return f"row {self.row}, column '{self.column}': {left} {self.left}, {right} {self.right}"


def first_difference(left: pl.DataFrame, right: pl.DataFrame) -> Difference | None:
    """The first row that differs, and in it the first column; None for equal tables.

    Values are equal if they are the same to the bit, but a NaN equals any NaN. Null equals null, -0.0 is not 0.0.
    Cost O(rows * columns).

    >>> first_difference(pl.DataFrame({"a": [1, 2]}), pl.DataFrame({"a": [1, 3]})).told("then", "now")
    "row 1, column 'a': then 2, now 3"
    """
    if left.schema != right.schema:
        return _schemas(left, right)
    rows = min(left.height, right.height)
    a, b = left.head(rows), right.head(rows)
    at, where = rows, ""
    for name in left.columns:
        wrong = np.flatnonzero(differs(a[name], b[name]))
        if wrong.size and int(wrong[0]) < at:
            at, where = int(wrong[0]), name
    if where:
        return Difference(at, where, repr(a[where][at]), repr(b[where][at]))
    if left.height != right.height:
        row = [str(frame.row(rows, named=True)) if frame.height > rows else "nothing" for frame in (left, right)]
        return Difference(rows, "*", *row)
    return None


def equal_frames(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    """Whether `first_difference` finds nothing; faster."""
    if left.schema != right.schema or not left.equals(right, null_equal=True):
        return False
    floats = [name for name, dtype in left.schema.items() if dtype.is_float()]
    nested = [name for name, dtype in left.schema.items() if dtype.is_nested()]
    return not any(differs(left[name], right[name]).any() for name in (*floats, *nested))


def differs(left: pl.Series, right: pl.Series) -> npt.NDArray[np.bool_]:
    """Per row, whether two columns of one type and length differ; bool[n]."""
    dtype = left.dtype
    if dtype.is_float():
        a, b = left.to_numpy(), right.to_numpy()
        same = ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))
        different: npt.NDArray[np.bool_] = ~same | (left.is_null().to_numpy() != right.is_null().to_numpy())
        return different
    if dtype.is_nested() or dtype == pl.Object():
        return np.array([repr(a) != repr(b) for a, b in zip(left.to_list(), right.to_list(), strict=True)], np.bool_)
    if left.equals(right, null_equal=True):
        return np.zeros(len(left), np.bool_)
    return left.ne_missing(right).to_numpy()


def _schemas(left: pl.DataFrame, right: pl.DataFrame) -> Difference:
    return Difference(
        -1,
        "",
        ", ".join(f"{name}: {dtype}" for name, dtype in left.schema.items()),
        ", ".join(f"{name}: {dtype}" for name, dtype in right.schema.items()),
    )
