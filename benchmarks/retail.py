"""The retail story end to end on the embedded log: rows a second, what each step costs, how long a decision takes.

    python -m benchmarks.retail [--from 2010-12] [--until 2011-03] [--seed 0] [--retail FILE] [--febrl DIR] [--ecb FILE]
    python -m benchmarks.retail --kafka [--brokers HOST:PORT]

One worker, one partition a topic, Polars on one thread, durable commits every 100 ms. The rates come from runs as they
are; where the time goes from a further run in which every step's work is timed, which costs some percent itself. Beside
the rates stand the persons' scores by the truth, over the whole slice and at each quarter.

Latency: all topics are written in the order of event time at a fixed rate, while a worker runs; an order's latency is
from its record's timestamp to that of its decision. An order waits until every topic has passed its moment, because
what it is judged by is what happened before it: at 2,000 rows a second a day of the shop takes 0.6 s, and rates are
published once a bank day.

With --kafka the same runs are made exactly once on a broker too, and only the two rates are told.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as the command line does: a worker is one core

import click
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.retail_on_kafka import GOAL, runs_on_kafka
from connectors.embedded import EmbeddedLog
from connectors.files.produce import produce_frame
from connectors.registry import FolderRegistry
from streamproc.cli.demo_facts import story_facts, story_topics
from streamproc.engine import step as engine_step
from streamproc.graph import Source
from streamproc.ports import Log, TopicSettings
from streamproc.runtime import worker as worker_module
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.reading import read_blocks, read_topic
from streamproc.runtime.replay import source_ends
from streamproc.runtime.task import Task
from streamproc.runtime.telemetry.sizes import state_bytes
from streamproc.runtime.worker import Worker
from streamproc.runtime.workspace import shipped_contracts
from topologies.retail import retail
from topologies.retail.load import CONTRACTS
from topologies.retail.make_story import ORDERS, Story, make_story
from topologies.retail.sources import invoice_lines, persons, reference_rates

RATE = 2_000
_TICK_S = 0.02


def registry() -> FolderRegistry:
    return FolderRegistry((shipped_contracts(),))


@contextmanager
def filled(story: Story) -> Iterator[tuple[EmbeddedLog, Binding, int]]:
    """A log with the story, one partition a topic."""
    known = registry()
    with tempfile.TemporaryDirectory() as folder, EmbeddedLog(Path(folder) / "log.db") as log:
        rows = 0
        for topic, frame in story.topics.items():
            contract = known.contract(CONTRACTS[topic])
            log.create_topic(topic, TopicSettings(1))
            rows += produce_frame(log, frame, topic, contract=contract, schema_id=known.adopt(contract)).rows
        yield log, bind(retail, log, known), rows


def whole_run(story: Story) -> dict[str, Any]:
    """Rates by wall clock and CPU of a run that nobody watches, and how well persons were found."""
    with filled(story) as (log, binding, rows):
        wall, cpu = time.perf_counter(), time.process_time()
        progress = Worker(binding, log, until_end=source_ends(binding, log), close=True).run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        facts = story_facts(story_topics(binding, log), story.truth)
    return {
        "rows": rows, "rows_per_second": rows / wall, "cpu_us_per_row": cpu / rows * 1e6, "seconds": wall,
        "cpu_seconds": cpu,
        "steps": progress.steps, "persons": facts["persons"], "worth": facts["worth"], "model": facts["model"],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000,
    }  # fmt: skip


class Timed:
    """An operator whose calls are timed; all else is the operator's."""

    def __init__(self, operator: Any, spent: list[float]) -> None:
        self._operator, self._spent, self.held = operator, spent, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)

    def process(self, *args: Any) -> Any:
        began = time.perf_counter()
        out = self._operator.process(*args)
        self._spent[0] += time.perf_counter() - began
        self._spent[1] += sum(len(batch) for batch in args[1])
        self.held[0] = out[0]  # one partition a topic: each step is in one task
        return out


@contextmanager
def timed(owner: Any, name: str, spent: list[float]) -> Iterator[None]:
    """A function of the engine that is timed while the context is open."""
    whole = getattr(owner, name)

    def call(*args: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return whole(*args, **more)
        finally:
            spent[0] += time.perf_counter() - began

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, whole)


def by_step(story: Story) -> list[dict[str, Any]]:
    """Seconds, rows and state of each step, and of what the engine does around steps; the most expensive first."""
    with filled(story) as (log, binding, _):
        steps = {}
        for node in binding.plan.nodes:
            if not isinstance(node.origin, Source):
                spent = [0.0, 0.0]
                watched = Timed(node.origin, spent)
                steps[node.name] = (type(node.origin).__name__.lower(), spent, watched)
                object.__setattr__(node, "origin", watched)
        around: dict[str, list[float]] = {
            name: [0.0]
            for name in ("reading and decoding", "encoding of sinks", "encoding of internal topics", "commits")
        }
        inner = engine_step._Step
        worker = Worker(binding, log, until_end=source_ends(binding, log), close=True)
        with (
            timed(inner, "_batches", around["reading and decoding"]),
            timed(Task, "choose", around["reading and decoding"]),
            timed(inner, "_write_sink", around["encoding of sinks"]),
            timed(inner, "_write_edge", around["encoding of internal topics"]),
            timed(worker_module, "commit_steps", around["commits"]),
        ):
            began = time.perf_counter()
            worker.run()
            whole = time.perf_counter() - began
        told = [
            {"step": name, "verb": verb, "seconds": spent[0], "rows": int(spent[1]),
             "state_mb": state_bytes(watched.held.get(0)) / 1e6}
            for name, (verb, spent, watched) in steps.items()
        ]  # fmt: skip
        told += [
            {"step": name, "verb": "engine", "seconds": spent[0], "rows": 0, "state_mb": 0.0}
            for name, spent in around.items()
        ]
    rest = whole - sum(row["seconds"] for row in told)
    told.append({"step": "all else", "verb": "engine", "seconds": rest, "rows": 0, "state_mb": 0.0})
    return sorted(({**row, "share": row["seconds"] / whole} for row in told), key=lambda row: -row["seconds"])


def latency(story: Story, seconds: float, rate: int = RATE) -> dict[str, float]:
    """From an order's record to its decision's, in a run that goes on while the story is written."""
    known = registry()
    with tempfile.TemporaryDirectory() as folder, EmbeddedLog(Path(folder) / "log.db") as log:
        for topic in story.topics:
            log.create_topic(topic, TopicSettings(1))
        workers: list[Worker] = []

        def work() -> None:
            with EmbeddedLog(Path(folder) / "log.db") as own:  # a log belongs to the thread that opened it
                workers.append(Worker(bind(retail, own, registry()), own))
                workers[0].run()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while not workers:
                time.sleep(_TICK_S)
            pace = _written(story, log, known, seconds, rate)
            time.sleep(1.0)
        finally:
            workers[0].stop()
            thread.join(60)
        orders = dict(_stamped(log, known, ORDERS, "order_id"))
        decided = list(_stamped(log, known, "retail.decisions", "order_id"))
    if not decided:
        raise click.ClickException(f"no decision came in {seconds:g} s: give --live more of them")
    waited = np.array([(at - orders[name]) / 1_000 for name, at in decided])
    return {
        "rows_per_second": pace, "orders": len(orders), "decided": len(decided),
        **{f"p{p}_ms": float(np.percentile(waited, p)) for p in (50, 90, 99)},
    }  # fmt: skip


def _written(story: Story, log: Log, known: FolderRegistry, seconds: float, rate: int) -> float:
    """Writes the beginning of the story in the order of event time, so many rows a second; gives the rate reached."""
    frames = {}
    for topic, frame in story.topics.items():
        at = frame[known.contract(CONTRACTS[topic]).event_time]
        frames[topic] = (frame, at.dt.timestamp("us").to_numpy())
    times = np.sort(np.concatenate([at for _, at in frames.values()]))[: int(seconds * rate)]
    done, number, began = dict.fromkeys(frames, 0), 0, time.perf_counter()
    while number < times.size:
        due = min(times.size, int((time.perf_counter() - began) * rate))
        if due <= number:
            time.sleep(_TICK_S)
            continue
        until, number = times[due - 1], due
        for topic, (frame, at) in frames.items():
            end = int(np.searchsorted(at, until, side="right"))
            if end > done[topic]:
                contract = known.contract(CONTRACTS[topic])
                produce_frame(log, frame[done[topic] : end], topic, contract=contract, schema_id=known.adopt(contract))
                done[topic] = end
        number = max(number, sum(done.values()))
    return number / (time.perf_counter() - began)


def _stamped(log: Log, known: FolderRegistry, topic: str, name: str) -> Iterator[tuple[str, int]]:
    """A column's values with the timestamps of their records, µs."""
    values = read_topic(log, known, topic)
    stamps = pl.concat(
        [pl.DataFrame({"_partition": np.full(len(b), b.partition), "_offset": b.offsets, "stamp": b.timestamps})
         for b in read_blocks(log, topic)]
    )  # fmt: skip
    joined = values.join(stamps, on=("_partition", "_offset"))
    yield from zip(joined[name].to_list(), joined["stamp"].to_list(), strict=True)


@click.command(help=__doc__)
@click.option("--from", "first", default="2010-12", show_default=True)
@click.option("--until", "last", default="2011-03", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--retail", "lines", type=click.Path(path_type=Path))
@click.option("--febrl", type=click.Path(path_type=Path))
@click.option("--ecb", type=click.Path(path_type=Path))
@click.option("--rounds", default=3, show_default=True, help="Runs for the rate; the median counts.")
@click.option("--live", default=20.0, show_default=True, help="Seconds of the run for latency.")
@click.option("--kafka", is_flag=True, help="The rate on Kafka too, and nothing else; starts a broker.")
@click.option("--brokers", help="With --kafka: use these instead of starting one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(
    first: str, last: str, seed: int, lines: Path | None, febrl: Path | None, ecb: Path | None, rounds: int,
    live: float, kafka: bool, brokers: str | None, as_json: bool,
) -> None:  # fmt: skip
    story = make_story(invoice_lines(lines), persons(febrl), reference_rates(ecb), first=first, last=last, seed=seed)
    whole_run(story)  # compiles
    runs = sorted((whole_run(story) for _ in range(rounds)), key=lambda run: run["rows_per_second"])
    if kafka:
        _tell_both(runs, sorted(runs_on_kafka(story, rounds, brokers), key=lambda run: run["rows_per_second"]), as_json)
        return
    figures = {"run": runs[len(runs) // 2], "steps": by_step(story), "latency": latency(story, live)}
    if as_json:
        click.echo(json.dumps(figures, indent=1))
        return
    console, run = Console(width=140), figures["run"]
    console.print(
        f"{run['rows']:,} rows of {first} to {last}, seed {seed}: {run['rows_per_second']:,.0f} rows/s on one core, "
        f"{run['cpu_us_per_row']:.1f} CPU µs a row (median of {rounds}); at most {run['peak_mb']:,.0f} MB"
    )
    shares = ((f"up to {share}", one) for share, one in run["persons"]["by_share"].items())
    for name, one in (*shares, ("in the end", run["persons"])):
        console.print(
            f"  persons {name}: F1 {one['f1']:.5f}, B-cubed F1 {one['b_cubed_f1']:.5f}, "
            f"precision {one['precision']:.5f}, "
            f"orders with returns {one['order_return_recall']:.5f}, {one['entities']:,} found of {one['persons']:,}"
        )
    table = Table(title="where the time goes (a run in which every step is timed)", title_justify="left")
    for column in ("step", "verb", "share", "seconds", "rows", "µs a row", "state MB"):
        table.add_column(column, justify="left" if column in ("step", "verb") else "right")
    for row in figures["steps"]:
        if row["share"] >= 0.01 or row["state_mb"] >= 1:
            each = f"{row['seconds'] / row['rows'] * 1e6:.2f}" if row["rows"] else ""
            table.add_row(row["step"], row["verb"], f"{row['share']:.1%}", f"{row['seconds']:.3f}", f"{row['rows']:,}",
                          each, f"{row['state_mb']:.1f}")  # fmt: skip
    console.print(table)
    waited = figures["latency"]
    console.print(
        f"{waited['decided']:,.0f} decisions while {waited['rows_per_second']:,.0f} rows/s came: "
        f"p50 {waited['p50_ms']:,.0f} ms, p90 {waited['p90_ms']:,.0f} ms, p99 {waited['p99_ms']:,.0f} ms"
    )


def _tell_both(embedded: list[dict[str, Any]], kafka: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"embedded": embedded, "kafka": kafka}, indent=1))
        return
    for name, runs in (("embedded", embedded), ("Kafka, exactly once", kafka)):
        run = runs[len(runs) // 2]
        each = ", ".join(f"{one['rows_per_second']:,.0f}" for one in runs)
        click.echo(
            f"{name}: {run['rows_per_second']:,.0f} rows/s, {run['cpu_seconds']:.2f} CPU s, {run['steps']} steps "
            f"(median of {each})"
        )
    share = kafka[len(kafka) // 2]["rows_per_second"] / embedded[len(embedded) // 2]["rows_per_second"]
    click.echo(f"Kafka has {share:.0%} of the embedded rate (goal: {GOAL:.0%})")


if __name__ == "__main__":
    main()
