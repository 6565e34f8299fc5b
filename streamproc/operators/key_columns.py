"""The columns of a key, read back from its bytes: what a window's result shows of the key that its rows had.

The inverse of `streamproc.keys.keys_of`, for whole columns, so that no state needs to hold key values a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow

from streamproc.batch import Keys
from streamproc.contracts.model import Field
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.operators.values import decimal_from_wide
from streamproc.ports import Bytes, Int64s
from streamproc.wire.cells import is_utf8

_arrow: Any = pyarrow  # it re-exports nothing that a type checker sees
_NULL_PART: Final = 0xFFFFFFFF
_UTF8: Final = -1
_ANY: Final = -2
Flags = npt.NDArray[np.bool_]


@kernel
def _parts(buffer: Bytes, at: Int64s, starts: Int64s, ends: Int64s) -> None:
    """The next part of each composite key; `at` moves behind it."""
    for i in range(at.size):
        length = np.int64(0)
        for k in range(4):
            length = (length << 8) | np.int64(buffer[at[i] + k])
        at[i] += 4
        starts[i] = -1
        ends[i] = -1
        if length != _NULL_PART:
            starts[i] = at[i]
            at[i] += length
            ends[i] = at[i]


@kernel
def _whole(buffer: Bytes, key_starts: Int64s, key_ends: Int64s, binary: bool, starts: Int64s, ends: Int64s) -> None:
    """The bounds of the value in keys of one column: -1 for null, and without the FF that tells some from null."""
    for i in range(starts.size):
        starts[i] = key_starts[i]
        ends[i] = key_ends[i]
        length = ends[i] - starts[i]
        if length == 1 and buffer[starts[i]] == 0xFF:
            starts[i] = -1
            ends[i] = -1
        elif binary and length > 1:
            at = starts[i]
            while at < ends[i] and buffer[at] == 0xFF:
                at += 1
            if at == ends[i]:
                ends[i] -= 1


@kernel
def _words(buffer: Bytes, starts: Int64s, ends: Int64s, words: Int64s, per: int, valid: npt.NDArray[np.uint8]) -> None:
    """Big-endian words of 8 bytes, most significant first; zero for null."""
    for i in range(starts.size):
        valid[i] = 1 if starts[i] >= 0 else 0
        for w in range(per):
            value = np.uint64(0)
            if starts[i] >= 0:
                for k in range(8):
                    value = (value << np.uint64(8)) | np.uint64(buffer[starts[i] + w * 8 + k])
            words[i * per + w] = np.int64(value)


@kernel
def _gather(buffer: Bytes, starts: Int64s, ends: Int64s, offsets: Int64s, out: Bytes) -> None:
    for i in range(starts.size):
        at = offsets[i]
        for k in range(starts[i], ends[i]):
            out[at] = buffer[k]
            at += 1


@kernel
def _well_formed(buffer: Bytes, starts: Int64s, ends: Int64s, widths: Int64s, good: Flags) -> None:
    for i in range(starts.size):
        at, end = starts[i], ends[i]
        fits = True
        for part in range(widths.size):
            length = end - at
            if widths.size > 1:
                if length < 4:
                    fits = False
                    break
                length = np.int64(0)
                for k in range(4):
                    length = (length << 8) | np.int64(buffer[at + k])
                at += 4
                if length > end - at:
                    fits = False
                    break
            width = widths[part]
            if (width > 0 and length != width) or (width == _UTF8 and not is_utf8(buffer, at, at + length)):
                fits = False
                break
            at += length
        good[i] = fits and at == end


def well_formed(keys: Keys, fields: Sequence[Field]) -> Flags:
    """Which keys are as `keys_of` makes them for values of these columns, none of them null; bytes of any origin.

    >>> keys = Keys(np.frombuffer(b"ab\xff", np.uint8), np.array([0, 2]), np.array([2, 3]), np.empty(0, np.uint64))
    >>> well_formed(keys, [Field("card", pl.String())]).tolist()
    [True, False]
    """
    widths = np.empty(len(fields), np.int64)
    for place, field in enumerate(fields):
        dtype = field.dtype
        text = isinstance(dtype, (pl.String, pl.Categorical, pl.Enum))
        widths[place] = _UTF8 if text else _ANY if dtype == pl.Binary else 16 if isinstance(dtype, pl.Decimal) else 8
    good = np.empty(keys.starts.size, np.bool_)
    _well_formed(frozen(keys.buffer), frozen(keys.starts), frozen(keys.ends), frozen(widths), good)
    return good


def text_column(name: str, buffer: Bytes, starts: Int64s, ends: Int64s, *, binary: bool = False) -> pl.Series:
    """A String (or Binary) column of these ranges, null where the start is -1; the bytes are copied."""
    lengths = np.where(starts < 0, 0, ends - starts)
    offsets = np.zeros(starts.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    data = np.empty(int(offsets[-1]), np.uint8)
    _gather(frozen(buffer), frozen(np.maximum(starts, 0)), frozen(np.maximum(ends, 0)), frozen(offsets), data)
    valid = np.packbits(starts >= 0, bitorder="little")
    kind = _arrow.large_binary() if binary else _arrow.large_string()
    parts = [_arrow.py_buffer(part) for part in (valid, offsets, data)]
    column = pl.from_arrow(_arrow.Array.from_buffers(kind, starts.size, parts))
    assert isinstance(column, pl.Series)  # an array is never a frame
    return column.alias(name)


def key_columns(keys: Keys, fields: Sequence[Field]) -> list[pl.Series]:
    """The key's columns, one value per key.

    >>> from streamproc.keys import keys_of
    >>> frame = pl.DataFrame({"card": ["ab", None], "shop": [1, -2]})
    >>> fields = [Field("card", pl.String(), True), Field("shop", pl.Int64())]
    >>> pl.DataFrame(key_columns(keys_of(frame, ["card", "shop"]), fields)).equals(frame)
    True
    """
    n = len(keys)
    buffer = frozen(keys.buffer)
    columns = []
    at = keys.starts.copy()
    for field in fields:
        starts, ends = np.empty(n, np.int64), np.empty(n, np.int64)
        if len(fields) == 1:
            _whole(buffer, frozen(keys.starts), frozen(keys.ends), field.dtype == pl.Binary, starts, ends)
        else:
            _parts(buffer, at, starts, ends)
        columns.append(_column(field, buffer, starts, ends))
    return columns


def _column(field: Field, buffer: Bytes, starts: Int64s, ends: Int64s) -> pl.Series:
    dtype = field.dtype
    if isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)):
        return text_column(field.name, buffer, starts, ends).cast(dtype)
    if dtype == pl.Binary:
        return text_column(field.name, buffer, starts, ends, binary=True)
    per = 2 if isinstance(dtype, pl.Decimal) else 1
    words, valid = np.empty(starts.size * per, np.int64), np.empty(starts.size, np.uint8)
    _words(buffer, starts, ends, words, per, valid)
    column: pl.Series
    if isinstance(dtype, pl.Decimal):
        pairs = words.reshape(-1, 2)
        column = decimal_from_wide(field.name, pairs[:, 1], pairs[:, 0], dtype.scale).cast(dtype)
    elif dtype == pl.UInt64:
        column = pl.Series(field.name, words.view(np.uint64))
    elif isinstance(dtype, (pl.Datetime, pl.Duration)):
        exact = pl.Datetime("us", dtype.time_zone) if isinstance(dtype, pl.Datetime) else pl.Duration("us")
        column = pl.Series(field.name, words).cast(exact).cast(dtype)
    else:
        column = pl.Series(field.name, words)
        column = column.cast(pl.Int32).cast(dtype) if dtype == pl.Date else column.cast(dtype)
    if valid.all():
        return column
    return pl.select(
        pl.when(pl.Series(valid).cast(pl.Boolean)).then(column).otherwise(None).alias(field.name)
    ).to_series()
