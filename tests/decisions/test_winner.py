"""Who looks at every report at what the arms of a route earn finds a winner only where there is one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.batch import EVENT_TIME, ROW, WIDTH, Batch
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, TypeMismatch, UnknownColumn
from streamproc.graph import Stream
from streamproc.keys import keys_of
from streamproc.operator import StepTime, StreamType
from streamproc.operators.key_by import KeyBy
from streamproc.testing.drive import drive

KEY = Field("id", pl.String())
ASKED, EARNED = StreamType(Schema((KEY,)), ("id",)), StreamType(Schema((KEY, Field("y", pl.Float64()))), ("id",))
STEPS, ROWS = 60, 50


def lived(seed: int, worth: dict[str, float], weights: dict[str, float], **more: Any) -> pl.DataFrame:
    """All reports of an experiment of 3,000 entities, sixty looks: each earns 1 with the chance of its arm."""
    random = np.random.default_rng(seed)
    routed = sp.route("id", salt=f"e{seed}", weights=weights).operator
    step = sp.winner("arm", arms=tuple(weights), rewards=Stream(KeyBy(("id",))), reward="y", horizon="1d", on="id",
                     least=min(weights.values()), report=ROWS, **more).operator  # fmt: skip
    state, told = step.open(routed.schema(ASKED), EARNED), []
    for t in range(STEPS):
        frame = pl.DataFrame({"id": [f"{seed}/{t}/{i}" for i in range(ROWS)]})
        batches = []
        for at in (2 * t, 2 * t + 1):
            meta = np.zeros((ROWS, WIDTH), np.int64)
            meta[:, EVENT_TIME], meta[:, ROW] = at, 4 * np.arange(ROWS) + 1 + 2 * (at % 2)
            batches.append(Batch(frame, meta, keys_of(frame, ["id"])))
        _, output = routed.process(None, (batches[0],), StepTime(np.zeros(ROWS, np.int64), 1))
        chance = output.rows.frame["arm"].replace_strict(worth, return_dtype=pl.Float64).to_numpy()
        earned = frame.with_columns(y=pl.Series((random.random(ROWS) < chance).astype(np.float64)))
        rows = (output.rows, batches[1].with_frame(earned))
        state, reports = step.process(state, rows, StepTime(np.zeros(2 * ROWS, np.int64), 2))
        told.append(reports.rows.frame)
    return pl.concat(told)


@pytest.mark.parametrize("weights", [{"old": 0.5, "new": 0.5}, {"old": 0.9, "new": 0.1}])
@pytest.mark.parametrize("experiments", [40, pytest.param(200, marks=pytest.mark.long)])
def test_alike_arms_have_a_winner_at_any_look_no_oftener_than_stated(
    weights: dict[str, float], experiments: int
) -> None:
    """Sixty looks at each experiment: bounds without the truth and winners, both at most 5 in 100."""
    accused, outside = 0, 0
    for seed in range(experiments):
        told = lived(seed, {"old": 0.4, "new": 0.4}, weights)
        assert told.height == 2 * STEPS
        accused += bool(told["winner"].any())
        outside += bool(((told["low"] > 0.4) | (told["high"] < 0.4)).any())
    print(f"of {experiments} alike: a winner {accused}, bounds without the truth {outside}")
    assert max(accused, outside) <= experiments // 20


@pytest.mark.parametrize("experiments", [40, pytest.param(100, marks=pytest.mark.long)])
def test_a_real_difference_is_found_and_never_the_other_way_round(experiments: int) -> None:
    """0.3 against 0.5, half of the entities each: found within 3,000 entities in 95 of 100 experiments."""
    at = []
    for seed in range(experiments):
        told = lived(1_000 + seed, {"old": 0.3, "new": 0.5}, {"old": 0.5, "new": 0.5})
        found = told.filter("winner")
        assert set(found["arm"]) <= {"new"}
        at.append(found["rewards"][0] if found.height else math.inf)
    print(f"found after {np.median(at)} rewards in the middle, {sum(math.isinf(one) for one in at)} not at all")
    assert sum(math.isinf(one) for one in at) <= experiments // 20


# ── as a step of a topology ──────────────────────────────────────────────────────────────────────────────────────────

SEEN = parse_contract("""{"type": "record", "name": "seen", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
PAID = parse_contract("""{"type": "record", "name": "paid", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "euros", "type": ["null", "double"]},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
WEIGHTS = {"old": 0.7, "new": 0.2, "odd": 0.1}


def topology(**more: Any) -> sp.Topology:
    routed = sp.source("seen", contract=SEEN) | sp.route("id", salt="t", weights=WEIGHTS)
    given = {"arms": ("old", "new", "odd"), "least": 0.1, "report": 40, **more}
    told = routed | sp.winner("arm", rewards=sp.source("paid", contract=PAID), reward="euros", horizon="70us", on="id",
                              largest=2.0, **given)  # fmt: skip
    return sp.Topology("t", sinks={"routed": routed, "told": told})


def stream(n: int) -> dict[str, pl.DataFrame]:
    random = np.random.default_rng(3)
    ids, at = [f"r{i}" for i in range(n)], 10 * np.arange(n)
    euros = [None if random.random() < 0.05 else float(v) for v in random.uniform(-0.2, 2.2, n)]
    paid = pl.DataFrame({"id": ids, "euros": euros, "at": at + 1 + 2 * random.integers(0, 42, n)})
    paid = paid.filter(pl.Series(random.random(n) < 0.8)).sort("at")
    return {"seen": pl.DataFrame({"id": ids, "at": at}), "paid": paid}


def test_what_is_told_is_that_of_a_person_with_the_rewards_and_no_cut_shows() -> None:
    frames = stream(300)
    done = drive(topology(), frames, contracts=(SEEN, PAID))
    arm_of = dict(done["routed"].select("id", "arm").iter_rows())
    came = dict(frames["seen"].iter_rows())
    earned = [(arm_of[one], min(max(euros / 2, 0.0), 1.0)) for one, euros, at in frames["paid"].iter_rows()
              if euros is not None and at <= came[one] + 70]  # fmt: skip
    told = done["told"]
    assert told["rewards"].unique().sort().to_list() == list(range(40, len(earned) + 1, 40))
    for n in (40, 160):
        for arm, count, value, chance in told.filter(pl.col("rewards") == n).select(
            "arm", "n", "value", "propensity"
        ).iter_rows():
            mine = [reward for one, reward in earned[:n] if one == arm]
            assert count == len(mine) and chance == (WEIGHTS[arm] if mine else pytest.approx(chance))
            assert value == pytest.approx(2.0 * sum(mine) / WEIGHTS[arm] / n, rel=1e-9)
    parts = drive(topology(), frames, contracts=(SEEN, PAID), steps=iter([7] * 200))
    assert parts["told"].equals(told)


def test_rows_that_cannot_be_compared_are_dead_letters() -> None:
    frames = stream(200)
    done = drive(topology(arms=("old", "new")), frames, contracts=(SEEN, PAID))
    strangers = done["routed"].filter(pl.col("arm") == "odd").height
    assert strangers > 5
    for step, reason in ((done, "an arm that is not compared"), (
        drive(topology(least=0.15), frames, contracts=(SEEN, PAID)), "a propensity below the least one"
    )):  # fmt: skip
        assert step.dead_letters["reason"].to_list() == [reason] * strangers
        assert step["told"].filter(pl.col("arm") == "odd")["n"].sum() == 0


def test_mistakes_are_told_when_the_topology_is_planned() -> None:
    right: dict[str, Any] = {"rewards": Stream(None), "on": "id", "reward": "y", "horizon": "1d", "least": 0.1,
                             "arms": ("a", "b")}  # fmt: skip
    for told, more in (
        ("two arms at least", {"arms": ("a",)}), ("two arms at least", {"arms": "ab"}),
        ("columns that join", {"on": ()}),
        ("least=0.6 of 2 arms", {"least": 0.6}), ("largest is above 0", {"largest": 0.0}),
        ("largest is above 0", {"error": 1.0}), ("which column the reward is", {"reward": ""}),
        ("an outcome is the reward", {"rewards": sp.outcome(Stream(None), within="1d")}),
    ):  # fmt: skip
        with pytest.raises(DefinitionError, match=told):
            sp.winner("arm", **{**right, **more})
    routed = sp.source("seen", contract=SEEN) | sp.route("id", salt="t", weights=WEIGHTS)
    given = {**right, "rewards": sp.source("paid", contract=PAID), "reward": "euros"}
    for error, told, more in (
        (UnknownColumn, "reads 'arms' of its rows", {"arm": "arms"}),
        (UnknownColumn, "reads 'chance' of its rows", {"propensity": "chance"}),
        (UnknownColumn, "reads 'euro' of its rewards", {"reward": "euro"}),
        (TypeMismatch, "'id' is String, no reward", {"reward": "id"}),
        (TypeMismatch, "'at' is Int64, no chance", {"propensity": "at"}),
        (TypeMismatch, "not the name of an arm", {"arm": "at", "propensity": "arm_propensity"}),
    ):  # fmt: skip
        step = routed | sp.winner(**{"arm": "arm", **given, **more})
        with pytest.raises(error, match=told):
            drive(sp.Topology("t", sinks={"told": step}), contracts=(SEEN, PAID))
