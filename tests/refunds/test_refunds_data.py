"""The retail slice, figure by figure, and the events that are made of it."""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.util
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from connectors.registry import FolderRegistry
from topologies.refunds.load import CONTRACTS, MOVEMENTS, ORDERS, RETURNS, events, read_slice

ROOT = Path(__file__).parents[2]
DATA = ROOT / "topologies" / "refunds" / "data"


@pytest.fixture(scope="module")
def lines() -> pl.DataFrame:
    return read_slice()


@pytest.fixture(scope="module")
def topics(lines: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return events(lines)


def test_the_slice_has_the_figures_that_its_page_states(lines: pl.DataFrame) -> None:
    cancelled = pl.col("InvoiceNo").str.starts_with("C")
    figures = lines.select(
        lines=pl.len(),
        invoices=pl.col("InvoiceNo").n_unique(),
        cancellations=pl.col("InvoiceNo").filter(cancelled).n_unique(),
        adjustments=pl.col("InvoiceNo").filter(pl.col("InvoiceNo").str.starts_with("A")).n_unique(),
        customers=pl.col("CustomerID").drop_nulls().n_unique(),
        without_customer=pl.col("CustomerID").null_count(),
        without_description=pl.col("Description").null_count(),
        negative=(pl.col("Quantity") < 0).sum(),
        corrections=((pl.col("Quantity") < 0) & ~cancelled).sum(),
        free=(pl.col("UnitPrice") == 0).sum(),
        below_zero=(pl.col("UnitPrice") < 0).sum(),
        copies=pl.len() - pl.struct(pl.all()).n_unique(),
    )
    assert figures.row(0, named=True) == {
        "lines": 320_705, "invoices": 16_459, "cancellations": 2_554, "adjustments": 3, "customers": 3_360,
        "without_customer": 88_652, "without_description": 1_161, "negative": 6_772, "corrections": 925, "free": 1_797,
        "below_zero": 2, "copies": 2_483,
    }  # fmt: skip


def test_the_slice_is_small_enough_and_says_where_it_comes_from() -> None:
    assert (DATA / "online_retail_slice.parquet").stat().st_size <= 3_000_000
    page = (DATA / "README.md").read_text(encoding="utf-8")
    for part in ("Chen, D.", "CC BY 4.0", "10.24432/C5BW33", "What was changed"):
        assert part in page


def test_the_slice_can_be_made_again_from_itself(lines: pl.DataFrame, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_slice", DATA / "make_slice.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    source, again = tmp_path / "source.parquet", tmp_path / "again.parquet"
    lines.head(20_000).write_parquet(source)
    assert module.make_slice(source, again) == 20_000
    assert_frame_equal(pl.read_parquet(again), lines.head(20_000))
    with pytest.raises(ValueError, match="not those that README"):
        pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
        module.make_slice(tmp_path / "other.parquet", again)


def test_each_topic_has_the_columns_of_its_contract_in_the_order_of_time(topics: dict[str, pl.DataFrame]) -> None:
    registry = FolderRegistry([ROOT / "schemas_avro"])
    assert list(topics) == [ORDERS, RETURNS, MOVEMENTS]
    for topic, frame in topics.items():
        contract = registry.contract(CONTRACTS[topic])
        registry.id_of(contract)
        assert dict(frame.schema) == dict(contract.schema.polars())
        assert frame[contract.event_time].is_sorted()
        for field in contract.schema:
            assert field.nullable or frame[field.name].null_count() == 0
        assert contract.key == ("customer_id",)
        assert {field.unit for field in contract.schema if field.dtype == pl.Float64()} == {"GBP"}
    assert registry.contract("refund_alert.v1").event_time == "returned_at"


def test_no_line_is_lost_on_the_way_into_topics(lines: pl.DataFrame, topics: dict[str, pl.DataFrame]) -> None:
    assert topics[MOVEMENTS].height == lines.height
    assert (topics[ORDERS].height, topics[RETURNS].height) == (13_905, 2_554)
    assert topics[ORDERS]["line_count"].sum() + topics[RETURNS]["line_count"].sum() == lines.height
    pence = (lines["Quantity"] * (lines["UnitPrice"] * 1000).round().cast(pl.Int64)).sum()
    orders = (topics[ORDERS]["gross"] * 1000).round().cast(pl.Int64).sum()
    refunds = (topics[RETURNS]["refund"] * 1000).round().cast(pl.Int64).sum()
    assert orders - refunds == pence
    assert topics[RETURNS]["refund"].min() >= 0  # type: ignore[operator]  # the column is not empty
    assert topics[ORDERS].filter(pl.col("gross") <= 0).height == 1_410
    assert [topic["customer_id"].null_count() for topic in topics.values()] == [2_490, 127, 88_652]


def test_totals_are_the_doubles_next_to_the_exact_amounts(topics: dict[str, pl.DataFrame]) -> None:
    orders = topics[ORDERS].filter(pl.col("invoice_no").is_in(["536365", "541431", "A563186"]))
    assert orders.select("invoice_no", "line_count", "gross").rows() == [
        ("536365", 7, 139.12), ("541431", 1, 77183.6), ("A563186", 1, -11062.06),
    ]  # fmt: skip
    refund = topics[RETURNS].row(by_predicate=pl.col("invoice_no") == "C541433", named=True)
    assert (refund["customer_id"], refund["refund"], refund["description"]) == (
        "12346", 77183.6, "MEDIUM CERAMIC TOP STORAGE JAR",
    )  # fmt: skip


def test_the_shops_clock_is_read_as_british_time(topics: dict[str, pl.DataFrame]) -> None:
    moved = topics[MOVEMENTS]["moved_at"]
    assert moved[0] == dt.datetime(2010, 12, 1, 8, 26, tzinfo=dt.UTC)
    assert moved[-1] == dt.datetime(2011, 8, 31, 16, 45, tzinfo=dt.UTC)
    assert moved.null_count() == 0


def test_the_events_are_always_the_same(topics: dict[str, pl.DataFrame]) -> None:
    digests = {
        topic: hashlib.sha256(frame.write_csv(datetime_format="%s").encode()).hexdigest()[:16]
        for topic, frame in topics.items()
    }
    assert digests == {
        ORDERS: "8fd2749ceaf8eed1",
        RETURNS: "9244ba365c5a3599",
        MOVEMENTS: "015c28d9800e20b1",
    }
