"""The path by objects: what it must do although it is not the one that runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Message

from connectors.kafka import KafkaLog, Profile, kafka_settings
from connectors.kafka.reading import by_partition
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.deploy.deployed import within
from tests.services.kafka import KafkaCluster, kafka_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


def test_a_partition_that_stood_still_is_read_again_from_its_start(cluster: KafkaCluster) -> None:
    """Of two partitions one is longer than what may wait, so it is paused while the other is read."""
    profile = Profile(kafka_settings({"brokers": cluster.bootstrap, "sizes": {"partition_bytes": 65_536}}))
    with contextlib.closing(KafkaLog(profile, blocks=False)) as log:
        log.create_topic("two", TopicSettings(partitions=2))
        producer = log.producer("writer")
        transaction = producer.begin()
        transaction.append(block_of("two", 0, [b"%0100d" % n for n in range(30_000)]))
        transaction.append(block_of("two", 1, [b"%d" % n if n % 2 else None for n in range(30_000)]))
        ranges = transaction.commit()
        producer.close()
        assert ranges == {TopicPartition("two", 0): (0, 30_000), TopicPartition("two", 1): (0, 30_000)}
        # A commit is decided before its rows can be read.
        within(60, "all rows can be read", lambda: log.end_offset(TopicPartition("two", 0)) >= 30_000)
        assert len(log.read(TopicPartition("two", 0), 0, max_records=10)) == 10
        seen = 0
        while seen < 30_000:
            block = log.read(TopicPartition("two", 1), seen)
            there = range(seen, seen + len(block))
            assert [block.value(row) for row in range(len(block))] == [b"%d" % n if n % 2 else None for n in there]
            seen = there.stop
        again = log.read(TopicPartition("two", 0), 0, max_records=2)
        assert [again.value(row) for row in range(2)] == [b"%0100d" % n for n in range(2)]


class SmallQueues(Profile):
    """Clients that take only so many records before they say that they are full."""

    def writer(self, transactional_id: str) -> dict[str, Any]:
        return {**super().writer(transactional_id), "queue.buffering.max.messages": 1_000}


def test_records_keep_their_order_however_often_the_client_is_full(cluster: KafkaCluster) -> None:
    profile = SmallQueues(kafka_settings({"brokers": cluster.bootstrap, "direct": False}))
    with contextlib.closing(KafkaLog(profile, blocks=False)) as log:
        log.create_topic("full", TopicSettings())
        values = [b"%d" % n if n % 7 else None for n in range(30_000)]
        producer = log.producer("full-writer")
        transaction = producer.begin()
        transaction.append(block_of("full", 0, values, keys=[b"k%d" % n for n in range(30_000)]))
        assert transaction.commit() == {TopicPartition("full", 0): (0, 30_000)}
        producer.close()
        within(60, "all rows can be read", lambda: log.end_offset(TopicPartition("full", 0)) >= 30_000)
        found: list[bytes | None] = []
        keys: list[bytes | None] = []
        while len(found) < 30_000:
            block = log.read(TopicPartition("full", 0), len(found))
            found += [block.value(row) for row in range(len(block))]
            keys += [block.key(row) for row in range(len(block))]
        assert found == values
        assert keys == [b"k%d" % n for n in range(30_000)]


def test_messages_of_several_topics_come_apart_by_topic_and_partition_in_their_order() -> None:
    """Partition 1 of either topic must not be taken for the other, however their messages alternate."""
    places = [("a", 1), ("b", 1), ("a", 1), ("a", 0), ("b", 1), ("b", 0), ("a", 1)]
    messages = [
        Message(topic=topic, partition=number, offset=row, value=b"%d" % row)
        for row, (topic, number) in enumerate(places)
    ]
    found = {place: [message.offset() for message in mine] for place, mine in by_partition(messages)}
    assert found == {TopicPartition(*place): [at for at, p in enumerate(places) if p == place] for place in set(places)}
    one = [messages[0], messages[2]]
    assert [(place, list(mine)) for place, mine in by_partition(one)] == [(TopicPartition("a", 1), one)]
    assert list(by_partition([])) == []
