"""How fast features are, each aggregate by itself, beside a Python dict per key in the same run.

    python benchmarks/features.py [--json] [--batches N] [--keys K]
    python benchmarks/features.py --serving     how long a read takes when features are served: see serving.py

Rows come in batches of 65,536 in order of event time, 10 s of event time each, uniform over the keys (100,000: then a
key has 4 rows in 60 s and 39 in 600 s). Reported are rows per CPU second over the second half of the stream, when the
longest window is full, and the factor over the baseline: count and `math.fsum` over a list of each key's rows.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

import streamproc as sp
from benchmarks.serving import serving
from benchmarks.windows import measured, plain_lookback
from streamproc.batch import EVENT_TIME, ROW, WATERMARK, WIDTH, Batch
from streamproc.keys import keys_of

BATCH = 65_536
_SECOND = 1_000_000


def batches(keys: int, number: int) -> list[Batch]:
    """Rows in order of event time, ten seconds a batch."""
    rng = np.random.default_rng(7)
    names = pl.Series(np.arange(keys)).cast(pl.String)
    made = []
    for i in range(number):
        frame = pl.DataFrame({"key": names[rng.integers(0, keys, BATCH)], "x": np.round(rng.uniform(0, 100, BATCH), 2)})
        meta = np.zeros((BATCH, WIDTH), np.int64)
        times = np.sort(rng.integers(i * 10 * _SECOND, (i + 1) * 10 * _SECOND, BATCH))
        meta[:, EVENT_TIME] = meta[:, WATERMARK] = times
        meta[:, ROW] = 2 * np.arange(BATCH) + 1
        made.append(Batch(frame, meta, keys_of(frame, ["key"])))
    return made


def cases() -> list[tuple[str, Any]]:
    """(name, step)"""
    minute, long = "60s", "600s"
    single = {
        "count": sp.count(), "total": sp.total("x"), "mean": sp.mean("x"), "var": sp.var("x"), "min": sp.min("x"),
        "max": sp.max("x"), "first": sp.first("x"), "last": sp.last("x"), "time_since_last": sp.time_since_last(),
        "distinct": sp.distinct("x"), "top_k 3": sp.top_k("x", 3), "quantile": sp.quantile("x", 0.9),
        "ewma": sp.ewma("x", "30s"), "trend": sp.trend("x"),
        "total where x > 50": sp.total("x").where(pl.col("x") > 50),
    }  # fmt: skip
    both = sp.features(
        n=sp.count().over(minute), s=sp.total("x").over(minute), n10=sp.count().over(long), s10=sp.total("x").over(long)
    )
    stated = sp.features(n=sp.count().over(minute), s=sp.total("x").over(minute), status=True)
    ever = sp.features(n=sp.count().ever(), s=sp.total("x").ever(), low=sp.min("x").ever(), last=sp.last("x").ever())
    return [
        ("count and total over 60 s and 600 s", both),
        ("count and total over 60 s, with status and age", stated),
        ("count, total, min and last of all rows so far", ever),
        *((f"{name} over 60 s", sp.features(f=one.over(minute))) for name, one in single.items()),
        *((f"{name} over 600 s", sp.features(f=single[name].over(long))) for name in ("quantile", "trend", "distinct")),
    ]


def main() -> None:
    """Runs all cases and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--batches", type=int, default=130, help="batches of 65,536 rows")
    parser.add_argument("--keys", type=int, default=100_000, help="keys")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--serving", action="store_true", help="reads of served features, and the units of their costs")
    options = parser.parse_args()
    if options.serving:
        print(json.dumps({"benchmark": "features --serving", **serving()}))
        return
    stream = batches(options.keys, options.batches)
    plain = plain_lookback(stream, (60 * _SECOND, 600 * _SECOND))
    results = []
    for name, step in cases():
        if options.only not in name:
            continue
        rate, longest = measured(step.operator, stream if "600 s" in name else stream[: options.batches // 4])
        results.append({"case": name, "rows_per_second": round(rate), "longest_batch_ms": round(longest * 1e3, 1),
                        "times_plain": round(rate / plain, 1)})  # fmt: skip
    if options.json:
        print(json.dumps({"benchmark": "features", "keys": options.keys, "plain_rows_per_second": round(plain),
                          "cases": results}))  # fmt: skip
        return
    title = f"features, {options.keys:,} keys, one core; plain Python {plain:,.0f} rows/s"
    table = Table("case", "rows/s", "longest batch", "factor over plain Python", title=title)
    for result in results:
        table.add_row(str(result["case"]), f"{result['rows_per_second']:,}", f"{result['longest_batch_ms']} ms",
                      f"{result['times_plain']}x")  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
