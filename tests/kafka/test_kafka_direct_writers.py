"""Who writes to brokers directly keeps to their sizes, quotas, epochs and leaders, and leaves the rest to librdkafka.
"""

from __future__ import annotations

import logging
import random
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from kafka_meddler import END_TXN, INIT, OFFSETS, PRODUCE
from kafka_writing_stage import INPUT, Stage, staged, values

from connectors.kafka import KafkaLog, Profile, deliveries, kafka_settings, lines
from connectors.kafka import transaction as transactions
from connectors.kafka.coordinators import INIT as INIT_PRODUCER
from connectors.kafka.fields import NO_TAGS, Fields, listed, text
from connectors.kafka.lines import Lines
from connectors.kafka.writing import KafkaProducer
from connectors.kafka.writing_blocks import BlockSender
from connectors.kafka.writing_direct import DirectSender
from connectors.kafka.writing_messages import MessageSender
from streamproc.errors import LogError, LogUnavailable, UnknownOutcome
from streamproc.ports import Block, TopicPartition, TopicSettings, block_of
from tests.deploy.deployed import within
from tests.services.kafka import PASSWORD, USER, KafkaCluster, kafka_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


@pytest.fixture
def stage(cluster: KafkaCluster) -> Iterator[Stage]:
    with staged(cluster) as found:
        yield found


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def bound(cluster: KafkaCluster, topic: str, size: int) -> None:
    """Sets how large a batch of a topic may be."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = AdminClient({**cluster.client(), "log_level": 0})
    for answer in client.incremental_alter_configs([resource]).values():
        answer.result(30)
    time.sleep(0.5)


@pytest.mark.parametrize("packing", ["none", "lz4"])
def test_batches_that_a_topic_does_not_take_are_cut_until_it_does(cluster: KafkaCluster, packing: str) -> None:
    dice = random.Random(2)
    with staged(cluster, compression=packing) as stage:
        bound(cluster, stage.topic, 20_000)
        rows: list[bytes] = [dice.randbytes(dice.randint(0, 2_000)) for _ in range(900)]
        low, high = stage.written(*rows[:600], offset=2)
        assert high - low == 600
        stage.written(*rows[600:], offset=3)
        assert stage.values() == [b"first", *rows]


def test_a_record_that_a_topic_does_not_take_is_told_of_and_nothing_of_it_is_committed(
    cluster: KafkaCluster, stage: Stage
) -> None:
    bound(cluster, stage.topic, 20_000)
    with pytest.raises(LogError, match="larger than the topic takes"):
        stage.written(b"small", b"x" * 30_000, b"small", offset=2)
    with pytest.raises(LogError, match="larger than the topic takes"):
        stage.written(b"x" * (17 << 20), offset=2)
    bound(cluster, stage.topic, 5 << 20)
    stage.written(b"y" * (4 << 20), b"small", offset=3)
    assert stage.values() == [b"first", b"y" * (4 << 20), b"small"]


def test_a_transaction_with_nothing_in_it_costs_no_request(stage: Stage) -> None:
    before = len(stage.meddler.seen)
    transaction = stage.producer.begin()
    assert transaction.commit() == {}
    transaction = stage.producer.begin()
    transaction.commit_offsets(stage.topic, {})
    transaction.append(block_of(stage.topic, 0, []))
    assert transaction.commit() == {}
    stage.producer.begin().abort()
    kinds = {one.kind for one in stage.meddler.seen[before:]}
    assert not kinds & {PRODUCE, OFFSETS, END_TXN, INIT}
    stage.written(b"second", offset=2)
    assert stage.values() == [b"first", b"second"]


def test_offsets_alone_are_a_transaction(stage: Stage) -> None:
    transaction = stage.producer.begin()
    transaction.commit_offsets(stage.topic, {INPUT: 7})
    assert transaction.commit() == {}
    within(30, "the offset is there", lambda: stage.eyes.committed(stage.topic) == {INPUT: 7})


# ── epochs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def exhaust(cluster: KafkaCluster, transactional_id: str, epoch: int) -> None:
    """Opens producers of an id until its epoch is that large."""
    settings, done = kafka_settings({"brokers": cluster.bootstrap}), []
    host, port = cluster.bootstrap.rsplit(":", 1)
    all_lines = Lines(settings)
    line = all_lines.to((host, int(port)), "control")
    assert line is not None
    body = text(transactional_id) + struct.pack(">iqh", 20_000, -1, -1) + NO_TAGS
    asked = 0

    def heard(fields: Fields | None, _since: float) -> None:
        assert fields is not None
        _, code, _, now = fields.numbers(struct.Struct(">ihqh"))
        assert code in (0, KafkaError.CONCURRENT_TRANSACTIONS), code
        done.append(now if code == 0 else 0)

    until = time.monotonic() + 240
    while max(done, default=0) < epoch:
        assert time.monotonic() < until
        if len(line.asked) < 5 and max(done, default=0) + len(line.asked) < epoch:
            line.ask(INIT_PRODUCER, 5, [body], heard)
            asked += 1
        else:
            all_lines.wait(1.0)
            all_lines.serve()
    all_lines.close()


def test_where_epochs_are_used_up_the_answer_to_an_end_names_another_id(cluster: KafkaCluster) -> None:
    with staged(cluster) as stage:
        client = stage.producer.client
        assert isinstance(client, DirectSender)
        stage.producer.close()
        exhaust(cluster, stage.topic, 32_762)
        stage = stage._replace(producer=stage.log.producer(stage.topic))
        client = stage.producer.client
        assert isinstance(client, DirectSender)
        names = [(client._producer, client._epoch)]
        for number in range(8):
            stage.written(b"%d" % number, b"more", offset=10 + number)
            names.append((client._producer, client._epoch))
        assert len({producer for producer, _ in names}) == 2, names
        assert [epoch for _, epoch in names if epoch < 10][:2] == [0, 1]
        expected = [value for number in range(8) for value in (b"%d" % number, b"more")]
        assert stage.values() == [b"first", *expected] and stage.eyes.committed(stage.topic) == {INPUT: 17}
        stage.producer.close()


# ── quotas ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_broker_that_holds_us_back_gets_nothing_meanwhile_and_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_SILENT_S", 0.3)
    monkeypatch.setattr(deliveries, "_BATCH_BYTES", 100_000)
    monkeypatch.setattr(transactions, "_COMMIT_S", 60.0)
    held: list[tuple[float, float]] = []
    hold = lines.Line.hold

    def noted(line: lines.Line, throttled_ms: int) -> None:
        if throttled_ms > 0:
            held.append((time.monotonic(), time.monotonic() + throttled_ms / 1e3))
        hold(line, throttled_ms)

    with kafka_cluster() as cluster:
        cluster.tool(
            "kafka.admin.ConfigCommand", "--bootstrap-server", cluster.bootstrap, "--alter",
            "--add-config", "producer_byte_rate=200000", "--entity-type", "clients",
            "--entity-name", "streamproc.writer",
        )  # fmt: skip
        with staged(cluster) as stage:
            monkeypatch.setattr(lines.Line, "hold", noted)
            rows = [b"%01000d" % number for number in range(3_000)]
            for part in range(3):
                stage.written(*rows[1_000 * part : 1_000 * part + 1_000], offset=part + 2)
            assert held, "nothing was held back, so nothing is proved"
            assert stage.values() == [b"first", *rows]
            moments = [one.at for one in stage.meddler.of(PRODUCE)]
            early = [at for at in moments for begin, end in held if begin + 0.02 < at < end - 0.02]
            assert not early
            assert len({one.connection for one in stage.meddler.of(PRODUCE)}) == 1
            assert all(first < second for first, second in pairwise(moments))


def test_a_line_that_the_broker_ended_while_nobody_wrote_is_opened_anew_before_anything_is_sent() -> None:
    """Else the end of a transaction would be sent twice, and a refusal of it mean nothing."""
    with kafka_cluster(settings={"connections.max.idle.ms": 2_000}) as cluster, staged(cluster) as stage:
        for number in range(2):
            before = len(stage.meddler.seen)
            time.sleep(5.0)
            stage.written(b"%d" % number)
            kinds = [one.kind for one in stage.meddler.seen[before:]]
            assert [kinds.count(kind) for kind in (PRODUCE, END_TXN)] == [1, 1]
            assert not stage.producer.client.sent_again
        assert stage.values() == [b"first", b"0", b"1"]


# ── who writes how ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("blocks", [True, False])
def test_the_log_says_how_records_are_written(
    cluster: KafkaCluster, blocks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    other = BlockSender if blocks else MessageSender
    with caplog.at_level(logging.INFO, "connectors.kafka.paths"):
        for direct in (True, False):
            profile = Profile(kafka_settings({"brokers": cluster.bootstrap, "direct": direct}))
            with closing(KafkaLog(profile, blocks=blocks)) as log:
                producer = log.producer("who")
                assert type(producer.client) is (DirectSender if direct else other)
                producer.close()
    assert caplog.text.count("Kafka is written to directly") == 1


def agree_on(cluster: KafkaCluster, level: int) -> None:
    """Sets the version of transactions that the brokers agree on."""
    all_lines, codes = Lines(kafka_settings({"brokers": cluster.bootstrap})), list[int]()
    host, port = cluster.bootstrap.rsplit(":", 1)
    line = all_lines.to((host, int(port)), "control")
    assert line is not None
    update = text("transaction.version") + struct.pack(">hb", level, 2 if level < 2 else 1) + NO_TAGS

    def heard(fields: Fields | None, _since: float) -> None:
        assert fields is not None
        codes.append(fields.numbers(struct.Struct(">ih"))[1])

    line.ask(57, 1, [struct.pack(">i", 30_000) + listed([update]) + b"\0" + NO_TAGS], heard)
    while not codes:
        all_lines.wait(1.0)
        all_lines.serve()
    all_lines.close()
    assert codes == [0]


@pytest.mark.parametrize("blocks", [True, False])
def test_brokers_with_older_transactions_are_written_to_through_librdkafka(
    blocks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is seen whenever a producer is opened: a cluster may learn or unlearn them while a worker runs."""
    other = BlockSender if blocks else MessageSender
    with kafka_cluster() as cluster:
        profile = Profile(kafka_settings({"brokers": cluster.bootstrap}))
        with caplog.at_level(logging.INFO, "connectors.kafka.paths"), closing(KafkaLog(profile, blocks=blocks)) as log:
            log.create_topic("t", TopicSettings())
            for number, level in enumerate((2, 1, 2, 1)):
                agree_on(cluster, level)
                made = DirectSender if level == 2 else other

                def opened(made: type = made) -> KafkaProducer | None:
                    producer = log.producer("t")
                    if type(producer.client) is made:
                        return producer
                    producer.close()
                    return None

                producer = within(30, "brokers have heard of it", opened)
                transaction = producer.begin()
                transaction.append(block_of("t", 0, [b"%d" % number]))
                transaction.commit()
                producer.close()
            assert values(log, TopicPartition("t", 0)) == [b"0", b"1", b"2", b"3"]
        assert "the brokers' transaction.version is 1, less than 2" in caplog.text


@pytest.mark.parametrize(("security", "mechanism"), [("scram-tls", "SCRAM-SHA-512"), ("tls", "")], ids=str)
def test_lines_with_tls_or_a_password_are_written_to(
    monkeypatch: pytest.MonkeyPatch, security: str, mechanism: str
) -> None:
    """A session ends every two seconds, and lines are renewed for it."""
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    settings = {"connections.max.reauth.ms": 2_000} if mechanism else {}
    with kafka_cluster(security=security, settings=settings) as cluster:
        more: dict[str, object] = {"tls": {"ca": str(cluster.folder / "tls" / "ca.pem")}}
        if mechanism:
            more["sasl"] = {"mechanism": mechanism, "username": USER, "password": {"env": "KAFKA_PASSWORD"}}
        profile = Profile(kafka_settings({"brokers": cluster.bootstrap, **more}))
        with closing(KafkaLog(profile)) as log:
            log.create_topic("t", TopicSettings())
            producer = log.producer("t")
            assert isinstance(producer.client, DirectSender)
            rows: list[bytes | None] = []
            for _ in range(6):
                block: Block = block_of("t", 0, [b"%0100d" % (len(rows) + row) for row in range(30_000)])
                rows += [block.value(row) for row in range(len(block))]
                transaction = producer.begin()
                transaction.append(block)
                transaction.commit()
                time.sleep(0.8)
            assert values(log, TopicPartition("t", 0)) == rows
            producer.close()


def test_a_leader_that_goes_is_followed_and_its_records_are_there_once() -> None:
    with kafka_cluster(brokers=3) as cluster:
        profile = Profile(kafka_settings({"brokers": cluster.bootstrap}))
        with closing(KafkaLog(profile)) as log:
            log.create_topic("t", TopicSettings(6))
            producer = log.producer("t")
            expected: dict[int, list[bytes | None]] = {number: [] for number in range(6)}
            for turn in range(6):
                rows: list[bytes | None] = [b"%d-%0200d" % (turn, row) for row in range(3_000)]
                transaction = producer.begin()
                for number in range(6):
                    transaction.append(block_of("t", number, rows))
                if turn in (1, 3):
                    cluster.kill(turn // 2 + 1)
                try:
                    transaction.commit()
                    for number in range(6):
                        expected[number] += rows
                except (UnknownOutcome, LogUnavailable) as problem:
                    producer.close()
                    found = values(log, TopicPartition("t", 0))
                    if rows[0] in found:
                        for number in range(6):
                            expected[number] += rows
                    assert isinstance(problem, UnknownOutcome) or rows[0] not in found
                    producer = log.producer("t")
                if turn in (1, 3):
                    cluster.start(turn // 2 + 1)
            assert {number: values(log, TopicPartition("t", number)) for number in range(6)} == expected
            assert len(expected[0]) >= 4 * 3_000
            producer.close()
