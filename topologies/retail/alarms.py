"""What somebody should look at now: refunds that are out of line, shelves that run empty."""

from __future__ import annotations

from typing import Final

import polars as pl

import streamproc as sp
from topologies.retail.people import GUEST
from topologies.retail.risk import returned
from topologies.retail.value import stock

NOBODY: Final = pl.col("entity").str.starts_with(GUEST)
NO_ORDER: Final = (pl.col("orders") == 0) & ~NOBODY
EXCEEDS: Final = (pl.col("refunds") > pl.col("spend")) & (pl.col("orders") > 0)
UNUSUAL: Final = (pl.col("cents") > 3 * pl.col("typical")) & (pl.col("cents") >= 10_000)
LARGE: Final = pl.col("cents") >= 50_000

refund_alerts = (
    returned
    | sp.where(NO_ORDER | EXCEEDS | UNUSUAL | LARGE | (NOBODY & (pl.col("cents") >= 5_000)), name="out_of_line")
    | sp.select(
        "entity", return_id=pl.col("event"), returned_at=pl.col("at"), cents=pl.col("cents"),
        orders=pl.col("orders"), spend=pl.col("spend"), refunds=pl.col("refunds"),
        kind=pl.when(NOBODY).then(pl.lit("refund without a person"))
        .when(NO_ORDER).then(pl.lit("refund without an order")).otherwise(pl.lit("unusual refund")),
        severity=pl.when((NO_ORDER | EXCEEDS) & LARGE).then(pl.lit("high"))
        .when(NO_ORDER | EXCEEDS | LARGE).then(pl.lit("warning")).otherwise(pl.lit("info")),
        reason=pl.concat_str(
            [
                pl.when(NOBODY).then(pl.lit("nothing was written of the person")),
                pl.when(NO_ORDER).then(pl.lit("the person has no order in two years")),
                pl.when(EXCEEDS).then(pl.lit("refunds exceed all that was bought")),
                pl.when(UNUSUAL).then(pl.lit("three times a usual order")),
                pl.when(LARGE).then(pl.lit("500 EUR or more")),
            ],
            separator="; ", ignore_nulls=True,
        ),
        name="refund_alerts",
    )
)  # fmt: skip

SHELF_DAYS: Final = 3
"""Nobody writes what lies on the shelf. It is taken to be filled for the demand of 30 days: what has left within a week
is then known, and so is how long the rest lasts at that pace. From 70 % of a month's demand in a week on it is 3 days.
"""
stock_alerts = (
    stock
    | sp.with_columns(
        name="shelf",
        gone=pl.when((pl.col("sold_30d") >= 200) & (pl.col("moved_at") - pl.col("first_sold") > pl.duration(days=30)))
        .then(pl.col("pace")).otherwise(0.0),
    )
    | sp.alert("gone", title="stock about to run out", above=0.7, clear=0.5, hold="1h", severity="warning",
               runbook="docs/decisions-and-alerts.md", name="empty_shelf")
    | sp.with_columns(name="since_when", since=pl.col("since").cast(pl.Datetime("us", "UTC")))
)  # fmt: skip
