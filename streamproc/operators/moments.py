"""Sample variances from exact sums: nothing cancels, whatever the mean.

With S1 the sum of the values, S2 that of their squares, both exact, the numerator n S2 - S1^2 is formed without error
from the parts of the two sums and rounded once; then it is divided by n (n - 1). The textbook formula in floats loses
all digits where the mean is large beside the spread; this one cannot, and it does not depend on order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from streamproc.hashing import kernel
from streamproc.operators.accumulators import Counts, Reading, counts
from streamproc.operators.exact import (
    PARTS,
    ExactSums,
    SumArrays,
    add_exact,
    add_exact_square,
    exact_sums,
    product,
    round_parts,
    two_sum,
)
from streamproc.operators.values import Flags, Float64s
from streamproc.ports import Int64s

_ROOM: Final = 4 * PARTS * PARTS
"""More than the products of one numerator, each of which lengthens the expansion by one part at most."""


@kernel
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


@kernel
def variance_numerator(totals: SumArrays, squares: SumArrays, i: int, n: int) -> float:
    """n S2 - S1^2 of slot i rounded once, or -1 if a sum of it has spilled (then Python does it, see `_slowly`)."""
    if totals.spill[i] >= 0 or squares.spill[i] >= 0:
        return -1.0
    # Unspilled squares are of numbers between 2**-400 and 2**400: no product here can overflow or lose bits.
    parts = np.zeros(_ROOM)
    used = 0
    for k in range(PARTS):
        high, low = product(np.float64(n), squares.parts[i, k])
        used = _grow(parts, used, low)
        used = _grow(parts, used, high)
        for j in range(PARTS):
            high, low = product(totals.parts[i, k], totals.parts[i, j])
            used = _grow(parts, used, -low)
            used = _grow(parts, used, -high)
    return round_parts(parts, used)


@kernel
def _read(totals: SumArrays, squares: SumArrays, slots: Int64s, n: Int64s, out: Float64s, start: int) -> int:
    for i in range(start, slots.size):
        out[i] = 0.0
        if n[i] > 1:
            numerator = variance_numerator(totals, squares, slots[i], n[i])
            if numerator < 0.0:
                return i
            out[i] = numerator / (np.float64(n[i]) * np.float64(n[i] - 1))
    return slots.size


NEEDS_ROOM: Final = 0
NEEDS_PYTHON: Final = 1


@kernel
def _add_each(
    totals: SumArrays,
    squares: SumArrays,
    counted: Int64s,
    slots: Int64s,
    values: Float64s,
    valid: Flags,
    n: Int64s,
    out: Float64s,
    progress: Int64s,
) -> int:
    """Goes on at row progress[0]; progress[1] says how much of that row is done (1: total, 2: square, too)."""
    for i in range(progress[0], slots.size):
        slot = slots[i]
        if valid[i]:
            if progress[1] == 0:
                if not add_exact(totals, slot, values[i], 1):
                    progress[0] = i
                    return NEEDS_ROOM
                progress[1] = 1
            if not add_exact_square(squares, slot, values[i], 1):
                progress[0] = i
                return NEEDS_ROOM
            counted[slot] += 1
        progress[1] = 0
        n[i] = counted[slot]
        out[i] = 0.0
        if n[i] > 1:
            numerator = variance_numerator(totals, squares, slot, n[i])
            if numerator < 0.0:
                progress[0] = i + 1
                return NEEDS_PYTHON
            out[i] = numerator / (np.float64(n[i]) * np.float64(n[i] - 1))
    progress[0] = slots.size
    return NEEDS_PYTHON


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
        progress = np.zeros(2, np.int64)
        while progress[0] < slots.size:
            why = _add_each(
                self.totals.arrays(), self.squares.arrays(), self.counts.counts, slots, values, valid, n, out, progress
            )
            if why == NEEDS_ROOM:
                self.totals.grow_pool()
                self.squares.grow_pool()
            elif progress[0] < slots.size or (slots.size and self._is_wide(int(slots[-1])) and n[-1] > 1):
                row = int(progress[0]) - 1
                out[row] = self._slowly(int(slots[row]), int(n[row]))
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
        at = 0
        while (at := _read(self.totals.arrays(), self.squares.arrays(), slots, n, out, at)) < slots.size:
            out[at] = self._slowly(int(slots[at]), int(n[at]))
            at += 1
        return (out, n)

    def _is_wide(self, slot: int) -> bool:
        return bool(self.totals.spill[slot] >= 0 or self.squares.spill[slot] >= 0)

    def _slowly(self, slot: int, n: int) -> float:
        return sample_variance(n, self.totals.exactly(slot), self.squares.exactly(slot))


def sample_variance(count: int, total: Fraction | float, squares: Fraction | float) -> float:
    """The numerator rounded, then divided: what the kernel does, for exact sums of any size.

    NaN where a sum is not finite, an infinity where the numerator is out of range.

    >>> sample_variance(3, Fraction(6), Fraction(14))
    1.0
    """
    if isinstance(total, float) or isinstance(squares, float):
        return math.nan
    try:
        numerator = float(count * squares - total * total)
    except OverflowError:
        numerator = math.inf
    return numerator / (float(count) * float(count - 1))


def variances() -> Variances:
    """Variances without a slot yet."""
    return Variances(exact_sums(), exact_sums(), counts())
