"""A small project: a contract, a file of payments, and the topology of the README."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command_line import CommandLine

CONTRACT = """{"type": "record", "name": "payment", "sp:version": 1, "sp:owner": "payments", "fields": [
    {"name": "payment_id", "type": "string"},
    {"name": "card_id", "type": "string", "sp:role": "key", "sp:pii": "pseudonym"},
    {"name": "amount", "type": "double", "sp:unit": "EUR"},
    {"name": "paid_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""

TOPOLOGY = """
import polars as pl
import streamproc as sp

payments = sp.source("payments", contract="payment", lateness="1m") | sp.require(amount_above_zero=pl.col("amount") > 0)
card_risk = sp.Topology(
    "card_risk", version=1, owner="payments-risk",
    sinks={
        "large": payments | sp.where(pl.col("amount") > 500, name="large") | sp.select("payment_id", "amount"),
        "daily": payments | sp.key_by("card_id") | sp.tumbling("1d", payments=sp.count(), spend=sp.total("amount")),
    },
)
"""


def payments_csv(rows: int) -> str:
    """A file of payments a minute apart: every tenth is below zero, every seventh above 500."""
    start = datetime(2026, 11, 1, tzinfo=UTC)
    lines = ["payment_id,card_id,amount,paid_at"]
    for n in range(rows):
        amount = -1.0 if n % 10 == 3 else 700.5 if n % 7 == 0 else 5.25
        lines.append(f"p{n},c{n % 5},{amount},{(start + timedelta(minutes=n)).isoformat()}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all of it, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "schemas_avro").mkdir()
    (tmp_path / "schemas_avro" / "payment.v1.avsc").write_text(CONTRACT)
    (tmp_path / "card_risk.py").write_text(TOPOLOGY)
    (tmp_path / "payments.csv").write_text(payments_csv(200))
    return tmp_path


@pytest.fixture
def filled(project: Path, command: CommandLine) -> Path:
    """The project, its payments on the log."""
    command.fine("produce", "payments.csv", "payments", "--contract", "payment", "--partitions", 2)
    return project


@pytest.fixture
def ran(filled: Path, command: CommandLine) -> Path:
    """The project after a run to the end of its history."""
    command.fine("run", "card_risk.py", "--until-end", "--close")
    return filled


@pytest.fixture
def topology(project: Path) -> Callable[[str, str], str]:
    """Writes another topology file; gives its name."""

    def write(name: str, text: str) -> str:
        (project / name).write_text("import polars as pl\nimport streamproc as sp\n" + text)
        return name

    return write


@pytest.fixture(autouse=True)
def search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command puts the folder of a topology on the module search path; it must not stay there for other tests."""
    monkeypatch.setattr(sys, "path", list(sys.path))
