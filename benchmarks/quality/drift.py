"""Detectors at equal run length: how soon a shift is found, and how often nothing is called one.

    python -m benchmarks.quality.drift [--streams 200] [--run-length 2000] [--data FOLDER] [--json]

Each detector's own threshold is first tuned by halving until its mean run length on clean normal rows is the stated
one. Ours needs no tuning, its promise is checked; that is a bound, so ours stands here a second time with a promise
that is raised until it speaks on clean normal rows as seldom as ADWIN does. Then the median delay is measured for
shifts of 1/4, 1/2 and 1 standard deviation after 2,000 clean rows, and false alarms on clean streams of other kinds.
With --data, the car-loan stream must be silent up to row 75,000, where its cars get another value, and alarm within
200 rows; SEA must be silent. The command fails where they are not.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from river import drift
from scipy import stats
from scipy.signal import lfilter

import streamproc as sp
from streamproc.batch import C1, ROW, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.graph import Step
from streamproc.operator import StepTime, StreamType

CLEAN = 2_000


def autoregressive(random: np.random.Generator, n: int, rho: float) -> np.ndarray:
    noise = random.normal(size=n + 500) * np.sqrt(1 - rho * rho)
    return np.asarray(lfilter([1.0], [1.0, -rho], noise)[500:])


NULLS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda random, n: random.normal(size=n),
    "heavy tails": lambda random, n: random.standard_cauchy(n),
    "counts": lambda random, n: random.poisson(1.5, n).astype(np.float64),
    "AR(1) .5": lambda random, n: autoregressive(random, n, 0.5),
    "AR(1) .9": lambda random, n: autoregressive(random, n, 0.9),
    "season": lambda random, n: np.sin(np.arange(n) * 2 * np.pi / 288) + 0.3 * random.normal(size=n),
}


def watched(step: Step, frame: pl.DataFrame) -> pl.DataFrame:
    schema = Schema(tuple(Field(name, dtype, nullable=True) for name, dtype in frame.schema.items()))
    meta = np.zeros((frame.height, WIDTH), np.int64)
    meta[:, ROW], meta[:, C1] = 2 * np.arange(frame.height) + 1, np.arange(frame.height)
    time = StepTime(np.zeros(frame.height, np.int64), 1)
    return step.operator.process(step.operator.open(StreamType(schema)), (Batch(frame, meta),), time)[1].rows.frame


def ours(run_length: int, serial: str, *, of: int = 0) -> Callable[[np.ndarray, int], tuple[list[int], int]]:
    def alarms(x: np.ndarray, seed: int) -> tuple[list[int], int]:
        # It bets on nothing while it warms up, after each alarm too: that must be short beside the run length.
        warm = max(20, min(500, (of or run_length) // 10))
        step = sp.drift("x", run_length=run_length, warm=warm, serial=serial, seed=seed)  # type: ignore[arg-type]
        found = watched(step, pl.DataFrame({"x": x}))
        return found["last_offset"].to_list(), int((found["promise"] == "holds").sum())

    return alarms


RIVAL: dict[str, Callable[[float, int], Any]] = {
    "ADWIN": lambda t, _: drift.ADWIN(delta=min(0.999, 10.0**-t)),
    "PageHinkley": lambda t, _: drift.PageHinkley(threshold=10.0**t, delta=0.005),
    "KSWIN": lambda t, seed: drift.KSWIN(alpha=min(0.5, 10.0**-t), seed=seed),
}


def rival(kind: str, t: float) -> Callable[[np.ndarray, int], tuple[list[int], int]]:
    def alarms(x: np.ndarray, seed: int) -> tuple[list[int], int]:
        one, found = RIVAL[kind](t, seed + 1), []
        for row, value in enumerate(x.tolist()):
            one.update(value)
            if one.drift_detected:
                found.append(row)
                one = RIVAL[kind](t, seed + 1)
        return found, 0

    return alarms


def tuned(kind: str, run_length: int, streams: int) -> float:
    """The threshold, as a power of ten, at which clean rows raise an alarm every `run_length` rows."""
    low, high = (-2.0, 8.0) if kind != "PageHinkley" else (-1.0, 4.0)
    rows = 4 * run_length
    few = max(4, streams // (40 if kind == "KSWIN" else 8))
    for _ in range(9):
        middle = (low + high) / 2
        found = sum(len(rival(kind, middle)(NULLS["normal"](np.random.default_rng(s), rows), s)[0]) for s in range(few))
        low, high = (middle, high) if found > few * rows / run_length else (low, middle)
    return high


def false_alarms(
    alarms: Callable[[np.ndarray, int], tuple[list[int], int]], null: str, run_length: int, streams: int
) -> tuple[int, int]:
    """Alarms on clean streams of five run lengths each, and how many of them promised."""
    told = [
        alarms(NULLS[null](np.random.default_rng(1_000 + s), 5 * run_length), s) for s in range(streams)
    ]  # fmt: skip
    return sum(len(found) for found, _ in told), sum(promised for _, promised in told)


def as_seldom_as(kind: str, t: float, run_length: int, streams: int) -> int:
    """The run length that ours must state to speak on clean normal rows no more often than a rival does."""
    most = false_alarms(rival(kind, t), "normal", run_length, streams)[0]
    stated = run_length
    while false_alarms(ours(stated, "raw", of=run_length), "normal", run_length, streams)[0] > most:
        stated += max(1, run_length // 25)
    return stated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--run-length", type=int, default=2_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    detectors = {f"evidence, {serial}": ours(options.run_length, serial) for serial in ("raw", "whiten", "thin")}
    tunings = {kind: tuned(kind, options.run_length, options.streams) for kind in RIVAL}
    detectors |= {kind: rival(kind, t) for kind, t in tunings.items()}
    stated = as_seldom_as("ADWIN", tunings["ADWIN"], options.run_length, options.streams)
    detectors[f"evidence, raw, {stated} stated"] = ours(stated, "raw", of=options.run_length)
    rows = []
    for name, alarms in detectors.items():
        streams = max(10, options.streams // 10) if name == "KSWIN" else options.streams
        for null in NULLS:
            found, held = false_alarms(alarms, null, options.run_length, streams)
            budget = 5 * streams
            low, high = stats.chi2.ppf(0.025, 2 * max(found, 1)) / 2, stats.chi2.ppf(0.975, 2 * (found + 1)) / 2
            told_held = f", {held} promise" if name.startswith("evidence") else ""
            rows.append(
                (
                    name,
                    f"clean: {null}",
                    f"{found / budget:.2f} of budget ({low / budget:.2f}-{high / budget:.2f}{told_held})",
                )
            )
        for shift in (0.25, 0.5, 1.0):
            delays = []
            for s in range(streams):
                x = np.random.default_rng(5_000 + s).normal(size=CLEAN + 4_000)
                x[CLEAN:] += shift
                after = [row for row in alarms(x, s)[0] if row >= CLEAN]
                delays.append(after[0] - CLEAN if after else 4_000)
            rows.append((name, f"shift {shift}", f"median delay {np.median(delays):.0f} rows"))
    if options.data:
        rows += public(options.data)
    if options.json:
        print(json.dumps([dict(zip(("detector", "case", "result"), row, strict=True)) for row in rows]))
        return
    table = Table("detector", "case", "result", title=f"run length {options.run_length:,}")
    for row in rows:
        table.add_row(*row)
    Console(width=130).print(table)


def public(folder: Path) -> list[tuple[str, str, str]]:
    """Real streams: what moved, and a stream on which nothing does."""
    loans = pl.concat([
        pl.read_parquet(folder / f"synthetic_car_loan_{part}.parquet").sort("id") for part in ("reference", "analysis")
    ], how="diagonal")  # fmt: skip
    columns = (
        "car_value", "salary_range", "debt_to_income_ratio", "loan_length", "repaid_loan_on_prev_car",
        "size_of_downpayment", "driver_tenure",
    )  # fmt: skip
    told = watched(sp.drift(*columns, run_length=1_000_000), loans.select(columns))
    first = [
        f"row {row['last_offset']:,}: {', '.join(row['columns'])} (promise {row['promise']})" for row in told.to_dicts()
    ]
    single = {c: watched(sp.drift(c, run_length=1_000_000), loans.select(c))["last_offset"].to_list() for c in columns}
    rows = told["last_offset"].to_list()
    assert rows and 75_000 <= rows[0] < 75_200 and "car_value" in told["columns"][0], f"car loan: alarms at {rows}"
    sea = pl.read_parquet(folder / "sea_big.parquet")
    silent = watched(sp.drift("attrib1", "attrib2", "attrib3", "class", run_length=1_000_000), sea)
    assert silent.height == 0, f"SEA holds one concept: alarms at {silent['last_offset'].to_list()}"
    return [
        ("evidence, raw", "car loan, all columns", "; ".join(first) or "silent"),
        ("evidence, raw", "car loan, each column", str({c: rows for c, rows in single.items() if rows})),
        ("evidence, raw", f"SEA, {sea.height:,} rows", f"{silent.height} alarms"),
    ]


if __name__ == "__main__":
    main()
