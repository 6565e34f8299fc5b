"""What stood above an internal topic when a task began: rows of it are on their way through the stages before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from streamproc.errors import LogUnavailable, OffsetOutOfRange
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import Binding

Writer = tuple[int, int]
"""A task, as stage and number in it."""

_LOOK_S: Final = 0.25


@dataclass(slots=True)
class Above:
    """Whether those who write to a task have read what stood in their inputs when it began.

    That is read from what they committed, since they may run in other workers: first whether the tasks of the sources
    came to the ends that were noted, then, for each stage below in turn, whether it came to where its internal topics
    ended at that moment.

    ends       up to where each input above is to be read, once that is known
    silent_s   how long nothing of it was read; time in which nobody looked does not count
    """

    binding: Binding
    log: Log
    ends: dict[TopicPartition, int]
    done: set[Writer] = field(default_factory=set)
    silent_s: float = 0.0
    _looked: float = float("-inf")
    _positions: dict[TopicPartition, int] = field(default_factory=dict)

    @classmethod
    def began(cls, binding: Binding, log: Log, writers: frozenset[Writer]) -> Above:
        """Notes where the sources above these tasks end now.  Raises LogUnavailable."""
        made = cls(binding, log, {})
        chain = made._chain(writers)
        made.ends = log.end_offsets([place for one in chain for place, above in made._inputs(one) if above is None])
        return made

    def look(self, writers: frozenset[Writer], now: float) -> frozenset[Writer]:
        """Those of the tasks that have read all of it by now; asks the log four times a second at most."""
        if now - self._looked < _LOOK_S:
            return writers & self.done
        if self._looked > float("-inf"):
            self.silent_s += min(now - self._looked, 1.0)
        self._looked = now
        with contextlib.suppress(LogUnavailable):  # Asked again with the next look.
            self._ask(writers)
        return writers & self.done

    def _ask(self, writers: frozenset[Writer]) -> None:
        chain = self._chain(writers)
        stages = sorted({stage for stage, _ in chain})
        committed = {stage: self.log.committed(self.binding.names.group(stage)) for stage in stages}
        for one in chain:
            if one in self.done:
                continue
            inputs = list(self._inputs(one))
            # In the order of stages, so that what stood above an input is known to have come before its end is noted.
            fresh = [place for place, above in inputs if above in self.done and place not in self.ends]
            self.ends.update(self.log.end_offsets(fresh) if fresh else {})
            if all(place in self.ends and self._passed(place, committed[one[0]]) for place, _ in inputs):
                self.done.add(one)

    def _passed(self, place: TopicPartition, committed: Mapping[TopicPartition, int]) -> bool:
        position = committed.get(place)
        if position is None:
            position = self.log.start_offset(place)
        before = self._positions.get(place)
        self._positions[place] = position
        if position >= self.ends[place]:
            return True
        if position != before:
            self.silent_s = 0.0
            return False
        # Marks of transactions, and what was aborted or compacted, take offsets that nobody ever commits.
        try:
            block = self.log.read(place, position, max_records=1)
        except OffsetOutOfRange:
            return False
        return not len(block) or int(block.offsets[0]) >= self.ends[place]

    def _chain(self, writers: frozenset[Writer]) -> list[Writer]:
        """These tasks and all above them, stage by stage."""
        found, queue = set(writers), list(writers)
        while queue:
            more = {above for _, above in self._inputs(queue.pop()) if above is not None} - found
            found |= more
            queue += more
        return sorted(found)

    def _inputs(self, writer: Writer) -> Iterator[tuple[TopicPartition, Writer | None]]:
        """What a task reads, and who writes it; None for a source's partition. Feedback is outside."""
        stage, number = self.binding.stages[writer[0]], writer[1]
        channels = stage.channels(number, self.binding.partitions)
        for channel, apart in zip(channels, stage.outside(channels), strict=True):
            if not apart:
                edge = stage.stage.inputs[channel.inlet].edge
                yield channel.place, None if edge is None else (edge.from_stage, channel.upstream)
