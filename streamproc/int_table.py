"""Pairs of int64 to dense slots: windows of a key, buckets, anything with two numbers for a name.

For use inside of other kernels: call `IntTable.reserve(n)`, pass `IntTable.arrays` to the kernel, unpack it there once
(`index, old, pairs, live, free, head = arrays`: Numba counts references at each look into a tuple), and call
`int_table_find_or_insert` with at most n new pairs.  All that changes lies in the arrays; nothing is written back.

    @kernel
    def windows(arrays, keys, starts, slots):
        index, old, pairs, live, free, head = arrays
        for i in range(keys.size):
            slots[i], new = int_table_find_or_insert(index, old, pairs, live, free, head, keys[i], starts[i])
"""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from streamproc import slot_index as si
from streamproc.columns import grow, next_rows, ready_a_page
from streamproc.errors import StateError
from streamproc.hashing import UInt64s, frozen, mix64, mix_pair
from streamproc.kernels import inlined, tight
from streamproc.ports import Bytes, Int64s

Flags = npt.NDArray[np.bool_]


class IntArrays(NamedTuple):
    """What kernels get of an IntTable.

    cells, old  uint64[*]        the index, see `slot_index`
    pairs       int64[slots, 2]  the pair of each slot
    live        uint8[slots]     1 where the slot is in use
    free        int64[slots]     stack of freed slots
    head        int64[8]         counters, see `slot_index`
    """

    cells: UInt64s
    old: UInt64s
    pairs: Int64s
    live: Bytes
    free: Int64s
    head: Int64s


@inlined
def _search(index: UInt64s, pairs: Int64s, hash32: np.uint64, a: int, b: int) -> int:
    if index.size == 0:
        return -1
    at = si.home(index, hash32)
    while index[at] != 0:
        if index[at] >> np.uint64(32) == hash32:
            slot = np.int64(index[at] & np.uint64(0xFFFFFFFF)) - 1
            if pairs[slot, 0] == a and pairs[slot, 1] == b:
                return slot
        at += 1
        if at == index.size:
            at = 0
    return -1


@tight
def int_table_find(index: UInt64s, old: UInt64s, pairs: Int64s, a: int, b: int) -> int:
    """The slot of a pair or -1, for kernels."""
    hash32 = mix_pair(np.uint64(a), np.uint64(b)) >> np.uint64(32)
    slot = _search(index, pairs, hash32, a, b)
    return slot if slot >= 0 else _search(old, pairs, hash32, a, b)


@tight
def _insert(
    index: UInt64s, old: UInt64s, pairs: Int64s, live: Bytes, free: Int64s, head: Int64s,
    hash32: np.uint64, a: int, b: int,
) -> int:  # fmt: skip
    slot = si.take_slot(free, head)
    pairs[slot, 0] = a
    pairs[slot, 1] = b
    live[slot] = 1
    si.insert_cell(index, old, head, hash32, slot)
    return slot


@tight
def int_table_find_or_insert(
    index: UInt64s, old: UInt64s, pairs: Int64s, live: Bytes, free: Int64s, head: Int64s, a: int, b: int
) -> tuple[int, bool]:
    """The slot of a pair, and whether it is new, for kernels.  The owner reserved room for it."""
    hash32 = mix_pair(np.uint64(a), np.uint64(b)) >> np.uint64(32)
    slot = _search(index, pairs, hash32, a, b)
    if slot < 0:
        slot = _search(old, pairs, hash32, a, b)
    if slot >= 0:
        return slot, False
    return _insert(index, old, pairs, live, free, head, hash32, a, b), True


@tight
def int_table_release(
    index: UInt64s, old: UInt64s, pairs: Int64s, live: Bytes, free: Int64s, head: Int64s, slot: int
) -> bool:
    """Frees a slot, for kernels; False, and nothing done, if it was not in use."""
    if slot < 0 or slot >= head[si.USED] or live[slot] == 0:
        return False
    hash32 = mix_pair(np.uint64(pairs[slot, 0]), np.uint64(pairs[slot, 1])) >> np.uint64(32)
    si.remove_cell(index, old, hash32, slot)
    live[slot] = 0
    si.give_slot(free, head, slot)
    return True


@inlined
def _look_ahead(
    index: UInt64s, old: UInt64s, head: Int64s, pairs: Int64s, hashes: UInt64s, slots: Int64s, i: int
) -> None:
    """Fetches what rows some way ahead will need: cells, then pairs.  Their `slots` hold candidates meanwhile."""
    far, near = i + 2 * si.AHEAD, i + si.AHEAD
    if far < hashes.size:
        si.prefetch_home(index, old, head, hashes[far] >> np.uint64(32))
    if near < hashes.size:
        slots[near] = si.candidate(index, old, head, hashes[near] >> np.uint64(32))
        if slots[near] >= 0:
            si.prefetch(pairs, 2 * slots[near])


@inlined
def _look_first(index: UInt64s, old: UInt64s, head: Int64s, hashes: UInt64s, slots: Int64s, first: int) -> None:
    for i in range(first, min(first + si.AHEAD, hashes.size)):
        slots[i] = si.candidate(index, old, head, hashes[i] >> np.uint64(32))


@tight
def _find_pairs(table: IntArrays, a: Int64s, b: Int64s, hashes: UInt64s, slots: Int64s) -> None:
    index, old, pairs, _, _, head = table
    _look_first(index, old, head, hashes, slots, 0)
    for i in range(a.size):
        _look_ahead(index, old, head, pairs, hashes, slots, i)
        hash32 = hashes[i] >> np.uint64(32)
        slot = slots[i]
        if slot < 0 or pairs[slot, 0] != a[i] or pairs[slot, 1] != b[i]:
            slot = _search(index, pairs, hash32, a[i], b[i])
        slots[i] = slot if slot >= 0 else _search(old, pairs, hash32, a[i], b[i])


@tight
def _intern_pairs(
    table: IntArrays, a: Int64s, b: Int64s, hashes: UInt64s, first: int, slots: Int64s, fresh: Flags
) -> int:
    index, old, pairs, live, free, head = table
    si.move_cells(index, old, head, a.size - first)
    _look_first(index, old, head, hashes, slots, first)
    for i in range(first, a.size):
        _look_ahead(index, old, head, pairs, hashes, slots, i)
        hash32 = hashes[i] >> np.uint64(32)
        slot = slots[i]
        if slot < 0 or pairs[slot, 0] != a[i] or pairs[slot, 1] != b[i]:
            slot = _search(index, pairs, hash32, a[i], b[i])
        if slot < 0:
            slot = _search(old, pairs, hash32, a[i], b[i])
        if slot < 0:
            if not si.has_room(index, live.size, head):
                return i
            slot = _insert(index, old, pairs, live, free, head, hash32, a[i], b[i])
            fresh[i] = True
        slots[i] = slot
    return a.size


@tight
def _release_slots(table: IntArrays, slots: Int64s) -> int:
    index, old, pairs, live, free, head = table
    for i in range(slots.size):
        if not int_table_release(index, old, pairs, live, free, head, slots[i]):
            return i
    return slots.size


@tight
def _rebuild(table: IntArrays) -> None:
    index, old, pairs, live, _, head = table
    for slot in range(head[si.USED]):
        if live[slot] != 0:
            hash32 = mix_pair(np.uint64(pairs[slot, 0]), np.uint64(pairs[slot, 1])) >> np.uint64(32)
            si.insert_cell(index, old, head, hash32, slot)


class IntTable:
    """Pairs of int64 to slots 0, 1, 2, ...; freed slots are taken again, the last freed one first.

    The owner keeps its columns at `capacity` rows (`grow(column, table.capacity)`) and clears what a new pair finds.

    >>> table = IntTable()
    >>> table.intern(np.array([7, 7, 8]), np.array([0, 60, 0])), table.live
    (array([0, 1, 2]), 3)
    """

    __slots__ = ("_index", "arrays")
    EXPORTED: ClassVar = ("pairs", "live", "free")

    def __init__(self) -> None:
        self._index = si.GrowingIndex()
        self.arrays = IntArrays(
            self._index.cells, self._index.old, np.zeros((0, 2), np.int64), np.zeros(0, np.uint8),
            np.zeros(0, np.int64), np.zeros(si.HEAD, np.int64),
        )  # fmt: skip

    @property
    def live(self) -> int:
        """Slots in use."""
        return int(self.arrays.head[si.LIVE])

    @property
    def used(self) -> int:
        """Slots ever handed out: all slots are below it."""
        return int(self.arrays.head[si.USED])

    @property
    def capacity(self) -> int:
        """Rows that a column of the owner needs now; grows by doubling, then by 2^16."""
        return self.arrays.live.size

    def reserve(self, count: int) -> None:
        """Makes room for `count` insertions; pauses for a bounded slice of work.  Look at `capacity` afterwards."""
        t = self.arrays
        if not self._index.make_room(t.head, count):
            ready_a_page()
        rows = self.used + max(0, count - int(t.head[si.FREE]))
        pairs, live, free = t.pairs, t.live, t.free
        if rows > live.size:
            rows = next_rows(live.size, rows)
            pairs, live, free = (grow(column, rows, fill=None) for column in (pairs, live, free))
        self.arrays = IntArrays(self._index.cells, self._index.old, pairs, live, free, t.head)

    def intern(self, first: Int64s, second: Int64s) -> Int64s:
        """The slot of each pair; new pairs get one in order of appearance.  Cost O(1) a row."""
        return self.intern_marked(first, second)[0]

    def intern_marked(self, first: Int64s, second: Int64s) -> tuple[Int64s, Flags]:
        """As `intern`, and which rows brought a new pair."""
        a, b = frozen(first), frozen(second)
        hashes = frozen(mix64(a, b))
        slots, fresh = np.empty(a.size, np.int64), np.zeros(a.size, np.bool_)
        self.reserve(0)
        at = _intern_pairs(self.arrays, a, b, hashes, 0, slots, fresh)
        while at < a.size:
            self.reserve(1)
            at = _intern_pairs(self.arrays, a, b, hashes, at, slots, fresh)
        return slots, fresh

    def find(self, first: Int64s, second: Int64s) -> Int64s:
        """The slot of each pair, -1 where there is none."""
        a, b = frozen(first), frozen(second)
        slots = np.empty(a.size, np.int64)
        _find_pairs(self.arrays, a, b, frozen(mix64(a, b)), slots)
        return slots

    def release(self, slots: Int64s) -> None:
        """Frees distinct slots in the order given; raises StateError for one that is not in use."""
        done = _release_slots(self.arrays, frozen(slots))
        if done < slots.size:
            raise StateError(f"slot {int(slots[done])} is not in use", hint="release each slot once")

    def pairs(self, slots: Int64s) -> tuple[Int64s, Int64s]:
        """The pairs of slots, as two new columns."""
        return self.arrays.pairs[slots, 0], self.arrays.pairs[slots, 1]

    def slots(self) -> Int64s:
        """The slots in use, ascending."""
        return np.flatnonzero(self.arrays.live[: self.used])

    def export(self) -> dict[str, npt.NDArray[Any]]:
        """Pairs, use and free stack as arrays, without the index."""
        t = self.arrays
        return {"pairs": t.pairs[: self.used], "live": t.live[: self.used], "free": t.free[: int(t.head[si.FREE])]}

    @classmethod
    def restored(cls, arrays: dict[str, npt.NDArray[Any]], capacity: int) -> IntTable:
        """The table of an export, with the same slots.  Cost O(slots)."""
        table = cls()
        used, free, live = arrays["live"].size, arrays["free"].size, int(arrays["live"].sum())
        t = table.arrays
        table._index.make_room(t.head, live)
        t.head[si.LIVE], t.head[si.USED], t.head[si.FREE] = live, used, free
        pairs, flags, stack = grow(t.pairs, capacity), grow(t.live, capacity), grow(t.free, capacity)
        pairs[:used], flags[:used], stack[:free] = arrays["pairs"], arrays["live"], arrays["free"]
        table.arrays = IntArrays(table._index.cells, table._index.old, pairs, flags, stack, t.head)
        _rebuild(table.arrays)
        return table
