"""Contracts that are derived from columns, and their text."""

from __future__ import annotations

import json
import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.derive import avsc_text, contract_of
from streamproc.contracts.model import Field, Schema
from streamproc.errors import InvalidSchema, StreamprocError, TypeMismatch, UnknownColumn

EXACT: list[pl.DataType] = [
    pl.Boolean(), pl.Int32(), pl.Int64(), pl.Float32(), pl.Float64(), pl.Binary(), pl.String(), pl.Date(), pl.Time(),
    pl.Datetime("ms", "UTC"), pl.Datetime("us", "UTC"), pl.Datetime("ns", "UTC"), pl.Datetime("us"), pl.Datetime("ns"),
    pl.Decimal(38, 0), pl.Decimal(9, 9), pl.Enum(["A", "B"]),
]  # fmt: skip
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
dtypes = st.recursive(
    st.sampled_from(EXACT),
    lambda inner: (
        inner.map(pl.List)
        | st.dictionaries(names, inner, min_size=1, max_size=3).map(pl.Struct)
        | inner.map(lambda value: pl.List(pl.Struct({"key": pl.String(), "value": value})))
    ),
    max_leaves=8,
)
schemas = st.dictionaries(names, st.tuples(dtypes, st.booleans(), st.sampled_from(["", "EUR"])), max_size=5).map(
    lambda columns: Schema(tuple(Field(name, dtype, null, unit) for name, (dtype, null, unit) in columns.items()))
)


@settings(deadline=None, max_examples=60)
@given(schemas)
def test_the_text_of_a_derived_contract_reads_back_as_the_same_columns(schema: Schema) -> None:
    contract = contract_of("alert", schema)
    again = parse_contract(avsc_text(contract))
    assert again == contract
    assert again.schema.polars() == schema.polars()
    assert [(field.nullable, field.unit) for field in again.schema] == [
        (field.nullable, field.unit) for field in schema
    ]


@settings(deadline=None)
@given(schemas, st.randoms(use_true_random=False))
def test_the_text_does_not_depend_on_the_order_of_attributes(schema: Schema, chance: random.Random) -> None:
    def shuffled(node: Any) -> Any:
        if isinstance(node, dict):
            keys = list(node)
            chance.shuffle(keys)
            return {key: shuffled(node[key]) for key in keys}
        return [shuffled(item) for item in node] if isinstance(node, list) else node

    contract = contract_of("alert", schema, owner="risk", scope=["a", "b"], doc="what was seen")
    text = avsc_text(contract)
    assert avsc_text(parse_contract(json.dumps(shuffled(contract.avro)))) == text
    assert max(map(len, text.splitlines()), default=0) <= 120


def test_everything_that_is_given_is_in_the_contract() -> None:
    schema = Schema((Field("at", pl.Datetime("us", "UTC")), Field("card", pl.String(), pii="pseudonym", doc="hashed")))
    contract = contract_of(
        "eu.alert", schema, version=2, event_time="at", key=["card"], owner="risk", steward="a", scope=["fraud"],
        retention_us=3_600_000_000, doc="alerts",
    )  # fmt: skip
    assert str(contract) == "eu.alert.v2"
    assert (contract.event_time, contract.key, contract.retention_us) == ("at", ("card",), 3_600_000_000)
    assert (contract.owner, contract.steward, contract.scope, contract.doc) == ("risk", "a", ("fraud",), "alerts")
    assert contract.schema["card"].pii == "pseudonym"
    assert parse_contract(avsc_text(contract)) == contract


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (pl.Int8(), pl.Int32()),
        (pl.UInt16(), pl.Int32()),
        (pl.UInt32(), pl.Int64()),
        (pl.Categorical(), pl.String()),
        (pl.Enum(["in-transit"]), pl.String()),
        (pl.Datetime("us", "Europe/Berlin"), pl.Datetime("us", "UTC")),
        (pl.Array(pl.Int64(), 3), pl.List(pl.Int64())),
        (pl.Null(), pl.Null()),
    ],
)
def test_columns_without_an_avro_type_of_their_own_take_the_next_wider_one(
    dtype: pl.DataType, stored: pl.DataType
) -> None:
    assert contract_of("alert", Schema((Field("c", dtype),))).schema["c"].dtype == stored


@pytest.mark.parametrize("dtype", [pl.UInt64(), pl.Int128(), pl.Duration("us"), pl.Object(), pl.List(pl.UInt64())])
def test_columns_that_avro_cannot_hold_are_refused(dtype: pl.DataType) -> None:
    with pytest.raises(TypeMismatch, match=r"the column 'c' of type .* has no Avro type; cast it"):
        contract_of("alert", Schema((Field("c", dtype),)))


@pytest.mark.parametrize(
    ("schema", "given_roles", "error"),
    [
        (Schema((Field("p99 %", pl.Int64()),)), {}, InvalidSchema),
        (Schema((Field("s", pl.Struct({"a-b": pl.Int64()})),)), {}, InvalidSchema),
        (Schema((Field("n", pl.List(pl.Null())),)), {}, InvalidSchema),
        (Schema((Field("a", pl.Int64()),)), {"key": ["b"]}, UnknownColumn),
        (Schema((Field("a", pl.String()),)), {"event_time": "a"}, InvalidSchema),
    ],
)
def test_what_would_be_no_contract_is_refused(schema: Schema, given_roles: Any, error: type[StreamprocError]) -> None:
    with pytest.raises(error):
        contract_of("alert", schema, **given_roles)


def test_types_inside_one_another_never_share_a_name() -> None:
    inner = pl.Struct({"b_c": pl.Struct({"x": pl.Int64()})})
    schema = Schema((Field("a_b", pl.Struct({"c": pl.Struct({"x": pl.Int64()})})), Field("a", inner)))
    assert contract_of("alert", schema).schema.polars() == schema.polars()
