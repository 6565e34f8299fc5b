"""Blocks on internal topics: rows of one step of one upstream task for one downstream task, columnar.

A record's value is: the magic "SPE1"; int64 rows n; int64 the sender's watermark at the end of the step; uint8, 1 if
the sender is idle and 2 if nothing of it is waited for either; int64[n, 7] event time, watermark, late flag and
coordinate of each row; int64[n] lengths of the bodies; the bodies, Avro without header. All little-endian. A block of
zero rows only carries the watermark.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np

from streamproc.batch import C0, C1, C2, C3, EVENT_TIME, LATE, WATERMARK, Meta
from streamproc.errors import CorruptLog
from streamproc.ports import Block, Bytes, Int64s

MAGIC: Final = b"SPE1"
LARGEST: Final = 512 * 1024
_HEAD: Final = struct.Struct("<4sqqB7x")
CARRIED: Final = (EVENT_TIME, WATERMARK, LATE, C0, C1, C2, C3)


def write_edge(
    meta: Meta, buffer: Bytes, starts: Int64s, ends: Int64s, *, watermark: int, flags: int = 0
) -> Iterator[bytes]:
    """Record values that carry these rows, each at most 512 KB (one larger row travels alone); at least one value.

    Only the last value carries `watermark`; the ones before it carry the watermark of their last row.
    """
    n = meta.shape[0]
    sizes = ends - starts + 8 * (len(CARRIED) + 1)
    at = 0
    while True:
        stop = at + int(np.searchsorted(np.cumsum(sizes[at:]), LARGEST, side="right"))
        stop = min(n, max(stop, at + 1))
        last = stop >= n
        moved = watermark if last else int(meta[stop - 1, WATERMARK])
        part = meta[at:stop, CARRIED]
        lengths = ends[at:stop] - starts[at:stop]
        bodies = buffer[int(starts[at]) : int(ends[stop - 1])] if stop > at else buffer[:0]
        yield b"".join(
            (
                _HEAD.pack(MAGIC, stop - at, moved, flags if last else 0),
                np.ascontiguousarray(part).astype("<i8", copy=False).tobytes(),
                lengths.astype("<i8", copy=False).tobytes(),
                bodies.tobytes(),
            )
        )
        if last:
            return
        at = stop


def read_edge(block: Block) -> tuple[Int64s, Int64s, Int64s, Meta, Int64s, Int64s, Int64s]:
    """All records of a log block at once.

    Returns per record: rows, watermark, flags (int64[r] each); per row: the carried columns (int64[n, 7]), the record
    that
    it came in, and the bounds of its body in the block's buffer (int64[n] each).
    Raises CorruptLog for a record that is no such block.
    """
    rows, marks, flags = (np.empty(len(block), np.int64) for _ in range(3))
    metas: list[Meta] = []
    starts: list[Int64s] = []
    ends: list[Int64s] = []
    for record in range(len(block)):
        begin, end = int(block.value_starts[record]), int(block.value_ends[record])
        value = block.buffer[begin:end]
        if begin < 0 or value.size < _HEAD.size or value[:4].tobytes() != MAGIC:
            raise CorruptLog(
                f"record {block.topic}-{block.partition}@{int(block.offsets[record])} is no block of rows",
                hint="something else wrote to an internal topic; delete the topology's state and replay",
            )
        _, n, mark, flag = _HEAD.unpack(value[: _HEAD.size].tobytes())
        rows[record], marks[record], flags[record] = n, mark, flag
        at = _HEAD.size
        width = 8 * len(CARRIED) * n
        metas.append(
            value[at : at + width].view("<i8").reshape(n, len(CARRIED)) if n else np.empty((0, len(CARRIED)), np.int64)
        )
        lengths = value[at + width : at + width + 8 * n].view("<i8")
        stops = np.cumsum(lengths) + (begin + at + width + 8 * n)
        starts.append(stops - lengths)
        ends.append(stops)
    empty = np.empty(0, np.int64)
    return (
        rows,
        marks,
        flags,
        np.concatenate(metas) if metas else np.empty((0, len(CARRIED)), np.int64),
        np.repeat(np.arange(len(block)), rows),
        np.concatenate([empty, *starts]),
        np.concatenate([empty, *ends]),
    )
