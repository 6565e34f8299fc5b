"""Topologies that use every operator, with rows on which each of them has something to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from river import drift as river_drift
from river import linear_model, preprocessing

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.registry import MemoryRegistry
from streamproc.entities.comparisons import block, compare
from streamproc.entities.linkage_model import LinkageModel
from streamproc.graph import Step, Stream
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.lookback import lookback
from streamproc.testing import drive

FIELDS = """{"name": "id", "type": "string"}, {"name": "k", "type": "string", "sp:role": "key"},
    {"name": "g", "type": ["null", "string"], "default": null}, {"name": "v", "type": "double"},
    {"name": "w", "type": ["null", "double"], "default": null}, {"name": "x", "type": "double"},
    {"name": "s", "type": ["null", "string"], "default": null}, {"name": "b", "type": "boolean"},
    {"name": "n", "type": "long"}, {"name": "idle", "type": "long"},
    {"name": "items", "type": {"type": "array", "items": "long"}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}"""
EVENT = parse_contract(f'{{"type": "record", "name": "event", "sp:version": 1, "fields": [{FIELDS}]}}')
START = datetime(2026, 10, 30, 14, 59, 59, 999_900, tzinfo=UTC)
"""A tenth of a millisecond before new rates are published: events lie on both sides."""
RATES = sp.canonical.ecb_rates(b"Date,USD,GBP,\n2026-10-30,1.1652,0.8331,\n2026-10-29,1.1601,0.8342,\n")

Made = tuple[dict[str, Any], dict[str, pl.DataFrame]]
col = pl.col


def events(seed: int, rows: int = 100, keys: str = "xyz") -> pl.DataFrame:
    """Events a few microseconds apart, out of order by up to four."""
    random = np.random.default_rng(seed)
    us = np.cumsum(random.integers(0, 5, rows)) - random.integers(0, 5, rows)
    some = random.integers(0, 10, rows)
    return pl.DataFrame(
        {
            "id": [f"e{n % (rows - 6):03}" for n in range(rows)],  # the last ones repeat the first
            "k": random.choice(list(keys), rows),
            "g": [None if n == 0 else "ab"[n % 2] for n in some],
            "v": np.round(random.uniform(0, 10, rows), 2),
            "w": [None if n == 1 else float(n) for n in random.integers(0, 9, rows)],
            "x": np.round(random.uniform(0, 100, rows), 1),
            "s": [None if n == 0 else f" {'Ab'[: 1 + n % 2]}{n % 4} " for n in random.integers(0, 12, rows)],
            "b": random.random(rows) < 0.5,
            "n": random.integers(0, 50, rows),
            "idle": random.integers(0, 50, rows),
            "items": [list(range(int(n))) for n in random.integers(0, 3, rows)],
            "at": [int(u) for u in us],
        }
    ).with_columns(at=pl.lit(START) + pl.duration(microseconds=col("at")))  # fmt: skip


def plain(topic: str) -> Stream:
    return sp.source(topic, contract=EVENT, lateness="3us")


def source(topic: str) -> Stream:
    """Rows chosen by a column that nothing else reads: whoever forgets that rows are chosen leaves it out."""
    return plain(topic) | sp.where(col("idle") > 4)


def one_row_at_a_time() -> Made:
    a = source("a")

    def doubled(frame: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame({"twice": frame["v"] * 2, "x": frame["x"] + frame["n"]})

    sold = sp.meaning(1, in_stock=col("n") > 10, wanted=col("v") > 2)
    old = sp.meaning(1, wanted=col("w") > 4)
    return {
        "kept": a | sp.where(col("v") > 5, col("b")) | sp.drop("idle"),
        "made": a | sp.with_columns(
            v=col("x") - col("w"), chosen=pl.when(col("n") > 20).then(col("v")).otherwise(col("w")), same=col("g"),
        ),
        "chosen": a | sp.select("id", other=col("x"), long=col("items").list.sum() + col("n")) | sp.rename(other="y"),
        "swapped": a | sp.select("v", "x", "n") | sp.rename(v="x", x="v"),
        "function": a | sp.stateless(doubled, reads=("v", "x", "n")),
        "whole": a | sp.select("v", "x", "n") | sp.stateless(lambda f: pl.DataFrame({"z": f["v"] + f["x"] + f["n"]})),
        "items": a | sp.select("id", "items", "v") | sp.explode("items"),
        "ruled": a | sp.rules(
            tag="broken", large=sp.rule.row(col("v") < 8, action="tag"), known=sp.rule.row(col("w") < 8, action="tag"),
            right=sp.rule.row(col("x") > 20, action="dead_letter"), seen=col("n") > 3,
        ) | sp.drop("idle", "n"),
        "means": a | sp.select("id", "n", "v", "w") | sp.definitions(
            "sold", sales=sold, support=old, canonical={"2026-01-01": "sales", "2026-10-30T15:00:00Z": "support"},
        ),
        "formed": a | sp.select("id", "s", "v", "w", "x") | sp.harmonise(
            text=sp.canonical.text("s", case="upper"), kilos=sp.canonical.quantity("v", unit="[lb_av]", to="kg"),
            euros=sp.canonical.money("x", currency="USD", to="EUR", rates=RATES, otherwise="null"),
        ),
        "refused": a | sp.select("id", "s", "v") | sp.harmonise(text=sp.canonical.text("s", pattern="A.*")),
        "ended": a | sp.select("k", "v", "n") | sp.changes((col("n") > 40) & (col("v") > 5)),
    }, {"a": events(1)}  # fmt: skip


def by_key_and_time() -> Made:
    a = source("a")
    keyed = a | sp.key_by("k")
    folds = {"rows": sp.count(), "sum": sp.total("v"), "top": sp.max("w"), "first": sp.first("x")}
    windows = keyed | sp.tumbling("20us", **folds)
    return {
        "once": a | sp.dedupe("id", within="1h"),
        "sorted": keyed | sp.ordered("n") | sp.select("v", "x"),
        "tumbling": windows,
        "tardy": windows.late | sp.select("v", "x"),
        "sliding": keyed | sp.sliding("20us", every="10us", **folds),
        "sessions": keyed | sp.session("6us", emit="update", **folds),
        "busy": windows | sp.where(col("sum") > 10) | sp.with_columns(mean=col("sum") / col("rows")),
        "again": windows | sp.key_by("rows") | sp.tumbling("60us", most=sp.max("sum")),
        "back": keyed | lookback(seen=sp.count("w").over("20us"), spent=sp.total("v").over("20us")),
    }, {"a": events(2, 160)}


def features() -> Made:
    keyed = source("a") | sp.key_by("k") | sp.ordered("id")
    other = source("b") | sp.select("k", "at", "x", "n") | sp.key_by("k")
    both = sp.together(a=source("a") | sp.select("k", "at", "v") | sp.key_by("k"), b=other) | sp.ordered()
    return {
        "known": keyed | sp.features(
            spent=sp.total("v").over("30us"), large=sp.count().where(col("x") > 50).over("30us"),
            usual=sp.mean("w").over("30us"), since=sp.time_since_last().over("30us"), slope=sp.trend("n").over("30us"),
            aging=sp.ewma("v", "10us").over("30us"), share=col("large") / col("spent"),
            chosen=pl.when(col("usual") > 4).then(col("spent") + col("n")).otherwise(col("share")),
            same=sp.derived(col("spent")),
        ) | sp.drop("idle"),
        "filled": keyed | sp.features(
            held=sp.first("w").where(col("b")).over("5us").carry("30us"), zero=sp.min("w").over("2us").default(0.0),
            told=sp.max("w").over("2us").indicator(0.0), status=True, max_lag="4us",
        ) | sp.select("held", "held_status", "held_age", "zero", "zero_status", "told", "told_known"),
        "hopping": keyed | sp.features(month=sp.total("v").over("40us", hop="10us")) | sp.select("k", "month"),
        "both": both | sp.features(
            of_b=sp.total("x").of("b").over("30us"), any=sp.count().over("30us"), of_a=sp.total("v").over("30us"),
            who=sp.contributors().over("30us"), coverage={"b": sp.Coverage(since="2026-10-30T15:00:00Z")}, status=True,
        ),
    }, {"a": events(3), "b": events(4, 60)}  # fmt: skip


def joins() -> Made:
    a, b = source("a") | sp.select("id", "k", "v", "n", "at"), source("b") | sp.select("k", "w", "x", "at")
    left, right = a | sp.key_by("k"), b | sp.key_by("k")
    chosen = sp.where(col("idle").fill_null(9) > 4)
    table = sp.table("t", contract=EVENT, lateness="3us") | chosen | sp.select("k", "g", "x", "deleted", "at")
    other = sp.table("u", contract=EVENT, lateness="3us") | chosen | sp.select("k", "s", "v", "deleted", "at")
    return {
        "newest": left | sp.as_of(right, max_age="20us", name="rate"),
        "in_order": left | sp.ordered("id") | sp.as_of(right | sp.ordered(), columns=("w",), name="level"),
        "filtered": left | sp.as_of(source("b") | sp.where(col("n") > 20) | sp.select("k", "w", "at") | sp.key_by("k")),
        "of_table": left | sp.ordered("id") | sp.as_of(table | sp.ordered(), columns=("g",)),
        "pairs": left | sp.within(right, before="4us", after="4us"),
        "alone": left | sp.within(right, before="1us", after="1us", how="left"),
        "tables": table | sp.ordered() | sp.join(other | sp.ordered(), how="full"),
        "kept": sp.sink(table | sp.ordered() | sp.join(other | sp.ordered(), how="inner"), latest=True),
        "all": a | sp.select("k", "v", "at") | sp.union(source("c") | sp.select("k", "at", v=col("x"))),
    }, {
        "a": events(5), "b": events(6), "c": events(7, 30),
        "t": events(8, 30).with_columns(deleted=pl.int_range(30) % 7 == 5),
        "u": events(9, 30).with_columns(deleted=pl.int_range(30) % 5 == 4),
    }  # fmt: skip


def leaves() -> Made:
    links = source("l") | sp.where(col("n") > 10) | sp.select("k", "g", "id", "at") | sp.key_by("k") | sp.ordered("id")
    rows = source("a") | sp.select("id", "k", "v", "at") | sp.key_by("k") | sp.ordered("id")
    followed = rows | sp.follow(links, keep="200us", entity="g")
    told = {"paid": sp.total("v").over("100us"), "rows": sp.count().over("100us")}
    return {
        "followed": followed,
        "entities": followed | sp.key_by("entity") | sp.features(**told),
        "became": sp.outcomes(
            followed | sp.key_by("entity") | sp.where(col("v") > 5),
            followed | sp.key_by("entity") | sp.where(col("v") < 3),
            within="20us", on="id", into="lost",
        ),
        "corrected": followed | sp.key_by("entity") | sp.features(corrections=True, **told),
    }, {"a": events(10), "l": events(11, 40)}


def learning() -> Made:
    a = source("a") | sp.select("id", "k", "v", "x", "g", "at")
    labels = source("y") | sp.select("id", "b", "at")
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    scored = a | sp.learn(
        model, inputs=("v",), into="risk", calibrated="chance", labels=labels, label="b", horizon="1h", on="id",
        segment="g", every=4, report=20, importance=sp.importance(share=1.0),
    )  # fmt: skip
    unsure = scored | sp.select("id", "at", "risk") | sp.abstain(
        "risk", labels=labels, label="b", horizon="1h", on="id", target=0.45, window=100, every=5
    )  # fmt: skip
    silent = a | sp.learn(
        model, inputs=("x",), into="risk", labels=sp.outcome(labels | sp.where(col("b")), within="9us"), on="id",
        every=4,
    )  # fmt: skip
    drawn = a | sp.bandit(
        ("one", "two"), rewards=labels, reward="b", horizon="1h", on="id", salt="t", every=5, report=20
    )  # fmt: skip
    own = source("a") | sp.select("v", "b") | sp.learn(model, inputs=("v",), into="risk", label="b", every=4)
    return {
        "scored": scored,
        "metrics": scored.side("metrics"),
        "calibration": scored.side("calibration"),
        "importance": scored.side("importance"),
        "unsure": unsure,
        "drawn": drawn | sp.select("id", "arm", "arm_propensity"),
        "arms": drawn.side("arms"),
        "silent": silent | sp.select("id", "risk"),
        "own": own,
        "asked": labels | sp.retrain(
            harm=scored | sp.where(col("v") > 7), volume=12, cooldown="80us", cut="25us", window="100us"
        ),
    }, {
        "a": events(12, 120),
        "y": events(12, 120).with_columns(b=col("v") > 5, at=col("at") + pl.duration(microseconds=7)),
    }


def decisions() -> Made:
    a = source("a") | sp.select("id", "k", "v", "w", "x", "n", "g", "at")
    decided = a | sp.decide(
        sp.when(col("v") > 8, then="stop"), sp.when(col("w") > 6, then="ask"), otherwise="go", log=("n",)
    )  # fmt: skip
    routed = a | sp.route("k", salt="t", weights={"old": 0.5, "new": 0.5})
    return {
        "decided": decided,
        "log": decided.side("log"),
        "unique": a | sp.decide(sp.when(col("v") > 5, then="a"), sp.when(col("x") > 70, then="b"), otherwise="c",
                                hit="unique"),
        "cheap": a | sp.with_columns(chance=col("x") / 100) | sp.decide(
            sp.cheapest("chance", allow=(0.0, 100.0), block=(5.0, 5.0)), otherwise="ask"),
        "routed": routed,
        "ratio": routed | sp.with_columns(arm=pl.when(col("v") > 1.5).then(pl.lit("old")).otherwise(col("arm")))
        | sp.sample_ratio("arm", weights={"old": 0.5, "new": 0.5}),
        "winner": routed | sp.key_by("k") | sp.winner(
            "arm", arms=("old", "new"), rewards=a | sp.key_by("k"), reward="v", horizon="9us", on="k", least=0.5,
            largest=10.0, report=2),
        "best": a | sp.fallback("score", full="w", rest=sp.rung("x", age="n", max_age="30us"), prior=0.5),
        "alerts": a | sp.key_by("k") | sp.alert("v", title="high", above=7.0, clear=4.0, hold="1us", storm=2,
                                                fold="9us"),
        "held": a | sp.key_by("k") | sp.alert((col("v") > 6) & (col("x") > 40), title="both"),
    }, {"a": events(13)}  # fmt: skip


def review_sinks() -> dict[str, Any]:
    reviewed = source("a") | sp.select("id", "k", "v", "x", "n", "at") | sp.review(
        answers="said", default="block", choices=("allow", "block"), timeout="30us", priority="x", subject="n"
    )  # fmt: skip
    return {
        "verdicts": reviewed,
        "cases": sp.sink(reviewed.side("cases"), key="case", identified=True),
        "busy": reviewed | sp.key_by("k") | sp.tumbling("40us", rows=sp.count(), sum=sp.total("priority")),
    }


def reviews() -> Made:
    """Cases of which people answer some in time, some twice, some late, some with a word that is no verdict."""
    sinks, rows = review_sinks(), {"a": events(16)}
    # The ids of cases hang on the rows alone: a run that nobody answers tells them.
    asked = drive(sp.Topology("t", sinks=sinks), rows, registry=MemoryRegistry((EVENT,)))["cases"]
    asked = asked.filter(col("status") == "open").select("case", "asked_at").with_row_index("i")
    i = col("i").cast(pl.Int64)
    said = asked.filter(i % 5 > 0).with_columns(
        deed=pl.when(i % 7 == 3).then(pl.lit("claim")).otherwise(pl.lit("answer")),
        by=pl.format("p{}", i % 4), at=col("asked_at") + pl.duration(microseconds=1 + i * 11 % 38),
        subject=pl.format("s{}", i), note=pl.when(i % 3 > 0).then(pl.format("n{}", i)),
        verdict=pl.when(i % 11 == 4).then(pl.lit("perhaps")).when(i % 2 == 0).then(pl.lit("allow"))
        .otherwise(pl.lit("block")), until=col("asked_at"), token=pl.format("t{}", i),
    )  # fmt: skip
    again = said.filter(i % 6 == 1).with_columns(col("at") + pl.duration(microseconds=3), by=pl.lit("q"))
    return sinks, rows | {"said": pl.concat([said, again]).sort("at").drop("i", "asked_at")}


def watching() -> Made:
    a = plain("a") | sp.select("k", "v", "w", "x", "at")
    checked = a | sp.rules(
        window="20us", remind="50us", positive=col("v") > 1, there=sp.rule.null_rate("w", at_most=0.1),
        steady=sp.rule.drift("x", test="ks", reference=20, run_length=20, at_least=10),
        alive=sp.rule.fresh(within="1h"),
    )  # fmt: skip
    late_half = pl.int_range(pl.len()) > pl.len() // 2
    return {
        "alerts": checked.alerts,
        "told": (source("a") | sp.rules(window="20us", remind="50us", high=col("x") > 10)).alerts,
        "windows": a | sp.drift("v", "x", test="ks", window=100, reference=100, run_length=1_000),
        "evidence": a | sp.drift("v", "x", run_length=500, warm=100),
        "report": (a | sp.drift("x", run_length=500, warm=100, report=100)).side("report"),
        "river": a | sp.drift("v", test=river_drift.ADWIN()),
    }, {"a": events(14, 700).with_columns(
        v=pl.when(late_half).then(col("v") * 4).otherwise(col("v")),
        x=pl.when(late_half).then(col("x") * 2.5).otherwise(col("x")))}  # fmt: skip


class Silence:
    """Tells when a key has been silent for six microseconds; says nothing of what it reads."""

    shortest_wait_us = 6

    def schema(self, rows: Schema) -> Schema:
        return Schema((rows["k"], Field("level", pl.Float64(), nullable=True)))

    def open(self) -> dict[str, Any]:
        return {}

    def process(self, state: dict[str, Any], rows: pl.DataFrame) -> tuple[dict[str, Any], None]:
        seen = zip(rows["k"], rows["_event_time"], rows["v"], strict=True)
        return state | {k: [at, v] for k, at, v in seen}, None

    def next_due(self, state: dict[str, Any]) -> int | None:
        return min(at for at, _ in state.values()) + 6 if state else None

    def advance(self, state: dict[str, Any], moment: int) -> tuple[dict[str, Any], pl.DataFrame]:
        silent = sorted(k for k, (at, _) in state.items() if at + 6 <= moment)
        told = pl.DataFrame({"k": silent, "level": [state[k][1] for k in silent]},
                            schema={"k": pl.String, "level": pl.Float64})  # fmt: skip
        return {k: held for k, held in state.items() if k not in silent}, told


class Crossed:
    """An operator that the engine knows nothing of: it puts values of one column into another."""

    verb = "crossed"

    def schema(self, *inputs: StreamType) -> StreamType:
        return inputs[0]

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (needed | {"x"},)

    def open(self, *inputs: StreamType) -> None:
        return None

    def process(self, state: None, inputs: Any, time: StepTime) -> tuple[None, Output]:
        (batch,) = inputs
        return None, Output(batch.with_frame(batch.frame.with_columns(v=pl.col("x"))))


def a_persons_own() -> Made:
    a = source("a") | sp.select("k", "v", "x", "at")
    crossed: Any = Crossed()
    return {
        "silent": a | sp.custom(Silence(), key=None),
        "crossed": a | Step(crossed),
    }, {"a": events(15)}


def shared_out() -> Made:
    """Records of few words in few blocks, of which some are full."""
    linkage = LinkageModel(
        (compare("s", "words"), compare("g", "name")), (block("k"), block("s")), 0.1,
        ((0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0.01), (0.8, 0.1, 0.05, 0.03, 0.02)),
        ((0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4), (0.1, 0.02, 0.03, 0.1, 0.75)),
    )  # fmt: skip
    found = source("a") | sp.sharded(sp.resolve(linkage, record="id", threshold=0.6, block_cap=8))
    return {"found": found, "capped": found.side("capped")}, {"a": events(21)}


EVERY: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        one_row_at_a_time, by_key_and_time, features, joins, leaves, learning, decisions, reviews, watching,
        shared_out, a_persons_own,
    )
}  # fmt: skip
