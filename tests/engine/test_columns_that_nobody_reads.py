"""Columns that nobody reads are not decoded: every step gets along with the columns that are left."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from streamproc.graph import Step, Stream
from streamproc.testing import drive


def contract(name: str, columns: str) -> Contract:
    fields = ", ".join(f'{{"name": "{c}", "type": "long"}}' for c in columns)
    return parse_contract(
        f'{{"type": "record", "name": "{name}", "sp:version": 1, "fields": ['
        f'{{"name": "k", "type": "string", "sp:role": "key"}}, {fields}, {{"name": "at", "type": '
        '{"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
    )


LEFT, RIGHT = contract("left", "xy"), contract("right", "uv")
A = pl.DataFrame({"k": ["p", "q"] * 5, "x": range(10), "y": range(10), "at": range(0, 20, 2)})
B = pl.DataFrame({"k": ["p", "q"] * 5, "u": range(10), "v": range(10), "at": range(10)})

JOINS: dict[str, Callable[[Stream], Step]] = {
    "as_of": sp.as_of,
    "as_of some": lambda other: sp.as_of(other, columns=("v", "u")),
    "within": lambda other: sp.within(other, before="4us", after="4us"),
    "within left": lambda other: sp.within(other, before="1us", after="1us", how="left"),
}


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("join", sorted(JOINS))
def test_a_join_needs_only_the_columns_that_are_read_below_it(join: str, in_order: bool) -> None:
    a, b = sp.source("a", contract=LEFT), sp.source("b", contract=RIGHT)
    if in_order:
        a, b = a | sp.ordered(), b | sp.ordered()
    joined = a | sp.key_by("k") | JOINS[join](b | sp.key_by("k"))
    some = sp.Topology("some", sinks={"out": joined | sp.select("k", "y", "v")})
    every = sp.Topology("every", sinks={"out": joined})
    few = drive(some, a=A, b=B, contracts=(LEFT, RIGHT), steps=iter([3] * 100))["out"]
    all_of_them = drive(every, a=A, b=B, contracts=(LEFT, RIGHT), steps=iter([3] * 100))["out"]
    assert few.height
    assert few.select("k", "y", "v").equals(all_of_them.select("k", "y", "v"))


def test_a_union_takes_a_branch_that_has_nothing_beside_one_that_has_rows() -> None:
    a, b = sp.source("a", contract=LEFT, lateness="1h"), sp.source("b", contract=LEFT, lateness="1h")
    both = a | sp.where(pl.col("x") >= 0) | sp.union(b | sp.where(pl.col("x") < 5))
    topology = sp.Topology("both", sinks={"out": both | sp.select("k", "y")})
    made = drive(topology, a=A.clear(), b=A, contracts=(LEFT,), steps=iter([3] * 100))["out"]
    assert made["y"].to_list() == [0, 1, 2, 3, 4]


def test_a_join_takes_a_side_that_sleeps_beside_one_that_has_rows() -> None:
    a, b = sp.source("a", contract=LEFT, lateness="1h"), sp.source("b", contract=RIGHT, lateness="1h")
    left = a | sp.key_by("k") | sp.where(pl.col("x") >= 0)
    right = b | sp.key_by("k") | sp.where(pl.col("u") >= 0)
    topology = sp.Topology("join", sinks={"out": left | sp.as_of(right) | sp.select("k", "y", "v")})
    made = drive(topology, a=A, b=B.clear(), contracts=(LEFT, RIGHT), steps=iter([3] * 100))["out"]
    assert made.height == 10


def test_rows_that_are_only_counted_need_no_column_of_theirs() -> None:
    counted = sp.source("a", contract=LEFT) | sp.key_by() | sp.tumbling("10us", n=sp.count())
    made = drive(sp.Topology("n", sinks={"out": counted}), a=A, contracts=(LEFT,), steps=iter([3] * 100))["out"]
    assert made["n"].to_list() == [5, 5]


def test_a_union_takes_a_branch_that_brings_a_column_which_only_others_read() -> None:
    a, b = sp.source("a", contract=LEFT), sp.source("b", contract=LEFT)
    both = a | sp.union(b)
    sinks = {
        "both": both | sp.select("k", "y"),
        "alone": b | sp.select("x"),
        "first": a | sp.select("k", "x", "y", "at"),
    }
    made = drive(sp.Topology("t", sinks=sinks), a=A, b=A, contracts=(LEFT,), steps=iter([3] * 100))
    assert made["both"].height == 20 and made["alone"].height == 10


OTHER = parse_contract(
    '{"type": "record", "name": "other", "sp:version": 1, "fields": [{"name": "k", "type": "string", '
    '"sp:role": "key"}, {"name": "x", "type": "string"}, {"name": "v", "type": "long"}, {"name": "at", '
    '"type": {"type": "long", '
    '"logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)


@pytest.mark.parametrize("join", ["as_of", "within", "within left"])
def test_a_join_may_bring_a_column_under_the_name_of_one_that_is_not_decoded(join: str) -> None:
    a, b = sp.source("a", contract=LEFT) | sp.ordered(), sp.source("b", contract=OTHER) | sp.ordered()
    right = b | sp.key_by("k")
    joined = a | sp.key_by("k") | JOINS[join](right)
    below = joined | sp.ordered() | sp.select("k", "y", "v")
    rows = B.select("k", "v", "at", x=pl.col("u").cast(pl.String))
    sinks = {"out": below, "right": right | sp.where(pl.col("v") >= 0)}
    made = drive(sp.Topology("t", sinks=sinks), a=A, b=rows, contracts=(LEFT, OTHER), steps=iter([3] * 100))
    assert made["out"].height and made["right"]["x"].dtype == pl.String
