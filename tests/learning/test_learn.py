"""A learner is River run by hand, at the right moments; what would poison a model never reaches it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from naive_learning import NaiveLearner
from river import forest, linear_model, naive_bayes, preprocessing, tree

import streamproc as sp
from streamproc.batch import WIDTH, Batch
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn
from streamproc.graph import Step, Stream
from streamproc.learning.evaluation import confidence
from streamproc.learning.kept_model import KeptModel
from streamproc.learning.learning_step import Block, Learner
from streamproc.operator import StepTime, StreamType
from streamproc.operators.key_by import KeyBy
from streamproc.operators.pending import LEARN, PREDICT, Events
from streamproc.testing.drive import drive
from streamproc.testing.naive import play, rows_of
from streamproc.testing.runs import RANK_HERE, run_trial
from streamproc.testing.trials import random_cuts, random_trial

ROW = Schema((Field("k", pl.String()), Field("x", pl.Float64(), nullable=True), Field("i", pl.Int64())))
LABEL = Schema((Field("k", pl.String()), Field("y", pl.Boolean(), nullable=True)))
STREAM = Stream(KeyBy(("k",)))
SECOND = 1_000_000


def linear() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def ran(step: Step, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, Any]:
    """Rows that bring their own labels through a learner: scores, metrics, the operator's state."""
    fields = tuple(Field(name, dtype, nullable=True) for name, dtype in frame.schema.items())
    meta = np.zeros((frame.height, WIDTH), np.int64)
    meta[:, 2] = 2 * np.arange(frame.height) + 1
    state = step.operator.open(StreamType(Schema(fields)))
    time = StepTime(np.zeros(frame.height, np.int64), 1)
    state, output = step.operator.process(state, (Batch(frame, meta),), time)
    return output.rows.frame, dict(output.sides)["metrics"].frame, state


@pytest.mark.parametrize("seed", range(40))
def test_a_learner_equals_the_twin_that_calls_river_row_by_row(seed: int) -> None:
    silence, every, in_order = bool(seed % 2), 1 + seed % 3, seed % 4 == 3
    labels = (
        {"labels": sp.outcome(STREAM, within="4s")} if silence else {"labels": STREAM, "label": "y", "horizon": "4s"}
    )
    step = sp.learn(linear(), inputs=("x", "i"), on="k", into="p", every=every, report=5, **labels)
    types = (StreamType(ROW, ("k",), ordered=in_order), StreamType(LABEL, ("k",), ordered=in_order))
    trial = random_trial(seed, types, rows=60, unit_us=SECOND)
    twin = NaiveLearner(linear(), ("x", "i"), "p", 4 * SECOND, every, "y", silence)
    rows = [row for port, batch in enumerate(trial.ports) for row in rows_of(batch, port=port)]
    if in_order:  # both sides go by event time, labels first
        rows = [row for row in rows if row.in_time]
        order = sorted(rows, key=lambda row: (row.event_time, -row.port, row.position))
        made: list[Any] = []
        for row in order:
            while (due := twin.due()) is not None and due < row.event_time:
                twin.release(due, 0, 0)
            made += twin.take(row) or []
    else:
        made, _ = play(twin, rows, trial.watermarks.tolist(), RANK_HERE)
    cuts = random_cuts(np.random.default_rng(seed), trial.watermarks.size)
    whole = run_trial(step.operator, trial, cuts)
    got = whole.rows.frame["p"].to_list()
    expected = [row.values["p"] for row in made]
    assert got == expected[: len(got)]
    assert in_order or len(got) == len(expected)
    metrics = whole.outputs.get("side 'metrics'")
    if metrics is not None and not in_order:
        last = metrics.frame.filter(pl.col("delay") == "label", pl.col("contender") == "model").row(-1, named=True)
        assert last["n"] == last["labels"] == len(twin.losses) // 5 * 5
        assert last["brier"] == pytest.approx(sum(twin.losses[: last["n"]]) / last["n"], abs=1e-12)


MODELS = {
    "scaled logistic regression": linear,
    "Hoeffding tree": lambda: tree.HoeffdingTreeClassifier(grace_period=20),
    "naive Bayes": naive_bayes.GaussianNB,
    "adaptive random forest": lambda: forest.ARFClassifier(n_models=3, seed=1),
}


@pytest.mark.parametrize("name", MODELS)
def test_scores_at_delay_zero_are_rivers_own(name: str) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(600, 3))
    y = x[:, 0] + 0.3 * random.normal(size=600) > 0
    frame = pl.DataFrame(x, ["a", "b", "c"]).with_columns(y=pl.Series(y))
    got, metrics, _ = ran(sp.learn(MODELS[name](), inputs=("a", "b", "c"), label="y", into="p", report=600), frame)
    model, expected = MODELS[name](), []
    for row, label in zip(x.tolist(), y.tolist(), strict=True):
        told = dict(zip("abc", row, strict=True))
        chances = model.predict_proba_one(told)
        expected.append(chances.get(True, 0.0) if chances else None)
        model.learn_one(told, label)
    assert got["p"].to_list() == expected
    judged = metrics.filter(pl.col("contender") == "model")
    assert judged["delay"].to_list() == ["label", "zero"]
    assert judged["brier"][0] == judged["brier"][1]  # a label in the row has no delay


@pytest.mark.parametrize("name", MODELS)
def test_rows_that_wait_are_asked_again_as_river_is_by_hand(name: str) -> None:
    random = np.random.default_rng(5)
    x, waiting, kinds, places, labels = random.normal(size=(1500, 3)), [], [], [], []
    model, scores, zero = MODELS[name](), [], []
    for row in range(1500):
        told = dict(zip("abc", x[row].tolist(), strict=True))
        chances = model.predict_proba_one(told)
        scores.append(chances.get(True, 0.0) if chances else math.nan)
        zero.append(math.nan)
        kinds.append(PREDICT), places.append(row), labels.append(math.nan)
        waiting.append((row, told))
        while waiting and random.random() < 0.6:  # the last one now and then, before anything else was learned
            place, told = waiting.pop(int(random.integers(len(waiting)) if random.random() < 0.5 else -1))
            label = bool(told["a"] > 0)
            chances = model.predict_proba_one(told)
            zero.append(chances.get(True, 0.0) if chances else math.nan)
            model.learn_one(told, label)
            kinds.append(LEARN), places.append(place), labels.append(float(label))
    lefts = [place if kind == PREDICT else -1 for kind, place in zip(kinds, places, strict=True)]
    none = np.zeros(len(kinds), np.int64)
    events = Events(np.array(kinds), np.array(lefts), np.array(places), none, none, np.array(labels))
    learner = Learner(KeptModel(MODELS[name]()), ("a", "b", "c"), (None,) * 3, Block(np.zeros((1, 4))))
    got, again = learner.run(events, x, x)
    np.testing.assert_array_equal(got, scores)
    np.testing.assert_array_equal(again, zero)


def test_blocks_are_learned_as_rivers_learn_many_does() -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(1000, 3)) * 5 + 1
    y = x[:, 0] > 1
    frame = pl.DataFrame(x, ["a", "b", "c"]).with_columns(y=pl.Series(y))
    got, _, _ = ran(sp.learn(linear(), inputs=("a", "b", "c"), label="y", into="p", every=64), frame)
    model, expected = linear(), np.empty(1000)
    for start in range(0, 1000, 64):
        part = frame[start : start + 64]
        for i, row in enumerate(part.select("a", "b", "c").to_dicts()):
            expected[start + i] = model.predict_proba_one(row)[True]
        if part.height == 64:
            model.learn_many(part.select("a", "b", "c"), part["y"])
    assert np.abs(got["p"].to_numpy() - expected).max() < 1e-12


def test_what_would_poison_a_model_never_reaches_it() -> None:
    wild = [1.0, math.nan, math.inf, -math.inf, 1e308, None, 2.0] * 30
    frame = pl.DataFrame(
        {
            "a": wild,
            "s": ["u", None, "v", "new", "u", "w", "v"] * 30,
            "y": [True, False, True, True, False, True, None] * 30,
        }
    )
    for model in (linear(), tree.HoeffdingTreeClassifier(grace_period=10), naive_bayes.GaussianNB()):
        inputs = ("a",) if not isinstance(model, tree.HoeffdingTreeClassifier) else ("a", "s")
        got, metrics, state = ran(sp.learn(model, inputs=inputs, label="y", into="p", report=60), frame)
        scores = got["p"].drop_nulls()
        assert scores.is_finite().all() and scores.len() >= got.height - 1
        assert metrics["failed"].max() == 0
        assert state.evaluation.labels == 180


def test_a_category_is_told_only_once_the_model_has_learned_it() -> None:
    step = sp.learn(tree.HoeffdingTreeClassifier(), inputs=("s",), label="y", into="p", most_categories=2)
    _, _, state = ran(step, pl.DataFrame({"s": ["u", "v", "w", "u"], "y": [True, None, True, False]}))
    categories = state.categories[0]
    assert categories.names == ["u", "v"] and categories.learned == [True, False]


def test_no_change_cannot_be_beaten_on_a_stream_that_repeats_itself() -> None:
    y = [bool(i // 50 % 2) for i in range(2000)]
    frame = pl.DataFrame({"x": np.random.default_rng(0).normal(size=2000), "y": y})
    _, metrics, _ = ran(sp.learn(linear(), inputs=("x",), label="y", into="p", report=2000), frame)
    one = {row["contender"]: row for row in metrics.filter(pl.col("delay") == "label").to_dicts()}
    assert one["no_change"]["accuracy"] > 0.97 and one["no_change"]["kappa_temporal"] == 0.0
    assert one["model"]["kappa_temporal"] < 0
    assert one["prior"]["auc"] is not None and one["no_change"]["log_loss"] is None


def test_segments_are_judged_apart_with_bounds_that_hold_their_means() -> None:
    random = np.random.default_rng(3)
    x, s = random.normal(size=3000), random.integers(0, 3, 3000)
    y = np.where(s == 2, x < 0, x > 0)  # in one segment everything is the other way round
    frame = pl.DataFrame({"x": x, "s": [f"s{i}" for i in s], "y": y})
    _, metrics, _ = ran(sp.learn(linear(), inputs=("x",), label="y", into="p", segment="s", report=3000), frame)
    found = {row["segment"]: row for row in metrics.filter(pl.col("segment").is_not_null()).to_dicts()}
    assert sum(row["n"] for row in found.values()) == 3000
    assert found["s2"]["low"] > found["s0"]["high"]


def test_bounds_of_the_error_hold_at_every_look_although_the_model_is_now_better_and_now_worse() -> None:
    random, n = np.random.default_rng(9), np.arange(1, 3_001)
    mean = 0.5 + 0.3 * np.sin(n / 200)  # of each loss, which is 0 or 1: nothing varies more
    means = np.cumsum(random.random((400, 3_000)) < mean, axis=1) / n
    true = np.cumsum(mean) / n
    wrong = 0
    for stream in means:
        bounds = [(i, *confidence(float(stream[i]), float(n[i]))) for i in (*range(10), *range(10, 3_000, 7))]
        wrong += any(not low <= true[i] <= high for i, low, high in bounds)
    print(f"{wrong} of 400 streams left their bounds")
    assert wrong <= 0.05 * 400


PAY = parse_contract(
    '{"type": "record", "name": "pay", "sp:version": 1, "fields": [{"name": "id", "type": "string", "sp:role": "key"},'
    ' {"name": "amount", "type": "double"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}'
)
BACK = parse_contract(
    '{"type": "record", "name": "back", "sp:version": 1, "fields": [{"name": "id", "type": "string", "sp:role": "key"},'
    ' {"name": "at", "type": "long", "sp:role": "event_time"}]}'
)


def test_a_topology_learns_from_silence_in_a_stage_of_its_own() -> None:
    backs = sp.source("backs", contract=BACK)
    scored = sp.source("pays", contract=PAY) | sp.learn(
        linear(), inputs=("amount",), labels=sp.outcome(backs, within="100s"), on="id", into="risk", report=50
    )
    topology = sp.Topology("risk", sinks={"scored": scored, "metrics": scored.side("metrics")})
    random = np.random.default_rng(4)
    pays = pl.DataFrame(
        {"id": [f"p{i}" for i in range(300)], "amount": random.random(300), "at": np.arange(300) * SECOND}
    )
    bad = pays.filter(pl.col("amount") > 0.7)
    events = bad.select("id", at=pl.col("at") + 30 * SECOND)
    done = drive(topology, pays=pays, backs=events, contracts=(PAY, BACK))
    assert done["scored"].height == 300
    last = done["metrics"].filter(pl.col("delay") == "label", pl.col("contender") == "model").row(-1, named=True)
    assert last["n"] == 300 and last["given_up"] == 0
    by_hand = float(np.mean(pays["amount"].to_numpy() > 0.7))
    prior = done["metrics"].filter(pl.col("contender") == "prior").row(-1, named=True)
    assert prior["n"] == 300 and abs(prior["brier"] - by_hand * (1 - by_hand)) < 0.05
    again = drive(topology, pays=pays, backs=events, contracts=(PAY, BACK), steps=iter(lambda: 7, None))
    assert again["scored"].equals(done["scored"]) and again["metrics"].equals(done["metrics"])


def test_mistakes_are_told_when_the_topology_is_planned() -> None:
    with pytest.raises(DefinitionError, match="has no seed"):
        sp.learn(forest.ARFClassifier(), inputs=("x",), label="y", into="p")
    with pytest.raises(DefinitionError, match="not one of River's own classes"):
        sp.learn(linear_model.LogisticRegression(loss=_Mine()), inputs=("x",), label="y", into="p")
    with pytest.raises(DefinitionError, match="no labels"):
        sp.learn(linear(), inputs=("x",), into="p")
    with pytest.raises(DefinitionError, match="how long"):
        sp.learn(linear(), inputs=("x",), labels=STREAM, on="k", label="y", into="p")
    step = sp.learn(linear(), inputs=("x",), label="y", into="p")
    good = Schema((Field("x", pl.Float64()), Field("y", pl.Boolean())))
    assert step.operator.schema(StreamType(good)).schema["p"].nullable
    with pytest.raises(UnknownColumn, match="'y'"):
        step.operator.schema(StreamType(Schema((Field("x", pl.Float64()),))))
    with pytest.raises(TypeMismatch, match="Date"):
        step.operator.schema(StreamType(Schema((Field("x", pl.Date()), Field("y", pl.Boolean())))))
    with pytest.raises(DuplicateName):
        step.operator.schema(StreamType(Schema((*good, Field("p", pl.Float64())))))
    rows = sp.source("pays", contract=PAY) | sp.learn(linear(), inputs=("amount",), label="amount", into="p")
    with pytest.raises(DefinitionError, match="label"):
        drive(sp.Topology("bad", sinks={"out": rows}), contracts=(PAY,))
    side = (sp.source("pays", contract=PAY) | sp.where(pl.col("amount") > 0)).side("metrics")
    with pytest.raises(DefinitionError, match="no side 'metrics'"):
        drive(sp.Topology("bad", sinks={"out": side}), registry=MemoryRegistry((PAY,)))


class _Mine:
    """Not a class of River."""


def test_what_a_learner_is_worth_stands_among_the_workers_metrics() -> None:
    from streamproc.runtime.binding import bind
    from streamproc.runtime.replay import source_ends
    from streamproc.runtime.telemetry.metrics import WorkerMetrics
    from streamproc.runtime.telemetry.vital import Vital
    from streamproc.runtime.telemetry.worker_telemetry import WorkerTelemetry
    from streamproc.runtime.worker import Worker
    from streamproc.testing.drive import prepared

    pays = pl.DataFrame({"id": [f"p{i}" for i in range(50)], "amount": [i / 50 for i in range(50)], "at": range(50)})
    backs = pays.filter(pl.col("amount") > 0.5).select("id", at=pl.col("at") + 10)
    scored = sp.source("pays", contract=PAY) | sp.learn(
        linear(),
        inputs=("amount",),
        labels=sp.outcome(sp.source("backs", contract=BACK), within="20us"),
        on="id",
        into="p",
    )
    topology, registry = sp.Topology("risk", sinks={"scored": scored}), MemoryRegistry((PAY, BACK))
    log = prepared(topology, {"pays": pays, "backs": backs}, registry)
    binding, metrics = bind(topology, log, registry), WorkerMetrics()

    class Keeps(WorkerTelemetry):
        """Keeps the tasks that a worker gives back at its end."""

        tasks: Any = ()

        def turned(self, tasks: Any, **more: Any) -> None:
            self.tasks = dict(tasks) or self.tasks
            super().turned(tasks, **more)

    told = Keeps(binding, log, None, Vital(), metrics)
    worker = Worker(binding, log, until_end=source_ends(binding, log), in_stages=True, observer=told)
    worker.run()
    told._look(told.tasks)
    task = next(task for task in told.tasks.values() if "learn" in task.state.operators)
    learner = task.state.operators["learn"]
    labels = {"topology": "risk", "stage": str(task.stage.stage.index), "step": "learn"}
    assert learner.evaluation.labels > 20
    assert metrics.registry.get_sample_value("streamproc_learner_labels", labels) == learner.evaluation.labels
    which = {**labels, "delay": "label", "contender": "model"}
    error = metrics.registry.get_sample_value("streamproc_learner_mean_squared_error", which)
    assert error == pytest.approx(learner.evaluation.sums[0, 0, 2] / learner.evaluation.labels)
