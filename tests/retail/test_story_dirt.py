"""Dirt on the way in: each piece of it ends as a dead letter, a flag or one clear message, and no row is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from connectors.embedded import EmbeddedLog
from connectors.files.produce import produce_frame, rows_to_blocks
from connectors.registry import FolderRegistry
from streamproc.cli.fates import fates_in, of_sources
from streamproc.ports import Block, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.runtime.workspace import shipped_contracts
from streamproc.wire.encoder import Encoder
from topologies.retail import retail
from topologies.retail.load import CONTRACTS, shipped_story
from topologies.retail.make_story import MOVEMENTS, ORDERS, RATES, Story

ROOT = Path(__file__).parents[2]
CUT, BROKEN, LATER = "900001", "900002", "900003"


@pytest.fixture(scope="module")
def story() -> Story:
    made = shipped_story("2010-12", "2010-12")
    return Story({**made.topics, MOVEMENTS: made.topics[MOVEMENTS].head(500)}, made.truth)


@dataclass(frozen=True)
class Ran:
    """Topics of a run, and what became of the rows of each source."""

    log: EmbeddedLog
    registry: FolderRegistry
    fates: dict[str, dict[str, int]]

    def rows(self, topic: str) -> pl.DataFrame:
        return read_topic(self.log, self.registry, f"retail.{topic}")


def run(folder: Path, topics: dict[str, pl.DataFrame], dirt: dict[str, Block] | None = None) -> Iterator[Ran]:
    """The topology over topics, and over blocks of records behind them, by the clock of today."""
    registry = FolderRegistry((shipped_contracts(),))
    with EmbeddedLog(folder / "log.db") as log:
        for topic, frame in topics.items():
            contract = registry.contract(CONTRACTS[topic])
            log.create_topic(topic, TopicSettings(1))
            produce_frame(log, frame, topic, contract=contract, schema_id=registry.adopt(contract))
        for block in (dirt or {}).values():
            transaction = log.producer("dirt").begin()
            transaction.append(block)
            transaction.commit()
        binding = bind(retail, log, registry)
        Worker(binding, log, until_end=source_ends(binding, log), close=True).run()
        yield Ran(log, registry, of_sources(fates_in(binding, log), binding.plan))


@pytest.fixture(scope="module")
def dirty(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Three records of sales are dirty: one ends in the middle, one is no UTF-8, one is of the year 2038."""
    like = story.topics[ORDERS].filter(pl.col("surname").is_not_null()).tail(1)
    late = datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC)
    rows = pl.concat([like.with_columns(order_id=pl.lit(name)) for name in (CUT, BROKEN, LATER)])
    rows = rows.with_columns(
        ordered_at=pl.when(pl.col("order_id") == LATER).then(pl.lit(late)).otherwise("ordered_at"),
        surname=pl.when(pl.col("order_id") == BROKEN).then(pl.lit("m@ller")).otherwise("surname"),
    )
    registry = FolderRegistry((shipped_contracts(),))
    contract = registry.contract(CONTRACTS[ORDERS])
    encoder = Encoder(contract.avro)
    (block,) = rows_to_blocks(
        rows.select(contract.schema.names), encoder, registry.adopt(contract), topic=ORDERS, key=("order_id",),
        partitions=1,
    )  # fmt: skip
    data = block.buffer.copy()
    at = data.tobytes().index(b"m@ller") + 1
    data[at] = 0xFC  # Latin-1's u with two dots, which no UTF-8 begins with
    ends = block.value_ends.copy()
    ends[0] -= 9
    broken = replace(block, buffer=np.ascontiguousarray(data), value_ends=ends)
    yield from run(tmp_path_factory.mktemp("dirty"), story.topics, {ORDERS: broken})


def test_bad_records_are_dead_letters_with_their_reason_and_no_row_is_lost(story: Story, dirty: Ran) -> None:
    letters = dirty.rows("dlq").filter(pl.col("topic") == ORDERS)
    behind = letters.filter(pl.col("offset") >= story.topics[ORDERS].height).sort("offset")
    assert behind["reason"].to_list()[2].startswith("future") or "ahead" in behind["reason"].to_list()[2]
    cut, broken, later = behind["reason"].to_list()
    assert "end" in cut or "short" in cut or "truncated" in cut, cut
    assert "UTF-8" in broken, broken
    assert later, later
    for topic, fates in dirty.fates.items():
        extra = 3 if topic == ORDERS else 0
        assert fates["in"] == story.topics[topic].height + extra
        assert fates["in"] == sum(count for fate, count in fates.items() if fate != "in"), topic
        assert fates["late"] == 0, topic


def test_good_rows_say_what_they_say_without_the_dirt(story: Story, dirty: Ran, tmp_path: Path) -> None:
    for clean in run(tmp_path, story.topics):
        for topic, by in (("decisions", "order_id"), ("events", "event"), ("refund_alerts", "return_id")):
            own = pl.exclude("_partition", "_offset", "decision_id")
            there, wanted = (ran.rows(topic).select(own).sort(by) for ran in (dirty, clean))
            assert_frame_equal(there, wanted)
            assert not set(there[by]) & {CUT, BROKEN, LATER}


def test_without_rates_of_a_day_the_last_published_counts_and_says_so(story: Story, tmp_path: Path) -> None:
    day = pl.date(2010, 12, 14)
    missing = {**story.topics, RATES: story.topics[RATES].filter(pl.col("published_at").dt.date() != day)}
    for ran in run(tmp_path, missing):
        events = ran.rows("events").filter(pl.col("source") == "orders")
        day_after = events.filter(
            pl.col("at").is_between(datetime(2010, 12, 14, 15, tzinfo=UTC), datetime(2010, 12, 15, 14, 59, tzinfo=UTC))
        )
        assert day_after.height > 20
        assert set(day_after["cents_rate_id"]) == {"ecb/2010-12-13/GBP"}
        assert events["cents"].null_count() == 0


def test_without_rates_for_more_than_a_week_worth_is_unknown_not_zero(story: Story, tmp_path: Path) -> None:
    rates = story.topics[RATES]
    gone = rates.filter(~pl.col("published_at").dt.date().is_between(pl.date(2010, 12, 6), pl.date(2010, 12, 31)))
    last = gone["published_at"].max()
    assert isinstance(last, datetime)
    for ran in run(tmp_path, {**story.topics, RATES: gone}):
        events = ran.rows("events").filter(pl.col("source") == "orders")
        unknown = events.filter(pl.col("at") > last + timedelta(days=7))
        assert unknown.height > 300
        assert unknown["cents"].null_count() == unknown.height
        assert events.filter(pl.col("at") <= last + timedelta(days=7))["cents"].null_count() == 0
        decisions = ran.rows("decisions").filter(pl.col("cents").is_null())
        assert decisions.height == unknown.height
        assert not (decisions["decision"] == "accept").any()
        assert decisions["reason"].str.contains("worth unknown: no rate of the last 7 days").all()
        told = ran.rows("customers").group_by("entity", maintain_order=True).last()
        assert told["without_rate"].sum() > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cut.parquet", "cut.parquet' is not a Parquet file"),
        ("renamed.csv", "has no column for 'order_id'"),
        ("latin.csv", "line 2: not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_taken_is_told_in_one_message(story: Story, tmp_path: Path, name: str, said: str) -> None:
    orders = story.topics[ORDERS].head(50)
    path = tmp_path / name
    if name == "cut.parquet":
        orders.write_parquet(path)
        path.write_bytes(path.read_bytes()[:2_000])
    elif name == "renamed.csv":
        orders.rename({"order_id": "order"}).write_csv(path)
    else:
        path.write_bytes(orders.write_csv().encode().replace(b",United Kingdom,", b",K\xf6nigreich,", 1))
    command = [sys.executable, "-m", "streamproc", "produce", str(path), ORDERS, "--contract", "retail_order"]
    ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                         text=True, check=False, timeout=120)  # fmt: skip
    assert ran.returncode in (1, 2), ran.stdout
    assert said in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr
