"""A topology of two small stages, run in memory on a few rows: it compiles what the engine needs for any other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

import streamproc as sp
from streamproc.contracts.registry import Registry
from streamproc.testing.drive import drive


def compile_engine(registry: Registry) -> None:
    """Runs rates through two stages.

    registry  has the contract `reference_rate`
    """
    rates = sp.source("rates", contract="reference_rate", lateness="1h")
    counted = (
        rates
        | sp.key_by("rate_id")
        | sp.ordered()
        | sp.dedupe("rate_id", within="1h")
        | sp.tumbling("1d", rates=sp.count())
    )
    begin = datetime(2025, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame({
        "currency": ["USD", "GBP", "CHF", "USD"],
        "rate": [1.0, 2.0, 3.0, 4.0],
        "published_at": [begin + timedelta(days=3 * day) for day in range(4)],
        "rate_id": ["a", "b", "c", "d"],
    })
    topology = sp.Topology("compiled", version=1, scope="reporting", sinks={"counted": counted})
    drive(topology, {"rates": frame}, registry=registry, partitions=2)
