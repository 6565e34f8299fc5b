"""Where a finite run ends: when every task of the topology, also of other workers, has read all that there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from streamproc.errors import OffsetOutOfRange
from streamproc.event_time import MAX_TIME
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.restore import last_entry
from streamproc.runtime.task import Task


class Ending:
    """The end of a finite run: the offsets at which the sources end, and whether time ends there too.

    Where internal topics end is asked once a turn, for all tasks together (`look`): over a network each question costs
    as much as a step of few rows.
    """

    def __init__(self, binding: Binding, log: Log, until: Mapping[TopicPartition, int], *, close: bool) -> None:
        self.binding, self.log, self.until, self.close = binding, log, until, close
        self._ends: dict[TopicPartition, int] = {}
        self._open: dict[TopicPartition, int] | None = None

    def look(self, tasks: Iterable[Task]) -> None:
        """Asks where the internal topics of these tasks end now."""
        self._ask({feed.channel.place for task in tasks for feed in task.feeds if feed.stop is None})

    def ends(self, task: Task) -> dict[TopicPartition, int]:
        """Where each channel of a task ends: at the run's end for a source, for an internal topic where it ended at
        the last look."""
        return {
            feed.channel.place: feed.stop if feed.stop is not None else self._end(feed.channel.place)
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
        """Whether these tasks and, as far as the log shows it, those of all other workers are done, at this moment."""
        self.look(tasks.values())
        if len(tasks) == self.binding.task_count:
            return all(self.done(task) for task in tasks.values())
        # First whether time has ended: whoever ends it writes to the topics that are looked at next.
        if self.close and any(number not in tasks and not self._closed(number) for number in self._of_sources()):
            return False  # Its owner may die before it ends time; then somebody has to be there.
        committed = {
            stage.stage.index: self.log.committed(self.binding.names.group(stage.stage.index))
            for stage in self.binding.stages
        }
        self._ask({place for _, place in self._channels() if place not in self.until})
        if any(self._has_more(place, committed[stage].get(place)) for stage, place in self._channels()):
            return False
        return all(self.done(task) for task in tasks.values())

    def _has_more(self, place: TopicPartition, position: int | None) -> bool:
        """Whether a record of the run lies at or after a position, or may yet."""
        position = self.log.start_offset(place) if position is None else position
        end = self.until.get(place)
        if end is None:
            end = self._end(place)
            if self._in_flight(place, {place: end}):
                return True
        if position >= end:
            return False
        # Other logs than ours keep marks between records and behind the last one, which nobody consumes.
        try:
            block = self.log.read(place, position, max_records=1)
        except OffsetOutOfRange:
            # The position is old: its owner went on and trimmed what lies before, so look again later. But where every
            # task of a source has ended time, only marks can have lain there, which nobody consumes.
            return not self.close or self._has_more(place, None)
        return bool(len(block)) and int(block.offsets[0]) < end

    def _in_flight(self, place: TopicPartition, ends: Mapping[TopicPartition, int]) -> int:
        if self._open is None:
            # Asked after the committed ends: what was committed in between counts as in flight, and not as nothing.
            self._open = self.log.end_offsets(sorted(self._ends), isolation="read_uncommitted")
        if place not in self._open:
            self._open[place] = self.log.end_offset(place, isolation="read_uncommitted")
        return max(0, self._open[place] - ends[place])

    def _ask(self, places: set[TopicPartition]) -> None:
        self._ends, self._open = self.log.end_offsets(sorted(places)), None

    def _end(self, place: TopicPartition) -> int:
        if place not in self._ends:
            self._ends[place] = self.log.end_offset(place)
        return self._ends[place]

    def _channels(self) -> Iterator[tuple[int, TopicPartition]]:
        for stage, count in zip(self.binding.stages, self.binding.tasks, strict=True):
            for index in range(count):
                for channel in stage.channels(index, self.binding.partitions):
                    yield stage.stage.index, channel.place

    def _of_sources(self) -> Iterator[int]:
        for stage, count in zip(self.binding.stages, self.binding.tasks, strict=True):
            if any(inlet.source is not None for inlet in stage.stage.inputs):
                yield from (self.binding.number_of(stage.stage.index, index) for index in range(count))

    def _closed(self, number: int) -> bool:
        """Whether a task of another worker has ended time, as its journal says."""
        last = last_entry(self.log, TopicPartition(self.binding.names.tasks, number))
        return last is not None and last.watermark >= MAX_TIME
