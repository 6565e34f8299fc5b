"""Two sets of rows, compared whatever their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many rows are the same, changed (same key, other values), and on one side only; the first difference in
    words."""

    same: int
    changed: int
    only_left: int
    only_right: int
    first: str

    @property
    def equal(self) -> bool:
        """Whether there is no difference."""
        return not (self.changed or self.only_left or self.only_right or self.first)


def compare(left: pl.DataFrame, right: pl.DataFrame, *, key: Sequence[str] = ()) -> Comparison:
    """Compares rows as multisets; with a key, rows of equal keys are compared column by column.

    Floats are compared by value, NaN equal to NaN. Cost: one grouping of each side and one join.

    >>> compare(pl.DataFrame({"a": [1, 2]}), pl.DataFrame({"a": [2, 3]})).first
    "only on the left: {'a': 1}"
    """
    if left.width == 0 and left.height == 0:
        left = right.clear()
    if right.width == 0 and right.height == 0:
        right = left.clear()
    if set(left.columns) != set(right.columns):
        missing = [name for name in left.columns if name not in right.columns]
        extra = [name for name in right.columns if name not in left.columns]
        return Comparison(0, 0, left.height, right.height, f"columns differ: only left {missing}, only right {extra}")
    right = right.select(left.columns)
    for name, dtype in left.schema.items():
        if right.schema[name] != dtype:
            return Comparison(
                0,
                0,
                left.height,
                right.height,
                f"column '{name}' is {dtype} on the left, {right.schema[name]} on the right",
            )
    if key:
        return _by_key(left, right, list(key))
    names = left.columns
    counts = (
        left.group_by(names)
        .len("_l")
        .join(right.group_by(names).len("_r"), on=names, how="full", nulls_equal=True, coalesce=True)
    )
    counts = counts.with_columns(pl.col("_l", "_r").fill_null(0).cast(pl.Int64))
    same = int(counts.select(pl.min_horizontal("_l", "_r").sum()).item() or 0)
    only_left = counts.filter(pl.col("_l") > pl.col("_r"))
    only_right = counts.filter(pl.col("_r") > pl.col("_l"))
    first = ""
    for side, rows in (("left", only_left), ("right", only_right)):
        if rows.height and not first:
            first = f"only on the {side}: {_first_of(rows.select(names))}"
    return Comparison(same, 0, left.height - same, right.height - same, first)


def _by_key(left: pl.DataFrame, right: pl.DataFrame, key: list[str]) -> Comparison:
    values = [name for name in left.columns if name not in key]

    def numbered(frame: pl.DataFrame) -> pl.DataFrame:
        # Rows that share a key are paired in the order of their values.
        return frame.sort(*key, *values, nulls_last=False).with_columns(_n=pl.int_range(pl.len()).over(key))

    a, b = numbered(left).with_columns(_l=True), numbered(right).with_columns(_r=True)
    on = [*key, "_n"]
    both = a.join(b, on=on, how="full", nulls_equal=True, coalesce=True, suffix="_other").sort(on)
    only_left, only_right = both.filter(pl.col("_r").is_null()), both.filter(pl.col("_l").is_null())
    paired = both.filter(pl.col("_l").is_not_null() & pl.col("_r").is_not_null())
    differs = [pl.col(name).ne_missing(pl.col(f"{name}_other")).alias(name) for name in values]
    verdict = paired.select(differs) if differs else pl.DataFrame({"_": [False] * paired.height})
    changed = paired.filter(pl.any_horizontal(verdict.get_columns())) if paired.height else paired
    first = ""
    if changed.height:
        row = changed.row(0, named=True)
        column = next(name for name in values if row[name] != row[f"{name}_other"])
        names = {name: row[name] for name in key}
        other = row[f"{column}_other"]
        first = f"{names}: column '{column}' is {row[column]!r} on the left, {other!r} on the right"
    elif only_left.height:
        first = f"only on the left: {_first_of(only_left.select(left.columns))}"
    elif only_right.height:
        first = f"only on the right: { {name: only_right.row(0, named=True)[name] for name in key} }"
    return Comparison(paired.height - changed.height, changed.height, only_left.height, only_right.height, first)


def _first_of(rows: pl.DataFrame) -> dict[str, object]:
    """The least row, so that the answer is the same every time; columns that cannot be sorted do not decide."""
    sortable = [name for name, dtype in rows.schema.items() if not dtype.is_nested()]
    ordered = rows.sort(sortable) if sortable else rows
    return ordered.row(0, named=True)
