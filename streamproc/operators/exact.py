"""Totals of floats that are rounded once: they depend on neither order, nor cut, nor what was evicted.

An accumulator is an *expansion*: three float64 numbers that do not overlap in their bits and whose sum is, without any
error, the sum of all that was added (J. R. Shewchuk, "Adaptive precision floating-point arithmetic", 1997). Adding a
number pushes it through the three by error-free additions; what falls out at the top is the new largest part. Three
parts hold about 160 bits, enough for amounts and measurements. Where they do not suffice, where a number is so large or
(for squares) so small that an intermediate result would leave the range of floats, or where NaN or an infinity comes,
the accumulator *spills*: it gets a row in a pool of wide sums, which hold everything, and counters for the three
special values. So no value of the data can make a total wrong; unusual ones only make it slower.

All accumulators of one aggregate lie in one `ExactSums`, indexed by slot.

Cost: about 10 ns an addition, and as much for taking a number out again (two cores of 2020's make, warm cache).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from streamproc.columns import grow, next_rows
from streamproc.kernels import inlined, kernel, tight
from streamproc.operators.wide_sums import LIMBS, LOWEST_BIT, add_wide, add_wide_square, carry, integer, round_half_even
from streamproc.ports import Int64s
from streamproc.row_loops import fill
from streamproc.slot_index import prefetch_ahead

PARTS: Final = 3
ROW: Final = PARTS
"""Where beside the parts the row of the pool stands."""

NANS: Final = 0
PLUS: Final = 1
MINUS: Final = 2
_PENDING: Final = 3
"""Additions since the row was last carried."""
_CARRY_AFTER: Final = 1 << 29

_BIG: Final = 2.0**900
"""A larger number goes to the wide sum: with parts below this no error-free addition can overflow."""
_SQUARE_BIG: Final = 2.0**400
_SQUARE_SMALL: Final = 2.0**-400
"""Outside these bounds the error of a product may not be a float."""

Float64s = npt.NDArray[np.float64]
Parts = npt.NDArray[np.float64]
Wide = npt.NDArray[np.int64]


class SumArrays(NamedTuple):
    """The arrays of an `ExactSums`, as kernels take them."""

    parts: Parts
    limbs: Wide
    special: Wide
    free: Int64s
    free_count: Int64s


@dataclass(slots=True)
class ExactSums:
    """Exact sums by slot.

    parts   float64[slots, 4]  the expansion, smallest part first, zeros anywhere; then one more than the row of the
                               pool that the slot has, or zero: all that an addition touches, in half a cache line
    limbs   int64[pool, LIMBS] wide sums
    special int64[pool, 4]     how often NaN, +inf, -inf are in the sum; additions since the last carry
    free    int64[pool]        free rows of the pool, a stack
    free_count int64[1]        its height
    """

    parts: Parts
    limbs: Wide
    special: Wide
    free: Int64s
    free_count: Int64s

    def arrays(self) -> SumArrays:
        """The arrays as they are now, for kernels; stale after `grow` or an addition that enlarges the pool."""
        return SumArrays(self.parts, self.limbs, self.special, self.free, self.free_count)

    def grow(self, slots: int) -> None:
        """Makes room for slots 0..slots-1; new ones are zero."""
        if slots > self.parts.shape[0]:
            self.parts = grow(self.parts, slots)

    def grow_pool(self) -> None:
        """Adds free rows to the pool: what kernels ask for by giving False or a row to go on from."""
        old = self.limbs.shape[0]
        new = next_rows(old, old + 1)
        self.limbs = grow(self.limbs, new)
        self.special = grow(self.special, new)
        self.free = grow(self.free, new)
        # Lowest row on top of the stack: which row a slot gets is then the same on every run.
        height = int(self.free_count[0])
        self.free[height : height + new - old] = np.arange(new - 1, old - 1, -1)
        self.free_count[0] += new - old

    def add(self, slots: Int64s, values: Float64s, valid: npt.NDArray[np.uint8]) -> None:
        """Adds values[i] to slot slots[i] where valid[i]."""
        at = 0
        while (at := _add_all(self.arrays(), slots, values, valid, at)) >= 0:
            self.grow_pool()

    def add_squares(self, slots: Int64s, values: Float64s, valid: npt.NDArray[np.uint8]) -> None:
        """Adds values[i] squared, exactly, to slot slots[i] where valid[i]."""
        at = 0
        while (at := _add_all_squares(self.arrays(), slots, values, valid, at)) >= 0:
            self.grow_pool()

    def add_each(self, slots: Int64s, values: Float64s, valid: npt.NDArray[np.uint8]) -> Float64s:
        """Adds like `add`, and gives the rounded sum of slots[i] right after each row i."""
        out = np.empty(slots.size)
        at = 0
        while (at := _add_each(self.arrays(), slots, values, valid, out, at)) >= 0:
            self.grow_pool()
        return out

    def merge(self, into: Int64s, source: Int64s) -> None:
        """Adds the sum of slot source[i] to slot into[i]; the sources stay as they are."""
        at = 0
        while (at := _merge_all(self.arrays(), into, source, at)) >= 0:
            self.grow_pool()

    def clear(self, slots: Int64s) -> None:
        """Sets these slots to zero and gives their rows of the pool back."""
        _clear_all(self.arrays(), slots)

    def rounded(self, slots: Int64s) -> Float64s:
        """The sums of these slots, each rounded half-even once; see `rounded_sum` for special values."""
        out = np.empty(slots.size)
        _round_all(self.arrays(), slots, out)
        return out

    def exactly(self, slot: int) -> Fraction | float:
        """The sum of one slot as a fraction, or the NaN or infinity that decides it: for the few unusual slots."""
        row = int(self.parts[slot, ROW]) - 1
        total = sum((Fraction(float(part)) for part in self.parts[slot, :ROW]), Fraction(0))
        if row < 0:
            return total
        if self.special[row, :_PENDING].any():
            return float(self.rounded(np.array([slot]))[0])
        return total + Fraction(integer(self.limbs[row]), 1 << LOWEST_BIT)


def exact_sums(slots: int = 0) -> ExactSums:
    """Exact sums, all zero.

    >>> sums = exact_sums(1)
    >>> sums.add(np.zeros(3, np.int64), np.array([1e16, 1.0, -1e16]), np.ones(3, np.uint8))
    >>> sums.rounded(np.array([0]))
    array([1.])
    """
    return ExactSums(
        np.zeros((slots, PARTS + 1)), np.zeros((0, LIMBS), np.int64),
        np.zeros((0, 4), np.int64), np.zeros(0, np.int64), np.zeros(1, np.int64),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Kernels. Each `add` gives False, without having changed anything, if it needs a row of the pool and none is free.


@inlined
def two_sum(a: float, b: float) -> tuple[float, float]:
    """a + b rounded, and the error: exactly a + b together."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@inlined
def product(a: float, b: float) -> tuple[float, float]:
    """a * b rounded, and the error, by Veltkamp's splitting and Dekker's product; not near the ends of the range."""
    scaled = 134217729.0 * a
    a_high = scaled - (scaled - a)
    a_low = a - a_high
    scaled = 134217729.0 * b
    b_high = scaled - (scaled - b)
    b_low = b - b_high
    p = a * b
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


@tight
def _compressed(e0: float, e1: float, e2: float, e3: float, parts: Parts, i: int) -> bool:
    """Packs four parts into the slot's three if the bits fit; False, nothing written, if they do not."""
    # Shewchuk's COMPRESS, downwards: every part becomes as large as it can be, what is left of it falls through.
    q, r2 = two_sum(e3, e2)
    g3 = 0.0
    if r2 != 0.0:
        g3, q = q, r2
    q2, r1 = two_sum(q, e1)
    g2 = 0.0
    if r1 != 0.0:
        g2, q2 = q2, r1
    q3, r0 = two_sum(q2, e0)
    g1 = 0.0
    if r0 != 0.0:
        g1, q3 = q3, r0
    if g1 != 0.0 and g2 != 0.0 and g3 != 0.0:
        return False
    if g3 == 0.0:
        g3, g2, g1, q3 = g2, g1, q3, 0.0
    if g2 == 0.0 and (g1 != 0.0 or q3 != 0.0):
        g2, g1, q3 = g1, q3, 0.0
    if g1 == 0.0:
        g1, q3 = q3, 0.0
    parts[i, 0], parts[i, 1], parts[i, 2] = g1, g2, g3
    return True


@inlined
def spill_row(sums: SumArrays, i: int) -> int:
    """The row of the pool that slot i has, or -1."""
    return int(sums.parts[i, ROW]) - 1


@tight
def _spill(sums: SumArrays, i: int) -> bool:
    """Gives the slot a row of the pool and moves its parts there."""
    parts, limbs, special, free_count = sums.parts, sums.limbs, sums.special, sums.free_count
    if free_count[0] == 0:
        return False
    free_count[0] -= 1
    row = sums.free[free_count[0]]
    fill(limbs[row], 0)
    fill(special[row], 0)
    parts[i, ROW] = row + 1
    for k in range(PARTS):
        add_wide(limbs[row], parts[i, k], 1)
        parts[i, k] = 0.0
    special[row, _PENDING] = PARTS
    return True


@tight
def _pending(limbs: Wide, special: Wide, row: int, additions: int) -> None:
    special[row, _PENDING] += additions
    if special[row, _PENDING] >= _CARRY_AFTER:
        carry(limbs[row])
        special[row, _PENDING] = 1


@tight
def _add_spilled(sums: SumArrays, i: int, x: float, sign: int) -> bool:
    parts, limbs, special = sums.parts, sums.limbs, sums.special
    if parts[i, ROW] == 0.0 and not _spill(sums, i):
        return False
    row = spill_row(sums, i)
    if np.isfinite(x):
        add_wide(limbs[row], x, sign)
        _pending(limbs, special, row, 1)
    elif np.isnan(x):
        special[row, NANS] += sign
    elif x > 0:
        special[row, PLUS] += sign
    else:
        special[row, MINUS] += sign
    return True


@inlined
def add_exact(sums: SumArrays, i: int, x: float, sign: int) -> bool:
    """Adds sign * x to slot i (sign -1 takes out what was added)."""
    parts = sums.parts
    if parts[i, ROW] == 0.0 and abs(x) < _BIG:
        y = x if sign > 0 else -x
        q, h0 = two_sum(y, parts[i, 0])
        q, h1 = two_sum(q, parts[i, 1])
        q, h2 = two_sum(q, parts[i, 2])
        if abs(q) < _BIG:
            if h0 == 0.0:
                parts[i, 0], parts[i, 1], parts[i, 2] = h1, h2, q
                return True
            if h1 == 0.0:
                parts[i, 0], parts[i, 1], parts[i, 2] = h0, h2, q
                return True
            if h2 == 0.0:
                parts[i, 0], parts[i, 1], parts[i, 2] = h0, h1, q
                return True
            if q == 0.0:
                parts[i, 0], parts[i, 1], parts[i, 2] = h0, h1, h2
                return True
            if _compressed(h0, h1, h2, q, parts, i):
                return True
    return _add_spilled(sums, i, x, sign)


@tight
def add_exact_square(sums: SumArrays, i: int, x: float, sign: int) -> bool:
    """Adds sign * x * x, exactly, to slot i."""
    parts = sums.parts
    if x == 0.0:
        return True
    if parts[i, ROW] == 0.0 and _SQUARE_SMALL < abs(x) < _SQUARE_BIG:
        square, error = product(x, x)
        # Two additions that must both happen or neither. Where the smaller finds no room, to take the larger out again
        # may find none either; but then the slot has no row of the pool, and its parts are all that has changed.
        p0, p1, p2 = parts[i, 0], parts[i, 1], parts[i, 2]
        if not add_exact(sums, i, square, sign):
            return False
        if error == 0.0 or add_exact(sums, i, error, sign):
            return True
        parts[i, 0], parts[i, 1], parts[i, 2] = p0, p1, p2
        return False
    if not np.isfinite(x):
        return _add_spilled(sums, i, x * x, sign)
    if parts[i, ROW] == 0.0 and not _spill(sums, i):
        return False
    add_wide_square(sums.limbs[spill_row(sums, i)], x, sign)
    _pending(sums.limbs, sums.special, spill_row(sums, i), 3)
    return True


@inlined
def round_three(a: float, b: float, c: float) -> float:
    """a + b + c, parts of an expansion from small to large with zeros anywhere, rounded half-even once."""
    if b == 0.0:
        a, b = 0.0, a
    if c == 0.0:
        a, b, c = 0.0, a, b
        if b == 0.0:
            a, b = 0.0, a
    # Now c is the largest part that is not zero, b the next; the rest decides only where c + b stands on a tie.
    s, r = two_sum(c, b)
    if r == 0.0:
        s, r = two_sum(s, a)
        a = 0.0
    if r != 0.0 and a != 0.0 and (r < 0.0) == (a < 0.0):
        doubled = r * 2.0
        up = s + doubled
        if up - s == doubled:
            s = up
    return s + 0.0


@kernel
def round_parts(parts: Float64s, used: int) -> float:
    """The sum of an expansion of `used` parts, small to large, none zero, rounded half-even once (as math.fsum)."""
    if used == 0:
        return 0.0
    at = used - 1
    s, r = float(parts[at]), 0.0
    while at > 0 and r == 0.0:
        at -= 1
        s, r = two_sum(s, float(parts[at]))
    if r != 0.0 and at > 0 and (r < 0.0) == (parts[at - 1] < 0.0):
        doubled = r * 2.0
        up = s + doubled
        if up - s == doubled:
            s = up
    return s + 0.0


@tight
def rounded_sum(sums: SumArrays, i: int) -> float:
    """The sum of slot i rounded half-even once.

    NaN if a NaN or both infinities are in it, else the infinity that is; +0.0 for zero; infinite if out of range.
    """
    parts, limbs, special = sums.parts, sums.limbs, sums.special
    row = spill_row(sums, i)
    if row >= 0:
        if special[row, NANS] > 0 or (special[row, PLUS] > 0 and special[row, MINUS] > 0):
            return np.nan
        if special[row, PLUS] > 0:
            return np.inf
        if special[row, MINUS] > 0:
            return -np.inf
        value = round_half_even(limbs[row], LOWEST_BIT)
        special[row, _PENDING] = 1
        return value
    return round_three(parts[i, 0], parts[i, 1], parts[i, 2])


@tight
def merge_exact(sums: SumArrays, into: int, source: int) -> bool:
    """Adds the sum of slot `source` to slot `into`."""
    parts, limbs, special = sums.parts, sums.limbs, sums.special
    row = spill_row(sums, source)
    if row < 0:
        # At most three additions, of which any may need the pool: make sure of a row before the first.
        if parts[into, ROW] == 0.0 and sums.free_count[0] == 0:
            return False
        for k in range(PARTS):
            if parts[source, k] != 0.0:
                add_exact(sums, into, parts[source, k], 1)
        return True
    if parts[into, ROW] == 0.0 and not _spill(sums, into):
        return False
    to = spill_row(sums, into)
    for k in range(_PENDING):
        special[to, k] += special[row, k]
    carry(limbs[row])
    special[row, _PENDING] = 1
    for k in range(LIMBS):
        limbs[to, k] += limbs[row, k]
    _pending(limbs, special, to, 1)
    return True


@tight
def clear_exact(sums: SumArrays, i: int) -> None:
    """Sets slot i to zero; its row of the pool is free again."""
    parts = sums.parts
    parts[i, 0] = parts[i, 1] = parts[i, 2] = 0.0
    row = spill_row(sums, i)
    if row >= 0:
        parts[i, ROW] = 0.0
        fill(sums.limbs[row], 0)
        fill(sums.special[row], 0)
        sums.free[sums.free_count[0]] = row
        sums.free_count[0] += 1


@tight
def _add_all(
    sums: SumArrays,
    slots: Int64s, values: Float64s, valid: npt.NDArray[np.uint8], start: int,
) -> int:  # fmt: skip
    for i in range(start, slots.size):
        prefetch_ahead(sums.parts, PARTS + 1, slots, i)
        if valid[i] and not add_exact(sums, slots[i], values[i], 1):
            return i
    return -1


@tight
def _add_all_squares(
    sums: SumArrays,
    slots: Int64s, values: Float64s, valid: npt.NDArray[np.uint8], start: int,
) -> int:  # fmt: skip
    for i in range(start, slots.size):
        prefetch_ahead(sums.parts, PARTS + 1, slots, i)
        if valid[i] and not add_exact_square(sums, slots[i], values[i], 1):
            return i
    return -1


@tight
def _add_each(
    sums: SumArrays,
    slots: Int64s, values: Float64s, valid: npt.NDArray[np.uint8], out: Float64s, start: int,
) -> int:  # fmt: skip
    for i in range(start, slots.size):
        prefetch_ahead(sums.parts, PARTS + 1, slots, i)
        if valid[i] and not add_exact(sums, slots[i], values[i], 1):
            return i
        out[i] = rounded_sum(sums, slots[i])
    return -1


@tight
def _merge_all(
    sums: SumArrays,
    into: Int64s, source: Int64s, start: int,
) -> int:  # fmt: skip
    for i in range(start, into.size):
        if not merge_exact(sums, into[i], source[i]):
            return i
    return -1


@tight
def _clear_all(sums: SumArrays, slots: Int64s) -> None:
    for i in range(slots.size):
        clear_exact(sums, slots[i])


@tight
def _round_all(sums: SumArrays, slots: Int64s, out: Float64s) -> None:
    for i in range(slots.size):
        out[i] = rounded_sum(sums, slots[i])
