"""Every operator keeps the eight laws, on random streams with random cuts, restarts, late rows, hot keys and ties."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from learning_laws import LEARNING_LAWS

import streamproc as sp
import streamproc.feature
import streamproc.operators
from streamproc.contracts.model import Field, Schema
from streamproc.feature.together import Together
from streamproc.graph import Step, Stream
from streamproc.operator import StreamType
from streamproc.operators.key_by import KeyBy
from streamproc.operators.lookback import lookback
from streamproc.operators.outcomes import Happened, Outcomes
from streamproc.testing import check_operator

STREAMS = 200
"""Random streams for each verb, shared by its cases."""
ROWS = 16

ROW = Schema(
    (
        Field("k", pl.String(), nullable=True),
        Field("x", pl.Float64(), nullable=True),
        Field("i", pl.Int64()),
        Field("s", pl.String(), nullable=True),
        Field("d", pl.Decimal(20, 2), nullable=True),
    )
)
LISTS = Schema((*ROW, Field("l", pl.List(pl.Int64()), nullable=True)))
OTHER = Schema(
    (Field("k", pl.String(), nullable=True), Field("x", pl.Float64(), nullable=True), Field("y", pl.Int64()))
)
PLAIN = StreamType(ROW)
KEYED = StreamType(ROW, ("k",))
ONE_KEY = StreamType(ROW, ())
IN_ORDER = StreamType(ROW, ("k",), ordered=True)
RIGHT = StreamType(OTHER, ("k",))
RIGHT_IN_ORDER = StreamType(OTHER, ("k",), ordered=True)
GONE = Field("gone", pl.Boolean(), nullable=True, deletes=True)
TABLE = StreamType(Schema((*OTHER, GONE)), ("k",))
TABLE_IN_ORDER = StreamType(Schema((*OTHER, GONE)), ("k",), ordered=True)
LEAVES = StreamType(Schema((Field("k", pl.String()), *ROW.fields[1:])), ("k",), ordered=True)
LINKS = StreamType(Schema((Field("k", pl.String()), Field("s", pl.String(), nullable=True))), ("k",), ordered=True)
FOLLOWED = replace(
    sp.follow(Stream(KeyBy(("k",))), keep="9s", entity="s").operator.schema(LEAVES, LINKS), keyed_by=("entity",)
)
STREAM = Stream(KeyBy(("k",)))


class Silence:
    """Says when a key has been silent for 5 s: a user's own operator, with time."""

    shortest_wait_us = 5_000_000

    def schema(self, rows: Schema) -> Schema:
        return Schema((rows["k"], Field("seen", pl.Int64())))

    def open(self) -> dict[str, int]:
        return {}

    def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], None]:
        for key, time in zip(rows["k"].fill_null("?"), rows["_event_time"], strict=True):
            state[key] = max(time, state.get(key, time))
        return state, None

    def next_due(self, state: dict[str, int]) -> int | None:
        return min(state.values()) + 5_000_000 if state else None

    def advance(self, state: dict[str, int], moment: int) -> tuple[dict[str, int], pl.DataFrame]:
        silent = sorted(key for key, seen in state.items() if seen + 5_000_000 <= moment)
        made = pl.DataFrame({"k": silent, "seen": [state[key] for key in silent]}, {"k": pl.String, "seen": pl.Int64})
        return {key: seen for key, seen in state.items() if key not in silent}, made


class RunningNumber:
    """Numbers the rows of each key: a user's own operator, without time."""

    def schema(self, rows: Schema) -> Schema:
        return Schema((rows["k"], Field("number", pl.Int64())))

    def open(self) -> dict[str, int]:
        return {}

    def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], pl.DataFrame]:
        numbers = []
        for key in rows["k"].fill_null("?"):
            state[key] = state.get(key, 0) + 1
            numbers.append(state[key])
        return state, rows.select("k", number=pl.Series(numbers, dtype=pl.Int64))


def squares(rows: pl.DataFrame) -> pl.DataFrame:
    """Row by row: what `stateless` runs."""
    return rows.select((pl.col("i") * pl.col("i")).alias("square"), pl.col("i").cast(pl.String).alias("text"))


HALF_THERE = sp.Coverage(since="1970-01-01T00:00:05Z", gaps=(("1970-01-01T00:00:10Z", "1970-01-01T00:00:14Z"),))
RATES = sp.canonical.ecb_rates(b"Date,USD,\n1970-01-02,1.5,\n1969-12-30,1.25,\n1969-06-30,1.75,\n")
COUNTING: Any = sp.rules(
    window="4s", positive=pl.col("i") > 0, nulls=sp.rule.null_rate("x", at_most=0.2), many=sp.rule.volume(at_most=2),
    again=sp.rule.duplicates("i"), both=sp.rule.duplicates("s", "k", at_most=0.5), newest=sp.rule.fresh(within="1s"),
    shifted=sp.rule.drift("x", test="ks", reference=20, run_length=20, at_least=10),
    texts=sp.rule.drift("s", reference=20, run_length=15, at_least=10),
)  # fmt: skip
DRIFTING: Any = [Step(replace(step.operator, reference=4, at_least=3)) for step in COUNTING.operator.also]
"""In laws streams are short."""
VERDICTS: Any = sp.rules(window="2s", remind="5s", hot=pl.col("i") > 0, a=sp.rule.volume(at_least=2)).operator.watch[3]  # type: ignore[attr-defined]
COUNTED = Schema((Field("rule", pl.String(), nullable=True), Field("rows", pl.Int64()), Field("broken", pl.Int64())))
AGGREGATES = {
    "count": sp.count(), "count of a column": sp.count("x"), "total of floats": sp.total("x"),
    "total of integers": sp.total("i"), "total of decimals": sp.total("d"), "mean": sp.mean("x"), "var": sp.var("x"),
    "min": sp.min("x"), "max": sp.max("d"), "first": sp.first("i"), "last": sp.last("x"), "distinct": sp.distinct("s"),
    "top_k": sp.top_k("i", 2),
}  # fmt: skip
FEW = {
    "count": sp.count(),
    "total": sp.total("x"),
    "mean": sp.mean("d"),
    "last": sp.last("i"),
    "top_k": sp.top_k("s", 2),
}
MERGEABLE = {name: one for name, one in AGGREGATES.items() if one.kind in ("count", "total", "min", "first")}

LINKAGE = sp.LinkageModel(
    (sp.compare("s"), sp.compare("x", "number", limits=(1,))), (sp.block("s"), sp.block("i")), 0.2,
    ((0.9, 0.1), (0.6, 0.2, 0.2)), ((0.2, 0.8), (0.2, 0.2, 0.6)),
)  # fmt: skip
RESOLVE = sp.resolve(LINKAGE, record="k", review=0.2, threshold=0.7, golden={"i": "most_recent", "x": "most_frequent"})

LAWS: dict[str, tuple[Step, tuple[StreamType, ...]]] = {
    "where": (sp.where(pl.col("i") > 0, pl.col("x") < 3), (PLAIN,)),
    "select": (sp.select("i", "k", twice=pl.col("i") * 2), (KEYED,)),
    "with_columns": (sp.with_columns(y=pl.col("x") + pl.col("i"), s=pl.col("s").str.to_uppercase()), (KEYED,)),
    "rename": (sp.rename(k="key", x="i2"), (KEYED,)),
    "drop": (sp.drop("x", "d"), (KEYED,)),
    "explode": (sp.explode("l"), (StreamType(LISTS, ("k",)),)),
    "union": (sp.union(STREAM, STREAM), (KEYED, KEYED, KEYED)),
    "union of sources": (sp.union(STREAM), (PLAIN, PLAIN)),
    "key_by": (sp.key_by("k", "i"), (PLAIN,)),
    "key_by nothing": (sp.key_by(), (PLAIN,)),
    "definitions": (
        sp.definitions(
            "active", canonical={"1970-01-01T00:00:00Z": "sales", "1970-01-01T00:00:10Z": "support"},
            sales=(
                sp.meaning(1, bought=pl.col("i") > 0),
                sp.meaning(2, since="1970-01-01T00:00:20Z", bought=pl.col("i") > 1, known=pl.col("s").is_not_null()),
            ),
            support=sp.meaning(1, calm=pl.col("x") < 3, known=pl.col("k").is_not_null()),
        ),
        (KEYED,),
    ),
    "rules": (
        sp.rules(
            positive=pl.col("i") > 0, known=sp.rule.one_of("s", ["a", "hot"], action="tag"),
            finite=sp.rule.row(pl.col("x").is_finite(), action="tag"),
            size=sp.rule.between("i", -3, 50, action="dead_letter"),
        ),
        (KEYED,),
    ),
    "rules that only alert": (sp.rules(positive=pl.col("i") > 0), (PLAIN,)),
    "rules' counts": (COUNTING.operator.watch[0], (PLAIN,)),
    "rules' drift": (DRIFTING[0], (PLAIN,)),
    "rules' drift of texts": (DRIFTING[1], (PLAIN,)),
    "rules' verdicts": (VERDICTS, (StreamType(COUNTED, ("rule",)),)),
    "rules' freshness": (COUNTING.operator.fresh[0], (PLAIN,)),
    "require": (sp.require(positive=pl.col("i") > 0, finite=pl.col("x").is_finite()), (PLAIN,)),
    "harmonise": (
        sp.harmonise(
            at=sp.canonical.instant("i", epoch="s"), weight=sp.canonical.quantity("x", unit="[lb_av]", to="kg"),
            label=sp.canonical.text("s", case="upper", ascii=True, pattern="[A-Z ]*"),
        ),
        (KEYED,),
    ),
    "harmonise with defaults": (
        sp.harmonise(
            at=sp.canonical.instant("s", formats=("iso", "%Y%m%d"), zone="Europe/Berlin", otherwise="null"),
            size=sp.canonical.quantity("d", unit="m", to="cm"),
            weight=sp.canonical.quantity("x", to="kg", unit_column="s", units={"a": "g", "hot": "t"}, default=1.5),
        ),
        (PLAIN,),
    ),
    "harmonise people and money": (
        sp.harmonise(
            paid=sp.canonical.money("d", currency="USD", to="EUR", rates=RATES, max_age="400d"),
            kept=sp.canonical.money("x", currency_column="s", default=0),
            tel=sp.canonical.phone("s", region="DE", default=""),
            who=sp.canonical.person_name("s"), land=sp.canonical.country("k", otherwise="null"),
            mail=sp.canonical.email("s", otherwise="null"),
            home=sp.canonical.address(city="s", country="DE", otherwise="null"),
        ),
        (KEYED,),
    ),
    "stateless": (sp.stateless(squares, reads=("i",)), (KEYED,)),
    "stateless of all columns": (sp.stateless(squares), (PLAIN,)),
    "custom": (sp.custom(RunningNumber(), key=("k",)), (KEYED,)),
    "custom with time": (sp.custom(Silence()), (StreamType(ROW, ("k",)),)),
    "dedupe": (sp.dedupe("k", within="4s"), (KEYED,)),
    "dedupe by columns": (sp.dedupe("i", "s", within="9s"), (PLAIN,)),
    "ordered": (sp.ordered(), (PLAIN,)),
    "ordered by columns": (sp.ordered(("s", "i")), (KEYED,)),
    "tumbling": (sp.tumbling("4s", offset="1s", **AGGREGATES), (KEYED,)),
    "tumbling of all rows": (sp.tumbling("4s", n=sp.count(), t=sp.total("x")), (ONE_KEY,)),
    "tumbling below ordered": (sp.tumbling("4s", n=sp.count(), t=sp.total("x")), (IN_ORDER,)),
    "tumbling with updates": (sp.tumbling("4s", emit="update", **FEW, var=sp.var("x"), low=sp.min("x")), (KEYED,)),
    "sliding": (sp.sliding("6s", every="2s", **FEW), (KEYED,)),
    "sliding with updates": (sp.sliding("5s", every="2s", emit="update", n=sp.count(), t=sp.total("x")), (KEYED,)),
    "session": (sp.session("3s", **AGGREGATES), (KEYED,)),
    "session with updates": (sp.session("3s", emit="update", **MERGEABLE), (KEYED,)),
    "lookback": (
        lookback(
            n=sp.count().over("4s"), t=sp.total("x").over("4s"), u=sp.total("i").over("9s"),
            dt=sp.total("d").over("9s"),
            mean=sp.mean("x").over("4s"), var=sp.var("x").over("9s"), low=sp.min("x").over("4s"),
            high=sp.max("i").over("9s"), first=sp.first("i").over("4s"), last=sp.last("x").over("9s"),
        ),
        (KEYED,),
    ),
    "resolve": (RESOLVE, (ONE_KEY,)),
    "entity_rows of links": (sp.entity_rows("links"), (RESOLVE.operator.schema(ONE_KEY),)),
    "entity_rows": (sp.entity_rows("golden"), (RESOLVE.operator.schema(ONE_KEY),)),
    "features": (
        sp.features(
            n=sp.count().over("4s"), some=sp.count("x").where(pl.col("i") > 0).over("9s"), t=sp.total("x").over("4s"),
            share=pl.col("some") / pl.col("n"), dt=sp.total("d").over("9s"), mean=sp.mean("i").over("4s"),
            var=sp.var("x").over("9s"), low=sp.min("x").over("4s"), high=sp.max("i").over("9s"),
            first=sp.first("s").over("4s"), last=sp.last("x").over("9s"), kinds=sp.distinct("s").over("9s"),
            often=sp.top_k("s", 2).over("9s"), numbers=sp.top_k("i", 2).over("4s"), status=True,
        ),
        (KEYED,),
    ),
    "features by scans": (
        sp.features(
            median=sp.quantile("x", 0.5).over("9s"), average=sp.ewma("x", "2s").over("9s").default(0.0),
            trend=sp.trend("i").over("9s").indicator(0.0), since=sp.time_since_last().over("9s"),
            calm=sp.derived(pl.col("since") / 2.0).default(-1.0),
        ),
        (KEYED,),
    ),
    "features without a begin": (
        sp.features(
            n=sp.count().ever(), t=sp.total("x").ever(), u=sp.total("d").ever(), var=sp.var("x").ever(),
            low=sp.min("x").ever(), high=sp.max("i").ever(), first=sp.first("s").ever(), last=sp.last("d").ever(),
            since=sp.time_since_last("x").ever(), recent=sp.max("x").over("4s"), status=True,
        ),
        (KEYED,),
    ),
    "features within a bound": (
        sp.features(
            n=sp.count().over("9s"), low=sp.min("x").over("9s"), mean=sp.mean("x").over("4s").carry("3s"),
            all=sp.last("i").ever(), events_per_key=3, at_bound="not_covered", max_lag="6s", status=True,
        ),
        (KEYED,),
    ),
    "features of tiles": (
        sp.features(
            n=sp.count().over("9s", hop="4s"), t=sp.total("x").over("9s", hop="4s"),
            dt=sp.total("d").over("6s", hop="1s"),
            low=sp.min("s").over("9s", hop="4s"), high=sp.max("s").over("4s"),
            first=sp.first("s").over("9s", hop="4s"),
            middle=sp.quantile("x", 0.5, error=0.1, intervals=4).over("9s", hop="4s").carry("5s"),
            kinds=sp.distinct("i", exact=2).ever(), most=sp.max("s").ever(), status=True, events_per_key=9,
            at_bound="not_covered",
        ),
        (KEYED,),
    ),
    "features of several sources": (
        sp.features(
            who=sp.contributors().over("9s"), a=sp.count().of("a").over("9s"), tb=sp.total("x").of("b").ever(),
            both=sp.mean("x").over("4s").carry("5s"),
            coverage={"b": sp.Coverage(since="1970-01-01T00:00:05Z"), "a": sp.Coverage(until="1970-01-01T00:01:00Z")},
            status=True,
        ),
        (StreamType(Schema((*ROW, Field("source", pl.Enum(["a", "b"])))), ("k",)),),
    ),
    "features of leaves": (
        sp.features(
            n=sp.count().over("4s"), some=sp.count("x").where(pl.col("i") > 0).over("9s"), t=sp.total("x").over("9s"),
            low=sp.min("x").over("4s"), kinds=sp.distinct("s").over("9s"), median=sp.quantile("x", 0.5).over("9s"),
            share=pl.col("some") / pl.col("n"), status=True,
        ),
        (FOLLOWED,),
    ),
    "follow": (sp.follow(STREAM, keep="9s", entity="s"), (LEAVES, LINKS)),
    "outcomes": (Step(Outcomes(("i", "s"), 4_000_000, "lost")), (FOLLOWED, FOLLOWED)),
    "outcomes of what happened": (Step(Happened((pl.col("leaf_step") == "row",))), (FOLLOWED,)),
    "together": (Step(Together(("a", "b")), (STREAM,)), (KEYED, RIGHT)),
    "as_of": (sp.as_of(STREAM, max_age="7s"), (KEYED, RIGHT)),
    "as_of some columns": (sp.as_of(STREAM, columns=("y",)), (KEYED, RIGHT)),
    "as_of in order": (sp.as_of(STREAM, max_age="7s"), (IN_ORDER, RIGHT_IN_ORDER)),
    "changes": (sp.changes(pl.col("i") > 1), (KEYED,)),
    "as_of a table": (sp.as_of(STREAM, max_age="7s", coverage=HALF_THERE), (KEYED, TABLE)),
    "as_of a table in order": (sp.as_of(STREAM, coverage=HALF_THERE), (IN_ORDER, TABLE_IN_ORDER)),
    "join": (sp.join(STREAM), (KEYED, TABLE)),
    "join of all": (sp.join(STREAM, how="full", suffix="_other"), (TABLE, TABLE)),
    "join in order": (sp.join(STREAM, how="left"), (TABLE_IN_ORDER, TABLE_IN_ORDER)),
    "within": (sp.within(STREAM, before="2s", after="3s"), (KEYED, RIGHT)),
    "within and alone": (sp.within(STREAM, before="2s", after="3s", how="left"), (KEYED, RIGHT)),
    "within in order": (sp.within(STREAM, before="0s", after="5s", how="left"), (IN_ORDER, RIGHT_IN_ORDER)),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(LAWS))
def test_the_operator_keeps_the_eight_laws(case: str) -> None:
    step, inputs = LAWS[case]
    mine = [other for other in sorted(LAWS) if other.partition(" ")[0] == case.partition(" ")[0]]
    seeds = range(mine.index(case), STREAMS, len(mine))
    assert check_operator(step, *inputs, seeds=seeds, rows=ROWS, unit="1s") == len(seeds)


@pytest.mark.long
@pytest.mark.parametrize("case", sorted(LAWS))
def test_the_operator_keeps_the_eight_laws_on_longer_streams(case: str) -> None:
    step, inputs = LAWS[case]
    check_operator(step, *inputs, seeds=range(1_000, 1_500), rows=60, unit="1s")


def test_every_verb_of_the_facade_has_its_laws() -> None:
    verbs = {
        name
        for name in sp.__all__
        if inspect.isfunction(getattr(sp, name))
        and inspect.signature(getattr(sp, name), eval_str=False).return_annotation in ("Step", Step)
    }
    # These have tests of their own.
    siblings = {case.partition(" ")[0] for case in LEARNING_LAWS} | {"retrain", "review", "sharded"}
    assert verbs - siblings - {case.partition(" ")[0] for case in LAWS} == set()


def test_every_operator_class_has_its_laws() -> None:
    known: set[type] = set()
    homes = (streamproc.operators, streamproc.feature)
    for module in [m for home in homes for m in pkgutil.walk_packages(home.__path__, f"{home.__name__}.")]:
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if all(callable(getattr(kind, method, None)) for method in ("schema", "reads", "open", "process")):
                known.add(kind)
    tested: set[type] = {type(step.operator) for step, _ in LAWS.values()}
    assert {kind.__name__ for kind in known} - {kind.__name__ for kind in tested} == set()


def test_every_aggregate_has_its_laws() -> None:
    made = {
        name
        for name in sp.__all__
        if inspect.isfunction(getattr(sp, name))
        and inspect.signature(getattr(sp, name), eval_str=False).return_annotation == "Aggregate"
    }
    tested: set[str] = set()
    for step, _ in LAWS.values():
        operator: Any = step.operator
        tested |= {aggregate.kind for _, aggregate in getattr(operator, "aggregates", ())}
    assert made - tested == set()


def test_sketches_in_windows_keep_the_laws_too() -> None:
    step = sp.tumbling(
        "4s", about=sp.distinct("i", exact=0), few=sp.distinct("s", exact=2),
        middle=sp.quantile("x", 0.5, error=0.3, intervals=3),
    )  # fmt: skip
    check_operator(step, KEYED, seeds=30, rows=12, unit="1s")
