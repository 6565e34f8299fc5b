# mypy: disable-error-code="assignment,return-value"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)
"""One value at a place in a payload: numbers, texts and decimals, checked.

Numba's cache of `decode_rows` does not see changes in here: whoever edits this file touches `decode.py` too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamproc.wire import opcodes as op
from streamproc.wire.kernel import kernel

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_TOP_CLEAR = 0x7FFFFFFFFFFFFFFF
HIGH_BITS = -0x7F7F7F7F7F7F7F80
"""The highest bit of each of eight bytes: set where a byte is not ASCII."""


@kernel
def varint(buf: Bytes, p: int, e: int) -> tuple[int, int]:
    """A zigzag varint at p: its value and the place after it; a place of -reason where it is bad."""
    v = np.int64(0)
    shift = np.int64(0)
    while p < e:
        c = np.int64(buf[p])
        p += 1
        if shift == 63 and c > 1:
            return 0, -op.OVERFLOW
        v |= (c & 127) << shift
        if c < 128:
            return ((v >> 1) & _TOP_CLEAR) ^ -(v & 1), p
        shift += 7
    return 0, -op.TRUNCATED


@kernel
def word_at(buf: Bytes, p: int) -> int:
    """Eight bytes, little-endian; the compiler makes one load of it."""
    return (
        np.int64(buf[p]) | np.int64(buf[p + 1]) << 8 | np.int64(buf[p + 2]) << 16 | np.int64(buf[p + 3]) << 24
        | np.int64(buf[p + 4]) << 32 | np.int64(buf[p + 5]) << 40 | np.int64(buf[p + 6]) << 48
        | np.int64(buf[p + 7]) << 56
    )  # fmt: skip


@kernel
def is_utf8(buf: Bytes, p: int, e: int) -> bool:
    """Whether the bytes p..e are well-formed UTF-8 (Unicode 15, table 3-7: no surrogates, nothing overlong)."""
    while p + 8 <= e and word_at(buf, p) & HIGH_BITS == 0:
        p += 8
    while p < e:
        c = buf[p]
        if c < 0x80:
            p += 1
            continue
        if c < 0xC2 or c > 0xF4:
            return False
        more = 1 if c < 0xE0 else (2 if c < 0xF0 else 3)
        if e - p <= more:
            return False
        low, high = 0x80, 0xBF
        if c == 0xE0:
            low = 0xA0
        elif c == 0xED:
            high = 0x9F
        elif c == 0xF0:
            low = 0x90
        elif c == 0xF4:
            high = 0x8F
        if buf[p + 1] < low or buf[p + 1] > high:
            return False
        for k in range(2, more + 1):
            if buf[p + k] & 0xC0 != 0x80:
                return False
        p += more + 1
    return True


@kernel
def put_view(words: Int64s, at: int, buf: Bytes, p: int, size: int) -> int:
    """Writes Arrow's 16-byte view of the bytes at p and gives the OR of them, -1 if they are more than 12."""
    if p + 12 <= buf.size:
        word = word_at(buf, p)
        first = word & 0xFFFFFFFF
        rest = word_at(buf, p + 4)
    else:
        first = np.int64(0)
        rest = np.int64(0)
        for k in range(min(4, size)):
            first |= np.int64(buf[p + k]) << (8 * k)
        for k in range(4, min(12, size)):
            rest |= np.int64(buf[p + k]) << (8 * (k - 4))
    if size > 12:
        words[at] = size | first << 32
        words[at + 1] = p << 32
        return -1
    if size <= 4:
        rest = np.int64(0)
        if size < 4:
            first &= (np.int64(1) << (8 * size)) - 1
    elif size < 12:
        rest &= (np.int64(1) << (8 * (size - 4))) - 1
    words[at] = size | first << 32
    words[at + 1] = rest
    return first | rest


@kernel
def put_decimal(words: Int64s, at: int, buf: Bytes, p: int, size: int, limit_low: int, limit_high: int) -> bool:
    """Writes a big-endian two's complement number as two words; False where it has too many digits."""
    low = np.int64(0)
    high = np.int64(0)
    if size > 0 and buf[p] >= 128:
        low = np.int64(-1)
        high = np.int64(-1)
    sign = high
    for k in range(size):
        # Bytes that leave the 128 bits must have been sign bits only.
        if (high >> 56) & 255 != sign & 255 and k >= 16:
            return False
        high = high << 8 | ((low >> 56) & 255)
        low = low << 8 | np.int64(buf[p + k])
    if (high < 0 and sign == 0) or (high >= 0 and sign != 0):
        return False
    words[at] = low
    words[at + 1] = high
    if high < 0:  # the magnitude
        low = -low
        high = ~high + (1 if low == 0 else 0)
        if high < 0:
            return False
    return high < limit_high or (high == limit_high and np.uint64(low) < np.uint64(limit_low))
