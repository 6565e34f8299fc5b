"""A project in a folder of its own, which is the current one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from deployed import write_payments

from tests.cli.card_payments import CONTRACT, TOPOLOGY


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Contract and topology, and no log yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "schemas_avro").mkdir()
    (tmp_path / "schemas_avro" / "payment.v1.avsc").write_text(CONTRACT)
    (tmp_path / "card_risk.py").write_text(TOPOLOGY)
    return tmp_path


@pytest.fixture
def filled(project: Path) -> Path:
    """The project, and 200 payments on its log."""
    write_payments(0, 200)
    return project


@pytest.fixture
def with_function(filled: Path) -> Callable[[str], None]:
    """Gives the topology a function over frames that runs this line where it meets a real payment: the plan tries it
    on made-up ones."""

    def write(line: str) -> None:
        act = [
            "def act(frame):",
            "    import os, signal, time",
            "    if 'p15' in frame['payment_id'].to_list():",
            f"        {line}",
            "    return frame",
            "payments = payments | sp.stateless(act)",
        ]
        text = TOPOLOGY.replace("card_risk = ", "\n".join([*act, "card_risk = "]))
        (filled / "card_risk.py").write_text(text)

    return write
