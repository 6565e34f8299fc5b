"""What learners report is drawn where it is: every point at its place, every mistake told."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from connectors.embedded import EmbeddedLog
from connectors.registry import FolderRegistry
from streamproc.cli.app import cli
from streamproc.errors import InputError, UnknownTopic
from streamproc.ports import TopicSettings
from streamproc.runtime.pictures import Line, line_chart, metrics_picture
from streamproc.testing.drive import append_frame

CONTRACT = """{"type": "record", "name": "paid", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "x", "type": "double"},
    {"name": "s", "type": "string"}, {"name": "y", "type": "boolean"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""
TOPOLOGY = """
import streamproc as sp
from river import linear_model

scored = sp.source("paid", contract="paid") | sp.select("x", "s", "y") | sp.learn(
    linear_model.LogisticRegression(), inputs=("x",), label="y", into="p", report=50, segment="s", calibrated="q")
risk = sp.Topology("risk", sinks={side: scored.side(side) for side in ("metrics", "calibration")})
"""


def points(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each line, on the paper."""
    lines = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}polyline")
    return [[tuple(map(float, one.split(","))) for one in line.attrib["points"].split()] for line in lines]  # type: ignore[misc]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "schemas_avro"
    folder.mkdir()
    (folder / "paid.v1.avsc").write_text(CONTRACT)
    (tmp_path / "risk.py").write_text(TOPOLOGY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".streamproc").mkdir()
    random, n = np.random.default_rng(1), 400
    x = random.normal(size=n)
    paid = pl.DataFrame({
        "id": [f"i{i}" for i in range(n)], "x": x, "s": random.choice(["DE", "FR"], n),
        "y": random.random(n) < 1 / (1 + np.exp(-2 * x)), "at": pl.Series(np.arange(n)).cast(pl.Datetime("us", "UTC")),
    })  # fmt: skip
    with EmbeddedLog(tmp_path / ".streamproc" / "log.db") as log:
        registry = FolderRegistry((folder,))
        log.create_topic("paid", TopicSettings(1))
        append_frame(log, registry, "paid", registry.contract("paid"), paid)
    done = CliRunner().invoke(cli, ["run", "risk.py:risk", "--until-end"])
    assert done.exit_code == 0, done.output
    return tmp_path


def test_metrics_and_reliability_are_drawn_from_the_log(project: Path) -> None:
    for call in (["metrics", "risk.metrics"], ["reliability", "risk.calibration"]):
        done = CliRunner().invoke(cli, ["plot", *call, "--out", f"{call[0]}.svg"])
        assert done.exit_code == 0, done.output
    rows = [CliRunner().invoke(cli, ["subscribe", f"risk.{side}"]).stdout for side in ("metrics", "calibration")]
    told, sure = (pl.read_ndjson(one.encode(), infer_schema_length=None) for one in rows)
    drawn = points((project / "metrics.svg").read_text())
    assert [len(line) for line in drawn] == [8, 8, 8, 8]
    plain = told.filter(pl.col("segment").is_null() & (pl.col("delay") == "label"))
    y = plain.filter(pl.col("contender") == "model").sort("labels")["brier"].to_list()
    low, high = plain["brier"].min(), plain["brier"].max()
    room = 0.05 * (high - low)
    assert [at for _, at in drawn[0]] == pytest.approx(
        [370 - 330 * (one - low + room) / (high - low + 2 * room) for one in y], abs=0.06
    )
    last = sure.filter(pl.col("segment").is_null() & (pl.col("labels") == 400))
    for line, row in zip(points((project / "reliability.svg").read_text()), last.iter_rows(named=True), strict=True):
        there = [k for k in range(10) if row["bin_n"][k]]
        wanted = [(70 + 520 * row["bin_score"][k], 370 - 330 * row["bin_true"][k]) for k in there]
        assert np.array(line) == pytest.approx(np.array(wanted), abs=0.06)
    of_one = metrics_picture(told, figure="accuracy", segment="DE")
    assert len(points(of_one)) == 1 and "accuracy, as scored, DE" in of_one


def test_mistakes_of_a_plot_are_told(project: Path) -> None:
    for error, said, call in (
        (UnknownTopic, "did you mean 'risk.metrics'", ["metrics", "risk.metrix", "--out", "a.svg"]),
        (InputError, "is no .svg file", ["metrics", "risk.metrics", "--out", "a.png"]),
        (InputError, "no reports of a side 'calibration'", ["reliability", "risk.metrics", "--out", "a.svg"]),
        (InputError, "no segment 'DEE'", ["metrics", "risk.metrics", "--segment", "DEE", "--out", "a.svg"]),
        (InputError, "no reports of a side", ["reliability", "risk.metrics", "--partition", "7", "--out", "a.svg"]),
        (InputError, "no reports in partition 7", ["metrics", "risk.metrics", "--partition", "7", "--out", "a.svg"]),
        (InputError, "nothing to draw", ["metrics", "risk.metrics", "--segment", "DE", "--zero", "--out", "a.svg"]),
    ):
        done = CliRunner().invoke(cli, ["plot", *call])
        assert isinstance(done.exception, error) and said in str(done.exception)


def test_what_is_written_on_a_chart_is_only_text() -> None:
    svg = line_chart([Line('<a & "b">', ((0.0, 5.0), (1.0, 5.0)))], title="<t>", x="x", y="y")
    assert next(ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")).text == "<t>"
    assert len(points(svg)) == 1
