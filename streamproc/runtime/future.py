"""Records whose own timestamp lies in the future: a verdict by offset, given once and kept in the journal.

An event time is held against its record's timestamp, which is data (`engine.intake`). But a producer whose clock is
ahead stamps its records ahead too, and then both agree. So a record that is stamped further in the future of the
worker's clock than the source's skew allows goes to the dead-letter topic as well. That verdict hangs on a clock: the
journal keeps it, and every later run over the same offsets reads it there, also one that computes history afresh.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from streamproc.ports import Block, Int64s, Log, TopicPartition
from streamproc.runtime.feed import Ranges, within
from streamproc.runtime.journal import journal_entries


@dataclass(frozen=True, slots=True)
class FutureVerdicts:
    """Which records are from the future.

    now_us    the clock, µs since 1970 UTC, for records that nobody judged before
    recorded  per partition the offsets that were judged to be from the future, ascending
    known     per partition the half-open range that somebody judged: what `recorded` does not name in it is not

    >>> FutureVerdicts(lambda: 10).recorded
    {}
    """

    now_us: Callable[[], int]
    recorded: Mapping[TopicPartition, Ranges] = field(default_factory=dict)
    known: Mapping[TopicPartition, tuple[int, int]] = field(default_factory=dict)

    def of(self, place: TopicPartition, block: Block, skew_us: int) -> Int64s:
        """Offsets of the block's records that are from the future."""
        if not len(block):
            return np.empty(0, np.int64)
        first, end = self.known.get(place, (0, 0))
        judged = within(block.offsets, self.recorded.get(place, ()))
        latest = self.now_us() + skew_us
        if int(block.timestamps.max()) > latest:
            unknown = (block.offsets < first) | (block.offsets >= end)
            judged = np.union1d(judged, block.offsets[(block.timestamps > latest) & unknown])
        return judged


def recorded_verdicts(topology: str, log: Log, now_us: Callable[[], int]) -> FutureVerdicts:
    """What live runs of all versions of a topology judged, as their journals say; the clock judges what is beyond."""
    pattern = re.compile(re.escape(topology) + r"\.v\d+\.tasks")
    recorded: dict[TopicPartition, list[tuple[int, int]]] = {}
    known: dict[TopicPartition, tuple[int, int]] = {}
    for topic, settings in log.topics().items():
        if not pattern.fullmatch(topic):
            continue
        for number in range(settings.partitions):
            place = TopicPartition(topic, number)
            for _, entry in journal_entries(log, place, log.start_offset(place), log.end_offset(place)):
                for taken in entry.ranges:
                    read = TopicPartition(taken.topic, taken.partition)
                    first, end = known.get(read, (taken.first, taken.last))
                    known[read] = min(first, taken.first), max(end, taken.last)
                for channel, first, last in entry.future:
                    taken = entry.ranges[channel]
                    recorded.setdefault(TopicPartition(taken.topic, taken.partition), []).append((first, last))
    return FutureVerdicts(now_us, {place: sorted(set(ranges)) for place, ranges in recorded.items()}, known)
