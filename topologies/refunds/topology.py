"""The refunds topology: what customers buy and bring back, and which refunds are out of line.

Three processes write to the log: sales (`sales.orders`), service (`service.returns`) and inventory
(`inventory.movements`).

* Movements are cleaned: a line without description, without a price, or that came back without a cancellation is a dead
  letter, with the rule that it broke.
* Orders and returns of known customers become one stream of events, in order of event time, from which windows of 1, 7
  and 30 days count orders, spend, returns and refunds per customer.
* Each return is joined with its customer's last order, if that is at most 30 days old, and with what the customer had
  bought by then in 30 days; a refund that is large against that is an alert, with its reasons.
"""

from __future__ import annotations

import polars as pl

import streamproc as sp

LATENESS = "1h"

orders = sp.source("sales.orders", contract="sales_order", lateness=LATENESS)
returns = sp.source("service.returns", contract="service_return", lateness=LATENESS)
movements = sp.source("inventory.movements", contract="inventory_movement", lateness=LATENESS)

clean_movements = movements | sp.require(
    name="clean",
    has_description=pl.col("description").is_not_null(),
    price_above_zero=pl.col("unit_price") > 0,
    came_back_by_cancellation=(pl.col("quantity") > 0) | pl.col("invoice_no").str.starts_with("C"),
)

bought = (
    orders
    | sp.require(
        name="real_orders",
        is_an_order=~pl.col("invoice_no").str.starts_with("A"),
        gross_above_zero=pl.col("gross") > 0,
    )
    | sp.where(pl.col("customer_id").is_not_null(), name="known_buyers")
)
brought_back = (
    returns
    | sp.require(name="real_returns", refund_above_zero=pl.col("refund") > 0)
    | sp.where(pl.col("customer_id").is_not_null(), name="known_returners")
)

# One stream of what customers do: orders carry no refund, returns no spend.
activity = (
    bought
    | sp.select("customer_id", at=pl.col("ordered_at"), is_order=pl.lit(1, pl.Int64), is_return=pl.lit(0, pl.Int64),
                gross=pl.col("gross"), refund=pl.lit(0.0, pl.Float64), name="orders_as_activity")
    | sp.union(
        brought_back
        | sp.select("customer_id", at=pl.col("returned_at"), is_order=pl.lit(0, pl.Int64),
                    is_return=pl.lit(1, pl.Int64), gross=pl.lit(0.0, pl.Float64), refund=pl.col("refund"),
                    name="returns_as_activity"),
        name="activity",
    )
    | sp.key_by("customer_id", name="activity_by_customer")
    | sp.ordered(name="activity_in_order")
)  # fmt: skip

WINDOW = {
    "orders": sp.total("is_order"),
    "spend": sp.total("gross"),
    "returns": sp.total("is_return"),
    "refunds": sp.total("refund"),
}
customer_1d = activity | sp.tumbling("1d", name="customer_1d", **WINDOW)
customer_7d = activity | sp.sliding("7d", every="1d", name="customer_7d", **WINDOW)
customer_30d = activity | sp.sliding("30d", every="1d", name="customer_30d", **WINDOW)

# What each customer bought in the 30 days up to each order: what a return looks up is as of the last order before it.
history = (
    bought
    | sp.key_by("customer_id", name="orders_by_customer")
    | sp.ordered("invoice_no", name="orders_in_order")
    | sp.features(name="orders_30d", orders_30d=sp.count().over("30d"), spend_30d=sp.total("gross").over("30d"))
    | sp.select("customer_id", "orders_30d", "spend_30d", name="buying_history")
)

judged = (
    brought_back
    | sp.key_by("customer_id", name="returns_by_customer")
    | sp.ordered("invoice_no", name="returns_in_order")
    | sp.features(name="refunds_30d", refunds_30d=sp.total("refund").over("30d"))
    | sp.as_of(history, max_age="30d", name="bought")
    | sp.with_columns(
        name="measured",
        ratio=pl.when(pl.col("spend_30d") > 0).then(pl.col("refunds_30d") / pl.col("spend_30d")),
    )
)

NO_ORDER = pl.col("bought_status") != "MATCHED"
EXCEEDS = pl.col("ratio") > 1.0
HALF = pl.col("ratio") > 0.5
LARGE = pl.col("refund") >= 500.0

alerts = (
    judged
    | sp.where((NO_ORDER & (pl.col("refund") >= 50.0)) | (HALF & (pl.col("refund") >= 100.0)) | LARGE, name="unusual")
    | sp.with_columns(
        name="reasons",
        severity=pl.when((EXCEEDS | NO_ORDER) & LARGE).then(pl.lit("high"))
        .when(EXCEEDS | NO_ORDER | LARGE).then(pl.lit("medium"))
        .otherwise(pl.lit("low")),
        reason=pl.concat_str(
            [
                pl.when(NO_ORDER).then(pl.lit("no order in the 30 days before")),
                pl.when(EXCEEDS).then(pl.lit("refunds of 30 days exceed what was bought")),
                pl.when(HALF & ~EXCEEDS).then(pl.lit("refunds of 30 days exceed half of what was bought")),
                pl.when(LARGE).then(pl.lit("refund of 500 GBP or more")),
            ],
            separator="; ",
            ignore_nulls=True,
        ).fill_null("unusual"),  # Never so: one of the reasons above is why the row is here. The plan cannot know.
    )
    | sp.select(
        "customer_id", "invoice_no", "returned_at", "refund", "spend_30d", "orders_30d", "refunds_30d", "ratio",
        "severity", "reason", name="alert",
    )
)  # fmt: skip

refunds = sp.Topology(
    "refunds",
    version=1,
    owner="retail-analytics",
    scope="fraud-prevention",
    sinks={
        "movements": clean_movements,
        "customer_1d": sp.sink(customer_1d, contract="customer_window"),
        "customer_7d": sp.sink(customer_7d, contract="customer_window"),
        "customer_30d": sp.sink(customer_30d, contract="customer_window"),
        "alerts": sp.sink(alerts, contract="refund_alert", identified=True),
    },
    doc="Customers' orders and returns in windows of 1, 7 and 30 days; alerts on refunds that are out of line.",
)
