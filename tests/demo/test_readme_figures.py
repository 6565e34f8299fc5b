"""The README shows the demo's table: its figures are the ones that the golden test holds the demo to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_demo import FATES

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("source", ["inventory.movements", "sales.orders", "service.returns"])
def test_the_fates_in_the_readme_are_those_of_the_demo(source: str) -> None:
    row = re.search(rf"^ +{re.escape(source)} +([\d, ]+)$", README, re.M)
    assert row is not None
    assert tuple(int(cell.replace(",", "")) for cell in row.group(1).split()) == FATES[source]
