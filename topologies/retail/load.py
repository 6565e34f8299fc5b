"""The story's topics as they ship: four months, customer i is person i."""

from __future__ import annotations

from typing import Final

import polars as pl

from topologies.retail.make_story import CONTRACTS, Story, make_story
from topologies.retail.sources import invoice_lines, persons, reference_rates

__all__ = ["CONTRACTS", "FIRST", "LAST", "events", "shipped_story"]

FIRST: Final = "2010-12"
LAST: Final = "2011-03"


def shipped_story(first: str = FIRST, last: str = LAST, seed: int = 0) -> Story:
    """The story of some months of the shipped data, with its truth."""
    return make_story(invoice_lines(), persons(), reference_rates(), first=first, last=last, seed=seed)


def events() -> dict[str, pl.DataFrame]:
    """The rows of each topic, by topic name, each sorted by event time."""
    return shipped_story().topics
