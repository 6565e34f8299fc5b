"""Whole topologies on the embedded log: watermarks, journal, digests, commits every 100 ms with fsync.

The baseline does the same work as a plain script would: fastavro record by record, a dict per key, one SQLite
transaction per
100 ms with inputs' offset and outputs. Both run in this process, one after the other, on the same records.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tempfile
import time
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as the command line does: a worker is one core

import click
import fastavro
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

import streamproc as sp
from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.restore import restore_task
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame

BID = parse_contract(
    """{"type": "record", "name": "bid", "sp:version": 1, "fields": [
    {"name": "auction", "type": "long"}, {"name": "bidder", "type": "long", "sp:role": "key"},
    {"name": "price", "type": "double"},
    {"name": "channel", "type": "string"}, {"name": "url", "type": "string"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""
)
PLACE = TopicPartition("bids", 0)
_PIECE = 250_000


def bids(start: int, count: int, keys: int, seed: int) -> pl.DataFrame:
    """Bids of about 70 bytes, a millisecond apart, up to 20 ms out of order."""
    draw = np.random.default_rng(seed)
    number = np.arange(start, start + count)
    return pl.DataFrame(
        {
            "auction": draw.integers(0, 100_000, count),
            "bidder": draw.integers(0, keys, count),
            "price": draw.random(count) * 100,
            "channel": draw.choice(["google", "apple", "facebook", "baidu"], count),
            "url": pl.select(
                pl.concat_str(pl.lit("https://x.com/item/"), pl.Series(draw.integers(0, 10**6, count)).cast(pl.String))
            ).to_series(),
            "at": pl.Series(1_700_000_000_000_000 + number * 1_000 + draw.integers(0, 20_000, count)).cast(
                pl.Datetime("us", "UTC")
            ),
        }
    )


def filled(folder: Path, records: int, keys: int) -> tuple[EmbeddedLog, MemoryRegistry]:
    """A log with the bids in one partition."""
    log, registry = EmbeddedLog(folder / "log.db"), MemoryRegistry([BID])
    log.create_topic("bids", TopicSettings(1))
    for start in range(0, records, _PIECE):
        append_frame(log, registry, "bids", BID, bids(start, min(_PIECE, records - start), keys, start))
    return log, registry


def topologies() -> dict[str, sp.Topology]:
    """What is measured."""
    source = sp.source("bids", contract=BID, lateness="20ms")
    keyed = source | sp.key_by("bidder")
    return {
        "pass-through": sp.Topology("pass", sinks={"out": source}),
        "filter, map, encode": sp.Topology(
            "mapped",
            sinks={
                "out": source
                | sp.where(pl.col("auction") % 5 != 0)
                | sp.select("auction", "bidder", "at", "url", euros=pl.col("price") * 0.9)
            },
        ),
        "change of key, tumbling 10 s": sp.Topology(
            "windows",
            sinks={"out": keyed | sp.tumbling("10s", bids=sp.count(), spend=sp.total("price"), top=sp.max("price"))},
        ),
        "change of key, look-back 60 s": sp.Topology(
            "looks",
            sinks={
                "out": keyed
                | sp.features(bids=sp.count().over("60s"), spend=sp.total("price").over("60s"))
                | sp.select("bidder", "at", "bids", "spend")
            },
        ),
    }


def engine(topology: sp.Topology, log: EmbeddedLog, registry: MemoryRegistry, records: int) -> dict[str, float]:
    """Runs a topology to the end of the topic, kernels warm; rates by wall clock and CPU."""
    binding = bind(topology, log, registry)
    warm = min(records // 10, 20_000)
    Worker(binding, log, until_end={PLACE: warm}).run()
    wall, cpu = time.perf_counter(), time.process_time()
    progress = Worker(binding, log, until_end=source_ends(binding, log), close=True).run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count = records - warm
    return {"records_per_second": count / wall, "cpu_us_per_record": cpu / count * 1e6, "steps": progress.steps}


def plain(log: EmbeddedLog, folder: Path, records: int, name: str) -> dict[str, float]:
    """The same by a plain script, on the first `records` records."""
    schema = fastavro.parse_schema(dict(BID.avro))
    out = sqlite3.connect(folder / f"plain-{len(name)}.db")
    out.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE out(value BLOB); CREATE TABLE place(at INTEGER)"
    )
    windows: dict[tuple[int, int], list[float]] = {}
    history: dict[int, list[tuple[int, float]]] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    committed, at = time.perf_counter(), 0
    while at < records:
        block = log.read(PLACE, at, max_records=min(10_000, records - at))
        values = [block.value(row) or b"" for row in range(len(block))]
        at += len(values)
        rows: list[tuple[bytes]] = []
        for value in values:
            if name == "pass-through":
                rows.append((value,))
                continue
            bid = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema)
            moment = int(bid["at"].timestamp() * 1e6)
            if name.startswith("filter"):
                if bid["auction"] % 5:
                    target = io.BytesIO()
                    fastavro.schemaless_writer(target, schema, {**bid, "price": bid["price"] * 0.9})
                    rows.append((target.getvalue(),))
            elif "tumbling" in name:
                pane = windows.setdefault((bid["bidder"], moment // 10_000_000), [0, 0.0, 0.0])
                pane[0] += 1
                pane[1] += bid["price"]
                pane[2] = max(pane[2], bid["price"])
            else:
                mine = history.setdefault(bid["bidder"], [])
                mine.append((moment, bid["price"]))
                while mine[0][0] <= moment - 60_000_000:
                    mine.pop(0)
                target = io.BytesIO()
                fastavro.schemaless_writer(
                    target, schema, {**bid, "auction": len(mine), "price": sum(p for _, p in mine)}
                )
                rows.append((target.getvalue(),))
        out.executemany("INSERT INTO out VALUES(?)", rows)
        if time.perf_counter() - committed > 0.1:
            out.execute("INSERT INTO place VALUES(?)", (at,))
            out.commit()
            committed = time.perf_counter()
    out.executemany("INSERT INTO out VALUES(?)", [(repr(pane).encode(),) for pane in windows.values()])
    out.commit()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    out.close()
    return {"records_per_second": records / wall, "cpu_us_per_record": cpu / records * 1e6}


def restore(folder: Path, keys: int) -> dict[str, float]:
    """Seconds to bring back a task with so many keys of open windows, from its checkpoint."""
    log, registry = filled(folder, keys, keys * 10)
    topology = sp.Topology(
        "big",
        sinks={
            "out": sp.source("bids", contract=BID, lateness="20ms")
            | sp.key_by("bidder")
            | sp.tumbling("7d", bids=sp.count(), spend=sp.total("price"))
        },
    )
    binding = bind(topology, log, registry)
    store = DirectoryCheckpoints(folder / "checkpoints")
    Worker(binding, log, until_end=source_ends(binding, log), checkpoints=store).run()
    number = binding.number_of(1, 0)
    began = time.perf_counter()
    restored = restore_task(binding, number, log, store)
    seconds = time.perf_counter() - began
    log.close()
    return {"keys": keys, "seconds": seconds, "steps_run_again": restored.steps}


def measure(records: int, keys: int, restored_keys: int) -> dict[str, object]:
    """All figures."""
    figures: dict[str, object] = {"records": records, "keys": keys}
    with tempfile.TemporaryDirectory() as name:
        for number, (title, topology) in enumerate(topologies().items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            log, registry = filled(folder, records, keys)
            ours = engine(topology, log, registry, records)
            theirs = plain(log, folder, min(records, 100_000), title)
            log.close()
            figures[title] = {
                "streamproc": ours,
                "plain": theirs,
                "ratio_cpu": theirs["cpu_us_per_record"] / ours["cpu_us_per_record"],
            }
        folder = Path(name) / "restore"
        folder.mkdir()
        figures["restore"] = restore(folder, restored_keys)
    return figures


@click.command(help=__doc__)
@click.option("--records", default=4_000_000, show_default=True)
@click.option("--keys", default=20_000, show_default=True)
@click.option("--restored-keys", default=1_000_000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(records: int, keys: int, restored_keys: int, as_json: bool) -> None:
    figures = measure(records, keys, min(restored_keys, records))
    if as_json:
        click.echo(json.dumps(figures, indent=1))
        return
    table = Table(title=f"{records:,} records of about 70 bytes, one core, durable every 100 ms", title_justify="left")
    for column in (
        "topology",
        "M records/s",
        "CPU µs/record",
        "plain: M records/s",
        "plain: CPU µs/record",
        "CPU ratio",
    ):
        table.add_column(column, justify="left" if column == "topology" else "right")
    for title in topologies():
        row = figures[title]
        assert isinstance(row, dict)
        ours, theirs = row["streamproc"], row["plain"]
        table.add_row(
            title,
            f"{ours['records_per_second'] / 1e6:.2f}",
            f"{ours['cpu_us_per_record']:.2f}",
            f"{theirs['records_per_second'] / 1e6:.3f}",
            f"{theirs['cpu_us_per_record']:.1f}",
            f"{row['ratio_cpu']:.1f}x",
        )
    console = Console(width=140)
    console.print(table)
    back = figures["restore"]
    assert isinstance(back, dict)
    console.print(f"restore of a task with {back['keys']:,} keys from its checkpoint: {back['seconds']:.2f} s")


if __name__ == "__main__":
    main()
