"""One partition of the simulated log: batches of records with the offsets and marks that a Kafka broker would keep.

Records of open transactions take offsets and hold the last stable offset back; a commit or abort marker takes an offset
too and holds no record. What is read lies below the last stable offset and belongs to no aborted transaction.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from streamproc.errors import OffsetOutOfRange
from streamproc.ports import Block, HeaderColumn, Int64s, TopicPartition, TopicSettings


@dataclass(eq=False, slots=True)
class Fate:
    """What becomes of a transaction's records: None while nobody decided, then whether they count."""

    committed: bool | None = None


@dataclass(slots=True)
class Batch:
    """Records that were appended together. `fate` None: written outside any transaction.

    first, last  offsets of the first and the last record
    """

    block: Block
    fate: Fate | None
    first: int = field(init=False)
    last: int = field(init=False)

    def __post_init__(self) -> None:
        self.first, self.last = int(self.block.offsets[0]), int(self.block.offsets[-1])

    @property
    def counts(self) -> bool:
        """Whether a reader of committed records may see it."""
        return self.fate is None or self.fate.committed is True


@dataclass(slots=True)
class Partition:
    """A partition's records.

    end     one past everything, markers and open transactions included
    newest  the newest append time: append times never go back, also when the clock does
    open    the first offset of each transaction whose marker has not arrived here
    """

    place: TopicPartition
    settings: TopicSettings
    batches: list[Batch] = field(default_factory=list)
    start: int = 0
    end: int = 0
    newest: int = 0
    open: dict[Fate, int] = field(default_factory=dict)
    _graves: set[int] = field(default_factory=set)

    @property
    def stable(self) -> int:
        """The last stable offset: below it every transaction's outcome is known here."""
        return min(self.open.values()) if self.open else self.end

    def append(self, block: Block, now: int, fate: Fate | None) -> tuple[int, int]:
        """Adds records; gives the offsets that they took, half-open."""
        n = len(block)
        first = self.end
        self.newest = max(self.newest, now)
        stamps = block.timestamps
        if not stamps.size or self.settings.append_time:
            stamps = np.full(n, self.newest, np.int64)
        self.batches.append(Batch(replace(block, offsets=np.arange(first, first + n), timestamps=stamps), fate))
        if fate is not None:
            self.open.setdefault(fate, first)
        self.end = first + n
        return first, self.end

    def mark(self, fate: Fate, *, takes_offset: bool) -> None:
        """A transaction's marker arrives."""
        if self.open.pop(fate, None) is not None and takes_offset:
            self.end += 1

    def read(self, offset: int, max_records: int, max_bytes: int) -> Block:
        """Committed records from an offset on, of as many batches as the bounds allow."""
        stable = self.stable
        if not self.start <= offset <= stable:
            raise OffsetOutOfRange(
                f"'{self.place.topic}' partition {self.place.partition} holds {self.start} to {stable}, not {offset}",
                hint="read from the start, or restore the topic from an archive",
            )
        parts: list[Block] = []
        left = max_records
        for batch in self.batches[self._at(offset) :]:
            if left <= 0 or batch.first >= stable:
                break
            if not batch.counts or batch.last < offset:
                continue
            block = batch.block
            if batch.first >= offset and len(block) <= left and block.buffer.size <= max_bytes:
                # All of it fits, whichever pieces of its buffer the records are.
                parts.append(block)
                left -= len(block)
                max_bytes -= block.buffer.size
                continue
            first = int(np.searchsorted(block.offsets, offset)) if batch.first < offset else 0
            stop = min(len(block), first + left)
            sizes = np.maximum(block.value_ends[first:stop] - block.value_starts[first:stop], 0) + np.maximum(
                block.key_ends[first:stop] - block.key_starts[first:stop], 0
            )
            fits = int(np.searchsorted(np.cumsum(sizes), max_bytes, side="right"))
            if not parts:
                fits = max(fits, 1)
            if fits:
                parts.append(block.slice(first, first + fits))
            if fits < stop - first:
                break
            left -= fits
            max_bytes -= int(sizes.sum())
        return joined(parts) if parts else nothing_of(self.place)

    def has_record(self, offset: int) -> bool:
        """Whether a committed record lies at or after an offset."""
        stable = self.stable
        return any(b.counts and offset <= b.last and b.first < stable for b in self.batches[self._at(offset) :])

    def offset_at(self, timestamp: int) -> int:
        """The first committed record at or after a moment, else the end."""
        for batch in self.batches:
            if batch.first >= self.stable:
                break
            if batch.counts:
                later = np.flatnonzero((batch.block.timestamps >= timestamp) & (batch.block.offsets >= self.start))
                if later.size:
                    return int(batch.block.offsets[later[0]])
        return self.stable

    def delete(self, before: int) -> None:
        """Removes what lies below an offset; the start moves there."""
        if before > self.stable:
            raise OffsetOutOfRange(
                f"{self.place.topic}-{self.place.partition} holds {self.start} to {self.stable}, not {before}",
                hint="name an offset inside",
            )
        if before > self.start:
            self.start = before
            self.batches = [batch for batch in self.batches if batch.last >= before]

    def expire(self, now: int) -> None:
        """Retention by age and size, whole batches at a time, below the last stable offset."""
        age, size = self.settings.retention_us, self.settings.retention_bytes
        stable = self.stable
        total = sum(_bytes(batch.block) for batch in self.batches)
        gone = 0
        for batch in self.batches:
            old = age is not None and int(batch.block.timestamps.max()) < now - age
            large = size is not None and total - _bytes(batch.block) >= size
            if batch.last >= stable or not (old or large):
                break
            total -= _bytes(batch.block)
            gone += 1
        if gone:
            del self.batches[:gone]
            self.start = min(self.batches[0].first if self.batches else stable, stable)

    def compact(self) -> None:
        """Of each key only the newest record stays; a tombstone stays for one more time; aborted records go."""
        stable = self.stable
        newest: dict[bytes, int] = {}
        final = -1
        for batch in self.batches:
            if batch.counts and batch.last < stable:
                for row in range(len(batch.block)):
                    key = batch.block.key(row)
                    final = int(batch.block.offsets[row])
                    if key is not None:
                        newest[key] = final
        kept: list[Batch] = []
        for batch in self.batches:
            if batch.last >= stable:
                kept.append(batch)
                continue
            if not batch.counts:
                continue
            rows = [row for row in range(len(batch.block)) if self._stays(batch.block, row, newest, final)]
            if rows:
                kept.append(Batch(_taken(batch.block, np.array(rows, np.int64)), batch.fate))
        self.batches = kept

    def _stays(self, block: Block, row: int, newest: dict[bytes, int], final: int) -> bool:
        offset, key = int(block.offsets[row]), block.key(row)
        if key is None or offset == final:
            return True
        if newest[key] != offset:
            return False
        if block.value_starts[row] >= 0:
            return True
        fresh = offset not in self._graves
        self._graves.add(offset)
        return fresh

    def _at(self, offset: int) -> int:
        """Where batches that may hold an offset begin."""
        return max(0, bisect_right(self.batches, offset, key=lambda batch: batch.first) - 1)


def joined(parts: list[Block]) -> Block:
    """Blocks of one partition as one."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0, *(part.buffer.size for part in parts[:-1])]).tolist()

    def bounds(columns: list[tuple[Int64s, Int64s]]) -> tuple[Int64s, Int64s]:
        starts = [np.where(s < 0, -1, s + shift) for (s, _), shift in zip(columns, shifts, strict=True)]
        ends = [np.where(s < 0, -1, e + shift) for (s, e), shift in zip(columns, shifts, strict=True)]
        return np.concatenate(starts), np.concatenate(ends)

    def header(part: Block, name: str) -> tuple[Int64s, Int64s]:
        for column in part.headers:
            if column.name == name:
                return column.starts, column.ends
        none = np.full(len(part), -1, np.int64)
        return none, none

    names = sorted({column.name for part in parts for column in part.headers})
    return Block(
        parts[0].topic,
        parts[0].partition,
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.timestamps for part in parts]),
        np.concatenate([part.buffer for part in parts]),
        *bounds([(part.value_starts, part.value_ends) for part in parts]),
        *bounds([(part.key_starts, part.key_ends) for part in parts]),
        tuple(HeaderColumn(name, *bounds([header(part, name) for part in parts])) for name in names),
        tuple(
            (first + row, why)
            for first, part in zip(np.cumsum([0, *map(len, parts[:-1])]).tolist(), parts, strict=True)
            for row, why in part.unreadable
        ),
    )


def nothing_of(place: TopicPartition) -> Block:
    """No record of a partition."""
    none = np.empty(0, np.int64)
    return Block(place.topic, place.partition, none, none, np.empty(0, np.uint8), none, none, none, none)


def _taken(block: Block, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Block:
    return Block(
        block.topic,
        block.partition,
        block.offsets[rows],
        block.timestamps[rows],
        block.buffer,
        block.value_starts[rows],
        block.value_ends[rows],
        block.key_starts[rows],
        block.key_ends[rows],
        tuple(HeaderColumn(h.name, h.starts[rows], h.ends[rows]) for h in block.headers),
        tuple((int(np.searchsorted(rows, row)), why) for row, why in block.unreadable if row in rows),
    )


def _bytes(block: Block) -> int:
    keys = np.maximum(block.key_ends - block.key_starts, 0)
    return int((np.maximum(block.value_ends - block.value_starts, 0) + keys).sum())
