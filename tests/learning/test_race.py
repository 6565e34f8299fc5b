"""A race is decided by evidence, held by segments, kept within its budget; neither cut nor restart shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from naive_race import NaiveRace
from river import anomaly, compose, dummy, forest, linear_model, optim, preprocessing, tree

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.errors import DefinitionError, DuplicateName, InputError
from streamproc.testing.drive import drive
from streamproc.testing.topology_checks import check_topology

PAYMENT = parse_contract("""{"type": "record", "name": "payment", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "a", "type": ["null", "double"]},
    {"name": "b", "type": ["null", "double"]}, {"name": "c", "type": ["null", "double"]},
    {"name": "country", "type": ["null", "string"]}, {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
LABEL = parse_contract("""{"type": "record", "name": "label", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "y", "type": "boolean"},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
SIDES = ("metrics", "race", "shadows")


def linear() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def only(column: str) -> Any:
    """Lets a model see one column. (River's Select raises where it is missing.)"""
    return compose.Discard(*(name for name in "abc" if name != column))


def says(column: str) -> Any:
    """A model that says the chance of a column as a logit, and never learns."""
    ones = optim.initializers.Constant(1.0)
    return only(column) | linear_model.LogisticRegression(
        optim.SGD(0.0), initializer=ones, intercept_lr=0.0
    )  # fmt: skip


def raced(race: Any, *, report: int = 1000, segment: str = "country", **more: Any) -> sp.Topology:
    labels = sp.source("labels", contract=LABEL)
    step = sp.source("payments", contract=PAYMENT) | sp.learn(
        race, inputs=("a", "b", "c"), into="p", labels=labels, label="y", on="id", horizon="1h", report=report,
        segment=segment, **more,
    )  # fmt: skip
    return sp.Topology("t", sinks={"rows": step, **{name: step.side(name) for name in SIDES}})


def stream(seed: int, rows: int, *, delay: int, swap: bool = False, gaps: float = 0.0) -> dict[str, pl.DataFrame]:
    """Labels follow `a`; with `swap` they follow `b` in the second half."""
    random = np.random.default_rng(seed)
    a, b, c = random.normal(size=(3, rows))
    leads = np.where((np.arange(rows) >= rows // 2) & swap, b, a)
    y = random.random(rows) < 1 / (1 + np.exp(-1.5 * leads))
    ids, at = [f"i{i}" for i in range(rows)], 10 * np.arange(rows)
    country = random.choice(["DE", "FR", "IT"], rows, p=[0.6, 0.37, 0.03])
    paid = pl.DataFrame({"id": ids, "a": a, "b": b, "c": c, "country": country, "at": at})
    kept = [pl.when(pl.Series(random.random(rows) >= gaps)).then(pl.col(name)) for name in "abc"]
    return {
        "payments": paid.with_columns(kept),
        "labels": pl.DataFrame({"id": ids, "y": y, "at": at + 10 * delay + 5}),
    }


def mean_losses(done: Any, labels: pl.DataFrame) -> dict[str, float]:
    """Of what left and of each shadow, from the sinks' own rows; a null says one half."""
    both = done["rows"].select("id", "p").join(done["shadows"], on="id").join(labels.select("id", "y"), on="id")
    names = [name for name in both.columns if name not in ("id", "y") and not name.startswith("_")]
    return {name: float(((both[name].fill_null(0.5) - both["y"].cast(pl.Float64)) ** 2).mean()) for name in names}


# ── the twin ─────────────────────────────────────────────────────────────────────────────────────────────────────────

RULES: dict[str, dict[str, Any]] = {
    "by evidence alone": {"reign": 5},
    "with a short memory": {"reign": 5, "memory": 40},
    "held by segments": {"reign": 5, "delta": 0.02, "patience": 150},
    "passed by segments": {"reign": 5, "delta": 0.5, "patience": 600},
    "within a budget": {"reign": 5, "costs_us": {"usual": 1, "by_a": 2, "by_b": 2, "tree": 4}, "budget_us": 5,
                        "measure": 180},
    "out of memory": {"reign": 5, "budget_mb": 0.012, "measure": 70},
}  # fmt: skip


@pytest.mark.parametrize("delay", [0, 7])
@pytest.mark.parametrize("rules", RULES)
def test_a_race_equals_a_twin_in_plain_python(rules: str, delay: int) -> None:
    def models() -> dict[str, Any]:
        return {"usual": dummy.PriorClassifier(), "by_a": only("a") | linear_model.LogisticRegression(),
                "by_b": only("b") | linear_model.LogisticRegression(),
                "tree": tree.HoeffdingTreeClassifier(grace_period=40)}  # fmt: skip

    frames = stream(5, 700, delay=delay, swap=True, gaps=0.1)
    given = RULES[rules]
    done = drive(raced(sp.race(models(), error=0.3, **given), report=100, most_categories=20), frames)
    plain = {word: value for word, value in given.items() if word != "budget_mb"}
    budget_bytes = 1e6 * given.get("budget_mb", math.inf)
    twin = NaiveRace(models(), 3 / 0.3, most_segments=20, budget_bytes=budget_bytes, **plain)
    events = [(at, 0, one) for at, *one in frames["payments"].select("at", "id", "a", "b", "c", "country").iter_rows()]
    events += [(at, 1, one) for at, *one in frames["labels"].select("at", "id", "y").iter_rows()]
    expected, waits = [], {}
    for _, what, (name, *values) in sorted(events, key=lambda event: event[:2]):
        if what == 0:
            told = {column: value for column, value in zip("abc", values, strict=False) if value is not None}
            said = twin.score(told, values[3])
            waits[name] = told, {one: twin.mean() if s is None else s for one, s in said.items()}, values[3]
            expected.append((name, twin.champion, said[twin.champion]))
        else:
            twin.learn(*waits[name], values[0])
    rows = done["rows"]
    assert rows.select("id", "champion").rows() == [one[:2] for one in expected]
    assert rows["p"].to_list() == [one[2] for one in expected]
    told = done["race"].filter(pl.col("event") != "standing")
    assert told.select("labels", "event", "learner", "champion", "segment").rows() == twin.happened
    assert {row[1] for row in twin.happened} >= {
        "by evidence alone": {"promoted"}, "with a short memory": {"promoted"},
        "held by segments": {"promoted", "waits"}, "passed by segments": {"promoted", "waits"},
        "within a budget": {"promoted", "dropped"},
        "out of memory": {"promoted", "dropped"},
    }[rules]  # fmt: skip
    standing = done["race"].filter((pl.col("event") == "standing") & (pl.col("labels") == 700))
    for learner, champion, evidence in standing.select("learner", "champion", "evidence").iter_rows():
        assert champion == twin.champion
        assert evidence is None if learner == champion else evidence == pytest.approx(twin.shown(learner), rel=1e-9)


# ── what a race promises ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("delay", "memory"), [(0, 1), (200, 1), (200, 2_000)])
def test_the_champion_follows_when_the_best_model_is_another_one(delay: int, memory: int) -> None:
    frames = stream(1, 16_000, delay=delay, swap=True)
    done = drive(raced(sp.race({"by_a": says("a"), "by_b": says("b")}, memory=memory)), frames)
    promoted = done["race"].filter(pl.col("event") == "promoted")
    assert promoted["learner"].to_list() == ["by_b"]
    assert 0 < promoted["labels"][0] - 8_000 <= 250 + 0.7 * memory
    losses = mean_losses(done, frames["labels"])
    assert losses["p"] < (0.8 if memory == 1 else 0.9) * min(losses["by_a"], losses["by_b"])


@pytest.mark.parametrize(("gaps", "rows"), [(0.0, 30_000), (0.8, 20_000)])
def test_it_beats_what_costs_nothing_and_comes_near_the_best_in_hindsight(gaps: float, rows: int) -> None:
    frames = stream(2, rows, delay=200, gaps=gaps)
    models = {
        "usual": dummy.PriorClassifier(), "last_label": dummy.NoChangeClassifier(), "linear": linear(),
        "tree": tree.HoeffdingTreeClassifier(),
    }  # fmt: skip
    done = drive(raced(sp.race(models), report=rows), frames)
    told = done["metrics"].filter((pl.col("delay") == "label") & pl.col("segment").is_null())
    brier = dict(told.select("contender", "brier").iter_rows())
    best = min(brier[name] for name in models)
    assert brier["model"] < 0.99 * min(brier["no_change"], brier["prior"])
    assert brier["model"] <= 1.01 * best


def test_what_shadows_say_leaves_beside_the_rows_and_their_losses_are_reported() -> None:
    frames = stream(4, 1_000, delay=20)
    done = drive(raced(sp.race({"by_b": says("b"), "by_a": says("a")}), report=1000), frames)
    chances = frames["payments"].select("id", by_a=1 / (1 + (-pl.col("a")).exp()), by_b=1 / (1 + (-pl.col("b")).exp()))
    shadows = done["shadows"].join(chances, on="id", suffix="_hand")
    shadows = shadows[30:]  # River gives a model its first weights at its first label
    for name in ("by_a", "by_b"):
        assert shadows[name].to_list() == pytest.approx(shadows[f"{name}_hand"].to_list(), rel=1e-12)
    by_champion = done["rows"].join(chances, on="id")[30:]
    spoken = by_champion.select(pl.when(pl.col("champion") == "by_a").then("by_a").otherwise("by_b"))
    assert by_champion["p"].to_list() == pytest.approx(spoken.to_series().to_list(), rel=1e-12)
    assert set(done["rows"]["champion"]) == {"by_a", "by_b"}
    losses = mean_losses(done, frames["labels"])
    told = done["metrics"].filter((pl.col("delay") == "label") & pl.col("segment").is_null())
    for contender, brier in told.select("contender", "brier").iter_rows():
        if contender in ("by_a", "by_b", "model"):
            assert brier == pytest.approx(losses["p" if contender == "model" else contender], rel=1e-12)
    told = done["metrics"].filter((pl.col("contender") == "by_a") & (pl.col("segment") == "IT"))
    there = frames["payments"].filter(pl.col("country") == "IT").join(chances, on="id").join(frames["labels"], on="id")
    assert told["n"].item() == there.height
    assert told["brier"].item() == pytest.approx(((there["by_a"] - there["y"].cast(pl.Float64)) ** 2).mean(), abs=0.01)


@pytest.mark.parametrize(("inputs", "every"), [(("a", "country"), 1), (("a", "b"), 32)])
def test_each_model_says_what_it_would_say_alone(inputs: tuple[str, ...], every: int) -> None:
    def models() -> dict[str, Any]:
        texts = tree.HoeffdingTreeClassifier(grace_period=30, leaf_prediction="nb")
        counts = tree.ExtremelyFastDecisionTreeClassifier(grace_period=30, leaf_prediction="nb")
        other = preprocessing.MinMaxScaler() | linear_model.LogisticRegression()
        return {"one": texts, "two": counts} if "country" in inputs else {"one": linear(), "two": other}

    frames = stream(6, 400, delay=3)
    codes = pl.concat_str(pl.lit("c"), pl.int_range(pl.len()) // 5 % 40)
    frames["payments"] = frames["payments"].with_columns(country=codes)  # new texts all along the way
    rows, labels = sp.source("payments", contract=PAYMENT), sp.source("labels", contract=LABEL)

    def scored(model: Any) -> Any:
        return rows | sp.learn(
            model, inputs=inputs, into="p", labels=labels, label="y", on="id", horizon="1h", every=every
        )

    shadows = drive(sp.Topology("t", sinks={"said": scored(sp.race(models())).side("shadows")}), frames)["said"]
    for name, model in models().items():
        alone = drive(sp.Topology("t", sinks={"rows": scored(model)}), frames)["rows"]
        assert shadows.sort("id")[name].to_list() == alone.sort("id")["p"].to_list()
        assert alone["p"].n_unique() > 40


def test_regressors_race_by_squared_errors_up_to_the_largest() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=2_000)
    rows = pl.DataFrame({
        "id": [f"i{i}" for i in range(2_000)], "a": x, "b": 3 * x + random.normal(size=2_000),
        "country": ["DE"] * 2_000, "at": np.arange(2_000),
    })  # fmt: skip
    scaled = preprocessing.StandardScaler
    never = linear_model.LinearRegression(optim.SGD(0.0), intercept_lr=0.0)
    models = {"mean": scaled() | never, "line": scaled() | linear_model.LinearRegression()}
    step = sp.source("payments", contract=PAYMENT) | sp.learn(
        sp.race(models, largest=20.0), inputs=("a",), into="p", label="b"
    )
    done = drive(sp.Topology("t", sinks={"rows": step, "race": step.side("race")}), payments=rows, contracts=(PAYMENT,))
    assert done["rows"]["champion"].unique(maintain_order=True).to_list() == ["mean", "line"]
    promoted = done["race"].filter(pl.col("event") == "promoted")
    assert promoted["labels"][0] < 1_500


def test_neither_cut_nor_restart_nor_partition_shows() -> None:
    frames = stream(3, 90, delay=2, swap=True, gaps=0.1)
    grown = tree.HoeffdingTreeClassifier(grace_period=10)
    models = {"usual": dummy.PriorClassifier(), "by_a": says("a"), "tree": grown}
    race = sp.race(
        models, error=0.9, reign=3, delta=0.1, patience=4, budget_mb=0.012, measure=15,
        costs_us={"usual": 1, "by_a": 2, "tree": 3}, budget_us=9,
    )  # fmt: skip
    done = drive(raced(race, report=20), frames)
    assert {"promoted", "dropped"} <= set(done["race"]["event"])
    check_topology(raced(race, report=20), frames, contracts=(PAYMENT, LABEL), partitions=(1, 3), seeds=1)


def test_what_models_cost_is_measured_for_all_of_them() -> None:
    rows = stream(1, 200, delay=0)
    frame = rows["payments"].join(rows["labels"].select("id", "y"), on="id")
    models = {"linear": linear(), "tree": tree.HoeffdingTreeClassifier()}
    costs = sp.model_costs(models, frame, inputs=("a",), label="y")
    assert list(costs) == ["linear", "tree"] and min(costs.values()) > 0
    assert sp.race(models, costs_us=costs, budget_us=1e6).rules.costs_us == tuple(costs.values())
    with pytest.raises(InputError, match="19 rows do not show"):
        sp.model_costs({"linear": linear()}, frame[:19], inputs=("a",), label="y")


def test_mistakes_are_told_when_the_topology_is_planned() -> None:
    two = {"one": linear(), "two": linear()}
    for told, models, more in (
        ("needs two models", {"one": linear()}, {}),
        ("is named 'a b'", {"a b": linear(), "two": linear()}, {}),
        ("is named 'prior', which the metrics have", {"prior": linear(), "two": linear()}, {}),
        ("'two' detects anomalies", {"one": linear(), "two": anomaly.HalfSpaceTrees(seed=1)}, {}),
        ("different questions", {"one": linear(), "two": linear_model.LinearRegression()}, {}),
        ("does not know the largest", {name: linear_model.LinearRegression() for name in two}, {}),
        ("no largest error", two, {"largest": 3.0}),
        ("error=0", two, {"error": 0.0}),
        ("delta=1", two, {"delta": 1.0}),
        ("reign=0", two, {"reign": 0}),
        ("memory=0", two, {"memory": 0}),
        ("budget_mb=0", two, {"budget_mb": 0}),
        ("does not know what its models cost", two, {"budget_us": 9}),
        ("has no model 'won'", two, {"costs_us": {"won": 1}}),
        ("does not know what 'two' costs", two, {"costs_us": {"one": 1}}),
        ("'two' alone costs 8 us", two, {"costs_us": {"one": 1, "two": 8}, "budget_us": 7}),
    ):
        with pytest.raises(DefinitionError, match=told):
            sp.race(models, **more)
    with pytest.raises(DefinitionError, match="a delta and no segments"):
        sp.learn(sp.race(two, delta=0.1), inputs=("a",), label="y", into="p")
    with pytest.raises(DefinitionError, match="has no seed"):
        sp.learn(sp.race({"one": linear(), "two": forest.ARFClassifier()}), inputs=("a",), label="y", into="p")
    for into, champion in (("a", "champion"), ("p", "country"), ("p", "p")):
        with pytest.raises(DuplicateName, match="which is there"):
            drive(sp.Topology("t", sinks={"rows": sp.source("payments", contract=PAYMENT) | sp.learn(
                sp.race(two, champion=champion), inputs=("a",), label="at", into=into)}))  # fmt: skip
