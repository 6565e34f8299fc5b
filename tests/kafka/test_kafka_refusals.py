"""What stands between a worker and Kafka is said in one line, within seconds: a password, a certificate, a right."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from connectors.kafka import KafkaLog, Profile, kafka_settings, open_kafka_log
from streamproc.errors import LogError, LogUnavailable, OffsetOutOfRange, UnknownTopic
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.services.kafka import PASSWORD, USER, KafkaCluster, kafka_cluster
from tests.services.processes import free_ports

DENIED = r"uthoriz|rights"
PLACE = TopicPartition("payments", 0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster(security="scram-tls") as running:
        yield running


@pytest.fixture
def table(cluster: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The [kafka] table of its super user."""
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    return {
        "brokers": cluster.bootstrap,
        "sasl": {"mechanism": "SCRAM-SHA-512", "username": USER, "password": {"env": "KAFKA_PASSWORD"}},
        "tls": {"ca": str(cluster.folder / "tls" / "ca.pem")},
    }


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def test_a_worker_with_password_and_certificate_reads_and_writes(table: dict[str, object]) -> None:
    with open_kafka_log(kafka_settings(table)) as log:
        log.create_topic("payments", TopicSettings())
        transaction = log.producer("writer").begin()
        transaction.append(block_of("payments", 0, [b"one"]))
        first, end = transaction.commit()[PLACE]
        assert log.wait({PLACE: first}, 10_000_000)
        assert log.read(PLACE, first).value(0) == b"one"
        with pytest.raises(UnknownTopic, match="did you mean 'payments'"):
            log.read(TopicPartition("payment", 0), 0)
        reached = time.monotonic() + 60
        while log.end_offset(PLACE) <= end and time.monotonic() < reached:
            time.sleep(0.01)
        log.delete_records(PLACE, end)
        with pytest.raises(OffsetOutOfRange, match=f"{first}"):
            log.read(PLACE, first)


def test_a_wrong_password_is_named(table: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong")
    with within(10), pytest.raises(LogError, match="user name or password") as raised:
        open_kafka_log(kafka_settings(table))
    assert "wrong" not in str(raised.value)


def test_a_foreign_authority_is_named(cluster: KafkaCluster, table: dict[str, object]) -> None:
    foreign = {"ca": str(cluster.folder / "tls" / "other.pem")}
    with within(10), pytest.raises(LogError, match="TLS"):
        open_kafka_log(kafka_settings({**table, "tls": foreign}))


def test_brokers_that_are_away_are_named() -> None:
    (port,) = free_ports(1)
    with within(10), pytest.raises(LogUnavailable, match=f"127.0.0.1:{port}"):
        open_kafka_log(kafka_settings({"brokers": f"127.0.0.1:{port}"}))


@pytest.mark.parametrize("blocks", [True, False])
def test_a_missing_right_is_named(
    cluster: KafkaCluster, table: dict[str, object], monkeypatch: pytest.MonkeyPatch, blocks: bool
) -> None:
    user = f"worker-{blocks}"
    admin = AdminClient({**cluster.client(), "log_level": 0})
    secret = UserScramCredentialUpsertion(user, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4_096), b"secret")
    for answer in admin.alter_user_scram_credentials([secret]).values():
        answer.result()
    see = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", what, AclPermissionType.ALLOW)
        for kind, name, what in (
            (ResourceType.TOPIC, "*", AclOperation.DESCRIBE),
            (ResourceType.TOPIC, "*", AclOperation.DESCRIBE_CONFIGS),
            (ResourceType.TRANSACTIONAL_ID, "mine", AclOperation.ALL),
        )
    ]
    for answer in admin.create_acls(see).values():
        answer.result()
    with KafkaLog(Profile(kafka_settings(table))) as log:
        log.create_topic("payments", TopicSettings())
        transaction = log.producer("filler").begin()
        transaction.append(block_of("payments", 0, [b"one"]))
        start, _ = transaction.commit()[PLACE]
        assert log.wait({PLACE: start}, 10_000_000)

    monkeypatch.setenv("KAFKA_PASSWORD", "secret")
    sasl = {"mechanism": "SCRAM-SHA-512", "username": user, "password": {"env": "KAFKA_PASSWORD"}}
    with KafkaLog(Profile(kafka_settings({**table, "sasl": sasl})), blocks=blocks) as log:
        with within(10), pytest.raises(LogError, match=DENIED):
            log.read(PLACE, start)
        with within(10), pytest.raises(LogError, match=DENIED):
            log.producer("theirs")
        transaction = log.producer("mine").begin()
        with within(10), pytest.raises(LogError, match=DENIED):
            transaction.append(block_of("payments", 0, [b"two"]))
            transaction.commit()
