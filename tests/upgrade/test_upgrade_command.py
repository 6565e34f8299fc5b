"""`streamproc upgrade`: what it says, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from orders import append, opened

from connectors.checkpoints import DirectoryCheckpoints
from streamproc.cli.app import run as command
from streamproc.cli.workspace import load_topology, shipped_contracts
from streamproc.runtime.binding import bind
from streamproc.runtime.drain import drain

TOPOLOGY = """
import polars as pl
import streamproc as sp
from orders import ORDER

rows = sp.source("orders", contract=ORDER, lateness="5s")
one = sp.Topology("shop", sinks={"spend": rows | sp.key_by("card") | sp.tumbling("WINDOW", n=sp.count())})
"""


def written(name: str, window: str, version: int) -> str:
    """A topology file; gives its name."""
    text = TOPOLOGY.replace("WINDOW", window).replace('"shop",', f'"shop", version={version},')
    Path(name).write_text(text)
    return name


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".streamproc").mkdir()
    with opened(tmp_path / ".streamproc") as log:
        append(log, 0, 200)
    return tmp_path


@pytest.mark.parametrize(("window", "state"), [("10s", "reused"), ("20s", "replayed")])
def test_an_upgrade_tells_where_the_versions_meet_and_whose_state_it_is(
    project: Path, capsys: pytest.CaptureFixture[str], window: str, state: str
) -> None:
    from connectors.registry import FolderRegistry

    old, new = written(f"old_{state}.py", "10s", 1), written(f"new_{state}.py", window, 2)
    assert command(["run", old, "--until-end"]) == 0
    capsys.readouterr()
    assert command(["upgrade", new]) == 2
    assert "version 1 of 'shop' has not ended: no drain is in force for it" in capsys.readouterr().err
    with opened(project / ".streamproc") as log:
        registry = FolderRegistry((shipped_contracts(),))
        drain(bind(load_topology(old), log, registry), log, DirectoryCheckpoints(".streamproc/log.checkpoints"))
        append(log, 200, 100)
    assert command(["upgrade", new, "--json"]) == 0
    told = orjson.loads(capsys.readouterr().out)
    assert (told["from_version"], told["state"]) == (1, state)
    assert sum(place["at"] for place in told["offsets"]) == 200
    assert command(["upgrade", new]) == 0
    said = capsys.readouterr().out
    assert "takes over from version 1" in said
    assert ("was not taken over: what 'tumbling' holds differs" in said) == (state == "replayed")
    assert command(["run", new, "--until-end", "--close"]) == 0
    assert "100 rows read" in capsys.readouterr().out
    assert command(["verify", new]) == 0


def test_there_must_be_something_to_take_over(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = written("only.py", "10s", 2)
    assert command(["upgrade", new]) == 2
    assert "no version of 'shop' below 2 ever ran on this log" in capsys.readouterr().err
    assert command(["upgrade", new, "--adopt", "x", "--replay"]) == 2
    assert "--adopt takes state over" in capsys.readouterr().err
