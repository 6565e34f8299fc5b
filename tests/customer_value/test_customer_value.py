"""Customer lifetime value after every event equals SQL over the same events, bit for bit where sums are exact."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import duckdb
import polars as pl
import pytest

from connectors.registry import FolderRegistry
from streamproc.runtime.reading import read_blocks, read_topic
from streamproc.runtime.replay import replay_by_event_time
from streamproc.runtime.training_set import Labels, training_set
from streamproc.testing import drive
from streamproc.testing.drive import Driven
from streamproc.testing.memory_log import MemoryLog
from streamproc.testing.topology_checks import check_topology
from streamproc.wire import Encoder
from topologies.customer_value import customer_value
from topologies.customer_value.load import CONTRACTS, events, read_slice
from topologies.customer_value.topology import COST_OF_A_MINUTE, COST_OF_GOODS, SUPPORT_SINCE

CUSTOMERS = 60
SQL = f"""
with happened as (
    select customer_id, ordered_at as "at", gross, null::double as refund, null::double as support,
           null::double as stock, 'orders' as source from orders where customer_id is not null and gross > 0
    union all select customer_id, returned_at, null, refund, null, null, 'refunds' from refunds
        where customer_id is not null and refund > 0
    union all select customer_id, closed_at, null, null, minutes * {COST_OF_A_MINUTE}::double, null, 'support'
        from cases where customer_id is not null and closed_at >= timestamptz '{SUPPORT_SINCE.isoformat()}'
    union all select customer_id, moved_at, null, null, null, quantity * unit_price * {COST_OF_GOODS}::double, 'stock'
        from movements where customer_id is not null and unit_price > 0
)
select customer_id, "at", fsum(gross) as revenue, fsum(refund) as refunded, fsum(support) as support_costs,
       fsum(stock) as stock_costs, list_sort(list(distinct source)) as sources, count(*) as rows,
       count(*) filter (where source = 'orders' and happened_at > "at" - interval 2160 hour) as orders_90d
from (
    select a.customer_id, a."at", b."at" as happened_at, b.* exclude (customer_id, "at")
    from (select distinct customer_id, "at" from happened) a join happened b
    on a.customer_id = b.customer_id and b."at" <= a."at"
) group by all order by customer_id, "at"
"""
"""Per customer and moment, over everything up to and with that moment: what the last row of the moment must say."""


@pytest.fixture(scope="module")
def topics() -> dict[str, pl.DataFrame]:
    lines = read_slice()
    chosen = lines.get_column("CustomerID").drop_nulls().unique(maintain_order=True)[:CUSTOMERS]
    return events(lines.filter(pl.col("CustomerID").is_in(chosen.to_list())))


@pytest.fixture(scope="module")
def ran(topics: dict[str, pl.DataFrame]) -> Driven:
    registry = contracts()
    return drive(customer_value, topics, registry=registry)


def contracts() -> FolderRegistry:
    return FolderRegistry((Path(__file__).parents[2] / "schemas_avro",))


def naive_sum(values: list[float]) -> float:
    return float(sum((Fraction(value) for value in values), Fraction(0)))


def test_the_value_after_every_moment_equals_sql_over_the_same_events(
    topics: dict[str, pl.DataFrame], ran: Driven
) -> None:
    orders, refunds, movements, cases = (topics[topic] for topic in CONTRACTS)
    assert [*CONTRACTS] == ["sales.orders", "service.returns", "inventory.movements", "support.cases"]
    with duckdb.connect() as base:
        for name, frame in (("orders", orders), ("refunds", refunds), ("cases", cases), ("movements", movements)):
            base.register(name, frame.to_arrow())
        expected = base.sql(SQL).pl()
    last = ran["values"].group_by("customer_id", "at", maintain_order=True).last().sort("customer_id", "at")
    assert last.height == expected.height > 800
    for name in ("revenue", "refunded", "stock_costs"):
        ours, theirs = last[name].to_list(), expected[name].fill_null(0.0).to_list()
        assert all(math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-9) for a, b in zip(ours, theirs, strict=True)), name
    assert last["orders_90d"].to_list() == expected["orders_90d"].to_list()
    assert (expected["orders_90d"] < expected["rows"]).any()
    assert [sorted(names) for names in last["sources"].to_list()] == expected["sources"].to_list()
    covered = last["at"] >= SUPPORT_SINCE
    assert covered.any() and not covered.all()
    assert (last["lifetime_value_status"] == "NOT_COVERED").to_list() == (~covered).to_list()
    assert last.filter(~covered)["lifetime_value"].null_count() == (~covered).sum(), "unknown is not zero"
    for mine, wanted in zip(
        last.filter(covered).iter_rows(named=True), expected.filter(covered).iter_rows(named=True), strict=True
    ):
        value = sum(
            sign * (wanted[name] or 0.0)
            for sign, name in ((1, "revenue"), (-1, "refunded"), (-1, "support_costs"), (-1, "stock_costs"))
        )
        assert mine["lifetime_value_status"] == "VALUE"
        assert math.isclose(mine["lifetime_value"], value, rel_tol=1e-12, abs_tol=1e-6)


def test_totals_are_the_exact_sums_rounded_once(topics: dict[str, pl.DataFrame], ran: Driven) -> None:
    orders = topics["sales.orders"].filter(pl.col("customer_id").is_not_null() & (pl.col("gross") > 0))
    final = ran["values"].group_by("customer_id").last()
    for customer, revenue in final.select("customer_id", "revenue").iter_rows():
        assert revenue == naive_sum(orders.filter(pl.col("customer_id") == customer)["gross"].to_list())


def test_the_table_holds_the_newest_value_of_each_customer(ran: Driven) -> None:
    assert ran.log.topics()["customer_value.latest"].compacted
    assert not ran.log.topics()["customer_value.values"].compacted
    newest = ran["latest"].group_by("customer_id").last().sort("customer_id")
    assert newest.drop("_partition", "_offset").equals(
        ran["values"].group_by("customer_id").last().sort("customer_id").drop("_partition", "_offset")
    )


def test_a_late_refund_changes_the_values_from_its_moment_on(topics: dict[str, pl.DataFrame], ran: Driven) -> None:
    """Within the lateness a refund that comes last is as if it had come in time: `ordered` puts it where it belongs."""
    returns = topics["service.returns"]
    place = returns.with_row_index().filter(pl.col("customer_id").is_not_null() & (pl.col("refund") > 0))["index"][-1]
    hour = returns["returned_at"][place]
    behind = [i for i in range(place + 1, returns.height) if (returns["returned_at"][i] - hour).total_seconds() < 3_600]
    order = [*range(place), *behind, place, *range(place + 1 + len(behind), returns.height)]
    moved = drive(customer_value, {**topics, "service.returns": returns[order]}, registry=contracts())
    columns = [name for name in ran["values"].columns if not name.startswith("_")]
    keys = ["customer_id", "at", "sources", "revenue", "refunded", "stock_costs"]
    assert moved["values"].select(columns).sort(keys).equals(ran["values"].select(columns).sort(keys))


def test_without_a_source_the_others_still_count_and_the_sources_say_so(topics: dict[str, pl.DataFrame]) -> None:
    alone = drive(customer_value, {"sales.orders": topics["sales.orders"]}, registry=contracts())
    assert set(alone["values"]["sources"].explode().unique()) == {"orders"}


def few(topics: dict[str, pl.DataFrame], customers: int) -> dict[str, pl.DataFrame]:
    """The events of some customers, those that have most cases of support first."""
    known = topics["support.cases"]["customer_id"].drop_nulls().value_counts(sort=True)["customer_id"][:customers]
    return {name: frame.filter(pl.col("customer_id").is_in(known.implode())) for name, frame in topics.items()}


def test_live_as_recorded_cut_anywhere_and_on_four_partitions_is_the_same(topics: dict[str, pl.DataFrame]) -> None:
    sums = check_topology(
        customer_value, few(topics, 12), registry=contracts(), partitions=(1, 4), seeds=1, ordered=("values",)
    )
    assert sums["customer_value.values"].rows > 300


def test_a_training_row_is_the_live_row_of_its_moment_byte_for_byte(topics: dict[str, pl.DataFrame]) -> None:
    """Live on four partitions in small steps; the training set from a replay by event time on as many."""
    registry = contracts()
    live = drive(customer_value, few(topics, 12), registry=registry, partitions=4, steps=itertools.repeat(70))
    binding, run, _ = replay_by_event_time(customer_value, live.log, registry, MemoryLog(now=live.log.now))
    sink = next(one for one in binding.plan.sinks if one.name == "values")
    features = read_topic(run, registry, sink.topic).drop("_partition", "_offset")
    labels = features.select("customer_id", "at").unique().with_columns(
        left=pl.col("at").dt.day() % 2 == 0, known_at=pl.col("at") + pl.duration(days=30))  # fmt: skip
    made = training_set(features, labels, Labels(("customer_id", "at"), "left", "known_at"))
    written = Encoder(sink.contract.avro).encode(made.select(sink.contract.schema.names), schema_id=None)
    training = sorted(written.buffer[a:b].tobytes() for a, b in zip(written.starts, written.ends, strict=True))
    told = sorted(
        (block.value(row) or b"")[5:] for block in read_blocks(live.log, sink.topic) for row in range(len(block))
    )
    assert training == told and len(told) > 300
