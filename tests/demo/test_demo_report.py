"""The demo's report, opened by a browser: it is whole, its console silent, and its numbers are those of the topics."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from demo_run import DemoRun

from tests.services.processes import need


@dataclass
class Page(HTMLParser):
    """What stands in the page by where it comes from: value and text; and how many pictures there are."""

    facts: dict[str, tuple[str, str]] = field(default_factory=dict)
    pictures: int = 0
    outside: list[str] = field(default_factory=list)
    _path: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.pictures += tag == "svg"
        links = [found.get(name) or "" for name in ("src", "href")]
        self.outside += [link for link in links if link.startswith(("http", "//"))]
        if "data-fact" in found:
            self._path = (found["data-fact"] or "", found["data-value"] or "")
            self.facts[self._path[0]] = (self._path[1], "")

    def handle_data(self, data: str) -> None:
        if self._path is not None:
            self.facts[self._path[0]] = (self._path[1], data)
            self._path = None


def opened(path: Path) -> tuple[str, str]:
    """The page as a browser has it after it was shown, and what it said of it."""
    need("chromium")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000",
             "--dump-dom", path.as_uri()],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def page(demo: DemoRun) -> Page:
    text, said = opened(Path(demo.answer["report"]))
    assert "CONSOLE" not in said, said
    read = Page()
    read.feed(text)
    return read


def at(answer: Any, path: str) -> Any:
    for part in path.split("/"):
        answer = answer[int(part)] if isinstance(answer, list) else answer[part]
    return answer


def test_a_browser_shows_the_report_with_its_pictures_and_without_a_word_on_its_console(page: Page) -> None:
    assert page.pictures == 5
    assert page.outside == []
    assert len(page.facts) > 150


def test_every_number_in_the_report_is_the_answers(page: Page, demo: DemoRun) -> None:
    for path, (value, _) in page.facts.items():
        there = at(demo.answer, path)
        said = datetime.fromisoformat(value).isoformat() if _is_time(there) else value
        meant = datetime.fromisoformat(there).isoformat() if _is_time(there) else str(there)
        assert said == meant, f"{path}: the page says {value}, the answer {there}"


def test_numbers_in_the_report_are_those_of_the_topics(page: Page, demo: DemoRun) -> None:
    for path, (_, shown) in page.facts.items():
        if path.startswith("topics/") and path.endswith("/rows"):
            rows = demo.log_records(path.split("/")[1])
            assert shown == f"{rows:,}", path
    decisions = demo.rows("retail.decisions").group_by("decision", "rule").len()
    for n in range(decisions.height):
        decision, rule = (page.facts[f"decisions/by_rule/{n}/{key}"][1] for key in ("decision", "rule"))
        orders = decisions.filter((pl.col("decision") == decision) & (pl.col("rule") == rule))["len"].item()
        assert page.facts[f"decisions/by_rule/{n}/orders"][1] == f"{orders:,}"
    codes = demo.rows("retail.stock_alerts")["stock_code"].n_unique()
    assert page.facts["alerts/codes"][1] == f"{codes:,}"


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and len(value) >= 19 and value[4:5] == "-" and value[10:11] == "T"
