"""`dlq replay` on Kafka after a fix: each record once, however often and by whom it is asked for, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from connectors.kafka import KafkaLog, Profile, kafka_settings
from streamproc.cli.app import run
from streamproc.runtime.reading import read_blocks
from tests.deploy.deployed import ROOT, answer_of
from tests.services.kafka import KafkaCluster, kafka_cluster

TOPIC, ROWS = "payments", 300
CONTRACT = """{{"type": "record", "name": "payment", "sp:version": {version}, "sp:owner": "payments", "fields": [
    {{"name": "payment_id", "type": "string"}}, {{"name": "card_id", "type": "string", "sp:role": "key"}},{more}
    {{"name": "paid_at", "type": {{"type": "long", "logicalType": "timestamp-micros"}}, "sp:role": "event_time"}}]}}"""
NOTE = '{"name": "note", "type": "string", "default": ""},'
TOPOLOGY = """import streamproc as sp
cards = sp.Topology("cards", version=1, owner="payments", sinks={"seen": sp.source("payments", contract="payment.v1")})
"""
REPLAY = ["dlq", "replay", "cards.py", "--bind", "kafka.toml"]
KILLED = """
import os, signal, sys
from connectors.kafka.writing_direct import DirectSender
from streamproc.cli.app import run

commit = DirectSender.commit_transaction

def killed(self, timeout_s):
    if sys.argv[1] == "after":
        commit(self, timeout_s)
    os.kill(os.getpid(), signal.SIGKILL)

DirectSender.commit_transaction = killed
run(sys.argv[2:])
"""
"""The command, which dies at its commit: just before it, when all is written, or as soon as it holds."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


def payments(first: int) -> str:
    lines = ["payment_id,card_id,paid_at"]
    lines += [f"p{n},c{n % 7},2026-11-01T00:{n % 60:02}:00Z" for n in range(first, first + ROWS)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def refused(cluster: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose topic has records of a schema that it did not know when it ran, and knows now."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    schemas = Path("schemas_avro")
    schemas.mkdir()
    newer = schemas / "payment.v2.avsc"
    (schemas / "payment.v1.avsc").write_text(CONTRACT.format(version=1, more=""))
    newer.write_text(CONTRACT.format(version=2, more=NOTE))
    Path("cards.py").write_text(TOPOLOGY)
    Path("kafka.toml").write_text(f'[kafka]\nbrokers = ["{cluster.bootstrap}"]\n')
    known = {}
    for version in (1, 2):
        assert run(["contracts", "register", f"payment.v{version}"]) == 0
        known[version] = (schemas / "ids.json").read_text()
        Path("payments.csv").write_text(payments(version * ROWS))
        assert run(["produce", "payments.csv", TOPIC, "--contract", f"payment.v{version}", "--partitions", "2",
                    "--bind", "kafka.toml"]) == 0  # fmt: skip
    newer.rename("later.avsc")
    (schemas / "ids.json").write_text(known[1])
    assert run(["run", "cards.py", "--until-end", "--bind", "kafka.toml"]) == 0
    Path("later.avsc").rename(newer)
    (schemas / "ids.json").write_text(known[2])


def values(cluster: KafkaCluster) -> Counter[bytes | None]:
    """How often each record is in the source topic."""
    with KafkaLog(Profile(kafka_settings({"brokers": cluster.bootstrap}))) as log:
        return Counter(block.value(row) for block in read_blocks(log, TOPIC) for row in range(len(block)))


@pytest.mark.usefixtures("refused")
def test_dead_letters_are_sent_once_whoever_is_killed_and_however_many_ask(
    cluster: KafkaCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer_of(capsys, *REPLAY, "--dry-run")["sent"] == {TOPIC: ROWS}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def killed(when: str) -> int:
        return subprocess.run([sys.executable, "-c", KILLED, when, *REPLAY], env=environment, check=False).returncode

    assert killed("before") == -signal.SIGKILL
    assert answer_of(capsys, *REPLAY, "--dry-run")["sent"] == {TOPIC: ROWS}, "what was open is given up"
    command, pipe = [sys.executable, "-m", "streamproc", *REPLAY, "--json"], subprocess.PIPE
    together = [subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe) for _ in range(2)]
    said = [(process.communicate(timeout=120), process.returncode) for process in together]
    # One of two may be refused because the other began after it; it is told so, and has sent nothing.
    sent = [orjson.loads(out)["sent"] for (out, _), code in said if code == 0]
    assert {TOPIC: ROWS} in sent, said
    assert sum(bool(one) for one in sent) == 1, said
    assert killed("after") == -signal.SIGKILL
    assert answer_of(capsys, *REPLAY)["sent"] == {}
    assert sorted(values(cluster).values()) == [1] * ROWS + [2] * ROWS
    fates = answer_of(capsys, "run", "cards.py", "--until-end", "--bind", "kafka.toml")["sources"][TOPIC]
    assert (fates["in"], fates["emitted"], fates["dead_lettered"]) == (3 * ROWS, 2 * ROWS, ROWS)
    assert run(["verify", "cards.py", "--bind", "kafka.toml"]) == 0
