"""The README shows the demo's table: its figures are the ones that the golden test holds the demo to."""

from __future__ import annotations

import json
import re
from contextlib import redirect_stdout
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from demo_run import DemoRun
from test_demo import FATES

from streamproc.cli.demo_text import tell_facts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = tuple(FATES)


@pytest.mark.parametrize("source", SOURCES)
def test_the_fates_in_the_readme_are_those_of_the_demo(source: str) -> None:
    row = re.search(rf"^ +{re.escape(source)} +([\d, ]+)$", README, re.M)
    assert row is not None
    assert tuple(int(cell.replace(",", "")) for cell in row.group(1).split()) == FATES[source]


def test_readme_and_help_say_how_many_events_the_demo_reads() -> None:
    read = f"{sum(FATES[source][0] for source in SOURCES) // 1000},000 events of five processes"
    assert f"Run the demo on {read}" in README
    assert read in (ROOT / "docs" / "reference-commands.md").read_text(encoding="utf-8")


def test_the_readme_shows_what_the_demo_says_of_persons_model_and_last_orders(demo: DemoRun) -> None:
    told = StringIO()
    with redirect_stdout(told):
        tell_facts(_with_times(demo.answer))
    lines = {" ".join(line.split()) for line in told.getvalue().splitlines()}
    block = README[README.index("who is who:") : README.index("replayed as recorded:")]
    shown = [" ".join(line.split()) for line in block.splitlines() if line.strip() and line.strip() != "..."]
    assert len(shown) >= 12
    assert [line for line in shown if line not in lines] == []


def _with_times(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer as it was before it was written as JSON."""
    facts = json.loads(json.dumps(answer))
    for rows, name in ((facts["decisions"]["last"], "ordered_at"), (facts["alerts"]["last_refunds"], "returned_at")):
        for row in rows:
            row[name] = datetime.fromisoformat(row[name])
    return facts
