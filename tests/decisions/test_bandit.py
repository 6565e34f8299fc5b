"""Arms are drawn with the chances that are written down; what they are worth is told without bias, in every replay."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import beta

import streamproc as sp
from streamproc.batch import EVENT_TIME, ROW, WIDTH, Batch
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.decisions.routing import places
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn
from streamproc.graph import Stream
from streamproc.keys import keys_of
from streamproc.operator import StepTime, StreamType
from streamproc.operators.key_by import KeyBy
from streamproc.testing.drive import drive
from streamproc.testing.topology_checks import check_topology

REQUEST = parse_contract("""{"type": "record", "name": "request", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
PAID = parse_contract("""{"type": "record", "name": "paid", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "euros", "type": ["null", "double"]},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
ARMS = ("one", "two", "three")


def topology(**more: Any) -> sp.Topology:
    paid = sp.source("paid", contract=PAID)
    rewards = sp.outcome(paid, within="70us") if more.pop("silence", False) else paid
    given = {} if rewards is not paid else {"reward": "euros", "horizon": "70us", "largest": 2.0}
    step = sp.bandit(ARMS, rewards=rewards, on="id", salt="t", **given, **more)
    arms = sp.source("requests", contract=REQUEST) | step
    return sp.Topology("t", sinks={"rows": arms, "arms": arms.side("arms")})


def stream(seed: int, n: int) -> dict[str, pl.DataFrame]:
    """Two of three requests are paid for, some of them too late to count."""
    random = np.random.default_rng(seed)
    ids, at = [f"r{i}" for i in range(n)], 10 * np.arange(n)
    euros = [None if random.random() < 0.05 else float(v) for v in random.uniform(-0.2, 2.2, n)]
    paid = pl.DataFrame({"id": ids, "euros": euros, "at": at + 1 + 2 * random.integers(0, 42, n)})
    paid = paid.filter(pl.Series(random.random(n) < 0.67)).sort("at")
    return {"requests": pl.DataFrame({"id": ids, "at": at}), "paid": paid}


# ── the twin ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def chances(rewards: list[tuple[int, float]], policy: str, least: float, memory: int | None) -> list[float]:
    """With which chances arms are drawn, from all rewards so far."""
    keep = 1 - 1 / memory if memory else 1.0
    believed = []
    for arm in range(3):
        aged = [(r, keep ** (len(rewards) - 1 - i)) for i, (of, r) in enumerate(rewards) if of == arm]
        believed.append(beta(1 + sum(r * w for r, w in aged), 1 + sum((1 - r) * w for r, w in aged)))
    if policy == "greedy":
        best = [float(one is max(believed, key=lambda each: each.mean())) for one in believed]
    else:
        best = []
        for one in believed:
            nodes = [one.ppf((q + 0.5) / 64) for q in range(64)]
            others = [other for other in believed if other is not one]
            best.append(sum(math.prod(other.cdf(x) for other in others) for x in nodes) / 64)
    return [least + (1 - 3 * least) * one / sum(best) for one in best]


@pytest.mark.parametrize(("policy", "memory", "silence"), [
    ("thompson", None, False), ("thompson", 30, True), ("greedy", 30, False), ("greedy", None, True),
])  # fmt: skip
def test_a_bandit_equals_a_twin_in_plain_python(policy: str, memory: int | None, silence: bool) -> None:
    frames = stream(1, 300)
    done = drive(
        topology(policy=policy, memory=memory, every=20, least=0.05, report=50, silence=silence), frames,
        contracts=(REQUEST, PAID),
    )  # fmt: skip
    uniform = dict(zip(frames["requests"]["id"], places(frames["requests"], ("id",), "t"), strict=True))
    events = [(at, 1, name, 0.0) for name, at in frames["requests"].iter_rows()]
    events += [(at, 0, name, euros) for name, euros, at in frames["paid"].iter_rows()]
    waits: dict[str, tuple[int, int, float]] = {}
    known: list[tuple[int, float]] = []
    drawn, weighed, given_up, now = [], [], 0, [1 / 3] * 3

    def earn(name: str, reward: float) -> None:
        nonlocal now
        _, arm, chance = waits.pop(name)
        known.append((arm, reward))
        weighed.append((arm, reward / chance))
        if len(known) % 20 == 0:
            now = chances(known, policy, 0.05, memory)

    marks = {0: -1, 1: -1}  # time stands where the slower of both streams stands
    for at, kind, name, euros in sorted(events, key=lambda event: event[:2]):
        marks[kind] = at
        for old in [one for one, (when, *_) in waits.items() if when + 70 < min(marks.values())]:
            if silence:
                earn(old, 0.0)
            else:
                given_up += 1
                del waits[old]
        if kind == 1:
            arm = next(a for a in range(3) if uniform[name] < sum(now[: a + 1]) or a == 2)
            waits[name] = at, arm, now[arm]
            drawn.append((name, ARMS[arm], now[arm]))
        elif name in waits and at <= waits[name][0] + 70 and (silence or euros is not None):
            earn(name, 1.0 if silence else min(max(euros / 2, 0.0), 1.0))
    rows = done["rows"].select("id", "arm", "arm_propensity").rows()
    assert [row[:2] for row in rows] == [one[:2] for one in drawn]
    assert [row[2] for row in rows] == pytest.approx([one[2] for one in drawn], rel=1e-9)
    assert len({row[2] for row in rows}) > (8 if policy == "thompson" else 2)
    scale = 1.0 if silence else 2.0
    told = done["arms"].filter(pl.col("rewards") == 150)
    for a, (name, n, mean, value) in enumerate(told.select("arm", "n", "mean", "value").iter_rows()):
        mine = [reward for arm, reward in known[:150] if arm == a]
        assert (name, n) == (ARMS[a], len(mine)) and mean == pytest.approx(scale * float(np.mean(mine)), rel=1e-9)
        assert value == pytest.approx(scale * sum(w for arm, w in weighed[:150] if arm == a) / 150, rel=1e-9)
    assert (done["arms"]["given_up"].max() > 0) == (not silence) and (given_up > 0) == (not silence)


# ── what it promises ─────────────────────────────────────────────────────────────────────────────────────────────────

ID = StreamType(Schema((Field("id", pl.String()),)), ("id",))
EARNED = StreamType(Schema((Field("id", pl.String()), Field("y", pl.Float64()))), ("id",))


def lived(seed: int, truth: Any, *, steps: int, rows: int = 40, **more: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Lets arms earn what they are worth, some steps after they were drawn; gives all rows and all reports.

    truth  the chance of each arm to earn 1, of a step
    """
    delay = 2
    step = sp.bandit(("a", "b"), rewards=Stream(KeyBy(("id",))), reward="y", horizon="1d", on="id", **more)
    state, random = step.operator.open(ID, EARNED), np.random.default_rng(seed)
    made: list[pl.DataFrame] = []
    told: list[pl.DataFrame] = []
    for t in range(steps + delay):
        ids = [f"{seed}/{t}/{i}" for i in range(rows if t < steps else 0)]
        left = pl.DataFrame({"id": pl.Series(ids, dtype=pl.String)})
        right = pl.DataFrame(schema={"id": pl.String, "y": pl.Float64})
        if t >= delay:
            worth = made[t - delay]["arm"].replace_strict(dict(zip("ab", truth(t - delay), strict=True)))
            earned = (random.random(worth.len()) < worth.to_numpy()).astype(np.float64)
            right = made[t - delay].select("id", y=pl.Series(earned))
        batches = []
        for frame, at in ((left, 2 * t), (right, 2 * t + 1)):
            meta = np.zeros((frame.height, WIDTH), np.int64)
            meta[:, EVENT_TIME], meta[:, ROW] = at, 2 * np.arange(frame.height) + 1
            batches.append(Batch(frame, meta, keys_of(frame, ["id"])))
        state, output = step.operator.process(state, tuple(batches), StepTime(np.zeros(rows, np.int64), 1))
        made.append(output.rows.frame)
        told.append(output.sides[0][1].frame)
    return pl.concat(made), pl.concat(told)


@pytest.mark.parametrize("policy", ["thompson", "greedy"])
def test_rewards_over_propensities_are_unbiased_and_within_their_bounds(policy: Any) -> None:
    values, means, outside = [], [], 0
    for seed in range(200):
        _, told = lived(seed, lambda _: (0.3, 0.4), steps=10, rows=8, salt="s", every=4, report=80, least=0.1,
                        policy=policy)  # fmt: skip
        assert told.height == 2
        values.append(told["value"].to_list())
        means.append(told["mean"][0])
        outside += any(not low <= true <= high
                       for true, low, high in zip((0.3, 0.4), told["low"], told["high"], strict=True))  # fmt: skip
    for arm, true in enumerate((0.3, 0.4)):
        mine = np.array(values)[:, arm]
        assert abs(mine.mean() - true) < 2.6 * mine.std() / len(mine) ** 0.5
        assert mine.std() / len(mine) ** 0.5 < 0.02
    assert outside <= 0.05 * 200
    if policy == "greedy":  # the plain mean is biased, as is said
        assert np.mean(means) < 0.3 - 2.6 * np.std(means) / 200**0.5


def parted(told: pl.DataFrame) -> list[str]:
    """The arm that is shown to be the better one, at each report that shows it: all that it may be worth is more."""
    a, b = (told.filter(pl.col("arm") == arm) for arm in "ab")
    return [
        "a" if low_a > high_b else "b"
        for low_a, high_a, low_b, high_b in zip(a["low"], a["high"], b["low"], b["high"], strict=True)
        if low_a > high_b or low_b > high_a
    ]


def test_who_looks_at_every_report_finds_a_winner_only_where_there_is_one() -> None:
    """A hundred experiments of each kind, sixty looks at each."""
    given: dict[str, Any] = {"steps": 60, "rows": 40, "salt": "s", "every": 400, "report": 40, "least": 0.2}
    outside, alike, found = 0, 0, 0
    for seed in range(100):
        told = lived(seed, lambda _: (0.4, 0.4), **given)[1]
        assert told.height == 2 * 60
        outside += bool(((told["low"] > 0.4) | (told["high"] < 0.4)).any())
        alike += bool(parted(told))
        winners = parted(lived(1_000 + seed, lambda _: (0.3, 0.6), **given)[1])
        assert set(winners) <= {"b"}
        found += bool(winners)
    print(f"of 100 each: bounds missed the truth {outside}, alike and told apart {alike}, better and found {found}")
    assert outside <= 5 and alike <= 5 and found >= 90


def test_rows_draw_arms_as_often_as_is_written_down() -> None:
    rows, _ = lived(3, lambda _: (0.45, 0.5), steps=100, rows=100, salt="s", every=50, least=0.05, memory=500)
    of_a = pl.when(pl.col("arm") == "a").then("arm_propensity").otherwise(1 - pl.col("arm_propensity"))
    written = rows.select(of_a).to_series().to_numpy()
    drawn = (rows["arm"] == "a").to_numpy()
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.0, 1.0)):
        here = (written >= low) & (written < high)
        assert here.sum() > 300
        error = (written[here] * (1 - written[here])).sum() ** 0.5
        assert abs(drawn[here].sum() - written[here].sum()) < 3 * error
    assert min(rows["arm_propensity"]) >= 0.05


@pytest.mark.parametrize("policy", ["thompson", "greedy"])
def test_the_better_arm_is_drawn_more_and_followed_when_it_changes(policy: Any) -> None:
    first, _ = lived(4, lambda _: (0.2, 0.6), steps=50, salt="s", every=20, policy=policy)
    assert (first["arm"][-400:] == "b").mean() > 0.9
    changed, _ = lived(5, lambda t: (0.2, 0.6) if t < 50 else (0.6, 0.2), steps=100, salt="s", every=20, memory=300,
                       policy=policy)  # fmt: skip
    assert (changed["arm"][1_600:2_000] == "b").mean() > 0.9 and (changed["arm"][-400:] == "a").mean() > 0.9


def test_a_replay_draws_the_same_arms_and_another_salt_others() -> None:
    frames = stream(6, 80)
    given = {"every": 5, "report": 10}
    once = drive(topology(**given), frames, contracts=(REQUEST, PAID))
    again = drive(topology(**given), frames, contracts=(REQUEST, PAID), steps=iter([7] * 100))
    assert once["rows"].equals(again["rows"]) and once["arms"].equals(again["arms"]) and once["arms"].height > 6
    assert once["rows"]["arm"].n_unique() == 3
    check_topology(topology(**given), frames, contracts=(REQUEST, PAID), partitions=(1, 3), seeds=1)


def test_mistakes_are_told_when_the_topology_is_planned() -> None:
    right = {"rewards": Stream(None), "on": "id", "salt": "s", "reward": "y", "horizon": "1d"}
    for told, arms, more in (
        ("two arms at least", ("a",), {}), ("two arms at least", ("a", "a"), {}), ("two arms at least", "ab", {}),
        ("columns of the request", ("a", "b"), {"on": ()}), ("and a salt", ("a", "b"), {"salt": ""}),
        ("least=0.5 of 2 arms", ("a", "b"), {"least": 0.5}), ("no policy 'ucb'", ("a", "b"), {"policy": "ucb"}),
        ("largest is above 0", ("a", "b"), {"largest": 0.0}), ("largest is above 0", ("a", "b"), {"memory": 0}),
        ("which column the reward is", ("a", "b"), {"reward": ""}),
        ("an outcome is the reward", ("a", "b"), {"rewards": sp.outcome(Stream(None), within="1d")}),
    ):  # fmt: skip
        with pytest.raises(DefinitionError, match=told):
            sp.bandit(arms, **{**right, **more})
    requests, paid = sp.source("requests", contract=REQUEST), sp.source("paid", contract=PAID)
    for error, told, more in (
        (UnknownColumn, "joins its rows by 'idd'", {"on": "idd"}),
        (UnknownColumn, "reads 'euro' of", {"reward": "euro"}),
        (TypeMismatch, "'id' is String, no reward", {"reward": "id"}), (DuplicateName, "makes 'at'", {"into": "at"}),
    ):  # fmt: skip
        step = requests | sp.bandit(("a", "b"), **{**right, "rewards": paid, "reward": "euros", **more})
        with pytest.raises(error, match=told):
            drive(sp.Topology("t", sinks={"rows": step}), contracts=(REQUEST, PAID))
