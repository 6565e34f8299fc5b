"""The demo's answer: its accounts add up, its replay agrees, and its figures are those of the last release."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from demo_run import DemoRun

from streamproc.cli.app import cli

FATES = {
    "inventory.movements": (320_705, 318_906, 0, 0, 0, 1_799),
    "sales.orders": (13_905, 11_413, 0, 1_081, 0, 1_411),
    "service.returns": (2_554, 2_427, 0, 127, 0, 0),
}


def test_the_demo_accounts_for_every_row(demo: DemoRun) -> None:
    assert demo.answer["rows"] == 337_164
    for name, fates in demo.answer["inputs"].items():
        assert fates["in"] == sum(count for fate, count in fates.items() if fate != "in"), name


def test_the_demo_replays_itself_to_the_digest(demo: DemoRun) -> None:
    assert demo.answer["replay_equal"] is True
    assert demo.answer["rows_per_second"] > 0


def test_the_demo_says_what_it_does_on_stderr_and_only_json_on_stdout(demo: DemoRun) -> None:
    assert "running topology 'retail' on 337,164 events of 3 topics" in demo.told


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
    assert demo.answer["alerts"] == 172
    rows = {topic: value["rows"] for topic, value in demo.answer["topics"].items()}
    assert rows == {
        "retail.alerts": 172,
        "retail.customer_1d": 12_070,
        "retail.customer_30d": 260_946,
        "retail.customer_7d": 77_534,
        "retail.dlq": 3_210,
        "retail.movements": 318_906,
    }


def test_the_demo_writes_the_bytes_that_it_has_always_written(demo: DemoRun) -> None:
    digests = {topic: value["digest"][:16] for topic, value in demo.answer["topics"].items()}
    assert digests == {
        "retail.alerts": "96aef633011ab195",
        "retail.customer_1d": "1d0746e389091527",
        "retail.customer_30d": "0676b6775097f1c8",
        "retail.customer_7d": "cdf38db87e56a5c0",
        "retail.dlq": "fb40d6ce26c14c63",
        "retail.movements": "eca06f0853d27509",
    }


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
