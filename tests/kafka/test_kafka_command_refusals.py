"""What stands between a command and Kafka is one line on stderr, within ten seconds, exit 2, and nothing half done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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

from streamproc.cli.app import run
from tests.services.kafka import PASSWORD, USER, KafkaCluster, kafka_cluster
from tests.services.processes import free_ports

CONTRACT = """{"type": "record", "name": "payment", "sp:version": 1, "sp:owner": "payments", "fields": [
    {"name": "payment_id", "type": "string"}, {"name": "card_id", "type": "string", "sp:role": "key"},
    {"name": "paid_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""
TOPOLOGY = """import streamproc as sp
paid = sp.source("payments", contract="payment")
cards = sp.Topology("cards", version=VERSION, owner="payments", sinks={"daily": paid | sp.key_by("card_id")
    | sp.tumbling("1d", n=sp.count())})
"""
REACTIONS = """import streamproc as sp
lines = sp.Reactions("lines", handlers={"payments": sp.JsonLines()})
"""
COMMANDS = [
    line.split()
    for line in """topics
run cards.py
run cards.py --workers 2
run cards.py --until-end
run cards.py --shadow
subscribe payments
react reactions.py
replay cards.py
replay cards.py --by-event-time
replay cards.py --id again
verify cards.py
dlq list cards.py
dlq replay cards.py
diff payments payments.csv
pause cards.py --reason why
resume cards.py
drain cards.py --reason why
upgrade later.py
rescale later.py
check cards.py
produce payments.csv payments --contract payment""".splitlines()
]
LOOKS_ONLY = ("topics", "check")
"""Commands to which a log without the topic is none the less a log."""
Refused = Callable[[list[str], str], str]


def named(words: list[str]) -> str:
    return " ".join(words)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster(security="scram-tls") as running:
        yield running


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command by a binding, which must be refused in one line and in time; gives the line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    Path("schemas_avro").mkdir()
    Path("schemas_avro/payment.v1.avsc").write_text(CONTRACT)
    Path("cards.py").write_text(TOPOLOGY.replace("VERSION", "1"))
    Path("later.py").write_text(TOPOLOGY.replace("VERSION", "2"))
    Path("reactions.py").write_text(REACTIONS)
    Path("payments.csv").write_text("payment_id,card_id,paid_at\np1,c1,2026-11-01T00:00:00Z\n")

    def refuse(words: list[str], binding: str) -> str:
        Path("kafka.toml").write_text(binding)
        capfd.readouterr()
        began = time.monotonic()
        code = run([*words, "--bind", "kafka.toml"])
        took = time.monotonic() - began
        out, err = capfd.readouterr()
        assert (code, out, len(err.splitlines())) == (2, "", 1), f"{named(words)}: exit {code}: {out}{err}"
        assert took < 10, f"{named(words)}: {took:.1f} s"
        return err

    return refuse


def binding(cluster: KafkaCluster, *, user: str = USER, ca: str = "ca.pem") -> str:
    return (
        f'[kafka]\nbrokers = ["{cluster.bootstrap}"]\n[kafka.sasl]\nmechanism = "SCRAM-SHA-512"\nusername = "{user}"\n'
        f'password = {{ env = "KAFKA_PASSWORD" }}\n[kafka.tls]\nca = "{cluster.folder}/tls/{ca}"\n'
    )


def all_or_one(*default: int) -> list[object]:
    """Every command, of which some run by default."""
    return [
        pytest.param(words, id=named(words), marks=() if number in default else pytest.mark.long)
        for number, words in enumerate(COMMANDS)
    ]


@pytest.mark.parametrize("words", all_or_one(2))
def test_brokers_that_are_away(words: list[str], refused: Refused) -> None:
    (port,) = free_ports(1)
    said = refused(words, f'[kafka]\nbrokers = ["127.0.0.1:{port}"]\n')
    assert f"Kafka at 127.0.0.1:{port} did not answer" in said
    assert "are the brokers running, and reachable?" in said


@pytest.mark.parametrize("words", all_or_one(6))
def test_a_wrong_password(
    words: list[str], cluster: KafkaCluster, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "not-that-one")
    said = refused(words, binding(cluster))
    assert "the brokers refuse the user name or password" in said
    assert "not-that-one" not in said


@pytest.mark.parametrize("words", all_or_one(5))
def test_a_foreign_authority(words: list[str], cluster: KafkaCluster, refused: Refused) -> None:
    assert "TLS" in refused(words, binding(cluster, ca="other.pem"))


def test_an_unknown_topic(cluster: KafkaCluster, refused: Refused) -> None:
    for words in COMMANDS:
        if words[0] not in (*LOOKS_ONLY, "produce"):
            said = refused(words, binding(cluster))
            assert any(text in said for text in ("no such topic", "no topic", "nor a topic", "ever ran on this log"))
    admin = AdminClient({**cluster.client(), "log_level": 0})
    there = [topic for topic in admin.list_topics(timeout=10).topics if not topic.startswith("__")]
    assert there == [], "nothing was begun"


def test_a_user_without_rights_and_one_who_may_only_look(cluster: KafkaCluster, refused: Refused,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    assert run(["produce", "payments.csv", "payments", "--contract", "payment"]) == 0  # A log of its own: no --bind.
    Path("all.toml").write_text(binding(cluster))
    assert run(["produce", "payments.csv", "payments", "--contract", "payment", "--bind", "all.toml"]) == 0
    admin = AdminClient({**cluster.client(), "log_level": 0})
    poor = UserScramCredentialUpsertion("poor", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4_096), b"secret")
    for answer in admin.alter_user_scram_credentials([poor]).values():
        answer.result()
    monkeypatch.setenv("KAFKA_PASSWORD", "secret")
    for words in COMMANDS:
        if words[0] not in LOOKS_ONLY:
            refused(words, binding(cluster, user="poor"))
    topics, literal, allow = ResourceType.TOPIC, ResourcePatternType.LITERAL, AclPermissionType.ALLOW
    looks = (AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    look = [AclBinding(topics, "*", literal, "User:poor", "*", what, allow) for what in looks]
    for answer in admin.create_acls(look).values():
        answer.result()
    until = time.monotonic() + 20
    while "payments" not in refused(["subscribe", "payments"], binding(cluster, user="poor")):
        assert time.monotonic() < until
    for words in COMMANDS:
        if words[0] in ("run", "subscribe", "react", "diff", "produce"):
            said = refused(words, binding(cluster, user="poor"))
            assert "give the user the rights (ACLs)" in said, said
