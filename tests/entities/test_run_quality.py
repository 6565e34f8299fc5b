"""`run` to the end says how good entities are, where a sink says what they should have been."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import streamproc as sp
from connectors.registry import FolderRegistry
from streamproc.cli.app import run as command
from streamproc.entities.quality_curve import quality_curve
from streamproc.errors import DefinitionError
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.workspace import shipped_contracts
from streamproc.testing.drive import drive
from topologies.people.load import RECORDS, read_records, truth
from topologies.people.topology import LINKAGE, topology

N = 600
PEOPLE = "topologies.people.topology:topology"
OF_A_TOPIC = """
import streamproc as sp
from topologies.people.topology import people
events = people | sp.entity_rows("events", name="event_rows")
topology = sp.Topology("people", sinks={"entity_events": sp.sink(events, truth=sp.Truth(KNOWN, person="human"))})
"""


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    read_records().head(N).write_parquet("records.parquet")
    pl.DataFrame(schema={"action": pl.String, "record": pl.String, "other": pl.String,
                         "decided_at": pl.Datetime("us", "UTC")}).write_parquet("commands.parquet")  # fmt: skip
    for file, topic, contract in (("records", RECORDS, "person_record"), ("commands", "people.commands",
                                                                         "entity_command")):  # fmt: skip
        assert command(["produce", f"{file}.parquet", topic, "--contract", contract, "--partitions", "1"]) == 0
    capsys.readouterr()
    return tmp_path


def by_hand() -> list[Any]:
    """The curve of the same records, driven in process; `quality_curve` is held to counts by hand in `test_people`."""
    records = read_records().head(N)
    told = drive(topology, {RECORDS: records}, registry=FolderRegistry((shipped_contracts(),)))["entity_events"]
    known = truth().rename({"record_id": "record"})
    return quality_curve(told, known, model=LINKAGE, records=records.rename({"record_id": "record"}))


@pytest.mark.usefixtures("loaded")
def test_a_run_to_the_end_prints_the_quality_at_parts_of_the_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["run", PEOPLE, "--until-end", "--close"]) == 0
    told = capsys.readouterr().out
    lines = told[told.index("entities of people.entity_events against the truth"):].splitlines()[1:]
    names = ["precision", "recall", "F1", "B-cubed F1", "recall of blocks"]
    assert [name for name in names if name not in lines[0]] == []
    for line, one in zip(lines[1:5], by_hand(), strict=True):
        quality = one.quality
        figures = (quality.precision, quality.recall, quality.f1, quality.b_cubed_f1, one.blocking_recall)
        wanted = [f"{one.share}", "%", f"{one.records:,}", f"{one.people:,}", f"{one.entities:,}",
                  *(f"{figure:.4f}" for figure in figures)]  # fmt: skip
        assert line.split() == wanted
    # A second run has nothing to read, and says the same of what is there; machines get it with the rest.
    assert command(["run", PEOPLE, "--until-end", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (judged,) = answer["quality"]
    assert judged["events"] == "people.entity_events" and answer["rows"] == 0
    assert [one["records"] for one in judged["curve"]] == [N * share // 100 for share in (10, 25, 50, 100)]


@pytest.mark.usefixtures("loaded")
def test_the_truth_may_be_a_topic_and_one_that_is_not_there_takes_nothing_from_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("of_a_topic.py").write_text(OF_A_TOPIC.replace("KNOWN", '"people.truth"'))
    run = ["run", "of_a_topic.py", "--until-end", "--close"]
    assert command(run) == 0
    told = capsys.readouterr()
    assert "written by this run" in told.out and "against the truth" not in told.out
    assert "entities were not held to the truth: InputError: there is no topic 'people.truth'" in told.err
    Path("schemas_avro").mkdir()
    Path("schemas_avro/person_truth.v1.avsc").write_text(json.dumps({
        "type": "record", "name": "person_truth", "sp:version": 1, "fields": [
            {"name": "record_id", "type": "string"}, {"name": "human", "type": ["null", "string"], "default": None},
        ]}))  # fmt: skip
    known = truth().with_columns(human=pl.col("person").cast(pl.String)).drop("person")
    known.write_parquet("truth.parquet")
    produce = ["produce", "truth.parquet", "people.truth", "--contract", "person_truth"]
    assert command(produce) == 0
    capsys.readouterr()
    assert command(run) == 0
    line = capsys.readouterr().out.split("100 %")[1].split("\n")[0].split()
    last = by_hand()[-1]
    # No sink holds the records, so of blocks nothing is said.
    assert line == [f"{N}", f"{last.people}", f"{last.entities}", *(f"{figure:.4f}" for figure in (
        last.quality.precision, last.quality.recall, last.quality.f1, last.quality.b_cubed_f1))]  # fmt: skip
    Path("of_a_topic.py").write_text(OF_A_TOPIC.replace("KNOWN", '"people.truth"').replace("human", "humen"))
    assert command(run) == 0
    assert "'people.truth' has no column 'humen'" in capsys.readouterr().err


def test_a_truth_about_no_entities_and_one_that_is_read_are_refused_by_the_plan() -> None:
    registry = FolderRegistry((shipped_contracts(),))
    golden, events = topology.sink("golden").stream, topology.sink("entity_events").stream
    for stream, known, why in (
        (golden, "people.truth", "sink 'out' has a truth and no column 'event'"),
        (events, RECORDS, "'t' reads topic 'people.records', which is the truth that sink 'out' is held to"),
    ):
        with pytest.raises(DefinitionError, match=why):
            plan_topology(sp.Topology("t", sinks={"out": sp.sink(stream, truth=sp.Truth(known))}), registry)


def test_only_the_scorer_reads_the_truth() -> None:
    """No source holds it, and a plan is the same with another truth and with none."""
    registry = FolderRegistry((shipped_contracts(),))
    plan = plan_topology(topology, registry)
    assert sorted(node.origin.topic for node in plan.sources) == ["people.commands", RECORDS]  # type: ignore[union-attr]

    def never() -> pl.DataFrame:
        raise AssertionError("a plan or a step read the truth")

    leaves = topology.sink("entity_events")
    for other in (None, sp.Truth(never)):
        sinks = {**topology.sinks, "entity_events": sp.sink(leaves.stream, truth=other)}
        changed = sp.Topology("people", version=1, owner="customer-data", scope="customer-service", sinks=sinks)
        assert plan_topology(changed, registry).logic == plan.logic
        assert drive(changed, {RECORDS: read_records().head(50)}, registry=registry)["resolved"].height == 50
