"""Numba kernels over librdkafka's message structs: a batch of pointers becomes columns, columns become messages.

`rd_kafka_message_t` is part of the library's public, stable interface; its layout stands in MESSAGE.  Functions of the
library come in as integer addresses, because Numba does not cache a kernel that holds a ctypes function.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from streamproc.hashing import kernel
from streamproc.ports import Int64s

_ir: Any = vars(cgutils)["ir"]
_memcpy: Any = cgutils.raw_memcpy
MESSAGE: Final = np.dtype(
    [
        ("err", "i4"), ("_1", "i4"), ("topic", "u8"), ("partition", "i4"), ("_2", "i4"), ("payload", "u8"),
        ("size", "u8"), ("key", "u8"), ("key_size", "u8"), ("offset", "i8"), ("private", "u8"),
    ]
)  # fmt: skip
"""rd_kafka_message_t."""
_ERR, _TOPIC, _PARTITION, _PAYLOAD, _SIZE, _KEY, _KEY_SIZE, _OFFSET = 0, 8, 16, 24, 32, 40, 48, 56
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


_copy: Any = intrinsic(_type_copy)


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


@kernel
def measure(pointers: Int64s, timestamp: int, headers: int, scratch: Int64s, scratch_at: int, err: Int64s,
            offsets: Int64s, stamps: Int64s, sizes: Int64s, key_sizes: Int64s, header_lists: Int64s) -> int:
    """Columns of a batch of messages, sizes -1 for null; gives the bytes of all values and keys.

    timestamp, headers  addresses of the library's functions; scratch  one word at scratch_at for their results
    stamps              µs, 0 where the message has none; header_lists  0 where it has none
    """
    total = 0
    for row in range(pointers.size):
        at = pointers[row]
        err[row] = _load32(at + _ERR)
        offsets[row] = _load64(at + _OFFSET)
        sizes[row] = key_sizes[row] = -1
        header_lists[row] = stamps[row] = 0
        if err[row] != 0:
            continue
        if _load64(at + _PAYLOAD) != 0:
            sizes[row] = _load64(at + _SIZE)
            total += sizes[row]
        if _load64(at + _KEY) != 0:
            key_sizes[row] = _load64(at + _KEY_SIZE)
            total += key_sizes[row]
        stamps[row] = max(0, _call2(timestamp, at, scratch_at)) * 1_000
        if np.int32(_call2(headers, at, scratch_at)) == 0:
            header_lists[row] = scratch[0]
    return total


@kernel
def gather(pointers: Int64s, sizes: Int64s, key_sizes: Int64s, buffer_at: int, value_starts: Int64s,
           value_ends: Int64s, key_starts: Int64s, key_ends: Int64s) -> int:
    """Copies values and keys one after another; gives the bytes written."""
    at = 0
    for row in range(pointers.size):
        value_starts[row] = value_ends[row] = key_starts[row] = key_ends[row] = -1
        if sizes[row] >= 0:
            _copy(buffer_at + at, _load64(pointers[row] + _PAYLOAD), sizes[row])
            value_starts[row] = at
            at += sizes[row]
            value_ends[row] = at
        if key_sizes[row] >= 0:
            _copy(buffer_at + at, _load64(pointers[row] + _KEY), key_sizes[row])
            key_starts[row] = at
            at += key_sizes[row]
            key_ends[row] = at
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
        _copy(buffer_at + at, sources[row], sizes[row])
        at += sizes[row]


@kernel
def destroy(pointers: Int64s, message_destroy: int) -> None:
    """Frees the messages."""
    for row in range(pointers.size):
        _call1(message_destroy, pointers[row])


@kernel
def delivered(pointers: Int64s, topics: Int64s, partitions: Int64s, offsets: Int64s, err: Int64s,
              sizes: Int64s) -> None:
    """Columns of delivery reports; sizes are those of value and key."""
    for row in range(pointers.size):
        at = pointers[row]
        err[row] = _load32(at + _ERR)
        topics[row] = _load64(at + _TOPIC)
        partitions[row] = _load32(at + _PARTITION)
        offsets[row] = _load64(at + _OFFSET)
        sizes[row] = _load64(at + _SIZE) + _load64(at + _KEY_SIZE)


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
    measure(none, 0, 0, none, 0, none, none, none, none, none, none)
    gather(none, none, none, 0, none, none, none, none)
    count_headers(none, 0)
    list_headers(none, 0, 0, none, 0, none, none, none, none, none)
    number_names(none, none, none, none)
    copy_spans(none, none, 0, none)
    destroy(none, 0)
    delivered(none, none, none, none, none, none)
    produce_each(0, 0, 0, 0, none, none, none, none, none, none, cells, cells, none, 0)
