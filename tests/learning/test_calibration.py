"""Chances that mean what they say, per source, also where what is usual changes; never worse than the plain ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from naive_calibration import NaiveCalibration
from river import linear_model, optim, preprocessing

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.errors import DefinitionError, DuplicateName
from streamproc.testing.drive import drive
from streamproc.testing.topology_checks import check_topology

PAYMENT = parse_contract("""{"type": "record", "name": "payment", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "x", "type": ["null", "double"]},
    {"name": "source", "type": ["null", "string"]}, {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
LABEL = parse_contract("""{"type": "record", "name": "label", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "y", "type": "boolean"},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
SOURCES = ("shop", "till")


def scored(model: Any, *, lateness: str = "0s", **more: Any) -> Any:
    payments = sp.source("payments", contract=PAYMENT, lateness=lateness)
    labels = sp.source("labels", contract=LABEL, lateness=lateness)
    return payments | sp.learn(
        model, inputs=("x",), into="p", calibrated="q", segment="source", labels=labels, label="y", on="id",
        horizon="1h", **more,
    )  # fmt: skip


def linear() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def truthful() -> Any:
    """A model that says the chance of its input as a logit, and never learns."""
    ones = optim.initializers.Constant(1.0)
    return linear_model.LogisticRegression(optim.SGD(0.0), initializer=ones, intercept_lr=0.0)


def stream(seed: int, rows: int, usual: dict[str, tuple[float, float]], *, delay: int = 0) -> dict[str, pl.DataFrame]:
    """Payments of sources with a usual share of trues in each half of the stream, and their labels."""
    random = np.random.default_rng(seed)
    names = list(usual)
    of = random.integers(len(names), size=rows)
    half = (np.arange(rows) >= rows // 2).astype(int)
    x = random.normal(size=rows)
    share = np.array([usual[names[one]][when] for one, when in zip(of, half, strict=True)])
    y = random.random(rows) < 1 / (1 + np.exp(-(1.2 * x + np.log(share / (1 - share)))))
    ids, at = [f"i{i}" for i in range(rows)], 10 * np.arange(rows)
    paid = pl.DataFrame({"id": ids, "x": x, "source": [names[one] for one in of], "at": at})
    return {"payments": paid, "labels": pl.DataFrame({"id": ids, "y": y, "at": at + 10 * delay + 5})}


def judged(rows: pl.DataFrame, labels: pl.DataFrame, column: str) -> dict[str, float]:
    """Log loss, ECE over ten bins and AUC, by NumPy."""
    both = rows.join(labels.select("id", "y"), on="id").drop_nulls(column)
    said, true = both[column].to_numpy(), both["y"].to_numpy()
    at = np.minimum((said * 10).astype(int), 9)
    ece = sum(abs(said[at == b].sum() - true[at == b].sum()) for b in range(10)) / said.size
    ranks = both[column].rank().to_numpy()
    trues = true.sum()
    auc = (ranks[true].sum() - trues * (trues + 1) / 2) / (trues * (true.size - trues))
    return {"log_loss": -np.log(np.where(true, said, 1 - said)).mean(), "ece": ece, "auc": auc}


@pytest.mark.parametrize("delay", [0, 40])
def test_sources_of_which_the_usual_changes_are_calibrated_each(delay: int) -> None:
    frames = stream(1, 12_000, {"shop": (0.02, 0.30), "till": (0.30, 0.02)}, delay=delay)
    rows = drive(sp.Topology("t", sinks={"rows": scored(linear(), report=10_000)}), frames)["rows"]
    for source in SOURCES:
        mine = rows.filter(pl.col("source") == source)
        for half in (mine[: len(mine) // 2], mine[len(mine) // 2 :]):
            plain, said = judged(half, frames["labels"], "p"), judged(half, frames["labels"], "q")
            assert said["log_loss"] < plain["log_loss"] - 0.02
            assert said["ece"] < 0.5 * plain["ece"]
            settled = half[len(half) // 2 :]
            plain, said = judged(settled, frames["labels"], "p"), judged(settled, frames["labels"], "q")
            assert said["ece"] < 0.3 * plain["ece"]
            assert said["auc"] == pytest.approx(plain["auc"], abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_said_is_never_worse_than_chances_that_were_right(seed: int) -> None:
    frames = stream(seed, 6_000, {"shop": (0.5, 0.5), "till": (0.5, 0.5)})
    right = frames["payments"].with_columns(pl.col("x") * 1.2)
    rows = drive(sp.Topology("t", sinks={"rows": scored(truthful())}), payments=right, labels=frames["labels"])["rows"]
    for source in SOURCES:
        mine = rows.filter(pl.col("source") == source)
        plain, said = (judged(mine, frames["labels"], name)["log_loss"] for name in ("p", "q"))
        assert said - plain < 0.001


@pytest.mark.parametrize("delay", [0, 3])
def test_it_equals_a_twin_in_plain_python(delay: int) -> None:
    frames = stream(7, 1_500, {"shop": (0.05, 0.4), "till": (0.3, 0.1)}, delay=delay)
    payments = frames["payments"].with_columns(
        pl.when(pl.col("source") == "till").then("source"), pl.when(pl.int_range(pl.len()) % 7 > 0).then("x")
    )
    step = scored(linear(), report=500)
    topology = sp.Topology("t", sinks={"rows": step, "side": step.side("calibration")})
    ran = drive(topology, payments=payments, labels=frames["labels"])
    rows, twin = ran["rows"], NaiveCalibration()
    given: dict[str, tuple[float | None, str | None, float | None]] = {}
    events = [(at, 0, one) for at, *one in rows.select("at", "id", "p", "source", "q").iter_rows()]
    events += [(at, 1, one) for at, *one in frames["labels"].select("at", "id", "y").iter_rows()]
    losses: list[tuple[str | None, float, float]] = []
    for _, what, one in sorted(events, key=lambda event: event[:2]):
        if what == 0:
            name, score, source, said = one
            expected = None if score is None else twin.say(score, source)
            assert said == pytest.approx(expected, rel=1e-9)
            given[name] = score, source, said
        else:
            name, label = one
            score, source, said = given[name]
            if score is not None and said is not None:
                twin.learn(score, source, label)
                losses.append((source, *(-math.log(one if label else 1 - one) for one in (score, said))))
    assert len(losses) > 1_000
    told = ran["side"].filter(pl.col("labels") == 1_500)
    assert told.select("contender", "segment").rows() == [
        ("model", None), ("calibrated", None), ("model", "till"), ("calibrated", "till"),
    ]  # fmt: skip
    for name, segment, n, loss, bins in told.select("contender", "segment", "n", "log_loss", "bin_n").iter_rows():
        mine = [row for row in losses if segment in (None, row[0])]
        assert n == len(mine) == sum(bins)
        assert loss == pytest.approx(np.mean([row[1 + (name == "calibrated")] for row in mine]), rel=1e-9)


def test_neither_cut_nor_restart_nor_partition_shows() -> None:
    frames = stream(3, 60, {"shop": (0.2, 0.5), "till": (0.5, 0.2)}, delay=2)
    step = scored(linear(), report=20)
    topology = sp.Topology("t", sinks={"rows": step, "side": step.side("calibration")})
    check_topology(topology, frames, contracts=(PAYMENT, LABEL), partitions=(1, 3), seeds=1)


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"calibrates chances.*use a classifier"):
        sp.learn(linear_model.LinearRegression(), inputs=("x",), into="p", label="y", calibrated="q")
    rows = sp.source("payments", contract=PAYMENT)
    for into in ("x", "p"):
        step = rows | sp.learn(linear(), inputs=("x",), into="p", label="at", calibrated=into)
        with pytest.raises(DuplicateName, match=f"makes column '{into}'.*another calibrated="):
            drive(sp.Topology("t", sinks={"rows": step}))
