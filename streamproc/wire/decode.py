"""The decoding kernel: runs a program over every payload of a batch and writes columns.

One loop, no recursion: arrays and maps keep their place on a small stack.  A payload that turns out bad takes back what
it wrote by resetting the scopes' row counts, so the next payload writes over it.
"""

# mypy: disable-error-code="assignment,return-value"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamproc.hashing import load64
from streamproc.kernels import tight, unlocked
from streamproc.wire import opcodes as op
from streamproc.wire.cells import HIGH_BITS, Bytes, Int64s, is_utf8, put_decimal, put_view, varint
from streamproc.wire.layout import ENDS, FLAG, WORD
from streamproc.wire.types import STACK


@unlocked
def decode_rows(
    buf: Bytes, starts: Int64s, ends: Int64s, first: int, code: npt.NDArray[np.int64], aux: Int64s, columns: Int64s,
    words: Int64s, flags: Bytes, counts: Int64s, capacity: Int64s, verdicts: Bytes, rows: Int64s, shortage: Int64s,
) -> int:  # fmt: skip
    """Decodes payloads from row `first` on; gives n, or the row at which a scope ran out of room.

    columns   int64[4, c]  address, kind, scope and inner scope of each column
    counts    int64[s]  rows of each scope, continued from a call before; counts[0] is the number of good payloads
    capacity  int64[s]  rows that each scope has room for
    shortage  int64[2]  where room ran out: the scope and the rows that it needs
    verdicts  uint8[n]  the reason of each payload, 0 if good; rows int64[n] the good payloads' numbers
    """
    bits = np.empty(1, np.int64)
    as_double = bits.view(np.float64)
    as_float = bits.view(np.float32)
    left = np.empty(STACK, np.int64)
    block_ends = np.empty(STACK, np.int64)
    saved = counts.copy()
    nested = counts.size > 1
    for row in range(first, starts.size):
        p = starts[row]
        e = ends[row]
        bad = op.GOOD
        if p < 0 or e < p or e > buf.size:
            verdicts[row] = op.NULL_PAYLOAD
            continue
        if nested:
            _copy(counts, saved)
        depth = 0
        pc = 0
        while True:
            o = code[pc, op.OP]
            if o >= op.CONTROL:
                if o == op.END:
                    break
                if o == op.NEXT:
                    inner = code[pc, op.INNER]
                    if inner >= 0:
                        counts[inner] += 1
                    left[depth - 1] -= 1
                    if left[depth - 1] > 0:
                        pc = code[pc, op.A]
                        continue
                    if block_ends[depth - 1] >= 0 and block_ends[depth - 1] != p:
                        bad = op.BLOCK_SIZE
                        break
                    count, p = varint(buf, p, e)
                    if p < 0:
                        bad = -p
                        break
                    depth -= 1
                    if count != 0:
                        pc = code[pc, op.A] - 1  # the LIST before the body opens the next block
                        o = op.LIST
                    else:
                        if inner >= 0:
                            words[code[pc, op.BASE] + counts[code[pc, op.SCOPE]] + 1] = counts[inner]
                        pc += 1
                        continue
                elif o == op.RECORD:
                    tag = code[pc, op.TAG]
                    if tag != op.PRESENT:
                        t, p = varint(buf, p, e)
                        if p < 0:
                            bad = -p
                            break
                        if t not in (0, 1):
                            bad = op.BAD_BRANCH
                            break
                        if (t == 0) == (tag == op.NULL_FIRST):
                            if code[pc, op.VALID] >= 0:
                                _fill(columns, code[pc, op.A], code[pc, op.B], code[pc, op.SCOPE], words, flags, counts)
                            pc = code[pc, op.JUMP]
                            continue
                    if code[pc, op.VALID] >= 0:
                        flags[code[pc, op.VALID] + counts[code[pc, op.SCOPE]]] = 1
                    pc += 1
                    continue
                else:
                    at = counts[code[pc, op.SCOPE]]
                    base = code[pc, op.BASE]
                    if o == op.FILL:
                        _fill(columns, code[pc, op.A], code[pc, op.B], code[pc, op.SCOPE], words, flags, counts)
                    elif o == op.SET_FLAG:
                        flags[base + at] = code[pc, op.A]
                    elif o == op.SET_WORD:
                        words[base + at] = code[pc, op.A]
                    elif o == op.SET_PAIR:
                        words[base + 2 * at] = code[pc, op.A]
                        words[base + 2 * at + 1] = code[pc, op.B]
                    elif o == op.SET_ENDS:
                        words[base + at + 1] = counts[code[pc, op.INNER]]
                    elif o == op.ADD_ITEM:
                        inner = code[pc, op.INNER]
                        counts[inner] += 1
                    pc = code[pc, op.JUMP]
                    # Constants need room for one item more, always: a default's items are not on the wire.
                    if o == op.ADD_ITEM and counts[inner] >= capacity[inner]:
                        shortage[0] = inner
                        shortage[1] = counts[inner] + 1
                        _copy(saved, counts)
                        return row
                    continue
                count_known = True
            else:
                count_known = False
                count = np.int64(0)
            tag = code[pc, op.TAG]
            scope = code[pc, op.SCOPE]
            at = counts[scope]
            base = code[pc, op.BASE]
            if tag != op.PLAIN and not count_known:
                valid = code[pc, op.VALID]
                if tag != op.PRESENT:
                    if p < e and buf[p] < 128:
                        t = np.int64(buf[p])
                        p += 1
                        if t not in (0, 2):
                            bad = op.BAD_BRANCH
                            break
                    else:
                        t, p = varint(buf, p, e)
                        if p < 0:
                            bad = -p
                            break
                        if t not in (0, 1):
                            bad = op.BAD_BRANCH
                            break
                    if (t == 0) == (tag == op.NULL_FIRST):
                        width = code[pc, op.WIDTH]
                        if valid >= 0:
                            flags[valid + at] = 0
                            if width == op.ZERO_WORD:
                                words[base + at] = 0
                            elif width == op.ZERO_PAIR:
                                words[base + 2 * at] = 0
                                words[base + 2 * at + 1] = 0
                            elif width == op.ZERO_ITEMS:
                                words[base + at + 1] = counts[code[pc, op.INNER]]
                            elif width == op.ZERO_FLAG:
                                flags[base + at] = 0
                        pc = code[pc, op.JUMP]
                        continue
                if valid >= 0:
                    flags[valid + at] = 1
            if o < op.READS_NO_VARINT:
                if count_known:
                    z = count
                elif p < e and buf[p] < 128:
                    z = np.int64(buf[p])
                    z = (z >> 1) ^ -(z & 1)
                    p += 1
                else:
                    z, p = varint(buf, p, e)
                    if p < 0:
                        bad = -p
                        break
                if o in (op.STRING, op.BYTES):
                    if z < 0 or z > e - p:
                        bad = op.PAST_END
                        break
                    seen = put_view(words, base + 2 * at, buf, p, z)
                    if o == op.STRING and seen & HIGH_BITS != 0 and not is_utf8(buf, p, p + z):
                        bad = op.BAD_UTF8
                        break
                    p += z
                elif o == op.LONG:
                    words[base + at] = z
                elif o == op.INT:
                    if z < -0x80000000 or z > 0x7FFFFFFF:
                        bad = op.INT_RANGE
                        break
                    words[base + at] = z
                elif o == op.ENUM:
                    if z < 0 or z >= code[pc, op.B]:
                        bad = op.BAD_SYMBOL
                        break
                    words[base + at] = aux[code[pc, op.A] + z]
                    if words[base + at] < 0:
                        words[base + at] = 0
                        bad = op.FOREIGN_SYMBOL
                        break
                elif o == op.TIME:
                    if z < 0 or z >= code[pc, op.A]:
                        bad = op.TIME_RANGE
                        break
                    words[base + at] = z * code[pc, op.B]
                elif o == op.SKIP_LONG:
                    pass
                elif o == op.SKIP_LENGTH:
                    if z < 0 or z > e - p:
                        bad = op.PAST_END
                        break
                    p += z
                elif o == op.SKIP_INT:
                    if z < -0x80000000 or z > 0x7FFFFFFF:
                        bad = op.INT_RANGE
                        break
                elif o == op.SKIP_ENUM:
                    if z < 0 or z >= code[pc, op.B]:
                        bad = op.BAD_SYMBOL
                        break
                elif o in (op.LONG_TO_DOUBLE, op.LONG_TO_FLOAT):
                    if code[pc, op.A] == 1 and (z < -0x80000000 or z > 0x7FFFFFFF):
                        bad = op.INT_RANGE
                        break
                    bits[0] = 0
                    if o == op.LONG_TO_DOUBLE:
                        as_double[0] = np.float64(z)
                    else:
                        as_float[0] = np.float32(z)
                    words[base + at] = bits[0]
                elif o == op.DECIMAL_BYTES:
                    if z < 0 or z > e - p:
                        bad = op.PAST_END
                        break
                    place = code[pc, op.B]
                    if not put_decimal(words, base + 2 * at, buf, p, z, aux[place], aux[place + 1]):
                        bad = op.DECIMAL_RANGE
                        break
                    p += z
                elif o == op.SWITCH:
                    if z < 0 or z >= code[pc, op.B]:
                        bad = op.BAD_BRANCH
                        break
                    pc = aux[code[pc, op.A] + z]
                    if pc < 0:
                        bad = op.FOREIGN_BRANCH
                        break
                    continue
                else:  # LIST: opens a block of z items
                    inner = code[pc, op.INNER]
                    if z == 0:
                        if inner >= 0:
                            words[base + at + 1] = counts[inner]
                        pc = code[pc, op.JUMP]
                        continue
                    block_end = np.int64(-1)
                    if z < 0:
                        z = -z
                        size, p = varint(buf, p, e)
                        if p < 0:
                            bad = -p
                            break
                        if size < 0 or size > e - p:
                            bad = op.PAST_END
                            break
                        block_end = p + size
                    if z < 0 or z > (e - p) // code[pc, op.A]:
                        bad = op.TOO_MANY_ITEMS
                        break
                    if inner >= 0 and counts[inner] + z > capacity[inner]:
                        shortage[0] = inner
                        shortage[1] = counts[inner] + z
                        _copy(saved, counts)
                        return row
                    left[depth] = z
                    block_ends[depth] = block_end
                    depth += 1
            elif o == op.DOUBLE:
                if e - p < 8:
                    bad = op.TRUNCATED
                    break
                words[base + at] = np.int64(load64(buf, p))
                p += 8
            elif o in (op.BOOLEAN, op.SKIP_BOOLEAN):
                if p >= e:
                    bad = op.TRUNCATED
                    break
                if buf[p] > 1:
                    bad = op.BAD_BOOLEAN
                    break
                if o == op.BOOLEAN:
                    flags[base + at] = buf[p]
                p += 1
            elif o == op.SKIP_BYTES:
                if e - p < code[pc, op.A]:
                    bad = op.TRUNCATED
                    break
                p += code[pc, op.A]
            elif o == op.FIXED:
                size = code[pc, op.A]
                if e - p < size:
                    bad = op.TRUNCATED
                    break
                put_view(words, base + 2 * at, buf, p, size)
                p += size
            elif o == op.DECIMAL_FIXED:
                size = code[pc, op.A]
                if e - p < size:
                    bad = op.TRUNCATED
                    break
                place = code[pc, op.B]
                if not put_decimal(words, base + 2 * at, buf, p, size, aux[place], aux[place + 1]):
                    bad = op.DECIMAL_RANGE
                    break
                p += size
            else:  # FLOAT, FLOAT_TO_DOUBLE, DURATION: four bytes
                if e - p < 4:
                    bad = op.TRUNCATED
                    break
                word = (
                    np.int64(buf[p])
                    | np.int64(buf[p + 1]) << 8
                    | np.int64(buf[p + 2]) << 16
                    | np.int64(buf[p + 3]) << 24
                )
                p += 4
                if o == op.FLOAT_TO_DOUBLE:
                    bits[0] = word
                    as_double[0] = np.float64(as_float[0])
                    word = bits[0]
                words[base + at] = word
            pc += 1
        if bad == op.GOOD and p != e:
            bad = op.TRAILING
        verdicts[row] = bad
        if bad == op.GOOD:
            rows[counts[0]] = row
            counts[0] += 1
        elif nested:
            _copy(saved, counts)
    return starts.size


@tight
def _copy(source: Int64s, target: Int64s) -> None:
    """A loop, because Numba takes seconds to compile the general assignment to a slice."""
    for i in range(source.size):
        target[i] = source[i]


@tight
def _fill(columns: Int64s, first: int, last: int, scope: int, words: Int64s, flags: Bytes, counts: Int64s) -> None:
    """Nulls (zeros, empty lists) into the columns first..last of one scope."""
    at = counts[scope]
    for c in range(first, last):
        if columns[2, c] == scope:
            base = columns[0, c]
            kind = columns[1, c]
            if kind == FLAG:
                flags[base + at] = 0
            elif kind == WORD:
                words[base + at] = 0
            elif kind == ENDS:
                words[base + at + 1] = counts[columns[3, c]]
            else:
                words[base + 2 * at] = 0
                words[base + 2 * at + 1] = 0
