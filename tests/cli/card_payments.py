"""A contract, the topology of the README, and a file of payments for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

CONTRACT = """{"type": "record", "name": "payment", "sp:version": 1, "sp:owner": "payments", "fields": [
    {"name": "payment_id", "type": "string"},
    {"name": "card_id", "type": "string", "sp:role": "key", "sp:pii": "pseudonym"},
    {"name": "amount", "type": "double", "sp:unit": "EUR"},
    {"name": "paid_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""

TOPOLOGY = """
import polars as pl
import streamproc as sp

payments = sp.source("payments", contract="payment", lateness="1m") | sp.require(amount_above_zero=pl.col("amount") > 0)
card_risk = sp.Topology(
    "card_risk", version=1, owner="payments-risk",
    sinks={
        "large": payments | sp.where(pl.col("amount") > 500, name="large") | sp.select("payment_id", "amount"),
        "daily": payments | sp.key_by("card_id") | sp.tumbling("1d", payments=sp.count(), spend=sp.total("amount")),
    },
)
"""


def payments_csv(rows: int) -> str:
    """A file of payments a minute apart: every tenth is below zero, every seventh above 500."""
    start = datetime(2026, 11, 1, tzinfo=UTC)
    lines = ["payment_id,card_id,amount,paid_at"]
    for n in range(rows):
        amount = -1.0 if n % 10 == 3 else 700.5 if n % 7 == 0 else 5.25
        lines.append(f"p{n},c{n % 5},{amount},{(start + timedelta(minutes=n)).isoformat()}")
    return "\n".join(lines) + "\n"
