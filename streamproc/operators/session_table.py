"""Open sessions of all keys: intervals that grow with each row, and merge when a row bridges them.

A session [start, end) holds rows that follow each other by less than the gap; its end is its latest row plus the gap.
The sessions of a key are a chain from the newest to the oldest. Open ones do not overlap; so a row looks only at those
that begin less than a gap after it, down to the first that ends at or before it.

A session whose end lies at or before the moment up to which time was advanced for a row is closed for that row, though
it may still stand in the chain until the end of the step. A row that would begin a session that is closed already is
late. A row in time may fall into the interval of a closed session: it then begins a new one, which starts after the
closed one did and ends after it, so the chain stays in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from streamproc.batch import Keys
from streamproc.columns import grow, next_rows
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.operators.deadlines import NEVER, blocks_of, set_deadlines, take_due
from streamproc.operators.values import Flags
from streamproc.ports import Int64s
from streamproc.state import KeyTable

NONE: Final = -1


@kernel
def _assign(
    gap: int,
    keys: Int64s,
    times: Int64s,
    reached: Int64s,
    late: Flags,
    newest: Int64s,
    start: Int64s,
    end: Int64s,
    key: Int64s,
    older: Int64s,
    newer: Int64s,
    free: Int64s,
    counters: Int64s,
    session: Int64s,
    starts: Int64s,
    ends: Int64s,
    merges: Int64s,
) -> int:
    """Gives each row its session, and the interval that this has after the row; -1 for late rows.

    merges  int64[*, 3]  (row, into, source) for each session that a row makes part of another; their number is given
    """
    merged = 0
    for i in range(keys.size):
        k, t, until = keys[i], times[i], times[i] + gap
        session[i] = NONE
        if late[i]:
            continue
        above = NONE
        s = newest[k]
        while s >= 0 and start[s] >= until:
            above = s
            s = older[s]
        mine = NONE
        while s >= 0 and end[s] > t and end[s] > reached[i]:
            if mine < 0:
                mine = s
            else:
                merges[merged, 0], merges[merged, 1], merges[merged, 2] = i, mine, s
                merged += 1
                start[mine] = min(start[mine], start[s])
                older[mine] = older[s]
                if older[s] >= 0:
                    newer[older[s]] = mine
            s = older[s]
        if mine < 0:
            if until <= reached[i]:
                continue
            if counters[0] > 0:
                counters[0] -= 1
                mine = free[counters[0]]
            else:
                mine = counters[1]
                counters[1] += 1
            key[mine], start[mine], end[mine] = k, t, until
            older[mine], newer[mine] = s, above
            if s >= 0:
                newer[s] = mine
            if above >= 0:
                older[above] = mine
            else:
                newest[k] = mine
        else:
            start[mine] = min(start[mine], t)
            end[mine] = max(end[mine], until)
        session[i], starts[i], ends[i] = mine, start[mine], end[mine]
    return merged


@kernel
def _unlink(newest: Int64s, key: Int64s, older: Int64s, newer: Int64s, sessions: Int64s) -> Int64s:
    """Takes sessions out of their chains; the keys that have none left, in order."""
    gone = np.empty(sessions.size, np.int64)
    found = 0
    for i in range(sessions.size):
        s = sessions[i]
        if older[s] >= 0:
            newer[older[s]] = newer[s]
        if newer[s] >= 0:
            older[newer[s]] = older[s]
        else:
            newest[key[s]] = older[s]
            if older[s] < 0:
                gone[found] = key[s]
                found += 1
    return gone[:found].copy()


def _none() -> Int64s:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Assigned:
    """What `SessionTable.assign` found.

    sessions      int64[n]  the session of each row, -1 for late rows
    starts, ends  int64[n]  its interval right after the row
    merges        int64[m, 3]  (row, into, source), in order of rows
    """

    sessions: Int64s
    starts: Int64s
    ends: Int64s
    merges: Int64s


@dataclass(slots=True)
class SessionTable:
    """Open sessions.

    keys      the keys that have an open session
    newest    int64[key slots]  the newest session of a key, or -1
    key, start, end, older, newer  int64[sessions]
    deadlines int64[sessions], minima int64[blocks]  when sessions end, see `deadlines`
    free      int64[sessions]  stack of free sessions
    counters  int64[2]  its height, and how many sessions were ever in use
    """

    keys: KeyTable = field(default_factory=KeyTable)
    newest: Int64s = field(default_factory=_none)
    key: Int64s = field(default_factory=_none)
    start: Int64s = field(default_factory=_none)
    end: Int64s = field(default_factory=_none)
    older: Int64s = field(default_factory=_none)
    newer: Int64s = field(default_factory=_none)
    deadlines: Int64s = field(default_factory=_none)
    minima: Int64s = field(default_factory=_none)
    free: Int64s = field(default_factory=_none)
    counters: Int64s = field(default_factory=lambda: np.zeros(2, np.int64))

    @property
    def capacity(self) -> int:
        """Rows that a column indexed by session needs."""
        return self.key.size

    def assign(self, keys: Keys, times: Int64s, reached: Int64s, *, late: Flags, gap: int) -> Assigned:
        """Puts each row into a session; merged-away sessions are free again at the next call, not earlier.

        reached  the moment up to which time was advanced before each row
        """
        n = times.size
        slots = self.keys.intern(keys)
        self.newest = grow(self.newest, self.keys.capacity, fill=NONE)
        self._reserve(n)
        session, starts, ends = np.empty(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
        open_sessions = int(self.counters[1] - self.counters[0])
        merges = np.empty((open_sessions + n, 3), np.int64)  # pages that nobody writes cost nothing
        count = _assign(
            gap, frozen(slots), frozen(times), frozen(reached), frozen(late), self.newest, self.start, self.end,
            self.key, self.older, self.newer, self.free, self.counters, session, starts, ends, merges,
        )  # fmt: skip
        made = merges[:count].copy()
        touched = session[session >= 0]
        set_deadlines(self.deadlines, self.minima, touched, self.end[touched])
        if count:
            self._give_back(made[:, 2].copy())
        idle = slots[(session < 0) & (self.newest[slots] < 0)]
        if idle.size:
            self.keys.release(np.unique(idle))
        return Assigned(session, starts, ends, made)

    def due(self, watermark: int) -> Int64s:
        """The sessions that end at or before the watermark, by (end, key bytes); `close` must follow."""
        sessions = take_due(self.deadlines, self.minima, int(self.counters[1]), watermark + 1)
        if not sessions.size:
            return sessions
        by_key = sessions[self.keys.order(self.key[sessions])]
        return by_key[np.argsort(self.end[by_key], kind="stable")]

    def close(self, sessions: Int64s) -> None:
        """Forgets sessions that `due` gave, and the keys that have no other."""
        gone = _unlink(self.newest, self.key, self.older, self.newer, frozen(sessions))
        self._give_back(sessions)
        if gone.size:
            self.keys.release(gone)

    def _reserve(self, more: int) -> None:
        need = int(self.counters[1]) + max(0, more - int(self.counters[0]))
        if need > self.capacity:
            rows = next_rows(self.capacity, need)
            self.key, self.start, self.end = grow(self.key, rows), grow(self.start, rows), grow(self.end, rows)
            self.older, self.newer, self.free = grow(self.older, rows), grow(self.newer, rows), grow(self.free, rows)
            self.deadlines = grow(self.deadlines, rows, fill=NEVER)
            self.minima = grow(self.minima, blocks_of(rows), fill=NEVER)

    def _give_back(self, sessions: Int64s) -> None:
        self.deadlines[sessions] = NEVER
        height = int(self.counters[0])
        self.free[height : height + sessions.size] = sessions
        self.counters[0] += sessions.size
