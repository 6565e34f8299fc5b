"""Sample variances from exact sums: nothing cancels, whatever the mean.

With S1 the sum of the values, S2 that of their squares, both exact, the numerator n S2 - S1^2 is formed without error
from the parts of the two sums and rounded once; then it is divided by n (n - 1). The textbook formula in floats loses
all digits where the mean is large beside the spread; this one cannot, and it does not depend on order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from streamproc.kernels import tight
from streamproc.operators.accumulators import Counts, Reading, counts
from streamproc.operators.exact import (
    MINUS,
    NANS,
    PARTS,
    PLUS,
    ROW,
    ExactSums,
    SumArrays,
    add_exact,
    add_exact_square,
    exact_sums,
    product,
    round_parts,
    spill_row,
    two_sum,
)
from streamproc.operators.values import Flags, Float64s
from streamproc.operators.wide_sums import LIMBS, PRODUCT_LIMBS, add_wide, wide_variance_numerator
from streamproc.ports import Int64s
from streamproc.row_loops import fill

_ROOM: Final = 4 * PARTS * PARTS
"""More than the products of one numerator, each of which lengthens the expansion by one part at most."""


def scratch() -> tuple[Float64s, Int64s]:
    """Room in which kernels form a numerator: they allocate nothing."""
    return np.empty(_ROOM), np.empty(2 * LIMBS + PRODUCT_LIMBS, np.int64)


@tight
def _grow(parts: Float64s, used: int, x: float) -> int:
    """Adds x to an expansion of any length without error; the new number of parts."""
    kept = 0
    for k in range(used):
        x, error = two_sum(x, parts[k])
        if error != 0.0:
            parts[kept] = error
            kept += 1
    if x != 0.0:
        parts[kept] = x
        kept += 1
    return kept


@tight
def _spilled_numerator(totals: SumArrays, squares: SumArrays, i: int, j: int, n: int, limbs: Int64s) -> float:
    """The numerator where a sum has spilled: by wide sums."""
    fill(limbs, 0)
    total, square = limbs[:LIMBS], limbs[LIMBS : 2 * LIMBS]
    for sums, into, slot in ((totals, total, i), (squares, square, j)):
        row = spill_row(sums, slot)
        if row >= 0:
            if sums.special[row, NANS] > 0 or sums.special[row, PLUS] > 0 or sums.special[row, MINUS] > 0:
                return np.nan
            for k in range(LIMBS):
                into[k] = sums.limbs[row, k]
        else:
            for k in range(PARTS):
                add_wide(into, sums.parts[slot, k], 1)
    return wide_variance_numerator(total, square, n, limbs[2 * LIMBS :])


@tight
def sample_variance(
    totals: SumArrays, squares: SumArrays, i: int, j: int, n: int, parts: Float64s, limbs: Int64s
) -> float:
    """The sample variance of n > 1 values with sum in slot i, sum of squares in slot j.

    NaN where a value is not finite, an infinity if the numerator is out of range.
    parts, limbs  what `scratch` gives
    """
    if totals.parts[i, ROW] != 0.0 or squares.parts[j, ROW] != 0.0:
        numerator = _spilled_numerator(totals, squares, i, j, n, limbs)
    else:
        # Unspilled squares are of numbers between 2**-400 and 2**400: no product here can overflow or lose bits.
        used = 0
        for k in range(PARTS):
            high, low = product(np.float64(n), squares.parts[j, k])
            used = _grow(parts, used, low)
            used = _grow(parts, used, high)
            for m in range(PARTS):
                high, low = product(totals.parts[i, k], totals.parts[i, m])
                used = _grow(parts, used, -low)
                used = _grow(parts, used, -high)
        numerator = round_parts(parts, used)
    return numerator / (np.float64(n) * np.float64(n - 1))


@tight
def _read(
    totals: SumArrays, squares: SumArrays, slots: Int64s, n: Int64s, out: Float64s, parts: Float64s, limbs: Int64s
) -> None:
    for i in range(slots.size):
        out[i] = sample_variance(totals, squares, slots[i], slots[i], n[i], parts, limbs) if n[i] > 1 else 0.0


@tight
def _add_each(
    totals: SumArrays,
    squares: SumArrays,
    counted: Int64s,
    slots: Int64s,
    values: Float64s,
    valid: Flags,
    n: Int64s,
    out: Float64s,
    parts: Float64s,
    limbs: Int64s,
    start: int,
) -> int:
    """Goes on at row `start`; the row before which the pools need room, or -1."""
    for i in range(start, slots.size):
        slot = slots[i]
        if valid[i]:
            if totals.free_count[0] == 0 or squares.free_count[0] == 0:
                return i
            add_exact(totals, slot, values[i], 1)
            add_exact_square(squares, slot, values[i], 1)
            counted[slot] += 1
        n[i] = counted[slot]
        out[i] = sample_variance(totals, squares, slot, slot, n[i], parts, limbs) if n[i] > 1 else 0.0
    return -1


@dataclass(slots=True)
class Variances:
    """Sums of values and of squares by slot, and how many values there are."""

    totals: ExactSums
    squares: ExactSums
    counts: Counts

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.totals.grow(slots)
        self.squares.grow(slots)
        self.counts.grow(slots)

    def add(self, slots: Int64s, values: Float64s, valid: Flags) -> None:
        """Adds the valid values."""
        self.totals.add(slots, values, valid)
        self.squares.add_squares(slots, values, valid)
        self.counts.add(slots, valid)

    def add_each(self, slots: Int64s, values: Float64s, valid: Flags) -> Reading:
        """Adds, and gives variance and count after each row."""
        n, out = np.empty(slots.size, np.int64), np.empty(slots.size)
        at = 0
        while (at := _add_each(self.totals.arrays(), self.squares.arrays(), self.counts.counts, slots, values, valid, n,
                               out, *scratch(), at)) >= 0:  # fmt: skip
            self.totals.grow_pool()
            self.squares.grow_pool()
        return (out, n)

    def merge(self, into: Int64s, source: Int64s) -> None:
        """Adds sums and counts."""
        self.totals.merge(into, source)
        self.squares.merge(into, source)
        self.counts.merge(into, source)

    def clear(self, slots: Int64s) -> None:
        """Back to nothing."""
        self.totals.clear(slots)
        self.squares.clear(slots)
        self.counts.clear(slots)

    def read(self, slots: Int64s) -> Reading:
        """(variances, 0 below two values; counts)"""
        (n,) = self.counts.read(slots)
        out = np.empty(slots.size)
        _read(self.totals.arrays(), self.squares.arrays(), slots, n, out, *scratch())
        return (out, n)


def variances() -> Variances:
    """Variances without a slot yet."""
    return Variances(exact_sums(), exact_sums(), counts())
