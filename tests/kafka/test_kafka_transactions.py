"""What a transaction was given is written once: when somebody asks, when it is aborted, and when it runs again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from connectors.kafka import KafkaLog, Profile, kafka_settings
from connectors.kafka import transaction as transactions
from connectors.kafka.transaction import KafkaTransaction
from connectors.kafka.writing import KafkaProducer
from streamproc.errors import Fenced, LogError, LogUnavailable, StaleMember
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.deploy.deployed import within
from tests.services.kafka import KafkaCluster, kafka_cluster

INPUT = TopicPartition("inputs", 0)
_number = count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


@pytest.fixture(params=["direct", "blocks", "objects"])
def log(cluster: KafkaCluster, request: pytest.FixtureRequest) -> Iterator[KafkaLog]:
    profile = Profile(kafka_settings({"brokers": cluster.bootstrap, "direct": request.param == "direct"}))
    with closing(KafkaLog(profile, blocks=request.param != "objects")) as log:
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
        monkeypatch.undo()
        raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION, "the generation moved on"))

    monkeypatch.setattr(producer.client, "send_offsets_to_transaction", moved)
    transaction = producer.begin()
    transaction.append(block_of(topic, 0, [b"second"]))
    begin, end = committed(transaction, topic, b"third", 2)
    assert end - begin == 2
    assert values(log, topic) == [b"first", b"second", b"third"] and log.committed(topic) == {INPUT: 2}
    producer.close()


def test_a_commit_that_happened_is_told_though_its_producer_cannot_go_on(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request of it was sent twice, and no new client can be opened."""
    producer, topic = opened(log)

    def refused(*_told: object) -> None:
        raise KafkaException(KafkaError(KafkaError._FAIL, "no thread can be started"))

    make = producer._make_sender
    monkeypatch.setattr(type(producer.client), "sent_again", True)
    monkeypatch.setattr(type(producer.client), "ends_fence", False)
    monkeypatch.setattr(producer, "_make_sender", refused)
    transaction = producer.begin()
    committed(transaction, topic, b"second", 2)
    transaction.abort()
    transaction = producer.begin()
    with pytest.raises(LogError, match="no thread can be started"):
        committed(transaction, topic, b"never", 3)
    transaction.abort()
    monkeypatch.setattr(producer, "_make_sender", make)
    committed(producer.begin(), topic, b"third", 4)
    assert values(log, topic) == [b"first", b"second", b"third"] and log.committed(topic) == {INPUT: 4}
    producer.close()


def test_who_was_fenced_while_a_transaction_ran_again_does_not_fence_his_successor(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer, topic = opened(log)
    successors, send = [], producer.client.send_offsets_to_transaction

    def moved(*told: Any) -> None:
        send(*told)
        successors.append(log.producer(topic))
        raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION, "the generation moved on"))

    monkeypatch.setattr(producer.client, "send_offsets_to_transaction", moved)
    with pytest.raises(Fenced):
        committed(producer.begin(), topic, b"never", 2)
    with pytest.raises(Fenced):
        producer.begin()
    committed(successors[0].begin(), topic, b"second", 2)
    assert values(log, topic) == [b"first", b"second"]
    successors[0].close()
    producer.close()


def test_an_abort_without_an_answer_hurts_nobody(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """No commit was asked for, so that nothing of it is visible is certain."""
    producer, topic = opened(log)

    def slow(*_told: object) -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer"))

    monkeypatch.setattr(producer.client, "abort_transaction", slow)
    transaction = producer.begin()
    transaction.append(block_of(topic, 0, [b"never"]))
    transaction.abort()
    committed(producer.begin(), topic, b"second", 2)
    assert values(log, topic) == [b"first", b"second"]
    producer.close()


def test_an_abort_right_behind_a_commit_hurts_nobody(log: KafkaLog) -> None:
    """The brokers may still be closing the transaction before, and not know of this one."""
    producer, topic = opened(log)
    for number in range(40):
        committed(producer.begin(), topic, b"%d" % number, number)
        transaction = producer.begin()
        transaction.append(block_of(topic, 0, [b"never"]))
        time.sleep((0.001, 0.002, 0.003, 0.005)[number % 4])
        transaction.abort()
    assert values(log, topic) == [b"first", *(b"%d" % number for number in range(40))]
    producer.close()


def test_records_that_no_broker_takes_are_surely_not_committed(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    producer, topic = opened(log)
    monkeypatch.setattr(transactions, "_COMMIT_S", 2.0)
    monkeypatch.setattr(type(producer.client), "__len__", lambda _: 1)
    transaction = producer.begin()
    with pytest.raises(LogUnavailable):
        committed(transaction, topic, b"never", 2)
    monkeypatch.undo()
    committed(producer.begin(), topic, b"second", 3)
    assert values(log, topic) == [b"first", b"second"] and log.committed(topic) == {INPUT: 3}
    producer.close()


def test_a_commit_in_the_name_of_nobody_is_refused(log: KafkaLog) -> None:
    """Brokers compare nothing with a member that has no generation: they would let it in."""
    producer, topic = opened(log)
    membership = log.join("tasks", topic, "early")
    transaction = producer.begin()
    transaction.append(block_of(topic, 0, [b"never"]))
    transaction.commit_offsets("tasks", {INPUT: 7}, membership=membership)
    with pytest.raises(StaleMember, match="no member now"):
        transaction.commit()
    transaction.abort()
    assert values(log, topic) == [b"first"] and log.committed("tasks") == {}
    membership.leave()
    producer.close()
