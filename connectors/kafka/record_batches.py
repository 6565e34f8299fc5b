"""Numba kernels over record batches as they lie in the log: bytes become columns, and no byte of a record is copied.

The format is Kafka's "record batch, magic 2": a head of 61 bytes, big-endian, then records whose numbers are zigzag
varints. Checksums are CRC-32C over all behind the checksum. Batches of aborted transactions and marks are left out, as
the client must do: the broker names the producers that aborted and the first offset of each such transaction.
Source: Kafka's protocol guide, "Message format" and KIP-98.
"""

from __future__ import annotations

import platform
from typing import Any, Final

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from streamproc.kernels import inlined, kernel
from streamproc.ports import Bytes, Int64s

_ir: Any = vars(cgutils)["ir"]

_LENGTH, _MAGIC, _CRC, _ATTRIBUTES, _LAST = 8, 16, 17, 21, 23
_FIRST_TIME, _MOST_TIME, _PRODUCER, _COUNT = 27, 35, 43, 57
"""Bytes into a batch."""
HEAD: Final = 61
"""Bytes of a batch before its records."""
LEAST_RECORD: Final = 7
"""Bytes of a record with nothing in it: seven numbers."""
_BEFORE_LENGTH: Final = 12
"""Bytes that a batch's own length does not count."""
_MAGIC_2: Final = 2
_PACKED, _APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x7, 0x8, 0x10, 0x20

SOUND, FOREIGN, DAMAGED = 0, 1, 2
"""What is wrong with a batch: nothing; it has another format; its checksum is another."""

OFFSET, STAMP, VALUE_START, VALUE_END, KEY_START, KEY_END, HEADERS = 0, 1, 2, 3, 4, 5, 6
COLUMNS: Final = 7

_FAST: Final = platform.machine().lower() in ("x86_64", "amd64")
_POLYNOMIAL: Final = 0x82F63B78


def _crc_table() -> np.ndarray[Any, np.dtype[np.uint32]]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


_TABLE: Final = _crc_table()


def _type_crc64(_typing: Any, crc: Any, word: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wide = _ir.IntType(64)
        kind = _ir.FunctionType(wide, [wide, wide])
        declare: Any = cgutils.get_or_insert_function
        function = declare(builder.module, kind, "llvm.x86.sse42.crc32.64.64")
        return builder.call(function, arguments)

    return types.uint64(types.uint64, types.uint64), generate


_crc64: Any = intrinsic(_type_crc64)


def _type_word(_typing: Any, buffer: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte, wide = _ir.IntType(8).as_pointer(), _ir.IntType(64).as_pointer()
        where = builder.gep(builder.bitcast(array.data, byte), [arguments[1]])
        return builder.load(builder.bitcast(where, wide), align=1)

    return types.uint64(buffer, types.int64), generate


_word: Any = intrinsic(_type_word)
"""Eight bytes of a buffer, in the machine's own order."""


if _FAST:

    @kernel
    def _words(buffer: Bytes, begin: int, end: int) -> tuple[int, int]:
        """The checksum so far and where it got to, eight bytes at a time by the processor's own instruction."""
        crc, at = np.uint64(0xFFFFFFFF), begin
        while at + 8 <= end:
            crc = _crc64(crc, _word(buffer, np.int64(at)))
            at += 8
        return int(crc), at

else:

    @kernel
    def _words(buffer: Bytes, begin: int, end: int) -> tuple[int, int]:
        """Nothing so far: this processor has no instruction that is known here."""
        return 0xFFFFFFFF, begin


@kernel
def crc32c(buffer: Bytes, begin: int, end: int) -> int:
    """The Castagnoli checksum of a part of a buffer (RFC 3720)."""
    whole, at = _words(buffer, begin, end)
    crc = np.uint32(whole)
    while at < end:
        crc = _TABLE[(crc ^ np.uint32(buffer[at])) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        at += 1
    return int(crc ^ np.uint32(0xFFFFFFFF))


@inlined
def _big(buffer: Bytes, at: int, size: int) -> int:
    """A big-endian number of so many bytes, without sign unless it has eight."""
    number = np.int64(0)
    for byte in range(size):
        number = (number << 8) | np.int64(buffer[at + byte])
    return int(number)


@kernel
def survey(buffer: Bytes, begin: int, end: int, told: Int64s) -> None:
    """Looks at the heads and checksums of the batches in a part of a buffer.

    told  int64[4], out: where the last sound and complete batch ends, how many records lie before that, what is wrong
          with the batch there, and how many before it are packed; a last one that is cut off is none
    """
    at, count, wrong, packed = begin, 0, SOUND, 0
    while at + HEAD <= end:
        stop = at + _BEFORE_LENGTH + _big(buffer, at + _LENGTH, 4)
        if stop > end:
            break
        if buffer[at + _MAGIC] != _MAGIC_2 or stop < at + HEAD:
            wrong = FOREIGN
        elif crc32c(buffer, at + _ATTRIBUTES, stop) != _big(buffer, at + _CRC, 4):
            wrong = DAMAGED
        if wrong != SOUND:
            break
        packed += 1 if _big(buffer, at + _ATTRIBUTES, 2) & _PACKED else 0
        count += _big(buffer, at + _COUNT, 4)
        at = stop
    told[0], told[1], told[2], told[3] = at, count, wrong, packed


@inlined
def _varint(buffer: Bytes, at: int) -> tuple[int, int]:
    """A zigzag varint, and where it ends; the buffer's end ends it too."""
    number, shift = np.uint64(0), np.uint64(0)
    while at < buffer.size:
        byte = np.uint64(buffer[np.uint64(at)])
        at += 1
        number |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            break
        shift += np.uint64(7)
    return int(np.int64(number >> np.uint64(1)) ^ -np.int64(number & np.uint64(1))), at


@kernel
def unpack(
    buffer: Bytes, begin: int, end: int, least: int, producers: Int64s, firsts: Int64s, columns: Int64s, told: Int64s
) -> None:
    """The records of sound batches that are not packed, from offset `least` on, of all but aborted transactions.

    producers, firsts  of each aborted transaction, in order: who wrote it, and its first offset
    columns  int64[COLUMNS, rows], out: offset, timestamp (µs, 0 for none), bounds of value and key in the buffer (-1
             for null), and where the number of headers stands
    told     int64[4], out: rows, the offset behind the last batch, how many rows have headers, and 1 if a record does
             not end where it says
    """
    at, rows, headed, broken = begin, 0, 0, 0
    position = least
    begun = 0
    aborting = np.zeros(producers.size, np.bool_)
    while at < end and broken == 0:
        start, stop = at, at + _BEFORE_LENGTH + _big(buffer, at + _LENGTH, 4)
        at = stop
        first = _big(buffer, start, 8)
        last = first + _big(buffer, start + _LAST, 4)
        attributes = _big(buffer, start + _ATTRIBUTES, 2)
        producer = _big(buffer, start + _PRODUCER, 8)
        position = max(position, last + 1)
        while begun < producers.size and firsts[begun] <= last:
            aborting[begun] = True
            begun += 1
        if attributes & _CONTROL:
            # The mark's key is a version and a kind, 0 for an abort: behind it the producer's records count again.
            _, here = _varint(buffer, start + HEAD)
            here += 1
            _, here = _varint(buffer, here)
            _, here = _varint(buffer, here)
            size, here = _varint(buffer, here)
            if size >= 4 and here <= stop - 4 and _big(buffer, here + 2, 2) == 0:
                for number in range(begun):
                    if producers[number] == producer:
                        aborting[number] = False
            continue
        if last < least:
            continue
        if attributes & _TRANSACTIONAL:
            aborted = False
            for number in range(begun):
                aborted = aborted or (aborting[number] and producers[number] == producer)
            if aborted:
                continue
        first_time, most_time = _big(buffer, start + _FIRST_TIME, 8), _big(buffer, start + _MOST_TIME, 8)
        here = start + HEAD
        for _ in range(_big(buffer, start + _COUNT, 4)):
            size, here = _varint(buffer, here)
            if size < 0 or size > stop - here or rows >= columns.shape[1]:
                broken = 1
                break
            until = here + size
            behind_time, here = _varint(buffer, here + 1)
            behind, here = _varint(buffer, here)
            key_size, key_at = _varint(buffer, here)
            if key_size > until - key_at:
                broken = 1
                break
            here = key_at + max(key_size, 0)
            value_size, value_at = _varint(buffer, here)
            if value_size > until - value_at - 1 or value_at >= until:
                broken = 1
                break
            here = value_at + max(value_size, 0)
            if first + behind >= least:
                columns[OFFSET, rows] = first + behind
                stamp = most_time if attributes & _APPEND_TIME else first_time + behind_time
                columns[STAMP, rows] = max(0, stamp) * 1_000
                columns[VALUE_START, rows] = value_at if value_size >= 0 else -1
                columns[VALUE_END, rows] = here if value_size >= 0 else -1
                columns[KEY_START, rows] = key_at if key_size >= 0 else -1
                columns[KEY_END, rows] = key_at + key_size if key_size >= 0 else -1
                columns[HEADERS, rows] = here
                headed += 1 if buffer[here] != 0 else 0
                rows += 1
            here = until
        if broken == 0 and here != stop:
            broken = 1
    told[0], told[1], told[2], told[3] = rows, position, headed, broken


@kernel
def count_headers(buffer: Bytes, places: Int64s) -> int:
    """How many headers the records have whose headers' numbers stand at these places."""
    count = 0
    for row in range(places.size):
        more = _varint(buffer, places[row])[0]
        if more < 0 or more > buffer.size - count:
            return count  # No record has more headers than there are bytes.
        count += more
    return count


@kernel
def list_headers(
    buffer: Bytes, places: Int64s, rows: Int64s, names: Int64s, name_sizes: Int64s, starts: Int64s, ends: Int64s
) -> int:
    """Row, name and value of each header: the name's place and size, the value's bounds (-1 for null); gives how many.

    It is fewer than there is room for only where the bytes are not what they say.
    """
    count = 0
    for row in range(places.size):
        more, at = _varint(buffer, places[row])
        for _ in range(more):
            size, at = _varint(buffer, at)
            if size < 0 or size >= buffer.size - at or count >= rows.size:
                return count
            rows[count], names[count], name_sizes[count] = row, at, size
            size, at = _varint(buffer, at + size)
            if size > buffer.size - at:
                return count
            starts[count], ends[count] = (at, at + size) if size >= 0 else (-1, -1)
            at += max(size, 0)
            count += 1
    return count


def prepare() -> None:
    """Compiles or loads every kernel, so that none is compiled while records wait."""
    none, nothing = np.empty(0, np.int64), np.empty(0, np.uint8)
    told = np.zeros(4, np.int64)
    crc32c(nothing, 0, 0)
    survey(nothing, 0, 0, told)
    unpack(nothing, 0, 0, 0, none, none, np.empty((COLUMNS, 0), np.int64), told)
    count_headers(nothing, none)
    list_headers(nothing, none, none, none, none, none, none)
