"""Scores of a model that goes on learning change where nothing else does: alarms of them promise no run length."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from river import drift, linear_model, optim, preprocessing

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.errors import DefinitionError
from streamproc.testing.drive import drive

PAYMENT = parse_contract("""{"type": "record", "name": "payment", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "a", "type": "double"},
    {"name": "b", "type": "double"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
LABEL = parse_contract("""{"type": "record", "name": "label", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "y", "type": "boolean"},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
ROWS, RUN_LENGTH = 5_000, 20_000


def stream(seed: int) -> dict[str, pl.DataFrame]:
    """Payments of one distribution, with chances that never change; a label comes a hundred rows later."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=ROWS), random.normal(size=ROWS)
    y = random.random(ROWS) < 1 / (1 + np.exp(-(1.5 * a - b - 1.0)))
    ids, at = [f"i{i:05}" for i in range(ROWS)], 1_000 * np.arange(ROWS)
    paid = pl.DataFrame({"id": ids, "a": a, "b": b, "at": at})
    return {"payments": paid, "labels": pl.DataFrame({"id": ids, "y": y, "at": at + 100_500})}


@cache
def alarms(learned: tuple[str, ...]) -> pl.DataFrame:
    """Of the inputs, and of calibrated chances of an online model."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(
        optimizer=optim.FTRLProximal(alpha=0.05, l2=1.0), intercept_lr=0.03
    )
    scored = sp.source("payments", contract=PAYMENT) | sp.learn(
        model, inputs=("a", "b"), into="p", calibrated="q", labels=sp.source("labels", contract=LABEL), label="y",
        on="id", horizon="1h",
    )  # fmt: skip
    options: dict[str, Any] = {"run_length": RUN_LENGTH, "warm": 500}
    sinks = {"inputs": scored | sp.drift("a", "b", name="inputs", **options),
             "chances": scored | sp.drift("q", learned=learned, name="chances", **options)}  # fmt: skip
    ran = drive(sp.Topology("t", sinks=sinks), stream(1))
    assert ran["inputs"].height <= 1, "one in 20,000 rows is what is promised"
    return ran["chances"]


def test_an_online_model_in_a_world_that_stands_still_raises_alarms_of_itself() -> None:
    told = alarms(())
    assert told.height >= 3 > 10 * ROWS / RUN_LENGTH
    assert (told["promise"] == "holds").any()  # which is false: hence the mark


def test_of_what_is_learned_an_alarm_promises_nothing_and_says_why() -> None:
    marked = alarms(("q",))
    assert marked["last_offset"].to_list() == alarms(())["last_offset"].to_list()
    assert marked["run_length"].null_count() == marked.height
    assert set(marked["promise"]) == {"withdrawn: what makes 'q' goes on learning"}


def test_what_is_said_to_be_learned_is_watched_by_evidence() -> None:
    with pytest.raises(DefinitionError, match="does not watch 'p', which is said to be learned"):
        sp.drift("q", learned=("p",))
    for test in ("ks", drift.ADWIN()):
        with pytest.raises(DefinitionError, match="promises nothing that could be withdrawn"):
            sp.drift("q", learned=("q",), test=test)


LABELLED = parse_contract("""{"type": "record", "name": "labelled", "sp:version": 1, "fields": [
    {"name": "id", "type": "string"}, {"name": "a", "type": "double"}, {"name": "b", "type": "double"},
    {"name": "y", "type": "boolean"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}""")


def test_harm_is_told_soon_after_a_world_turns_and_asks_for_a_new_model() -> None:
    """The squared error of a model that learns no more, bounded by 1; labels turn round at row 3,000 of 5,000."""
    for seed in range(5):
        random = np.random.default_rng(seed)
        a, b = random.normal(size=ROWS), random.normal(size=ROWS)
        sign = np.where(np.arange(ROWS) < 3_000, 1.0, -1.0)
        y = random.random(ROWS) < 1 / (1 + np.exp(-sign * (1.5 * a - b)))
        rows = pl.DataFrame({"id": [f"i{i:05}" for i in range(ROWS)], "a": a, "b": b, "y": y, "at": np.arange(ROWS)})
        chance = 1 / (1 + (-(1.5 * pl.col("a") - pl.col("b"))).exp())
        judged = sp.source("labelled", contract=LABELLED) | sp.with_columns(
            loss=(chance - pl.col("y").cast(pl.Float64)) ** 2
        )
        told = judged | sp.drift("loss", "a", "b", run_length=RUN_LENGTH, warm=500)
        asked = judged | sp.retrain(harm=told, cooldown="1s", cut="100us")
        done = drive(sp.Topology("t", sinks={"told": told, "asked": asked}), labelled=rows, contracts=(LABELLED,))
        first = done["told"].row(0, named=True)
        assert first["columns"] == ["loss"] and first["promise"] == "holds"
        assert 3_000 <= first["last_offset"] < 3_060
        assert done["asked"]["reasons"].to_list()[0] == ["harm"]
