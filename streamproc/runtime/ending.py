"""Where a finite run ends: when every task of the topology, also of other workers, has read all that there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from streamproc.errors import OffsetOutOfRange
from streamproc.event_time import MAX_TIME
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.restore import last_entry
from streamproc.runtime.task import Task


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a finite run: the offsets at which the sources end, and whether time ends there too."""

    binding: Binding
    log: Log
    until: Mapping[TopicPartition, int]
    close: bool

    def ends(self, task: Task) -> dict[TopicPartition, int]:
        """Where each channel of a task ends now: at the run's end for a source, at the log's for an internal topic."""
        return {
            feed.channel.place: feed.stop if feed.stop is not None else self.log.end_offset(feed.channel.place)
            for feed in task.feeds
        }

    def done(self, task: Task) -> bool:
        """Whether a task has read everything, and ended time if it is to."""
        ends = self.ends(task)
        if not task.ended(ends) or (self.close and task.close_marks() and not task.is_closed()):
            return False
        # A commit is decided before its rows can be read: what lies behind the end may be such rows.
        return all(self._in_flight(feed.channel.place, ends) == 0 for feed in task.feeds if feed.stop is None)

    def finished(self, tasks: Mapping[int, Task]) -> bool:
        """Whether these tasks and, as far as the log shows it, those of all other workers are done."""
        if len(tasks) == self.binding.task_count:
            return all(self.done(task) for task in tasks.values())
        # First whether time has ended: whoever ends it writes to the topics that are looked at next.
        if self.close and any(number not in tasks and not self._closed(number) for number in self._of_sources()):
            return False  # Its owner may die before it ends time; then somebody has to be there.
        for stage, count in zip(self.binding.stages, self.binding.tasks, strict=True):
            committed = self.log.committed(self.binding.names.group(stage.stage.index))
            for index in range(count):
                for channel in stage.channels(index, self.binding.partitions):
                    if self._has_more(channel.place, committed.get(channel.place)):
                        return False
        return all(self.done(task) for task in tasks.values())

    def _has_more(self, place: TopicPartition, position: int | None) -> bool:
        """Whether a record of the run lies at or after a position, or may yet."""
        position = self.log.start_offset(place) if position is None else position
        end = self.until.get(place)
        if end is None:
            end = self.log.end_offset(place)
            if self._in_flight(place, {place: end}):
                return True
        if position >= end:
            return False
        # Other logs than ours keep marks between records and behind the last one, which nobody consumes.
        try:
            block = self.log.read(place, position, max_records=1)
        except OffsetOutOfRange:
            return True  # The position is old: its owner went on and trimmed what lies before, so look again later.
        return bool(len(block)) and int(block.offsets[0]) < end

    def _in_flight(self, place: TopicPartition, ends: Mapping[TopicPartition, int]) -> int:
        return max(0, self.log.end_offset(place, isolation="read_uncommitted") - ends[place])

    def _of_sources(self) -> Iterator[int]:
        for stage, count in zip(self.binding.stages, self.binding.tasks, strict=True):
            if any(inlet.source is not None for inlet in stage.stage.inputs):
                yield from (self.binding.number_of(stage.stage.index, index) for index in range(count))

    def _closed(self, number: int) -> bool:
        """Whether a task of another worker has ended time, as its journal says."""
        last = last_entry(self.log, TopicPartition(self.binding.names.tasks, number))
        return last is not None and last.watermark >= MAX_TIME
