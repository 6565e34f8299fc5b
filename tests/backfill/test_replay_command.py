"""`streamproc replay --id`: resumable, into topics and files, handed over to live; in words and as JSON."""

from __future__ import annotations

from pathlib import Path

import orjson
import polars as pl
import pytest
from orders import append, opened

from streamproc.cli.app import run as command

TOPOLOGY = """
import polars as pl
import streamproc as sp
from orders import ORDER

rows = sp.source("orders", contract=ORDER, lateness="5s")
shop = sp.Topology("shop", sinks={
    "dear": rows | sp.where(pl.col("amount") > 30),
    "spend": rows | sp.ordered(by=("id",)) | sp.key_by("card") | sp.tumbling("10s", n=sp.count()),
})
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(TOPOLOGY)
    (tmp_path / ".streamproc").mkdir()
    with opened(tmp_path / ".streamproc") as log:
        append(log, 0, 200)
    return tmp_path


def more(project: Path, first: int) -> None:
    with opened(project / ".streamproc") as log:
        append(log, first, 100)


def test_a_replay_with_an_id_hands_over_and_live_goes_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["replay", "shop.py", "--id", "one", "--out", "before", "--hand-over"]) == 0
    told = capsys.readouterr().out
    assert "shop.dear.v1.one" in told and "every record is in one of the two" in told
    more(project, 200)
    assert command(["run", "shop.py", "--until-end", "--close"]) == 0
    assert "100 rows read" in capsys.readouterr().out
    assert command(["verify", "shop.py"]) == 0
    assert command(["replay", "shop.py"]) == 0
    assert command(["replay", "shop.py", "--by-event-time", "--out", "whole"]) == 0
    capsys.readouterr()
    assert command(["replay", "shop.py", "--id", "one", "--hand-over", "--json"]) == 0
    answer = orjson.loads(capsys.readouterr().out)
    assert [tile["whole"] for tile in answer["hand_over"]] == [True, True]
    assert all(tile["cut"] == tile["live_from"] > 0 for tile in answer["hand_over"])
    assert sum(answer["sinks"][sink]["rows"] for sink in answer["sinks"]) > 0
    for sink in ("dear", "spend"):
        before, whole = (pl.read_parquet(f"{name}/{sink}.parquet") for name in ("before", "whole"))
        assert 0 < before.height < whole.height


def test_the_same_command_goes_on_and_other_bounds_are_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = ["--until", "orders:0=50,orders:1=40"]
    assert command(["replay", "shop.py", "--id", "two", *bounds]) == 0
    more(project, 200)
    capsys.readouterr()
    assert command(["replay", "shop.py", "--id", "two", *bounds]) == 0
    assert "was finished" in capsys.readouterr().out
    assert command(["replay", "shop.py", "--id", "two", "--until", "latest"]) == 2
    assert "another piece of history: orders:0 from 0 to 50, orders:1 from 0 to 40" in capsys.readouterr().err
    assert command(["replay", "shop.py", "--id", "two", "--drop"]) == 0
    assert "shop.spend.v1.two" in capsys.readouterr().out
    assert command(["replay", "shop.py", "--id", "two", "--until", "latest", "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["finished"] is True


def test_event_time_bounds_a_replay_with_and_without_an_id(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ((), ("--id", "three")):
        out = f"since{len(name)}"
        assert command(
            ["replay", "shop.py", "--by-event-time", "--since-event", "1970-01-01T00:02:00Z", "--out", out, *name]
        ) == 0  # fmt: skip
    frames = [pl.read_parquet(f"since{n}/dear.parquet")["id"].sort() for n in (0, 2)]
    assert frames[0].equals(frames[1])
    assert frames[0].len() > 10
    assert frames[0].min() in range(118, 126)
    capsys.readouterr()


def test_misuse_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, told in (
        (["--hand-over"], "go with --id"),
        (["--id", "x", "--must-equal"], "do not go with --id"),
        (["--id", "No"], "cannot be the id"),
        (["--by-event-time", "--since", "orders:9=1"], "no partition of a source"),
        (["--since-event", "2026-01-01T00:00:00Z"], "go with --by-event-time"),
    ):
        assert command(["replay", "shop.py", *args]) == 2
        assert told in capsys.readouterr().err
