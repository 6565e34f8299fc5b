"""Kafka under the conformance suite: one real broker for the session, emptied before each test."""

from __future__ import annotations

import atexit
import contextlib
import functools
import time

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from connectors.kafka import KafkaLog, Profile, kafka_settings
from connectors.kafka.transaction import KafkaTransaction
from connectors.kafka.writing import KafkaProducer
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.services.kafka import KafkaCluster, kafka_cluster

# Only what lies in older segments is cleaned: of these topics each batch gets one of its own.
CLEANED = {"segment.ms": "1", "segment.index.bytes": "4096", "delete.retention.ms": "4000"}

_MARK_S = 60.0
"""A broker that has much to do, or a topic that was just made again, may let the mark of a commit wait for seconds."""


class SeenLog(KafkaLog):
    """A log whose commits return when they can be read: brokers write the marks of a commit after they answered it."""

    def create_topic(self, topic: str, settings: TopicSettings) -> None:
        super().create_topic(topic, settings)
        if settings.compacted or settings.retention_us is not None or settings.retention_bytes is not None:
            entries = [
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in CLEANED.items()
            ]
            admin = AdminClient({"bootstrap.servers": broker().bootstrap, "log_level": 0})
            resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
            for answer in admin.incremental_alter_configs([resource]).values():
                answer.result()

    def producer(self, transactional_id: str) -> KafkaProducer:
        producer = super().producer(transactional_id)
        begin = producer.begin

        def seen() -> KafkaTransaction:
            transaction = begin()
            commit = transaction.commit

            def committed() -> dict[TopicPartition, tuple[int, int]]:
                ranges = commit()
                until = time.monotonic() + _MARK_S
                for place, (_, end) in ranges.items():
                    while not self._marked(place, end) and time.monotonic() < until:
                        time.sleep(0.002)
                return ranges

            transaction.commit = committed
            return transaction

        producer.begin = seen
        return producer

    def _marked(self, place: TopicPartition, end: int) -> bool:
        """Whether what was committed up to an offset can be read, or its mark lies there and another transaction holds
        it back."""
        return self.end_offset(place) >= end or self.end_offset(place, isolation="read_uncommitted") > end


@functools.cache
def broker() -> KafkaCluster:
    """The session's broker; it ends with this process."""
    running = contextlib.ExitStack()
    atexit.register(running.close)
    return running.enter_context(kafka_cluster())


class KafkaAdapter:
    """A cluster whose time is the machine's: what is to happen later is waited for."""

    cleaning_takes = 2  # A record that was aborted, and the mark that says so.

    def __init__(self, *, blocks: bool, direct: bool = True) -> None:
        self._blocks = blocks
        self._profile = Profile(kafka_settings({"brokers": broker().bootstrap, "direct": direct}), session_s=1.5)
        self._handles: list[KafkaLog] = []
        self._admin = AdminClient({"bootstrap.servers": broker().bootstrap, "log_level": 0})
        self._empty()

    def open(self) -> KafkaLog:
        log = SeenLog(self._profile, blocks=self._blocks)
        self._handles.append(log)
        return log

    def pass_time(self, us: int) -> None:
        time.sleep(max(0, us) / 1e6)

    def clean(self) -> None:
        # What an aborted transaction leaves in each partition ends the segment before it.
        log = self.open()
        producer = log.producer("cleaner")
        transaction = producer.begin()
        for topic, settings in log.topics().items():
            for partition in range(settings.partitions):
                transaction.append(block_of(topic, partition, [b""], keys=[b"cleaner"]))
        transaction.written()  # Else it would be thrown away before it was sent.
        transaction.abort()
        producer.close()
        time.sleep(3)

    def close(self) -> None:
        for log in self._handles:
            log.close()

    def _empty(self) -> None:
        names = [name for name in self._admin.list_topics(timeout=10).topics if not name.startswith("__")]
        if names:
            for answer in self._admin.delete_topics(names).values():
                answer.result()
        while any(name in self._admin.list_topics(timeout=10).topics for name in names):
            time.sleep(0.02)
        groups = [group.group_id for group in self._admin.list_consumer_groups().result().valid]
        for answer in self._admin.delete_consumer_groups(groups).values() if groups else ():
            with contextlib.suppress(KafkaException):
                answer.result()
