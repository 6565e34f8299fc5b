"""What is written to brokers directly is there once, in order, or surely not there, or nobody knows and that is said.

Faults are made on the way between the writer and real brokers: answers lost, late or other ones, lines cut or slow.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest
from confluent_kafka import KafkaError
from kafka_meddler import (
    END_TXN,
    OFFSETS,
    PRODUCE,
    Fate,
    base_offset,
    called,
    end_says,
    offsets_say,
    records_say,
)  # fmt: skip
from kafka_writing_stage import INPUT, Stage, impatient, staged

from connectors.kafka import deliveries, kafka_settings
from connectors.kafka import transaction as transactions
from connectors.kafka.connecting import connect
from streamproc.errors import Fenced, LogError, LogUnavailable, UnknownOutcome
from streamproc.ports import block_of
from tests.services.kafka import KafkaCluster, kafka_cluster

AWAY, MOVED, BUSY = KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR, KafkaError.CONCURRENT_TRANSACTIONS
GIVEN_UP = (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError.UNKNOWN_PRODUCER_ID, 120)
FENCING = (KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.INVALID_TXN_STATE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


@pytest.fixture
def stage(cluster: KafkaCluster) -> Iterator[Stage]:
    with staged(cluster) as found:
        yield found


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)


def goes_on(stage: Stage, *before: bytes, offset: int) -> None:
    """A successor finds what the log shows as committed, and writes on."""
    producer = stage.log.producer(stage.topic)
    assert stage.eyes.committed(stage.topic) == {INPUT: offset}
    stage._replace(producer=producer).written(b"after", offset=90)
    assert stage.values() == [*before, b"after"] and stage.eyes.committed(stage.topic) == {INPUT: 90}
    producer.close()


# ── ends in doubt ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fates", [["lose"], ["cut"], ["lose", "cut", "lose"], [end_says(AWAY)], [end_says(MOVED)],
                                   [end_says(BUSY)] * 3], ids=called)  # fmt: skip
def test_an_end_whose_answer_is_lost_is_asked_for_again_and_happens_once(stage: Stage, fates: list[Fate]) -> None:
    stage.meddler.fates[END_TXN] = fates
    stage.written(b"second", offset=2)
    stage.written(b"third", offset=3)
    assert stage.values() == [b"first", b"second", b"third"]
    assert stage.eyes.committed(stage.topic) == {INPUT: 3}


@pytest.mark.parametrize("heard", ["lose", "cut"])
def test_an_end_without_any_answer_is_unknown_and_only_the_log_is_believed(
    stage: Stage, heard: str, short: None
) -> None:
    stage.meddler.fates[END_TXN] = [heard]
    stage.meddler.stays.add(END_TXN)
    with pytest.raises(UnknownOutcome):
        stage.written(b"second", offset=2)
    with pytest.raises(UnknownOutcome):
        stage.producer.begin()
    stage.meddler.fates.clear()
    assert stage.producer.broken is not None
    happened = heard == "lose"
    goes_on(stage, b"first", *([b"second"] if happened else []), offset=2 if happened else 1)


@pytest.mark.parametrize("code", FENCING, ids=lambda code: KafkaError(code).name())
@pytest.mark.parametrize("before", ["lose", end_says(AWAY), end_says(MOVED), end_says(BUSY)], ids=called)
def test_an_end_that_was_asked_for_twice_and_then_refused_is_unknown_not_fenced(
    stage: Stage, code: int, before: Fate
) -> None:
    """The first question was heard, and a successor has come since."""
    stage.meddler.fates[END_TXN] = [before, end_says(code)]
    with pytest.raises(UnknownOutcome):
        stage.written(b"second", offset=2)
    stage.meddler.fates.clear()
    goes_on(stage, b"first", b"second", offset=2)


def test_an_end_that_was_heard_before_a_successor_came_is_unknown(stage: Stage) -> None:
    """Not a word of it is made up: the brokers heard the end, and the successor, and then the end again."""
    successors = []

    def opened(data: bytearray) -> None:
        successors.append(stage.eyes.producer(stage.topic))
        struct.pack_into(">h", data, 9, AWAY)

    stage.meddler.fates[END_TXN] = [opened]
    with pytest.raises(UnknownOutcome):
        stage.written(b"second", offset=2)
    assert stage.values() == [b"first", b"second"] and stage.eyes.committed(stage.topic) == {INPUT: 2}
    successors[0].close()


def test_who_is_refused_at_the_first_question_is_fenced(stage: Stage) -> None:
    successor = stage.eyes.producer(stage.topic)
    with pytest.raises(Fenced):
        stage.written(b"never", offset=2)
    with pytest.raises(Fenced):
        stage.producer.begin()
    stage._replace(producer=successor).written(b"second", offset=3)
    assert stage.values() == [b"first", b"second"]
    successor.close()


def test_offsets_without_any_answer_are_unknown(stage: Stage, short: None) -> None:
    stage.meddler.fates[OFFSETS] = ["lose"]
    stage.meddler.stays.add(OFFSETS)
    with pytest.raises(UnknownOutcome):
        stage.written(b"never", offset=2)
    stage.meddler.fates.clear()
    goes_on(stage, b"first", offset=1)


@pytest.mark.parametrize("fate", ["lose", "cut", offsets_say(AWAY), offsets_say(MOVED), offsets_say(BUSY),
                                  offsets_say(KafkaError.REQUEST_TIMED_OUT)], ids=called)  # fmt: skip
def test_offsets_are_asked_for_again_where_their_answer_is_none(stage: Stage, fate: Fate) -> None:
    stage.meddler.fates[OFFSETS] = [fate]
    stage.written(b"second", offset=2)
    assert stage.values() == [b"first", b"second"] and stage.eyes.committed(stage.topic) == {INPUT: 2}
    assert len(stage.meddler.of(OFFSETS)) >= 3


def test_a_request_of_an_epoch_that_ended_is_refused(stage: Stage) -> None:
    """The same bytes once more, with the next transaction open: records, offsets and end of the one before."""
    stage.written(b"second", offset=2)
    old = [stage.meddler.of(kind)[-1].data for kind in (PRODUCE, OFFSETS, END_TXN)]
    transaction = stage.producer.begin()
    transaction.append(block_of(stage.topic, 0, [b"never"]))
    transaction.written()
    host, port = stage.eyes._profile.brokers.rsplit(":", 1)
    with closing(connect((host, int(port)), kafka_settings({"brokers": f"{host}:{port}"}), 5.0).socket) as late:
        late.setblocking(True)
        for data in old:
            late.sendall(struct.pack(">i", len(data)) + data)
            size = struct.unpack(">i", late.recv(4))[0]
            while size:
                size -= len(late.recv(size))
    transaction.abort()
    assert stage.values() == [b"first", b"second"] and stage.eyes.committed(stage.topic) == {INPUT: 2}
    stage.written(b"third", offset=3)
    assert stage.values() == [b"first", b"second", b"third"] and stage.eyes.committed(stage.topic) == {INPUT: 3}


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fate",
    ["lose", "cut", *map(records_say, (
        KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REQUEST_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        BUSY, KafkaError.INVALID_MSG, KafkaError.UNKNOWN_TOPIC_OR_PART))],
    ids=called,
)  # fmt: skip
def test_a_batch_without_a_good_answer_is_sent_again_as_it_was(stage: Stage, fate: Fate) -> None:
    """It lies in the log already, and the broker knows it again."""
    stage.meddler.fates[PRODUCE] = [fate]
    low, high = stage.written(b"second", b"third", offset=2)
    assert high - low == 2
    assert stage.values() == [b"first", b"second", b"third"]
    one, again = (seen.data[seen.data.index(b"streamproc.writer") :] for seen in stage.meddler.of(PRODUCE)[-2:])
    assert one == again


def test_a_batch_that_gets_no_good_answer_holds_back_those_behind_it(
    cluster: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker knows the last five batches of a partition again: one more behind it, and it would be out of order."""
    monkeypatch.setattr(deliveries, "_BATCH_BYTES", 30_000)
    monkeypatch.setattr(deliveries, "_ENOUGH", 50_000)
    refusals, refuse = 6, records_say(KafkaError.REQUEST_TIMED_OUT)
    first_offset = None

    def refuses_the_first(data: bytearray) -> None:
        nonlocal refusals, first_offset
        offset = base_offset(data)
        if offset < 0:
            return  # It was not taken: the end of the transaction before goes on.
        first_offset = offset if first_offset is None else first_offset
        if offset == first_offset and refusals:
            refusals -= 1
            refuse(data)

    rows = [b"%0100d" % number for number in range(8_000)]
    with staged(cluster) as stage:
        stage.meddler.fates[PRODUCE] = [refuses_the_first]
        stage.meddler.stays.add(PRODUCE)
        stage.written(*rows, offset=2)
        assert stage.values() == [b"first", *rows] and refusals == 0
        assert len(stage.meddler.of(PRODUCE)) > 20


@pytest.mark.parametrize("seed", range(3))
def test_records_keep_their_order_whatever_happens_to_their_lines(
    cluster: KafkaCluster, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several batches of a partition are on their way when a line is cut, an answer lost, or a batch refused."""
    dice = random.Random(seed)
    monkeypatch.setattr(deliveries, "_BATCH_BYTES", 30_000)
    monkeypatch.setattr(deliveries, "_ENOUGH", 50_000)
    refused = [records_say(code) for code in (KafkaError.REQUEST_TIMED_OUT, BUSY, KafkaError.NOT_LEADER_FOR_PARTITION)]
    with staged(cluster, partitions=2) as stage:
        stage.meddler.fates[PRODUCE] = [
            dice.choice(["lose", "cut", *refused]) if dice.random() < 0.2 else 0.0 for _ in range(400)
        ]
        expected: dict[int, list[bytes | None]] = {0: [b"first"], 1: []}
        number = count()
        for _ in range(4):
            transaction = stage.producer.begin()
            for _ in range(12):
                partition = dice.randrange(2)
                rows: list[bytes | None] = [b"%0100d" % next(number) for _ in range(dice.randint(1, 1_000))]
                transaction.append(block_of(stage.topic, partition, rows))
                expected[partition] += rows
            transaction.commit()
        assert len(stage.meddler.of(PRODUCE)) > 40
        assert {partition: stage.values(partition) for partition in (0, 1)} == expected


def test_records_that_nobody_takes_are_surely_not_committed(stage: Stage, short: None) -> None:
    stage.meddler.fates[PRODUCE] = ["keep"]
    stage.meddler.stays.add(PRODUCE)
    began = time.monotonic()
    with pytest.raises(LogUnavailable, match="were taken by nobody within"):
        stage.written(b"never", offset=2)
    assert 2.0 < time.monotonic() - began < 4.5, "as long as patience lasts, and no longer"
    stage.meddler.fates.clear()
    assert stage.producer.broken is None
    stage.written(b"second", offset=3)
    assert stage.values() == [b"first", b"second"]


def test_a_slow_line_is_no_dead_one(cluster: KafkaCluster, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four megabytes take ten seconds, most of them in what this machine has taken and not sent yet."""
    monkeypatch.setattr(transactions, "_COMMIT_S", 60.0)
    with staged(cluster, rate=400_000) as stage:
        before = len(stage.meddler.of(PRODUCE))
        rows = [b"%01000d" % number for number in range(4_000)]
        began = time.monotonic()
        stage.written(*rows, offset=2)
        assert time.monotonic() - began > 4, "the line was not slow"
        assert stage.values() == [b"first", *rows]
        requests = stage.meddler.of(PRODUCE)
        assert len(requests) - before < 10 and len({one.connection for one in requests}) == 1


@pytest.mark.parametrize("code", GIVEN_UP, ids=lambda code: KafkaError(code).name())
def test_a_transaction_that_brokers_give_up_is_aborted_and_may_be_begun_again(stage: Stage, code: int) -> None:
    stage.meddler.fates[PRODUCE] = [records_say(code)]
    with pytest.raises(LogUnavailable, match="aborted"):
        stage.written(b"never", offset=2)
    assert stage.producer.broken is None
    stage.written(b"second", offset=3)
    assert stage.values() == [b"first", b"second"] and stage.eyes.committed(stage.topic) == {INPUT: 3}


def test_a_batch_that_the_broker_has_already_has_arrived(stage: Stage) -> None:
    stage.meddler.fates[PRODUCE] = [records_say(KafkaError.DUPLICATE_SEQUENCE_NUMBER)]
    stage.written(b"second", offset=2)
    assert stage.values() == [b"first", b"second"]


def test_a_batch_that_the_broker_has_somewhere_is_no_range(stage: Stage) -> None:
    """What a journal would note of it nobody knows."""
    stage.meddler.fates[PRODUCE] = [records_say(KafkaError.DUPLICATE_SEQUENCE_NUMBER, -1)]
    with pytest.raises(LogError, match="without its offset"):
        stage.written(b"never", offset=2)
    stage.written(b"second", offset=3)
    assert stage.values() == [b"first", b"second"]


def test_a_fenced_batch_fences(stage: Stage) -> None:
    stage.meddler.fates[PRODUCE] = [records_say(KafkaError.INVALID_PRODUCER_EPOCH)]
    with pytest.raises(Fenced):
        stage.written(b"never", offset=2)
    goes_on(stage, b"first", offset=1)


