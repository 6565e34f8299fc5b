"""Kafka as a log: what the port promises, out of the parts of this package."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType

from connectors.kafka.admin import Admin
from connectors.kafka.membership import KafkaMembership
from connectors.kafka.paths import data_path
from connectors.kafka.profile import Profile
from connectors.kafka.reading import Reader
from connectors.kafka.writing import KafkaProducer
from streamproc.errors import LogError
from streamproc.ports import Block, Isolation, TopicPartition, TopicSettings

logger = logging.getLogger(__name__)


class KafkaLog:
    """A cluster; used from one thread. Record timestamps are whole milliseconds.

    blocks  whether records move in blocks (True), as objects (False), or in blocks where that is possible (None)
    """

    def __init__(self, profile: Profile, *, blocks: bool | None = None) -> None:
        self._profile = profile
        self._path = data_path(blocks)
        self._admin = Admin(profile)
        self._reader: Reader | None = None

    def __enter__(self) -> KafkaLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def topics(self) -> dict[str, TopicSettings]:
        """Every topic that is not Kafka's own."""
        return self._admin.topics()

    def create_topic(self, topic: str, settings: TopicSettings) -> None:
        """Creates the topic; the same settings twice are fine, other ones raise LogError."""
        self._admin.create(topic, settings)

    def delete_topic(self, topic: str) -> None:
        """Removes topic, records and committed offsets."""
        self._admin.delete(topic)
        if self._reader is not None:
            self._reader.forget(topic)

    def delete_records(self, partition: TopicPartition, before: int) -> None:
        """Moves the start of a partition."""
        self._admin.delete_records(partition, before)
        if self._reader is not None:
            self._reader.forget(*partition)

    def start_offset(self, partition: TopicPartition) -> int:
        """The first offset held."""
        return self._admin.start_offset(partition)

    def end_offset(self, partition: TopicPartition, *, isolation: Isolation = "read_committed") -> int:
        """The last stable offset; with "read_uncommitted" the high watermark."""
        return self._admin.end_offset(partition, isolation)

    def end_offsets(
        self, partitions: Iterable[TopicPartition], *, isolation: Isolation = "read_committed"
    ) -> dict[TopicPartition, int]:
        """The same for many partitions, in one request to each broker."""
        return self._admin.end_offsets(partitions, isolation)

    def available(self, partition: TopicPartition, offset: int) -> int:
        """Up to where records have come already."""
        return self._reading().available(partition, offset)

    def reached(self, partition: TopicPartition, offset: int) -> int:
        """Up to where all has come, and no record."""
        return self._reading().reached(partition, offset)

    def offset_at(self, partition: TopicPartition, timestamp: int) -> int:
        """The first offset at or after a moment (µs).

        Brokers may name the mark of a commit, whose own time is the commit's: records are looked at from there on.
        """
        found, end = self._admin.offset_at(partition, timestamp), self.end_offset(partition)
        while found < end:
            block = self.read(partition, found)
            if not len(block):
                return end
            late_enough = block.timestamps >= timestamp
            if late_enough.any():
                return int(block.offsets[int(late_enough.argmax())])
            found = int(block.offsets[-1]) + 1
        return end

    def read(
        self, partition: TopicPartition, offset: int, *, max_records: int = 65_536, max_bytes: int = 16 << 20
    ) -> Block:
        """Committed records from an offset on; offsets have gaps where transactions ended."""
        return self._reading().read(partition, offset, max_records=max_records, max_bytes=max_bytes)

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_us: int) -> bool:
        """Waits until one of the partitions has a record."""
        return self._reading().wait(partitions, timeout_us / 1e6)

    def read_ahead(self, most_bytes: int, partitions: int) -> None:
        """At most so many bytes are fetched ahead of so many partitions together, or on their way to the brokers."""
        self._profile = replace(self._profile, ahead=(most_bytes, partitions))
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def producer(self, transactional_id: str) -> KafkaProducer:
        """Opens a transactional producer and fences every older one of its id."""
        return KafkaProducer(self._profile, self._admin, transactional_id, self._path.sender)

    def join(self, group: str, topic: str, member: str, *, lease_us: int = 10_000_000) -> KafkaMembership:
        """Joins the group that shares out the partitions of a topic."""
        if lease_us <= 0:
            raise LogError(f"a lease of {lease_us} µs is too short", hint="give a lease of some seconds")
        self._admin.partitions(topic)
        return KafkaMembership(self._profile, group, topic, member, lease_s=lease_us / 1e6)

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """The group's committed next offsets."""
        return self._admin.committed(group)

    def groups(self) -> list[str]:
        """Names of all groups that committed an offset."""
        return self._admin.groups()

    def close(self) -> None:
        """Lets go of the connections."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._admin.close()

    def _reading(self) -> Reader:
        if self._reader is None:
            self._reader = self._path.reader(self._profile, self._admin)
        return self._reader
