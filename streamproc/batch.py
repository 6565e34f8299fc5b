"""A micro-batch: columns of rows that know where they come from, when they happened, and where they stand.

The user's columns are one Polars frame. What the engine knows of each row is one row of an int64 matrix, `meta`, so
that
taking rows is one gather. Nothing here is ever changed after construction.

**Position.** Rows of a batch stand in the order in which a row-at-a-time engine would have produced them. That order
is written on the row as (ROW, DUE, RANK), compared in this order. An input row number i of a step has ROW = 2i + 1.
What
time released *before* that row went has ROW = 2i, DUE = the event time at which it was due and RANK = the releasing
operator. A row derived from another keeps its position. So operators that run a whole batch at once, one after the
other, still agree on one order, and a merge of two branches by position does not see how the stream was cut.

**Coordinate.** C0..C3 name where a row comes from, for ties and ids: of a source row (source rank << 32 | partition,
offset, ordinal, 0); of a window result (operator rank << 32, hash of the key, window start, revision); of a join pair
(operator rank << 32, hash of the left coordinate, hash of the right one, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.hashing import content_id, frozen, row_hashes
from streamproc.kernels import kernel
from streamproc.ports import Bytes, Int64s

EVENT_TIME: Final = 0
"""µs since 1970 UTC."""
WATERMARK: Final = 1
"""The watermark that held when the row came, after it was advanced for this row; a released row carries its own due
time."""
ROW: Final = 2
DUE: Final = 3
RANK: Final = 4
ACCOUNT: Final = 5
"""The source row whose fate this row decides, as numbered by the task; -1 for rows that the engine made (window
results)."""
LATE: Final = 6
"""1 if the source row came later than its source's lateness allows: fixed at the source, travels with the row."""
OUTSIDE: Final = -1
"""In LATE: the row is feedback, outside the watermark; only a step whose state is gone may call it late."""
C0: Final = 7
C1: Final = 8
C2: Final = 9
C3: Final = 10
WIDTH: Final = 11

Meta = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Keys:
    """The key of each row as bytes: bounds into a buffer, and a 64-bit hash of the bytes.

    Two keys are equal if their bytes are; the hash only finds them.  Build with `streamproc.keys.keys_of`.
    """

    buffer: Bytes
    starts: Int64s
    ends: Int64s
    hashes: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return self.starts.size

    def take(self, index: Int64s) -> Keys:
        """The keys of these rows, sharing the buffer."""
        return Keys(self.buffer, self.starts[index], self.ends[index], self.hashes[index])

    def get(self, row: int) -> bytes:
        """One key as bytes: for messages and tests."""
        return self.buffer[int(self.starts[row]) : int(self.ends[row])].tobytes()


@dataclass(frozen=True, slots=True)
class Raw:
    """The record that each row came in, as long as no step has changed it: bounds of value and key into a buffer.

    The value's bounds include its Confluent header; a key start of -1 is a null key.
    """

    buffer: Bytes
    starts: Int64s
    ends: Int64s
    key_starts: Int64s
    key_ends: Int64s

    def take(self, index: Int64s) -> Raw:
        """The records of these rows, sharing the buffer."""
        return Raw(self.buffer, self.starts[index], self.ends[index], self.key_starts[index], self.key_ends[index])


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows in position order.

    frame  the user's columns, n rows
    meta   int64[n, WIDTH], C-contiguous, see the constants of this module
    keys   n keys, or None below no `key_by`
    raw    n payloads while the rows are as they came, else None
    """

    frame: pl.DataFrame
    meta: Meta
    keys: Keys | None = None
    raw: Raw | None = None

    def __len__(self) -> int:
        return int(self.meta.shape[0])

    @property
    def event_time(self) -> Int64s:
        """Event time of each row, µs (a strided view)."""
        return self.meta[:, EVENT_TIME]

    def take(self, index: Int64s) -> Batch:
        """The rows at these indices; the caller keeps them in position order."""
        frame = self.frame
        if frame.width:
            # A gather hands its work to another thread: for no row at all that would be most of a small step.
            frame = frame[index] if index.size else frame.clear()
        return Batch(
            frame,
            self.meta[index],
            None if self.keys is None else self.keys.take(index),
            None if self.raw is None else self.raw.take(index),
        )

    def filter(self, mask: npt.NDArray[np.bool_]) -> Batch:
        """The rows where the mask holds; the batch itself if that is all of them."""
        if mask.all():
            return self
        return self.take(np.flatnonzero(mask))

    def with_frame(self, frame: pl.DataFrame) -> Batch:
        """The same rows with other columns, so their payloads no longer speak for them."""
        return replace(self, frame=frame, raw=None)

    def with_keys(self, keys: Keys | None) -> Batch:
        """The same rows under another key."""
        return replace(self, keys=keys)


def empty_batch(schema: pl.Schema) -> Batch:
    """A batch of these columns without rows."""
    return Batch(pl.DataFrame(schema=schema), np.empty((0, WIDTH), np.int64))


def concat_keys(parts: Sequence[Keys]) -> Keys:
    """Keys one after the other; equal buffers are not copied."""
    if len({id(part.buffer) for part in parts}) == 1:
        buffer, shifts = parts[0].buffer, [0] * len(parts)
    else:
        buffer = np.concatenate([part.buffer for part in parts])
        shifts = [0, *np.cumsum([part.buffer.size for part in parts])[:-1].tolist()]
    return Keys(
        buffer,
        np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.ends + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.hashes for part in parts]),
    )


def _concat_raw(parts: Sequence[Raw]) -> Raw:
    if len({id(part.buffer) for part in parts}) == 1:
        buffer, shifts = parts[0].buffer, [0] * len(parts)
    else:
        buffer = np.concatenate([part.buffer for part in parts])
        shifts = [0, *np.cumsum([part.buffer.size for part in parts])[:-1].tolist()]
    return Raw(
        buffer,
        np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.ends + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate(
            [
                np.where(part.key_starts < 0, -1, part.key_starts + shift)
                for part, shift in zip(parts, shifts, strict=True)
            ]
        ),
        np.concatenate(
            [
                np.where(part.key_starts < 0, -1, part.key_ends + shift)
                for part, shift in zip(parts, shifts, strict=True)
            ]
        ),
    )


def concat(parts: Sequence[Batch]) -> Batch:
    """Batches of the same columns one after the other, in the order given (which must be position order)."""
    if len(parts) == 1:
        return parts[0]
    filled = [part for part in parts if len(part)] or [parts[0]]
    if len(filled) == 1:
        return filled[0]
    keys = [part.keys for part in filled]
    raws = [part.raw for part in filled]
    return Batch(
        pl.concat([part.frame for part in filled], rechunk=True),
        np.concatenate([part.meta for part in filled]),
        concat_keys([k for k in keys if k is not None]) if all(k is not None for k in keys) else None,
        _concat_raw([r for r in raws if r is not None]) if all(r is not None for r in raws) else None,
    )


def merge(ports: Sequence[Batch]) -> Batch:
    """Batches of the same columns merged by position, then by port: how several branches become one stream.

    Cost O(n log n) in the number of rows, nothing where at most one port has rows.
    """
    filled = [port for port in ports if len(port)] or [ports[0]]
    if len(filled) == 1:
        return filled[0]
    joined = concat(filled)
    return joined.take(position_order(joined.meta))


def position_order(meta: Meta) -> Int64s:
    """The stable order of rows by position (ROW, DUE, RANK)."""
    order: Int64s = np.lexsort((meta[:, RANK], meta[:, DUE], meta[:, ROW])).astype(np.int64, copy=False)
    return order


def row_ids(meta: Meta, maker: str) -> Bytes:
    """Ids of rows, uint8[n, 16]: hashes of who made them and of their coordinates, so the same in every run."""
    n, own = meta.shape[0], bytes.fromhex(content_id(maker.encode()))[:16]
    told = np.empty((n, len(own) + 8 * (C3 - C0 + 1)), np.uint8)
    told[:, : len(own)] = np.frombuffer(own, np.uint8)
    told[:, len(own) :] = np.ascontiguousarray(meta[:, C0 : C3 + 1]).view(np.uint8).reshape(n, 8 * (C3 - C0 + 1))
    starts = told.shape[1] * np.arange(n, dtype=np.int64)
    return row_hashes(frozen(told.reshape(-1)), starts, starts + told.shape[1]).view(np.uint8).reshape(n, 16)


@kernel
def first_reaching(time: Int64s, moment: int) -> int:
    """The first input row of a step at which the stage's time is >= `moment`; the number of rows if none is.

    time  int64[m], never decreasing.  Cost O(log m).

    >>> first_reaching(np.array([5, 5, 9]), 6)
    2
    """
    low, high = 0, time.size
    while low < high:
        middle = (low + high) >> 1
        if time[middle] < moment:
            low = middle + 1
        else:
            high = middle
    return int(low)
