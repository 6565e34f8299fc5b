"""One alert for one cause; and the ladder of scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, TypeMismatch
from streamproc.operator import StreamType
from streamproc.testing.drive import drive
from streamproc.testing.naive import rows_of
from streamproc.testing.runs import run_trial
from streamproc.testing.trials import random_cuts, random_trial

ROW = Schema((Field("k", pl.String(), nullable=True), Field("x", pl.Float64(), nullable=True)))
SECOND = 1_000_000


def by_hand(rows: list[Any], above: float, clear: float, hold: int, calm: int) -> list[tuple[Any, str, int, int]]:
    """Key, status, since and rows of each alert, one row at a time."""
    machines: dict[bytes, dict[str, Any]] = {}
    told = []
    for row in rows:
        value = row.values["x"]
        if not row.in_time or value is None or math.isnan(value):
            continue
        one = machines.setdefault(row.key, {"state": "quiet"})
        if one["state"] == "quiet" and value >= above:
            one |= {"state": "rising", "since": row.event_time, "rows": 0, "calm": None}
        if one["state"] == "rising":
            if value < above:
                one["state"] = "quiet"
                continue
            one["rows"] += 1
            if row.event_time - one["since"] >= hold:
                one["state"] = "up"
                told.append((row.values["k"], "raised", one["since"], one["rows"]))
        elif one["state"] == "up":
            one["rows"] += value >= above
            if value >= clear:
                one["calm"] = None
                continue
            one["calm"] = row.event_time if one["calm"] is None else one["calm"]
            if row.event_time - one["calm"] >= calm:
                one["state"] = "quiet"
                told.append((row.values["k"], "resolved", one["since"], one["rows"]))
    return told


@pytest.mark.parametrize("seed", range(40))
def test_alerts_are_those_of_a_person_who_watches_row_by_row(seed: int) -> None:
    hold, calm = [(0, 0), (2, 0), (0, 3), (2, 2)][seed % 4]
    step = sp.alert("x", title="t", above=0.5, clear=-0.2, hold=f"{hold}s", calm=f"{calm}s")
    trial = random_trial(seed, (StreamType(ROW, ("k",)),), rows=80, unit_us=SECOND)
    got = run_trial(step.operator, trial, random_cuts(np.random.default_rng(seed), trial.watermarks.size)).rows.frame
    expected = by_hand(rows_of(trial.ports[0]), 0.5, -0.2, hold * SECOND, calm * SECOND)
    assert list(zip(got["k"], got["status"], got["since"], got["alert_rows"], strict=True)) == expected


def stepped(step: Any, rows: list[tuple[str, float, int]]) -> pl.DataFrame:
    from streamproc.contracts.avro_schema import parse_contract

    contract = parse_contract(
        '{"type": "record", "name": "v", "sp:version": 1, "fields": [{"name": "k", "type": "string", "sp:role": "key"},'
        ' {"name": "x", "type": "double"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}'
    )
    stream = sp.source("vs", contract=contract, lateness="1h") | sp.key_by("k") | step
    frame = pl.DataFrame(rows, ["k", "x", "at"], orient="row")
    whole = drive(sp.Topology("alerts", sinks={"out": stream}), vs=frame, contracts=(contract,))["out"]
    again = drive(
        sp.Topology("alerts", sinks={"out": stream}), vs=frame, contracts=(contract,), steps=iter(lambda: 1, None)
    )["out"]
    assert again.equals(whole)
    return whole


def test_a_value_that_swings_around_the_threshold_raises_once() -> None:
    swing = [("a", 0.95 if i % 2 else 0.85, i * SECOND) for i in range(100)]
    told = stepped(sp.alert("x", title="t", above=0.9, clear=0.7), [*swing, ("a", 0.1, 200 * SECOND)])
    assert told["status"].to_list() == ["raised", "resolved"]
    assert told["cause"].n_unique() == 1 and told["peak"].to_list() == [0.95, 0.95]
    assert len(stepped(sp.alert("x", title="t", above=0.9), swing)) > 90


def test_a_storm_is_told_once_and_its_keys_are_not_resolved_one_by_one() -> None:
    rows = [(f"k{i}", 1.0, i * SECOND) for i in range(50)] + [(f"k{i}", 0.0, (60 + i) * SECOND) for i in range(50)]
    told = stepped(sp.alert("x", title="t", above=0.5, storm=3, fold="10m"), rows)
    assert told["status"].to_list() == ["raised"] * 3 + ["storm"] + ["resolved"] * 3
    assert told["alert_rows"][3] == 4
    later = [*rows, ("k9", 1.0, 700 * SECOND)]
    assert stepped(sp.alert("x", title="t", above=0.5, storm=3, fold="10m"), later)["status"][-1] == "raised"


def test_mistakes_are_told() -> None:
    with pytest.raises(DefinitionError, match="from which"):
        sp.alert("x", title="t")
    with pytest.raises(DefinitionError, match="clear"):
        sp.alert("x", title="t", above=0.5, clear=0.6)
    with pytest.raises(DefinitionError, match="key"):
        sp.alert("x", title="t", above=0.5).operator.schema(StreamType(ROW))
    with pytest.raises(TypeMismatch):
        sp.alert("k", title="t", above=0.5).operator.schema(StreamType(ROW, ("k",)))


def test_the_ladder_names_the_rung_and_why_not_a_better_one() -> None:
    rows = Schema((
        Field("risk", pl.Float64(), nullable=True), Field("small", pl.Float64(), nullable=True),
        Field("last", pl.Float64(), nullable=True), Field("age", pl.Int64(), nullable=True),
    ))  # fmt: skip
    step = sp.fallback("score", full="risk", reduced="small", last=sp.rung("last", age="age", max_age="1h"), prior=0.02)
    hour = 3_600_000_000

    def sample(random: np.random.Generator, n: int) -> pl.DataFrame:
        def some(values: Any) -> list[Any]:
            return [None if random.random() < 0.5 else value for value in values.tolist()]

        return pl.DataFrame(
            {"risk": some(random.random(n)), "small": some(random.random(n)), "last": some(random.random(n)),
             "age": some(random.integers(0, 2 * hour, n))}, rows.polars(),
        )  # fmt: skip

    trial = random_trial(2, (StreamType(rows),), rows=200, samplers=(sample,))
    got = run_trial(step.operator, trial).rows.frame
    assert got.height > 50
    for row in got.to_dicts():
        fresh = row["last"] if row["age"] is None or row["age"] <= hour else None
        ladder = {"full": row["risk"], "reduced": row["small"], "last": fresh, "prior": 0.02}
        rung, score = next((name, score) for name, score in ladder.items() if score is not None)
        assert (row["score_rung"], row["score"]) == (rung, score)
        assert row["score_cause"] == ("" if rung == "full" else "full is missing")
    with pytest.raises(DefinitionError, match="without a score"):
        sp.fallback("score", full="risk")


def test_each_source_of_scores_falls_silent_and_comes_back_and_the_rung_is_right() -> None:
    """Two scorers write a score a second; each is away for a while, then both; ages are those of event time."""
    from streamproc.contracts.avro_schema import parse_contract

    def contract(name: str, *columns: str) -> Any:
        fields = "".join(f'{{"name": "{one}", "type": "double"}},' for one in columns)
        return parse_contract(f'''{{"type": "record", "name": "{name}", "sp:version": 1, "fields": [
            {{"name": "card", "type": "string", "sp:role": "key"}}, {fields}
            {{"name": "at", "type": "long", "sp:role": "event_time"}}]}}''')

    contracts = contract("pay"), contract("full", "score"), contract("small", "fair")
    pays, full, small = (
        sp.source(f"{one.name}s", contract=one) | sp.key_by("card") | sp.ordered() for one in contracts
    )
    scored = (
        pays
        | sp.as_of(full, columns=("score",), name="full")
        | sp.ordered()
        | sp.as_of(small, columns=("fair",), name="small")
        | sp.fallback(
            "risk", full=sp.rung("score", age="full_age", max_age="3s"),
            reduced=sp.rung("fair", age="small_age", max_age="3s"),
            last=sp.rung("score", age="full_age", max_age="30s"), prior=0.02,
        )
    )  # fmt: skip
    away = {"full": [(20, 40), (80, 160)], "small": [(50, 60), (90, 140)]}

    def scores(which: str, column: str, part: float) -> pl.DataFrame:
        there = [t for t in range(200) if not any(a <= t < b for a, b in away[which])]
        return pl.DataFrame({"card": "c", column: [t + part for t in there], "at": [t * SECOND for t in there]})

    frames = {
        "pays": pl.DataFrame({"card": "c", "at": [t * SECOND // 2 + 1 for t in range(400)]}),
        "fulls": scores("full", "score", 0.25), "smalls": scores("small", "fair", 0.5),
    }  # fmt: skip
    done = drive(sp.Topology("t", sinks={"scored": scored}), frames, contracts=contracts)["scored"]
    assert done.height == 400
    rungs = []
    for at, risk, rung, cause in done.select("at", "risk", "risk_rung", "risk_cause").iter_rows():
        newest = {
            which: max(t for t in range(int(at) // SECOND + 1) if not any(a <= t < b for a, b in away[which]))
            for which in away
        }
        ages = {which: int(at) - t * SECOND for which, t in newest.items()}
        if ages["full"] <= 3 * SECOND:
            expected = "full", newest["full"] + 0.25, ""
        elif ages["small"] <= 3 * SECOND:
            expected = "reduced", newest["small"] + 0.5, "full is too old"
        elif ages["full"] <= 30 * SECOND:
            expected = "last", newest["full"] + 0.25, "full is too old"
        else:
            expected = "prior", 0.02, "full is too old"
        assert (rung, risk, cause) == expected
        if not rungs or rungs[-1] != rung:
            rungs.append(rung)
    assert rungs == ["full", "reduced", "full", "reduced", "last", "prior", "reduced", "full"]
