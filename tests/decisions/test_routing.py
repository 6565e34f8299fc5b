"""Who goes where stays there; what must move moves; and whether arms get their share is told without crying wolf."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.batch import WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.decisions.routing import Route
from streamproc.errors import DefinitionError
from streamproc.graph import Step
from streamproc.operator import StepTime, StreamType


def arms_of(step: Step, ids: pl.Series) -> pl.DataFrame:
    frame = pl.DataFrame({"id": ids})
    batch = Batch(frame, np.zeros((frame.height, WIDTH), np.int64))
    return step.operator.process(None, (batch,), StepTime(np.zeros(0, np.int64), 1))[1].rows.frame


IDS = pl.Series([f"customer {i}" for i in range(100_000)])


def test_a_weight_from_10_to_20_percent_moves_only_the_new_10_percent() -> None:
    before = {"old": 0.9, "new": 0.1}
    first = arms_of(sp.route("id", salt="e", weights=before), IDS)
    second = arms_of(sp.route("id", salt="e", weights=[before, {"old": 0.8, "new": 0.2}]), IDS)
    moved = first["arm"] != second["arm"]
    assert abs(moved.mean() - 0.1) < 0.004
    assert (first.filter(moved)["arm"] == "old").all() and (second.filter(moved)["arm"] == "new").all()
    assert abs((second["arm"] == "new").mean() - 0.2) < 0.005
    assert set(second.filter(pl.col("arm") == "new")["arm_propensity"]) == {0.2}


@pytest.mark.parametrize("seed", range(20))
def test_any_change_of_weights_moves_what_it_must_and_nothing_else(seed: int) -> None:
    random = np.random.default_rng(seed)
    history = []
    for _ in range(4):
        cuts = np.sort(random.integers(0, 101, 3))
        shares = np.diff([0, *cuts.tolist(), 100])
        history.append({arm: Fraction(int(share), 100) for arm, share in zip("abcd", shares, strict=True)})
    for n in range(1, 4):
        older, newer = (sp.route("id", salt="e", weights=history[:m]).operator for m in (n, n + 1))  # type: ignore[arg-type]
        assert isinstance(older, Route) and isinstance(newer, Route)
        edges = sorted({edge for route in (older, newer) for a, b, _ in route.pieces for edge in (a, b)})
        moved = Fraction(0)
        for a, b in pairwise(edges):
            was, now = (next(arm for lo, hi, arm in r.pieces if lo <= a < hi) for r in (older, newer))
            moved += (b - a) if was != now else 0
        must = sum(max(history[n][arm] - history[n - 1][arm], Fraction(0)) for arm in "abcd")
        assert moved == must
        owned = {arm: sum(b - a for a, b, of in newer.pieces if of == arm) for arm in "abcd"}
        assert owned == history[n]


def test_another_salt_deals_anew_and_places_are_even() -> None:
    shares = {"a": 0.5, "b": 0.5}
    first, second = (arms_of(sp.route("id", salt=salt, weights=shares), IDS)["arm"] for salt in ("one", "two"))
    assert abs((first == second).mean() - 0.5) < 0.01
    step = sp.route("id", salt="one", weights=shares).operator
    assert isinstance(step, Route)
    counts = np.bincount((step.places(pl.DataFrame({"id": IDS})) * 100).astype(int), minlength=100)
    assert counts.min() > 850 and counts.max() < 1150


def told(weights: dict[str, float], codes: np.ndarray, alpha: float, sizes: int = 0) -> pl.DataFrame:
    """What `sample_ratio` says of these arms."""
    arms = pl.Series("arm", ["a", "b", "c"])[codes]
    step = sp.sample_ratio("arm", weights=weights, alpha=alpha)
    state = step.operator.open(StreamType(Schema((Field("arm", pl.String()),))))
    said = []
    for start in range(0, len(arms), sizes or len(arms)):
        part = arms[start : start + (sizes or len(arms))]
        batch = Batch(part.to_frame(), np.zeros((len(part), WIDTH), np.int64))
        state, output = step.operator.process(state, (batch,), StepTime(np.zeros(0, np.int64), 1))
        said.append(output.rows.frame)
    return pl.concat(said)


def test_of_200_experiments_as_declared_no_more_than_alpha_are_accused_at_any_peek() -> None:
    weights = {"a": 0.9, "b": 0.1}
    accused = 0
    for seed in range(200):
        codes = (np.random.default_rng(seed).random(5_000) < 0.1).astype(np.int64)
        accused += told(weights, codes, alpha=0.05).height > 0
    assert accused <= 0.05 * 200


@pytest.mark.long
def test_of_a_million_requests_as_declared_none_is_accused() -> None:
    accused = 0
    for seed in range(100):
        codes = (np.random.default_rng(seed).random(1_000_000) < 0.1).astype(np.int64)
        accused += told({"a": 0.9, "b": 0.1}, codes, alpha=0.05).height > 0
    assert accused <= 5


def test_a_share_that_is_off_is_told_once_with_what_was_counted() -> None:
    codes = (np.random.default_rng(1).random(20_000) < 0.12).astype(np.int64)
    said = told({"a": 0.9, "b": 0.1}, codes, alpha=0.001, sizes=317)
    assert said["arm"].to_list() == ["a", "b"]
    assert said["rows"][1] > said["expected"][1] and said["evidence"][0] >= said["threshold"][0] == 1000
    assert said.equals(told({"a": 0.9, "b": 0.1}, codes, alpha=0.001))
    stranger = told({"a": 0.9, "b": 0.1}, np.array([0, 0, 2, 0]), alpha=0.001)
    assert stranger["arm"].to_list() == ["a", "b", ""] and stranger["rows"].to_list() == [2, 0, 1]


def test_mistakes_are_told() -> None:
    with pytest.raises(DefinitionError, match="add up to 1"):
        sp.route("id", salt="e", weights={"a": 0.5, "b": 0.4})
    with pytest.raises(DefinitionError, match="salt"):
        sp.route("id", salt="", weights={"a": 1.0})
    with pytest.raises(DefinitionError, match="shares"):
        sp.sample_ratio("arm", weights={"a": 1.2, "b": -0.2})
