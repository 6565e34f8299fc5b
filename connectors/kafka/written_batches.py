"""Rows of a block become a record batch as it lies in the log: one kernel writes all records of it.

The format is the one that `record_batches` reads: a head of 61 bytes, big-endian, then records whose numbers are zigzag
varints; a packed batch has its records packed as one. Nothing is made for a record, and each byte is copied once.
Source: Kafka's protocol guide, "Message format"; KIP-98.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from connectors.kafka.kernels import copy_bytes
from connectors.kafka.packings import NUMBERS, folded
from connectors.kafka.record_batches import HEAD, crc32c
from streamproc.hashing import frozen
from streamproc.kernels import inlined, kernel
from streamproc.ports import Block, Bytes, Int64s

_HEAD = struct.Struct(">qiibIhiqqqhii")
_FROM_ATTRIBUTES: Final = 21
_AT_CRC: Final = 17
_BEFORE_LENGTH: Final = 12
_TRANSACTIONAL: Final = 0x10
_MOST_BEHIND: Final = 64
"""What a record takes at most besides its bytes and headers."""
_MOST_HEADER: Final = 10
_NOTHING: Final = np.zeros(1, np.uint8)
_NO_STAMPS: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A block's columns as the kernel takes them.

    stamps         milliseconds, none where the block has none
    names          the headers' names one after another; name_ends where each ends
    header_starts, header_ends  int64[headers, rows]
    size           bytes of all values, keys and headers; largest: of the largest record
    """

    block: Block
    buffer: Bytes
    value_starts: Int64s
    value_ends: Int64s
    key_starts: Int64s
    key_ends: Int64s
    stamps: Int64s
    names: Bytes
    name_ends: Int64s
    header_starts: Int64s
    header_ends: Int64s
    size: int
    largest: int

    def __len__(self) -> int:
        return self.value_starts.size


def rows_of(block: Block) -> Rows:
    """What the kernel needs of a block with at least one row."""
    words = [header.name.encode() for header in block.headers]
    starts, ends = np.empty((2, len(words), len(block)), np.int64)
    for number, header in enumerate(block.headers):
        starts[number], ends[number] = header.starts, header.ends
    # A null has its start and end at one place: -1.
    sizes = (block.value_ends - block.value_starts) + (block.key_ends - block.key_starts)
    if words:
        sizes = sizes + (ends - starts).sum(axis=0) + sum(map(len, words)) + _MOST_HEADER * len(words)
    return Rows(
        block, block.buffer if block.buffer.size else _NOTHING,
        frozen(block.value_starts), frozen(block.value_ends), frozen(block.key_starts), frozen(block.key_ends),
        frozen(block.timestamps // 1_000) if block.timestamps.size else frozen(_NO_STAMPS),
        np.frombuffer(b"".join(words) or b"\0", np.uint8), np.cumsum([len(word) for word in words], dtype=np.int64),
        starts, ends, int(sizes.sum()), int(sizes.max()),
    )  # fmt: skip


@inlined
def _length(number: int) -> int:
    """Bytes of a zigzag varint."""
    left = (np.uint64(number) << np.uint64(1)) ^ np.uint64(np.int64(number) >> np.int64(63))
    size = 1
    while left > np.uint64(127):
        left >>= np.uint64(7)
        size += 1
    return size


@inlined
def _put(out: Bytes, at: int, number: int) -> int:
    """Writes a zigzag varint; gives where it ends."""
    left = (np.uint64(number) << np.uint64(1)) ^ np.uint64(np.int64(number) >> np.int64(63))
    while left > np.uint64(127):
        out[at] = np.uint8((left & np.uint64(127)) | np.uint64(128))
        left >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(left)
    return at + 1


@kernel
def write_records(
    buffer_at: int, value_starts: Int64s, value_ends: Int64s, key_starts: Int64s, key_ends: Int64s, stamps: Int64s,
    names_at: int, name_ends: Int64s, header_starts: Int64s, header_ends: Int64s, begin: int, end: int,
    out: Bytes, out_at: int, first: int, told: Int64s,
) -> None:  # fmt: skip
    """Writes the records of rows begin..end, as many as there is room for.

    buffer_at, names_at, out_at  addresses of the block's buffer, the names and `out`
    first  where in `out` they begin
    told   int64[3], out: the row behind the last one, where it ends in `out`, and the largest timestamp
    """
    at, row = first, begin
    base = int(stamps[begin]) if stamps.size else 0
    most = base
    while row < end:
        behind_time = int(stamps[row]) - base if stamps.size else 0
        key_size = int(key_ends[row] - key_starts[row]) if key_starts[row] >= 0 else -1
        value_size = int(value_ends[row] - value_starts[row]) if value_starts[row] >= 0 else -1
        count, headers = 0, 0
        for number in range(name_ends.size):
            if header_starts[number, row] >= 0:
                count += 1
                name = int(name_ends[number]) - (int(name_ends[number - 1]) if number else 0)
                value = int(header_ends[number, row] - header_starts[number, row])
                headers += _length(name) + name + _length(value) + value
        size = 1 + _length(behind_time) + _length(row - begin) + _length(key_size) + max(key_size, 0)
        size += _length(value_size) + max(value_size, 0) + _length(count) + headers
        if at + _length(size) + size > out.size:
            break
        at = _put(out, at, size)
        out[at] = 0
        at = _put(out, at + 1, behind_time)
        at = _put(out, at, row - begin)
        at = _put(out, at, key_size)
        if key_size > 0:
            copy_bytes(out_at + at, buffer_at + key_starts[row], key_size)
            at += key_size
        at = _put(out, at, value_size)
        if value_size > 0:
            copy_bytes(out_at + at, buffer_at + value_starts[row], value_size)
            at += value_size
        at = _put(out, at, count)
        if count:
            for number in range(name_ends.size):
                if header_starts[number, row] >= 0:
                    start = int(name_ends[number - 1]) if number else 0
                    name = int(name_ends[number]) - start
                    at = _put(out, at, name)
                    copy_bytes(out_at + at, names_at + start, name)
                    value = int(header_ends[number, row] - header_starts[number, row])
                    at = _put(out, at + name, value)
                    copy_bytes(out_at + at, buffer_at + header_starts[number, row], value)
                    at += value
        if stamps.size:
            most = max(most, int(stamps[row]))
        row += 1
    told[0], told[1], told[2] = row, at, most


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes: what stands in the head of each of his batches of one transaction."""

    producer: int
    epoch: int
    packing: str = "none"


def written(
    rows: Rows, begin: int, end: int, *, writer: Writer, sequence: int, stamp: int, most_bytes: int
) -> tuple[memoryview, int]:
    """A batch of rows begin..end, of as many of them as fit, and the row behind them.

    sequence    of the first row, among all that the writer writes to the partition
    stamp       milliseconds, of rows that have no time of their own
    most_bytes  of the batch before it is packed; one row that is larger makes a batch of its own
    """
    room = min(most_bytes, HEAD + rows.size + (_MOST_BEHIND * (end - begin)))
    out, told = np.empty(room, np.uint8), np.zeros(3, np.int64)
    _write(rows, begin, end, out, told)
    if told[0] == begin:
        out = np.empty(HEAD + rows.largest + _MOST_BEHIND, np.uint8)
        _write(rows, begin, begin + 1, out, told)
    stop, size, most = told.tolist()
    first_time, most_time = (int(rows.stamps[begin]), most) if rows.stamps.size else (stamp, stamp)
    packing = 0
    if writer.packing != "none":
        records = folded(out.data[HEAD:size], writer.packing)
        if len(records) < size - HEAD:
            packing = NUMBERS[writer.packing]
            size = HEAD + len(records)
            out[HEAD:size] = np.frombuffer(records, np.uint8)
    _HEAD.pack_into(
        out.data, 0, 0, size - _BEFORE_LENGTH, -1, 2, 0, _TRANSACTIONAL | packing, stop - begin - 1, first_time,
        most_time, writer.producer, writer.epoch, sequence & 0x7FFFFFFF, stop - begin,
    )  # fmt: skip
    struct.pack_into(">I", out.data, _AT_CRC, crc32c(out, _FROM_ATTRIBUTES, size))
    return out.data[:size], stop


def _write(rows: Rows, begin: int, end: int, out: Bytes, told: Int64s) -> None:
    write_records(
        rows.buffer.ctypes.data, rows.value_starts, rows.value_ends, rows.key_starts, rows.key_ends, rows.stamps,
        rows.names.ctypes.data, rows.name_ends, rows.header_starts, rows.header_ends, begin, end,
        out, out.ctypes.data, HEAD, told,
    )  # fmt: skip


def prepare() -> None:
    """Compiles or loads the kernels, so that none is compiled while records wait."""
    none, headers, out = frozen(np.empty(0, np.int64)), np.empty((0, 0), np.int64), np.empty(0, np.uint8)
    write_records(0, none, none, none, none, none, 0, np.empty(0, np.int64), headers, headers, 0, 0, out, 0, 0,
                  np.zeros(3, np.int64))  # fmt: skip
    crc32c(out, 0, 0)
