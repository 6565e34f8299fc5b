"""How many different values there are, about: HyperLogLog registers of ours, estimated by Apache DataSketches.

Registers are the maximum over what was seen, so they depend on neither order nor cut, and merge. DataSketches' own
update keeps a better running estimate that depends on the order of updates; here it gets the registers as one image in
its published format, marked as out of order, so that its estimate is a function of the registers alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import datasketches
import numpy as np

from streamproc.errors import DefinitionError
from streamproc.hashing import UInt64s
from streamproc.operators.accumulators import Reading
from streamproc.operators.tallies import REGISTERS, Tallies, registers_of
from streamproc.operators.values import Flags
from streamproc.ports import Int64s

_HEAD: Final = bytes([10, 1, 7, 12, 0, 16, 0, 10])
"""HLL_8 of 2**12 registers: preamble words, version, family, log2 of size, list size, flags, minimum, mode."""


def estimate(registers: Int64s, values: Int64s) -> float:
    """DataSketches' estimate of these registers (distinct ones; all others are zero).

    >>> round(estimate(np.array([7]), np.array([1])))
    1
    """
    image = np.zeros(REGISTERS, np.uint8)
    image[registers] = values
    weights = np.ldexp(1.0, -image.astype(np.int64))  # powers of two of one size: their sum is exact in any order
    small = image < 32
    head = struct.pack(
        "<dddii", 0.0, float(weights[small].sum()), float(weights[~small].sum()), REGISTERS - registers.size, 0
    )
    sketch = datasketches.hll_sketch.deserialize(_HEAD + head + image.tobytes())
    return float(sketch.get_estimate())


@dataclass(slots=True)
class Registers:
    """HyperLogLog registers by slot, only those that are not zero."""

    tallies: Tallies

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.tallies.grow(slots)

    def add(self, slots: Int64s, hashes: UInt64s, valid: Flags) -> None:
        """Raises the registers of the valid rows."""
        rows = np.flatnonzero(valid)
        registers, values = np.empty(rows.size, np.int64), np.empty(rows.size, np.int64)
        registers_of(hashes[rows], registers, values)
        self.tallies.put(slots[rows], registers, values)

    def add_each(self, slots: Int64s, hashes: UInt64s, valid: Flags) -> Reading:
        """Refused: an estimate costs too much to make one for every row."""
        raise DefinitionError("approx_distinct has no value per row", hint="use distinct, or emit='close'")

    def merge(self, into: Int64s, source: Int64s) -> None:
        """The larger of each register."""
        self.tallies.merge(into, source)

    def clear(self, slots: Int64s) -> None:
        """Back to nothing."""
        self.tallies.clear(slots)

    def read(self, slots: Int64s) -> Reading:
        """(estimates float64,)"""
        sizes, registers, values = self.tallies.pairs_of(slots)
        bounds = np.cumsum(sizes)
        out = np.empty(slots.size)
        for i in range(slots.size):
            inside = slice(int(bounds[i] - sizes[i]), int(bounds[i]))
            out[i] = estimate(registers[inside], values[inside])
        return (out,)
