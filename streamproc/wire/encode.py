"""The encoding kernel: runs a program over columns and writes one Avro body after another.

The bytes are canonical: one logical row has one encoding.  What lies under a null is never read, an array or map is one
block of positive count, every NaN is the same NaN, decimals in bytes are as short as two's complement allows.
"""

# mypy: disable-error-code="assignment,return-value"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.hashing import load64
from streamproc.kernels import inlined, tight, unlocked
from streamproc.wire import opcodes as op
from streamproc.wire.cells import put_varint, put_word
from streamproc.wire.types import STACK

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

UNION: Final = 60
"""Writes the number of the branch that is set, or that of null, its WIDTH, where none is."""
INDEX: Final = 61
"""Writes the branch number A."""

IS_NULL: Final = 1
WRONG_SIZE: Final = 2
TOO_PRECISE: Final = 3
TOO_WIDE: Final = 4
NOT_UNSIGNED: Final = 5
NO_BRANCH: Final = 6
TWO_BRANCHES: Final = 7

_TOP_CLEAR = 0x7FFFFFFFFFFFFFFF
_NAN = 0x7FF8000000000000
_INFINITY = 0x7FF0000000000000
_NAN32 = 0x7FC00000
_INFINITY32 = 0x7F800000


@inlined
def _put_bytes(out: Bytes, q: int, data: Bytes, start: int, size: int) -> None:
    """Copies data[start:start + size] to q, eight bytes at a time: up to seven after them are written over."""
    k = 0
    while k < size and start + k + 8 <= data.size:
        put_word(out, q + k, np.int64(load64(data, start + k)))
        k += 8
    while k < size:
        out[np.uint64(q + k)] = data[np.uint64(start + k)]
        k += 1


@tight
def _put_decimal(out: Bytes, q: int, low: int, high: int, size: int) -> int:
    """Writes a 128-bit number big-endian in `size` bytes."""
    for k in range(size - 1, -1, -1):
        if k >= 16:
            out[q] = high >> 63 & 255
        elif k >= 8:
            out[q] = high >> (8 * (k - 8)) & 255
        else:
            out[q] = low >> (8 * k) & 255
        q += 1
    return q


@tight
def _decimal_size(low: int, high: int) -> int:
    """The fewest bytes that hold a 128-bit number with its sign."""
    size = 16
    sign = high >> 63
    while size > 1:
        k = size - 1
        byte = high >> (8 * (k - 8)) & 255 if k >= 8 else low >> (8 * k) & 255
        below = high >> (8 * (k - 9)) & 255 if k >= 9 else low >> (8 * (k - 1)) & 255
        if byte != sign & 255 or below >> 7 != sign & 1:
            break
        size -= 1
    return size


@tight
def _decimal_fits(low: int, high: int, limit_low: int, limit_high: int) -> bool:
    """Whether the magnitude is below the limit."""
    if high < 0:
        low = -low
        high = ~high + (1 if low == 0 else 0)
        if high < 0:
            return False
    return high < limit_high or (high == limit_high and np.uint64(low) < np.uint64(limit_low))


@unlocked
def encode_rows(
    code: npt.NDArray[np.int64], aux: Int64s, valids: Int64s, words: Int64s, flags: Bytes, data: Bytes, parts: Int64s,
    header: Bytes, scopes: int, out: Bytes, starts: Int64s, ends: Int64s, failure: Int64s,
) -> bool:  # fmt: skip
    """Encodes every row; False at the first that cannot be, with failure = (what, row, instruction).

    aux     int64[*]  limits of decimals; for each branch of a wide union its slot (-1 for null) and its instruction
    valids  int64[c]  address of each slot's flags, -1 where every row has a value
    words   int64[*]  numbers, bounds of lists, and two words for each text: Arrow's views
    parts   int64[*]  where each buffer that the views of a column name begins in data; its first is instruction's B
    header  uint8[*]  precedes each body
    out     uint8[*]  has room for the longest possible encoding and 16 bytes more
    """
    at_of = np.zeros(scopes, np.int64)
    last = np.empty(STACK, np.int64)
    q = 0
    for row in range(starts.size):
        starts[row] = q
        for k in range(header.size):
            out[np.uint64(q + k)] = header[k]
        q += header.size
        at_of[0] = row
        depth = 0
        pc = 0
        wrong = 0
        while True:
            o = code[pc, op.OP]
            if o == op.END:
                break
            base = code[pc, op.BASE]
            at = at_of[code[pc, op.SCOPE]]
            if o == op.NEXT:
                inner = code[pc, op.INNER]
                at_of[inner] += 1
                if at_of[inner] < last[depth - 1]:
                    pc = code[pc, op.A]
                else:
                    depth -= 1
                    out[q] = 0
                    q += 1
                    pc += 1
                continue
            if o == op.JUMP_TO:
                pc = code[pc, op.JUMP]
                continue
            if o == INDEX:
                q = put_varint(out, q, code[pc, op.A])
                pc += 1
                continue
            tag = code[pc, op.TAG]
            valid = code[pc, op.VALID]
            if o == UNION:
                chosen = -1
                if valid < 0 or flags[valid + at] != 0:
                    for k in range(code[pc, op.B]):
                        child = aux[code[pc, op.A] + 2 * k]
                        if child >= 0 and (valids[child] < 0 or flags[valids[child] + at] != 0):
                            if chosen >= 0:
                                wrong = TWO_BRANCHES
                            chosen = k
                if chosen < 0:
                    chosen = code[pc, op.WIDTH]
                if chosen < 0:
                    wrong = NO_BRANCH
                if wrong != 0:
                    break
                q = put_varint(out, q, chosen)
                pc = aux[code[pc, op.A] + 2 * chosen + 1]
                continue
            if tag in (op.PLAIN, op.PRESENT):
                if valid >= 0 and flags[valid + at] == 0:
                    wrong = IS_NULL
                    break
            else:
                present = valid < 0 or flags[valid + at] != 0
                out[q] = 2 if present == (tag == op.NULL_FIRST) else 0
                q += 1
                if not present:
                    pc = code[pc, op.JUMP]
                    continue
            if o == op.LONG:
                q = put_varint(out, q, words[np.uint64(base + at)])
            elif o in (op.BYTES, op.FIXED):
                low = words[np.uint64(base + 2 * at)]
                high = words[np.uint64(base + 2 * at + 1)]
                size = low & 0xFFFFFFFF
                if o == op.BYTES:
                    q = put_varint(out, q, size)
                elif size != code[pc, op.A]:
                    wrong = WRONG_SIZE
                    break
                if size > 12:
                    start = parts[code[pc, op.B] + (high & 0xFFFFFFFF)] + (high >> 32 & 0xFFFFFFFF)
                    _put_bytes(out, q, data, start, size)
                else:
                    put_word(out, q, (low >> 32 & 0xFFFFFFFF) | high << 32)
                    put_word(out, q + 8, high >> 32)
                q += size
            elif o == op.DOUBLE:
                word = words[np.uint64(base + at)]
                if word & _TOP_CLEAR > _INFINITY:
                    word = np.int64(_NAN)
                put_word(out, q, word)
                q += 8
            elif o == op.BOOLEAN:
                out[q] = flags[base + at]
                q += 1
            elif o in (op.FLOAT, op.DURATION):
                word = words[base + at]
                if o == op.DURATION and (word < 0 or word > 0xFFFFFFFF):
                    wrong = NOT_UNSIGNED
                    break
                if o == op.FLOAT and word & 0x7FFFFFFF > _INFINITY32:
                    word = np.int64(_NAN32)
                for k in range(4):
                    out[q + k] = word >> (8 * k) & 255
                q += 4
            elif o == op.TIME:
                word = words[base + at]
                if word % code[pc, op.B] != 0:
                    wrong = TOO_PRECISE
                    break
                q = put_varint(out, q, word // code[pc, op.B])
            elif o in (op.DECIMAL_BYTES, op.DECIMAL_FIXED):
                low = words[base + 2 * at]
                high = words[base + 2 * at + 1]
                place = code[pc, op.B]
                if not _decimal_fits(low, high, aux[place], aux[place + 1]):
                    wrong = TOO_WIDE
                    break
                size = code[pc, op.A]
                if o == op.DECIMAL_BYTES:
                    size = _decimal_size(low, high)
                    q = put_varint(out, q, size)
                q = _put_decimal(out, q, low, high, size)
            elif o == op.LIST:
                start = words[base + at]
                end = words[base + at + 1]
                q = put_varint(out, q, end - start)
                if start == end:
                    pc = code[pc, op.JUMP]
                    continue
                at_of[code[pc, op.INNER]] = start
                last[depth] = end
                depth += 1
            pc += 1  # RECORD has nothing more to write
        if wrong != 0:
            failure[0] = wrong
            failure[1] = row
            failure[2] = pc
            return False
        ends[row] = q
    return True
