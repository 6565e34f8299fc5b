"""What a transaction was given is written once: when somebody asks, when it is aborted, and when it runs again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest
from confluent_kafka import KafkaError, KafkaException

from connectors.kafka import KafkaLog, Profile, kafka_settings
from connectors.kafka.transaction import KafkaTransaction
from connectors.kafka.writing import KafkaProducer
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.deploy.deployed import within
from tests.services.kafka import KafkaCluster, kafka_cluster

INPUT = TopicPartition("inputs", 0)
_number = count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


@pytest.fixture(params=[True, False], ids=["blocks", "objects"])
def log(cluster: KafkaCluster, request: pytest.FixtureRequest) -> Iterator[KafkaLog]:
    profile = Profile(kafka_settings({"brokers": cluster.bootstrap}))
    with closing(KafkaLog(profile, blocks=request.param)) as log:
        for name in {"inputs"} - log.topics().keys():
            log.create_topic(name, TopicSettings())
        yield log


def opened(log: KafkaLog) -> tuple[KafkaProducer, str]:
    """A producer that has just committed."""
    topic = f"t{next(_number)}"
    log.create_topic(topic, TopicSettings())
    producer = log.producer(topic)
    committed(producer.begin(), topic, b"first", 1)
    return producer, topic


def committed(transaction: KafkaTransaction, topic: str, value: bytes, offset: int) -> tuple[int, int]:
    transaction.append(block_of(topic, 0, [value]))
    transaction.commit_offsets(topic, {INPUT: offset})
    return transaction.commit()[TopicPartition(topic, 0)]


def values(log: KafkaLog, topic: str) -> list[bytes | None]:
    place, found, at = TopicPartition(topic, 0), list[bytes | None](), 0
    # A commit is decided before its rows can be read.
    within(60, "nothing is open", lambda: log.end_offset(place) == log.end_offset(place, isolation="read_uncommitted"))
    while at < log.end_offset(place) and len(block := log.read(place, at)):
        found += [block.value(row) for row in range(len(block))]
        at = int(block.offsets[-1]) + 1
    return found


def test_who_asks_what_is_written_has_it_written(log: KafkaLog) -> None:
    producer, topic = opened(log)
    place = TopicPartition(topic, 0)
    transaction = producer.begin()
    assert transaction.written() == {}
    transaction.append(block_of(topic, 0, [b"second"]))
    ends = transaction.written()
    assert ends[place] > log.end_offset(place)
    transaction.abort()
    assert values(log, topic) == [b"first"]
    producer.close()


def test_what_was_aborted_never_was(log: KafkaLog) -> None:
    producer, topic = opened(log)
    transaction = producer.begin()
    transaction.append(block_of(topic, 0, [b"second"]))
    transaction.commit_offsets(topic, {INPUT: 9})
    transaction.abort()
    committed(producer.begin(), topic, b"third", 2)
    assert values(log, topic) == [b"first", b"third"] and log.committed(topic) == {INPUT: 2}
    producer.close()


def test_a_transaction_that_runs_again_has_all_its_records(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the group's generation moved on, and the member kept its partitions."""
    producer, topic = opened(log)

    def moved(*_told: object) -> None:
        raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION, "the generation moved on"))

    # Of this client alone: behind an abort the producer has a new one.
    monkeypatch.setattr(producer.client, "send_offsets_to_transaction", moved)
    transaction = producer.begin()
    transaction.append(block_of(topic, 0, [b"second"]))
    begin, end = committed(transaction, topic, b"third", 2)
    assert end - begin == 2
    assert values(log, topic) == [b"first", b"second", b"third"] and log.committed(topic) == {INPUT: 2}
    producer.close()
