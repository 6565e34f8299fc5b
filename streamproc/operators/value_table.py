"""Values that are not numbers, as codes: texts, bytes and decimals interned as long as an aggregate holds them.

A code is a slot of a key table. What no aggregate refers to any more is released once that may be half of what is held.
Codes are equal where values are, but have no order: comparing goes to the bytes, which for each type are written so
that their order is the order of values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.batch import Keys
from streamproc.hashing import hash_bytes
from streamproc.kernels import kernel
from streamproc.keys import keys_of
from streamproc.operators.key_columns import text_column
from streamproc.operators.values import Flags, decimal_from_wide
from streamproc.ports import Bytes, Int64s
from streamproc.state import KeyTable

_SIGN_BIT: Final = 0x80
_SWEEP_ABOVE: Final = 1024


def has_value_keys(dtype: pl.DataType) -> bool:
    """Whether values of the type can be interned: text, bytes, categories and decimals."""
    return isinstance(dtype, (pl.String, pl.Binary, pl.Categorical, pl.Enum, pl.Decimal))


def value_keys(column: pl.Series) -> Keys:
    """The values of a column as bytes that stand in the order of the values; what stands for null does not matter."""
    if isinstance(column.dtype, pl.Decimal):
        keys = keys_of(column.fill_null(0).to_frame(), [column.name])
        buffer = keys.buffer.copy()
        buffer[::16] ^= _SIGN_BIT  # two's complement sorts negative numbers last, this first
        return Keys(buffer, keys.starts, keys.ends, hash_bytes(buffer, keys.starts, keys.ends))
    if isinstance(column.dtype, pl.Binary):
        filled: pl.Series = column.fill_null(b"")
        array: Any = filled.rechunk().to_arrow()
        bounds = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
        data = array.buffers()[2]
        buffer = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
        return Keys(buffer, bounds[:-1], bounds[1:], hash_bytes(buffer, bounds[:-1], bounds[1:]))
    text = column.cast(pl.String).fill_null("")
    return keys_of(text.to_frame(), [text.name])


def from_value_keys(name: str, keys: Keys, present: Flags, dtype: pl.DataType) -> pl.Series:
    """The column of such bytes, null where `present` is 0: the inverse of `value_keys`.

    >>> column = pl.Series("s", ["b", "a"])
    >>> from_value_keys("s", value_keys(column), np.ones(2, np.uint8), pl.String()).to_list()
    ['b', 'a']
    """
    starts = np.where(present != 0, keys.starts, -1)
    if not isinstance(dtype, pl.Decimal):
        column = text_column(name, keys.buffer, starts, keys.ends, binary=dtype == pl.Binary)
        return column if column.dtype == dtype else column.cast(dtype)
    words = np.zeros((len(keys), 16), np.uint8)
    some = np.flatnonzero(present)
    words[some] = keys.buffer[keys.starts[some][:, None] + np.arange(16)]
    words[some, 0] ^= _SIGN_BIT
    pairs = np.ascontiguousarray(words[:, ::-1]).view(np.int64)
    made = decimal_from_wide(name, pairs[:, 0], pairs[:, 1], dtype.scale).cast(dtype)
    return made if some.size == made.len() else made.set(pl.Series(present == 0), None)


@kernel
def values_ordered(arena: Bytes, records: Int64s, a: int, b: int) -> bool:
    """Whether the bytes of code a stand before those of code b, for kernels (columns of records: see `KeyArrays`)."""
    at, other = records[a, 0], records[b, 0]
    end, other_end = at + (records[a, 1] & 0xFFFFFFFF) - 1, other + (records[b, 1] & 0xFFFFFFFF) - 1
    while at < end and other < other_end:
        if arena[at] != arena[other]:
            return bool(arena[at] < arena[other])
        at += 1
        other += 1
    return bool(at == end and other < other_end)


@dataclass(slots=True)
class ValueTable:
    """Interned values.

    keys    the values' bytes, by code
    held    how many there were after the last sweep
    """

    keys: KeyTable = field(default_factory=KeyTable)
    held: int = 0

    def crowded(self) -> bool:
        """Whether half of the values may be needed by nobody: time to `sweep`, which then costs O(1) a row."""
        return self.keys.live > 2 * self.held + _SWEEP_ABOVE

    def sweep(self, used: Int64s) -> None:
        """Releases all codes but these."""
        needed = np.zeros(self.keys.capacity, np.bool_)
        needed[used] = True
        codes = self.keys.slots()
        self.keys.release(codes[~needed[codes]])
        self.held = self.keys.live
