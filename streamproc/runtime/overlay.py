"""A log that reads one log and writes another: how a replay uses history and touches nothing live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streamproc.ports import Block, Isolation, Log, Membership, Producer, TopicPartition, TopicSettings


class OverlayLog:
    """The topics in `shared` come from `history`, read-only; everything else lives in `scratch`.

    starts  where history begins for this run, for partitions that are not to be read from their start
    """

    def __init__(
        self, history: Log, scratch: Log, shared: frozenset[str], *, starts: Mapping[TopicPartition, int] | None = None
    ) -> None:
        self._starts = dict(starts or {})
        self._history = history
        self._scratch = scratch
        self._shared = shared
        for topic, settings in history.topics().items():
            if topic in shared:
                scratch.create_topic(topic, settings)  # Stays empty: offsets of this run are committed against it.

    def _of(self, topic: str) -> Log:
        return self._history if topic in self._shared else self._scratch

    def topics(self) -> dict[str, TopicSettings]:
        """The shared topics and those of this run."""
        shared = {topic: settings for topic, settings in self._history.topics().items() if topic in self._shared}
        return shared | self._scratch.topics()

    def create_topic(self, topic: str, settings: TopicSettings) -> None:
        """Creates a topic of this run."""
        self._scratch.create_topic(topic, settings)

    def delete_topic(self, topic: str) -> None:
        """Removes a topic of this run."""
        self._scratch.delete_topic(topic)

    def delete_records(self, partition: TopicPartition, before: int) -> None:
        """Removes records of this run."""
        self._scratch.delete_records(partition, before)

    def start_offset(self, partition: TopicPartition) -> int:
        """The first offset held."""
        first = self._of(partition.topic).start_offset(partition)
        return max(first, self._starts.get(partition, first))

    def end_offset(self, partition: TopicPartition, *, isolation: Isolation = "read_committed") -> int:
        """One past the last committed record."""
        return self._of(partition.topic).end_offset(partition, isolation=isolation)

    def end_offsets(
        self, partitions: Iterable[TopicPartition], *, isolation: Isolation = "read_committed"
    ) -> dict[TopicPartition, int]:
        """The ends of many partitions."""
        mine: list[TopicPartition] = []
        theirs: list[TopicPartition] = []
        for place in partitions:
            (theirs if place.topic in self._shared else mine).append(place)
        return self._history.end_offsets(theirs, isolation=isolation) | self._scratch.end_offsets(
            mine, isolation=isolation
        )

    def available(self, partition: TopicPartition, offset: int) -> int:
        """Up to where a read answers at once."""
        return self._of(partition.topic).available(partition, offset)

    def reached(self, partition: TopicPartition, offset: int) -> int:
        """Up to where no record is known to lie."""
        return self._of(partition.topic).reached(partition, offset)

    def offset_at(self, partition: TopicPartition, timestamp: int) -> int:
        """The first offset at or after a moment."""
        return self._of(partition.topic).offset_at(partition, timestamp)

    def read(
        self, partition: TopicPartition, offset: int, *, max_records: int = 65_536, max_bytes: int = 16 << 20
    ) -> Block:
        """Committed records from an offset on."""
        return self._of(partition.topic).read(partition, offset, max_records=max_records, max_bytes=max_bytes)

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_us: int) -> bool:
        """Waits on this run's topics: history has ended."""
        mine = {place: offset for place, offset in partitions.items() if place.topic not in self._shared}
        return bool(mine) and self._scratch.wait(mine, timeout_us)

    def producer(self, transactional_id: str) -> Producer:
        """A producer of this run."""
        return self._scratch.producer(transactional_id)

    def join(self, group: str, topic: str, member: str, *, lease_us: int = 10_000_000) -> Membership:
        """A group of this run."""
        return self._scratch.join(group, topic, member, lease_us=lease_us)

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """Offsets of this run."""
        return self._scratch.committed(group)

    def groups(self) -> list[str]:
        """Groups of this run."""
        return self._scratch.groups()

    def close(self) -> None:
        """Both logs belong to the caller."""
