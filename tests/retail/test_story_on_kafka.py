"""The story on Kafka, by another binding: two workers, one of them killed, write the rows of the embedded run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from ordered_sinks import below_ordered

from streamproc.cli.app import run
from streamproc.ports import TopicPartition
from streamproc.runtime.binding import bind, plan_topology
from streamproc.runtime.compare import compare
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import TopicSum, recorded_sums
from streamproc.runtime.workspace import workspace_of
from tests.deploy.deployed import Deployed, answer_of, deployed, within
from tests.services.kafka import kafka_cluster
from topologies.retail import retail
from topologies.retail.load import CONTRACTS, shipped_story
from topologies.retail.make_story import MOVEMENTS

STORY = "topologies.retail"
PLACE = ("_partition", "_offset")
PATIENCE_S = 300.0
"""Of a first start, which may have kernels to compile."""


@dataclass(frozen=True)
class Told:
    """What a run left: rows of each sink without their places, digests by the journal, rows of each source by fate.

    late  rows of any step, tables too, behind which time had passed
    """

    rows: dict[str, pl.DataFrame]
    dead_letters: pl.DataFrame
    late: int
    sums: dict[str, TopicSum]
    fates: dict[str, Any]


def produce(binding: str) -> None:
    """The five topics, two partitions each."""
    for topic, contract in CONTRACTS.items():
        name = contract.partition(".")[0]
        options = ["--contract", name, "--partitions", "2", "--bind", binding]
        assert run(["produce", f"{topic}.parquet", topic, *options]) == 0


def told(binding: str, capture: pytest.CaptureFixture[str]) -> Told:
    """Runs to the end of what is there, which may have been reached before, and gives what lies in the topics."""
    answer = answer_of(capture, "run", STORY, "--until-end", "--close", "--bind", binding)
    place = workspace_of(Path(binding))
    with place.log() as log:
        registry = place.registry()
        bound = bind(retail, log, registry, create=False)
        rows = {
            sink.name: read_topic(log, registry, sink.topic, sink.contract.schema.polars()).drop(PLACE)
            for sink in bound.plan.sinks
        }
        letters = read_topic(log, registry, bound.names.dead_letters).select("topic", "partition", "offset", "reason")
        late = read_topic(log, registry, bound.names.late).height
        return Told(rows, letters, late, recorded_sums(bound, log), answer["sources"])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, which is the current one, with two months as files, and a binding of the embedded log."""
    monkeypatch.chdir(tmp_path)
    topics = shipped_story("2011-01", "2011-02").topics
    moved = topics[MOVEMENTS]
    # Few of the codes, for the test's time, but over both months: it takes one to see that a shelf is empty.
    codes = moved["stock_code"].unique().sort().gather_every(12)
    for topic, frame in {**topics, MOVEMENTS: moved.filter(pl.col("stock_code").is_in(codes.implode()))}.items():
        frame.write_parquet(f"{topic}.parquet")
    Path("embedded.toml").write_text('[log]\npath = "embedded/log.db"\n')
    Path("embedded").mkdir()
    return tmp_path


@pytest.fixture
def on_kafka(project: Path) -> Iterator[str]:
    """A binding of an empty cluster."""
    with kafka_cluster() as cluster:
        Path("kafka.toml").write_text(
            f'[kafka]\nbrokers = ["{cluster.bootstrap}"]\n[checkpoints]\ntopic = "retail.checkpoints"\n'
        )
        yield "kafka.toml"


def killed_on_the_way(binding: str, there: Deployed, capture: pytest.CaptureFixture[str]) -> int:
    """Lets two workers begin together, and kills the one with the registrar once rows are in the sinks."""

    def both() -> dict[str, list[int]] | None:
        # They rest until each has tasks: else the first that is there could be done before the second comes.
        assert there.process.poll() is None, there.said
        capture.readouterr()
        code = run(["pause", STORY, "--reason", "both at once", "--wait", "3s", "--json", "--bind", binding])
        crew: dict[str, list[int]] = orjson.loads(capture.readouterr().out)["workers"]
        return crew if code == 0 and len(crew) == 2 and all(crew.values()) else None

    crew = within(PATIENCE_S, "both workers have tasks", both)
    place = workspace_of(Path(binding))
    with place.log() as log:
        bound = bind(retail, log, place.registry(), create=False)
        registrar = next(n for n in range(bound.task_count) if bound.task_of(n)[0].stage.single)
        victim = next(name for name, tasks in crew.items() if registrar in tasks)
        process = next(child for child in there.children() if victim in child.cmdline())
        topics = [sink.topic for sink in bound.plan.sinks]
        sinks = [TopicPartition(topic, n) for topic in topics for n in range(bound.partitions[topic])]
        assert run(["resume", STORY, "--wait", "0s", "--bind", binding]) == 0
        within(60, "rows in a sink", lambda: sum(log.end_offset(place) for place in sinks))
        process.kill()
        process.wait(timeout=10)
        return sum(log.end_offset(place) for place in sinks)


def require_all_read(there: Deployed, fates: dict[str, Any]) -> None:
    """Waits until the workers have read all rows of the sources."""
    rows = sum(counts["in"] for counts in fates.values())

    def all_read() -> bool:
        assert there.process.poll() is None, there.said
        with contextlib.suppress(OSError):
            return rows == sum(there.total("streamproc_ledger_rows", source=name, fate="in") for name in fates)
        return False

    within(PATIENCE_S, "all rows", all_read)


def test_two_workers_of_which_one_is_killed_write_the_rows_of_the_embedded_run(
    on_kafka: str, capsys: pytest.CaptureFixture[str]
) -> None:
    produce("embedded.toml")
    expected = told("embedded.toml", capsys)
    produce(on_kafka)
    place = workspace_of(Path(on_kafka))
    with place.log() as log:
        bind(retail, log, place.registry())
    assert run(["pause", STORY, "--reason", "both at once", "--wait", "0s", "--bind", on_kafka]) == 0
    with deployed("--workers", "2", "--http", "0", "--bind", on_kafka, topology=STORY) as there:
        seen = killed_on_the_way(on_kafka, there, capsys)
        assert seen < sum(frame.height for frame in expected.rows.values()) / 2
        within(120, "the crash", lambda: "killed by signal 9, starts again in" in there.said)
        require_all_read(there, expected.fates)
        assert there.stop() == 0, there.said
    found = told(on_kafka, capsys)
    assert found.fates == expected.fates
    assert compare(expected.dead_letters, found.dead_letters).equal
    # Topics that were read to their end fell silent while others were still read: nobody passed their newest rows by.
    assert (expected.late, found.late) == (0, 0)
    promised = below_ordered(plan_topology(retail, place.registry()))
    # Its windows count rows of several tasks as they come; in any order they count the same, but nobody says so.
    assert set(expected.rows) - promised == {"quality"}
    differ = {
        name: both
        for name in sorted(promised)
        if not (both := compare(expected.rows[name], found.rows[name])).equal
    }
    assert not differ
    # Two months are too short for chances and windows to be watched.
    assert {name for name in promised if not expected.rows[name].height} <= {"drift", "label_drift"}
    for name in promised:
        assert found.sums.get(f"retail.{name}") == expected.sums.get(f"retail.{name}"), name
