"""What the lint refuses, where, and that no schema can make it fall over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from avro_strategies import records
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.contracts.avro_json import load_schema
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.lint import MAX_DEPTH, MAX_FIELDS, lint
from streamproc.errors import InvalidSchema


def record(*fields: tuple[str, Any], name: str = "r") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field, kind in fields]}


def arrays(depth: int) -> Any:
    node: Any = "int"
    for _ in range(depth):
        node = {"type": "array", "items": node}
    return node


words = st.sampled_from(
    ["type", "name", "fields", "items", "values", "symbols", "size", "namespace", "default", "aliases", "record",
     "enum", "array", "map", "fixed", "int", "null", "logicalType", "decimal", "precision", "scale", "r", "A", ""]
)  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 50) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=6),
    max_leaves=25,
)


@settings(deadline=None, max_examples=120)
@given(json_values)
def test_any_json_is_a_schema_or_refused_never_a_crash(value: Any) -> None:
    try:
        load_schema(json.dumps(value))
    except InvalidSchema as error:
        assert error.hint


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_damaged_schema_is_a_schema_or_refused_never_a_crash(data: st.DataObject) -> None:
    schema = data.draw(records())
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key, item in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            places.append((node, key))
            collect(item)

    collect(schema)
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(json_values)
    try:
        parse_contract(json.dumps(schema))
    except InvalidSchema as error:
        assert error.hint


@settings(deadline=None)
@given(records())
def test_ordinary_schemas_pass(schema: Any) -> None:
    lint(schema)


@pytest.mark.parametrize("depth", [300, 2_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [('{"type":"array","items":', "}"), ("[", "]"), ('{"type":', "}")])
def test_a_bottomless_text_is_refused(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(InvalidSchema, match="deep"):
        load_schema(opening * depth + '"int"' + closing * depth)


def test_a_bottomless_value_is_refused_without_recursion() -> None:
    with pytest.raises(InvalidSchema, match="deeper than 256"):
        lint(arrays(1_000_000))


def test_depth_counts_records_arrays_and_maps_through_references() -> None:
    lint(record(("a", arrays(MAX_DEPTH - 1))))
    with pytest.raises(InvalidSchema, match="more than 32"):
        lint(record(("a", arrays(MAX_DEPTH))))
    half = record(("a", arrays(16)), name="half")
    with pytest.raises(InvalidSchema, match=r"at b.*33 deep"):
        lint(record(("a", half), ("b", {"type": "array", "items": wrap("half", 14)})))


def wrap(node: Any, depth: int) -> Any:
    for _ in range(depth):
        node = {"type": "map", "values": node}
    return node


def test_fields_are_counted_at_each_use_of_a_named_type() -> None:
    lint(record(*((f"f{i}", "int") for i in range(MAX_FIELDS))))
    with pytest.raises(InvalidSchema, match="2001 fields"):
        lint(record(*((f"f{i}", "int") for i in range(MAX_FIELDS + 1))))
    doubling: Any = record(("a", "int"), name="t0")
    for level in range(1, 15):
        doubling = record(("a", doubling), ("b", f"t{level - 1}"), name=f"t{level}")
    with pytest.raises(InvalidSchema, match="more than 2000"):
        lint(doubling)


@pytest.mark.parametrize(
    "item",
    [
        "null",
        {"type": "null"},
        record(name="e"),
        record(("n", "null"), name="e"),
        {"type": "fixed", "name": "f", "size": 0},
    ],
)
def test_items_of_zero_width_are_refused_with_their_place(item: Any) -> None:
    with pytest.raises(InvalidSchema, match=r"at outer\.a\.items: items of zero width"):
        lint(record(("outer", record(("a", {"type": "array", "items": item}), name="inner"))))


def test_a_union_a_map_and_an_enum_have_a_width() -> None:
    for item in (["null"], {"type": "map", "values": "null"}, {"type": "enum", "name": "e", "symbols": ["A"]}):
        lint(record(("a", {"type": "array", "items": item})))


@pytest.mark.parametrize("step", ["tree", ["null", "tree"], {"type": "array", "items": "tree"}])
def test_a_type_that_contains_itself_is_refused_with_its_place(step: Any) -> None:
    with pytest.raises(InvalidSchema, match=r"at child.*'tree' contains itself"):
        lint(record(("child", step), name="tree"))


def test_recursion_is_seen_through_namespaces() -> None:
    schema = record(("inner", {**record(("up", "shop.tree"), name="leaf"), "namespace": "other"}), name="shop.tree")
    with pytest.raises(InvalidSchema, match=r"at inner\.up: 'shop\.tree' contains itself"):
        lint(schema)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (record(("a b", "int")), "'a b' is not an Avro name"),
        (record(("a", "int"), ("a", "long")), "two fields are named 'a'"),
        (record(("a", "money")), "there is no type 'money'"),
        (record(("a", {"type": "enum", "name": "e", "symbols": "AB"})), "no list of symbols"),
        (record(("a", {"type": "enum", "name": "e", "symbols": ["x.y"]})), "'x.y' is not an Avro name"),
        (record(("a", ["int", ["null"]])), "a union stands directly in a union"),
        (record(("a", ["int", "int"])), "not an Avro schema"),
        (record(("a", {"type": {"type": "int"}})), "no type name"),
        (record(("a", {"type": "fixed", "name": "r", "size": 1})), "two types are named 'r'"),
        (record(("a", {"type": "error_union", "declared_errors": []})), "belongs to Avro protocols"),
    ],
)
def test_what_the_library_lets_through_is_refused(schema: Any, why: str) -> None:
    with pytest.raises(InvalidSchema, match=why):
        load_schema(json.dumps(schema))


def test_an_alias_that_names_another_field_is_refused() -> None:
    schema = record(("a", "int"), ("b", "int"))
    schema["fields"][1]["aliases"] = ["a"]
    with pytest.raises(InvalidSchema, match="the alias 'a' of 'b' also names 'a'"):
        load_schema(json.dumps(schema))


@pytest.mark.parametrize(
    ("text", "why"), [("{", "not JSON"), ('{"type":"int","type":"int"}', "twice"), ("NaN", "not JSON")]
)
def test_text_that_is_not_json_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidSchema, match=why):
        load_schema(text)
