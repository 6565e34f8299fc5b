"""Learners, drift tests, decisions and alerts as the laws of operators try them."""

from __future__ import annotations

from typing import Any

import polars as pl
from river import anomaly, drift, dummy, linear_model, preprocessing, tree

import streamproc as sp
from streamproc.contracts.model import Field, Schema
from streamproc.graph import Step, Stream
from streamproc.operator import StreamType
from streamproc.operators.key_by import KeyBy

ROW = Schema((
    Field("k", pl.String(), nullable=True), Field("x", pl.Float64(), nullable=True), Field("i", pl.Int64()),
    Field("s", pl.String(), nullable=True), Field("b", pl.Boolean(), nullable=True),
))  # fmt: skip
LABEL = Schema((Field("k", pl.String(), nullable=True), Field("y", pl.Boolean(), nullable=True)))
ROWS, KEYED = StreamType(ROW), StreamType(ROW, ("k",))
LABELS = StreamType(LABEL, ("k",))
IN_ORDER, LABELS_IN_ORDER = StreamType(ROW, ("k",), ordered=True), StreamType(LABEL, ("k",), ordered=True)
STREAM = Stream(KeyBy(("k",)))


def linear() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


RACE = sp.race(
    {
        "tree": tree.HoeffdingTreeClassifier(grace_period=5), "always": dummy.PriorClassifier(),
        "last": dummy.NoChangeClassifier(),
    },
    error=0.9, reign=2, delta=0.3, patience=1, costs_us={"tree": 3, "always": 2, "last": 2}, budget_us=4,
    budget_mb=0.0006, measure=4,
)  # fmt: skip
"""Everything happens soon: champions change, segments hold, snapshots grow out of the budget."""
BLOCKS = sp.race({"linear": linear(), "slow": preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=1.0)},
                 error=0.9, reign=1)  # fmt: skip
WEIGHED = sp.importance(share=0.7, costs_us={"x": 1, "i": 2, "s": 2}, budget_us=3, memory=3)
BY_LABEL = {"labels": STREAM, "on": "k", "label": "y", "horizon": "4s", "into": "p", "report": 3}
BY_SILENCE = {"labels": sp.outcome(STREAM, within="4s"), "on": "k", "into": "p", "report": 3}
RULES = (sp.when(pl.col("x") > 1, then="block"), sp.when(pl.col("i") < 0, then="review", name="negative"))
SHARED = ("key",)
"""One model for all keys of a task: how keys interleave is part of what it learns from."""

LEARNING_LAWS: dict[str, tuple[Step, tuple[StreamType, ...], tuple[str, ...]]] = {
    "learn": (sp.learn(linear(), inputs=("x", "i"), every=2, **BY_LABEL), (KEYED, LABELS), SHARED),
    "learn in the row": (sp.learn(linear(), inputs=("x", "i"), label="b", into="p", report=3), (ROWS,), SHARED),
    "learn from silence": (
        sp.learn(linear(), inputs=("x", "i"), segment="s", **BY_SILENCE), (KEYED, LABELS), SHARED,
    ),
    "learn in order": (sp.learn(linear(), inputs=("x", "i"), **BY_SILENCE), (IN_ORDER, LABELS_IN_ORDER), SHARED),
    "learn categories": (
        sp.learn(tree.HoeffdingTreeClassifier(grace_period=5), inputs=("x", "i", "s"), most_categories=3,
                 importance=WEIGHED, **BY_LABEL),
        (KEYED, LABELS), SHARED,
    ),
    "learn without labels": (
        sp.learn(anomaly.HalfSpaceTrees(seed=1, n_trees=2, height=3), inputs=("x", "i"), into="p"), (ROWS,), SHARED,
    ),
    "learn by blocks": (
        sp.learn(linear(), inputs=("i", "x"), label="b", into="p", report=7, every=32,
                 importance=sp.importance(share=0.5)), (ROWS,), SHARED,
    ),
    "learn in a race": (
        sp.learn(RACE, inputs=("x", "i", "s"), segment="s", every=2, calibrated="q", importance=WEIGHED,
                 **BY_LABEL),
        (KEYED, LABELS), SHARED,
    ),
    "learn in a race from silence": (
        sp.learn(RACE, inputs=("x", "s"), segment="s", **BY_SILENCE), (KEYED, LABELS), SHARED,
    ),
    "learn in a race by blocks": (
        sp.learn(BLOCKS, inputs=("i", "x"), label="b", into="p", report=7, every=32), (ROWS,), SHARED,
    ),
    "drift": (sp.drift("x", "i", "s", run_length=10, warm=20, report=7), (ROWS,), SHARED),
    "drift whitened": (sp.drift("x", "i", run_length=10, warm=20, report=9, serial="whiten"), (ROWS,), SHARED),
    "drift thinned": (sp.drift("i", run_length=10, warm=20, reference=30, serial="thin"), (ROWS,), SHARED),
    "drift by ADWIN": (sp.drift("i", "x", test=drift.ADWIN(delta=0.5, clock=1, grace_period=3)), (ROWS,), SHARED),
    "drift by KSWIN": (
        sp.drift("i", test=drift.KSWIN(alpha=0.3, window_size=20, stat_size=5, seed=1)), (ROWS,), SHARED,
    ),
    "abstain": (
        sp.abstain("x", labels=STREAM, label="y", horizon="4s", on="k", target=0.4, window=100, every=2),
        (KEYED, LABELS), SHARED,
    ),
    "abstain from silence": (
        sp.abstain("x", labels=sp.outcome(STREAM, within="4s"), on="k", target=0.45, window=100, every=1),
        (KEYED, LABELS), SHARED,
    ),
    "decide": (sp.decide(*RULES, otherwise="allow", log=("s",)), (KEYED,), SHARED),
    "decide uniquely": (sp.decide(*RULES, otherwise="allow", hit="unique"), (ROWS,), SHARED),
    "decide all": (sp.decide(*RULES, otherwise="allow", hit="collect"), (ROWS,), SHARED),
    "decide by cost": (sp.decide(sp.cheapest("x", a=(0, 9), b=(2, 1)), otherwise="c"), (ROWS,), SHARED),
    "fallback": (sp.fallback("p", full="x", old=sp.rung("i", age="i", max_age="3s"), prior=0.5), (KEYED,), ()),
    "route": (sp.route("k", salt="e", weights=[{"a": 0.9, "b": 0.1}, {"a": 0.7, "b": 0.3}]), (KEYED,), ()),
    "bandit": (
        sp.bandit(("a", "b"), rewards=STREAM, reward="y", horizon="4s", on="k", salt="e", every=2, report=3, memory=9),
        (KEYED, LABELS), SHARED,
    ),
    "bandit from silence": (
        sp.bandit(("a", "b", "c"), rewards=sp.outcome(STREAM, within="4s"), on="k", salt="e", every=1, policy="greedy",
                  report=3), (KEYED, LABELS), SHARED,
    ),
    "winner": (
        sp.winner("s", arms=("a", "b"), propensity="x", rewards=STREAM, reward="y", horizon="4s", on="k", least=0.1,
                  report=3), (KEYED, LABELS), SHARED,
    ),
    "sample_ratio": (sp.sample_ratio("s", weights={"a": 0.5, "b": 0.5}, alpha=0.5), (ROWS,), SHARED),
    "alert": (sp.alert("x", title="x", above=0.5, clear=-0.5, hold="1s", calm="1s"), (KEYED,), ()),
    "alert where": (sp.alert(pl.col("i") > 0, title="i", severity="high", runbook="r"), (KEYED,), ()),
    "alert in storms": (sp.alert("x", title="x", above=0.0, storm=1, fold="5s"), (KEYED,), SHARED),
    **{f"drift by {test}": (
        sp.drift("i", "x", "s", test=test, window=10, reference=20, run_length=20), (ROWS,), SHARED
    ) for test in ("ks", "psi", "chi2", "wasserstein")},
}  # fmt: skip
