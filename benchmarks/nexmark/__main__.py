"""Nexmark's questions end to end on the embedded log, each compared with DuckDB's answer before its figure counts.

Usage: python -m benchmarks.nexmark [--events N] [--json] [QUERY ...]

The topology reads Avro from topics, keeps journal and digests, commits every 100 ms and writes Avro to a sink.
DuckDB's time is that of one query over frames in memory, on all cores: it is the oracle, and an order of magnitude.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as the command line does: a worker is one core

import click
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.nexmark.answers import ANSWERS, agree, answer, top_ten
from benchmarks.nexmark.events import CONTRACTS, Nexmark
from benchmarks.nexmark.queries import NOT_EXPRESSED, QUERIES, query
from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame

TOPIC_OF = dict(zip(("persons", "auctions", "bids", "side"), CONTRACTS, strict=True))


def measured(name: str, topics: dict[str, pl.DataFrame], folder: Path) -> dict[str, float | bool]:
    """Rates of one query over a log of its own, kernels warm, and whether it agrees with the independent answer."""
    seconds: list[tuple[float, float]] = []
    out = pl.DataFrame()
    read = 0
    for frames in ({topic: frame.head(2_000) for topic, frame in topics.items()}, topics):
        registry = MemoryRegistry(CONTRACTS)
        log = EmbeddedLog(folder / f"{name}-{len(seconds)}.db")
        for topic, frame in frames.items():
            log.create_topic(topic, TopicSettings(1))
            append_frame(log, registry, topic, TOPIC_OF[topic], frame)
        binding = bind(query(name), log, registry)
        ends = source_ends(binding, log)
        read = sum(ends.values())
        wall, cpu = time.perf_counter(), time.process_time()
        Worker(binding, log, until_end=ends, close=True).run()
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
        (sink,) = binding.plan.sinks
        out = read_topic(log, registry, sink.topic, sink.contract.schema.polars())
    wall, cpu = seconds[-1]
    found: dict[str, float | bool] = {"rows_per_second": read / wall, "cpu_us_per_row": cpu / read * 1e6}
    wall = time.perf_counter()
    if name in ANSWERS:
        columns, holds, _ = ANSWERS[name]
        expected = answer(name, topics)
        rows = out.unique(holds, keep="last", maintain_order=True) if holds else out
    else:
        columns = ("auction", "price", "date_time", "rank") if name == "q19" else tuple(topics["bids"].columns)
        expected, rows = (top_ten(topics["bids"]) if name == "q19" else topics["bids"]), out
    found["answer_seconds"] = time.perf_counter() - wall
    found["agrees"] = agree(rows.select(columns), expected)
    return found


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(sorted(QUERIES)))
@click.option("--events", default=500_000, show_default=True, help="Persons, auctions and bids together.")
@click.option("--json", "as_json", is_flag=True)
def main(names: tuple[str, ...], events: int, as_json: bool) -> None:
    topics = dict(Nexmark(events).frames())
    table = Table(
        "query", "rows/s", "CPU us a row", "DuckDB, s", "agrees", title=f"Nexmark, {events:,} events, one core"
    )
    figures = {}
    for name in names or QUERIES:
        with tempfile.TemporaryDirectory() as folder:
            found = figures[name] = measured(name, {topic: topics[topic] for topic in query_reads(name)}, Path(folder))
        table.add_row(
            name,
            f"{found['rows_per_second']:,.0f}",
            f"{found['cpu_us_per_row']:.2f}",
            f"{found['answer_seconds']:.2f}",
            "yes" if found["agrees"] else "NO",
        )
    if as_json:
        click.echo(json.dumps(figures))
    else:
        Console(width=100).print(table)
        for name, reason in NOT_EXPRESSED.items():
            click.echo(f"{name} is not expressed: {reason}")
    if not all(found["agrees"] for found in figures.values()):
        raise SystemExit(1)


def query_reads(name: str) -> tuple[str, ...]:
    """The topics that a query reads."""
    from streamproc.graph import Source
    from streamproc.runtime.binding import plan_topology

    origins = (node.origin for node in plan_topology(query(name), MemoryRegistry(CONTRACTS)).sources)
    return tuple(sorted({origin.topic for origin in origins if isinstance(origin, Source)}))


if __name__ == "__main__":
    main()
