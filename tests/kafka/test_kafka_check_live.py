"""`check --live` against records that real producers placed: what they chose by is told, and what cannot be read."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streamproc.cli.app import run
from streamproc.runtime.workspace import workspace_of
from tests.services.kafka import KafkaCluster, kafka_cluster

CONTRACT = """{"type": "record", "name": "payment", "sp:version": 1, "sp:owner": "payments", "sp:partitioner": "PLACED",
    "fields": [
    {"name": "card_id", "type": "string", "sp:role": "key"},
    {"name": "paid_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""
TOPOLOGY = """import streamproc as sp
cards = sp.Topology("cards", version=1, owner="payments", sinks={"daily": sp.source("TOPIC", contract="payment.v1")
    | sp.key_by("card_id") | sp.tumbling("1d", n=sp.count())})
"""
PRODUCERS = {"murmur2": "murmur2", "crc32": "consistent", "fnv1a": "fnv1a"}
"""librdkafka's names for them; without a word it takes `consistent_random`, which is crc32 for a record with a key."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


@pytest.mark.parametrize("placed", PRODUCERS)
def test_records_that_the_declared_partitioner_did_not_place_are_a_finding_that_names_who_did(
    placed: str,
    cluster: KafkaCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    topic = f"payments-{placed}"
    admin = AdminClient({**cluster.client(), "log_level": 0})
    admin.create_topics([NewTopic(topic, 5, 1)])[topic].result(30)
    schema = Path("schemas_avro/payment.v1.avsc")
    schema.parent.mkdir()
    Path("cards.py").write_text(TOPOLOGY.replace("TOPIC", topic))
    Path("kafka.toml").write_text(f'[kafka]\nbrokers = ["{cluster.bootstrap}"]\n')
    schema.write_text(CONTRACT.replace("PLACED", "murmur2"))
    assert run(["contracts", "register", "payment.v1"]) == 0
    registry = workspace_of(Path("kafka.toml")).registry()
    head = b"\0" + struct.pack(">i", registry.id_of(registry.contract("payment.v1")))
    producer = Producer({**cluster.client(), "log_level": 0, "partitioner": PRODUCERS[placed]})
    keys = [b"card-%d" % number for number in range(200)]
    for key in keys:
        producer.produce(topic, head + bytes([2 * len(key)]) + key + b"\2", key)
    assert producer.flush(30) == 0

    def check(declared: str) -> tuple[int, str]:
        schema.write_text(CONTRACT.replace("PLACED", declared))
        capsys.readouterr()
        code = run(["check", "cards.py", "--live", "--bind", "kafka.toml"])
        return code, capsys.readouterr().out

    for declared in PRODUCERS:
        code, said = check(declared)
        assert code == (declared != placed), said
        if declared != placed:
            assert f"source '{topic}' declares that {declared} placed its records, and" in said
            assert f'declare "sp:partitioner": "{placed}"' in said
    assert check("unknown")[0] == 0, "who declares nothing promises nothing"
    producer.produce(topic, head + b"\xff\xff", b"k")
    producer.produce(topic, b"\0\0\0\xff\xff" + b"x", b"k")
    assert producer.flush(30) == 0
    code, said = check(placed)
    assert code == 1
    assert "of the newest 202 records 2 cannot be read as payment.v1" in said
