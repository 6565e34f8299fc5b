"""Rows a second of `ordered`, `dedupe`, `as_of` and `within`, beside plain Python with dicts.

    python benchmarks/joins.py [--rows 400000] [--batch 16384] [--keys 20000] [--lateness 60] [--json]

Rows have a key of text and four columns, come out of order by up to the lateness (seconds; there is one row every
10 ms), and a watermark follows the highest event time at that distance. Timed is `process` alone, after one run that
compiles. The plain version keeps the same rows in dicts and lists and gives the same number of rows: that is checked.

Then the rivals' stream-table join as a live worker runs it, on the embedded log: beside pass-through of the same bids,
and how much of a core it takes while it only waits for the table (`max_wait`).
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as the command line does: a worker is one core

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.rivals.workloads import BID, PARTITIONS, PROFILE, bids, last_bids, last_profiles, profiles, topology
from connectors.embedded import EmbeddedLog
from streamproc.batch import ACCOUNT, C1, EVENT_TIME, ROW, WATERMARK, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.registry import MemoryRegistry
from streamproc.graph import Stream
from streamproc.keys import keys_of
from streamproc.operator import Operator, StepTime, StreamType
from streamproc.operators.as_of import AsOf, as_of
from streamproc.operators.dedupe import dedupe
from streamproc.operators.ordered import ordered
from streamproc.operators.within import Within, within
from streamproc.ports import TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.worker import Progress, Worker
from streamproc.testing import append_frame

SECOND = 1_000_000
SCHEMA = Schema(
    (
        Field("card_id", pl.String()),
        Field("amount", pl.Int64()),
        Field("shop", pl.String()),
        Field("rate", pl.Float64()),
    )
)
TYPE = StreamType(SCHEMA, ("card_id",))
Rows = list[tuple[int, int, int, str, int]]
"""port, event time, watermark, key, number"""


def make(rows: int, keys: int, lateness: int, seed: int) -> tuple[Batch, np.ndarray]:
    """All rows as one batch, and the watermark at each."""
    random = np.random.default_rng(seed)
    moments = np.arange(rows) * 10_000 - random.integers(0, lateness * SECOND + 1, rows)
    marks = np.maximum.accumulate(moments) - lateness * SECOND
    meta = np.zeros((rows, WIDTH), np.int64)
    meta[:, EVENT_TIME], meta[:, WATERMARK] = moments, marks
    meta[:, ROW], meta[:, ACCOUNT], meta[:, C1] = 2 * np.arange(rows) + 1, np.arange(rows), np.arange(rows)
    frame = pl.DataFrame(
        {
            "card_id": [f"card-{k:09d}" for k in random.integers(0, keys, rows)],
            "amount": random.integers(0, 10_000, rows),
            "shop": [f"shop number {k}" for k in random.integers(0, 500, rows)],
            "rate": random.random(rows),
        }
    )
    return Batch(frame, meta, keys_of(frame, ["card_id"])), marks


def steps(whole: Batch, marks: np.ndarray, size: int, ports: int) -> Iterator[tuple[tuple[Batch, ...], StepTime]]:
    """The batch cut into steps; with two ports every second row goes to the right one."""
    for start in range(0, len(whole), size):
        index = np.arange(start, min(start + size, len(whole)))
        batches = []
        for port in range(ports):
            part = whole.take(index[index % ports == port])
            part.meta[:, ROW] -= 2 * start
            batches.append(Batch(part.frame.rechunk(), part.meta, keys_of(part.frame, ["card_id"])))
        yield tuple(batches), StepTime(marks[index], 7)


def run(operator: Operator, cut: list[tuple[tuple[Batch, ...], StepTime]], ports: int) -> tuple[int, float, float]:
    """Rows out, seconds in all, seconds of the slowest step."""
    state, out, total, slowest = operator.open(*[TYPE] * ports), 0, 0.0, 0.0
    for inputs, moment in cut:
        begin = time.perf_counter()
        state, output = operator.process(state, inputs, moment)
        took = time.perf_counter() - begin
        out, total, slowest = out + len(output.rows), total + took, max(slowest, took)
    return out, total, slowest


def plain_ordered(rows: Rows) -> int:
    heap: list[tuple[int, int, str]] = []
    out = 0
    for _, moment, mark, key, number in rows:
        while heap and heap[0][0] < mark:
            heapq.heappop(heap)
            out += 1
        heapq.heappush(heap, (moment, number, key))
    while heap and heap[0][0] < rows[-1][2]:
        heapq.heappop(heap)
        out += 1
    return out


def plain_dedupe(rows: Rows) -> int:
    seen: dict[str, list[int]] = {}
    order: list[tuple[int, str]] = []
    out = 0
    for _, moment, mark, key, _ in rows:
        while order and order[0][0] < mark:
            until, old = heapq.heappop(order)
            seen[old].remove(until - 60 * SECOND)
            if not seen[old]:
                del seen[old]
        times = seen.setdefault(key, [])
        if not any(abs(moment - other) <= 60 * SECOND for other in times):
            times.append(moment)
            heapq.heappush(order, (moment + 60 * SECOND, key))
            out += 1
    return out


def plain_as_of(rows: Rows) -> int:
    table: dict[str, list[tuple[int, int]]] = defaultdict(list)
    out = 0
    for port, moment, mark, key, number in rows:
        held = table[key]
        if port == 1:
            bisect.insort(held, (moment, number))
            while len(held) > 1 and held[1][0] <= mark:
                held.pop(0)
        else:
            place = bisect.bisect_right(held, (moment, 1 << 62)) - 1
            out += 1
            _ = held[place] if place >= 0 else None
    return out


def plain_within(rows: Rows) -> int:
    sides: tuple[dict[str, list[int]], ...] = (defaultdict(list), defaultdict(list))
    out = 0
    for port, moment, mark, key, _ in rows:
        others, own = sides[1 - port][key], sides[port][key]
        while others and others[0] < mark - 60 * SECOND:
            others.pop(0)
        out += bisect.bisect_right(others, moment + 60 * SECOND) - bisect.bisect_left(others, moment - 60 * SECOND)
        bisect.insort(own, moment)
    return out


def cases() -> list[tuple[str, Operator, int, Callable[[Rows], int]]]:
    rates, shipped = Stream(AsOf(None, "_right", None, "as_of")), Stream(Within(0, 0, "_right", "inner"))
    return [
        ("ordered", ordered().operator, 1, plain_ordered),
        ("dedupe", dedupe("card_id", within="60s").operator, 1, plain_dedupe),
        ("as_of", as_of(rates).operator, 2, plain_as_of),
        ("within", within(shipped, before="60s", after="60s").operator, 2, plain_within),
    ]


def filled(folder: Path, records: int, *, ends: bool) -> tuple[EmbeddedLog, MemoryRegistry]:
    """The rivals' bids and profiles; `ends` writes the last rows too, with which time goes on in the table."""
    log, registry = EmbeddedLog(folder / f"{ends}.db"), MemoryRegistry([BID, PROFILE])
    for topic in ("bids", "profiles"):
        log.create_topic(topic, TopicSettings(PARTITIONS))
    append_frame(log, registry, "profiles", PROFILE, profiles())
    for piece in bids(records):
        append_frame(log, registry, "bids", BID, piece)
    if ends:
        append_frame(log, registry, "bids", BID, last_bids(records))
        append_frame(log, registry, "profiles", PROFILE, last_profiles(records))
    return log, registry


def live(log: EmbeddedLog, registry: MemoryRegistry, name: str, run: str, units: int, **more: str) -> dict[str, float]:
    """A live worker until it took so many rows: CPU seconds and seconds, of the rows behind the first quarter too."""
    worker = Worker(bind(changed(topology(name, run, "bids", "profiles", f"{run}-out"), **more), log, registry), log)
    at = [(time.perf_counter(), time.process_time(), 0)]

    def committed(progress: Progress) -> None:
        at.append((time.perf_counter(), time.process_time(), progress.units))
        if progress.units >= units:
            worker.stop()

    worker.on_commit = committed
    worker.run()
    warm = next(moment for moment in at if moment[2] >= units / 4)
    rows = max(at[-1][2] - warm[2], 1)
    return {
        "cpu_s_per_million": (at[-1][1] - warm[1]) / rows * 1e6,
        "cpu_of_a_core": (at[1][1] - at[0][1]) / (at[1][0] - at[0][0]) if len(at) < 3 else
        (at[2][1] - at[1][1]) / (at[2][0] - at[1][0]),
    }  # fmt: skip


def stream_table_join(records: int) -> dict[str, float]:
    """CPU of the join and of pass-through on the same bids, and how much of a core waiting for the table takes."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        log, registry = filled(Path(folder), records, ends=True)
        for round_ in range(2):  # The first one compiles.
            for name, units in (("pass", records), ("join", records + profiles().height)):
                found[name] = live(log, registry, name, f"{name}-{round_}", units)["cpu_s_per_million"]
        log.close()
        # The table says nothing more, so the bids wait for it; all of them lie in the log meanwhile.
        log, registry = filled(Path(folder), records, ends=False)
        units = profiles().height + 1
        found["waiting"] = live(log, registry, "join", "waiting", units, max_wait="3s")["cpu_of_a_core"]
        log.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--batch", type=int, default=16_384)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--lateness", type=int, default=60, help="seconds; a hundred rows come in each")
    parser.add_argument("--bids", type=int, default=1_000_000, help="of the stream-table join")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    whole, marks = make(given.rows, given.keys, given.lateness, 1)
    small, few = make(20_000, 100, given.lateness, 2)
    results: list[dict[str, Any]] = []
    for name, operator, ports, plain in cases():
        run(operator, list(steps(small, few, 4096, ports)), ports)
        out, total, slowest = run(operator, list(steps(whole, marks, given.batch, ports)), ports)
        numbers = np.arange(given.rows)
        listed: Rows = list(
            zip((numbers % ports).tolist(), whole.event_time.tolist(), marks.tolist(), whole.frame["card_id"].to_list(),
                numbers.tolist(), strict=True)
        )  # fmt: skip
        begin = time.perf_counter()
        expected = plain(listed)
        python = time.perf_counter() - begin
        assert out == expected, f"{name}: {out} rows instead of {expected}"
        results.append(
            {"operator": name, "rows_in": given.rows, "rows_out": out, "rows_per_s": given.rows / total,
             "slowest_step_ms": 1000 * slowest, "plain_rows_per_s": given.rows / python}
        )  # fmt: skip
    joined = stream_table_join(given.bids)
    if given.json:
        print(json.dumps({"operators": results, "stream_table_join": joined}))
        return
    table = Table("operator", "rows in", "rows out", "rows/s", "slowest step", "plain Python, rows/s", "times")
    for r in results:
        table.add_row(r["operator"], f"{r['rows_in']:,}", f"{r['rows_out']:,}", f"{r['rows_per_s']:,.0f}",
                      f"{r['slowest_step_ms']:.1f} ms", f"{r['plain_rows_per_s']:,.0f}",
                      f"{r['rows_per_s'] / r['plain_rows_per_s']:.1f}")  # fmt: skip
    Console().print(table)
    Console().print(
        f"stream-table join of {given.bids:,} bids: {joined['join']:.2f} CPU s per million, {joined['pass']:.2f} by "
        f"pass-through; while it waits for the table: {joined['waiting']:.0%} of a core"
    )


if __name__ == "__main__":
    main()
