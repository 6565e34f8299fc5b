"""Decisions while the sources of their scores die and come back: how long they take, and on which rung they stand.

    python -m benchmarks.fallback [--seconds 5] [--rate 200] [--json]

A process of its own writes payments at a steady rate, whatever becomes of them, and a full and a reduced score of each
card ten times a second; in four phases of equal length both scores come, then the full one is dead, then both are, then
both are back. A worker of the usual settings looks the scores up as of each payment, with `fallback` behind, and
decides. Rows wait 50 ms for a source that is behind (`max_wait`), and for none that has been silent for a second
(`idle_after`). Latency is what the log says: when the line of a decision was written, less when its payment was. All
on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

import streamproc as sp
from connectors.embedded import EmbeddedLog
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.decisions.decide import Decide
from streamproc.ports import TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.decision_latency import decision_latencies
from streamproc.runtime.reading import read_topic
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame

CARDS = 50
PHASES = ("both come", "the full one is dead", "both are dead", "both are back")
ALIVE = {"fulls": (0, 3), "smalls": (0, 1, 3)}
"""In which phases a source gives anything."""


def contract(name: str, *columns: str) -> Any:
    fields = "".join(f'{{"name": "{one}", "type": "double"}},' for one in columns)
    return parse_contract(f"""{{"type": "record", "name": "{name}", "sp:version": 1, "fields": [
        {{"name": "card", "type": "string", "sp:role": "key"}}, {fields}
        {{"name": "at", "type": "long", "sp:role": "event_time"}}]}}""")


CONTRACTS = contract("pay", "phase"), contract("full", "score"), contract("small", "fair")


def topology() -> sp.Topology:
    pays, full, small = (sp.source(f"{one.name}s", contract=one, idle_after="1s", lateness="1s") for one in CONTRACTS)
    decided = (
        pays
        | sp.key_by("card")
        | sp.as_of(full | sp.key_by("card"), columns=("score",), name="full")
        | sp.as_of(small | sp.key_by("card"), columns=("fair",), name="small")
        | sp.fallback(
            "risk", full=sp.rung("score", age="full_age", max_age="500ms"),
            reduced=sp.rung("fair", age="small_age", max_age="500ms"), prior=0.02,
        )
        | sp.decide(sp.when(pl.col("risk") > 0.5, then="review"), otherwise="pay", log=("at", "phase", "risk_rung"))
    )  # fmt: skip
    return sp.Topology("ladder", sinks={"log": decided.side("log")}, max_wait="50ms", commit="20ms")


def now_us() -> int:
    return time.time_ns() // 1_000


def feed(path: Path, seconds: float, rate: int) -> None:
    """Writes what is due every 10 ms, on a timetable that does not wait for anybody."""
    registry = MemoryRegistry(list(CONTRACTS))
    cards = [f"c{n}" for n in range(CARDS)]
    with EmbeddedLog(path) as log:
        warm(log, registry)  # here the encoders are compiled
        start, sent, scored = time.monotonic(), 0, 0
        while (gone := time.monotonic() - start) < len(PHASES) * seconds:
            phase = int(gone // seconds)
            if gone * 10 >= scored:
                scored += 1
                for one in CONTRACTS[1:]:
                    if phase in ALIVE[f"{one.name}s"]:
                        said = {"card": cards, one.schema.names[1]: [0.25 + n % 2 / 2 for n in range(CARDS)]}
                        frame = pl.DataFrame({**said, "at": [now_us()] * CARDS})
                        append_frame(log, registry, f"{one.name}s", one, frame)
            due = int(gone * rate) - sent
            if due > 0:
                mine = [cards[(sent + n) % CARDS] for n in range(due)]
                row = {"card": mine, "phase": [float(phase)] * due, "at": [now_us()] * due}
                append_frame(log, registry, "pays", CONTRACTS[0], pl.DataFrame(row))
                sent += due
            time.sleep(0.01)


def measured(seconds: float, rate: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="streamproc-fallback-") as folder:
        path = Path(folder) / "log.db"
        with EmbeddedLog(path) as log:
            registry = MemoryRegistry(list(CONTRACTS))
            for one in CONTRACTS:
                log.create_topic(f"{one.name}s", TopicSettings(1))
            binding = bind(topology(), log, registry)
            worker = Worker(binding, log)
            feeder = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.fallback", "--feed", str(path), "--seconds", str(seconds), "--rate",
                 str(rate)]
            )  # fmt: skip
            stop = threading.Timer(len(PHASES) * seconds + 6.0, worker.stop)
            stop.start()
            try:
                worker.run()
                feeder.wait(30)
            finally:
                stop.cancel()
                feeder.kill()
            return by_phase(binding, log, registry)


def warm(log: EmbeddedLog, registry: MemoryRegistry) -> None:
    """A payment and its scores of long ago: who reads them compiles what it needs."""
    at = now_us() - 3_600_000_000
    for one in CONTRACTS:
        row = {"card": ["c0"], **{name: [0.5] for name in one.schema.names[1:-1]}, "at": [at]}
        append_frame(log, registry, f"{one.name}s", one, pl.DataFrame(row))


def by_phase(binding: Any, log: EmbeddedLog, registry: MemoryRegistry) -> dict[str, Any]:
    (node,) = (one for one in binding.plan.nodes if isinstance(one.origin, Decide))
    (sink,) = binding.plan.sinks
    took = decision_latencies(binding.plan, log, registry, node, sink.topic, "decision_id").rows
    lines = read_topic(log, registry, sink.topic).join(took, left_on="decision_id", right_on="decision")
    lines = lines.sort("at")[1:]  # the first one is that of long ago
    out: dict[str, Any] = {}
    for number, name in enumerate(PHASES):
        mine = lines.filter(pl.col("phase") == number)
        at = mine["latency_us"].to_numpy() / 1_000
        rungs = {rung: round(n / mine.height, 3) for rung, n in mine["risk_rung"].value_counts(sort=True).iter_rows()}
        p50, p99, most = (float(np.quantile(at, q)) for q in (0.5, 0.99, 1.0))
        out[name] = {
            "decisions": mine.height, "p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "most_ms": round(most, 1),
            "rungs": rungs,
        }  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase")
    parser.add_argument("--rate", type=int, default=200, help="payments a second")
    parser.add_argument("--feed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.feed:
        feed(options.feed, options.seconds, options.rate)
        return
    figures = measured(options.seconds, options.rate)
    if options.json:
        print(json.dumps(figures))
        return
    table = Table("scores", "decisions", "p50 ms", "p99 ms", "at most", "rungs")
    for name, one in figures.items():
        rungs = ", ".join(f"{rung} {100 * share:.1f} %" for rung, share in one["rungs"].items())
        spans = (f"{one[key]:.1f}" for key in ("p50_ms", "p99_ms", "most_ms"))
        table.add_row(name, str(one["decisions"]), *spans, rungs)
    Console().print(table)


if __name__ == "__main__":
    main()
