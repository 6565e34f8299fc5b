"""Records without a value in a table: each deletes its key, and so becomes a row of its own.

The row has the columns of the key, read back from the record's key, its event time, and true in the column that tells
deletes; all else is null. A delete that one of our sinks wrote carries the event time at which it happened in a header.
Any other has only its record's timestamp, which may lie far from the event times around it: it holds from that moment
on, and does not move time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Keys
from streamproc.contracts.model import Field, Schema
from streamproc.operators.key_columns import key_columns, well_formed
from streamproc.ports import Block, HeaderColumn, Int64s

AT: Final = "sp-at"
"""The header of a delete: its event time, µs since 1970 UTC, 8 bytes big-endian."""
_MOMENT: Final = 8
_NO_HASHES: Final = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Deletes:
    """Deletes among the records of a block.

    rows    int64[m]: the records, ascending
    frame   their rows, without the column that tells deletes
    times   int64[m]: event times, µs
    own     bool[m]: whether the record says itself when it happened; else it does not move time
    """

    rows: Int64s
    frame: pl.DataFrame
    times: Int64s
    own: npt.NDArray[np.bool_]


def deletes_of(block: Block, schema: Schema, key: tuple[str, ...], event_time: str) -> Deletes:
    """The records of a block without a value whose key can be read; `schema` are the columns of a row."""
    rows = np.flatnonzero((block.value_starts < 0) & (block.key_starts >= 0))
    fields = [schema[name] for name in key]
    keys = Keys(block.buffer, block.key_starts[rows], block.key_ends[rows], _NO_HASHES)
    good = well_formed(keys, fields)
    rows, keys = rows[good], Keys(block.buffer, keys.starts[good], keys.ends[good], _NO_HASHES)
    columns, readable = _key_values(keys, fields)
    rows = rows[readable]
    times, own = _times(block, rows)
    known = {column.name: column for column in columns}
    known[event_time] = _moments(times, schema[event_time])
    made = [
        known[column.name]
        if column.name in known
        else pl.Series(column.name, [None], column.dtype).new_from_index(0, rows.size)
        for column in schema
    ]
    return Deletes(rows, pl.DataFrame(made), times, own)


def delete_headers(times: Int64s, gone: npt.NDArray[np.bool_], base: int) -> tuple[HeaderColumn, npt.NDArray[np.uint8]]:
    """The header of the rows that delete their key, and its bytes, which come to lie at `base` of the buffer."""
    at = np.where(gone, base + _MOMENT * (np.cumsum(gone) - 1), -1)
    return HeaderColumn(AT, at, np.where(gone, at + _MOMENT, -1)), times[gone].astype(">i8").view(np.uint8)


def _key_values(keys: Keys, fields: list[Field]) -> tuple[list[pl.Series], npt.NDArray[np.bool_]]:
    """The columns of the keys that can be read, and which those are: a number may be too large for its column."""
    n = len(keys)
    try:
        return key_columns(keys, fields), np.ones(n, np.bool_)
    except pl.exceptions.PolarsError:
        pass
    readable = np.zeros(n, np.bool_)
    parts = []
    for row in range(n):
        try:
            one = Keys(keys.buffer, keys.starts[row : row + 1], keys.ends[row : row + 1], _NO_HASHES)
            parts.append(pl.DataFrame(key_columns(one, fields)))
        except pl.exceptions.PolarsError:
            continue
        readable[row] = True
    empty = pl.DataFrame(schema={field.name: field.dtype for field in fields})
    return pl.concat([empty, *parts]).get_columns(), readable


def _times(block: Block, rows: Int64s) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    times, own = block.timestamps[rows].copy(), np.zeros(rows.size, np.bool_)
    for header in block.headers:
        if header.name == AT:
            starts, ends = header.starts[rows], header.ends[rows]
            own = (starts >= 0) & (ends - starts == _MOMENT)
            told = block.buffer[starts[own][:, None] + np.arange(_MOMENT)]
            times[own] = np.ascontiguousarray(told).view(">i8").reshape(-1)
    return times, own


def _moments(times: Int64s, field: Field) -> pl.Series:
    """Event times as the column of a contract has them."""
    moments = pl.Series(field.name, times)
    if field.dtype.is_integer():
        return moments.cast(field.dtype)
    return (
        moments.cast(pl.Datetime("us")).cast(field.dtype) if field.dtype == pl.Date else _stamped(moments, field.dtype)
    )


def _stamped(moments: pl.Series, dtype: pl.DataType) -> pl.Series:
    assert isinstance(dtype, pl.Datetime)  # the plan lets no other type be an event time
    return moments.cast(pl.Datetime("us", dtype.time_zone)).dt.cast_time_unit(dtype.time_unit)
