"""What aggregates remember, by slot: counts, sums and extremes.

Each class keeps columns indexed by slot (a window's pane, a key) and answers the same six calls: `grow` makes room, new
slots are empty; `add` takes in a row per element of `slots`; `add_each` does the same and gives the reading of the slot
right after each row; `merge` adds what one slot holds to another; `clear` empties slots; `read` gives readings. A
*reading* is a tuple of arrays that `aggregates` turns into a column. None depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamproc.columns import grow
from streamproc.errors import StreamprocError
from streamproc.kernels import inlined, kernel, tight
from streamproc.operators.exact import ExactSums, exact_sums
from streamproc.operators.values import Flags, Float64s
from streamproc.ports import Int64s
from streamproc.slot_index import prefetch_ahead

Reading = tuple[npt.NDArray[Any], ...]


class Accumulator(Protocol):
    """The six calls. `add` and `add_each` take slots, then the arrays of one form of the column, see `inputs`."""

    @property
    def add(self) -> Callable[..., None]:
        """(slots, *columns): takes in one row per element of `slots`."""
        ...

    @property
    def add_each(self) -> Callable[..., Reading]:
        """(slots, *columns): takes the rows in one by one, and gives the reading of each row's slot right after it."""
        ...

    def grow(self, slots: int) -> None:
        """Makes room for slots 0..slots-1."""
        ...

    def merge(self, into: Int64s, source: Int64s) -> None:
        """Adds what slot source[i] holds to slot into[i], in order of i; the sources keep what they hold."""
        ...

    def clear(self, slots: Int64s) -> None:
        """Empties these slots."""
        ...

    def read(self, slots: Int64s) -> Reading:
        """What these slots hold."""
        ...


# ── counts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@tight
def _count(counts: Int64s, slots: Int64s, valid: Flags) -> None:
    for i in range(slots.size):
        prefetch_ahead(counts, 1, slots, i)
        counts[slots[i]] += valid[i]


@tight
def _count_each(counts: Int64s, slots: Int64s, valid: Flags, out: Int64s) -> None:
    for i in range(slots.size):
        prefetch_ahead(counts, 1, slots, i)
        counts[slots[i]] += valid[i]
        out[i] = counts[slots[i]]


@kernel
def _count_merge(counts: Int64s, into: Int64s, source: Int64s) -> None:
    for i in range(into.size):
        counts[into[i]] += counts[source[i]]


@dataclass(slots=True)
class Counts:
    """How many values: int64 by slot."""

    counts: Int64s

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.counts = grow(self.counts, slots)

    def add(self, slots: Int64s, valid: Flags) -> None:
        """Counts the valid rows."""
        _count(self.counts, slots, valid)

    def add_each(self, slots: Int64s, valid: Flags) -> Reading:
        """Counts, and gives the count after each row."""
        out = np.empty(slots.size, np.int64)
        _count_each(self.counts, slots, valid, out)
        return (out,)

    def merge(self, into: Int64s, source: Int64s) -> None:
        """Adds counts."""
        _count_merge(self.counts, into, source)

    def clear(self, slots: Int64s) -> None:
        """Back to zero."""
        self.counts[slots] = 0

    def read(self, slots: Int64s) -> Reading:
        """(counts,)"""
        return (self.counts[slots],)


# ── totals ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class FloatTotals:
    """Exactly rounded totals of floats, and how many there are."""

    sums: ExactSums
    counts: Counts

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.sums.grow(slots)
        self.counts.grow(slots)

    def add(self, slots: Int64s, values: Float64s, valid: Flags) -> None:
        """Adds the valid values."""
        self.sums.add(slots, values, valid)
        self.counts.add(slots, valid)

    def add_each(self, slots: Int64s, values: Float64s, valid: Flags) -> Reading:
        """Adds, and gives total and count after each row."""
        return (self.sums.add_each(slots, values, valid), *self.counts.add_each(slots, valid))

    def merge(self, into: Int64s, source: Int64s) -> None:
        """Adds totals."""
        self.sums.merge(into, source)
        self.counts.merge(into, source)

    def clear(self, slots: Int64s) -> None:
        """Back to nothing."""
        self.sums.clear(slots)
        self.counts.clear(slots)

    def read(self, slots: Int64s) -> Reading:
        """(totals float64, counts)"""
        return (self.sums.rounded(slots), *self.counts.read(slots))


@inlined
def wide_add(low: Int64s, high: Int64s, i: int, add_low: int, add_high: int) -> bool:
    """128-bit addition; False if the sum leaves 128 bits."""
    before = np.uint64(low[i])
    after = before + np.uint64(add_low)
    carried = np.int64(1) if after < before else np.int64(0)
    old = high[i]
    new = old + add_high + carried
    low[i] = np.int64(after)
    high[i] = new
    return not ((old < 0) == (add_high < 0) and (new < 0) != (old < 0))


@tight
def _wide_total(low: Int64s, high: Int64s, slots: Int64s, value_low: Int64s, value_high: Int64s, valid: Flags) -> int:
    for i in range(slots.size):
        prefetch_ahead(low, 1, slots, i)
        prefetch_ahead(high, 1, slots, i)
        if valid[i] and not wide_add(low, high, slots[i], value_low[i], value_high[i]):
            return i
    return -1


@kernel
def _wide_total_each(
    low: Int64s, high: Int64s, slots: Int64s, value_low: Int64s, value_high: Int64s, valid: Flags,
    out_low: Int64s, out_high: Int64s,
) -> int:  # fmt: skip
    for i in range(slots.size):
        prefetch_ahead(low, 1, slots, i)
        prefetch_ahead(high, 1, slots, i)
        if valid[i] and not wide_add(low, high, slots[i], value_low[i], value_high[i]):
            return i
        out_low[i] = low[slots[i]]
        out_high[i] = high[slots[i]]
    return -1


@kernel
def _wide_merge(low: Int64s, high: Int64s, into: Int64s, source: Int64s) -> int:
    for i in range(into.size):
        if not wide_add(low, high, into[i], low[source[i]], high[source[i]]):
            return i
    return -1


def _within_128_bits(failed: int) -> None:
    if failed >= 0:
        raise StreamprocError("a total of integers or decimals exceeds 128 bits", hint="aggregate it as Float64")


@dataclass(slots=True)
class WideTotals:
    """Totals of integers and decimals in 128 bits, and how many there are."""

    low: Int64s
    high: Int64s
    counts: Counts

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.low, self.high = grow(self.low, slots), grow(self.high, slots)
        self.counts.grow(slots)

    def add(self, slots: Int64s, low: Int64s, high: Int64s, valid: Flags) -> None:
        """Adds the valid values."""
        _within_128_bits(_wide_total(self.low, self.high, slots, low, high, valid))
        self.counts.add(slots, valid)

    def add_each(self, slots: Int64s, low: Int64s, high: Int64s, valid: Flags) -> Reading:
        """Adds, and gives total and count after each row."""
        out_low, out_high = np.empty(slots.size, np.int64), np.empty(slots.size, np.int64)
        _within_128_bits(_wide_total_each(self.low, self.high, slots, low, high, valid, out_low, out_high))
        return (out_low, out_high, *self.counts.add_each(slots, valid))

    def merge(self, into: Int64s, source: Int64s) -> None:
        """Adds totals."""
        _within_128_bits(_wide_merge(self.low, self.high, into, source))
        self.counts.merge(into, source)

    def clear(self, slots: Int64s) -> None:
        """Back to nothing."""
        self.low[slots] = 0
        self.high[slots] = 0
        self.counts.clear(slots)

    def read(self, slots: Int64s) -> Reading:
        """(low words, high words, counts)"""
        return (self.low[slots], self.high[slots], *self.counts.read(slots))


# ── extremes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@inlined
def _raise(best: Int64s, present: Flags, i: int, code: int) -> None:
    if not present[i] or code > best[i]:
        best[i] = code
        present[i] = 1


@tight
def _raise_all(best: Int64s, present: Flags, slots: Int64s, codes: Int64s, flip: int, valid: Flags) -> None:
    for i in range(slots.size):
        prefetch_ahead(best, 1, slots, i)
        prefetch_ahead(present, 1, slots, i)
        if valid[i]:
            _raise(best, present, slots[i], codes[i] ^ flip)


@tight
def _raise_each(
    best: Int64s, present: Flags, slots: Int64s, codes: Int64s, flip: int, valid: Flags, out: Int64s, has: Flags
) -> None:
    for i in range(slots.size):
        prefetch_ahead(best, 1, slots, i)
        prefetch_ahead(present, 1, slots, i)
        if valid[i]:
            _raise(best, present, slots[i], codes[i] ^ flip)
        out[i] = best[slots[i]] ^ flip
        has[i] = present[slots[i]]


@kernel
def _raise_merge(best: Int64s, present: Flags, into: Int64s, source: Int64s) -> None:
    for i in range(into.size):
        if present[source[i]]:
            _raise(best, present, into[i], best[source[i]])


@dataclass(slots=True)
class Extremes:
    """The largest code by slot, or with flip = -1 the smallest: `code ^ -1` turns the order of int64 around."""

    best: Int64s
    present: Flags
    flip: int

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.best, self.present = grow(self.best, slots), grow(self.present, slots)

    def add(self, slots: Int64s, codes: Int64s, valid: Flags) -> None:
        """Compares the valid codes."""
        _raise_all(self.best, self.present, slots, codes, self.flip, valid)

    def add_each(self, slots: Int64s, codes: Int64s, valid: Flags) -> Reading:
        """Compares, and gives the extreme after each row."""
        out, has = np.empty(slots.size, np.int64), np.empty(slots.size, np.uint8)
        _raise_each(self.best, self.present, slots, codes, self.flip, valid, out, has)
        return (out, has)

    def merge(self, into: Int64s, source: Int64s) -> None:
        """The extreme of both."""
        _raise_merge(self.best, self.present, into, source)

    def clear(self, slots: Int64s) -> None:
        """Back to nothing."""
        self.present[slots] = 0

    def read(self, slots: Int64s) -> Reading:
        """(codes, present)"""
        return (self.best[slots] ^ self.flip, self.present[slots])


def counts() -> Counts:
    """Counts without a slot yet."""
    return Counts(np.zeros(0, np.int64))


def float_totals() -> FloatTotals:
    """Float totals without a slot yet."""
    return FloatTotals(exact_sums(), counts())


def wide_totals() -> WideTotals:
    """Wide totals without a slot yet."""
    return WideTotals(np.zeros(0, np.int64), np.zeros(0, np.int64), counts())


def extremes(*, smallest: bool) -> Extremes:
    """Extremes without a slot yet."""
    return Extremes(np.zeros(0, np.int64), np.zeros(0, np.uint8), -1 if smallest else 0)
