"""What a text is made of, in three words: bounds on how alike two texts can be, without reading them.

    word 0, 1   how often each of 32 classes of code points occurs, four bits each (a class: the lowest five bits)
    word 2      bits 0-7: code points; bits 8-39: the lowest eight bits of the first four; bit 63: whether it holds

A text with a class more than seven times, or of more than 127 code points, has no signature, and no bound holds for it.
Texts share at most as many letters as their counts do, whatever their order: that bounds Jaro's similarity from above
and, as the bag distance (Bartolini, Ciaccia, Patella 2002), edit distances from below. Most pairs of a block are told
apart by it: two words of arithmetic instead of reading two texts.
"""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.entities.similarity import LONGEST, Words, code_points
from streamproc.kernels import inlined, kernel
from streamproc.ports import Bytes, Int64s

WORDS: Final = 3
Signatures = npt.NDArray[np.uint64]
"""uint64[n, 3]."""
_MOST_OF_A_CLASS: Final = 7
_MOST_POINTS: Final = 127
_HIGH: Final = np.uint64(0x8888888888888888)
_LOW: Final = np.uint64(0x7777777777777777)
_EVEN: Final = np.uint64(0x0F0F0F0F0F0F0F0F)
_ONES: Final = np.uint64(0x0101010101010101)
_SOUND: Final = np.uint64(1 << 63)
_ROUNDING: Final = 1e-9
"""Bounds are looser by so much than they need be, since sums of floats are rounded."""


@kernel
def sign(buffer: Bytes, starts: Int64s, ends: Int64s, slots: Int64s, points: Words, out: Signatures) -> None:
    """Writes the signature of the text buffer[starts[i]:ends[i]] to out[slots[i]]; `points` is scratch."""
    counts = np.zeros(32, np.int64)
    for i in range(slots.size):
        n = code_points(buffer, starts[i], ends[i] - starts[i], points, 0)
        for one in range(32):
            counts[one] = 0
        most = 0
        for k in range(n):
            one = points[k] & 31
            counts[one] += 1
            most = max(most, counts[one])
        slot = slots[i]
        out[slot, 0] = np.uint64(0)
        out[slot, 1] = np.uint64(0)
        out[slot, 2] = np.uint64(0)
        if most > _MOST_OF_A_CLASS or n > _MOST_POINTS or n == LONGEST:
            continue
        for one in range(32):
            out[slot, one >> 4] |= np.uint64(counts[one]) << np.uint64(4 * (one & 15))
        told = _SOUND | np.uint64(n)
        for k in range(min(n, 4)):
            told |= np.uint64(points[k] & 255) << np.uint64(8 + 8 * k)
        out[slot, 2] = told


@inlined
def _least(a: np.uint64, b: np.uint64) -> np.uint64:
    """The lesser of each of sixteen counts, added up."""
    at_least = ((a | _HIGH) - b) & _HIGH
    chosen = at_least - (at_least >> np.uint64(3))
    least = (b & chosen) | (a & (chosen ^ _LOW))
    pairs = (least & _EVEN) + ((least >> np.uint64(4)) & _EVEN)
    return (pairs * _ONES) >> np.uint64(56)


@inlined
def shared_at_most(signatures: Signatures, a: int, b: int) -> int:
    """So many code points, at most, have two texts in common; -1 where nothing can be said."""
    if signatures[a, 2] & signatures[b, 2] & _SOUND == np.uint64(0):
        return -1
    return np.int64(
        _least(signatures[a, 0], signatures[b, 0]) + _least(signatures[a, 1], signatures[b, 1])
    )


@inlined
def length_of(signatures: Signatures, a: int) -> int:
    """The code points of a text that has a signature."""
    return np.int64(signatures[a, 2] & np.uint64(255))


@inlined
def highest_jaro_winkler(signatures: Signatures, a: int, b: int, shared: int) -> float:
    """What the similarity of two texts is at most, that share at most so many code points."""
    m, n = length_of(signatures, a), length_of(signatures, b)
    if shared == 0:
        return 1.0 if m == n == 0 else 0.0
    jaro = (shared / m + shared / n + 1.0) / 3.0 + _ROUNDING
    if jaro <= 0.7:
        return jaro
    differ = (signatures[a, 2] ^ signatures[b, 2]) >> np.uint64(8)
    prefix, most = 0, min(m, n, 4)
    while prefix < most and (differ >> np.uint64(8 * prefix)) & np.uint64(255) == np.uint64(0):
        prefix += 1
    return jaro + 0.1 * prefix * (1.0 - jaro) + _ROUNDING


@kernel
def bounds(signatures: Signatures, left: Int64s, right: Int64s, out: npt.NDArray[np.float64]) -> None:
    """Per pair the highest Jaro-Winkler and the least edit distance, 2 and -1 where nothing is known: float64[n, 2]."""
    for i in range(left.size):
        a, b = left[i], right[i]
        shared = shared_at_most(signatures, a, b)
        out[i, 0], out[i, 1] = 2.0, -1.0
        if shared >= 0:
            out[i, 0] = highest_jaro_winkler(signatures, a, b, shared)
            out[i, 1] = max(length_of(signatures, a), length_of(signatures, b)) - shared


