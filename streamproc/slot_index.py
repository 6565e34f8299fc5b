"""The hash index under the tables: finds a slot by 32 bits of a hash, and grows a slice at a time.

An index is a uint64 array of cells; a cell is 0 (empty) or `hash32 << 32 | slot + 1`.  A cell's home is
`hash32 * size >> 32`, collisions go to the next cell, a deletion shifts the followers back, so there are no tombstones.
Because homes follow the order of hashes, growing walks the old index and the new one front to back.

While it grows there are two: new cells go into `index`, `old` is emptied from the front, four cells per insertion, and
always to the end of a run of cells, so that no probe is cut.  Both are searched.

Load is at most one half.  `head` counts: see the constants.
"""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from streamproc.hashing import UInt64s
from streamproc.kernels import inlined, tight
from streamproc.ports import Int64s

LIVE: Final = 0
"""Slots in use."""
USED: Final = 1
"""Slots that were ever handed out."""
FREE: Final = 2
"""Slots on the free stack."""
CURSOR: Final = 3
"""Cells of the old index that are moved."""
ARENA: Final = 4
"""Bytes of the key arena that are taken."""
HEAD: Final = 8

_SMALLEST: Final = 64
_MOVED_PER_INSERT: Final = 4
_MOVED_PER_CALL: Final = 4096
_MADE_READY_FROM: Final = 1 << 15
_READY_CELLS: Final = 1 << 18
_NONE: Final = np.zeros(0, np.uint64)


def _prefetch(typing_context: Any, array: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        ir: Any = vars(cgutils)["ir"]
        make_array: Any = arrayobj.make_array
        data = make_array(signature.args[0])(context, builder, args[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        cell = builder.bitcast(builder.gep(data, [args[1]]), byte)
        fetch = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        )
        builder.call(fetch, [cell, ir.Constant(number, 0), ir.Constant(number, 3), ir.Constant(number, 1)])
        return context.get_dummy_value()

    types: Any = nb.types
    return types.void(array, types.int64), generate


prefetch: Any = intrinsic(_prefetch)
"""prefetch(array, at): asks the processor for the cache line of an element (counted flat), for kernels."""


AHEAD: Final = 24
"""How many rows ahead a kernel asks for the memory of a row: enough to wait for all of them at once."""


@inlined
def prefetch_ahead(array: Any, words: int, slots: Int64s, i: int) -> None:
    """Asks for what row i + AHEAD will need of an array with so many words a slot, for kernels."""
    if i + AHEAD < slots.size:
        prefetch(array, words * slots[i + AHEAD])


@tight
def home(index: UInt64s, hash32: np.uint64) -> int:
    """The cell at which the search for a hash begins, for kernels."""
    return np.int64((hash32 * np.uint64(index.size)) >> np.uint64(32))


@inlined
def prefetch_home(index: UInt64s, old: UInt64s, head: Int64s, hash32: np.uint64) -> None:
    """Asks for the cell at which the search for a known hash should begin, for kernels."""
    if old.size > 0 and home(old, hash32) >= head[CURSOR]:
        prefetch(old, home(old, hash32))
    else:
        prefetch(index, home(index, hash32))


@inlined
def _first_under(index: UInt64s, hash32: np.uint64) -> int:
    at = home(index, hash32)
    while index[at] != 0:
        if index[at] >> np.uint64(32) == hash32:
            return np.int64(index[at] & np.uint64(0xFFFFFFFF)) - 1
        at += 1
        if at == index.size:
            at = 0
    return -1


@inlined
def candidate(index: UInt64s, old: UInt64s, head: Int64s, hash32: np.uint64) -> int:
    """The first slot under this hash, or -1, for kernels: nearly always the one, which the caller has to see to.

    Cells leave the old index in the order of their homes, so the cursor tells where a hash most likely is.
    """
    if old.size > 0 and home(old, hash32) >= head[CURSOR]:
        slot = _first_under(old, hash32)
        if slot >= 0:
            return slot
    return _first_under(index, hash32)


@tight
def place(index: UInt64s, cell: np.uint64) -> None:
    """Puts a cell into the first empty place from its home on, for kernels."""
    at = home(index, cell >> np.uint64(32))
    while index[at] != 0:
        at += 1
        if at == index.size:
            at = 0
    index[at] = cell


@tight
def move_cells(index: UInt64s, old: UInt64s, head: Int64s, count: int) -> None:
    """Moves at least `count` cells of the old index, to the end of a run, for kernels."""
    at = head[CURSOR]
    stop = at + count
    while at < old.size and (at < stop or old[at] != 0):
        if old[at] != 0:
            place(index, old[at])
            old[at] = 0
        at += 1
    head[CURSOR] = at


@tight
def insert_cell(index: UInt64s, old: UInt64s, head: Int64s, hash32: np.uint64, slot: int) -> None:
    """Adds a slot under a hash, and moves a slice of the old index, for kernels.  There must be room."""
    place(index, (hash32 << np.uint64(32)) | np.uint64(slot + 1))
    if head[CURSOR] < old.size:
        move_cells(index, old, head, _MOVED_PER_INSERT)


@tight
def _remove_from(index: UInt64s, cell: np.uint64) -> bool:
    if index.size == 0:
        return False
    gap = home(index, cell >> np.uint64(32))
    while index[gap] != cell:
        if index[gap] == 0:
            return False
        gap += 1
        if gap == index.size:
            gap = 0
    at = gap
    while True:
        at += 1
        if at == index.size:
            at = 0
        follower = index[at]
        if follower == 0:
            break
        start = home(index, follower >> np.uint64(32))
        # The follower may fill the gap unless its home lies behind the gap, counted around the end.
        distance = at - start if at >= start else at - start + index.size
        hole = at - gap if at >= gap else at - gap + index.size
        if distance >= hole:
            index[gap] = follower
            gap = at
    index[gap] = 0
    return True


@tight
def remove_cell(index: UInt64s, old: UInt64s, hash32: np.uint64, slot: int) -> bool:
    """Removes a slot from the index that holds it, for kernels; False if none does."""
    cell = (hash32 << np.uint64(32)) | np.uint64(slot + 1)
    return _remove_from(index, cell) or _remove_from(old, cell)


@tight
def next_slot(free: Int64s, head: Int64s) -> int:
    """The slot that `take_slot` will give, for kernels."""
    return free[head[FREE] - 1] if head[FREE] > 0 else head[USED]


@tight
def take_slot(free: Int64s, head: Int64s) -> int:
    """The slot that was freed last, else the next one never used, for kernels."""
    head[LIVE] += 1
    if head[FREE] > 0:
        head[FREE] -= 1
        return free[head[FREE]]
    head[USED] += 1
    return head[USED] - 1


@tight
def give_slot(free: Int64s, head: Int64s, slot: int) -> None:
    """Puts a slot on the free stack, for kernels."""
    free[head[FREE]] = slot
    head[FREE] += 1
    head[LIVE] -= 1


@tight
def has_room(index: UInt64s, capacity: int, head: Int64s) -> bool:
    """Whether one more slot can be inserted, for kernels."""
    return 2 * (head[LIVE] + 1) <= index.size and (head[FREE] > 0 or head[USED] < capacity)


class GrowingIndex:
    """The index, the one that it replaces, and the memory of the one that will replace it.

    Fresh memory costs most at its first touch (a page fault each), and hashes touch all of it at once: a batch of 8,192
    new keys paused for 155 ms in a new index of 256 MB (measured).  So the next index is made ready 2 MiB at a time, in
    order, while the load goes from five sixteenths to one half.
    """

    __slots__ = ("_next", "_ready", "cells", "old")

    def __init__(self) -> None:
        self.cells: UInt64s = np.zeros(_SMALLEST, np.uint64)
        self.old: UInt64s = _NONE
        self._next: UInt64s = _NONE
        self._ready = 0

    def make_room(self, head: Int64s, count: int) -> bool:
        """Moves and makes ready a slice, and sees that `count` more slots find room; whether it met new memory.

        A new index has load one quarter at most, so the old one is empty long before the new one is full.
        """
        if self.old.size:
            move_cells(self.cells, self.old, head, _MOVED_PER_CALL)
            if head[CURSOR] == self.old.size:
                self.old = _NONE
        live, size = int(head[LIVE]), self.cells.size
        if 2 * (live + count) <= size:
            if size >= _MADE_READY_FROM and 16 * live > 5 * size:
                # One fourth more than the load asks for, so that it is done before the load is one half.
                return self._make_ready(2 * size, (16 * live - 5 * size) * 5 // 6)
            return False
        if self.old.size:
            move_cells(self.cells, self.old, head, self.old.size)
        while size < 4 * live or size < 2 * (live + count):
            size *= 2
        self._make_ready(size, size)
        head[CURSOR] = 0
        self.old = self.cells if live else _NONE
        self.cells, self._next = self._next, _NONE
        return True

    def _make_ready(self, size: int, cells: int) -> bool:
        if self._next.size != size:
            self._next, self._ready = np.empty(size, np.uint64), 0
        upto = min(size, -(-cells // _READY_CELLS) * _READY_CELLS)
        if upto <= self._ready:
            return False
        self._next[self._ready : upto] = 0
        self._ready = upto
        return True
