"""What a race is worth on public streams at a stated delay, beside each of its models alone and what costs nothing.

    python -m benchmarks.quality.racing --data FOLDER [--rows 45312] [--first usual] [--missing 0.8] [--json]

FOLDER as of `benchmarks.quality.learning`. The label of row i is known `delay` rows later, as a stream of its own.
"first" is the champion that the race begins with; "regret" is how much more it lost than the best of its models in
hindsight (mean squared error of chances), as a share.
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
from river import dummy, forest, linear_model, naive_bayes, optim, preprocessing, tree

import streamproc as sp
from benchmarks.quality.learning import driven, streams


def models(first: str) -> dict[str, Any]:
    """All that race, the first champion first."""
    scaled = preprocessing.StandardScaler
    made = {
        "last_label": dummy.NoChangeClassifier(),
        "usual": dummy.PriorClassifier(),
        "logistic": scaled() | linear_model.LogisticRegression(),
        "ftrl": scaled() | linear_model.LogisticRegression(optim.FTRLProximal()),
        "bayes": naive_bayes.GaussianNB(),
        "tree": tree.HoeffdingTreeClassifier(),
        "forest": forest.ARFClassifier(n_models=5, seed=1),
    }
    return {first: made[first], **made}


def with_gaps(frame: pl.DataFrame, share: float) -> pl.DataFrame:
    """The frame with so many of its values missing at random."""
    random = np.random.default_rng(1)
    return frame.with_columns(
        pl.when(pl.Series(random.random(frame.height) >= share)).then(pl.col(name)) for name in frame.columns[:-1]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=45_312)
    parser.add_argument("--first", default="logistic")
    parser.add_argument("--streams", nargs="*", default=[])
    parser.add_argument("--missing", type=float, default=0.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, (frame, delay) in streams(options.data, options.rows).items():
        if options.streams and name not in options.streams:
            continue
        given = with_gaps(frame, options.missing) if options.missing else frame
        _, metrics = driven(sp.race(models(options.first)), given, delay)
        judged = metrics.filter(pl.col("segment").is_null())
        racers = list(models(options.first))
        briers = {row["contender"]: row["brier"] for row in judged.to_dicts()}
        best = min(racers, key=lambda one: briers[one])
        rows.append({
            "stream": name, "delay": delay, "n": judged["n"].max(), "first": options.first, "race": briers["model"],
            "best": best, "its": briers[best], "regret": briers["model"] / briers[best] - 1.0,
            "No-Change": briers["no_change"], "prior": briers["prior"],
        })  # fmt: skip
    if options.json:
        print(json.dumps(rows))
        return
    table = Table(*rows[0], title=f"mean squared error of chances at the delay, {options.missing:.0%} missing")
    for row in rows:
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
