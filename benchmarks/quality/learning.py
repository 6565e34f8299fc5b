"""What learners are worth on public streams, at delay zero and at a stated delay, beside what costs nothing.

    python -m benchmarks.quality.learning --data FOLDER [--rows 45312] [--json]

FOLDER holds elec.parquet, sea_stream.parquet and synthetic_car_loan_reference.parquet (feat_* and target, attrib* and
class, columns and repaid); Phishing comes with River. River run by hand is the oracle: at delay zero our scores must
equal its own to 1e-12. At a delay, the label of row i is known `delay` rows later, as a stream of its own.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from river import datasets, linear_model, naive_bayes, preprocessing, tree

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.testing.drive import drive

MODELS: dict[str, Any] = {
    "logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "Hoeffding tree": tree.HoeffdingTreeClassifier,
    "naive Bayes": naive_bayes.GaussianNB,
}


def streams(folder: Path, rows: int) -> dict[str, tuple[pl.DataFrame, int]]:
    """Inputs x0.. and label y of each stream, and the delay that is stated for it."""
    found: dict[str, tuple[pl.DataFrame, int]] = {}
    for name, file, label, delay in (
        ("Elec2", "elec.parquet", "target", 48),
        ("SEA", "sea_stream.parquet", "class", 500),
        ("car loan", "synthetic_car_loan_reference.parquet", "repaid", 500),
    ):
        frame = pl.read_parquet(folder / file).head(rows)
        inputs = [
            c
            for c, dtype in frame.schema.items()
            if dtype.is_numeric() and c not in (label, "id", "y_pred", "y_pred_proba")
        ]
        made = frame.select(
            *(pl.col(c).cast(pl.Float64).alias(f"x{i}") for i, c in enumerate(inputs)), y=pl.col(label) > 0
        )
        found[name] = made, delay
    phishing = [({f"x{i}": v for i, v in enumerate(x.values())}, bool(y)) for x, y in datasets.Phishing()]
    found["Phishing"] = pl.DataFrame([{**x, "y": y} for x, y in phishing]).head(rows), 100
    return found


def by_hand(model: Any, frame: pl.DataFrame) -> np.ndarray:
    names, scores = frame.columns[:-1], []
    for row, label in zip(frame.select(names).to_dicts(), frame["y"].to_list(), strict=True):
        chances = model.predict_proba_one(row)
        scores.append(chances.get(True, 0.0) if chances else np.nan)
        model.learn_one(row, label)
    return np.array(scores)


def driven(model: Any, frame: pl.DataFrame, delay: int) -> tuple[np.ndarray, pl.DataFrame]:
    names = frame.columns[:-1]
    fields = "".join(f'{{"name": "{n}", "type": ["null", "double"]}}, ' for n in names)
    at = '{"name": "at", "type": "long", "sp:role": "event_time"}'
    head = '{"type": "record", "sp:version": 1, "name": '
    row = parse_contract(
        head + '"row", "fields": [' + fields + '{"name": "id", "type": "long", "sp:role": "key"},'
        ' {"name": "y", "type": "boolean"}, ' + at + "]}"
    )
    label = parse_contract(
        head + '"label", "fields": [{"name": "id", "type": "long", "sp:role": "key"},'
        ' {"name": "known", "type": "boolean"}, ' + at + "]}"
    )
    whole = frame.with_columns(id=pl.int_range(pl.len()), at=pl.int_range(pl.len()))
    given = {"rows": whole}
    rows = sp.source("rows", contract=row)
    if delay:
        given["labels"] = whole.select("id", known="y", at=pl.col("at") + delay)
        labels = sp.source("labels", contract=label) | sp.ordered()
        step = sp.learn(
            model,
            inputs=tuple(names),
            labels=labels,
            label="known",
            on="id",
            horizon="1h",
            into="p",
            report=frame.height,
        )
        scored = rows | sp.ordered() | step
    else:
        scored = rows | sp.learn(model, inputs=tuple(names), label="y", into="p", report=frame.height)
    topology = sp.Topology("quality", sinks={"scored": scored, "metrics": scored.side("metrics")})
    done = drive(topology, given, contracts=(row, label))
    return done["scored"].sort("id")["p"].to_numpy(), done["metrics"].filter(pl.col("delay") == "label")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=45_312)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[tuple[Any, ...]] = []
    for name, (frame, delay) in streams(options.data, options.rows).items():
        for title, make in MODELS.items():
            scores, metrics = driven(make(), frame, 0)
            apart = float(np.nanmax(np.abs(scores - by_hand(make(), frame))))
            assert apart < 1e-12, f"{name}, {title}: {apart} apart from River by hand"
            _, late = driven(make(), frame, delay)
            for at, judged in ((0, metrics), (delay, late)):
                one = {row["contender"]: row for row in judged.to_dicts()}
                best = one["model"]
                rows.append((
                    name, title, at, best["n"], best["accuracy"], best["auc"], best["log_loss"], best["kappa_temporal"],
                    one["no_change"]["accuracy"], one["prior"]["log_loss"],
                ))  # fmt: skip
    columns = (
        "stream",
        "model",
        "delay",
        "n",
        "accuracy",
        "AUC",
        "log loss",
        "kappa-temporal",
        "No-Change acc.",
        "prior loss",
    )
    if options.json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
        return
    table = Table(*columns, title="scores at delay 0 equal River's own to 1e-12")
    for row in rows:
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
