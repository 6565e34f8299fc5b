# mypy: disable-error-code="assignment,return-value"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)
"""One value at a place in a payload: numbers, texts and decimals, read and checked, or written.

Places are used as unsigned numbers: Numba looks at a signed one whether it counts from the end, for each byte, and then
the compiler does not make one load or store of eight.

Numba's cache of `decode_rows` and `encode_rows` does not see changes in here: whoever edits this file touches
`decode.py` and `encode.py` too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamproc.hashing import leading_zeros, load64
from streamproc.kernels import inlined
from streamproc.wire import opcodes as op

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_TOP_CLEAR = 0x7FFFFFFFFFFFFFFF
_ONE, _FOUR = np.uint64(1), np.uint64(4)
_STOPS = np.uint64(0x8080808080808080)
_SIZES = np.uint64(0x0102030405060708)
"""Times 2^(8k), it has k + 1 in its highest byte."""
HIGH_BITS = -0x7F7F7F7F7F7F7F80
"""The highest bit of each of eight bytes: set where a byte is not ASCII."""


@inlined
def put_word(out: Bytes, q: int, word: int | np.int64) -> None:
    """Writes eight bytes, little-endian; the compiler makes one store of it."""
    at = np.uint64(q)
    out[at] = word & 255
    out[at + np.uint64(1)] = word >> 8 & 255
    out[at + np.uint64(2)] = word >> 16 & 255
    out[at + np.uint64(3)] = word >> 24 & 255
    out[at + np.uint64(4)] = word >> 32 & 255
    out[at + np.uint64(5)] = word >> 40 & 255
    out[at + np.uint64(6)] = word >> 48 & 255
    out[at + np.uint64(7)] = word >> 56 & 255


@inlined
def varint(buf: Bytes, p: int, e: int) -> tuple[int, int]:
    """A zigzag varint at p: its value and the place after it; a place of -reason where it is bad."""
    if p + 8 <= e:
        word = load64(buf, p)
        stops = ~word & _STOPS
        if stops != 0:
            # The first byte without a mark ends it; seven bits of each of up to eight bytes are moved together.
            stop = stops & (~stops + _ONE)
            size = np.int64((stop >> np.uint64(7)) * _SIZES >> np.uint64(56))
            word &= (stop << _ONE) - _ONE
            word = (word & np.uint64(0x007F007F007F007F)) | (word & np.uint64(0x7F007F007F007F00)) >> _ONE
            word = (word & np.uint64(0x00003FFF00003FFF)) | (word & np.uint64(0x3FFF00003FFF0000)) >> np.uint64(2)
            word = (word & np.uint64(0x000000000FFFFFFF)) | (word & np.uint64(0x0FFFFFFF00000000)) >> _FOUR
            return np.int64(word >> _ONE) ^ -np.int64(word & _ONE), p + size
    v = np.int64(0)
    shift = np.int64(0)
    while p < e:
        c = np.int64(buf[np.uint64(p)])
        p += 1
        if shift == 63 and c > 1:
            return 0, -op.OVERFLOW
        v |= (c & 127) << shift
        if c < 128:
            return ((v >> 1) & _TOP_CLEAR) ^ -(v & 1), p
        shift += 7
    return 0, -op.TRUNCATED


@inlined
def put_varint(out: Bytes, q: int, value: int) -> int:
    """Writes a zigzag varint at q and gives the place after it; up to eight bytes after q are written over."""
    v = np.uint64((value << 1) ^ (value >> 63))
    if v < 128:
        out[np.uint64(q)] = v
        return q + 1
    if v >> np.uint64(56) == 0:
        word = (v & np.uint64(0xFFFFFFF)) | v >> np.uint64(28) << np.uint64(32)
        word = (word & np.uint64(0x00003FFF00003FFF)) | (word & np.uint64(0x0FFFC0000FFFC000)) << np.uint64(2)
        word = (word & np.uint64(0x007F007F007F007F)) | (word & np.uint64(0x3F803F803F803F80)) << _ONE
        size = (64 - np.int64(leading_zeros(v))) * 9 + 64 >> 6  # bits / 7, rounded up
        marked = (_ONE << np.uint64(8 * size - 8)) - _ONE
        put_word(out, q, np.int64(word | (marked & _STOPS)))
        return q + size
    while v >= 128:
        out[np.uint64(q)] = v & np.uint64(127) | np.uint64(128)
        q += 1
        v >>= np.uint64(7)
    out[np.uint64(q)] = v
    return q + 1


@inlined
def is_utf8(buf: Bytes, p: int, e: int) -> bool:
    """Whether the bytes p..e are well-formed UTF-8 (Unicode 15, table 3-7: no surrogates, nothing overlong)."""
    while p + 8 <= e and np.int64(load64(buf, p)) & HIGH_BITS == 0:
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


@inlined
def put_view(words: Int64s, at: int, buf: Bytes, p: int, size: int) -> int:
    """Writes Arrow's 16-byte view of the bytes at p and gives the OR of them, -1 if they are more than 12."""
    if p + 12 <= buf.size:
        word = np.int64(load64(buf, p))
        first = word & 0xFFFFFFFF
        rest = np.int64(load64(buf, p + 4))
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


@inlined
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
