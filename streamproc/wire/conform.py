"""Columns brought to a schema's Polars types where no value is lost, and refused by name and row where one would be."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
from polars._typing import PolarsDataType

from streamproc.errors import TypeMismatch

_NEWEST = pl.CompatLevel.newest()


def conformed(series: pl.Series, dtype: pl.DataType) -> pa.Array:
    """The column as one Arrow array of the type, texts as views.

    Raises TypeMismatch for another kind of column, and for the first value that the type cannot hold.
    """
    if series.dtype != dtype:
        if not _may_become(series.dtype, dtype):
            raise TypeMismatch(
                f"the column '{series.name}' is {series.dtype}, the schema needs {dtype}",
                hint="cast it, or change the schema",
            )
        series = _cast(series, dtype)
    array = series.rechunk().to_arrow(compat_level=_NEWEST)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _may_become(have: pl.DataType, want: pl.DataType) -> bool:
    """Whether a cast keeps every value, or fails on the ones that it cannot keep."""
    if have == want or have == pl.Null():
        return True
    if want.is_integer():
        return have.is_integer()
    if isinstance(want, pl.Float64):
        return isinstance(have, pl.Float32)
    if isinstance(want, pl.Enum):
        return isinstance(have, (pl.String, pl.Categorical, pl.Enum))
    if isinstance(want, pl.Decimal) and isinstance(have, pl.Decimal):
        return have.scale == want.scale
    if isinstance(want, pl.List) and isinstance(have, pl.List):
        return _may_become(_instance(have.inner), _instance(want.inner))
    if isinstance(want, pl.Struct) and isinstance(have, pl.Struct):
        pairs = zip(have.fields, want.fields, strict=False)
        return len(have.fields) == len(want.fields) and all(
            a.name == b.name and _may_become(_instance(a.dtype), _instance(b.dtype)) for a, b in pairs
        )
    return False


def _instance(dtype: PolarsDataType) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def _cast(series: pl.Series, dtype: pl.DataType) -> pl.Series:
    try:
        return series.cast(dtype, strict=True)
    except pl.exceptions.PolarsError:
        pass
    low, high = 0, series.len()
    while high - low > 1:  # the first failing row lies in low..high
        middle = (low + high) // 2
        try:
            series[low:middle].cast(dtype, strict=True)
        except pl.exceptions.PolarsError:
            high = middle
        else:
            low = middle
    raise TypeMismatch(
        f"row {low}: the value of '{series.name}' ({series[low]!r}) does not fit {dtype}",
        hint="filter such rows out first, or widen the schema's type",
    )
