"""Rows that an operator keeps in its state, as columns.

Rows are appended and get consecutive numbers in order of arrival; each has a deadline, after which it is due
(`RowStore.take_due`). What was taken leaves a hole. `compact` closes the holes, which gives new numbers; order of
arrival is kept, so nothing that an operator makes depends on when that happens.

Appending must not copy all that waits. The frame is therefore kept in two parts: rows go to a small young frame, which
is moved to the old one when its size passes the geometric mean of the old one's and of what is appended.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import WIDTH, Batch, Keys, Meta
from streamproc.columns import grow, next_rows
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.operators.deadlines import NEVER, blocks_of, minima_of, set_deadlines, take_due
from streamproc.ports import Bytes, Int64s

_COMPACT_FROM = 1024
"""Holes below this number are not worth closing."""


@dataclass(slots=True)
class RowStore:
    """Waiting rows.  Everything is indexed by row number; elements from `used` on are room to grow.

    old, young  the frame: rows 0..len(old), and those after them
    meta        int64[capacity, WIDTH]
    deadlines   int64[capacity]: the row is due when this lies strictly below the watermark; NEVER for holes too
    minima      the least deadline per block of rows, see `deadlines`
    owners      int64[capacity]: the slot of the row's key in the operator's table, if it has one
    marks       uint8[capacity]: what the operator notes on the row
    alive       uint8[capacity]: 0 for a hole
    key_*       bytes, bounds and hashes of the keys, empty where rows have none; a start of -1 is a null key
    used, live  numbers given, and those of them that are not holes
    keyed       1 if rows have keys that must be kept
    """

    old: pl.DataFrame
    young: pl.DataFrame
    meta: Meta
    deadlines: Int64s
    minima: Int64s
    owners: Int64s
    marks: Bytes
    alive: Bytes
    key_bytes: Bytes
    key_starts: Int64s
    key_ends: Int64s
    key_hashes: npt.NDArray[np.uint64]
    key_used: int = 0
    used: int = 0
    live: int = 0
    keyed: int = 0

    def append(self, batch: Batch, deadlines: Int64s, *, owners: Int64s | None = None) -> Int64s:
        """Keeps the rows; gives their numbers.  Each is copied O(sqrt(waiting / rows appended)) times, amortized."""
        n = len(batch)
        rows = np.arange(self.used, self.used + n, dtype=np.int64)
        if not n:
            return rows
        self._make_room(self.used + n)
        here = slice(self.used, self.used + n)
        self.meta[here] = batch.meta
        self.alive[here] = 1
        self.marks[here] = 0
        if owners is not None:
            self.owners[here] = owners
        set_deadlines(self.deadlines, self.minima, rows, np.ascontiguousarray(deadlines))
        if self.keyed and batch.keys is not None:
            self._append_keys(batch.keys)
        self.used += n
        self.live += n
        if batch.frame.width:
            self.young = pl.concat([self.young, batch.frame], rechunk=True) if self.young.height else batch.frame
            if self.young.height**2 > self.old.height * n:
                self.old = pl.concat([self.old, self.young], rechunk=True) if self.old.height else self.young.rechunk()
                self.young = self.old.clear()
        return rows

    def take_due(self, moment: int) -> Int64s:
        """Numbers of the rows whose deadline is < `moment`, in order of arrival; they have none from now on."""
        return take_due(self.deadlines, self.minima, self.used, moment)

    def frame(self, rows: Int64s) -> pl.DataFrame:
        """The columns of these rows, in the order given."""
        split = self.old.height
        if not self.old.width or not rows.size:
            return self.old.clear()
        if not self.young.height or rows.max() < split:
            return self.old[rows]
        if rows.min() >= split:
            return self.young[rows - split]
        in_old = rows < split
        parts = pl.concat([self.old[rows[in_old]], self.young[rows[~in_old] - split]], rechunk=True)
        place = np.empty(rows.size, np.int64)
        place[in_old] = np.arange(np.count_nonzero(in_old))
        place[~in_old] = np.arange(np.count_nonzero(in_old), rows.size)
        return parts if bool(np.all(place[1:] > place[:-1])) else parts[place]

    def frame_or_nulls(self, rows: Int64s) -> pl.DataFrame:
        """The columns of these rows, in the order given; null where the number is -1."""
        there = rows >= 0
        if not there.any():
            return self.old.clear(rows.size)
        found = self.frame(rows[there])
        if there.all() or not found.width:
            return found
        return found[pl.Series(np.cumsum(there) - 1).set(pl.Series(~there), None)]

    def keys(self, rows: Int64s) -> Keys | None:
        """The keys of these rows in a buffer of their own, or None where rows have none."""
        if not self.keyed:
            return None
        return Keys(*gather_bytes(self.key_bytes, self.key_starts[rows], self.key_ends[rows]), self.key_hashes[rows])

    def batch(self, rows: Int64s) -> Batch:
        """These rows as a batch, in the order given."""
        return Batch(self.frame(rows), self.meta[rows], self.keys(rows))

    def remove(self, rows: Int64s) -> None:
        """Makes holes of rows that are alive."""
        self.alive[rows] = 0
        self.deadlines[rows] = NEVER
        self.live -= rows.size

    def compact(self) -> Int64s | None:
        """Closes the holes if they are more than half; gives each old row's new number (-1 for holes), else None."""
        if self.used - self.live < max(_COMPACT_FROM, self.live):
            return None
        rows = np.flatnonzero(self.alive[: self.used])
        renumbered = np.full(self.used, -1, np.int64)
        renumbered[rows] = np.arange(rows.size)
        keys = self.keys(rows)
        self.old, self.young = self.frame(rows).rechunk(), self.old.clear()
        n = rows.size
        for column in (self.meta, self.deadlines, self.owners, self.marks, self.alive):
            column[:n] = column[rows]
        self.alive[n : self.used] = 0
        self.deadlines[n : self.used] = NEVER
        self.minima = minima_of(self.deadlines)
        if keys is not None:
            self.key_bytes = keys.buffer
            self.key_used = keys.buffer.size
            self.key_starts[:n] = keys.starts
            self.key_ends[:n] = keys.ends
            self.key_hashes[:n] = keys.hashes
        self.used = n
        return renumbered

    def _make_room(self, need: int) -> None:
        capacity = next_rows(self.deadlines.size, need)
        if capacity == self.deadlines.size:
            return
        self.meta = grow(self.meta, capacity)
        self.deadlines = grow(self.deadlines, capacity, fill=NEVER)
        self.minima = grow(self.minima, blocks_of(capacity), fill=NEVER)
        self.owners = grow(self.owners, capacity, fill=-1)
        self.marks = grow(self.marks, capacity)
        self.alive = grow(self.alive, capacity)
        if self.keyed:
            self.key_starts = grow(self.key_starts, capacity)
            self.key_ends = grow(self.key_ends, capacity)
            self.key_hashes = grow(self.key_hashes, capacity)

    def _append_keys(self, keys: Keys) -> None:
        buffer, starts, ends = gather_bytes(keys.buffer, keys.starts, keys.ends)
        base, here = self.key_used, slice(self.used, self.used + starts.size)
        self.key_used += buffer.size
        self.key_bytes = grow(self.key_bytes, next_rows(self.key_bytes.size, self.key_used))
        self.key_bytes[base : self.key_used] = buffer
        self.key_starts[here] = np.where(starts < 0, -1, starts + base)
        self.key_ends[here] = ends + base
        self.key_hashes[here] = keys.hashes


def row_store(schema: pl.Schema, *, keyed: bool) -> RowStore:
    """An empty store for rows of these columns, with or without the bytes of their keys."""
    empty = _frame_without_rows(tuple(schema.items()))
    none = np.empty(0, np.int64)
    no_bytes = np.empty(0, np.uint8)
    return RowStore(
        old=empty, young=empty, meta=np.empty((0, WIDTH), np.int64), deadlines=none, minima=none.copy(),
        owners=none.copy(), marks=no_bytes, alive=no_bytes.copy(), key_bytes=no_bytes.copy(), key_starts=none.copy(),
        key_ends=none.copy(), key_hashes=np.empty(0, np.uint64), keyed=int(keyed),
    )  # fmt: skip


@lru_cache(maxsize=256)
def _frame_without_rows(columns: tuple[tuple[str, pl.DataType], ...]) -> pl.DataFrame:
    """Frames are never changed in place, so all stores of these columns may begin with the same one."""
    return pl.DataFrame(schema=dict(columns))


@kernel
def _gather_bytes(buffer: Bytes, starts: Int64s, ends: Int64s) -> tuple[Bytes, Int64s, Int64s]:
    new_starts = np.empty(starts.size, np.int64)
    new_ends = np.empty(starts.size, np.int64)
    total = 0
    for i in range(starts.size):
        new_starts[i] = -1 if starts[i] < 0 else total
        total += 0 if starts[i] < 0 else ends[i] - starts[i]
        new_ends[i] = total
    out = np.empty(total, np.uint8)
    at = 0
    for i in range(starts.size):
        if starts[i] >= 0:
            for j in range(starts[i], ends[i]):
                out[at] = buffer[j]
                at += 1
    return out, new_starts, new_ends


def gather_bytes(buffer: Bytes, starts: Int64s, ends: Int64s) -> tuple[Bytes, Int64s, Int64s]:
    """Pieces of a buffer one after the other in a new one, and their bounds in it; a null piece (start -1) stays null.

    >>> out, starts, ends = gather_bytes(np.frombuffer(b"abcdef", np.uint8), np.array([4, -1, 0]), np.array([6, -1, 1]))
    >>> out.tobytes(), starts.tolist(), ends.tolist()
    (b'efa', [0, -1, 2], [2, 2, 3])
    """
    gathered: tuple[Bytes, Int64s, Int64s] = _gather_bytes(frozen(buffer), frozen(starts), frozen(ends))
    return gathered
