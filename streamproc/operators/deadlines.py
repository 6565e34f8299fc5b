"""Which of many waiting things are due: a flat column of deadlines that is searched by blocks.

A thing is due when its deadline lies strictly below the watermark. The least deadline of every block of 256 slots is
kept beside the column, so that asking costs one comparison per block where nothing is due. A heap would answer in
O(log n) but pays that for each row that comes and each that goes; streams come nearly in order of event time, so here
the due ones share few blocks, and in the worst case the search is one pass over a column.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from streamproc.kernels import kernel
from streamproc.ports import Int64s
from streamproc.row_loops import copy

NEVER: Final = 2**63 - 1
"""The deadline of a free slot, and of what is never due."""
BLOCK: Final = 256


@kernel
def set_deadlines(deadlines: Int64s, minima: Int64s, slots: Int64s, moments: Int64s) -> None:
    """Gives each of these slots its deadline.  `minima` has one element per 256 slots of `deadlines`."""
    for i in range(slots.size):
        slot = slots[i]
        deadlines[slot] = moments[i]
        minima[slot // BLOCK] = min(minima[slot // BLOCK], moments[i])


@kernel
def take_due(deadlines: Int64s, minima: Int64s, used: int, moment: int) -> Int64s:
    """The slots below `used` whose deadline is < `moment`, ascending; they get no deadline any more.

    Cost: one comparison per 256 slots, and one per slot of the blocks in which something may be due.

    >>> deadlines, minima = np.array([5, 9, 7]), np.array([5])
    >>> take_due(deadlines, minima, 3, 8).tolist()
    [0, 2]
    """
    due = np.empty(64, np.int64)
    found = 0
    for block in range((used + BLOCK - 1) // BLOCK):
        if minima[block] >= moment:
            continue
        least = NEVER
        for slot in range(block * BLOCK, min(used, (block + 1) * BLOCK)):
            if deadlines[slot] < moment:
                if found == due.size:
                    more = np.empty(2 * found, np.int64)
                    copy(due, more, found)
                    due = more
                due[found] = slot
                found += 1
                deadlines[slot] = NEVER
            elif deadlines[slot] < least:
                least = deadlines[slot]
        minima[block] = least
    return due[:found].copy()


def blocks_of(slots: int) -> int:
    """How many block minima belong to so many slots.

    >>> blocks_of(256), blocks_of(257)
    (1, 2)
    """
    return -(-slots // BLOCK)


def minima_of(deadlines: Int64s) -> Int64s:
    """The least deadline of each block, computed anew."""
    padded = np.full(blocks_of(deadlines.size) * BLOCK, NEVER, np.int64)
    padded[: deadlines.size] = deadlines
    minima: Int64s = padded.reshape(-1, BLOCK).min(axis=1)
    return minima
