"""Fixed-point sums wide enough for every float64 and its square: where an expansion of a few floats does not reach.

A *wide sum* is a row of `LIMBS` int64 numbers, each of which stands for 32 bits of a binary number whose lowest bit is
2**-2240 and whose highest is above 2**2100. Adding touches two or three limbs and carries nothing; a limb has room for
2**30 additions before `carry` must bring it back below 2**32. The value is exact at every moment, so it cannot depend
on order, and only `round_half_even` loses anything, once.

Source: the small superaccumulator of R. M. Neal, "Fast exact summation using small and large superaccumulators" (2015).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.kernels import tight
from streamproc.ports import Int64s
from streamproc.row_loops import fill

LIMBS: Final = 140
PRODUCT_LIMBS: Final = 2 * LIMBS + 2
LOWEST_BIT: Final = 2240
"""Bit 0 of limb 0 has the value 2**-LOWEST_BIT."""
_LOW32: Final = np.uint64(0xFFFFFFFF)
_MANTISSA: Final = np.int64((1 << 52) - 1)

Float64s = npt.NDArray[np.float64]


@tight
def _add_bits(limbs: Int64s, magnitude: np.uint64, bit: int, sign: int) -> None:
    """Adds sign * magnitude * 2**(bit - LOWEST_BIT) to the row."""
    at = bit >> 5
    shift = np.uint64(bit & 31)
    low = (magnitude & _LOW32) << shift
    high = (magnitude >> np.uint64(32)) << shift
    limbs[at] += sign * np.int64(low & _LOW32)
    limbs[at + 1] += sign * np.int64((low >> np.uint64(32)) + (high & _LOW32))
    limbs[at + 2] += sign * np.int64(high >> np.uint64(32))


@tight
def add_wide(limbs: Int64s, x: float, sign: int) -> None:
    """Adds sign * x, a finite float, to the row."""
    bits = int(np.float64(x).view(np.int64))
    exponent = int((bits >> 52) & 0x7FF)
    mantissa = bits & _MANTISSA
    if exponent:
        mantissa |= np.int64(1) << 52
    else:
        exponent = 1
    _add_bits(limbs, np.uint64(mantissa), exponent - 1075 + LOWEST_BIT, -sign if bits < 0 else sign)


@tight
def add_wide_square(limbs: Int64s, x: float, sign: int) -> None:
    """Adds sign * x * x, of a finite float, exactly to the row."""
    bits = int(np.float64(x).view(np.int64))
    exponent = int((bits >> 52) & 0x7FF)
    mantissa = bits & _MANTISSA
    if exponent:
        mantissa |= np.int64(1) << 52
    else:
        exponent = 1
    bit = 2 * (exponent - 1075) + LOWEST_BIT
    high = np.uint64(mantissa) >> np.uint64(32)
    low = np.uint64(mantissa) & _LOW32
    _add_bits(limbs, low * low, bit, sign)
    _add_bits(limbs, np.uint64(2) * high * low, bit + 32, sign)
    _add_bits(limbs, high * high, bit + 64, sign)


@tight
def carry(limbs: Int64s) -> None:
    """Brings every limb but the highest into 0..2**32-1; the highest carries the sign."""
    over = np.int64(0)
    top = limbs.size - 1
    for at in range(top):
        value = limbs[at] + over
        limbs[at] = value & np.int64(0xFFFFFFFF)
        over = value >> 32
    limbs[top] += over


@tight
def round_half_even(limbs: Int64s, lowest: int) -> float:
    """The float64 nearest to the row's value, ties to even; zero is +0.0, what is out of range an infinity.

    lowest  bit 0 of the row has the value 2**-lowest, which is at least 1074
    The row is carried in passing, which does not change its value.
    """
    carry(limbs)
    if limbs[limbs.size - 1] >= 0:
        return _rounded_magnitude(limbs, lowest)
    _negate(limbs)
    value = _rounded_magnitude(limbs, lowest)
    _negate(limbs)
    return -value


@tight
def _negate(limbs: Int64s) -> None:
    for k in range(limbs.size):
        limbs[k] = -limbs[k]
    carry(limbs)


@tight
def _rounded_magnitude(work: Int64s, lowest: int) -> float:
    """As `round_half_even`, of carried limbs that are not negative."""
    top = work.size - 1
    while top >= 0 and work[top] == 0:
        top -= 1
    if top < 0:
        return 0.0
    length = 0
    while work[top] >> length:
        length += 1
    highest = top * 32 + length - 1  # the bit number of the leading one
    # The last bit that the result can hold: 52 below the leading one, but never below 2**-1074.
    last = max(highest - 52, lowest - 1074)
    mantissa = np.int64(0)
    for place in range(top, -1, -1):
        low_bit = place * 32
        if low_bit >= last:
            mantissa |= work[place] << (low_bit - last)
        else:
            if low_bit + 32 > last:
                mantissa |= work[place] >> (last - low_bit)
            break
    half_at = last - 1
    half = (work[half_at >> 5] >> (half_at & 31)) & 1
    if half:
        rest = (work[half_at >> 5] & ((np.int64(1) << (half_at & 31)) - 1)) != 0
        at = (half_at >> 5) - 1
        while not rest and at >= 0:
            rest = work[at] != 0
            at -= 1
        if rest or mantissa & 1:
            mantissa += 1
    # mantissa <= 2**53 is exact as a float and already stands on the result's grid: nothing is rounded again here.
    return math.ldexp(np.float64(mantissa), last - lowest)


@tight
def wide_variance_numerator(root: Int64s, squares: Int64s, n: int, out: Int64s) -> float:
    """n * squares - root**2 of two rows, formed exactly and rounded once.

    out  int64[PRODUCT_LIMBS], scratch; the rows are changed
    """
    carry(root)
    if root[LIMBS - 1] < 0:
        _negate(root)
    carry(squares)
    fill(out, 0)
    used = LIMBS
    while used > 0 and root[used - 1] == 0:
        used -= 1
    for i in range(used):
        over = np.uint64(0)
        for j in range(used):
            # At most (2**32 - 1)**2 + 2 * (2**32 - 1), which is the largest uint64.
            over += np.uint64(root[i]) * np.uint64(root[j]) + np.uint64(out[i + j])
            out[i + j] = np.int64(over & _LOW32)
            over >>= np.uint64(32)
        out[i + used] = np.int64(over)
    # Bit 0 of a product of two rows is 2**-(2 * LOWEST_BIT): squares move up by LOWEST_BIT bits, which is 70 limbs.
    shift = LOWEST_BIT // 32
    low, high = n & 0xFFFFFFFF, n >> 32
    for k in range(out.size):
        out[k] = -out[k]
    for k in range(LIMBS - 1):
        for part, place in ((low, shift + k), (high, shift + k + 1)):
            term = np.uint64(squares[k]) * np.uint64(part)
            out[place] += np.int64(term & _LOW32)
            out[place + 1] += np.int64(term >> np.uint64(32))
    return round_half_even(out, 2 * LOWEST_BIT)


def integer(limbs: Int64s) -> int:
    """The row's value times 2**LOWEST_BIT, as a Python integer: for what happens a few times a step.

    >>> row = np.zeros(LIMBS, np.int64)
    >>> add_wide(row, 0.5, 1)
    >>> integer(row) == 2**(LOWEST_BIT - 1)
    True
    """
    total = 0
    for at in range(LIMBS - 1, -1, -1):
        total = (total << 32) + int(limbs[at])
    return total
