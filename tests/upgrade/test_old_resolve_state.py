"""A checkpoint of `resolve` in the form of an older build: refused with the way out, and nothing is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from connectors.registry import FolderRegistry
from streamproc.blocks import blocks_of
from streamproc.cli.app import run as command
from streamproc.ports import TopicPartition
from streamproc.runtime.checkpoint import load_arrays, side_of
from streamproc.runtime.reading import read_topic
from streamproc.runtime.workspace import shipped_contracts
from streamproc.testing.drive import drive
from topologies.people.load import RECORDS, read_records
from topologies.people.topology import topology

PEOPLE = "topologies.people.topology:topology"
TO_THE_END = ["run", PEOPLE, "--until-end", "--close"]
STORE = Path(".streamproc/log.checkpoints")


def produce(first: int, count: int) -> None:
    read_records()[first : first + count].write_parquet("records.parquet")
    assert command(["produce", "records.parquet", RECORDS, "--contract", "person_record", "--partitions", "1"]) == 0


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A log of 300 records that were resolved, a checkpoint, and 100 records more."""
    monkeypatch.chdir(tmp_path)
    produce(0, 300)
    empty = {"action": pl.String, "record": pl.String, "other": pl.String, "decided_at": pl.Datetime("us", "UTC")}
    pl.DataFrame(schema=empty).write_parquet("commands.parquet")
    wanted = ("--contract", "entity_command", "--partitions", "1")
    assert command(["produce", "commands.parquet", "people.commands", *wanted]) == 0
    assert command(["run", PEOPLE, "--until-end"]) == 0
    produce(300, 100)
    capsys.readouterr()
    return tmp_path


def of_an_older_build() -> int:
    """Gives every checkpoint of a resolve the form in which entities were kept before each claim led to another one:
    `retired` (int64[n, 3]) stood where `successors` (int64[n, 4]) is now.  How many there were."""
    store, changed = DirectoryCheckpoints(STORE), 0
    for folder in sorted((STORE / "manifests").iterdir()):
        for manifest in store.manifests(unquote(folder.name)):
            arrays = load_arrays(manifest, store)
            path = next((name for name in arrays if name.endswith(".successors")), None)
            if path is None:
                continue
            form = json.loads(arrays[""].tobytes())
            tables = the_tables(form)
            fields = {"retired" if k == "successors" else k: v for k, v in tables["fields"].items()}
            older = path.replace("successors", "retired")
            tables["fields"] = fields | {"retired": {"array": older}}
            arrays[older] = np.ascontiguousarray(arrays.pop(path)[:, :3])
            arrays[""] = np.frombuffer(json.dumps(form, separators=(",", ":")).encode(), np.uint8)
            stored: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {}
            for name, array in arrays.items():
                blocks = blocks_of(array, more=(b"", b"\x01")[side_of(manifest)])
                store.put_blocks(dict(blocks))
                stored[name] = (array.dtype.str, array.shape, tuple(content for content, _ in blocks))
            shutil.rmtree(folder)
            store.put_manifest(replace(manifest, arrays=stored))
            changed += 1
            break
    return changed


def the_tables(form: Any) -> Any:
    """The part of a state's description that tells of a resolve's tables."""
    if isinstance(form, dict):
        if form.get("dataclass") == "Tables":
            return form
        form = list(form.values())
    if isinstance(form, list):
        return next((found for part in form if (found := the_tables(part)) is not None), None)
    return None


def what_is_there() -> dict[str, Any]:
    """All that a run can leave: ends of topics, committed offsets, stored files."""
    with EmbeddedLog(Path(".streamproc/log.db")) as log:
        ends = {
            (topic, n): log.end_offset(TopicPartition(topic, n), isolation="read_uncommitted")
            for topic, settings in log.topics().items()
            for n in range(settings.partitions)
        }
        groups = {stage: log.committed(f"people.v1.s{stage}") for stage in range(5)}
    assert any(groups.values()), "offsets that were committed"
    files = {str(path): path.stat().st_size for path in STORE.rglob("*") if path.is_file()}
    return {"ends": ends, "groups": groups, "files": files}


@pytest.mark.usefixtures("ran")
def test_a_resolve_state_of_an_older_form_is_refused_with_the_way_out_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert of_an_older_build() == 1
    before = what_is_there()
    assert command(TO_THE_END) == 2
    said = capsys.readouterr().err
    assert "ForeignFingerprint" in said and "Traceback" not in said
    assert "the checkpoint of people" in said and "was saved by another build" in said
    assert "a Tables has the fields" in said and "retired" in said
    for way in ("run the build that saved it", "by replay of the journal", "version=N+1"):
        assert way in said
    assert what_is_there() == before
    # Refused again, not the second time let through.
    assert command(TO_THE_END) == 2
    assert what_is_there() == before
    capsys.readouterr()


@pytest.mark.usefixtures("ran")
def test_the_way_out_leads_out_the_replay_of_the_journal_gives_the_same_entities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert of_an_older_build() == 1 and command(TO_THE_END) == 2
    STORE.rename(tmp_path / "aside")
    capsys.readouterr()
    assert command(TO_THE_END) == 0
    assert "restored first" in capsys.readouterr().out
    registry = FolderRegistry((shipped_contracts(), Path(".streamproc/log.contracts")))
    with EmbeddedLog(Path(".streamproc/log.db")) as log:
        told = read_topic(log, registry, "people.entity_events")
    undisturbed = drive(topology, {RECORDS: read_records().head(400)}, registry=FolderRegistry((shipped_contracts(),)))
    columns = [pl.col("event", "reason").cast(pl.String), pl.col("entity_id", "other_id", "records")]
    assert_frame_equal(told.select(columns), undisturbed["entity_events"].select(columns))
