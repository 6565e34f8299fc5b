"""A small shop for tests of features: payments, and the chargebacks that come days later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.graph import Stream

AT = datetime(2026, 11, 1, tzinfo=UTC)

PAYMENT = parse_contract("""{"type": "record", "name": "payment", "sp:version": 1, "fields": [
    {"name": "payment_id", "type": "string"},
    {"name": "card_id", "type": "string", "sp:role": "key"},
    {"name": "amount", "type": "double"},
    {"name": "paid_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")
CHARGEBACK = parse_contract("""{"type": "record", "name": "chargeback", "sp:version": 1, "fields": [
    {"name": "payment_id", "type": "string"},
    {"name": "card_id", "type": "string", "sp:role": "key"},
    {"name": "is_fraud", "type": "long"},
    {"name": "reported_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")


def payments(rows: int = 400, cards: int = 8, seed: int = 1) -> pl.DataFrame:
    """Payments, within a minute of their order in time, some at one moment."""
    random = np.random.default_rng(seed)
    seconds = np.cumsum(random.integers(0, 90, rows)) - random.integers(0, 50, rows)
    return pl.DataFrame(
        {
            "payment_id": [f"p{i}" for i in range(rows)],
            "card_id": [f"c{i}" for i in random.integers(0, cards, rows)],
            "amount": np.round(random.uniform(1, 500, rows), 2),
            "paid_at": [AT + timedelta(seconds=int(second)) for second in seconds],
        }
    )


def chargebacks(paid: pl.DataFrame, seed: int = 2) -> pl.DataFrame:
    """For each payment a coin, reported a day later: nothing that could be known says how it fell."""
    random = np.random.default_rng(seed)
    return paid.select(
        "payment_id", "card_id", is_fraud=pl.Series(random.integers(0, 2, paid.height)),
        reported_at=pl.col("paid_at") + timedelta(days=1),
    ).sort("reported_at")  # fmt: skip


def card_features() -> Stream:
    """Features of a card at each payment."""
    return (
        sp.source("payments", contract=PAYMENT, lateness="1m")
        | sp.key_by("card_id")
        | sp.ordered("payment_id")
        | sp.features(
            payments_1h=sp.count().over("1h"), spend_1h=sp.total("amount").over("1h"),
            large=sp.count().where(pl.col("amount") > 250).over("6h"), typical=sp.quantile("amount", 0.5).over("6h"),
            usual=sp.ewma("amount", "1h").over("6h"), since=sp.time_since_last().over("6h"),
            share=pl.col("large") / pl.col("payments_1h"), first=sp.first("amount").ever(),
        )
    )  # fmt: skip


def topology() -> sp.Topology:
    """Features of cards, kept as history and as a table."""
    made = card_features()
    return sp.Topology("cards", sinks={"features": made, "newest": sp.sink(made, latest=True)})
