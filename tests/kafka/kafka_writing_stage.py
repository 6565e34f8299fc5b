"""A writer behind a meddler, and a log that sees what the brokers have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import NamedTuple

import pytest
from kafka_meddler import Meddler

from connectors.kafka import KafkaLog, Profile, deliveries, kafka_settings, lines
from connectors.kafka import transaction as transactions
from connectors.kafka.writing import KafkaProducer
from connectors.kafka.writing_direct import DirectSender
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.deploy.deployed import within
from tests.services.kafka import KafkaCluster

INPUT = TopicPartition("inputs", 0)
_number = count()


class Stage(NamedTuple):
    """A writer behind a meddler, and a log that sees what brokers have."""

    meddler: Meddler
    log: KafkaLog
    eyes: KafkaLog
    producer: KafkaProducer
    topic: str

    def written(self, *values: bytes, offset: int | None = None) -> tuple[int, int]:
        """Commits records, and an offset with them."""
        transaction = self.producer.begin()
        transaction.append(block_of(self.topic, 0, list(values)))
        if offset is not None:
            transaction.commit_offsets(self.topic, {INPUT: offset})
        return transaction.commit()[TopicPartition(self.topic, 0)]

    def values(self, partition: int = 0) -> list[bytes | None]:
        """All committed values of a partition, in order."""
        return values(self.eyes, TopicPartition(self.topic, partition))


def values(log: KafkaLog, place: TopicPartition) -> list[bytes | None]:
    within(60, "nothing is open", lambda: log.end_offset(place) == log.end_offset(place, isolation="read_uncommitted"))
    found, at = list[bytes | None](), 0
    while at < log.end_offset(place) and len(block := log.read(place, at)):
        found += [block.value(row) for row in range(len(block))]
        at = int(block.offsets[-1]) + 1
    return found


@contextlib.contextmanager
def staged(
    cluster: KafkaCluster, *, rate: int = 0, partitions: int = 1, **more: object
) -> Iterator[Stage]:
    """A topic with one committed record, whose writer's requests are meddled with; `rate` as there."""
    topic = f"t{next(_number)}"
    with (
        Meddler(cluster.proxy_targets, rate=rate) as meddler,
        closing(KafkaLog(Profile(kafka_settings({"brokers": cluster.bootstrap})))) as eyes,
        closing(KafkaLog(Profile(kafka_settings({"brokers": cluster.proxied_bootstrap, **more})))) as log,
    ):
        for name, settings in (("inputs", TopicSettings()), (topic, TopicSettings(partitions))):
            if name not in eyes.topics():
                eyes.create_topic(name, settings)
        assert eyes.committed(topic) == {}  # The group has its coordinator.
        producer = log.producer(topic)
        assert isinstance(producer.client, DirectSender)
        stage = Stage(meddler, log, eyes, producer, topic)
        stage.written(b"first", offset=1)
        yield stage
        producer.close()


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of seconds."""
    monkeypatch.setattr(lines, "_SILENT_S", 1.0)
    monkeypatch.setattr(deliveries, "_PATIENCE_S", 2.5)
    monkeypatch.setattr(transactions, "_COMMIT_S", 5.0)
    monkeypatch.setattr(transactions, "_CALL_S", 3.0)
    monkeypatch.setattr(transactions, "_ABORT_S", 2.0)
