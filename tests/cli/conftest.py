"""A small project: a contract, a file of payments, and the topology of the README."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from card_payments import CONTRACT, TOPOLOGY, payments_csv
from command_line import CommandLine


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
