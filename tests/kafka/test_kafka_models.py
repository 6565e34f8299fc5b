"""`streamproc model` on Kafka: what a learner had become is kept, made again bit for bit, and retrained when asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamproc.cli.app import run
from tests.cli.command_line import CommandLine
from tests.cli.paid_back import CONTRACTS, DAY, HOUR, csv, written_topology
from tests.services.kafka import KafkaCluster, kafka_cluster

EVERY = 240_000_000
"""A payment every four minutes."""
BOUND = ("--bind", "kafka.toml")


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


@pytest.fixture
def command(
    cluster: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    """A project on Kafka, with its checkpoints there, that ran over two days of payments and of what became of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("schemas_avro").mkdir()
    for name, text in CONTRACTS.items():
        Path("schemas_avro", f"{name}.v1.avsc").write_text(text)
    Path("risk.py").write_text("import polars as pl\nimport streamproc as sp\n" + written_topology())
    kafka = f'[kafka]\nbrokers = ["{cluster.bootstrap}"]\n'
    Path("kafka.toml").write_text(kafka + '[checkpoints]\ntopic = "risk.checkpoints"\n')
    for topic in CONTRACTS:
        write(topic, 0, 2 * DAY)
    assert run(["run", "risk.py", "--until-end", *BOUND]) == 0
    return CommandLine(capsys)


def write(topic: str, first: int, last: int) -> None:
    Path("rows.csv").write_text(csv(topic, first, last, every=EVERY))
    assert run(["produce", "rows.csv", topic, "--contract", topic, "--partitions", "2", *BOUND]) == 0


def test_versions_are_kept_made_again_and_retrained_on_kafka(command: CommandLine) -> None:
    early = command.fine("model", "keep", "risk.py", *BOUND, "--json").json
    assert len({one["task"] for one in early}) == 2 and all(one["labels_learned"] > 250 for one in early)
    shown = command.fine("model", "show", early[0]["version"][:10], *BOUND, "--json").json
    assert shown["version"] == early[0]["version"] and {place[0] for place in shown["offsets"]}
    # The stream went on; what was kept is made again from the journal on Kafka, bit for bit.
    for topic in CONTRACTS:
        write(topic, 2 * DAY, 2 * DAY + 6 * HOUR)
    command.fine("run", "risk.py", "--until-end", *BOUND)
    late = command.fine("model", "keep", "risk.py", *BOUND, "--json").json
    for one in (*early, *late):
        rebuilt = command.fine("model", "rebuild", one["version"], "risk.py", *BOUND, "--json").json
        assert rebuilt["equal"] and rebuilt["rebuilt"] == one["version"]
        assert rebuilt["steps"] > 0 and not rebuilt["steps_that_wrote_something_else"]
    answer = command("model", "diff", early[0]["version"], late[0]["version"], *BOUND, "--json")
    assert answer.code == 1 and "labels_learned" in {one["path"] for one in answer.json["content"]}
    # A storm of alarms was one request: made once, over offsets of the topics, and again the same.
    (made,) = command.fine("model", "retrain", "risk.py", *BOUND, "--json").json["made"]
    versions = [one["version"] for one in made["versions"]]
    assert len(set(versions)) == 2 and sum(one["labels_learned"] for one in made["versions"]) >= 18 * HOUR // EVERY
    again = command.fine("model", "retrain", "risk.py", *BOUND, "--json").json
    assert not again["made"] and [one["version"] for one in again["done"][0]["versions"]] == versions
    for version in versions:
        rebuilt = command.fine("model", "rebuild", version, "risk.py", *BOUND, "--json").json
        assert rebuilt["equal"] and rebuilt["steps"] is None
    listed = command.fine("model", "list", "risk.py", *BOUND, "--json").json
    kept = {one["version"] for one in listed["kept"]}
    assert kept == {*versions, *(one["version"] for one in (*early, *late))} and not listed["refused"]
    assert all(one["kept"] for one in listed["now"])
