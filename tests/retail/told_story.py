"""A story, told."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from streamproc.testing.drive import Driven
from topologies.retail.make_story import Story


@dataclass(frozen=True)
class Told:
    """A story and what the topology made of it; `judged` has the truth beside."""

    story: Story
    ran: Driven
    judged: pl.DataFrame
