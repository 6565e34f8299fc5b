"""Where a finite run ends: when every task of the topology, also of other workers, has read all that there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
        return task.ended(self.ends(task)) and (not self.close or not task.close_marks() or task.is_closed())

    def finished(self, tasks: Mapping[int, Task]) -> bool:
        """Whether these tasks and, as far as the log shows it, those of all other workers are done."""
        if len(tasks) == self.binding.task_count:
            return all(self.done(task) for task in tasks.values())
        for stage, count in zip(self.binding.stages, self.binding.tasks, strict=True):
            committed = self.log.committed(self.binding.names.group(stage.stage.index))
            for index in range(count):
                for channel in stage.channels(index, self.binding.partitions):
                    end = self.log.end_offset(channel.place)
                    if channel.place in self.until:
                        end = min(end, self.until[channel.place])
                    if end > self.log.start_offset(channel.place) and committed.get(channel.place, -1) < end:
                        return False
        if self.close and any(number not in tasks and not self._closed(number) for number in self._of_sources()):
            return False  # Its owner may die before it ends time; then somebody has to be there.
        return all(self.done(task) for task in tasks.values())

    def _of_sources(self) -> Iterator[int]:
        for stage, count in zip(self.binding.stages, self.binding.tasks, strict=True):
            if any(inlet.source is not None for inlet in stage.stage.inputs):
                yield from (self.binding.number_of(stage.stage.index, index) for index in range(count))

    def _closed(self, number: int) -> bool:
        """Whether a task of another worker has ended time, as its journal says."""
        last = last_entry(self.log, TopicPartition(self.binding.names.tasks, number))
        return last is not None and last.watermark >= MAX_TIME
