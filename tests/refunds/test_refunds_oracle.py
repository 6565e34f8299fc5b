"""The refunds topology against a brute force: plain Python over the events, no engine, nothing incremental."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import polars as pl
import pytest

from connectors.registry import FolderRegistry
from streamproc.runtime.workspace import shipped_contracts
from streamproc.testing import drive
from streamproc.testing.drive import Driven
from streamproc.testing.topology_checks import check_topology
from topologies.refunds import refunds
from topologies.refunds.load import MOVEMENTS, ORDERS, RETURNS, events, read_slice

Row = dict[str, Any]
DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Judged(NamedTuple):
    """Good rows of a known customer, and the reason of each row that is none."""

    good: list[Row]
    refused: dict[str, int]


@pytest.fixture(scope="module")
def ran() -> Driven:
    return drive(refunds, events(read_slice()), registry=FolderRegistry((shipped_contracts(),)), partitions=2)


@pytest.fixture(scope="module")
def topics() -> dict[str, list[Row]]:
    return {topic: frame.to_dicts() for topic, frame in events(read_slice()).items()}


@pytest.fixture(scope="module")
def orders(topics: dict[str, list[Row]]) -> Judged:
    refused: dict[str, int] = defaultdict(int)
    good = []
    for row in topics[ORDERS]:
        if row["invoice_no"].startswith("A"):
            refused["is_an_order"] += 1
        elif not row["gross"] > 0:
            refused["gross_above_zero"] += 1
        elif row["customer_id"] is not None:
            good.append(row)
    return Judged(good, dict(refused))


@pytest.fixture(scope="module")
def returns(topics: dict[str, list[Row]]) -> Judged:
    bad = [row for row in topics[RETURNS] if not row["refund"] > 0]
    good = [row for row in topics[RETURNS] if row["refund"] > 0 and row["customer_id"] is not None]
    return Judged(good, {"refund_above_zero": len(bad)} if bad else {})


@pytest.mark.parametrize(("sink", "days"), [("customer_1d", 1), ("customer_7d", 7), ("customer_30d", 30)])
def test_windows_are_exactly_the_brute_force(
    ran: Driven, orders: Judged, returns: Judged, sink: str, days: int
) -> None:
    cells: dict[tuple[str, datetime], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for rows, time, amount, side in (
        (orders.good, "ordered_at", "gross", 0),
        (returns.good, "returned_at", "refund", 1),
    ):
        for row in rows:
            day = (row[time] - EPOCH) // DAY
            for start in range(day - days + 1, day + 1):
                cells[row["customer_id"], EPOCH + start * DAY][side].append(row[amount])
    expected = {
        (customer, start, start + days * DAY, len(spent), math.fsum(spent), len(back), math.fsum(back))
        for (customer, start), (spent, back) in cells.items()
    }
    found = ran[sink].drop("_partition", "_offset")
    columns = ("customer_id", "window_start", "window_end", "orders", "spend", "returns", "refunds")
    assert found.columns == list(columns)
    assert found.height == len(expected)
    assert set(found.rows()) == expected


def test_alerts_are_exactly_the_brute_force(ran: Driven, orders: Judged, returns: Judged) -> None:
    bought, back = _by_customer(orders.good, "ordered_at"), _by_customer(returns.good, "returned_at")
    expected = [
        alert
        for customer, rows in back.items()
        for number, row in enumerate(rows)
        if (alert := _alert(row, rows[: number + 1], bought.get(customer, []))) is not None
    ]
    found = ran["alerts"].drop("_partition", "_offset")
    assert found.columns[:5] == ["customer_id", "invoice_no", "returned_at", "refund", "spend_30d"]
    assert sorted(found.rows(), key=lambda row: row[1]) == sorted(expected, key=lambda row: row[1])


def test_each_dead_letter_names_the_first_rule_that_its_row_breaks(
    ran: Driven, topics: dict[str, list[Row]], orders: Judged, returns: Judged
) -> None:
    movements: dict[str, int] = defaultdict(int)
    for row in topics[MOVEMENTS]:
        if row["description"] is None:
            movements["has_description"] += 1
        elif not row["unit_price"] > 0:
            movements["price_above_zero"] += 1
        elif not (row["quantity"] > 0 or row["invoice_no"].startswith("C")):
            movements["came_back_by_cancellation"] += 1
    letters = ran.dead_letters.group_by("topic", "reason").len().rows()
    assert {(topic, reason): count for topic, reason, count in letters} == {
        (topic, reason): count
        for topic, refused in ((ORDERS, orders.refused), (RETURNS, returns.refused), (MOVEMENTS, movements))
        for reason, count in refused.items()
    }


def _by_customer(rows: Iterable[Row], time: str) -> dict[str, list[Row]]:
    kept: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row[time], row["invoice_no"].encode())):
        kept[row["customer_id"]].append(row)
    return kept


def _alert(row: Row, refunds: list[Row], orders: list[Row]) -> tuple[Any, ...] | None:
    """The alert on a return, given the customer's returns up to it and all orders; None where it is in line."""
    at, refund = row["returned_at"], row["refund"]
    refunds_30d = math.fsum(r["refund"] for r in refunds if r["returned_at"] > at - 30 * DAY)
    before = [o for o in orders if o["ordered_at"] <= at]
    spend_30d = orders_30d = ratio = None
    if before and at - before[-1]["ordered_at"] <= 30 * DAY:
        # What was bought is seen from the customer's last order: its own 30 days.
        window = [o for o in before if o["ordered_at"] > before[-1]["ordered_at"] - 30 * DAY]
        spend_30d, orders_30d = math.fsum(o["gross"] for o in window), len(window)
        ratio = refunds_30d / spend_30d
    large, half = refund >= 500, ratio is not None and ratio > 0.5
    exceeds, no_order = ratio is not None and ratio > 1, spend_30d is None
    if not ((no_order and refund >= 50) or (half and refund >= 100) or large):
        return None
    severity = "high" if (exceeds or no_order) and large else "medium" if exceeds or no_order or large else "low"
    reasons = [
        text
        for holds, text in (
            (no_order, "no order in the 30 days before"),
            (exceeds, "refunds of 30 days exceed what was bought"),
            (half and not exceeds, "refunds of 30 days exceed half of what was bought"),
            (large, "refund of 500 GBP or more"),
        )
        if holds
    ]
    return (
        row["customer_id"], row["invoice_no"], at, refund, spend_30d, orders_30d, refunds_30d, ratio, severity,
        "; ".join(reasons),
    )  # fmt: skip


def test_live_as_recorded_cut_anywhere_and_on_four_partitions_is_the_same() -> None:
    lines = read_slice()
    customers = lines["CustomerID"].drop_nulls().unique(maintain_order=True)[:40]
    few = events(lines.filter(pl.col("CustomerID").is_in(customers.implode())))
    sums = check_topology(
        refunds, few, registry=FolderRegistry((shipped_contracts(),)), partitions=(1, 4), seeds=1,
        ordered=("movements", "customer_1d", "customer_7d", "customer_30d", "alerts"),
    )  # fmt: skip
    assert sums["refunds.customer_1d"].rows > 100 and sums["refunds.alerts"].rows > 0
