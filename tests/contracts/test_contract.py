"""What a contract takes from its file, and what it refuses to take."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from streamproc.errors import InvalidSchema

MICROS = {"type": "long", "logicalType": "timestamp-micros"}


def parsed(*fields: dict[str, Any], **attributes: Any) -> Contract:
    """A contract with record attributes written as sp_owner for sp:owner."""
    renamed = {key.replace("sp_", "sp:", 1): value for key, value in attributes.items()}
    return parse_contract(json.dumps({"type": "record", "name": "payment", "fields": fields, **renamed}))


def test_a_contract_holds_every_promise_of_its_file() -> None:
    contract = parsed(
        {"name": "card", "type": "string", "sp:role": "key", "sp:pii": "pseudonym", "doc": "hashed card"},
        {"name": "at", "type": MICROS, "sp:role": "event_time"},
        {"name": "amount", "type": ["null", "double"], "sp:unit": "EUR"},
        namespace="shop.events", sp_version=3, sp_owner="payments", sp_steward="a.person", sp_scope=["fraud"],
        sp_retention="7d", sp_sla={"freshness": "5m"}, sp_doc="one row a payment", sp_partitioner="murmur2",
        sp_compatibility="FULL",
    )  # fmt: skip
    assert str(contract) == "payment.v3"
    assert (contract.owner, contract.steward, contract.scope) == ("payments", "a.person", ("fraud",))
    assert (contract.retention_us, contract.sla) == (7 * 86_400_000_000, {"freshness": "5m"})
    assert (contract.event_time, contract.key, contract.key_encoding) == ("at", ("card",), "utf8")
    assert (contract.partitioner, contract.compatibility, contract.doc) == ("murmur2", "FULL", "one row a payment")
    card, _, amount = contract.schema
    assert (card.pii, card.doc, card.nullable, card.origins) == (
        "pseudonym",
        "hashed card",
        False,
        frozenset({"payment.card"}),
    )
    assert (amount.dtype, amount.nullable, amount.unit) == (pl.Float64(), True, "EUR")


def test_a_bare_schema_has_modest_defaults() -> None:
    contract = parsed({"name": "n", "type": "int"})
    assert (contract.version, contract.retention_us, contract.partitioner) == (1, None, "unknown")
    assert (contract.event_time, contract.key, contract.key_encoding) == ("", (), "")
    assert contract.compatibility == "BACKWARD_TRANSITIVE"


def test_a_subject_may_differ_from_the_record() -> None:
    assert str(parsed({"name": "n", "type": "int"}, sp_subject="eu.payment-made")) == "eu.payment-made.v1"


def test_a_column_is_as_sensitive_as_what_is_inside() -> None:
    inside = [
        {"name": name, "type": "string", "sp:pii": pii} for name, pii in (("id", "pseudonym"), ("mail", "direct"))
    ]
    person = {"type": "record", "name": "person", "fields": inside}
    contract = parsed({"name": "people", "type": {"type": "map", "values": ["null", person]}})
    assert contract.schema["people"].pii == "direct"


@pytest.mark.parametrize(
    ("key", "encoding"),
    [(["string"], "utf8"), (["long"], "int64"), (["int", "string"], "composite"), (["boolean"], "composite")],
)
def test_keys_have_a_natural_encoding(key: list[str], encoding: str) -> None:
    fields = [{"name": f"k{at}", "type": kind, "sp:role": "key"} for at, kind in enumerate(key)]
    assert parsed(*fields).key_encoding == encoding


@pytest.mark.parametrize("kind", ["long", MICROS, {**MICROS, "logicalType": "timestamp-nanos"}])
def test_event_time_is_a_timestamp_or_a_long(kind: Any) -> None:
    assert parsed({"name": "at", "type": kind, "sp:role": "event_time"}).event_time == "at"


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("int", "int"), ("string", "string"), (["null", MICROS], "nullable"),
     ({"type": "int", "logicalType": "date"}, "date"),
     ({**MICROS, "logicalType": "local-timestamp-micros"}, "local-timestamp-micros")],
)  # fmt: skip
def test_event_time_of_another_type_is_refused(kind: Any, shown: str) -> None:
    with pytest.raises(InvalidSchema, match=f"at at: the event time is {shown}"):
        parsed({"name": "at", "type": kind, "sp:role": "event_time"})


N = {"name": "n", "type": "int"}


@pytest.mark.parametrize(
    ("fields", "attributes", "why"),
    [
        ([{**N, "sp:rol": "key"}], {}, "did you mean 'sp:role'"),
        ([N], {"sp_ownr": "x"}, "did you mean 'sp:owner'"),
        ([{**N, "sp:role": "keys"}], {}, "did you mean 'key'"),
        ([{**N, "sp:unit": 3}], {}, "sp:unit is 3"),
        ([N], {"sp_version": 0}, "sp:version is 0"),
        ([N], {"sp_version": True}, "sp:version is True"),
        ([N], {"sp_scope": "fraud"}, "sp:scope is 'fraud'"),
        ([N], {"sp_retention": "7 days"}, "'7 days' is not a span"),
        ([N], {"sp_sla": []}, "sp:sla is"),
        ([N], {"sp_sla": {"freshness": "5 minutes"}}, "sp:sla: freshness: '5 minutes' is not a span"),
        ([N], {"sp_sla": {"freshness": "5m", "freshness_warn": "6m"}}, "sp:sla warns later"),
        ([N], {"sp_sla": {"freshness_warn": "6m"}}, "sp:sla warns later"),
        ([N], {"sp_sla": 3}, "sp:sla is 3"),
        ([N], {"sp_compatibility": "BACK"}, "did you mean 'BACKWARD'"),
        ([N], {"sp_key_encoding": "utf8"}, "without a key"),
        ([N], {"sp_subject": "payment.v2"}, "'payment.v2' is not a subject"),
        ([N], {"sp_subject": "a/b"}, "'a/b' is not a subject"),
        ([{**N, "sp:role": "key"}], {"sp_key_encoding": "utf8"}, "it is 'int64'"),
        ([{"name": "x", "type": "double", "sp:role": "key"}], {}, "Float64 cannot be a key"),
        (
            [{"name": at, "type": "long", "sp:role": "event_time"} for at in "ab"],
            {},
            "'a' has the role event_time already",
        ),
        (
            [{"name": "r", "type": {"type": "record", "name": "i", "fields": [{**N, "sp:role": "key"}]}}],
            {},
            r"at r\.n: a role",
        ),
        ([{**N, "default": "7"}], {}, "at n: the default '7'"),
        ([{**N, "default": 2**31}], {}, "at n: the default 2147483648"),
        ([{"name": "u", "type": ["null", "int"], "default": "x"}], {}, "at u: the default 'x'"),
        ([{"name": "f", "type": {"type": "fixed", "name": "q", "size": 2}, "default": "abc"}], {}, "the default 'abc'"),
        ([{"name": "a", "type": {"type": "array", "items": "int"}, "default": [1, None]}], {}, "the default"),
    ],
)
def test_a_promise_that_cannot_be_kept_is_refused(fields: list[Any], attributes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSchema, match=why):
        parsed(*fields, **attributes)


@pytest.mark.parametrize("text", ['"long"', '["null", "int"]', '{"type": "array", "items": "int"}'])
def test_the_top_level_must_be_a_record(text: str) -> None:
    with pytest.raises(InvalidSchema, match="not a record"):
        parse_contract(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("bytes", "\u00ff"), ("double", 1), (["int", "null"], None), ({"type": "map", "values": "int"}, {"a": 1}),
     ({"type": "enum", "name": "e", "symbols": ["A"]}, "A"),
     ({"type": "record", "name": "i", "fields": [N, {**N, "name": "m", "default": 1}]}, {"n": 1})],
)  # fmt: skip
def test_defaults_of_the_right_type_pass(kind: Any, value: Any) -> None:
    assert parsed({"name": "d", "type": kind, "default": value}).schema.names == ("d",)
