"""The contract, rows and topologies that the tests of the runtime share."""

from __future__ import annotations

import numpy as np
import polars as pl

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract

PAYMENT = parse_contract(
    '{"type": "record", "name": "payment", "sp:version": 1, "fields": ['
    '{"name": "id", "type": "long"}, {"name": "card", "type": "string", "sp:role": "key"},'
    '{"name": "shop", "type": "string"}, {"name": "amount", "type": "double"},'
    '{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)
SECOND = 1_000_000


def payments(seed: int, rows: int = 60, *, disorder: int = 4) -> pl.DataFrame:
    """Rows with hot cards, ties, repetitions, bad amounts, and disorder of some seconds."""
    random = np.random.default_rng(seed)
    n = int(random.integers(0, rows + 1))
    at = np.cumsum(random.integers(0, 3, n)) - random.integers(0, disorder + 1, n)
    frame = pl.DataFrame(
        {
            "id": np.arange(n),
            "card": pl.Series([f"c{c}" for c in random.integers(0, 4, n) ** 2 // 3], dtype=pl.String),
            "shop": pl.Series([f"s{c}" for c in random.integers(0, 3, n)], dtype=pl.String),
            "amount": np.round(random.normal(20, 30, n), 2),
            "at": at * SECOND,
        }
    )
    again = random.integers(0, max(1, n), n // 8)
    return pl.concat([frame, frame[again]])[np.argsort(np.concatenate([np.arange(n), again + 3]), kind="stable")]


def topology(*, lateness: str = "5s", factor: float = 1.0, version: int = 1) -> sp.Topology:
    """Filters, dead letters, windows in arrival order; dedupe, windows and a join below `ordered`."""
    rows = sp.source("payments", contract=PAYMENT, lateness=lateness)
    good = rows | sp.require(positive=pl.col("amount") > 0)
    straight = good | sp.ordered(by=("id", "card")) | sp.dedupe("id", within="1m")
    cards = straight | sp.key_by("card")
    spend = cards | sp.tumbling("10s", n=sp.count(), spend=sp.total("amount"))
    return sp.Topology(
        "pay",
        version=version,
        sinks={
            "good": good,
            "dear": good | sp.where(pl.col("amount") > 30) | sp.with_columns(scaled=pl.col("amount") * factor),
            "spend": spend,
            "shops": straight | sp.key_by("shop") | sp.session("4s", n=sp.count(), low=sp.min("amount")),
            "rated": cards | sp.as_of(spend | sp.select("card", "n", "spend")),
        },
    )


def simple(*, factor: float = 1.0) -> sp.Topology:
    """One stage: the cheapest topology with state."""
    rows = sp.source("payments", contract=PAYMENT, lateness="2s")
    made = rows | sp.where(pl.col("amount") > 0) | sp.with_columns(scaled=pl.col("amount") * factor)
    return sp.Topology("one", sinks={"out": made | sp.dedupe("id", within="1m", per="partition")})


ORDERED = ("spend", "shops", "rated")
