"""First and last values by event time, then coordinate: what `first` and `last` remember.

Which row is first does not depend on which came first. Rows of the same event time are told apart by their
coordinate (source, partition, offset ...), which is fixed where a row enters, so two halves of a window can be merged
in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.columns import grow
from streamproc.kernels import kernel
from streamproc.operators.accumulators import Reading
from streamproc.operators.values import Flags
from streamproc.ports import Int64s

PLACE: Final = 5
"""Numbers that say where a row stands: event time and the four of its coordinate."""

Places = npt.NDArray[np.int64]


@kernel
def _before(a: Places, i: int, b: Places, j: int) -> bool:
    for k in range(PLACE):
        if a[i, k] != b[j, k]:
            return bool(a[i, k] < b[j, k])
    return False


@kernel
def _offer(
    places: Places, codes: Int64s, present: Flags, slot: int, others: Places, i: int, code: int, latest: int
) -> None:
    if not present[slot]:
        present[slot] = 1
    elif latest:
        if _before(others, i, places, slot):
            return
    elif not _before(others, i, places, slot):
        return
    codes[slot] = code
    for k in range(PLACE):
        places[slot, k] = others[i, k]


@kernel
def _offer_all(
    places: Places,
    codes: Int64s,
    present: Flags,
    slots: Int64s,
    values: Int64s,
    others: Places,
    valid: Flags,
    latest: int,
) -> None:
    for i in range(slots.size):
        if valid[i]:
            _offer(places, codes, present, slots[i], others, i, values[i], latest)


@kernel
def _offer_each(
    places: Places,
    codes: Int64s,
    present: Flags,
    slots: Int64s,
    values: Int64s,
    others: Places,
    valid: Flags,
    latest: int,
    out: Int64s,
    has: Flags,
) -> None:
    for i in range(slots.size):
        if valid[i]:
            _offer(places, codes, present, slots[i], others, i, values[i], latest)
        out[i] = codes[slots[i]]
        has[i] = present[slots[i]]


@kernel
def _offer_merge(places: Places, codes: Int64s, present: Flags, into: Int64s, source: Int64s, latest: int) -> None:
    for i in range(into.size):
        if present[source[i]]:
            _offer(places, codes, present, into[i], places, source[i], codes[source[i]], latest)


@dataclass(slots=True)
class Edges:
    """The code of the first (or last) value by slot, and the place of its row.

    places  int64[slots, 5]  event time and coordinate
    latest  1 for the last value, 0 for the first
    """

    places: Places
    codes: Int64s
    present: Flags
    latest: int

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.places, self.codes = grow(self.places, slots), grow(self.codes, slots)
        self.present = grow(self.present, slots)

    def add(self, slots: Int64s, codes: Int64s, places: Places, valid: Flags) -> None:
        """Compares the places of the valid rows."""
        _offer_all(self.places, self.codes, self.present, slots, codes, places, valid, self.latest)

    def add_each(self, slots: Int64s, codes: Int64s, places: Places, valid: Flags) -> Reading:
        """Compares, and gives the value after each row."""
        out, has = np.empty(slots.size, np.int64), np.empty(slots.size, np.uint8)
        _offer_each(self.places, self.codes, self.present, slots, codes, places, valid, self.latest, out, has)
        return (out, has)

    def merge(self, into: Int64s, source: Int64s) -> None:
        """The earlier (or later) of both."""
        _offer_merge(self.places, self.codes, self.present, into, source, self.latest)

    def clear(self, slots: Int64s) -> None:
        """Back to nothing."""
        self.present[slots] = 0

    def read(self, slots: Int64s) -> Reading:
        """(codes, present)"""
        return (self.codes[slots], self.present[slots])


def edges(*, latest: bool) -> Edges:
    """Edges without a slot yet."""
    return Edges(np.zeros((0, PLACE), np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8), int(latest))
