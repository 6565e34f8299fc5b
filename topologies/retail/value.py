"""What is known of each person and of each stock code, up to each event.

Amounts are whole cents of a euro, by the rate that was published last before the event. Where an order or a return has
no rate (none published for a week), its cents are null and `cents_status` says so: it counts as an event, and its money
is missing, not zero.
"""

from __future__ import annotations

from typing import Final

import polars as pl

import streamproc as sp
from topologies.retail.people import GUEST, LIFETIME, happened
from topologies.retail.processes import movements

MAIL_CENTS: Final = 60
"""What a mail costs."""
RESPONSE_US: Final = 7 * 86_400_000_000
"""An order so soon after a mail counts as an answer to it."""

known = happened | sp.features(
    name="known",
    corrections=True,
    orders_1d=sp.count().of("orders").over("1d"),
    orders_7d=sp.count().of("orders").over("7d"),
    orders_30d=sp.count().of("orders").over("30d"),
    orders_90d=sp.count().of("orders").over("90d"),
    spend_30d=sp.total("cents").of("orders").over("30d"),
    spend_90d=sp.total("cents").of("orders").over("90d"),
    returns_30d=sp.count().of("returns").over("30d"),
    returns_90d=sp.count().of("returns").over("90d"),
    refunds_90d=sp.total("cents").of("returns").over("90d"),
    typical=sp.mean("cents").of("orders").over("90d"),
    mails_30d=sp.count().of("contacts").over("30d"),
    since_order=sp.time_since_last().of("orders").over("90d"),
    since_return=sp.time_since_last().of("returns").over("90d"),
    since_mail=sp.time_since_last().of("contacts").over("30d"),
    orders=sp.count().of("orders").over(LIFETIME),
    returns=sp.count().of("returns").over(LIFETIME),
    mails=sp.count().of("contacts").over(LIFETIME),
    spend=sp.total("cents").of("orders").over(LIFETIME),
    refunds=sp.total("cents").of("returns").over(LIFETIME),
    without_rate=sp.count().where(pl.col("cents").is_null()).of("orders", "returns").over(LIFETIME),
    processes=sp.contributors().over(LIFETIME),
    lifetime_value=pl.col("spend") - pl.col("refunds") - MAIL_CENTS * pl.col("mails"),
    return_share=pl.col("returns_90d") / pl.col("orders_90d"),
    answers_mail=(pl.col("source") == "orders") & (pl.col("since_mail") <= RESPONSE_US).fill_null(False),
)

# One row an event, as it was known then: what happened, to whom, and what that made of the person.
events = (
    known
    | sp.where(pl.col("corrected_at").is_null(), name="events_as_they_happened")
    | sp.select("event", "entity", "writing", "source", "at", "cents", "cents_status", "cents_rate_id", "orders",
                "returns", "mails", "lifetime_value", "answers_mail", name="events_of_persons")
)  # fmt: skip
# The newest row of each person; what a merge changes is told anew, and an alias is deleted.
customers = (
    known
    | sp.where(~pl.col("entity").str.starts_with(GUEST), name="persons")
    | sp.select(
        "entity", "at", "orders", "returns", "mails", "spend", "refunds", "lifetime_value", "without_rate",
        "orders_1d", "orders_7d", "orders_30d", "orders_90d", "spend_30d", "spend_90d", "refunds_90d",
        "since_order", "since_return", "since_mail", "mails_30d", "answers_mail", "processes", "deleted",
        name="customers",
    )
)  # fmt: skip

stock = (
    movements
    | sp.select("quantity", "unit_price", "moved_at", stock_code=pl.col("code"), line=pl.col("movement_id"),
                sold=pl.when(pl.col("quantity") > 0).then(pl.col("quantity")).otherwise(0),
                name="pieces")
    | sp.key_by("stock_code", name="movements_by_code")
    | sp.ordered("line", name="movements_in_order")
    | sp.features(
        name="stock",
        sold_1d=sp.total("sold").over("1d"),
        sold_7d=sp.total("sold").over("7d"),
        sold_30d=sp.total("sold").over("30d"),
        sold_90d=sp.total("sold").over("90d"),
        lines_30d=sp.count().over("30d"),
        first_sold=sp.first("moved_at").ever(),
        price=sp.last("unit_price").over("90d"),
        pace=pl.col("sold_7d") / pl.col("sold_30d"),
    )
)  # fmt: skip

stock_codes = stock | sp.select(
    "stock_code", "moved_at", "sold_1d", "sold_7d", "sold_30d", "sold_90d", "lines_30d", "first_sold", "price", "pace",
    name="stock_codes",
)
