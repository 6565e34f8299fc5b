"""What cannot run is refused when it is planned: the message names the step, the thing, and a way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import (
    ContractError,
    DefinitionError,
    DuplicateName,
    NotElementWise,
    StreamprocError,
    TypeMismatch,
    UnknownColumn,
)
from streamproc.runtime.binding import plan_topology

AT = """{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}"""
PAY = parse_contract(
    f"""{{"type": "record", "name": "pay", "sp:version": 1, "fields": [{{"name": "card", "type": "string"}},
    {{"name": "amount", "type": "long", "sp:unit": "EUR"}},
    {{"name": "note", "type": ["null", "string"], "default": null}},
    {{"name": "ratio", "type": "double"}}, {AT}]}}"""
)
FEE = parse_contract(
    f"""{{"type": "record", "name": "fee", "sp:version": 1, "fields": [{{"name": "card", "type": "long"}},
    {{"name": "amount", "type": "long", "sp:unit": "USD"}},
    {{"name": "lines", "type": {{"type": "array", "items": "int"}}}},
    {AT}]}}"""
)
TIMELESS = parse_contract(
    '{"type": "record", "name": "timeless", "sp:version": 1, "fields": [{"name": "a", "type": "string"}]}'
)
SAID = parse_contract(
    """{"type": "record", "name": "said", "sp:version": 1, "fields": [{"name": "card", "type": "string"},
    {"name": "amount", "type": "long", "sp:unit": "EUR"}]}"""
)
SMALL = parse_contract(
    '{"type": "record", "name": "small", "sp:version": 1, "fields": [{"name": "amount", "type": "int"}]}'
)
NOTED = parse_contract(
    '{"type": "record", "name": "noted", "sp:version": 1, "fields": [{"name": "note", "type": "string"}]}'
)

pay, fee = sp.source("pays", contract=PAY), sp.source("fees", contract="fee.v1")
keyed, keyed_fee = pay | sp.key_by("card"), fee | sp.key_by("card")
window = keyed | sp.tumbling("1s", n=sp.count())

CASES: dict[str, tuple[Callable[[], Any], type[StreamprocError], str]] = {
    "unknown column": (
        lambda: pay | sp.where(pl.col("amont") > 0, name="big"),
        UnknownColumn,
        r"'big'.*'amont'.*did you mean 'amount'",
    ),
    "unknown column in with_columns": (
        lambda: pay | sp.with_columns(x=pl.col("amont")),
        UnknownColumn,
        r"'with_columns'.*'amont'.*'amount'",
    ),
    "unknown column selected": (lambda: pay | sp.select("crad"), UnknownColumn, r"'select'.*'crad'.*'card'"),
    "unknown column dropped": (lambda: pay | sp.drop("crad"), UnknownColumn, r"'drop'.*'crad'.*'card'"),
    "unknown column renamed": (lambda: pay | sp.rename(crad="c"), UnknownColumn, r"'rename'.*'crad'.*'card'"),
    "unknown key": (lambda: pay | sp.key_by("crad"), UnknownColumn, r"'key_by'.*'crad'.*'card'"),
    "unknown id": (lambda: pay | sp.dedupe("crad"), UnknownColumn, r"'crad'.*'card'"),
    "unknown order": (lambda: pay | sp.ordered(by="crad"), UnknownColumn, r"'ordered'.*'crad'.*card"),
    "unknown aggregate": (
        lambda: keyed | sp.tumbling("1s", s=sp.total("amont")),
        UnknownColumn,
        r"'tumbling'.*'amont'.*'amount'",
    ),
    "unknown column of a join": (
        lambda: keyed | sp.as_of(pay | sp.key_by("card"), columns=("rato",)),
        UnknownColumn,
        r"'as_of'.*'rato'.*ratio",
    ),
    "unknown list": (lambda: fee | sp.explode("line"), UnknownColumn, r"'explode'.*'line'.*'lines'"),
    "no list": (lambda: fee | sp.explode("amount"), TypeMismatch, r"'explode'.*'amount' is Int64"),
    "wrong type in an expression": (
        lambda: pay | sp.with_columns(x=pl.col("card") * 2),
        DefinitionError,
        r"'with_columns'",
    ),
    "predicate that is no Boolean": (
        lambda: pay | sp.where(pl.col("amount")),
        TypeMismatch,
        r"'where' needs true or false.*amount.*compare",
    ),
    "rule that is no Boolean": (
        lambda: pay | sp.require(positive=pl.col("amount")),
        TypeMismatch,
        r"^step 'require: positive' needs true or false.*compare",
    ),
    "float key": (lambda: pay | sp.key_by("ratio"), TypeMismatch, r"'key_by'.*'ratio' is Float64.*round"),
    "float id": (lambda: pay | sp.dedupe("ratio"), TypeMismatch, r"'dedupe'.*'ratio' is Float64"),
    "float order": (lambda: pay | sp.ordered(by="ratio"), TypeMismatch, r"'ordered'.*'ratio'.*Float64"),
    "total of text": (lambda: keyed | sp.tumbling("1s", s=sp.total("card")), TypeMismatch, r"'tumbling'.*'?card'?"),
    "missing key": (lambda: pay | sp.tumbling("1s", n=sp.count()), DefinitionError, r"'tumbling'.*key_by"),
    "missing key of a join": (lambda: pay | sp.as_of(keyed_fee), DefinitionError, r"'as_of'.*key_by"),
    "missing key on the right": (lambda: keyed | sp.within(fee, before="0s", after="1s"), DefinitionError, r"key_by"),
    "key that was overwritten": (
        lambda: keyed | sp.with_columns(card=pl.col("card") + "!") | sp.tumbling("1s", n=sp.count()),
        DefinitionError,
        r"'tumbling'.*key_by",
    ),
    "keys of different types": (
        lambda: keyed | sp.as_of(keyed_fee),
        TypeMismatch,
        r"'as_of'.*card \(text\).*card \(integer\).*key both sides",
    ),
    "columns that differ": (lambda: pay | sp.union(fee), TypeMismatch, r"'union'.*'card' as Int64.*String.*cast"),
    "units that differ": (
        lambda: pay | sp.select("amount") | sp.union(fee | sp.select("amount")),
        TypeMismatch,
        r"'union'.*USD.*EUR",
    ),
    "two columns of one name": (
        lambda: pay | sp.rename(card="amount"),
        DuplicateName,
        r"'rename'.*'amount'.*rename the other",
    ),
    "two steps of one name": (
        lambda: pay | sp.where(pl.col("amount") > 0, name="x") | sp.where(pl.col("amount") > 1, name="x"),
        DuplicateName,
        r"named 'x'.*another name",
    ),
    "a name that no topic can have": (
        lambda: pay | sp.where(pl.col("amount") > 0, name="big one/2"),
        DefinitionError,
        r"'big one/2'.*letters",
    ),
    "join whose columns collide": (
        lambda: (
            keyed
            | sp.with_columns(amount_right=pl.lit(1))
            | sp.as_of(pay | sp.select("card", "amount") | sp.key_by("card"))
        ),
        DuplicateName,
        r"'as_of'.*'amount_right'",
    ),
    "whole columns": (
        lambda: pay | sp.with_columns(x=pl.col("amount") - pl.col("amount").mean()),
        NotElementWise,
        r"'with_columns'",
    ),
    "columns shifted": (lambda: pay | sp.where(pl.col("amount").shift(1) > 0), NotElementWise, r"'where'"),
    "unknown contract": (lambda: sp.source("x", contract="pay.v9"), ContractError, r"source 'x'.*pay"),
    "unknown contract of a sink": (lambda: sp.sink(pay, contract="paid.v1"), ContractError, r"sink 'o'.*'?paid"),
    "no event time": (
        lambda: sp.source("x", contract=TIMELESS),
        DefinitionError,
        r"'x' has no event time.*timeless.*event_time=",
    ),
    "event time that is not there": (
        lambda: sp.source("x", contract=TIMELESS, event_time="b"),
        UnknownColumn,
        r"'x'.*'b'.*There are: a|'x'.*'b'",
    ),
    "event time that is no time": (
        lambda: sp.source("x", contract=TIMELESS, event_time="a"),
        TypeMismatch,
        r"'x'.*'a'.*String.*timestamp",
    ),
    "sink without a column": (
        lambda: sp.sink(pay | sp.select("card"), contract=SAID),
        UnknownColumn,
        r"sink 'o'.*'amount'.*said",
    ),
    "sink with a column too many": (
        lambda: sp.sink(pay | sp.select("card", "amount", "note"), contract=SAID),
        UnknownColumn,
        r"sink 'o'.*said.*note.*sp\.select",
    ),
    "sink of another type": (
        lambda: sp.sink(pay | sp.select("card", amount=pl.col("ratio")), contract=SAID),
        TypeMismatch,
        r"sink 'o'.*'amount' as Float64.*Int64.*cast",
    ),
    "sink of a wider type": (
        lambda: sp.sink(pay | sp.select("amount"), contract=SMALL),
        TypeMismatch,
        r"'amount' as Int64.*Int32.*cast",
    ),
    "sink of another unit": (
        lambda: sp.sink(fee | sp.select(pl.col("card").cast(pl.String).alias("card"), "amount"), contract=SAID),
        TypeMismatch,
        r"sink 'o'.*USD.*EUR",
    ),
    "null into a field that has none": (
        lambda: sp.sink(pay | sp.select("note"), contract=NOTED),
        TypeMismatch,
        r"sink 'o'.*'note'.*null.*noted.*fill_null",
    ),
    "sink keyed by nothing known": (lambda: sp.sink(pay, key="crad"), UnknownColumn, r"sink 'o'.*'crad'.*'card'"),
    "sink keyed by a float": (lambda: sp.sink(pay, key="ratio"), TypeMismatch, r"sink 'o'.*'ratio' is Float64"),
    "sink that is a source": (lambda: sp.sink(pay, topic="pays"), DefinitionError, r"sink 'o'.*'pays'.*topic="),
    "sink of the engine's": (lambda: sp.sink(pay, topic="t.late"), DefinitionError, r"sink 'o'.*'t\.late'.*'t\.o'"),
    "a column name without Avro name": (
        lambda: pay | sp.with_columns(pl.col("amount").alias("in €")),
        StreamprocError,
        r"sink 'o'.*'in €'.*rename",
    ),
    "key that late rows lack": (lambda: window.late | sp.key_by("n"), UnknownColumn, r"'n'.*amount"),
}


@pytest.mark.parametrize("what", sorted(CASES))
def test_the_plan_says_what_is_wrong_where_and_what_to_do(what: str) -> None:
    make, kind, words = CASES[what]
    with pytest.raises(kind, match=words):
        plan_topology(sp.Topology("t", sinks={"o": make()}), MemoryRegistry([PAY, FEE, SAID, SMALL, NOTED, TIMELESS]))


def test_two_sinks_of_one_topic_are_refused() -> None:
    sinks = {"one": sp.sink(pay, topic="x"), "two": sp.sink(pay, topic="x")}
    with pytest.raises(DuplicateName, match=r"'one' and 'two'.*'x'.*topic="):
        plan_topology(sp.Topology("t", sinks=sinks), MemoryRegistry([PAY]))


def test_a_null_that_was_filtered_or_filled_fits_a_field_without_null() -> None:
    filtered = pay | sp.where(pl.col("note").is_not_null()) | sp.select("note")
    filled = pay | sp.select(note=pl.col("note").fill_null(""))
    sinks = {"one": sp.sink(filtered, contract=NOTED), "two": sp.sink(filled, contract=NOTED)}
    assert len(plan_topology(sp.Topology("t", sinks=sinks), MemoryRegistry([PAY, NOTED])).sinks) == 2
