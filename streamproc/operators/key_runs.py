"""Per key, the rows that it has in a store, sorted by event time.

A join asks two questions: which is the newest row of this key at or before a moment, and which rows of this key lie in
a span. Each key has a *run*: event times and row numbers, ascending, rows of one event time in order of arrival. Runs
lie in one arena, in regions of 2, 4, 8, ... places; a run that fills its region moves to one of twice the size, and the
old region waits in a list for another run of its size. So a row costs O(log n) to find and, where rows come nearly in
order, O(1) to add; a row that comes far behind its neighbours moves those.

Rows leave a run only from its front: what time makes superfluous is always the oldest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from streamproc.columns import grow, next_rows
from streamproc.kernels import kernel, tight
from streamproc.ports import Int64s
from streamproc.row_loops import copy_rows

BASE: Final = 0
"""Where the run's region starts in the arena."""
SIZE: Final = 1
"""The region has 2**SIZE places; 0: the key has none."""
FIRST: Final = 2
"""Where the run starts in its region."""
LENGTH: Final = 3

TIME: Final = 0
NUMBER: Final = 1


@dataclass(slots=True)
class KeyRuns:
    """Runs of all keys.

    runs   int64[slots, 4]: BASE, SIZE, FIRST, LENGTH of the run of each slot of the key table
    arena  int64[places, 2]: event time and row number
    free   int64[64]: per SIZE, one past the base of the first free region, 0 for none; it holds the next in its TIME
    used   int64[1]: places of the arena given to regions
    """

    runs: Int64s
    arena: Int64s
    free: Int64s
    used: Int64s

    def make_room(self, slots: int) -> None:
        """Makes sure that slots below `slots` have a run."""
        self.runs = grow(self.runs, next_rows(self.runs.shape[0], slots))

    def drop(self, slots: Int64s) -> Int64s:
        """Takes one row from the front of the run of each of these slots; gives the slots whose run is empty now.

        A slot stands here as many times as it loses rows.
        """
        emptied = np.empty(slots.size, np.int64)
        return emptied[: _drop(self.runs, self.arena, self.free, slots, emptied)]

    def renumber(self, numbers: Int64s) -> None:
        """Gives every row the number `numbers[old number]`."""
        _renumber(self.runs, self.arena, numbers)


def key_runs() -> KeyRuns:
    """Runs without rows."""
    return KeyRuns(
        np.zeros((0, 4), np.int64), np.zeros((64, 2), np.int64), np.zeros(64, np.int64), np.zeros(1, np.int64)
    )


@tight
def first_at_or_after(runs: Int64s, arena: Int64s, slot: int, moment: int) -> int:
    """Place in the arena of the run's first row with event time >= `moment`; one past its last row if there is none."""
    low = runs[slot, BASE] + runs[slot, FIRST]
    high = low + runs[slot, LENGTH]
    while low < high:
        middle = (low + high) >> 1
        if arena[middle, TIME] < moment:
            low = middle + 1
        else:
            high = middle
    return int(low)


@kernel
def _bigger(runs: Int64s, arena: Int64s, free: Int64s, used: Int64s, slot: int) -> Int64s:
    """Moves a full run into a region of twice the size; gives the arena, which may have grown."""
    size = runs[slot, SIZE]
    base = -1
    if free[size + 1] > 0:
        base = free[size + 1] - 1
        free[size + 1] = arena[base, TIME]
    else:
        base = used[0]
        used[0] += 1 << (size + 1)
        if used[0] > arena.shape[0]:
            more = np.zeros((max(used[0], arena.shape[0] + min(arena.shape[0], 1 << 20)), 2), np.int64)
            copy_rows(arena, more, arena.shape[0])
            arena = more
    if size > 0:
        start = runs[slot, BASE] + runs[slot, FIRST]
        for i in range(runs[slot, LENGTH]):
            arena[base + i, TIME] = arena[start + i, TIME]
            arena[base + i, NUMBER] = arena[start + i, NUMBER]
        arena[runs[slot, BASE], TIME] = free[size]
        free[size] = runs[slot, BASE] + 1
    runs[slot, BASE] = base
    runs[slot, SIZE] = size + 1
    runs[slot, FIRST] = 0
    return arena


@tight
def is_full(runs: Int64s, slot: int) -> bool:
    """Whether `make_place` must be called before a row is added."""
    size = runs[slot, SIZE]
    return bool(size == 0 or runs[slot, FIRST] + runs[slot, LENGTH] == 1 << size)


@kernel
def make_place(runs: Int64s, arena: Int64s, free: Int64s, used: Int64s, slot: int) -> Int64s:
    """Makes a place behind a full run; gives the arena, which may have grown."""
    length = runs[slot, LENGTH]
    if runs[slot, SIZE] == 0 or 2 * length >= 1 << runs[slot, SIZE]:
        return _bigger(runs, arena, free, used, slot)
    base, start = runs[slot, BASE], runs[slot, BASE] + runs[slot, FIRST]
    for i in range(length):
        arena[base + i, TIME] = arena[start + i, TIME]
        arena[base + i, NUMBER] = arena[start + i, NUMBER]
    runs[slot, FIRST] = 0
    return arena


@tight
def insert(runs: Int64s, arena: Int64s, slot: int, moment: int, number: int) -> int:
    """Adds a row behind those of its event time and gives its place; the run `is_full` no more."""
    start = runs[slot, BASE] + runs[slot, FIRST]
    place = start + runs[slot, LENGTH]
    while place > start and arena[place - 1, TIME] > moment:
        arena[place, TIME] = arena[place - 1, TIME]
        arena[place, NUMBER] = arena[place - 1, NUMBER]
        place -= 1
    arena[place, TIME] = moment
    arena[place, NUMBER] = number
    runs[slot, LENGTH] += 1
    return int(place)


@tight
def _drop(runs: Int64s, arena: Int64s, free: Int64s, slots: Int64s, emptied: Int64s) -> int:
    n = 0
    for i in range(slots.size):
        slot = slots[i]
        runs[slot, FIRST] += 1
        runs[slot, LENGTH] -= 1
        if runs[slot, LENGTH] == 0:
            size = runs[slot, SIZE]
            arena[runs[slot, BASE], TIME] = free[size]
            free[size] = runs[slot, BASE] + 1
            runs[slot, BASE] = 0
            runs[slot, SIZE] = 0
            runs[slot, FIRST] = 0
            emptied[n] = slot
            n += 1
    return n


@tight
def _renumber(runs: Int64s, arena: Int64s, numbers: Int64s) -> None:
    for slot in range(runs.shape[0]):
        start = runs[slot, BASE] + runs[slot, FIRST]
        for place in range(start, start + runs[slot, LENGTH]):
            arena[place, NUMBER] = numbers[arena[place, NUMBER]]


@kernel
def merge_by_position(left: Int64s, right: Int64s, right_first: int) -> Int64s:
    """The order of two batches by position: row i of the left one is i, row i of the right one is len(left) + i.

    left, right  int64[*, 3]: ROW, DUE, RANK of each row, ascending.  `right_first` decides between equal positions.
    """
    order = np.empty(left.shape[0] + right.shape[0], np.int64)
    i = j = 0
    for at in range(order.size):
        if i == left.shape[0]:
            take_right = True
        elif j == right.shape[0]:
            take_right = False
        else:
            take_right = right_first == 1
            for column in range(3):
                if left[i, column] != right[j, column]:
                    take_right = right[j, column] < left[i, column]
                    break
        if take_right:
            order[at] = left.shape[0] + j
            j += 1
        else:
            order[at] = i
            i += 1
    return order
