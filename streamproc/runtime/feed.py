"""A channel's waiting units: read ahead from the log, decoded, and taken by steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from streamproc.engine import units as unit
from streamproc.engine.compiled import Channel
from streamproc.engine.intake import Intake, SourceIntake
from streamproc.engine.units import Units, joined_units
from streamproc.ports import Block, Int64s, Log, TopicPartition

Ranges = Sequence[tuple[int, int]]
"""Half-open ranges of offsets."""

Judge = Callable[[TopicPartition, Block, int], Int64s]
"""Gives the offsets of a block's records that a clock found to be from the future; the number is the skew, µs."""

_LEAST_READ: Final = 4_096
_READ_BYTES: Final = 64 << 20
MOST_BYTES: Final = 256 << 20
"""What one feed holds at most where nobody says less: large records must not wait by the ten thousand."""
_UNIT_BYTES: Final = 256
"""What a row takes besides its record, about."""


class Feed:
    """One channel of a task between the log and the step.

    `stop` is the offset at which a finite run ends, None for a live one.
    """

    def __init__(self, channel: Channel, intake: Intake, *, offset: int, skip: int, stop: int | None = None) -> None:
        self.channel = channel
        self.stop = stop
        self._intake = intake
        self._next = offset
        self._skip = skip
        self._waiting: list[Units] = []
        self._taken = 0  # Units of the first waiting block that are taken: a block is never cut up to skip them.
        self._count = 0
        self._sizes: list[int] = []  # Bytes of each waiting block; one that is half taken still lies there.

    @property
    def waiting(self) -> int:
        """Units that no step has taken."""
        return self._count

    @property
    def held_bytes(self) -> int:
        """About how much memory the waiting units take."""
        return sum(self._sizes)

    @property
    def next_offset(self) -> int:
        """The first offset that was not read yet."""
        return self._next

    def reached(self, log: Log) -> int:
        """Up to where all records of the log are read: marks of transactions behind the last one take offsets too."""
        return max(self._next, log.reached(self.channel.place, self._next))

    def fill(
        self,
        log: Log,
        *,
        wanted: int,
        end: int,
        future: Judge | None = None,
        unknown: Ranges | None = None,
        most_bytes: int | None = None,
    ) -> None:
        """Reads until `wanted` units wait or the log's end (or `stop`) is reached.

        future      says which records are from the future by a clock; None: none is
        unknown     offsets of records whose schema nobody knew when they were read first; None: they are read now
        most_bytes  waiting units take about so much at most, though one record is always read; None: no bound
        """
        end = end if self.stop is None else min(end, self.stop)
        while self._count < wanted and self._next < end:
            left = _READ_BYTES if most_bytes is None else most_bytes - self.held_bytes
            if left <= 0 and self._count:
                return
            most = max(wanted - self._count, _LEAST_READ)
            if most_bytes is not None:
                most = min(most, max(1, left // _UNIT_BYTES))
            block = log.read(
                self.channel.place,
                self._next,
                max_records=min(most, end - self._next),
                max_bytes=max(1, min(left, _READ_BYTES)),
            )
            if not len(block):
                self._next = end
                return
            if int(block.offsets[-1]) >= end:
                block = block.slice(0, int(np.searchsorted(block.offsets, end)))
                if not len(block):
                    self._next = end
                    return
            if isinstance(self._intake, SourceIntake):
                skew = self._intake.max_future_skew_us
                judged = None if future is None else future(self.channel.place, block, skew)
                units = self._intake.units(
                    block, judged, None if unknown is None else within(block.offsets, unknown)
                )
            else:
                units = self._intake.units(block)
            self._next = int(block.offsets[-1]) + 1
            if self._skip:
                units = units.slice(self._skip, len(units))
                self._skip = 0
            self._waiting.append(units)
            self._sizes.append(int(units.buffer.size) + _UNIT_BYTES * len(units))
            self._count += len(units)

    def advances(self, most: int) -> Int64s:
        """The watermark that each of the first `most` waiting units implies."""
        parts: list[Int64s] = []
        begin = self._taken
        for part in self._waiting:
            if most <= 0:
                break
            parts.append(part.units[begin : begin + most, unit.ADVANCE])
            most -= parts[-1].size
            begin = 0
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def ended_reading(self, end: int) -> bool:
        """Whether the log has nothing more for this feed (up to `stop`)."""
        return self._next >= (end if self.stop is None else min(end, self.stop))

    def ended(self, end: int) -> bool:
        """Whether nothing waits and nothing more is in the log (up to `stop`)."""
        return self._count == 0 and self.ended_reading(end)

    def take(self, count: int) -> Units | None:
        """The first `count` units, or None for none; they are gone from the feed."""
        if count == 0:
            return None
        taken: list[Units] = []
        self._count -= count
        while count:
            head = self._waiting[0]
            stop = min(len(head), self._taken + count)
            taken.append(head.slice(self._taken, stop))
            count -= stop - self._taken
            if stop == len(head):
                self._waiting.pop(0)
                self._sizes.pop(0)
                self._taken = 0
            else:
                self._taken = stop
        return joined_units(taken)


def within(offsets: Int64s, ranges: Ranges) -> Int64s:
    """The offsets that lie in any of the ranges.

    >>> within(np.array([1, 2, 5, 9]), [(2, 6)]).tolist()
    [2, 5]
    """
    parts = [offsets[np.searchsorted(offsets, a) : np.searchsorted(offsets, b)] for a, b in ranges]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def ranges_of(offsets: Int64s, judged: Int64s) -> list[tuple[int, int]]:
    """The judged offsets as ranges, each as long as no other record lies between.

    >>> ranges_of(np.array([1, 3, 4, 6]), np.array([3, 4]))
    [(3, 5)]
    """
    at = np.flatnonzero(np.isin(offsets, judged))
    if not at.size:
        return []
    breaks = np.flatnonzero(np.diff(at) > 1) + 1
    return [(int(offsets[run[0]]), int(offsets[run[-1]]) + 1) for run in np.split(at, breaks)]
