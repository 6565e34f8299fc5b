"""What inputs are worth: found where it is known, bounded at every moment, proposed within a budget, never taken."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from river import anomaly, compose, linear_model, optim, preprocessing, tree

import streamproc as sp
from streamproc.batch import C1, ROW, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, InputError
from streamproc.graph import Step
from streamproc.hashing import mix64
from streamproc.learning.importance import proposal
from streamproc.operator import StepTime, StreamType
from streamproc.operators.mean_bounds import mean_bounds
from streamproc.testing.input_costs import costs_read, halves, input_costs


def linear() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def grown() -> Any:
    return tree.HoeffdingTreeClassifier(grace_period=50)


def ran(step: Step, frame: pl.DataFrame, sizes: int = 0) -> tuple[pl.DataFrame, dict[str, pl.DataFrame], Any]:
    """Rows with their own labels through a learner: rows, sides, the state."""
    fields = tuple(Field(name, dtype, nullable=True) for name, dtype in frame.schema.items())
    state, rows, sides = step.operator.open(StreamType(Schema(fields))), [], {}
    for at in range(0, frame.height, sizes or frame.height):
        part = frame[at : at + (sizes or frame.height)]
        meta = np.zeros((part.height, WIDTH), np.int64)
        meta[:, ROW], meta[:, C1] = 2 * np.arange(part.height) + 1, at + np.arange(part.height)
        state, out = step.operator.process(state, (Batch(part, meta),), StepTime(np.zeros(part.height, np.int64), 1))
        rows.append(out.rows.frame)
        for name, side in out.sides:
            sides.setdefault(name, []).append(side.frame)
    return pl.concat(rows), {name: pl.concat(parts) for name, parts in sides.items()}, state


def stream(seed: int, n: int, gaps: float = 0.0) -> pl.DataFrame:
    """Labels follow `a` and, less, `b`; `c` and `s` say nothing; some values are missing."""
    random = np.random.default_rng(seed)
    a, b, c = random.normal(size=(3, n))
    y = random.random(n) < 1 / (1 + np.exp(-(2 * a + b)))
    frame = pl.DataFrame({"a": a, "b": b, "c": c, "s": random.choice(["x", "y", "z"], n), "y": y})
    hidden = [pl.when(pl.Series(random.random(n) >= gaps)).then(pl.col(name)).alias(name) for name in "abcs"]
    return frame.with_columns(hidden)


# ── the twin ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def naive(model: Any, frame: pl.DataFrame, inputs: tuple[str, ...], share: float, seed: int) -> dict[str, list[float]]:
    """Differences of losses by input, as a person takes them: a list of earlier rows, River called row by row."""
    asked: list[dict[str, Any]] = []
    known: set[tuple[str, Any]] = set()
    found: dict[str, list[float]] = {name: [] for name in inputs}

    def says(row: dict[str, Any]) -> float | None:
        told = {n: v for n, v in row.items() if v is not None and (not isinstance(v, str) or (n, v) in known)}
        chances = model.predict_proba_one(told)
        return chances.get(True, 0.0) if chances else None

    for number, values in enumerate(frame.iter_rows(named=True)):
        row, y = {name: values[name] for name in inputs}, values["y"]
        score = says(row)
        zero = np.zeros(1, np.int64)
        drawn = mix64(np.array([seed]), zero, np.array([number]), zero, zero)
        if int(drawn[0]) / 2**64 < share:
            for j, name in enumerate(inputs):
                if asked and score is not None:
                    back = 1 + int(mix64(drawn, np.array([j]))[0]) % min(len(asked), 256)
                    other = says({**row, name: asked[-back][name]})
                    found[name].append((other - y) ** 2 - (score - y) ** 2)
                elif score is not None:
                    found[name].append(0.0)  # the first row has no other: it is told its own values
            asked.append(row)
        known |= {(name, value) for name, value in row.items() if isinstance(value, str)}
        model.learn_one({name: value for name, value in row.items() if value is not None}, y)
    return found


@pytest.mark.parametrize("model", [linear, grown])
def test_importance_equals_a_twin_that_asks_row_by_row(model: Any) -> None:
    inputs, frame = ("a", "b", "c") if model is linear else ("a", "s", "c"), stream(1, 1_500, gaps=0.1)
    step = sp.learn(
        model(), inputs=inputs, label="y", into="p", report=1_500, importance=sp.importance(share=0.6, seed=7)
    )
    told = ran(step, frame, sizes=217)[1]["importance"]
    found = naive(model(), frame, inputs, 0.6, 7)
    assert min(len(one) for one in found.values()) > 800
    for name, n, worth, recent in told.select("input", "n", "importance", "recent").iter_rows():
        assert n == len(found[name])
        assert worth == pytest.approx(float(np.mean(found[name])), abs=1e-12)
        assert recent == pytest.approx(worth, abs=1e-12)  # fewer rows than are recent
    for name, low, high in told.select("input", "low", "high").iter_rows():
        mine = found[name]
        before = [0.0, *(np.cumsum(mine[:-1]) / np.arange(1, len(mine)))]
        variation = sum((one - mean) ** 2 for one, mean in zip(mine, before, strict=True))
        bounds = mean_bounds(float(np.mean(mine)), float(len(mine)), float(variation), width=2.0, error=0.05 / 3)
        assert (low, high) == pytest.approx(bounds, abs=1e-12)


def test_blocks_are_asked_as_rows_are() -> None:
    frame = stream(2, 2_000, gaps=0.1)
    told = {}
    for every in (31, 32):  # below 32 a block is asked and learned row by row
        still = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.0), intercept_lr=0.0,
            initializer=optim.initializers.Constant(0.5))  # fmt: skip
        step = sp.learn(still, inputs=("a", "b"), label="y", into="p", every=every, report=2_000,
                        importance=sp.importance(share=0.5))  # fmt: skip
        told[every] = ran(step, frame)[1]["importance"]["importance"].to_list()
    assert told[31] == pytest.approx(told[32], abs=2e-3)  # scalers learn some rows apart, weights never move
    assert min(told[32]) > 0.005


# ── what it promises ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("model", "inputs", "every"), [
    (linear, ("a", "b", "c"), 1), (linear, ("a", "b", "c"), 64), (grown, ("a", "s", "c"), 1),
    (lambda: sp.race({"one": linear(), "two": grown()}, error=0.9, reign=5), ("a", "s"), 1),
])  # fmt: skip
def test_to_be_asked_changes_neither_scores_nor_models(model: Any, inputs: tuple[str, ...], every: int) -> None:
    frame = stream(3, 700 if every == 1 else 6_000, gaps=0.2)
    costs = dict.fromkeys(inputs, 1.0)
    rules = sp.importance(share=1.0, costs_us=costs, budget_us=1.0, negligible=0.9)  # proposes much
    with_it, without = (
        ran(sp.learn(model(), inputs=inputs, label="y", into="p", every=every, report=100, importance=one), frame)
        for one in (rules, None)
    )
    assert with_it[0].equals(without[0])
    assert [one.packed() for one in with_it[2].models] == [one.packed() for one in without[2].models]
    assert not with_it[1]["importance"]["keep"].all()


@pytest.mark.parametrize(("model", "n"), [(linear, 12_000), (grown, 4_000)])
def test_inputs_that_matter_are_found_and_the_others_are_not(model: Any, n: int) -> None:
    """Ten inputs of which two say something."""
    random = np.random.default_rng(4)
    names = tuple(f"x{i}" for i in range(10))
    x = random.normal(size=(n, 10))
    y = random.random(n) < 1 / (1 + np.exp(-(2.0 * x[:, 3] - 1.0 * x[:, 6])))
    frame = pl.DataFrame(x, names).with_columns(y=pl.Series(y))
    step = sp.learn(model(), inputs=names, label="y", into="p", report=n, importance=sp.importance(share=0.5))
    told = ran(step, frame)[1]["importance"]
    assert told.filter(pl.col("low") > 0)["input"].to_list() == ["x3", "x6"]
    worth = dict(told.select("input", "importance").iter_rows())
    assert sorted(worth, key=lambda name: -worth[name])[:2] == ["x3", "x6"]
    assert all(abs(worth[name]) < 0.01 for name in names if name not in ("x3", "x6"))


def test_the_proposal_is_tried_as_a_race_and_the_reduced_model_is_as_good() -> None:
    frame = stream(5, 12_000)
    rules = sp.importance(share=0.5, negligible=0.005)
    alone = sp.learn(linear(), inputs=("a", "b", "c"), label="y", into="p", report=12_000, importance=rules)
    gone = ran(alone, frame)[1]["importance"].filter(~pl.col("keep"))
    assert gone["input"].to_list() == ["c"] and gone["reason"].to_list() == ["shown to be worth less than 0.005"]
    race = sp.race({"full": linear(), "reduced": compose.Discard(*gone["input"]) | linear()})
    tried = sp.learn(race, inputs=("a", "b", "c"), label="y", into="p", report=12_000, importance=rules)
    sides = ran(tried, frame)[1]
    brier = dict(sides["metrics"].filter(pl.col("delay") == "label").select("contender", "brier").iter_rows())
    assert brier["reduced"] < brier["full"] + 0.001
    told = sides["importance"].filter((pl.col("learner") == "reduced") & (pl.col("input") == "c"))
    assert told["importance"].item() == told["recent"].item() == 0.0 and told["n"].item() > 5_000


def test_what_is_recent_follows_where_another_input_matters_from_now_on() -> None:
    random = np.random.default_rng(6)
    n = 8_000
    a, b = random.normal(size=(2, n))
    leads = np.where(np.arange(n) < n // 2, a, b)
    frame = pl.DataFrame({"a": a, "b": b, "y": random.random(n) < 1 / (1 + np.exp(-2.0 * leads))})
    step = sp.learn(linear(), inputs=("a", "b"), label="y", into="p", report=n,
                    importance=sp.importance(share=1.0, memory=1_000))  # fmt: skip
    told = ran(step, frame)[1]["importance"]
    recent, whole = told["recent"].to_list(), told["importance"].to_list()
    assert recent[1] > 5 * recent[0] and whole[0] > 5 * recent[0]


VALUES = {
    "small": lambda random, shape: 0.1 * random.uniform(-1, 1, shape),
    "rare": lambda random, shape: np.where(random.random(shape) < 0.01, 0.99, -0.01),
    "coins": lambda random, shape: random.choice([-1.0, 1.0], shape),
}


@pytest.mark.parametrize("kind", VALUES)
def test_bounds_hold_at_every_moment_at_once(kind: str) -> None:
    values = VALUES[kind](np.random.default_rng(8), (400, 3_000))
    n = np.arange(1, 3_001)
    means = np.cumsum(values, axis=1) / n
    before = np.concatenate((np.zeros((400, 1)), means[:, :-1]), axis=1)
    variation = np.cumsum((values - before) ** 2, axis=1)
    wrong = 0
    for stream_means, stream_variation in zip(means, variation, strict=True):
        looked = [*range(10), *range(10, 3_000, 29)]
        bounds = [mean_bounds(float(stream_means[i]), float(n[i]), float(stream_variation[i]), width=2.0, error=0.1)
                  for i in looked]  # fmt: skip
        wrong += any(low > 0 or high < 0 for low, high in bounds)
    assert wrong <= 0.1 * 400
    low, high = mean_bounds(0.0, 3_000.0, float(variation[0, -1]), width=2.0, error=0.1)
    spread = values.std()
    assert high - low < 2 * (6.5 * spread / math.sqrt(3_000) + 30 / 3_000)  # no wider than variation asks


@pytest.mark.parametrize("seed", range(30))
def test_the_proposal_is_the_best_of_all_subsets(seed: int) -> None:
    random = np.random.default_rng(seed)
    k = int(random.integers(1, 9))
    worths = [(float(w), float(r)) for w, r in random.normal(0.2, 0.2, (k, 2))]
    costs, budget = random.integers(1, 9, k).astype(float).tolist(), float(random.integers(2, 20))
    bounds = [(max(w, r) - 0.1, max(w, r) + 0.1) for w, r in worths]
    told = proposal(worths, bounds, costs, budget, 0.05)
    if all(low <= 0 for low, _ in bounds):
        assert all(keep for keep, _ in told)
        return
    able = [i for i in range(k) if bounds[i][1] >= 0.05]
    sets = [one for size in range(len(able) + 1) for one in itertools.combinations(able, size)]
    fit = [one for one in sets if sum(costs[i] for i in one) <= budget]
    most = max(sum(max(*worths[i], 0.0) for i in one) for one in fit)
    mine = [i for i, (keep, _) in enumerate(told) if keep]
    assert sum(costs[i] for i in mine) <= budget or mine == able
    if sum(costs[i] for i in able) > budget:
        assert sum(max(*worths[i], 0.0) for i in mine) == pytest.approx(most, abs=1e-12)
    else:
        assert mine == able
    assert all(keep == (reason == "") for keep, reason in told)


def test_forty_inputs_of_any_cost_are_weighed_soon_and_within_the_budget() -> None:
    costs = [2.0**i for i in range(40)]
    told = proposal([(cost, cost) for cost in costs], [(1.0, 2.0)] * 40, costs, 0.6 * sum(costs), 0.0)
    spent = sum(cost for cost, (keep, _) in zip(costs, told, strict=True) if keep)
    assert 0.99 * 0.6 * sum(costs) < spent <= 0.6 * sum(costs)


def test_mistakes_are_told_when_the_topology_is_planned() -> None:
    for told, more in (
        ("share and error", {"share": 0.0}), ("share and error", {"error": 1.0}), ("share and error", {"memory": 0}),
        ("does not know what inputs cost", {"budget_us": 3.0}), ("'a' costs -1", {"costs_us": {"a": -1.0}}),
        ("does not know what inputs cost", {"budget_us": 0.0, "costs_us": {"a": 1.0}}), ("largest=0", {"largest": 0.0}),
    ):  # fmt: skip
        with pytest.raises(DefinitionError, match=told):
            sp.importance(**more)
    line = linear_model.LinearRegression
    for told, model, rules in (
        ("has no input 'b'", linear(), sp.importance(costs_us={"b": 1.0})),
        ("does not know what 'c' costs", linear(), sp.importance(costs_us={"a": 1.0})),
        ("detector of anomalies", anomaly.HalfSpaceTrees(seed=1), sp.importance()),
        ("does not know the largest", line(), sp.importance()),
        ("has no largest error", linear(), sp.importance(largest=2.0)),
        ("the race has largest=3", sp.race({"a": line(), "b": line()}, largest=3.0), sp.importance(largest=2.0)),
    ):
        with pytest.raises(DefinitionError, match=told):
            sp.learn(model, inputs=("a", "c"), label="y", into="p", importance=rules)


@pytest.mark.parametrize("inputs", [2, 3, 4, 7, 10, 15, 16, 20])
def test_what_each_input_costs_is_read_from_runs_that_leave_out_half(inputs: int) -> None:
    there = halves(inputs)
    assert there.any(axis=1).all() and there.all(axis=1).any() and len(np.unique(there, axis=0)) == len(there)
    assert inputs < 3 or np.abs(there.mean(axis=0) - 0.5).max() < 0.08
    # Costs that add up are found; where two inputs share work each has half of it, and no third one any.
    random = np.random.default_rng(inputs)
    costs = random.random(inputs)
    assert costs_read(there, 20.0 + there @ costs) == pytest.approx(costs, abs=1e-9)
    if inputs >= 4:
        shared = np.where(there[:, 0] | there[:, 1], 1.0, 0.0)
        read = costs_read(there, 20.0 + there @ costs + shared)
        assert read == pytest.approx(costs + np.where(np.arange(inputs) < 2, 0.5, 0.0), abs=0.1)
    # The error of a run comes through smaller than it is by far, where leaving out one at a time makes it larger.
    noise = [costs_read(there, random.normal(size=len(there)))[0] for _ in range(2_000)]
    assert inputs < 3 or np.std(noise) < 2.3 / np.sqrt(len(there))


def test_what_a_single_input_costs_cannot_be_told_apart() -> None:
    with pytest.raises(InputError, match="the only input"):
        input_costs(lambda inputs: None, ("a",), {"rows": pl.DataFrame({"a": range(100)})})  # type: ignore[arg-type, return-value]
