"""How often each value occurs: under `distinct` and `top_k`.

A pair (slot, code) has a number, kept in a table; the pairs of a slot are a chain. So a slot costs what it holds, and
empties in that time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from streamproc.columns import grow
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.operators.accumulators import Reading
from streamproc.operators.value_table import values_ordered
from streamproc.operators.values import Flags
from streamproc.ports import Bytes, Int64s
from streamproc.state import IntTable

NONE: Final = -1


@kernel
def _put(
    first: Int64s, size: Int64s, after: Int64s, numbers: Int64s, slots: Int64s, pairs: Int64s, by: Int64s,
    sizes: Int64s,
) -> None:  # fmt: skip
    """Adds by[i] to the pair; gives the number of pairs of the slot after each."""
    for i in range(pairs.size):
        pair, slot = pairs[i], slots[i]
        if numbers[pair] == 0:
            after[pair] = first[slot]
            first[slot] = pair
            size[slot] += 1
        numbers[pair] += by[i]
        sizes[i] = size[slot]


@kernel
def _chained(first: Int64s, size: Int64s, after: Int64s, slots: Int64s) -> Int64s:
    """The pairs of these slots, one slot after the other."""
    total = 0
    for i in range(slots.size):
        total += size[slots[i]]
    out = np.empty(total, np.int64)
    at = 0
    for i in range(slots.size):
        pair = first[slots[i]]
        for _ in range(size[slots[i]]):
            out[at] = pair
            at += 1
            pair = after[pair]
    return out


@kernel
def _better(numbers: Int64s, codes: Int64s, a: int, b: int, texts: bool, arena: Bytes, records: Int64s) -> bool:
    if numbers[a] != numbers[b]:
        return bool(numbers[a] > numbers[b])
    if texts:
        return values_ordered(arena, records, codes[2 * a + 1], codes[2 * b + 1])
    return bool(codes[2 * a + 1] < codes[2 * b + 1])


@kernel
def _best(
    first: Int64s, size: Int64s, after: Int64s, numbers: Int64s, codes: Int64s, slot: int, k: int, texts: bool,
    arena: Bytes, records: Int64s, out: Int64s,
) -> int:  # fmt: skip
    """The k best pairs of a slot in order, by insertion; how many there are."""
    found = 0
    pair = first[slot]
    for _ in range(size[slot]):
        if found < k or _better(numbers, codes, pair, out[found - 1], texts, arena, records):
            at = found if found < k else k - 1
            while at > 0 and _better(numbers, codes, pair, out[at - 1], texts, arena, records):
                out[at] = out[at - 1]
                at -= 1
            out[at] = pair
            found = min(found + 1, k)
        pair = after[pair]
    return found


@kernel
def _best_all(
    first: Int64s, size: Int64s, after: Int64s, numbers: Int64s, codes: Int64s, slots: Int64s, k: int, texts: bool,
    arena: Bytes, records: Int64s, found: Int64s, best_codes: Int64s, best_numbers: Int64s,
) -> None:  # fmt: skip
    pairs = np.empty(k, np.int64)
    for i in range(slots.size):
        found[i] = _best(first, size, after, numbers, codes, slots[i], k, texts, arena, records, pairs)
        for j in range(found[i]):
            best_codes[i * k + j] = codes[2 * pairs[j] + 1]
            best_numbers[i * k + j] = numbers[pairs[j]]


@kernel
def _best_each(
    first: Int64s, size: Int64s, after: Int64s, numbers: Int64s, codes: Int64s, slots: Int64s, row_pairs: Int64s,
    k: int, texts: bool, arena: Bytes, records: Int64s, found: Int64s, best_codes: Int64s, best_numbers: Int64s,
) -> None:  # fmt: skip
    pairs = np.empty(k, np.int64)
    for i in range(slots.size):
        if row_pairs[i] >= 0:
            pair = row_pairs[i]
            if numbers[pair] == 0:
                after[pair] = first[slots[i]]
                first[slots[i]] = pair
                size[slots[i]] += 1
            numbers[pair] += 1
        found[i] = _best(first, size, after, numbers, codes, slots[i], k, texts, arena, records, pairs)
        for j in range(found[i]):
            best_codes[i * k + j] = codes[2 * pairs[j] + 1]
            best_numbers[i * k + j] = numbers[pairs[j]]


def _none() -> Int64s:
    return np.zeros(0, np.int64)


@dataclass(slots=True)
class Tallies:
    """Numbers of (slot, code) pairs.

    k  0: readings are how many codes a slot has; else they are the k codes with the highest numbers
    """

    k: int
    table: IntTable = field(default_factory=IntTable)
    numbers: Int64s = field(default_factory=_none)
    after: Int64s = field(default_factory=_none)
    first: Int64s = field(default_factory=_none)
    size: Int64s = field(default_factory=_none)

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.first, self.size = grow(self.first, slots, fill=NONE), grow(self.size, slots)

    def add(self, slots: Int64s, codes: Int64s, valid: Flags) -> None:
        """Counts the valid codes."""
        rows = np.flatnonzero(valid)
        self.put(slots[rows], codes[rows], np.ones(rows.size, np.int64))

    def put(self, slots: Int64s, codes: Int64s, by: Int64s) -> Int64s:
        """Adds to the number of each pair; how many codes the slot has after each row."""
        pairs = self.table.intern(slots, codes)
        self.numbers, self.after = grow(self.numbers, self.table.capacity), grow(self.after, self.table.capacity)
        sizes = np.empty(slots.size, np.int64)
        _put(self.first, self.size, self.after, self.numbers, slots, pairs, by, sizes)
        return sizes

    def add_each(self, slots: Int64s, codes: Int64s, valid: Flags) -> Reading:
        """Counts, and gives the reading after each row."""
        return self.best_each(slots, codes, valid, texts=False, arena=_NO_BYTES, records=_NO_RECORDS)

    def best_each(
        self, slots: Int64s, codes: Int64s, valid: Flags, *, texts: bool, arena: Bytes, records: Int64s
    ) -> Reading:
        """As `add_each`; `texts` says that codes are ordered by their bytes in the arena."""
        rows = np.flatnonzero(valid)
        if not self.k:
            # A row without a value reads what its slot holds then: as a row that adds zero to a pair it would have to
            # exist, so sizes are carried over from the slot's row before.
            return (self._sizes_each(slots, codes, rows),)
        pairs = np.full(slots.size, NONE, np.int64)
        pairs[rows] = self.table.intern(slots[rows], codes[rows])
        self.numbers, self.after = grow(self.numbers, self.table.capacity), grow(self.after, self.table.capacity)
        found, best, numbers = self._room(slots.size)
        _best_each(
            self.first, self.size, self.after, self.numbers, self._flat(), slots, pairs, self.k, texts, frozen(arena),
            frozen(records), found, best, numbers,
        )  # fmt: skip
        return self._packed(found, best, numbers)

    def _sizes_each(self, slots: Int64s, codes: Int64s, rows: Int64s) -> Int64s:
        before = self.size[slots]
        sizes = self.put(slots[rows], codes[rows], np.ones(rows.size, np.int64))
        if rows.size == slots.size:
            return sizes
        out = np.empty(slots.size, np.int64)
        _carried(slots, before, rows, sizes, self.size.copy(), out)
        return out

    def merge(self, into: Int64s, source: Int64s) -> None:
        """Adds the numbers of one slot into another, one merge after the other."""
        for i in range(into.size):  # merges are rare, and a later one may continue an earlier one
            pairs = _chained(self.first, self.size, self.after, source[i : i + 1])
            codes = self.table.pairs(pairs)[1]
            self.put(np.full(pairs.size, into[i]), codes, self.numbers[pairs])

    def clear(self, slots: Int64s) -> None:
        """Forgets all pairs of these slots."""
        pairs = _chained(self.first, self.size, self.after, slots)
        self.numbers[pairs] = 0
        self.table.release(pairs)
        self.first[slots], self.size[slots] = NONE, 0

    def read(self, slots: Int64s) -> Reading:
        """(how many codes,), or with k (how many of k, codes, numbers)."""
        return self.best(slots, texts=False, arena=_NO_BYTES, records=_NO_RECORDS)

    def best(self, slots: Int64s, *, texts: bool, arena: Bytes, records: Int64s) -> Reading:
        """As `read`; `texts` says that codes are ordered by their bytes in the arena."""
        if not self.k:
            return (self.size[slots],)
        found, best, numbers = self._room(slots.size)
        _best_all(
            self.first, self.size, self.after, self.numbers, self._flat(), slots, self.k, texts, frozen(arena),
            frozen(records), found, best, numbers,
        )  # fmt: skip
        return self._packed(found, best, numbers)

    def codes_held(self) -> Int64s:
        """All codes of all slots."""
        return self.table.pairs(self.table.slots())[1]

    def _flat(self) -> Int64s:
        return frozen(self.table.arrays.pairs.reshape(-1))

    def _room(self, rows: int) -> tuple[Int64s, Int64s, Int64s]:
        return np.empty(rows, np.int64), np.zeros(rows * self.k, np.int64), np.zeros(rows * self.k, np.int64)

    def _packed(self, found: Int64s, codes: Int64s, numbers: Int64s) -> Reading:
        inside = (np.arange(self.k) < found[:, None]).reshape(-1)
        return found, codes[inside], numbers[inside]


@kernel
def _carried(slots: Int64s, before: Int64s, rows: Int64s, sizes: Int64s, scratch: Int64s, out: Int64s) -> None:
    """Sizes for all rows from those of the valid ones: a row without a value reads its slot as it is."""
    for i in range(slots.size - 1, -1, -1):
        scratch[slots[i]] = before[i]
    at = 0
    for i in range(slots.size):
        if at < rows.size and rows[at] == i:
            scratch[slots[i]] = sizes[at]
            at += 1
        out[i] = scratch[slots[i]]


_NO_BYTES: Final = np.zeros(0, np.uint8)
_NO_RECORDS: Final = np.zeros((0, 4), np.int64)
