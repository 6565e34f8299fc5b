"""The same in development, staging and production: one worker or eight, whatever the order of Python's sets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from command_line import CommandLine

from connectors.embedded import EmbeddedLog
from streamproc.hashing import partitions_of
from streamproc.keys import keys_of
from streamproc.ports import TopicPartition

ROOT = Path(__file__).parents[2]
Write = Callable[[str, str], str]

SALE = """{"type": "record", "name": "sale", "sp:version": 1, "sp:owner": "sales", "fields": [
    {"name": "sale_id", "type": "string", "sp:role": "key"}, {"name": "shop", "type": "string"},
    {"name": "article", "type": "string"}, {"name": "amount", "type": "double"},
    {"name": "sold_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""
BUILD = """
sales = sp.source("sales", contract="sale", lateness="1m", idle_after="1h") \\
    | sp.where(pl.col("amount") > {above}, name="large")
per_shop = sales | sp.key_by("shop") | sp.ordered("sale_id")
known = per_shop | sp.features(
    name="known", n=sp.count().over("10m"), spend=sp.total("amount").over("1h"), mean=pl.col("spend") / pl.col("n"),
    articles=sp.distinct("article").over("1h"), best=sp.top_k("article", 3).over("1h"))
shops = sp.Topology("shops", version={version}, sinks={{
    "known": known, "hours": per_shop | sp.tumbling("1h", sales=sp.count(), spend=sp.total("amount"), name="hours"),
    "arrived": sales | sp.key_by("shop", name="by_shop") | sp.features(
        name="arrived", spend=sp.total("amount").over("1h")),
    "risen": known | sp.decide(sp.when(pl.col("spend") > 900, then="look"), otherwise="go", name="decided")}})
"""


def sales(rows: int, seed: int = 7) -> pl.DataFrame:
    """Sales of twelve shops, up to half a minute out of order, each shop's in all partitions."""
    chance = np.random.default_rng(seed)
    at = datetime(2026, 11, 1, tzinfo=UTC)
    seconds = np.arange(rows) * 3 - chance.integers(0, 30, rows)
    return pl.DataFrame(
        {"sale_id": [f"s{n:07}" for n in range(rows)],
         "shop": [f"shop {n}" for n in chance.integers(0, 12, rows)],
         "article": [f"article {n}" for n in chance.integers(0, 40, rows)],
         "amount": np.round(chance.uniform(0, 50, rows), 2),
         "sold_at": [at + timedelta(seconds=int(n)) for n in seconds]}
    )  # fmt: skip


@pytest.fixture
def shops(project: Path, topology: Write, command: CommandLine) -> Callable[[int, str], None]:
    """Writes both builds and the contract; fills logs with so many sales over eight partitions."""
    (project / "schemas_avro" / "sale.v1.avsc").write_text(SALE)
    topology("shops.py", BUILD.format(above=1, version=1))
    topology("other.py", BUILD.format(above=2, version=2))

    def fill(rows: int, log: str) -> None:
        sales(rows).write_parquet(project / "sales.parquet")
        command.fine("produce", "sales.parquet", "sales", "--contract", "sale", "--partitions", 8, "--log", log)

    return fill


def start(seed: int, *args: str) -> subprocess.Popen[str]:
    """A process of its own, under one order of Python's sets."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-m", "streamproc", *args],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def streamproc(seed: int, *args: str) -> str:
    """What such a process prints; exit 1 is a finding."""
    process = start(seed, *args)
    out, err = process.communicate(timeout=300)
    assert process.returncode in (0, 1), err[-2_000:]
    return out


def until_written(log: str, topic: str, rows: int) -> None:
    """Waits for so many rows in the topic."""
    patience = time.monotonic() + 120
    while time.monotonic() < patience:
        with EmbeddedLog(log) as reader:
            if topic in reader.topics():
                count = reader.topics()[topic].partitions
                if sum(reader.end_offset(TopicPartition(topic, number)) for number in range(count)) >= rows:
                    return
        time.sleep(0.5)
    raise AssertionError(f"{topic} never held {rows} rows")


def test_a_difference_of_builds_is_the_same_bytes_under_any_hash_seed(shops: Callable[[int, str], None]) -> None:
    shops(600, "log.db")
    told = {
        streamproc(seed, "diff", "shops.py", "other.py", "--topic", "known", "--log", "log.db", "--json")
        for seed in (0, 1)
    }
    assert len(told) == 1
    found = orjson.loads(told.pop())
    # One constant is another: the first event that it lets out is the first sale of more than 1 and at most 2.
    out = sales(600).filter((pl.col("amount") > 1) & (pl.col("amount") <= 2))
    assert found["missing"] == out.height > 0 and found["extra"] == 0
    changed = found["first"]
    assert changed["row"]["sale_id"] == out.sort("sold_at", "sale_id")["sale_id"][0] and changed["kind"] == "missing"
    versions = {streamproc(seed, "lineage", "shops.py", "--column", "known.best", "--json") for seed in (0, 1)}
    assert len(versions) == 1, "nor what it is made of, and its version"


def halves(rows: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The sales of four partitions, and those of the other four."""
    frame = sales(rows)
    keys = keys_of(frame, ["sale_id"])
    low = partitions_of(keys.buffer, keys.starts, keys.ends, 8) < 4
    return frame.filter(low), frame.filter(~low)


@pytest.mark.long
def test_one_worker_and_eight_write_the_same_rows_below_ordered_whatever_arrives_first(
    shops: Callable[[int, str], None], project: Path, command: CommandLine
) -> None:
    """Where eight workers run, half of the partitions come when all of the others has been read."""
    shops(0, "unused.db")
    rows = 10_000
    for number, half in enumerate(halves(rows)):
        half.write_parquet(project / f"half{number}.parquet")

    def produce(number: int, log: str) -> None:
        command.fine("produce", f"half{number}.parquet", "sales", "--contract", "sale", "--partitions", 8, "--log", log)

    for log, workers, seed in (("one.db", 1, 0), ("eight.db", 8, 1), ("again.db", 8, 2)):
        produce(0, log)
        if workers == 8:
            live = start(seed, "run", "shops.py", "--workers", "8", "--log", log)
            try:
                until_written(log, "shops.arrived", int(0.9 * halves(rows)[0].height))
            finally:
                live.terminate()
                live.communicate(timeout=60)
        produce(1, log)
        streamproc(seed, "run", "shops.py", "--until-end", "--close", "--workers", str(workers), "--log", log)
        for sink in ("known", "hours", "risen", "arrived"):
            text = streamproc(seed, "subscribe", f"shops.{sink}", "--log", log)
            (project / f"{log}.{sink}.jsonl").write_text(text)
    for sink in ("known", "hours", "risen", "arrived"):
        for other in ("eight.db", "again.db"):
            told = command("diff", f"one.db.{sink}.jsonl", f"{other}.{sink}.jsonl", "--json").json
            # What is not below `ordered` sees its rows as they arrive: were it equal, this test would show nothing.
            assert told["equal"] == (sink != "arrived") and told["rows_a"] > 0, sink
    # The journal of eight workers, followed by one, gives every digest again.
    command.fine("replay", "shops.py", "--log", "eight.db")
