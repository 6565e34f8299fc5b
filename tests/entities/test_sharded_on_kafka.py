"""Entities that several processes find on Kafka, one of them killed on the way, are those of a single writer."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import orjson
import polars as pl
import pytest

from streamproc.cli.app import run
from streamproc.cli.workspace import load_topology
from streamproc.ports import TopicPartition
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.compare import compare
from streamproc.runtime.reading import read_topic
from streamproc.runtime.workspace import workspace_of
from tests.deploy.deployed import Deployed, answer_of, deployed, within
from tests.services.kafka import kafka_cluster
from topologies.people.load import RECORDS, read_records, truth

COMMANDS = "people.commands"
BUILD = '''
import streamproc as sp
from topologies.people.topology import LINKAGE

records = sp.source("people.records", contract="person_record", lateness="30s")
commands = sp.source("people.commands", contract="entity_command", lateness="30s")


def finding(orders):
    return sp.resolve(LINKAGE, record="record_id", threshold=0.9, review=0.2, block_cap=3,
                      golden={"surname": "most_frequent", "postcode": "most_recent"}, commands=orders)


def topology(people):
    kinds = ("records", "events", "golden", "links", "review")
    views = {kind: people | sp.entity_rows(kind, name=f"{kind}_rows") for kind in kinds}
    return sp.Topology("register", version=1, sinks={**views, "capped": people.side("capped")})


single = topology(records | sp.key_by() | sp.ordered("record_id")
                  | finding(commands | sp.key_by() | sp.ordered(("record", "other"))))
shared = topology(records | sp.sharded(finding(commands)))
'''
SINKS = ("records", "events", "golden", "links", "review", "capped")
PATIENCE_S = 120.0
PLACE = ("_partition", "_offset")


def world() -> tuple[pl.DataFrame, pl.DataFrame]:
    """People of whom records come again with other values, out of order; some are told to be one, or two, or to go."""
    people = read_records().join(truth(), on="record_id").filter(pl.col("person").rank("dense") <= 300)
    records = people.drop("person")
    again = records.gather_every(9).with_columns(
        surname=pl.col("surname") + "son", recorded_at=pl.col("recorded_at") + pl.duration(minutes=20)
    )
    frame = pl.concat([records, again])
    # Out of order by up to 20 s, which is less than the lateness.
    coming = pl.col("recorded_at").dt.epoch("s") + pl.int_range(pl.len()) * 7 % 20
    frame = frame.sort(coming, "record_id", "recorded_at")
    at: dict[str, datetime] = dict(records.select("record_id", "recorded_at").iter_rows())
    copies = people.group_by("person", maintain_order=True).agg("record_id").filter(pl.col("record_id").list.len() > 1)
    pairs = copies["record_id"].to_list()
    names = records["record_id"].to_list()
    told = [("cannot_link", a, b, max(at[a], at[b])) for a, b, *_ in pairs[::4]]
    told += [("must_link", a, b, max(at[a], at[b])) for a, b in zip(names[::41], names[20::41], strict=False)]
    told += [("delete", a, None, at[a]) for a, *_ in pairs[1::6]]
    told += [("withdraw", a, b, max(at[a], at[b])) for a, b, *_ in pairs[::8]]
    orders = pl.DataFrame(told, {"action": pl.String, "record": pl.String, "other": pl.String,
                                 "decided_at": records.schema["recorded_at"]}, orient="row")  # fmt: skip
    later = pl.when(pl.col("action") == "withdraw").then(600).otherwise(60)
    return frame, orders.with_columns(pl.col("decided_at") + pl.duration(seconds=later)).sort("decided_at")


def produce(frames: tuple[pl.DataFrame, pl.DataFrame], binding: str) -> None:
    """The two topics, two partitions each."""
    for topic, contract, frame in zip((RECORDS, COMMANDS), ("person_record", "entity_command"), frames, strict=True):
        frame.write_parquet("some.parquet")
        words = ["--contract", contract, "--partitions", "2", "--bind", binding]
        assert run(["produce", "some.parquet", topic, *words]) == 0


def halves(frames: tuple[pl.DataFrame, pl.DataFrame]) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """What comes before a moment, and behind it."""
    records, orders = frames
    half = records.height // 2
    moment = records["recorded_at"][half]
    first = pl.col("decided_at") <= moment
    return [(records[:half], orders.filter(first)), (records[half:], orders.filter(~first))]


def told(name: str, binding: str, capture: pytest.CaptureFixture[str]) -> tuple[dict[str, pl.DataFrame], int]:
    """Runs to the end of what is there, which may have been reached before; rows by sink, and how many got lost."""
    answer_of(capture, "run", name, "--until-end", "--close", "--bind", binding)
    place = workspace_of(Path(binding))
    registry = place.registry()
    with place.log() as log:
        bound = bind(load_topology(name), log, registry, create=False)
        rows = {sink.name: read_topic(log, registry, sink.topic) for sink in bound.plan.sinks}
        lost = [read_topic(log, registry, topic) for topic in (bound.names.late, bound.names.dead_letters)]
    return rows, sum(frame.height for frame in lost)


Crew = dict[str, list[int]]


def started_together(name: str, binding: str, there: Deployed, capture: pytest.CaptureFixture[str]) -> Crew:
    """The tasks of two workers, which rest until each has some."""

    def both() -> Crew | None:
        assert there.process.poll() is None, there.said
        capture.readouterr()
        code = run(["pause", name, "--reason", "both at once", "--wait", "3s", "--json", "--bind", binding])
        crew: Crew = orjson.loads(capture.readouterr().out)["workers"]
        return crew if code == 0 and len(crew) == 2 and all(crew.values()) else None

    crew: Crew = within(PATIENCE_S, "both workers have tasks", both)
    return crew


def kill_who_decides(crew: Crew, bound: Binding, there: Deployed) -> None:
    """Ends the worker that has the last stage, as a power cut does."""
    task = next(n for n in range(bound.task_count) if bound.task_of(n)[0].stage.single)
    victim = next(name for name, tasks in crew.items() if task in tasks)
    process = next(child for child in there.children() if victim in child.cmdline())
    process.kill()
    process.wait(timeout=10)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder, which is the current one, with both topologies, and bindings of the embedded log and of Kafka."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("people.py").write_text(BUILD)
    Path("embedded").mkdir()
    Path("embedded.toml").write_text('[log]\npath = "embedded/log.db"\n')
    with kafka_cluster() as cluster:
        Path("kafka.toml").write_text(
            f'[kafka]\nbrokers = ["{cluster.bootstrap}"]\n[checkpoints]\ntopic = "register.checkpoints"\n'
        )
        yield "kafka.toml"


def entities_of(rows: dict[str, pl.DataFrame]) -> dict[str, str]:
    """What each record's entity is at the end, by the links."""
    return dict(rows["links"].sort("_partition", "_offset").select("record", "entity_id").iter_rows())


def test_two_workers_of_which_one_is_killed_end_with_the_entities_of_the_single_writer(
    project: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, frames = "people.py:shared", world()
    produce(frames, "embedded.toml")
    expected, lost = told("people.py:single", "embedded.toml", capsys)
    assert lost == 0
    kinds = {"created", "joined", "corrected", "merged", "split", "removed"}
    assert set(expected["events"]["event"].cast(pl.String)) >= kinds
    first, second = halves(frames)
    produce(first, project)
    place = workspace_of(Path(project))
    with place.log() as log:
        bind(load_topology(shared), log, place.registry())
    assert run(["pause", shared, "--reason", "both at once", "--wait", "0s", "--bind", project]) == 0
    with deployed("--workers", "2", "--http", "0", "--bind", project, topology=shared) as there:
        crew = started_together(shared, project, there, capsys)
        with place.log() as log:
            bound = bind(load_topology(shared), log, place.registry(), create=False)
            events = [TopicPartition("register.events", n) for n in range(bound.partitions["register.events"])]

            def seen() -> int:
                return sum(log.end_offset(one) for one in events)

            assert run(["resume", shared, "--wait", "0s", "--bind", project]) == 0
            within(60, "entities", seen)
            produce(second, project)
            kill_who_decides(crew, bound, there)
            assert 0 < seen() < expected["events"].height
        within(60, "the crash", lambda: "killed by signal 9, starts again in" in there.said)
        rows = sum(frame.height for frame in frames)

        def all_read() -> bool:
            assert there.process.poll() is None, there.said
            with contextlib.suppress(OSError):
                return rows == sum(
                    there.total("streamproc_ledger_rows", source=name, fate="in") for name in (RECORDS, COMMANDS)
                )
            return False

        within(PATIENCE_S, "all rows", all_read)
        assert there.stop() == 0, there.said
    found, lost = told(shared, project, capsys)
    assert lost == 0
    assert entities_of(found) == entities_of(expected)
    for name in SINKS:
        difference = compare(expected[name].drop(PLACE), found[name].drop(PLACE))
        assert difference.equal and expected[name].height, f"{name}: {difference}"
    assert run(["verify", shared, "--bind", project]) == 0
