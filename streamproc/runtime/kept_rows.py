"""Rows of the keys of one partition, kept for as long as a later row, or a read, may look back on them.

Rows stand in order of arrival, and each knows the one before it of its key, so that a key's rows are found without a
search. Letting go waits until there are twice as many rows as there were after the last time: a row costs O(1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.batch import EVENT_TIME, WATERMARK, Batch
from streamproc.columns import grow
from streamproc.event_time import MIN_TIME
from streamproc.kernels import kernel
from streamproc.operators.deadlines import NEVER
from streamproc.operators.row_store import RowStore, row_store
from streamproc.ports import Bytes, Int64s
from streamproc.state import KeyTable

_TIDY_FROM: Final = 1_024
"""Rows below this number are not worth going through."""
Key = tuple[Any, ...]


@dataclass(slots=True)
class KeptRows:
    """The rows, and by key slot what is known of them.

    reach_us  how far a row looks back
    rows      their columns and meta, with the slot of the key as owner
    previous  int64[rows]: the row before of the same key, -1 for the first
    newest    int64[slots]: the row that came last
    moments   int64[slots]: the greatest event time
    floors    int64[slots]: rows of the key at or before it are seen by nobody any more
    held      int64[slots]: rows
    slot_of, key_of  keys as their values
    """

    reach_us: int
    rows: RowStore
    keys: KeyTable = field(default_factory=KeyTable)
    previous: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    newest: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    moments: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    floors: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    held: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    slot_of: dict[Key, int] = field(default_factory=dict)
    key_of: dict[int, Key] = field(default_factory=dict)
    _tidy_at: int = field(default_factory=lambda: _TIDY_FROM)

    def take(self, batch: Batch, keys: pl.DataFrame) -> Int64s:
        """Keeps rows, none of them late; `keys` are their key columns. Gives the slots of their keys."""
        assert batch.keys is not None  # rows of a served topic have a key
        slots, fresh = self.keys.intern_marked(batch.keys)
        capacity = self.keys.capacity
        self.newest, self.moments = grow(self.newest, capacity), grow(self.moments, capacity)
        self.floors, self.held = grow(self.floors, capacity), grow(self.held, capacity)
        if fresh.any():
            first = np.flatnonzero(fresh)
            new, named = slots[first], keys[first].rows()
            self.newest[new], self.moments[new], self.held[new] = -1, MIN_TIME, 0
            self.slot_of.update(zip(named, new.tolist(), strict=True))
            self.key_of.update(zip(new.tolist(), named, strict=True))
        begin = self.rows.used
        self.rows.append(batch, np.full(len(batch), NEVER), owners=slots)
        self.previous = grow(self.previous, self.rows.owners.size)
        self._link(begin)
        np.maximum.at(self.moments, slots, batch.meta[:, EVENT_TIME])
        self.floors[slots] = batch.meta[:, WATERMARK] - self.reach_us
        np.add.at(self.held, slots, 1)
        return slots

    def _link(self, begin: int) -> None:
        _link(self.rows.owners, self.rows.alive, begin, self.rows.used, self.newest, self.previous)

    def of(self, slot: int) -> Batch:
        """The rows of a key that its newest one may see, itself the last."""
        found = np.empty(int(self.held[slot]), np.int64)
        _chain(self.previous, int(self.newest[slot]), found)
        return self._batch(found[self.rows.meta[found, EVENT_TIME] > self.floors[slot]])

    def of_all(self, slots: Int64s | None = None) -> tuple[Batch, Int64s]:
        """Rows of these keys, or of all; the last ones are the newest of each key, in the order of the slots given."""
        alive = np.flatnonzero(self.rows.alive[: self.rows.used])
        owners = self.rows.owners[alive]
        if slots is None:
            slots = np.unique(owners)
        else:
            alive = alive[np.isin(owners, slots)]
            owners = self.rows.owners[alive]
        older = alive[self.newest[owners] != alive]
        return self._batch(np.concatenate((older, self.newest[slots]))), slots

    def _batch(self, rows: Int64s) -> Batch:
        return Batch(self.rows.frame(rows), self.rows.meta[rows], self.keys.key_bytes(self.rows.owners[rows]))

    @property
    def is_untidy(self) -> bool:
        """Whether it is time to let go of what nobody sees any more: `silent`, then `tidy`."""
        return self.rows.used >= self._tidy_at

    def silent(self, watermark: int) -> Int64s:
        """Slots of the keys on which no row in time can look back any more."""
        slots = self.keys.slots()
        return slots[self.moments[slots] + self.reach_us <= watermark]

    def tidy(self, silent: Int64s) -> None:
        """Lets go of the rows of these keys, and of rows that are older than any row looks back."""
        rows = np.flatnonzero(self.rows.alive[: self.rows.used])
        owners = self.rows.owners[rows]
        gone = self.rows.meta[rows, EVENT_TIME] <= self.floors[owners]
        gone |= np.isin(owners, silent)
        self.rows.remove(rows[gone])
        self.rows.compact()
        for slot in silent.tolist():
            del self.slot_of[self.key_of.pop(slot)]
        self.keys.release(silent)
        self.newest[:] = -1
        self._link(0)
        alive = np.flatnonzero(self.rows.alive[: self.rows.used])
        self.held = np.bincount(self.rows.owners[alive], minlength=self.held.size).astype(np.int64)
        self._tidy_at = self.rows.used + max(_TIDY_FROM, self.rows.live)


def kept_rows(columns: pl.Schema, reach_us: int) -> KeptRows:
    """No rows, of these columns."""
    return KeptRows(reach_us, row_store(columns, keyed=False))


@kernel
def _link(owners: Int64s, alive: Bytes, begin: int, end: int, newest: Int64s, previous: Int64s) -> None:
    for row in range(begin, end):
        if alive[row]:
            previous[row] = newest[owners[row]]
            newest[owners[row]] = row


@kernel
def _chain(previous: Int64s, row: int, out: Int64s) -> None:
    for k in range(out.size - 1, -1, -1):
        out[k] = row
        row = previous[row]
