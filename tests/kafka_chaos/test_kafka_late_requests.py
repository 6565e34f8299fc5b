"""A request of a transaction that the client sent twice, and whose first copy arrives in the middle of the next one.

The proxy keeps the copy until everything of the next transaction but its end has arrived: no moment is worse.
STREAMPROC_ROUNDS changes the long form.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest
from kafka_chaos_proxy import END_TXN, TXN_OFFSET_COMMIT, EndTxnProxy

from connectors.kafka import KafkaLog, Profile, kafka_settings
from connectors.kafka.writing import KafkaProducer
from connectors.kafka.writing_blocks import BlockSender
from connectors.kafka.writing_direct import DirectSender
from connectors.kafka.writing_messages import MessageSender
from streamproc.errors import UnknownOutcome
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.deploy.deployed import within
from tests.services.kafka import KafkaCluster, kafka_cluster

INPUT = TopicPartition("inputs", 0)
_number = count()
KINDS = pytest.mark.parametrize("kind", [END_TXN, TXN_OFFSET_COMMIT], ids=["end", "offsets"])
WAYS = ("direct", "blocks", "objects")
PATHS = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


def meet(cluster: KafkaCluster, *, kind: int, way: str, rounds: int) -> tuple[list[str], list[str], list[int]]:
    """What was committed, what a reader saw, and the offsets that were committed after each round."""
    topic = f"t{next(_number)}"
    committed, offsets = [], []
    profile = Profile(kafka_settings({"brokers": cluster.proxied_bootstrap, "direct": way == "direct"}))
    with (
        EndTxnProxy(cluster.proxy_targets, seed=0) as proxy,
        closing(KafkaLog(profile, blocks=way != "objects")) as log,
    ):
        place = TopicPartition(topic, 0)
        for name in {"inputs", topic} - log.topics().keys():
            log.create_topic(name, TopicSettings())
        assert log.committed(topic) == {}  # The group has its coordinator.
        producer = log.producer(topic)
        for number in range(rounds):
            proxy.keep = kind
            first = producer.begin()
            first.append(block_of(topic, 0, [b"first %d" % number] * 10))
            first.commit_offsets(topic, {INPUT: 2 * number + 1})
            first.commit()
            committed += [f"first {number}"] * 10
            assert proxy.counts["kept"] == number + 1, "nothing was kept, so nothing is proved"
            # What is open behind the first is of the second only then.
            within(60, "the first is wholly committed", lambda: _is_settled(log, place))
            second = producer.begin()
            second.append(block_of(topic, 0, [b"second %d" % number] * 10))
            second.commit_offsets(topic, {INPUT: 2 * number + 2})
            if number % 2:
                second.commit()
                committed += [f"second {number}"] * 10
            else:
                second.written()  # The records are there that the late request could commit.
                assert not _is_settled(log, place)
                second.abort()
            assert proxy.counts["delivered"] == number + 1, "nothing was late, so nothing is proved"
            offsets.append(log.committed(topic)[INPUT])
        producer.close()
        end, seen, at = log.end_offset(place), [], 0
        while at < end and len(block := log.read(place, at)):
            seen += [str(block.value(row), "ascii") for row in range(len(block))]
            at = int(block.offsets[-1]) + 1
    return committed, seen, offsets


def _is_settled(log: KafkaLog, place: TopicPartition) -> bool:
    """Whether no transaction is open in a partition."""
    return log.end_offset(place) == log.end_offset(place, isolation="read_uncommitted")


def hold(cluster: KafkaCluster, *, kind: int, way: str, rounds: int) -> None:
    """Everything that was committed is there, once; nothing of what was aborted."""
    committed, seen, offsets = meet(cluster, kind=kind, way=way, rounds=rounds)
    assert seen == committed
    assert offsets == [2 * number + 1 + number % 2 for number in range(rounds)]


@KINDS
@PATHS
def test_a_request_that_comes_late_changes_nothing_of_the_next_transaction(
    cluster: KafkaCluster, kind: int, way: str
) -> None:
    hold(cluster, kind=kind, way=way, rounds=6)


@pytest.mark.long
@KINDS
@PATHS
def test_no_late_request_in_hundreds_changes_anything(cluster: KafkaCluster, kind: int, way: str) -> None:
    hold(cluster, kind=kind, way=way, rounds=int(os.environ.get("STREAMPROC_ROUNDS", "500")))


@KINDS
def test_an_epoch_that_each_end_brings_is_enough(
    cluster: KafkaCluster, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers refuse what is late by themselves: no producer is opened anew for it, and none need be."""
    opened = DirectSender.opened.__func__
    producers: list[DirectSender] = []

    def counted(kind: type[DirectSender], *given: object) -> tuple[DirectSender | None, str]:
        found: tuple[DirectSender | None, str] = opened(kind, *given)
        producers.extend([found[0]] if found[0] is not None else [])
        return found

    monkeypatch.setattr(DirectSender, "opened", classmethod(counted))
    monkeypatch.setattr(KafkaProducer, "doubt", lambda _: None)
    hold(cluster, kind=kind, way="direct", rounds=6)
    assert len(producers) == 1


@pytest.mark.parametrize("way", WAYS[1:])
def test_without_a_new_epoch_a_late_end_does_commit_what_was_to_be_aborted(
    cluster: KafkaCluster, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockSender if way == "blocks" else MessageSender, "sent_again", False)
    committed, seen, _ = meet(cluster, kind=END_TXN, way=way, rounds=1)
    assert seen != committed


def test_without_a_new_epoch_late_offsets_do_take_the_next_ones_back(
    cluster: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockSender, "sent_again", False)
    try:
        _, _, offsets = meet(cluster, kind=TXN_OFFSET_COMMIT, way="blocks", rounds=2)
    except UnknownOutcome:
        return
    assert offsets != [1, 4]
