"""A column's version is a hash of its code, its sources and its parameters, and of nothing else."""

from __future__ import annotations

from typing import Any

import polars as pl
from river import linear_model

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.planning.column_versions import column_versions
from streamproc.runtime.binding import plan_topology

SALE = """{"type": "record", "name": "sale", "sp:version": %d, "fields": [
    {"name": "shop", "type": "string", "sp:role": "key"}, {"name": "amount", "type": "%s"},
    {"name": "sold", "type": "boolean"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""


def doubled(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(amount=pl.col("amount") * 2)


def tripled(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(amount=pl.col("amount") * 3)


def trained(rounds: int) -> Any:
    model = linear_model.LogisticRegression()
    for n in range(rounds):
        model.learn_one({"spend": 1.0}, n % 3 == 0)
    return model


def versions(
    *, contract: str = SALE % (1, "double"), topic: str = "sales", made: Any = doubled, span: str = "1h",
    least: int = 0, model: Any = None, doc: str = "", **more: Any,
) -> dict[str, str]:  # fmt: skip
    """Of the columns of one topology, of which any part may be another one."""
    rows = sp.source(topic, contract=parse_contract(contract), lateness="1m") | sp.stateless(made)
    known = rows | sp.key_by("shop") | sp.features(
        spend=sp.total("amount").where(pl.col("amount") > least).over(span), n=sp.count().over("1h"),
        share=pl.col("spend") / pl.col("n"),
    )  # fmt: skip
    scored = known | sp.learn(model or trained(0), inputs=("spend",), label="sold", into="score")
    topology = sp.Topology("shops", sinks={"out": scored, **more}, doc=doc)
    plan = plan_topology(topology, MemoryRegistry((parse_contract(contract),)))
    return column_versions(plan, next(sink for sink in plan.sinks if sink.name == "out"))


def changed(**how: Any) -> set[str]:
    before, after = versions(), versions(**how)
    return {name for name, version in before.items() if after[name] != version}


EVERY = {"shop", "amount", "sold", "at", "n", "spend", "share", "score"}


def test_other_parameters_are_another_version_of_the_features_made_with_them_alone() -> None:
    assert changed(span="2h") == {"spend", "share", "score"}
    assert changed(least=1) == {"spend", "share", "score"}


def test_other_code_above_is_another_version_of_all_that_it_makes() -> None:
    assert changed(made=tripled) >= {"amount", "spend", "n", "share", "score"}


def test_other_sources_are_another_version() -> None:
    assert changed(topic="returns") == EVERY
    assert changed(contract=SALE % (2, "float")) == EVERY


def test_a_model_that_has_learned_otherwise_is_another_version_of_its_score_alone() -> None:
    assert changed(model=trained(40)) == {"score"}
    assert versions(model=trained(40)) == versions(model=trained(40))


def test_what_has_no_part_in_a_column_leaves_its_version() -> None:
    other = sp.source("returns", contract=parse_contract(SALE % (1, "double"))) | sp.where(pl.col("amount") > 3)
    assert changed(doc="told better", large=other) == set()
    assert changed(span="60m") == set()


def test_names_of_steps_leave_the_versions_of_columns() -> None:
    """A branch that is visited earlier takes the names that steps of the same kinds would have without it."""
    rows = sp.source("sales", contract=parse_contract(SALE % (1, "double"))) | sp.stateless(tripled)
    earlier = rows | sp.key_by("shop") | sp.features(most=sp.max("amount").over("1h"))
    assert changed(a_branch=earlier) == set()

    def named(name: str) -> dict[str, str]:
        sales = sp.source("sales", contract=parse_contract(SALE % (1, "double")))
        leaf = sales | sp.stateless(doubled, name=name) | sp.with_columns(twice=pl.col("amount") * 2)
        plan = plan_topology(sp.Topology("shops", sinks={"out": leaf}), MemoryRegistry(()))
        return column_versions(plan, plan.sinks[0])

    assert named("sold_ones") == named("sold")
