"""What is known of each person and of each stock code, up to each event.

Amounts are whole cents of a euro, by the rate that was published last before the event. Where an order or a return has
no rate (none published for a week), its cents are null and `cents_status` says so: it counts as an event, and its money
is missing, not zero.
"""

from __future__ import annotations

from typing import Final

import polars as pl

import streamproc as sp
from topologies.retail.people import GUEST, LIFETIME, happened, links
from topologies.retail.processes import movements

MAIL_CENTS: Final = 60
"""What a mail costs."""
RESPONSE: Final = "7d"
"""The first order of a person that comes sooner after a mail is an answer to it."""
ANSWERABLE: Final = "97d"
"""Orders of 90 days can answer mails of so long: what answered is never more than what was sent."""
RESPONSE_STATUS: Final = pl.Enum(["VALUE", "NO_MAIL"])

# Whether an order answers a mail is known of its person when it comes, and stays said. It is then a column of the row,
# so that it can be counted, and goes on with its writing where persons merge later.
answering = (
    happened
    | sp.features(
        name="mailed",
        mailed_before=sp.time_since_last().of("contacts").over(RESPONSE),
        ordered_before=sp.time_since_last().of("orders").over(RESPONSE),
    )
    | sp.with_columns(
        name="answers",
        answers_mail=(pl.col("source") == "orders")
        & (pl.col("ordered_before").is_null() | (pl.col("ordered_before") > pl.col("mailed_before"))).fill_null(False)
        & pl.col("mailed_before").is_not_null(),
    )
    | sp.drop("entity", "leaf", "mailed_before", "ordered_before", name="answered_events")
    | sp.key_by("writing", name="answers_by_writing")
    | sp.ordered("event", name="answers_in_order")
    | sp.follow(links, keep=LIFETIME, name="person_again")
    | sp.key_by("entity", name="answers_by_person")
)  # fmt: skip

known = answering | sp.features(
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
    answered_90d=sp.count().where(pl.col("answers_mail")).of("orders").over("90d"),
    mails_97d=sp.count().of("contacts").over(ANSWERABLE),
    orders=sp.count().of("orders").over(LIFETIME),
    returns=sp.count().of("returns").over(LIFETIME),
    mails=sp.count().of("contacts").over(LIFETIME),
    spend=sp.total("cents").of("orders").over(LIFETIME),
    refunds=sp.total("cents").of("returns").over(LIFETIME),
    without_rate=sp.count().where(pl.col("cents").is_null()).of("orders", "returns").over(LIFETIME),
    processes=sp.contributors().over(LIFETIME),
    lifetime_value=pl.col("spend") - pl.col("refunds") - MAIL_CENTS * pl.col("mails"),
    return_share=pl.col("returns_90d") / pl.col("orders_90d"),
    response_90d=pl.col("answered_90d") / pl.col("mails_97d"),
    response_status=pl.when(pl.col("mails_97d") == 0).then(pl.lit("NO_MAIL", RESPONSE_STATUS))
    .otherwise(pl.lit("VALUE", RESPONSE_STATUS)),
)

# One row an event, as it was known then: what happened, to whom, and what that made of the person.
events = (
    known
    | sp.where(pl.col("corrected_at").is_null(), name="events_as_they_happened")
    | sp.select("event", "entity", "writing", "source", "at", "cents", "cents_status", "cents_rate_id", "orders",
                "returns", "mails", "lifetime_value", "answers_mail", "response_90d", "response_status",
                name="events_of_persons")
)  # fmt: skip
# The newest row of each person; what a merge changes is told anew, and an alias is deleted.
customers = (
    known
    | sp.where(~pl.col("entity").str.starts_with(GUEST), name="persons")
    | sp.select(
        "entity", "at", "orders", "returns", "mails", "spend", "refunds", "lifetime_value", "without_rate",
        "orders_1d", "orders_7d", "orders_30d", "orders_90d", "spend_30d", "spend_90d", "refunds_90d",
        "since_order", "since_return", "since_mail", "mails_30d", "answers_mail", "answered_90d",
        "mails_97d", "response_90d", "response_status", "processes", "deleted",
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
