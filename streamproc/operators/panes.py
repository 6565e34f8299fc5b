"""Panes: the open windows of all keys, and which of them are over.

A pane is one window of one key. Its number is a slot, by which accumulators are indexed. Panes with the same end are
chained, and the ends that have panes stand in one sorted array; so closing costs as much as there is to close, and
nothing where nothing is due, however many keys there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streamproc.batch import Keys
from streamproc.columns import grow
from streamproc.hashing import frozen
from streamproc.int_table import Flags, IntTable
from streamproc.kernels import inlined, kernel
from streamproc.ports import Int64s
from streamproc.state import KeyTable


@inlined
def _place_of(ends: Int64s, end: int) -> int:
    """Where the end stands; a loop, because Numba takes long to compile NumPy's search."""
    low, high = 0, ends.size
    while low < high:
        middle = (low + high) >> 1
        if ends[middle] < end:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _chain(
    following: Int64s, heads: Int64s, open_of_key: Int64s, panes: Int64s, keys: Int64s, starts: Int64s, fresh: Flags,
    ends: Int64s, span: int,
) -> None:  # fmt: skip
    """Puts new panes before those with the same end."""
    place = 0
    for i in range(panes.size):
        if fresh[i]:
            end = starts[i] + span
            if ends[place] != end:
                place = _place_of(ends, end)
            following[panes[i]] = heads[place]
            heads[place] = panes[i]
            open_of_key[keys[i]] += 1


@kernel
def _unchain(following: Int64s, heads: Int64s) -> Int64s:
    count = 0
    for place in range(heads.size):
        pane = heads[place]
        while pane >= 0:
            count += 1
            pane = following[pane]
    out = np.empty(count, np.int64)
    at = 0
    for place in range(heads.size):
        pane = heads[place]
        while pane >= 0:
            out[at] = pane
            at += 1
            pane = following[pane]
    return out


@kernel
def _closed_keys(open_of_key: Int64s, keys: Int64s) -> Int64s:
    """Takes one pane off each of these keys; the keys that have none left, in order."""
    out = np.empty(keys.size, np.int64)
    found = 0
    for i in range(keys.size):
        open_of_key[keys[i]] -= 1
        if open_of_key[keys[i]] == 0:
            out[found] = keys[i]
            found += 1
    return out[:found].copy()


@dataclass(slots=True)
class Panes:
    """Open windows.

    keys         the keys that have an open window
    table        (key slot, window start) to pane
    following    int64[panes]  the next pane with the same end, or -1
    open_of_key  int64[key slots]  how many panes a key has
    ends         int64[e]  the window ends that have panes, ascending
    heads        int64[e]  first pane of each
    """

    keys: KeyTable = field(default_factory=KeyTable)
    table: IntTable = field(default_factory=IntTable)
    following: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    open_of_key: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    ends: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    heads: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))

    def locate(self, keys: Keys, rows: Int64s | None, starts: Int64s, span: int) -> Int64s:
        """The pane of each (key, window start), opened where it is new; int64[n].

        rows  which key belongs to each start; None: the i-th
        """
        slots = self.keys.intern(keys)
        if rows is not None:
            slots = slots[rows]
        panes, fresh = self.table.intern_marked(slots, starts)
        if fresh.any():
            self.following = grow(self.following, self.table.capacity)
            self.open_of_key = grow(self.open_of_key, self.keys.capacity)
            distinct = np.unique(starts[fresh]) + span
            if not np.isin(distinct, self.ends, assume_unique=True).all():
                self._add_ends(distinct)
            _chain(
                self.following, self.heads, self.open_of_key, frozen(panes), frozen(slots), frozen(starts),
                frozen(fresh), frozen(self.ends), span,
            )  # fmt: skip
        return panes

    def _add_ends(self, ends: Int64s) -> None:
        merged = np.union1d(self.ends, ends)
        heads = np.full(merged.size, -1, np.int64)
        heads[np.searchsorted(merged, self.ends)] = self.heads
        self.ends, self.heads = merged, heads

    def due(self, watermark: int) -> Int64s:
        """The panes whose window ends at or before the watermark, by (end, key bytes); they stay until `close`."""
        over = int(np.searchsorted(self.ends, watermark, side="right"))
        if not over:
            return np.empty(0, np.int64)
        panes = _unchain(self.following, self.heads[:over].copy())
        slots, starts = self.table.pairs(panes)
        by_key = self.keys.order(slots)
        return panes[by_key][np.argsort(starts[by_key], kind="stable")]

    def close(self, watermark: int, panes: Int64s) -> None:
        """Forgets the panes that `due` gave, and the keys that have no other."""
        over = int(np.searchsorted(self.ends, watermark, side="right"))
        self.ends, self.heads = self.ends[over:].copy(), self.heads[over:].copy()
        slots = self.table.pairs(panes)[0]
        self.table.release(panes)
        gone = _closed_keys(self.open_of_key, frozen(slots))
        if gone.size:
            self.keys.release(gone)
