"""Backfills share contract, rows and topologies with the tests of upgrades, which lie beside."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "upgrade"))
