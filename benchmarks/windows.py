"""How fast windows and look-backs are, beside a Python dict per key in the same run.

    python benchmarks/windows.py [--json] [--rows N]

Each operator gets the same batches of 65,536 rows, uniform over the keys, a second of event time each. Reported are
rows per CPU second after warm-up, the longest single batch, and the factor over the baseline: the plainest correct
Python, `math.fsum` over the rows of each key's window kept in a dict.

A second table tells how the cost of a row grows with the keys: every key has a row in one open window of count, total
and maximum, then come 16 batches of random known keys, the best of three rounds. "Pause" is the longest call of all
that filled the window, 8,192 new keys each; nothing is due meanwhile, so no call writes output. "Gather" is what NumPy
needs for a random cache line out of as many.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.state_floor import BATCH, ROUNDS, gather_ns
from streamproc.batch import EVENT_TIME, ROW, WATERMARK, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.keys import keys_of
from streamproc.operator import StepTime, StreamType
from streamproc.operators.aggregates import count, max, total
from streamproc.operators.lookback import lookback
from streamproc.operators.sessions import session
from streamproc.operators.windows import sliding, tumbling

STREAM = StreamType(Schema((Field("key", pl.String()), Field("x", pl.Float64()))), ("key",))
BASELINE_ROWS = 200_000
FILLED_BY = 8_192
HELD = (10_000, 100_000, 1_000_000, 10_000_000)


def batches(keys: int, number: int) -> list[Batch]:
    """Rows in order of event time, a second a batch."""
    rng = np.random.default_rng(7)
    names = pl.Series(np.arange(keys)).cast(pl.String)
    made = []
    for i in range(number):
        frame = pl.DataFrame({"key": names[rng.integers(0, keys, BATCH)], "x": np.round(rng.uniform(0, 100, BATCH), 2)})
        meta = np.zeros((BATCH, WIDTH), np.int64)
        meta[:, EVENT_TIME] = meta[:, WATERMARK] = np.sort(rng.integers(i * 1_000_000, (i + 1) * 1_000_000, BATCH))
        meta[:, ROW] = 2 * np.arange(BATCH) + 1
        made.append(Batch(frame, meta, keys_of(frame, ["key"])))
    return made


def measured(operator: Any, stream: list[Batch]) -> tuple[float, float]:
    """(rows per CPU second over the second half, seconds of its longest batch)."""
    state = operator.open(STREAM)
    spent: list[float] = []
    for batch in stream:
        begin = time.process_time()
        state, _ = operator.process(state, (batch,), StepTime(batch.meta[:, WATERMARK].copy(), 1))
        spent.append(time.process_time() - begin)
    half = spent[len(spent) // 2 :]
    longest = sorted(half)[-1]
    return BATCH * len(half) / sum(half), longest


def held_batch(keys: np.ndarray) -> Batch:
    """Rows of these keys, all at one moment."""
    frame = pl.DataFrame({"key": pl.Series(keys).cast(pl.String), "x": np.round((keys * 37 % 10_007) / 100, 2)})
    meta = np.zeros((keys.size, WIDTH), np.int64)
    meta[:, EVENT_TIME] = meta[:, WATERMARK] = 1_000_000
    meta[:, ROW] = 2 * np.arange(keys.size) + 1
    return Batch(frame, meta, keys_of(frame, ["key"]))


def measured_held(keys: int) -> dict[str, float]:
    """ns a row of known keys, and ms of the longest call while the window filled."""
    operator: Any = tumbling("10s", n=count(), s=total("x"), m=max("x")).operator
    state = operator.open(STREAM)
    rng = np.random.default_rng(7)

    def spent(batch: Batch) -> float:
        begin = time.process_time()
        operator.process(state, (batch,), StepTime(batch.meta[:, WATERMARK].copy(), 1))
        return time.process_time() - begin

    order = rng.permutation(keys)
    filled = [spent(held_batch(order[at : at + FILLED_BY])) for at in range(0, keys, FILLED_BY)]
    known = [held_batch(rng.integers(0, keys, BATCH)) for _ in range(ROUNDS)]
    best = sorted(sum(spent(batch) for batch in known) for _ in range(3))[0]
    return {"keys": keys, "ns_per_row": best / (ROUNDS * BATCH) * 1e9, "pause_ms": sorted(filled)[-1] * 1e3,
            "gather_ns": gather_ns(keys)}  # fmt: skip


def _rows(stream: list[Batch]) -> list[tuple[str, int, float]]:
    rows: list[tuple[str, int, float]] = []
    for batch in stream:
        rows += zip(batch.frame["key"].to_list(), batch.event_time.tolist(), batch.frame["x"].to_list(), strict=True)
        if len(rows) >= BASELINE_ROWS:
            break
    return rows


def plain_windows(stream: list[Batch], span: int) -> float:
    """Rows per CPU second of count, exact total and maximum in a dict of windows."""
    rows = _rows(stream)
    begin = time.process_time()
    opened: dict[tuple[str, int], list[float]] = {}
    results = []
    for key, t, x in rows:
        opened.setdefault((key, t // span), []).append(x)
    for (key, start), values in sorted(opened.items()):
        results.append((key, start, len(values), math.fsum(values), sorted(values)[-1]))
    return len(rows) / (time.process_time() - begin)


def plain_lookback(stream: list[Batch], spans: tuple[int, ...]) -> float:
    """Rows per CPU second of count and exact total over the last span, from a list of each key's rows."""
    rows = _rows(stream)
    begin = time.process_time()
    seen: dict[str, list[tuple[int, float]]] = {}
    results = []
    for key, t, x in rows:
        mine = seen.setdefault(key, [])
        mine.append((t, x))
        for span in spans:
            values = [value for then, value in mine if then > t - span]
            results.append((len(values), math.fsum(values)))
    return len(rows) / (time.process_time() - begin)


def cases() -> list[tuple[str, int, Any, Callable[[list[Batch]], float]]]:
    """(name, keys, operator, baseline)"""
    three = {"n": count(), "s": total("x"), "m": max("x")}
    one = {"n": count().over("5s"), "s": total("x").over("5s")}
    two = {**one, "n1": count().over("1s"), "s1": total("x").over("1s")}
    second = 1_000_000

    def windows(stream: list[Batch]) -> float:
        return plain_windows(stream, 10 * second)

    return [
        *(
            (f"tumbling, {keys:,} keys", keys, tumbling("10s", **three).operator, windows)
            for keys in (10_000, 100_000, 1_000_000)
        ),
        ("tumbling, each update", 100_000, tumbling("10s", emit="update", **three).operator, windows),
        ("sliding 10s every 5s", 100_000, sliding("10s", every="5s", **three).operator, windows),
        ("session, gap 2s", 100_000, session("2s", **three).operator, windows),
        ("look-back, one span", 10_000, lookback(**one).operator, lambda s: plain_lookback(s, (5 * second,))),
        ("look-back, two spans", 10_000, lookback(**two).operator, lambda s: plain_lookback(s, (5 * second, second))),
    ]  # fmt: skip


def main() -> None:
    """Runs all cases and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows per case")
    parser.add_argument("--held", type=int, default=HELD[-1], help="most keys held in one window")
    options = parser.parse_args()
    number = sorted((8, options.rows // BATCH))[-1]
    results = []
    for name, keys, operator, baseline in cases():
        stream = batches(keys, number)
        rate, longest = measured(operator, stream)
        plain = baseline(stream)
        results.append(
            {
                "case": name,
                "keys": keys,
                "rows_per_second": round(rate),
                "longest_batch_ms": round(longest * 1e3, 1),
                "plain_rows_per_second": round(plain),
                "times_plain": round(rate / plain, 1),
            }
        )
    measured_held(1_000)
    held = [measured_held(keys) for keys in HELD if keys <= options.held]
    if options.json:
        print(json.dumps({"benchmark": "windows", "batch_rows": BATCH, "cases": results, "held": held}))
        return
    table = Table("case", "keys", "rows/s", "longest batch", "plain Python rows/s", "factor", title="windows, one core")
    for result in results:
        table.add_row(str(result["case"]), f"{result['keys']:,}", f"{result['rows_per_second']:,}",
                      f"{result['longest_batch_ms']} ms", f"{result['plain_rows_per_second']:,}",
                      f"{result['times_plain']}x")  # fmt: skip
    Console().print(table)
    table = Table("keys held", "ns/row", "factor", "longest pause", "gather ns/row", "factor", title="one open window")
    for row in held:
        table.add_row(f"{row['keys']:,}", f"{row['ns_per_row']:.1f}",
                      f"{row['ns_per_row'] / held[0]['ns_per_row']:.1f}x", f"{row['pause_ms']:.1f} ms",
                      f"{row['gather_ns']:.1f}", f"{row['gather_ns'] / held[0]['gather_ns']:.1f}x")  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
