"""Customer lifetime value: orders - refunds - support cost - stock cost, after every event of any of four processes.

Sales, service, the support desk and the warehouse write topics of their own. Below, their events become one stream per
customer, in order of event time, and features say what the customer has been worth up to each event, from which
sources, and how sure that is: the support desk's records begin in March, so what a customer cost before is not zero but
unknown, and the value says NOT_COVERED instead of a number that is too high.

What it takes for granted: goods cost 60 % of their price, an hour of support costs 33 GBP.
"""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

import streamproc as sp

LATENESS = "1h"
COST_OF_GOODS = 0.6
COST_OF_A_MINUTE = 0.55
SUPPORT_SINCE = datetime(2011, 3, 1, tzinfo=UTC)
"""The support desk keeps records from here on."""

bought = (
    sp.source("sales.orders", contract="sales_order", lateness=LATENESS)
    | sp.where(pl.col("customer_id").is_not_null() & (pl.col("gross") > 0), name="known_buyers")
    | sp.select("customer_id", at=pl.col("ordered_at"), gross=pl.col("gross"), name="orders")
    | sp.key_by("customer_id", name="orders_by_customer")
)
brought_back = (
    sp.source("service.returns", contract="service_return", lateness=LATENESS)
    | sp.where(pl.col("customer_id").is_not_null() & (pl.col("refund") > 0), name="known_returners")
    | sp.select("customer_id", at=pl.col("returned_at"), refund=pl.col("refund"), name="refunds")
    | sp.key_by("customer_id", name="refunds_by_customer")
)
supported = (
    sp.source("support.cases", contract="support_case", lateness=LATENESS)
    | sp.where(pl.col("customer_id").is_not_null(), pl.col("closed_at") >= SUPPORT_SINCE, name="known_callers")
    | sp.select("customer_id", at=pl.col("closed_at"), support_cost=pl.col("minutes") * COST_OF_A_MINUTE,
                name="support")
    | sp.key_by("customer_id", name="support_by_customer")
)  # fmt: skip
moved = (
    sp.source("inventory.movements", contract="inventory_movement", lateness=LATENESS)
    | sp.where(pl.col("customer_id").is_not_null() & (pl.col("unit_price") > 0), name="known_receivers")
    | sp.select("customer_id", at=pl.col("moved_at"),
                stock_cost=pl.col("quantity") * pl.col("unit_price") * COST_OF_GOODS, name="stock")
    | sp.key_by("customer_id", name="stock_by_customer")
)  # fmt: skip

happened = (
    sp.together(orders=bought, refunds=brought_back, support=supported, stock=moved)
    | sp.ordered(name="in_order")
)  # fmt: skip

COVERAGE = {"support": sp.Coverage(since=SUPPORT_SINCE.isoformat())}

valued = happened | sp.features(
    name="value",
    coverage=COVERAGE,
    status=True,
    revenue=sp.total("gross").of("orders").ever(),
    refunded=sp.total("refund").of("refunds").ever(),
    support_costs=sp.total("support_cost").of("support").ever(),
    stock_costs=sp.total("stock_cost").of("stock").ever(),
    lifetime_value=pl.col("revenue") - pl.col("refunded") - pl.col("support_costs") - pl.col("stock_costs"),
    sources=sp.contributors().ever(),
    orders_90d=sp.count().of("orders").over("90d"),
    quiet=sp.time_since_last().of("orders").over("90d"),
)

customer_value = sp.Topology(
    "customer_value",
    version=1,
    owner="retail-analytics",
    scope="customer-value",
    sinks={
        "values": valued,
        "latest": sp.sink(valued, latest=True),
    },
    doc="What each customer has been worth so far: orders - refunds - support cost - stock cost; status and sources.",
)
