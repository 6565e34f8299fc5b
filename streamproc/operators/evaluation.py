"""Running expressions and functions of frames so that a row's result does not depend on the rows beside it.

Polars computes with a value that stands for a whole column (a literal, a column of one row, one that it knows to be
constant) otherwise than with columns: it multiplies by the reciprocal where it should divide, and for a third of all
numbers the last bit differs. So `a / 3` gave something else for a batch of one row. Here columns are always columns:
what is constant is spelled out, and a frame of one row is computed as two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl


def evaluate(frame: pl.DataFrame, named: Sequence[tuple[str, pl.Expr]], rows: int) -> pl.DataFrame:
    """The frame with these columns set, all from the frame as it was; a literal fills its column.

    rows  the number of rows, which a frame without columns does not know

    >>> evaluate(pl.DataFrame({"a": [1, 2]}), [("b", pl.col("a") * 2), ("c", pl.lit(0))], 2).rows()
    [(1, 2, 0), (2, 4, 0)]
    """
    made = [expr.alias(name) for name, expr in named]
    if frame.width:
        return in_columns(lambda part: part.with_columns(made), frame)
    return pl.select(made)[[0] * rows]


def true_rows(frame: pl.DataFrame, predicate: pl.Expr, rows: int) -> pl.Series:
    """Booleans, one a row: whether the predicate holds; null counts as false.

    >>> true_rows(pl.DataFrame({"a": [1, None, 3]}), pl.col("a") > 1, 3).to_list()
    [False, False, True]
    """
    verdict = evaluate(frame, [("", predicate.fill_null(False))], rows)
    return verdict.get_column("")


def in_columns(compute: Callable[[pl.DataFrame], pl.DataFrame], frame: pl.DataFrame) -> pl.DataFrame:
    """What a row-wise function makes of a frame, the same however its rows came together.

    Copies no values, except those of a single row.
    """
    if frame.height != 1:
        return compute(pl.DataFrame(frame.get_columns()))
    # Twice the same row is one value to Polars still, until the columns are taken out and put together again.
    return compute(pl.DataFrame(pl.concat([frame, frame]).get_columns())).head(1)
