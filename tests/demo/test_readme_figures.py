"""The README shows the demo's table: its figures are the ones that the golden test holds the demo to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_demo import FATES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = ("inventory.movements", "sales.orders", "service.returns")


@pytest.mark.parametrize("source", SOURCES)
def test_the_fates_in_the_readme_are_those_of_the_demo(source: str) -> None:
    row = re.search(rf"^ +{re.escape(source)} +([\d, ]+)$", README, re.M)
    assert row is not None
    assert tuple(int(cell.replace(",", "")) for cell in row.group(1).split()) == FATES[source]


def test_readme_and_help_say_how_many_events_the_demo_reads() -> None:
    read = f"{sum(FATES[source][0] for source in SOURCES) // 1000},000 real events"
    assert f"Run the demo on {read}" in README
    assert read in (ROOT / "docs" / "reference-commands.md").read_text(encoding="utf-8")
