"""Columns as plain numbers for kernels, and back.

Three forms. *Floats*: float64. *Codes*: an int64 per value that is ordered as the values are and equal where they are
equal; there is one for everything that fits 64 bits. *Wide*: a 128-bit integer as (low, high), for exact totals of
integers and decimals. Beside each stands `valid`, 1 where the value is not null; below a null stands zero.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow

from streamproc.hashing import frozen
from streamproc.ports import Int64s

Flags = npt.NDArray[np.uint8]
Float64s = npt.NDArray[np.float64]

_arrow: Any = pyarrow  # it re-exports nothing that a type checker sees
_SIGN: Final = np.int64(-(2**63))
_REST: Final = np.int64(2**63 - 1)
_NAN_CODE: Final = np.int64(0x7FF8000000000000)


def valid_of(column: pl.Series) -> Flags:
    """1 where the column has a value; uint8[n], read-only."""
    if not column.null_count():
        return frozen(np.ones(len(column), np.uint8))
    return frozen(column.is_not_null().to_numpy().astype(np.uint8))


def floats_of(column: pl.Series) -> Float64s:
    """The column as float64, zero for null; read-only."""
    return frozen(column.cast(pl.Float64).fill_null(0.0).rechunk().to_numpy())


def has_codes(dtype: pl.DataType) -> bool:
    """Whether values of the type fit an int64 code: numbers up to 64 bits, booleans, dates and times."""
    if dtype in (pl.Int128, pl.UInt128):
        return False
    return dtype.is_integer() or dtype.is_float() or dtype.is_temporal() or dtype == pl.Boolean


def codes_of(column: pl.Series) -> Int64s:
    """Ordered codes of the column's values; int64[n], read-only.

    NaN is one value above all others, and -0.0 stands below +0.0: an order in which every value has a place.

    >>> codes_of(pl.Series([2.0, -1.0, float("inf"), float("nan")])).argsort().tolist()
    [1, 0, 2, 3]
    """
    if column.dtype.is_float():
        bits = np.array(floats_of(column)).view(np.int64)
        codes = np.where(bits < 0, bits ^ _REST, bits)
        return frozen(np.where(column.fill_null(0.0).is_nan().to_numpy(), _NAN_CODE, codes))
    if column.dtype == pl.UInt64:
        return frozen(column.fill_null(0).rechunk().to_numpy().view(np.int64) ^ _SIGN)
    return frozen(column.to_physical().cast(pl.Int64).fill_null(0).rechunk().to_numpy())


def labels_of(column: pl.Series) -> Int64s:
    """As `codes_of`, but -0.0 and 0.0 are one value: for counting what is equal."""
    codes = codes_of(column)
    return frozen(np.where(codes == -1, 0, codes)) if column.dtype.is_float() else codes


def from_codes(name: str, codes: Int64s, present: Flags, dtype: pl.DataType) -> pl.Series:
    """The column that these codes stand for, null where `present` is 0: the inverse of `codes_of`.

    >>> from_codes("t", codes_of(pl.Series([-1.5, 2.0])), np.array([1, 0], np.uint8), pl.Float64()).to_list()
    [-1.5, None]
    """
    codes = np.ascontiguousarray(codes)
    column: pl.Series
    if dtype.is_float():
        column = pl.Series(name, np.where(codes < 0, codes ^ _REST, codes).view(np.float64)).cast(dtype)
    elif dtype == pl.UInt64:
        column = pl.Series(name, (codes ^ _SIGN).view(np.uint64))
    elif dtype == pl.Date:
        column = pl.Series(name, codes).cast(pl.Int32).cast(dtype)
    else:
        column = pl.Series(name, codes).cast(dtype)
    return _masked(column, present)


def _masked(column: pl.Series, present: Flags) -> pl.Series:
    if present.all():
        return column
    mask = pl.Series("", present).cast(pl.Boolean)
    return column.zip_with(mask, pl.Series(column.name, [None], dtype=column.dtype).new_from_index(0, len(column)))


def wide_of(column: pl.Series) -> tuple[Int64s, Int64s]:
    """(low, high) words of the column's integers, or of a decimal's unscaled ones; zero for null; read-only."""
    if isinstance(column.dtype, pl.Decimal):
        filled = column.fill_null(0).rechunk()
        array: Any = filled.cast(pl.Decimal(38, column.dtype.scale)).to_arrow()
        words = np.frombuffer(array.buffers()[1], np.int64).reshape(-1, 2)[array.offset : array.offset + len(array)]
        return frozen(words[:, 0]), frozen(words[:, 1])
    if column.dtype == pl.UInt64:
        low = column.fill_null(0).rechunk().to_numpy().view(np.int64)
        return frozen(low), frozen(np.zeros(low.size, np.int64))
    low = codes_of(column)
    return low, frozen(low >> 63)


def decimal_from_wide(name: str, low: Int64s, high: Int64s, scale: int) -> pl.Series:
    """The Decimal(38, scale) column of these unscaled 128-bit integers."""
    words = np.stack((low, high), axis=1)
    array = _arrow.Array.from_buffers(_arrow.decimal128(38, scale), low.size, [None, _arrow.py_buffer(words)])
    column = pl.from_arrow(array)
    assert isinstance(column, pl.Series)  # an array is never a frame
    return column.alias(name).cast(pl.Decimal(38, scale))
