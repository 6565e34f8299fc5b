"""Rows a second of `learn`, `drift` and `decide` with its log, beside River called by hand.

    python -m benchmarks.learning [--rows 100000] [--json]

The learner is a scaled logistic regression of ten inputs whose labels come 5,000 rows after the rows, as a stream of
their own; bare River predicts and learns the same rows at once, from dictionaries that are ready. Timed is `process`
alone, in CPU seconds of the process, after one run that compiles; the better of three rounds counts for both.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from river import linear_model, preprocessing

import streamproc as sp
from streamproc.batch import C1, EVENT_TIME, ROW, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.graph import Step, Stream
from streamproc.keys import keys_of
from streamproc.operator import StepTime, StreamType
from streamproc.operators.key_by import KeyBy

NAMES = tuple(f"f{i}" for i in range(10))
DELAY = 5_000
BATCH = 8_192


def model():  # type: ignore[no-untyped-def]  # River's pipelines have no useful type
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def bare_river(x: np.ndarray, y: np.ndarray) -> float:
    rows = [dict(zip(NAMES, row, strict=True)) for row in x.tolist()]
    one, labels = model(), y.tolist()
    start = time.process_time()
    for row, label in zip(rows, labels, strict=True):
        one.predict_proba_one(row)
        one.learn_one(row, label)
    return len(rows) / (time.process_time() - start)


def batch(frame: pl.DataFrame, at: int, delay: int) -> Batch:
    meta = np.zeros((frame.height, WIDTH), np.int64)
    meta[:, EVENT_TIME] = np.arange(at, at + frame.height) + delay
    meta[:, ROW] = 2 * np.arange(frame.height) + 1
    return Batch(frame, meta, keys_of(frame, ["id"]))


def learner(frame: pl.DataFrame, every: int) -> float:
    step = sp.learn(
        model(), inputs=NAMES, labels=Stream(KeyBy(("id",))), on="id", label="y", horizon="1d", into="p", every=every
    )
    inputs = Schema((*(Field(name, pl.Float64()) for name in NAMES), Field("id", pl.String())))
    labels = Schema((Field("id", pl.String()), Field("y", pl.Boolean())))
    state = step.operator.open(StreamType(inputs, ("id",)), StreamType(labels, ("id",)))
    n, seconds, counted = frame.height, 0.0, 0
    for at in range(0, n, BATCH):
        stop = min(at + BATCH, n)
        behind = frame[max(0, at - DELAY) : max(0, stop - DELAY)]
        left = batch(frame[at:stop].select(*NAMES, "id"), at, 0)
        right = batch(behind.select("id", "y"), max(0, at - DELAY), DELAY)
        began = time.process_time()
        state, _ = step.operator.process(state, (left, right), StepTime(np.zeros(BATCH, np.int64), 1))
        if at >= BATCH:  # from there on as many rows are learned as are scored
            seconds, counted = seconds + time.process_time() - began, counted + stop - at
    return counted / seconds


def plain(step: Step, frame: pl.DataFrame) -> float:
    schema = Schema(tuple(Field(name, dtype) for name, dtype in frame.schema.items()))
    state = step.operator.open(StreamType(schema))
    meta = np.zeros((frame.height, WIDTH), np.int64)
    meta[:, ROW], meta[:, C1] = 2 * np.arange(frame.height) + 1, np.arange(frame.height)
    given, best = Batch(frame, meta), 0.0
    for _ in range(4):
        began = time.process_time()
        state, _ = step.operator.process(state, (given,), StepTime(np.zeros(frame.height, np.int64), 1))
        best = max(best, frame.height / (time.process_time() - began))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    gc.disable()
    random = np.random.default_rng(1)
    x = random.normal(size=(options.rows, len(NAMES)))
    y = x[:, 0] > 0
    frame = pl.DataFrame(x, list(NAMES)).with_columns(id=pl.Series([f"id{i}" for i in range(options.rows)]), y=y)
    few = max(2 * BATCH, options.rows // 4)
    learner(frame[: 2 * BATCH], 256)
    figures: dict[str, float] = {}
    for _ in range(3):
        rounds = {
            "bare River, rows/s": bare_river(x[:few], y[:few]),
            "learn every row, rows/s": learner(frame[:few], 1),
            "learn blocks of 256, rows/s": learner(frame, 256),
        }
        figures = {name: max(figure, figures.get(name, 0.0)) for name, figure in rounds.items()}
    figures["learn every row against bare River"] = figures["learn every row, rows/s"] / figures["bare River, rows/s"]
    wide = pl.DataFrame(random.normal(size=(20_000, 100)), [f"c{i}" for i in range(100)])
    figures["drift of 100 columns, rows/s"] = plain(sp.drift(*wide.columns), wide)
    rules = (sp.when(pl.col("f0") > 1, then="block"), sp.when(pl.col("f1") < -1, then="review"))
    decide = sp.decide(*rules, otherwise="allow", log=("id", "f2", "f3"))
    figures["decide with log, rows/s"] = plain(decide, frame[:65_536].drop("y"))
    if options.json:
        print(json.dumps({name: round(figure, 3) for name, figure in figures.items()}))
        return
    table = Table("figure", "value")
    for name, figure in figures.items():
        table.add_row(name, f"{figure:,.2f}" if figure < 10 else f"{figure:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
