"""Commands put the folders of topologies on the module search path; they must not stay there for other tests."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search path of a test is its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
