"""Keys of rows as bytes, built for a whole frame at once.

One column: text and categories as UTF-8, binary as it is, integers, booleans, dates and times as 8 bytes big-endian
(two's complement; times in microseconds, time of day in nanoseconds), decimals as 16 bytes of the unscaled number.
Several columns: each part behind its length in 4 bytes big-endian.  No column: one empty key for all rows.

Null is a key of its own.  As a part its length is FFFFFFFF.  Alone it is the single byte FF, which is neither UTF-8 nor
8 bytes long; a binary key that consists of nothing but FF bytes gets one more, so that it cannot be taken for null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from streamproc.batch import Keys
from streamproc.contracts.model import Schema
from streamproc.errors import TypeMismatch
from streamproc.hashing import frozen, hash_bytes
from streamproc.kernels import kernel
from streamproc.ports import Bytes, Int64s

NULL_KEY: Final = b"\xff"
"""The bytes of a null key of one column."""
_arrow: Any = pa
_TEXTS: Final = (pl.String, pl.Categorical, pl.Enum)


def key_kinds(schema: Schema, columns: Sequence[str]) -> tuple[str, ...]:
    """How each key column becomes bytes, for plan time: two streams share keys if these are equal.

    "text", "bytes", "integer", "boolean", "date", "moment", "span", "time of day" or "decimal(<scale>)".
    Raises UnknownColumn, and TypeMismatch for floats (NaN is not equal to itself) and for what has no key encoding.

    >>> from streamproc.contracts.model import Field
    >>> key_kinds(Schema((Field("card_id", pl.String()),)), ["card_id"])
    ('text',)
    """
    return tuple(_kind(name, schema[name].dtype) for name in columns)


def _kind(name: str, dtype: pl.DataType) -> str:
    if isinstance(dtype, _TEXTS):
        return "text"
    if isinstance(dtype, pl.Binary):
        return "bytes"
    if dtype.is_integer() and not isinstance(dtype, (pl.Int128, pl.UInt128)):
        return "integer"
    if isinstance(dtype, pl.Decimal):
        return f"decimal({dtype.scale})"
    if isinstance(dtype, (pl.Datetime, pl.Duration)) and dtype.time_unit != "ns":
        return "moment" if isinstance(dtype, pl.Datetime) else "span"
    for plain, kind in ((pl.Boolean, "boolean"), (pl.Date, "date"), (pl.Time, "time of day")):
        if isinstance(dtype, plain):
            return kind
    if dtype.is_float():
        hint = "round it to an integer or a decimal, or key by another column: NaN is not equal to itself"
    else:
        hint = "key by text, an integer, a date or moment in microseconds, a decimal, or several columns of these"
    raise TypeMismatch(f"column '{name}' is {dtype} and cannot be a key", hint=hint)


def keys_of(frame: pl.DataFrame, columns: Sequence[str]) -> Keys:
    """The key of each row of a frame over these columns, in their order (see the module for the bytes).

    Text shares Polars' own buffer where that is one piece.  Cost O(rows + bytes).  Raises TypeMismatch as `key_kinds`.

    >>> keys = keys_of(pl.DataFrame({"card": ["ab", None], "shop": [1, 2]}), ["card"])
    >>> keys.get(0), keys.get(1)
    (b'ab', b'\\xff')
    """
    if len(columns) == 1:
        buffer, starts, ends, nulls = _part(frame[columns[0]])
        if frame.schema[columns[0]] == pl.Binary:
            buffer, starts, ends = _lengthen(buffer, starts, ends)
        if nulls is not None:
            buffer, starts, ends = _mark_null(buffer, starts, ends, nulls)
    else:
        buffer, starts, ends = _composite(frame, columns)
    return Keys(buffer, starts, ends, hash_bytes(buffer, starts, ends))


Nulls = npt.NDArray[np.bool_]
Part = tuple[Bytes, Int64s, Int64s, "Nulls | None"]


def _part(column: pl.Series) -> Part:
    """Bytes of one column without a mark for null: buffer, bounds, and where it is null (None: nowhere)."""
    kind = _kind(column.name, column.dtype)
    nulls = column.is_null().to_numpy() if column.null_count() else None
    if kind in ("text", "bytes"):
        text = column.cast(pl.String) if isinstance(column.dtype, (pl.Categorical, pl.Enum)) else column
        array: Any = text.rechunk().to_arrow()
        array = array.cast(_arrow.large_string() if kind == "text" else _arrow.large_binary())
        _, offsets, data = array.buffers()
        bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        buffer = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
        return buffer, bounds[:-1], bounds[1:], nulls
    if kind.startswith("decimal"):
        decimal: Any = column.cast(pl.Decimal(38, int(kind[8:-1]))).rechunk().to_arrow()
        words = np.frombuffer(decimal.buffers()[1], np.uint8).reshape(-1, 16)
        words = words[decimal.offset : decimal.offset + len(decimal)]
        buffer, width = np.ascontiguousarray(words[:, ::-1]).reshape(-1), 16
    else:
        if kind in ("moment", "span") and column.dtype.time_unit != "us":  # type: ignore[attr-defined]  # both have one
            column = column.dt.cast_time_unit("us")
        numbers = column.to_physical()
        numbers = numbers if numbers.dtype == pl.UInt64 else numbers.cast(pl.Int64)
        plain = (numbers if nulls is None else numbers.fill_null(0)).to_numpy()
        buffer, width = plain.astype(plain.dtype.newbyteorder(">")).view(np.uint8), 8
    starts = np.arange(len(column), dtype=np.int64) * width
    return buffer, starts, starts + width, nulls


@kernel
def _only_ff(buffer: Bytes, starts: Int64s, ends: Int64s) -> Nulls:
    out = np.zeros(starts.size, np.bool_)
    for i in range(starts.size):
        at = starts[i]
        while at < ends[i] and buffer[at] == 0xFF:
            at += 1
        out[i] = at == ends[i] and at > starts[i]
    return out


def _mark_null(buffer: Bytes, starts: Int64s, ends: Int64s, nulls: Nulls) -> tuple[Bytes, Int64s, Int64s]:
    """The same keys with the null ones pointing at one FF byte behind the buffer."""
    starts, ends = starts.copy(), ends.copy()
    starts[nulls], ends[nulls] = buffer.size, buffer.size + 1
    return np.append(buffer, np.uint8(0xFF)), starts, ends


def _lengthen(buffer: Bytes, starts: Int64s, ends: Int64s) -> tuple[Bytes, Int64s, Int64s]:
    """The same keys, those of nothing but FF bytes one byte longer."""
    rows = np.flatnonzero(_only_ff(frozen(buffer), frozen(starts), frozen(ends)))
    if not rows.size:
        return buffer, starts, ends
    lengths = ends[rows] - starts[rows] + 1
    starts, ends = starts.copy(), ends.copy()
    starts[rows], ends[rows] = buffer.size, buffer.size + lengths
    return np.concatenate([buffer, np.full(int(lengths.max()), 0xFF, np.uint8)]), starts, ends


def _composite(frame: pl.DataFrame, columns: Sequence[str]) -> tuple[Bytes, Int64s, Int64s]:
    parts = [_part(frame[name]) for name in columns]
    lengths = np.zeros(frame.height, np.int64)
    for _, starts, ends, nulls in parts:
        size = ends - starts
        lengths += 4 + (size if nulls is None else np.where(nulls, 0, size))
    bounds = np.zeros(frame.height + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    out = np.empty(int(bounds[-1]), np.uint8)
    cursor = bounds[:-1].copy()
    for buffer, starts, ends, nulls in parts:
        none = np.zeros(frame.height, np.bool_) if nulls is None else nulls
        _put_part(out, cursor, frozen(buffer), frozen(starts), frozen(ends), frozen(none))
    return out, bounds[:-1], bounds[1:]


@kernel
def _put_part(out: Bytes, cursor: Int64s, buffer: Bytes, starts: Int64s, ends: Int64s, nulls: Nulls) -> None:
    for i in range(cursor.size):
        at = cursor[i]
        length = ends[i] - starts[i]
        prefix = np.uint32(0xFFFFFFFF) if nulls[i] else np.uint32(length)
        for shift in range(4):
            out[at + shift] = np.uint8((prefix >> np.uint32(24 - 8 * shift)) & np.uint32(0xFF))
        at += 4
        if not nulls[i]:
            for k in range(length):
                out[at + k] = buffer[starts[i] + k]
            at += length
        cursor[i] = at
