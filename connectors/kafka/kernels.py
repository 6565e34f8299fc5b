"""Numba kernels over librdkafka's message structs: a batch of pointers becomes columns, columns become messages.

`rd_kafka_message_t` is part of the library's public, stable interface; where its parts lie stands below.
Functions of the library come in as integer addresses, because Numba does not cache a kernel that holds a ctypes
function.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.ports import Int64s

_ir: Any = vars(cgutils)["ir"]
_memcpy: Any = cgutils.raw_memcpy
_ERR, _TOPIC, _PARTITION, _PAYLOAD, _SIZE, _KEY, _KEY_SIZE, _OFFSET = 0, 8, 16, 24, 32, 40, 48, 56
"""Bytes into an rd_kafka_message_t: err int32, topic pointer, partition int32, payload pointer and size, key pointer
and size, offset int64, a private pointer."""
AT_OFFSET: Final = _OFFSET
_VU_WORDS: Final = 9
_VU_TOPIC, _VU_PARTITION, _VU_VALUE, _VU_KEY, _VU_FLAGS, _VU_TIME, _VU_HEADER = 2, 3, 4, 5, 7, 8, 9
_COPY_FLAG: Final = 2


def _pointer(builder: Any, address: Any, to: Any) -> Any:
    return builder.inttoptr(address, to.as_pointer())


def _type_load64(_typing: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(builder, arguments[0], _ir.IntType(64)), align=1)

    return types.int64(types.int64), generate


_load64: Any = intrinsic(_type_load64)


def _type_load32(_typing: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(builder, arguments[0], _ir.IntType(32)), align=1)

    return types.int32(types.int64), generate


_load32: Any = intrinsic(_type_load32)


def _type_load8(_typing: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(builder, arguments[0], _ir.IntType(8)))

    return types.uint8(types.int64), generate


_load8: Any = intrinsic(_type_load8)


def _type_copy(_typing: Any, to: Any, source: Any, size: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        to, source, size = arguments
        byte = _ir.IntType(8)
        _memcpy(builder, _pointer(builder, to, byte), _pointer(builder, source, byte), size, 1)
        return _context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


copy_bytes: Any = intrinsic(_type_copy)


def _called(arity: int) -> Any:
    word = _ir.IntType(64)

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        function = _pointer(builder, arguments[0], _ir.FunctionType(word, [word] * arity))
        return builder.call(function, arguments[1:])

    return types.int64(*[types.int64] * (arity + 1)), generate


# C functions by their address; arguments and results are 64 bits wide, callers cut what is narrower.


def _type_call1(_typing: Any, function: Any, a: Any) -> Any:
    return _called(1)


_call1: Any = intrinsic(_type_call1)


def _type_call2(_typing: Any, function: Any, a: Any, b: Any) -> Any:
    return _called(2)


_call2: Any = intrinsic(_type_call2)


def _type_call3(_typing: Any, function: Any, a: Any, b: Any, c: Any) -> Any:
    return _called(3)


_call3: Any = intrinsic(_type_call3)


def _type_call5(_typing: Any, function: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return _called(5)


_call5: Any = intrinsic(_type_call5)


TAKEN_ROWS, TAKEN_BYTES, TAKEN_WRONG, TAKEN_HEADERS = 0, 1, 2, 3
TAKEN: Final = 4
OFFSET, STAMP, VALUE_START, VALUE_END, KEY_START, KEY_END, HEADERS = 0, 1, 2, 3, 4, 5, 6
COLUMNS: Final = 7


@kernel
def take(pointers: Int64s, begin: int, timestamp: int, headers: int, scratch: Int64s, scratch_at: int, least: int,
         buffer_at: int, buffer_size: int, taken: Int64s, columns: Int64s) -> int:
    """Copies messages from number `begin` on, values and keys one after another; gives the first that found no room.

    It stops behind one that is an error: whether what follows is to be believed is not known here.

    timestamp, headers  addresses of the library's functions; scratch  one word at scratch_at for their results
    least     messages below this offset are passed over
    buffer    where bytes go; columns  int64[COLUMNS, rows]: offset, timestamp (µs, 0 for none), bounds in the buffer
              (-1 for null), address of the headers (0 for none)
    taken     in and out: rows, bytes, whether the last message was an error, and the messages with headers
    """
    rows, used, wrong, more = taken[TAKEN_ROWS], taken[TAKEN_BYTES], taken[TAKEN_WRONG], taken[TAKEN_HEADERS]
    at = begin
    while at < pointers.size and rows < columns.shape[1]:
        message = pointers[at]
        if _load32(message + _ERR) != 0:
            wrong = 1
            at += 1
            break
        offset = _load64(message + _OFFSET)
        if offset < least:
            at += 1
            continue
        value, key = _load64(message + _PAYLOAD), _load64(message + _KEY)
        size = _load64(message + _SIZE) if value != 0 else 0
        key_size = _load64(message + _KEY_SIZE) if key != 0 else 0
        if used + size + key_size > buffer_size:
            break
        columns[OFFSET, rows] = offset
        columns[STAMP, rows] = max(0, _call2(timestamp, message, scratch_at)) * 1_000
        columns[HEADERS, rows] = 0
        if np.int32(_call2(headers, message, scratch_at)) == 0:
            columns[HEADERS, rows] = scratch[0]
            more += 1
        columns[VALUE_START, rows] = columns[VALUE_END, rows] = -1
        columns[KEY_START, rows] = columns[KEY_END, rows] = -1
        if value != 0:
            copy_bytes(buffer_at + used, value, size)
            columns[VALUE_START, rows] = used
            used += size
            columns[VALUE_END, rows] = used
        if key != 0:
            copy_bytes(buffer_at + used, key, key_size)
            columns[KEY_START, rows] = used
            used += key_size
            columns[KEY_END, rows] = used
        rows += 1
        at += 1
    taken[TAKEN_ROWS], taken[TAKEN_BYTES], taken[TAKEN_WRONG], taken[TAKEN_HEADERS] = rows, used, wrong, more
    return at


@kernel
def count_headers(header_lists: Int64s, header_count: int) -> int:
    """How many headers the messages have together."""
    total = 0
    for row in range(header_lists.size):
        if header_lists[row] != 0:
            total += _call1(header_count, header_lists[row])
    return total


@kernel
def list_headers(header_lists: Int64s, header_count: int, header_get: int, scratch: Int64s, scratch_at: int,
                 rows: Int64s, names: Int64s, name_sizes: Int64s, values: Int64s, sizes: Int64s) -> None:
    """Row, name and value of each header: addresses and sizes; a null value has address 0."""
    at = 0
    for row in range(header_lists.size):
        if header_lists[row] == 0:
            continue
        for index in range(_call1(header_count, header_lists[row])):
            _call5(header_get, header_lists[row], index, scratch_at, scratch_at + 8, scratch_at + 16)
            rows[at] = row
            names[at] = scratch[0]
            length = 0
            while _load8(scratch[0] + length) != 0:
                length += 1
            name_sizes[at] = length
            values[at] = scratch[1]
            sizes[at] = scratch[2]
            at += 1


@kernel
def number_names(names: Int64s, sizes: Int64s, ids: Int64s, firsts: Int64s) -> int:
    """Gives equal names one number; `firsts` is where each stands first. Quick where the distinct names are few."""
    known = 0
    for row in range(names.size):
        found = -1
        for number in range(known):
            other = firsts[number]
            if sizes[other] != sizes[row]:
                continue
            at = 0
            while at < sizes[row] and _load8(names[row] + at) == _load8(names[other] + at):
                at += 1
            if at == sizes[row]:
                found = number
                break
        if found < 0:
            firsts[known] = row
            found = known
            known += 1
        ids[row] = found
    return known


@kernel
def copy_spans(sources: Int64s, sizes: Int64s, buffer_at: int, starts: Int64s) -> None:
    """Copies spans of foreign memory one after another; `starts` is where each lies."""
    at = 0
    for row in range(sources.size):
        starts[row] = at
        copy_bytes(buffer_at + at, sources[row], sizes[row])
        at += sizes[row]


@kernel
def shift_bounds(bounds: Int64s, stops: Int64s, bases: Int64s) -> None:
    """Adds to the bounds of each part (up to `stops`) where its buffer lies in the joined one; -1 stays null."""
    row = 0
    for part in range(stops.size):
        while row < stops[part]:
            if bounds[row] >= 0:
                bounds[row] += bases[part]
            row += 1


@kernel
def destroy(pointers: Int64s, message_destroy: int) -> None:
    """Frees the messages."""
    for row in range(pointers.size):
        _call1(message_destroy, pointers[row])


MESSAGE_WORDS: Final = 9
_PAYLOAD_WORD, _SIZE_WORD, _KEY_WORD, _KEY_SIZE_WORD = 3, 4, 5, 6


@kernel
def fill_messages(base: int, value_starts: Int64s, value_ends: Int64s, key_starts: Int64s, key_ends: Int64s, begin: int,
                  most_bytes: int, words: Int64s) -> tuple[int, int]:
    """Message structs of records from number `begin` on; gives how many fit, at least one, and the bytes of these.

    base   where the bounds' buffer lies; a start of -1 is a null
    words  int64[messages, MESSAGE_WORDS], the structs' memory
    """
    count = 0
    total = 0
    for row in range(begin, min(value_starts.size, begin + words.shape[0])):
        size = value_ends[row] - value_starts[row] if value_starts[row] >= 0 else 0
        key_size = key_ends[row] - key_starts[row] if key_starts[row] >= 0 else 0
        if count > 0 and total + size + key_size > most_bytes:
            break
        for word in range(MESSAGE_WORDS):
            words[count, word] = 0
        if value_starts[row] >= 0:
            words[count, _PAYLOAD_WORD] = base + value_starts[row]
            words[count, _SIZE_WORD] = size
        if key_starts[row] >= 0:
            words[count, _KEY_WORD] = base + key_starts[row]
            words[count, _KEY_SIZE_WORD] = key_size
        total += size + key_size
        count += 1
    return count, total


RUN_TOPIC, RUN_PARTITION, RUN_LOW, RUN_HIGH = 0, 1, 2, 3
RUN_WORDS: Final = 4


@kernel
def delivered(pointers: Int64s, purged: int, purged_in_flight: int, runs: Int64s, told: Int64s) -> tuple[int, int]:
    """What delivery reports say: how many runs of one partition each were written, and the bytes of values and keys.

    purged, purged_in_flight  codes that say nothing: the message was thrown away with others
    runs  int64[messages, RUN_WORDS], out: topic, partition, least offset, one past the greatest, of what arrived
    told  int64[2], out: the first error (0: none), and how many arrived without an offset
    """
    count = 0
    total = 0
    topic = partition = np.int64(-1)
    for row in range(pointers.size):
        at = pointers[row]
        total += _load64(at + _SIZE) + _load64(at + _KEY_SIZE)
        err = np.int64(_load32(at + _ERR))
        if err != 0:
            if told[0] == 0 and err not in (purged, purged_in_flight):
                told[0] = err
            continue
        offset = _load64(at + _OFFSET)
        if offset < 0:
            told[1] += 1
        if count == 0 or _load64(at + _TOPIC) != topic or np.int64(_load32(at + _PARTITION)) != partition:
            topic, partition = _load64(at + _TOPIC), np.int64(_load32(at + _PARTITION))
            runs[count, RUN_TOPIC], runs[count, RUN_PARTITION] = topic, partition
            runs[count, RUN_LOW], runs[count, RUN_HIGH] = offset, offset + 1
            count += 1
        else:
            runs[count - 1, RUN_LOW] = min(runs[count - 1, RUN_LOW], offset)
            runs[count - 1, RUN_HIGH] = max(runs[count - 1, RUN_HIGH], offset + 1)
    return count, total


@kernel
def produce_each(produceva: int, client: int, topic: int, partition: int, payloads: Int64s, sizes: Int64s,
                 keys: Int64s, key_sizes: Int64s, stamps: Int64s, names: Int64s, header_values: Int64s,
                 header_sizes: Int64s, arguments: Int64s, arguments_at: int) -> int:
    """Produces records one by one, for those with timestamps (ms, or none) or headers; gives the first error, or 0.

    payloads, keys, header_values  addresses, 0 for null; header_values[h, row] is of the name names[h]
    arguments                      room for the call's arguments at arguments_at: 6 + headers times 9 words
    """
    for row in range(payloads.size):
        arguments[0] = _VU_TOPIC
        arguments[1] = topic
        at = _VU_WORDS
        arguments[at] = _VU_PARTITION
        arguments[at + 1] = partition
        at += _VU_WORDS
        arguments[at] = _VU_FLAGS
        arguments[at + 1] = _COPY_FLAG
        at += _VU_WORDS
        arguments[at] = _VU_VALUE
        arguments[at + 1] = payloads[row]
        arguments[at + 2] = sizes[row]
        at += _VU_WORDS
        arguments[at] = _VU_KEY
        arguments[at + 1] = keys[row]
        arguments[at + 2] = key_sizes[row]
        at += _VU_WORDS
        count = 5
        if stamps.size:
            arguments[at] = _VU_TIME
            arguments[at + 1] = stamps[row]
            at += _VU_WORDS
            count += 1
        for header in range(names.size):
            if header_values[header, row] != 0:
                arguments[at] = _VU_HEADER
                arguments[at + 1] = names[header]
                arguments[at + 2] = header_values[header, row]
                arguments[at + 3] = header_sizes[header, row]
                at += _VU_WORDS
                count += 1
        error: int = _call3(produceva, client, arguments_at, count)
        if error != 0:
            return error
    return 0


def prepare() -> None:
    """Compiles every kernel, or loads it: the first time takes seconds, and no transaction may wait for it."""
    none, cells = np.empty(0, np.int64), np.empty((0, 0), np.int64)
    reading = frozen(none)
    take(none, 0, 0, 0, none, 0, 0, 0, 0, np.zeros(TAKEN, np.int64), cells)
    count_headers(none, 0)
    list_headers(none, 0, 0, none, 0, none, none, none, none, none)
    number_names(none, none, none, none)
    copy_spans(none, none, 0, none)
    shift_bounds(none, none, none)
    destroy(none, 0)
    fill_messages(0, reading, reading, reading, reading, 0, 0, cells)
    delivered(none, 0, 0, cells, np.zeros(2, np.int64))
    produce_each(0, 0, 0, 0, none, none, none, none, none, none, cells, cells, none, 0)
