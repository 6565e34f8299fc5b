"""The demo's answer: its accounts add up, its replay agrees, and its figures are those of the last release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from demo_run import DemoRun

from streamproc.cli.app import cli

FATES = {
    "finance.rates": (3_069, 3_069, 0, 0, 0, 0),
    "inventory.movements": (142_083, 141_297, 0, 0, 0, 786),
    "marketing.contacts": (4_480, 4_480, 0, 0, 0, 0),
    "sales.orders": (5_754, 5_199, 0, 0, 0, 555),
    "service.returns": (1_123, 1_123, 0, 0, 0, 0),
}


GOLDEN = {
    "retail.customers": "aa49e3ad9a45de38",
    "retail.dlq": "e76ae795aa41b9ba",
    "retail.doubts": "aaf2762f0c609791",
    "retail.events": "093ecce28594cafa",
    "retail.links": "403a2370dd1727bf",
    "retail.people": "6847f67d1e3efd76",
    "retail.quality": "415cdd4375d7169e",
    "retail.refund_alerts": "154dc06a5f5e6c12",
    "retail.stock": "d7b1394862334cca",
    "retail.stock_alerts": "1b20076eb276aa89",
}


def test_the_demo_accounts_for_every_row(demo: DemoRun) -> None:
    assert demo.answer["rows"] == 156_509
    for name, fates in demo.answer["inputs"].items():
        assert fates["in"] == sum(count for fate, count in fates.items() if fate != "in"), name


def test_the_demo_replays_itself_to_the_digest(demo: DemoRun) -> None:
    assert demo.answer["replay_equal"] is True
    assert demo.answer["rows_per_second"] > 0


def test_the_demo_says_what_it_does_on_stderr_and_only_json_on_stdout(demo: DemoRun) -> None:
    assert "running topology 'retail' on 156,509 events of 5 topics" in demo.told


def test_the_demo_has_the_figures_that_the_readme_shows(demo: DemoRun) -> None:
    fates = {name: tuple(row.values()) for name, row in demo.answer["sources"].items()}
    assert fates == FATES
    assert list(demo.answer["sources"]["sales.orders"]) == [
        "in",
        "emitted",
        "held",
        "filtered",
        "late",
        "dead_lettered",
    ]
    rows = {topic: value["rows"] for topic, value in demo.answer["topics"].items()}
    assert rows == {
        "retail.calibration": 90,
        "retail.customers": 10_244,
        "retail.decision_log": 5_199,
        "retail.decisions": 5_199,
        "retail.dlq": 1_341,
        "retail.doubts": 3,
        "retail.drift": 2,
        "retail.events": 10_802,
        "retail.label_drift": 2,
        "retail.links": 4_808,
        "retail.metrics": 360,
        "retail.people": 4_808,
        "retail.quality": 14,
        "retail.refund_alerts": 251,
        "retail.stock": 141_297,
        "retail.stock_alerts": 442,
    }


def test_the_demo_writes_the_bytes_that_it_has_always_written(demo: DemoRun) -> None:
    """Of topics without logarithms and exponentials, whose last bits processors may see otherwise."""
    digests = {topic: value["digest"][:16] for topic, value in demo.answer["topics"].items()}
    assert {topic: digests[topic] for topic in GOLDEN} == GOLDEN


def test_the_demo_finds_persons_without_a_key(demo: DemoRun) -> None:
    persons = demo.answer["persons"]
    assert persons["events"] == 10_244 and persons["persons"] == 3_127
    for quality in (persons, *persons["by_share"].values()):
        assert quality["f1"] >= 0.99 and quality["precision"] >= 0.999 and quality["order_return_recall"] >= 0.97
    assert abs(demo.answer["worth"]["said"] - demo.answer["worth"]["true"]) < 0.01 * demo.answer["worth"]["true"]


def test_the_model_beats_its_floors_at_the_true_delay(demo: DemoRun) -> None:
    model = demo.answer["model"]
    for floor in ("prior", "no_change", "last_score"):
        for figure in ("brier", "brier_of_last"):
            assert model["model"][figure] < model[floor][figure], (floor, figure)


def test_every_decision_of_the_demo_is_made_again_to_the_byte(demo: DemoRun) -> None:
    ran = CliRunner().invoke(cli, ["explain", "topologies.retail", "--json", "--log", demo.answer["log"]])
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    latency = told.pop("latency")["retail.decision_log"]
    assert told == {"decisions": 5_199, "sound": True}
    assert latency["decisions"] == 5_199 and 0 < latency["p50_us"] <= latency["p99_us"] <= latency["most_us"]
    assert sum(one["orders"] for one in demo.answer["decisions"]["by_rule"]) == 5_199
    assert all(one["reason"] for one in demo.answer["decisions"]["last"])


@pytest.mark.parametrize("kind", ["a folder with other things", "a file"])
def test_the_demo_leaves_what_is_not_its_own_alone(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "mine"
    if kind == "a file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "letter.txt").write_text("mine")
    ran = CliRunner().invoke(cli, ["demo", "--dir", str(place)])
    assert ran.exit_code != 0
    assert "is not the demo's" in str(ran.exception)
    assert (place if kind == "a file" else place / "letter.txt").read_text() == "mine"
