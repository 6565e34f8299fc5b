"""What lineage says of chosen cases, and that no operator is without a rule by oversight."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from lineage_topologies import EVENT, EVERY, Crossed, plain

import streamproc as sp
from connectors.registry import FolderRegistry
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import UnknownColumn
from streamproc.graph import Source, Step, Stream
from streamproc.operator import Operator
from streamproc.operators.custom import Custom
from streamproc.planning.lineage import Part, SinkLineage, plan_lineage
from streamproc.planning.plan import type_of
from streamproc.planning.step_uses import step_uses
from streamproc.planning.uses import anything
from streamproc.runtime.binding import plan_topology
from streamproc.testing.golden import agrees_with_golden
from topologies.people.topology import topology as people

SHIPPED = FolderRegistry((Path(__file__).parents[2] / "schemas_avro",))
col = pl.col


def told(stream: Stream | sp.Sink) -> SinkLineage:
    return plan_lineage(plan_topology(sp.Topology("t", sinks={"out": stream}), MemoryRegistry((EVENT,))))["out"]


def direct(lineage: SinkLineage, column: str) -> dict[str, tuple[str, ...]]:
    """What gives a column its value: source column to kinds."""
    return {part.column: tuple(part.how) for part in lineage.columns[column] if part.direct}


def indirect(lineage: SinkLineage, column: str) -> dict[str, tuple[str, ...]]:
    return {part.column: tuple(part.how) for part in lineage.columns[column] if not part.direct}


def rows(lineage: SinkLineage) -> dict[str, tuple[str, ...]]:
    return {part.column: tuple(part.how) for part in lineage.rows}


def test_a_feature_is_made_of_what_its_aggregate_reads_and_of_nothing_else() -> None:
    known = told(plain("a") | sp.key_by("k") | sp.features(
        name="known", spend=sp.total("v").where(col("b")).over("1h"), m=sp.count().over("1h"),
        since=sp.time_since_last().over("1h"), share=col("spend") / col("m"), level=col("share") + col("x"),
    ))  # fmt: skip
    decides = {"k": ("GROUP_BY",), "at": ("WINDOW",)}
    assert direct(known, "spend") == {"v": ("AGGREGATION",)}
    assert indirect(known, "spend") == {**decides, "b": ("FILTER",)}
    assert (direct(known, "m"), indirect(known, "m")) == ({}, decides)
    assert direct(known, "since") == {"at": ("AGGREGATION", "WINDOW")}
    # A derived feature through those that it is computed from.
    assert direct(known, "share") == {"v": ("AGGREGATION",)} and set(indirect(known, "share")) == {"b", "k", "at"}
    assert direct(known, "level") == {"v": ("AGGREGATION",), "x": ("TRANSFORMATION",)}
    (amount,) = (part for part in known.columns["spend"] if part.direct)
    assert amount == Part("a", "v", {"AGGREGATION": ("known",)})


def test_what_only_decides_is_told_apart_from_what_gives_the_value() -> None:
    made = told(
        plain("a") | sp.where(col("n") > 3, name="many")
        | sp.with_columns(price=pl.when(col("b")).then(col("v")).otherwise(0.0), name="priced")
        | sp.select("price", y=col("x"), name="shown")
    )  # fmt: skip
    assert (direct(made, "price"), indirect(made, "price")) == ({"v": ("TRANSFORMATION",)}, {"b": ("CONDITIONAL",)})
    assert direct(made, "y") == {"x": ("IDENTITY",)}
    assert rows(made) == {"at": ("FILTER",), "n": ("FILTER",)}
    assert {part.column: dict(part.how) for part in made.rows}["n"] == {"FILTER": ("many",)}
    assert made.origins("y") == {("a", "x"), ("a", "at"), ("a", "n")}
    with pytest.raises(UnknownColumn, match="sink 'out' has no column 'z'"):
        made.origins("z")


def test_the_right_side_of_a_look_up_hangs_on_which_of_its_rows_there_are() -> None:
    right = plain("b") | sp.where(col("n") > 3) | sp.select("k", "w", "at") | sp.key_by("k")
    looked = told(plain("a") | sp.select("k", "v", "at") | sp.key_by("k") | sp.as_of(right, name="last"))
    of = {(part.topic, part.column): tuple(part.how) for part in looked.columns["w"]}
    assert of["b", "w"] == ("IDENTITY",)
    assert of["b", "n"] == of["a", "k"] == of["b", "k"] == of["a", "at"] == ("JOIN",)
    assert ("b", "n") not in looked.origins("v"), "which right rows there are is nothing to the left ones"


def test_an_operator_that_the_engine_does_not_know_may_have_used_all_that_it_reads() -> None:
    rows_of_a = plain("a") | sp.select("k", "v", "x", "at") | sp.with_columns(x=col("x") * 2)
    crossed: object = Crossed()
    made = told(rows_of_a | Step(crossed))  # type: ignore[arg-type]  # an operator by its methods
    for name in ("k", "v", "x", "at"):
        assert set(direct(made, name)) == {"k", "v", "x", "at"}
    assert set(rows(made)) == {"k", "v", "x", "at"}


@pytest.mark.parametrize(
    ("subject", "how"), [("", {}), ("id", {"id": ("IDENTITY",)}), ("n", {"n": ("TRANSFORMATION",)})]
)
def test_the_subject_of_a_case_is_a_text_as_it_is_or_a_number_as_text(subject: str, how: dict[str, object]) -> None:
    asked = sp.review(answers="said", default="no", choices=("yes", "no"), timeout="1h", subject=subject)
    case = told(plain("a") | asked)
    assert (direct(case, "subject"), direct(case, "priority"), direct(case, "case")) == (how, {}, {})


def test_versions_of_columns_stand_beside_them() -> None:
    stream = plain("a") | sp.key_by("k")
    one, other = (
        told(stream | sp.features(spend=sp.total("v").over(span), m=sp.count().over("1h"))) for span in ("1h", "2h")
    )
    assert one.versions["m"] == other.versions["m"] and one.versions["spend"] != other.versions["spend"]


def test_a_table_that_deletes_tells_no_column_of_it_but_rows_that_hang_on_it() -> None:
    gone = plain("a") | sp.select("k", "v", "n") | sp.changes(col("n") > 40)
    lineage = told(sp.sink(gone, latest=True, key="k"))
    assert set(lineage.columns) == {"k", "v", "n"}
    assert rows(lineage) == {"at": ("FILTER",), "k": ("GROUP_BY",), "n": ("FILTER",)}


def test_what_every_operator_says_of_its_columns_is_what_was_looked_at_and_accepted() -> None:
    said = []
    for made, topology in EVERY.items():
        plan = plan_topology(sp.Topology("t", sinks=topology()[0]), MemoryRegistry((EVENT,)))
        for sink, lineage in plan_lineage(plan).items():
            for column, parts in (*lineage.columns.items(), ("", lineage.rows)):
                of = [f"{part.topic}.{part.column} {', '.join(part.how)}" for part in parts]
                said.append((made, sink, column, [one for one, part in zip(of, parts, strict=True) if part.direct],
                             [one for one, part in zip(of, parts, strict=True) if not part.direct]))  # fmt: skip
    names = ["topology", "sink", "column", "direct", "indirect"]
    frame = pl.DataFrame(said, schema=names, orient="row").cast({"direct": pl.List(pl.String)})
    agrees_with_golden(frame, Path(__file__).parent / "golden" / "lineage.json")


def operators() -> Iterator[type]:
    """Every class of the engine that is an operator."""
    package = importlib.import_module("streamproc")
    for found in pkgutil.walk_packages(package.__path__, "streamproc."):
        if found.name.split(".")[1] in ("operators", "feature", "entities", "learning", "decisions", "drifting"):
            for _, kind in inspect.getmembers(importlib.import_module(found.name), inspect.isclass):
                own = kind.__module__ == found.name and kind is not Operator
                if own and all(hasattr(kind, method) for method in ("verb", "schema", "reads", "open", "process")):
                    yield kind


def test_every_operator_of_the_engine_has_a_rule_and_is_tried_by_the_law() -> None:
    kinds = set(operators())
    assert len(kinds) > 35 and Custom in kinds
    tried: set[type] = set()
    without = set()
    topologies = [sp.Topology("t", sinks=made()[0]) for made in EVERY.values()]
    for topology, registry in [(one, MemoryRegistry((EVENT,))) for one in topologies] + [(people, SHIPPED)]:
        plan = plan_topology(topology, registry)
        for node in plan.nodes:
            if isinstance(node.origin, Source):
                continue
            tried.add(type(node.origin))
            inputs = [type_of(plan.nodes, port) for port in node.inputs]
            if step_uses(node.origin, inputs, node.type) == anything(node.origin, inputs, node.type):
                without.add(type(node.origin))
    assert kinds - tried == set()
    # A person's own code is not looked into.
    assert without == {Custom, Crossed}
