"""`streamproc upgrade`: what it says, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from orders import append, opened

from connectors.checkpoints import DirectoryCheckpoints
from connectors.registry import FolderRegistry
from streamproc.cli.app import run as command
from streamproc.cli.workspace import load_topology
from streamproc.ports import TopicPartition
from streamproc.runtime.binding import bind
from streamproc.runtime.drain import drain
from streamproc.runtime.workspace import shipped_contracts

TOPOLOGY = """
import polars as pl
import streamproc as sp
from orders import ORDER

rows = sp.source("orders", contract=ORDER, lateness="5s")
spend = rows | sp.key_by("card") | sp.tumbling("WINDOW", n=sp.count())
one = sp.Topology("shop", sinks={"spend": spend, "dear": rows | sp.where(pl.col("amount") > 30)})
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


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command says, on one line."""
    capsys.readouterr()
    assert command(list(words)) == code
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


def test_before_the_take_over_a_version_writes_beside_the_sinks_only_and_after_it_the_old_one_stays_ended(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(topic: str) -> int:
        with opened(project / ".streamproc") as log:
            return sum(log.end_offset(TopicPartition(topic, number)) for number in range(2))

    old, new = written("first.py", "10s", 1), written("second.py", "20s", 2)
    assert "200 rows read" in told(capsys, "run", old, "--until-end")
    before = rows("shop.dear")
    assert before > 0
    said = told(capsys, "run", new, "--until-end", code=2)
    assert "version 1 of 'shop' ran on this log" in said
    assert "streamproc run --shadow" in said
    assert rows("shop.dear") == before, "nothing was written twice"
    closing = told(capsys, "run", new, "--shadow", "--until-end", "--close", code=2)
    assert "a shadow that takes over must go on" in closing
    assert "shop version 2, shadow: 200 rows read" in told(capsys, "run", new, "--shadow", "--until-end")
    assert rows("shop.dear") == before
    assert rows("shop.dear.v2") == before
    with opened(project / ".streamproc") as log:
        append(log, 200, 100)
    assert "100 rows read" in told(capsys, "run", old, "--until-end")
    assert "shop version 1 is drained" in told(capsys, "drain", old, "--reason", "upgrade", "--wait", "0s")
    assert "takes over from version 1, with the state of its shadow" in told(capsys, "upgrade", new)
    # What was drained and taken over from stays where it ended, or the sinks would have two writers.
    for words in (("resume", old), ("pause", old, "--reason", "again")):
        assert "version 2 of 'shop' took over from version 1" in told(capsys, *words, code=2)
    with opened(project / ".streamproc") as log:
        append(log, 300, 100)
    assert "version 2 of 'shop' is live" in told(capsys, "run", new, "--shadow", "--until-end", code=2)
    assert "100 rows read" in told(capsys, "run", new, "--until-end", "--close")
    assert told(capsys, "verify", new).startswith("sound")
    third = written("third.py", "30s", 3)
    assert "version 2 of 'shop' ran on this log" in told(capsys, "run", third, "--until-end", code=2)
    assert "nothing new to read" in told(capsys, "run", third, "--from", "latest", "--until-end")


def test_checkpoints_on_a_topic_are_enough_to_go_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No directory at all: what a run, an upgrade and a replay need lies in the log."""
    Path("b.toml").write_text('[log]\npath = ".streamproc/log.db"\n[checkpoints]\ntopic = "kept.checkpoints"\n')
    bind_ = ("--bind", "b.toml")
    old, new = written("kept_1.py", "10s", 1), written("kept_2.py", "10s", 2)
    told(capsys, "run", old, "--until-end", *bind_)
    assert "is drained" in told(capsys, "drain", old, "--reason", "upgrade", "--wait", "0s", *bind_)
    assert "with the state of version 1" in told(capsys, "upgrade", new, *bind_)
    assert "took over from version 1" in told(capsys, "resume", old, *bind_, code=2)
    with opened(project / ".streamproc") as log:
        append(log, 200, 100)
        assert log.end_offset(TopicPartition("kept.checkpoints", 0)) > 0
    assert "100 rows read" in told(capsys, "run", new, "--until-end", "--close", *bind_)
    assert told(capsys, "verify", new, *bind_).startswith("sound")
    assert "every digest" in told(capsys, "replay", new, *bind_)
    assert not list(project.rglob("*.checkpoints"))
    # Without the store the state that version 2 began with is nowhere.
    assert "began with the state that" in told(capsys, "replay", new, code=2)
