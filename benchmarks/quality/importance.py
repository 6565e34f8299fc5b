"""What inputs are worth and cost: does the proposal keep those that matter, and is CPU saved as predicted?

    python -m benchmarks.quality.importance [--rows 40000] [--rounds 3] [--pairs 15] [--json]

Payments of 2,000 cards with ten inputs, eight of them windows; fraud follows two things. Costs are measured by
leaving out half of the inputs at a time (`input_costs`), importance is measured on the stream, the budget is half of
what all cost. Then the topology with the proposed inputs runs beside the one with all, turn about: CPU saved against
the sum of the costs of what was dropped, and the squared error of both. CPU time of the process counts, not the clock;
of what is saved the median over pairs of runs, with its 95 % interval (order statistics).
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from river import linear_model, preprocessing
from scipy import stats

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.testing.drive import drive
from streamproc.testing.input_costs import input_costs

PAYMENT = parse_contract("""{"type": "record", "name": "payment", "sp:version": 1, "fields": [
    {"name": "card", "type": "string", "sp:role": "key"}, {"name": "amount", "type": "double"},
    {"name": "fee", "type": "double"}, {"name": "items", "type": "long"}, {"name": "fraud", "type": "boolean"},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
FEATURES = {
    "spend_1h": lambda: sp.total("amount").over("1h"),
    "spend_7d": lambda: sp.total("amount").over("7d"),
    "count_10m": lambda: sp.count().over("10m"),
    "largest_1d": lambda: sp.max("amount").over("1d"),
    "mean_fee_1d": lambda: sp.mean("fee").over("1d"),
    "spread_1d": lambda: sp.var("amount").over("1d"),
    "items_6h": lambda: sp.total("items").over("6h"),
    "fees_30d": lambda: sp.total("fee").over("30d"),
}
INPUTS = ("amount", "fee", *FEATURES)


def build(inputs: tuple[str, ...], **more: object) -> sp.Topology:
    made = {name: FEATURES[name]() for name in inputs if name in FEATURES}
    rows = sp.source("payments", contract=PAYMENT) | sp.key_by("card")
    rows = rows | sp.features(**made) if made else rows
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    scored = rows | sp.learn(model, inputs=inputs, label="fraud", into="risk", report=10_000, **more)  # type: ignore[arg-type]
    sinks = {"risk": scored | sp.select("card", "risk"), "metrics": scored.side("metrics")}
    return sp.Topology("risk", sinks=sinks | ({"importance": scored.side("importance")} if more else {}))


def payments(rows: int) -> pl.DataFrame:
    """Fraud follows the amount, and whether the payment before was of the same card."""
    random = np.random.default_rng(1)
    card = random.integers(0, 2_000, rows)
    burst = random.random(rows) < 0.2
    card[burst] = np.roll(card, 1)[burst]
    amount = random.lognormal(3.0, 0.6, rows)
    frame = pl.DataFrame({
        "card": np.char.add("c", card.astype(str)), "amount": amount, "fee": random.lognormal(0.0, 0.3, rows),
        "items": random.integers(1, 9, rows), "at": np.cumsum(random.integers(1, 4_000_000, rows)),
    })  # fmt: skip
    again = frame.with_columns(again=(pl.col("card") == pl.col("card").shift(1)).fill_null(False))["again"].to_numpy()
    chance = 1 / (1 + np.exp(-(0.06 * (amount - 25) + 1.5 * again - 1.5)))
    return frame.with_columns(fraud=pl.Series(random.random(rows) < chance))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    frames = {"payments": payments(options.rows)}
    costs = input_costs(build, INPUTS, frames, contracts=(PAYMENT,), rounds=options.rounds)
    budget = sum(costs.values()) / 2
    rules = sp.importance(costs_us=costs, budget_us=budget, share=0.25)
    last = drive(build(INPUTS, importance=rules), frames, contracts=(PAYMENT,))["importance"].tail(len(INPUTS))
    kept = tuple(last.filter("keep")["input"])
    dropped = [name for name in INPUTS if name not in kept]
    spent: dict[str, list[float]] = {"all": [], "proposed": []}
    brier = {}
    topologies = {"all": build(INPUTS), "proposed": build(kept)}
    for number in range(options.pairs + 1):
        for name in ("all", "proposed") if number % 2 else ("proposed", "all"):
            began = time.process_time()
            done = drive(topologies[name], frames, contracts=(PAYMENT,))
            if number:  # the first pair compiles
                spent[name].append(1e6 * (time.process_time() - began) / options.rows)
            told = done["metrics"].filter((pl.col("delay") == "label") & (pl.col("contender") == "model"))
            brier[name] = float(told["brier"][-1])
    saved = np.sort(np.subtract(spent["all"], spent["proposed"]))
    outside = int(stats.binom.ppf(0.025, options.pairs, 0.5)) - 1
    low, high = saved[max(outside, 0)], saved[options.pairs - 1 - max(outside, 0)]
    predicted = sum(costs[name] for name in dropped)
    middle = float(np.median(saved))
    figures = {
        "kept": list(kept), "predicted_us": round(predicted, 2), "saved_us": round(middle, 2),
        "saved_us_between": [round(low, 2), round(high, 2)], "saved_of_predicted": round(middle / predicted, 3),
        "saved_of_predicted_between": [round(low / predicted, 3), round(high / predicted, 3)],
        "us_a_row_all": round(float(np.median(spent["all"])), 2),
        "us_a_row_proposed": round(float(np.median(spent["proposed"])), 2),
        "brier_all": round(brier["all"], 5), "brier_proposed": round(brier["proposed"], 5),
    }  # fmt: skip
    if options.json:
        print(json.dumps({**figures, "inputs": last.to_dicts()}))
        return
    table = Table("input", "importance", "low", "high", "us a row", "keep")
    for row in last.iter_rows(named=True):
        table.add_row(row["input"], *(f"{row[name]:.4f}" for name in ("importance", "low", "high")),
                      f"{row['cost_us']:.2f}", "yes" if row["keep"] else "")  # fmt: skip
    Console().print(table)
    for name, figure in figures.items():
        print(f"{name}: {figure}")


if __name__ == "__main__":
    main()
