"""The people topology from end to end: real records, the shipped linkage, quality against the truth."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import polars as pl
import pytest

from connectors.registry import FolderRegistry
from streamproc.cli.app import run as command
from streamproc.cli.workspace import load_topology
from streamproc.entities.cluster_quality import cluster_quality
from streamproc.entities.quality_curve import quality_curve
from streamproc.runtime.workspace import shipped_contracts
from streamproc.testing.drive import Driven, drive
from topologies.people.load import RECORDS, read_records, truth
from topologies.people.topology import LINKAGE


@pytest.fixture(scope="module")
def run() -> Driven:
    topology = load_topology("topologies.people.topology:topology")
    return drive(topology, {RECORDS: read_records()}, registry=FolderRegistry((shipped_contracts(),)))


def test_the_registers_people_are_found(run: Driven) -> None:
    last = entities_at(run, 5_000)
    quality = cluster_quality(last["entity_id"], last["person"])
    assert quality.f1 >= 0.998 and quality.b_cubed_f1 >= 0.998


def test_quality_holds_while_records_come(run: Driven) -> None:
    for share in (10, 25, 50):
        then = entities_at(run, 50 * share)
        assert cluster_quality(then["entity_id"], then["person"]).f1 >= 0.99, share


def test_every_record_has_one_row_and_every_entity_one_golden_record(run: Driven) -> None:
    assert run["resolved"].height == 5_000
    golden = run["golden"].group_by("entity_id", maintain_order=True).last()
    now = entities_at(run, 5_000)["entity_id"]
    assert set(now) <= set(golden["entity_id"])
    sizes = golden.filter(pl.col("entity_id").is_in(now.unique().implode()))
    assert sizes["size"].sum() == 5_000
    assert sizes.filter(pl.col("surname").is_not_null() & pl.col("surname_from").is_null()).height == 0


def test_quality_is_told_at_parts_of_the_stream_and_agrees_with_a_count_by_hand(run: Driven) -> None:
    people = truth().rename({"record_id": "record"})
    curve = quality_curve(
        run["entity_events"], people, model=LINKAGE, records=read_records().rename({"record_id": "record"})
    )
    assert [(one.share, one.records) for one in curve] == [(10, 500), (25, 1_250), (50, 2_500), (100, 5_000)]
    for one in curve:
        by_hand = entities_at(run, one.records)
        assert one.quality == cluster_quality(by_hand["entity_id"], by_hand["person"])
        assert one.entities == by_hand["entity_id"].n_unique() and one.people == by_hand["person"].n_unique()
        assert one.blocking_recall == pytest.approx(pairs_in_blocks(one.records), abs=1e-12)


def test_the_command_prints_the_curve(
    run: Driven, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    run["entity_events"].write_parquet(tmp_path / "events.parquet")
    truth().write_csv(tmp_path / "truth.csv")
    judge = ["judge-linkage", str(tmp_path / "events.parquet"), "--truth", str(tmp_path / "truth.csv")]
    assert command([*judge, "--json"]) == 0
    curve = json.loads(capsys.readouterr().out)["curve"]
    assert [one["share"] for one in curve] == [10, 25, 50, 100] and curve[-1]["quality"]["f1"] >= 0.998
    assert command(judge) == 0
    assert "B-cubed F1" in capsys.readouterr().out
    assert command([*judge, "--person", "nobody"]) == 2
    assert "has no column 'nobody'" in capsys.readouterr().err


def pairs_in_blocks(records: int) -> float:
    """Which true pairs agree in a rule, pair by pair."""
    rows = read_records().head(records).join(truth(), on="record_id").to_dicts()
    people: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        people.setdefault(row["person"], []).append(row)
    pairs = [pair for group in people.values() for pair in itertools.combinations(group, 2)]
    rules = [[column for column, _ in rule.parts] for rule in LINKAGE.blocks]
    found = [any(all(a[name] is not None and a[name] == b[name] for name in rule) for rule in rules) for a, b in pairs]
    return sum(found) / len(found)


def entities_at(run: Driven, records: int) -> pl.DataFrame:
    """Entity and person of the first so many records, once these had come: what the events up to then say."""
    wanted = [f"r{i}" for i in range(records)]
    of: dict[str, str] = {}
    seen = 0
    columns = pl.col("event").cast(pl.String), pl.col("entity_id"), pl.col("records")
    for event, entity, named in run["entity_events"].select(columns).iter_rows():
        seen += event in ("created", "joined")
        if seen > records:
            break
        of.update(dict.fromkeys(named, entity))
    found = pl.DataFrame({"record_id": wanted, "entity_id": [of[name] for name in wanted]})
    return found.join(truth(), on="record_id")


def test_a_run_that_is_cut_elsewhere_gives_the_same_ids_and_events(run: Driven) -> None:
    topology = load_topology("topologies.people.topology:topology")
    registry = FolderRegistry((shipped_contracts(),))
    records = read_records().head(1_000)
    whole = drive(topology, {RECORDS: records}, registry=registry)
    cut = drive(topology, {RECORDS: records}, registry=registry, steps=itertools.cycle([1, 37, 250]))
    for sink in ("resolved", "entity_events", "golden", "review"):
        assert (
            whole[sink]
            .drop("_partition", "_offset", strict=False)
            .equals(cut[sink].drop("_partition", "_offset", strict=False))
        ), sink
    assert whole["resolved"]["entity_id"].to_list() == run["resolved"]["entity_id"].head(1_000).to_list()
