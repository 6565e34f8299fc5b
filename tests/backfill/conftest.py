"""Backfills share contract, rows and topologies with the tests of upgrades, which lie beside."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "upgrade"))


@pytest.fixture(autouse=True)
def search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command puts the folder of a topology on the module search path; it must not stay there for other tests."""
    monkeypatch.setattr(sys, "path", list(sys.path))
