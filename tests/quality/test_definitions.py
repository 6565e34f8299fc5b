"""Definitions: counts equal SQL over the same log, and a switch at T touches only events from T on."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.errors import DefinitionError
from streamproc.testing import drive

CUSTOMER = parse_contract("""{"type": "record", "name": "customer", "sp:version": 1, "fields": [
    {"name": "id", "type": "long"}, {"name": "orders", "type": ["null", "long"]}, {"name": "days", "type": "long"},
    {"name": "tickets", "type": "long"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")
SWITCH = "2026-02-01T00:00:00Z"
SALES = (
    sp.meaning(1, bought=pl.col("orders") > 0, recent=pl.col("days") <= 90),
    sp.meaning(2, since="2026-02-15T00:00:00Z", bought=pl.col("orders") > 0, recent=pl.col("days") <= 30),
)
SUPPORT = sp.meaning(1, bought=pl.col("orders") > 0, calm=pl.col("tickets") == 0)
SQL = """
select *, coalesce(orders > 0, false) and tickets = 0 as support, coalesce(orders > 0, false)
    and case when "at" >= timestamptz '2026-02-15 00:00:00+00' then days <= 30 else days <= 90 end as sales
from customers"""


def customers(seed: int = 1, count: int = 3_000) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    start = 1_767_225_600_000_000  # 2026-01-01
    at = np.sort(random.integers(0, 60 * 86_400, count)) * 1_000_000 + start
    orders = pl.Series(random.integers(0, 4, count)).set(pl.Series(random.random(count) < 0.1), None)
    return pl.DataFrame(
        {"id": range(count), "orders": orders, "days": random.integers(0, 120, count),
         "tickets": random.integers(0, 3, count),
         "at": pl.Series(at).cast(pl.Datetime("us", "UTC"))}
    )  # fmt: skip


def topology(canonical: Any, window: str = "1d") -> sp.Topology:
    defined = sp.source("customers", contract=CUSTOMER) | sp.definitions(
        "active", canonical=canonical, window=window, sales=SALES, support=SUPPORT
    )
    return sp.Topology("words", sinks={"customers": defined, "matrix": defined.disagreements})


def asked(frame: pl.DataFrame, question: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as database:
        database.execute("set timezone = 'UTC'")
        database.register("customers", frame.to_arrow())
        return database.sql(question.replace("$", f"({SQL})")).fetchall()


@pytest.mark.parametrize("partitions", [1, 3])
def test_flags_and_matrix_equal_sql_over_the_same_log(partitions: int) -> None:
    frame = customers()
    out = drive(topology("sales"), customers=frame, partitions=partitions, steps=iter([400] * 1_000))
    flags = out["customers"].sort("id").select("active_sales", "active_support").rows()
    assert flags == asked(frame, "select sales, support from $ order by id")
    cells = asked(
        frame,
        """select epoch_us(date_trunc('day', "at")),
            case when sales then 'yes/' else 'no/' end || case when support then 'yes' else 'no' end, count(*)
        from $ group by all""",
    )
    matrix = out["matrix"].with_columns(pl.col("window_start").to_physical())
    pairs = matrix.filter((pl.col("says") != "clause") & (pl.col("count") > 0))
    assert sorted(pairs.select("window_start", "says", "count").rows()) == sorted(cells)
    assert set(pairs["one"]) == {"sales"} and set(pairs["other"]) == {"support"}
    # Who says no on account of what, where the other says yes.
    calm = asked(frame, "select count(*) from $ where sales and not support and tickets != 0")[0][0]
    late = asked(frame, "select count(*) from $ where support and not sales and orders > 0")[0][0]
    told = dict(matrix.filter(pl.col("says") == "clause").group_by("other", "one").agg(pl.col("count").sum()).select(
        pl.col("one") + "." + pl.col("other"), "count").rows())  # fmt: skip
    assert told == {"support.calm": calm, "sales.recent": late, "sales.bought": 0, "support.bought": 0}


def test_a_switch_touches_only_events_from_its_moment_on() -> None:
    frame = customers(2)
    before, after = (
        drive(topology(canonical), customers=frame)["customers"].sort("id")
        for canonical in ("sales", {"2020-01-01": "sales", SWITCH: "support"})
    )
    moment = pl.lit(SWITCH).str.to_datetime("%+", time_unit="us", time_zone="UTC")
    early, later = pl.col("at") < moment, pl.col("at") >= moment
    assert before.filter(early).equals(after.filter(early))
    assert set(before.filter(early)["active_by"]) == {"sales.v1"} and set(after.filter(later)["active_by"]) == {
        "support.v1"
    }
    assert set(before["active_by"]) == {"sales.v1", "sales.v2"}
    assert (after.filter(later)["active"] == after.filter(later)["active_support"]).all()
    kept = [name for name in before.columns if name not in ("active", "active_by")]
    assert before.select(kept).equals(after.select(kept))


def test_the_clauses_that_part_two_owners_stand_on_the_row() -> None:
    frame = customers(3, 3).with_columns(
        orders=pl.Series([1, 1, None]), days=pl.Series([10, 100, 5]), tickets=pl.Series([2, 0, 0])
    )
    out = drive(topology("sales"), customers=frame)["customers"]
    assert out["active_because"].to_list() == [["support.calm"], ["sales.recent"], []]
    assert out["active"].to_list() == [True, False, False]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"canonical": "sales", "sales": SALES}, "has 1 owner"),
        ({"canonical": "boss", "sales": SALES, "support": SUPPORT}, "'boss' defines no 'active'"),
        ({"canonical": "sales", "sales": (SALES[1], SALES[0]), "support": SUPPORT}, "do not follow each other"),
        ({"canonical": "sales", "sales": 3, "support": SUPPORT}, "'sales' of 'active' is no meaning"),
    ],
)
def test_definitions_that_cannot_be_are_refused_where_they_are_written(arguments: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        sp.definitions("active", **arguments)
