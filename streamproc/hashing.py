"""Hashes of byte ranges for whole columns at once, each a published function so that another program can check it.

    wyhash      64 bits, finds keys (wyhash final version 4, default secret, seed 0)
    XXH64       64 bits, the second half of a row's 128-bit hash
    murmur2     32 bits, chooses partitions as Kafka's default partitioner does
    XXH3-128    over one buffer: chains and content ids

A range is a pair of bounds into a buffer.  Kernels read with unaligned 8-byte loads, never outside of the range, and
give the same on every machine.  Nothing here is keyed or meant against an adversary.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

from streamproc.kernels import kernel, tight

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
UInt32s = npt.NDArray[np.uint32]

_ir: Any = vars(cgutils)["ir"]
_types: Any = types


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only contiguous view: every kernel that only reads gets these, so it is compiled for one type only."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


# ── loads and multiplication that NumPy cannot say ───────────────────────────────────────────────────────────────────


def _load(bits: int) -> Any:
    result = types.uint64 if bits == 64 else types.uint32

    def typed(typing_context: Any, buffer: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            make_array: Any = arrayobj.make_array
            array = make_array(signature.args[0])(context, builder, args[0])
            word = _ir.IntType(bits)
            data = builder.bitcast(array.data, _ir.IntType(8).as_pointer())
            value = builder.load(builder.bitcast(builder.gep(data, [args[1]]), word.as_pointer()))
            value.align = 1
            return builder.bswap(value) if sys.byteorder == "big" else value

        return result(buffer, types.int64), generate

    return intrinsic(typed)


load64 = _load(64)
"""load64(buffer, at): eight bytes as a little-endian uint64, for kernels."""
load32 = _load(32)
"""load32(buffer, at): four bytes as a little-endian uint32, for kernels."""


def _swap64(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bswap(args[0])

    return types.uint64(types.uint64), generate


swap64: Any = intrinsic(_swap64)
"""swap64(word): the bytes of a uint64 in reverse order, for kernels."""


def _leading_zeros(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], _ir.Constant(_ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


leading_zeros: Any = intrinsic(_leading_zeros)
"""leading_zeros(word): how many of a uint64's highest bits are not set, for kernels."""


def _multiply_wide(typing_context: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide, narrow = _ir.IntType(128), _ir.IntType(64)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        low = builder.trunc(product, narrow)
        high = builder.trunc(builder.lshr(product, _ir.Constant(wide, 64)), narrow)
        return context.make_tuple(builder, signature.return_type, (low, high))

    return _types.Tuple((types.uint64, types.uint64))(types.uint64, types.uint64), generate


multiply_wide: Any = intrinsic(_multiply_wide)
"""multiply_wide(a, b): the 128-bit product of two uint64 as (low, high), for kernels."""


# ── one range ────────────────────────────────────────────────────────────────────────────────────────────────────────

_W0: Final = np.uint64(0x2D358DCCAA6C78A5)
_W1: Final = np.uint64(0x8BB84B93962EACC9)
_W2: Final = np.uint64(0x4B33A62ED433D4A3)
_W3: Final = np.uint64(0x4D5A2DA51DE1AA47)
_X1: Final = np.uint64(0x9E3779B185EBCA87)
_X2: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_X3: Final = np.uint64(0x165667B19E3779F9)
_X4: Final = np.uint64(0x85EBCA77C2B2AE63)
_X5: Final = np.uint64(0x27D4EB2F165667C5)
NULL_HASH: Final = np.uint64(0x9AE16A3B2F90404F)
"""What a null range (start -1) hashes to."""


@tight
def _wymix(a: np.uint64, b: np.uint64) -> np.uint64:
    low, high = multiply_wide(a, b)
    return np.uint64(low ^ high)


@tight
def wyhash(buffer: Bytes, start: int, end: int, seed: np.uint64) -> np.uint64:
    """wyhash (final version 4) of buffer[start:end], for kernels."""
    length = end - start
    seed ^= _wymix(seed ^ _W0, _W1)
    a = b = np.uint64(0)
    if length <= 16:
        if length >= 4:
            middle = (length >> 3) << 2
            a = (np.uint64(load32(buffer, start)) << np.uint64(32)) | np.uint64(load32(buffer, start + middle))
            b = (np.uint64(load32(buffer, end - 4)) << np.uint64(32)) | np.uint64(load32(buffer, end - 4 - middle))
        elif length > 0:
            a = (
                (np.uint64(buffer[start]) << np.uint64(16))
                | (np.uint64(buffer[start + (length >> 1)]) << np.uint64(8))
                | np.uint64(buffer[end - 1])
            )
    else:
        at, left = start, length
        if left >= 48:
            second = third = seed
            while left >= 48:
                seed = _wymix(load64(buffer, at) ^ _W1, load64(buffer, at + 8) ^ seed)
                second = _wymix(load64(buffer, at + 16) ^ _W2, load64(buffer, at + 24) ^ second)
                third = _wymix(load64(buffer, at + 32) ^ _W3, load64(buffer, at + 40) ^ third)
                at, left = at + 48, left - 48
            seed ^= second ^ third
        while left > 16:
            seed = _wymix(load64(buffer, at) ^ _W1, load64(buffer, at + 8) ^ seed)
            at, left = at + 16, left - 16
        a, b = load64(buffer, end - 16), load64(buffer, end - 8)
    low, high = multiply_wide(a ^ _W1, b ^ seed)
    return _wymix(low ^ _W0 ^ np.uint64(length), high ^ _W1)


@tight
def _left(value: np.uint64, bits: int) -> np.uint64:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@tight
def _xxround(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _left(lane + word * _X2, 31) * _X1


@tight
def xxh64(buffer: Bytes, start: int, end: int, seed: np.uint64) -> np.uint64:
    """XXH64 of buffer[start:end], for kernels."""
    length, at = end - start, start
    if length >= 32:
        v1, v2, v3, v4 = seed + _X1 + _X2, seed + _X2, seed, seed - _X1
        while at + 32 <= end:
            v1 = _xxround(v1, load64(buffer, at))
            v2 = _xxround(v2, load64(buffer, at + 8))
            v3 = _xxround(v3, load64(buffer, at + 16))
            v4 = _xxround(v4, load64(buffer, at + 24))
            at += 32
        value = _left(v1, 1) + _left(v2, 7) + _left(v3, 12) + _left(v4, 18)
        for lane in (v1, v2, v3, v4):
            value = (value ^ _xxround(np.uint64(0), lane)) * _X1 + _X4
    else:
        value = seed + _X5
    value += np.uint64(length)
    while at + 8 <= end:
        value = _left(value ^ _xxround(np.uint64(0), load64(buffer, at)), 27) * _X1 + _X4
        at += 8
    if at + 4 <= end:
        value = _left(value ^ (np.uint64(load32(buffer, at)) * _X1), 23) * _X2 + _X3
        at += 4
    while at < end:
        value = _left(value ^ (np.uint64(buffer[at]) * _X5), 11) * _X1
        at += 1
    value = (value ^ (value >> np.uint64(33))) * _X2
    value = (value ^ (value >> np.uint64(29))) * _X3
    return value ^ (value >> np.uint64(32))


@tight
def murmur2(buffer: Bytes, start: int, end: int) -> np.uint32:
    """Kafka's murmur2 of buffer[start:end], for kernels; Java shows the same bits as a signed number."""
    factor = np.uint32(0x5BD1E995)
    value = np.uint32(0x9747B28C) ^ np.uint32(end - start)
    at = start
    while at + 4 <= end:
        word = np.uint32(load32(buffer, at) * factor)
        word = np.uint32((word ^ (word >> np.uint32(24))) * factor)
        value = np.uint32(value * factor) ^ word
        at += 4
    if end - at >= 3:
        value ^= np.uint32(buffer[at + 2]) << np.uint32(16)
    if end - at >= 2:
        value ^= np.uint32(buffer[at + 1]) << np.uint32(8)
    if end - at >= 1:
        value ^= np.uint32(buffer[at])
        value = np.uint32(value * factor)
    value = np.uint32((value ^ (value >> np.uint32(13))) * factor)
    return value ^ (value >> np.uint32(15))


@tight
def mix_pair(a: np.uint64, b: np.uint64) -> np.uint64:
    """A good 64-bit hash of two 64-bit numbers, for kernels (wyhash's 16-byte step)."""
    low, high = multiply_wide(a ^ _W1, b ^ _W2)
    return _wymix(low ^ _W0, high ^ _W1)


# ── whole columns ────────────────────────────────────────────────────────────────────────────────────────────────────


@kernel
def _hash_column(buffer: Bytes, starts: Int64s, ends: Int64s, seed: np.uint64) -> UInt64s:
    out = np.empty(starts.size, np.uint64)
    for i in range(starts.size):
        out[i] = NULL_HASH if starts[i] < 0 else wyhash(buffer, starts[i], ends[i], seed)
    return out


def hash_bytes(buffer: Bytes, starts: Int64s, ends: Int64s, *, seed: int = 0) -> UInt64s:
    """wyhash of each range; uint64[n].  A null range (start -1) gives NULL_HASH.

    >>> hex(hash_bytes(np.frombuffer(b"abc", np.uint8), np.array([0]), np.array([3]), seed=2)[0])
    '0xa97f2f7b1d9b3314'
    """
    hashes: UInt64s = _hash_column(frozen(buffer), frozen(starts), frozen(ends), np.uint64(seed))
    return hashes


@kernel
def _partition_column(buffer: Bytes, starts: Int64s, ends: Int64s, count: int) -> Int64s:
    out = np.empty(starts.size, np.int64)
    for i in range(starts.size):
        if starts[i] < 0:
            out[i] = -1
        else:
            out[i] = np.int64(murmur2(buffer, starts[i], ends[i]) & np.uint32(0x7FFFFFFF)) % count
    return out


def partitions_of(buffer: Bytes, starts: Int64s, ends: Int64s, count: int) -> Int64s:
    """The partition of each key among `count`, as Kafka's default partitioner says; int64[n], -1 for a null key.

    >>> partitions_of(np.frombuffer(b"foobar", np.uint8), np.array([0]), np.array([6]), 12)
    array([6])
    """
    partitions: Int64s = _partition_column(frozen(buffer), frozen(starts), frozen(ends), count)
    return partitions


@kernel
def _mix_columns(a: UInt64s, b: UInt64s) -> UInt64s:
    out = np.empty(a.size, np.uint64)
    for i in range(a.size):
        out[i] = mix_pair(a[i], b[i])
    return out


def mix64(first: npt.NDArray[Any], *others: npt.NDArray[Any]) -> UInt64s:
    """One 64-bit hash a row over columns of 64-bit integers; the order of the columns counts.

    >>> a, b = np.array([1, 2]), np.array([2, 1])
    >>> bool((mix64(a, b) == mix64(b, a)).any())
    False
    """
    out = np.ascontiguousarray(first).view(np.uint64)
    for column in others or (np.zeros(out.size, np.uint64),):
        out = _mix_columns(frozen(out), frozen(np.ascontiguousarray(column).view(np.uint64)))
    return out


# ── digests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@kernel
def _row_column(buffer: Bytes, starts: Int64s, ends: Int64s, seed: np.uint64) -> UInt64s:
    out = np.empty((starts.size, 2), np.uint64)
    for i in range(starts.size):
        if starts[i] < 0:
            out[i, 0], out[i, 1] = NULL_HASH, mix_pair(NULL_HASH, seed)
        else:
            out[i, 0] = wyhash(buffer, starts[i], ends[i], seed)
            out[i, 1] = xxh64(buffer, starts[i], ends[i], seed)
    return out


def row_hashes(buffer: Bytes, starts: Int64s, ends: Int64s, *, seed: int = 0) -> UInt64s:
    """A 128-bit hash of each range: uint64[n, 2], (high, low) = (wyhash, XXH64), two unrelated functions.

    The seed carries what stands beside the bytes, for example a schema fingerprint.
    """
    hashes: UInt64s = _row_column(frozen(buffer), frozen(starts), frozen(ends), np.uint64(seed))
    return hashes


@tight
def _sum_rows(hashes: UInt64s, total: UInt64s) -> None:
    for i in range(hashes.shape[0]):
        low = total[1] + hashes[i, 1]
        total[0] += hashes[i, 0] + np.uint64(low < total[1])
        total[1] = low


def sum128(hashes: UInt64s, *, start: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """`start` plus the sum of 128-bit hashes modulo 2^128, as (high, low); does not depend on their order.

    >>> sum128(np.array([[0, 2**64 - 1], [0, 1]], np.uint64))
    (1, 0)
    """
    total = np.array(start, np.uint64)
    _sum_rows(frozen(hashes), total)
    return int(total[0]), int(total[1])


@kernel
def _record_column(buffer: Bytes, key_starts: Int64s, key_ends: Int64s, starts: Int64s, ends: Int64s) -> UInt64s:
    out = np.empty(starts.size, np.uint64)
    for i in range(starts.size):
        key = NULL_HASH if key_starts[i] < 0 else wyhash(buffer, key_starts[i], key_ends[i], np.uint64(0))
        out[i] = mix_pair(key, NULL_HASH) if starts[i] < 0 else wyhash(buffer, starts[i], ends[i], key)
    return out


def record_hashes(buffer: Bytes, key_starts: Int64s, key_ends: Int64s, starts: Int64s, ends: Int64s) -> UInt64s:
    """64 bits of each record's key and value, nulls told apart from empty ones; uint64[n]."""
    bounds = frozen(key_starts), frozen(key_ends), frozen(starts), frozen(ends)
    hashes: UInt64s = _record_column(frozen(buffer), *bounds)
    return hashes


def record_digests(hashes: UInt64s) -> UInt32s:
    """The 32 bits of each record's hash that a journal keeps."""
    digests: UInt32s = (hashes >> np.uint64(32)).astype(np.uint32)
    return digests


def chain(previous: bytes, *parts: bytes | memoryview | npt.NDArray[Any]) -> bytes:
    """The next 16 bytes of a hash chain: XXH3-128 of the previous ones and of each part's length and bytes.

    >>> chain(b"", b"ab", b"c") == chain(b"", b"a", b"bc")
    False
    """
    state = xxhash.xxh3_128(previous)
    for part in parts:
        data = part.tobytes() if isinstance(part, np.ndarray) else part
        state.update(memoryview(data).nbytes.to_bytes(8, "big"))
        state.update(data)
    return state.digest()


def content_id(data: bytes | memoryview) -> str:
    """The name of a block of bytes: XXH3-128, 32 hexadecimal digits.

    >>> content_id(b"")
    '99aa06d3014798d86001c324468d497f'
    """
    return xxhash.xxh3_128_hexdigest(data)
