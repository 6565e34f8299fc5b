"""The stored form of a block: columns of small integers, then all values, all keys, all headers, compressed with zstd.

    u8   layout version (1)
    u8   flags: 1 = records have timestamps of their own, 2 = offsets have gaps
    u16  number of header columns
    u32  number of records
    ints timestamps (first, then differences)      if flag 1; else all have the append time of the block
    ints offsets (differences, from the block's)   if flag 2; else they are dense
    ints value codes: length + 1, or 0 for null
    ints key codes
    per header column: u16 length of the name, the name, ints codes
    values, keys, then header column by header column, each without a gap

`ints` is a u8 width (0, 1, 2, 4, 8), an i64 least value, and `width` bytes for each value above the least.
All integers are little-endian.  A column whose values are all equal takes nine bytes.

zstd at level -1 was chosen by measuring on 83-byte Avro records (one core): it compresses 1.5 times as fast as level 1
for 2 % more bytes; lz4 is as fast, but 28 % larger, and those bytes go through SQLite twice.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import zstandard

from streamproc.errors import LogError
from streamproc.ports import Block, Bytes, HeaderColumn, Int64s, TopicPartition

BLOCK_RECORDS = 65_536
"""A stored block has at most this many records."""
BLOCK_BYTES = 1 << 20
"""A stored block has at most this many bytes of values, keys and headers, or one record."""

_LAYOUT = 1
_OWN_TIMESTAMPS, _SPARSE = 1, 2
_HEAD = struct.Struct("<BBHI")
_INTS = struct.Struct("<Bq")
_NAME = struct.Struct("<H")
_NONE = np.empty(0, np.int64)


class _Zstd(threading.local):
    """Compressor and decompressor of a thread: two threads in one at a time crash the process."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=-1, write_checksum=False)
        self.decompressor = zstandard.ZstdDecompressor()


_ZSTD = _Zstd()


@dataclass(frozen=True, slots=True)
class Cells:
    """One column of byte strings: a code per record (length + 1, 0 = null) and the bytes without gaps."""

    codes: Int64s
    data: Bytes

    @property
    def lengths(self) -> Int64s:
        """Bytes of each record's cell, 0 for null."""
        return np.maximum(self.codes - 1, 0)


def cells_of(buffer: Bytes, starts: Int64s, ends: Int64s) -> Cells:
    """The column between the bounds, viewing the buffer where the cells already lie one after another.

    Raises LogError if bounds lie outside the buffer.
    """
    n = starts.size
    null = starts < 0
    some_null = bool(null.any())
    if some_null:
        if null.all():
            return Cells(np.zeros(n, np.int64), buffer[:0])
        at, to = starts[~null], ends[~null]
    else:
        at, to = starts, ends
    if n == 0:
        return Cells(_NONE, buffer[:0])
    lengths = to - at
    if ends.size != n or int(lengths.min()) < 0 or int(to.max()) > buffer.size:
        raise LogError(
            f"a block's bounds do not fit its buffer of {buffer.size} bytes", hint="give starts <= ends <= len(buffer)"
        )
    if some_null:
        codes = np.zeros(n, np.int64)
        codes[~null] = lengths + 1
    else:
        codes = lengths + 1
    if np.array_equal(at[1:], to[:-1]):
        return Cells(codes, buffer[int(at[0]) : int(to[-1])])
    from connectors.embedded.gather import gather  # only scattered records need the kernel, which is slow to import

    return Cells(codes, gather(buffer, at, to, int(lengths.sum())))


def _bounds(codes: Int64s, at: int) -> tuple[Int64s, Int64s, int]:
    """Starts and ends of cells that lie one after another from `at` on, and where they end."""
    lengths = np.maximum(codes - 1, 0)
    ends = np.cumsum(lengths)
    ends += at
    stop = int(ends[-1]) if ends.size else at
    starts = ends - lengths
    null = codes == 0
    if null.any():
        starts[null] = -1
        ends[null] = -1
    return starts, ends, stop


def _block(place: TopicPartition, offsets: Int64s, timestamps: Int64s, *, buffer: Bytes, codes: Sequence[Int64s],
           names: Sequence[str]) -> Block:
    """The block whose columns (values, keys, headers) lie one after another in the buffer."""
    at, bounds = 0, []
    for column in codes:
        starts, ends, at = _bounds(column, at)
        bounds.append((starts, ends))
    headers = tuple(HeaderColumn(name, *pair) for name, pair in zip(names, bounds[2:], strict=True))
    return Block(*place, offsets, timestamps, buffer, *bounds[0], *bounds[1], headers)


def columns_of(block: Block) -> list[Cells]:
    """Values, keys and each header of a block."""
    columns = [
        cells_of(block.buffer, block.value_starts, block.value_ends),
        cells_of(block.buffer, block.key_starts, block.key_ends),
    ]
    columns += [cells_of(block.buffer, header.starts, header.ends) for header in block.headers]
    if any(column.codes.size != len(block) for column in columns):
        raise LogError("a block's columns differ in length", hint="give each record a value, a key and header bounds")
    return columns


def record_bytes(block: Block) -> Int64s:
    """Bytes of value, key and headers of each record."""
    size = (block.value_ends - block.value_starts) + (block.key_ends - block.key_starts)
    for header in block.headers:
        size += header.ends - header.starts
    return size


def joined(blocks: Sequence[Block]) -> Block:
    """One block of all records, with a buffer of its own; header columns are united by name and rank.

    Offsets and timestamps are joined where every block has them.
    """
    names: list[str] = []
    for block in blocks:
        named = [header.name for header in block.headers]
        for name in named:
            names += [name] * (named.count(name) - names.count(name))
    columns = [columns_of(block) for block in blocks]
    lined_up = [[mine[0] for mine in columns], [mine[1] for mine in columns]]
    for rank, name in enumerate(names):
        nth = names[:rank].count(name)
        line = []
        for block, mine in zip(blocks, columns, strict=True):
            places = [place for place, header in enumerate(block.headers) if header.name == name]
            lacking = Cells(np.zeros(len(block), np.int64), block.buffer[:0])
            line.append(mine[2 + places[nth]] if nth < len(places) else lacking)
        lined_up.append(line)
    buffer = np.concatenate([cells.data for line in lined_up for cells in line])
    codes = [np.concatenate([cells.codes for cells in line]) for line in lined_up]
    return _block(
        TopicPartition(blocks[0].topic, blocks[0].partition),
        np.concatenate([block.offsets for block in blocks]),
        np.concatenate([block.timestamps for block in blocks]),
        buffer=buffer, codes=codes, names=names,
    )  # fmt: skip


def pieces(block: Block) -> Iterator[Block]:
    """The block in parts that are small enough to be stored."""
    n = len(block)
    if n == 0:
        return
    reach = np.cumsum(record_bytes(block))
    if n <= BLOCK_RECORDS and reach[-1] <= BLOCK_BYTES:
        yield block
        return
    start = 0
    while start < n:
        before = int(reach[start - 1]) if start else 0
        stop = int(np.searchsorted(reach, before + BLOCK_BYTES, "right"))
        stop = max(start + 1, min(stop, start + BLOCK_RECORDS, n))
        yield block.slice(start, stop)
        start = stop


def _pack(values: Int64s) -> list[bytes]:
    """The integers above their least one, in as few bytes each as hold them all."""
    if values.size == 0:
        return [_INTS.pack(0, 0)]
    least = int(values.min())
    span = int(values.max()) - least
    if span == 0:
        return [_INTS.pack(0, least)]
    width = 1 if span < 1 << 8 else 2 if span < 1 << 16 else 4 if span < 1 << 32 else 8
    # Differences of int64 may pass int64: two's complement wraps here and back again in `_unpack`.
    above = (values.view(np.uint64) - np.uint64(least & (2**64 - 1))).astype(f"<u{width}")
    return [_INTS.pack(width, least), above.tobytes()]


def _unpack(raw: Bytes, at: int, n: int) -> tuple[Int64s, int]:
    """The integers that `_pack` wrote at `at`, and where they end."""
    width, least = _INTS.unpack_from(raw.data, at)
    at += _INTS.size
    if width == 0:
        return np.full(n, least, np.int64), at
    stop = at + width * n
    values = raw[at:stop].view(f"<u{width}").astype(np.uint64)
    values += np.uint64(least & (2**64 - 1))
    return values.view(np.int64), stop


@dataclass(frozen=True, slots=True)
class Encoded:
    """A block as it is stored, before the log gives it offsets.

    oldest, newest  least and greatest timestamp, None where the log stamps it
    """

    count: int
    raw_bytes: int
    payload: bytes
    oldest: int | None
    newest: int | None


def encode(block: Block, *, base: int | None = None) -> Encoded:
    """The stored form of a block; with `base`, its offsets (which have gaps) are kept relative to that one."""
    n = len(block)
    own = block.timestamps.size > 0
    if own and block.timestamps.size != n:
        raise LogError(f"a block of {n} records has {block.timestamps.size} timestamps", hint="give none or one each")
    columns = columns_of(block)
    flags = (_OWN_TIMESTAMPS if own else 0) | (_SPARSE if base is not None else 0)
    parts: list[bytes | memoryview] = [_HEAD.pack(_LAYOUT, flags, len(block.headers), n)]
    if own:
        parts += _pack(np.diff(block.timestamps, prepend=0))
    if base is not None:
        parts += _pack(np.diff(block.offsets, prepend=base))
    parts += _pack(columns[0].codes)
    parts += _pack(columns[1].codes)
    for header, cells in zip(block.headers, columns[2:], strict=True):
        name = header.name.encode()
        if len(name) >= 1 << 16:
            raise LogError(f"the name of a header has {len(name)} bytes", hint="use names below 65,536 bytes")
        parts += [_NAME.pack(len(name)), name, *_pack(cells.codes)]
    parts += [np.ascontiguousarray(cells.data).data for cells in columns if cells.data.size]
    raw = b"".join(parts)
    return Encoded(
        n, len(raw), _ZSTD.compressor.compress(raw),
        int(block.timestamps.min()) if own else None, int(block.timestamps.max()) if own else None,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Columns:
    """A stored block, decompressed: its codes (values, keys, then each header) and the bytes that they tell of."""

    offsets: Int64s
    timestamps: Int64s
    names: tuple[str, ...]
    codes: tuple[Int64s, ...]
    data: Bytes


def decode(payload: bytes, raw_bytes: int, *, base: int, append_time: int) -> Columns:
    """The columns of a stored form whose checksum was found right; `data` views the decompressed bytes."""
    raw = np.frombuffer(_ZSTD.decompressor.decompress(payload, max_output_size=raw_bytes), np.uint8)
    layout, flags, headers, n = _HEAD.unpack_from(raw.data)
    if layout != _LAYOUT:
        raise LogError(f"a stored block has layout {layout}", hint="read it with a newer version of streamproc")
    at = _HEAD.size
    if flags & _OWN_TIMESTAMPS:
        steps, at = _unpack(raw, at, n)
        timestamps = np.cumsum(steps)
    else:
        timestamps = np.full(n, append_time, np.int64)
    if flags & _SPARSE:
        steps, at = _unpack(raw, at, n)
        offsets = np.cumsum(steps) + base
    else:
        offsets = np.arange(base, base + n, dtype=np.int64)
    values, at = _unpack(raw, at, n)
    keys, at = _unpack(raw, at, n)
    codes, names = [values, keys], []
    for _ in range(headers):
        (length,) = _NAME.unpack_from(raw.data, at)
        at += _NAME.size
        names.append(raw[at : at + length].tobytes().decode())
        column, at = _unpack(raw, at + length, n)
        codes.append(column)
    return Columns(offsets, timestamps, tuple(names), tuple(codes), raw[at:])


def block_from(place: TopicPartition, stored: Sequence[Columns]) -> Block:
    """One block of stored ones that have the same header names, without a NumPy call per stored block and column.

    That matters where each holds a record or two.  The bytes stay in the order in which they were stored: values, keys
    and headers of the first, then of the second.
    """
    if len(stored) == 1:
        (only,) = stored
        return _block(place, only.offsets, only.timestamps, buffer=only.data, codes=only.codes, names=only.names)
    counts = np.array([part.offsets.size for part in stored])
    edges = np.concatenate([[0], np.cumsum(counts)])
    sizes = np.array([part.data.size for part in stored])
    base = np.cumsum(sizes) - sizes
    bounds = []
    for rank in range(len(stored[0].codes)):
        codes = np.concatenate([part.codes[rank] for part in stored])
        lengths = np.maximum(codes - 1, 0)
        reach = np.concatenate([[0], np.cumsum(lengths)])
        before = reach[edges]
        starts = reach[:-1] + np.repeat(base - before[:-1], counts)
        ends = starts + lengths
        starts[codes == 0] = ends[codes == 0] = -1
        bounds.append((starts, ends))
        base = base + np.diff(before)  # the next column of each stored block lies behind this one
    return Block(
        *place,
        np.concatenate([part.offsets for part in stored]),
        np.concatenate([part.timestamps for part in stored]),
        np.concatenate([part.data for part in stored]),
        *bounds[0], *bounds[1],
        tuple(HeaderColumn(name, *pair) for name, pair in zip(stored[0].names, bounds[2:], strict=True)),
    )  # fmt: skip
