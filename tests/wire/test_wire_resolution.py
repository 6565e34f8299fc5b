"""The writer's schema resolved to the reader's: as fastavro resolves it on random evolutions, and rule by rule."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping

import avro.io
import avro.schema
import fastavro
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_wire_laws import comparable, held
from wire_schemas import evolutions, schemas
from wire_twin import draw, encode

from streamproc.contracts.avro_json import expand
from streamproc.contracts.columns import kind_of
from streamproc.errors import IncompatibleEvolution, InvalidSchema, UnknownColumn
from streamproc.wire import Decoded, Decoder


def record(*fields: object, **more: object) -> dict[str, object]:
    """A record of fields given as (name, type) or (name, type, other attributes)."""
    listed = [{"name": field[0], "type": field[1], **(field[2] if len(field) > 2 else {})} for field in fields]
    return {"type": "record", "name": "r", "fields": listed, **more}


def resolved(writer: Mapping[str, object], reader: Mapping[str, object], *raws: object) -> Decoded:
    """Rows of the writer's only field, read by the reader."""
    payloads = [encode(expand(writer), {writer["fields"][0]["name"]: raw}) for raw in raws]
    return Decoder(writer, reader).decode_payloads(payloads)


def column_of(node: object, value: object) -> object:
    """What a column's physical form holds of a value that fastavro gave; unions are nullables only."""
    kind = kind_of(node)
    if kind == "union":
        return None if value is None else column_of(next(b for b in node if kind_of(b) != "null"), value)
    if kind == "record":
        return {item["name"]: column_of(item["type"], value[item["name"]]) for item in node["fields"]}
    if kind == "array":
        return [column_of(node["items"], item) for item in value]
    if kind == "map":
        return [{"key": key, "value": column_of(node["values"], item)} for key, item in value.items()]
    if kind in ("bytes", "fixed") and isinstance(value, str):
        return value.encode("iso-8859-1")  # fastavro gives defaults of bytes as they stand in the schema
    if kind in ("float", "double"):
        return float(pl.Series([value]).cast(pl.Float32)[0]) if kind == "float" else float(value)
    return node["symbols"].index(value) if kind == "enum" else value


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(evolutions(), st.integers(0, 2**32))
def test_every_evolution_is_read_as_fastavro_reads_it(
    schemas_: tuple[dict[str, object], dict[str, object]], seed: int
) -> None:
    writer, reader = schemas_
    rnd, old, new = random.Random(seed), expand(writer), expand(reader)
    payloads = [encode(old, draw(rnd, old)) for _ in range(10)]
    oracle = fastavro.parse_schema(writer), fastavro.parse_schema(reader)
    rows = [fastavro.schemaless_reader(io.BytesIO(payload), *oracle) for payload in payloads]
    wanted = [comparable(list(column_of(new, row).values())) for row in rows]
    decoded = Decoder(writer, reader).decode_payloads(payloads)
    assert decoded.why() == []
    assert held(decoded.frame) == wanted


@settings(max_examples=60, deadline=None)
@given(schemas(wide_unions=False), st.integers(0, 2**32))
def test_the_reference_library_reads_the_same(schema: dict[str, object], seed: int) -> None:
    rnd, node = random.Random(seed), expand(schema)
    bare = json.loads(json.dumps(schema).replace("logicalType", "ignored"))
    payloads = [encode(node, draw(rnd, node)) for _ in range(5)]
    reader = avro.io.DatumReader(avro.schema.parse(json.dumps(bare)))
    rows = [reader.read(avro.io.BinaryDecoder(io.BytesIO(payload))) for payload in payloads]
    assert held(Decoder(bare).decode_payloads(payloads).frame) == [
        comparable(list(column_of(expand(bare), row).values())) for row in rows
    ]


@pytest.mark.parametrize(
    ("old", "new", "raw", "value"),
    [
        ("int", "long", -5, -5),
        ("int", "double", 2**31 - 1, 2.0**31 - 1),
        ("int", "float", 16777217, 16777216.0),
        ("long", "double", 2**53 + 1, 2.0**53),
        ("long", "float", -3, -3.0),
        ("float", "double", 0.5, 0.5),
        ("string", "bytes", "ü", b"\xc3\xbc"),
        ("bytes", "string", b"\xc3\xbc", "ü"),
        ("int", ["null", "long"], 3, 3),
        (["null", "int"], ["double", "null"], (1, 3), 3.0),
        (["int", "null"], ["null", "int"], (1, None), None),
        ("null", ["null", "int"], None, None),
        ("int", ["string", "long"], 3, {"string": None, "long": 3}),
        ("int", ["double", "int"], 3, {"double": None, "int": 3}),
        (["string", "int"], ["null", "int", "string"], (0, "a"), {"int": None, "string": "a"}),
        ({"type": "array", "items": "int"}, {"type": "array", "items": ["null", "long"]}, [1, 2], [1, 2]),
        ({"type": "long", "logicalType": "timestamp-millis"}, "long", 5, 5),
    ],
)
def test_a_value_is_promoted(old: object, new: object, raw: object, value: object) -> None:
    decoded = resolved(record(("a", old)), record(("a", new)), raw)
    assert decoded.frame["a"].to_list() == [value]


def test_bytes_that_are_no_text_make_only_their_row_bad() -> None:
    decoded = resolved(record(("a", "bytes")), record(("a", "string")), b"ok", b"\xff", b"")
    assert decoded.frame["a"].to_list() == ["ok", ""]
    assert decoded.why() == [(1, "bad UTF-8")]


def test_a_branch_that_the_reader_lacks_makes_only_its_rows_bad() -> None:
    decoded = resolved(record(("a", ["null", "int", "string"])), record(("a", "long")), (1, 5), (0, None), (2, "x"))
    assert decoded.frame["a"].to_list() == [5]
    reason = "union branch that the reader's schema lacks"
    assert decoded.why() == [(1, reason), (2, reason)]


def test_a_symbol_that_the_reader_lacks_becomes_its_default_or_a_bad_row() -> None:
    old = {"type": "enum", "name": "e", "symbols": ["X", "Y", "Z"]}
    new = {"type": "enum", "name": "e", "symbols": ["Z", "X"]}
    with_default = resolved(record(("a", old)), record(("a", {**new, "default": "X"})), 0, 1, 2)
    without = resolved(record(("a", old)), record(("a", new)), 0, 1, 2)
    assert with_default.frame["a"].to_list() == ["X", "X", "Z"]
    assert without.frame["a"].to_list() == ["X", "Z"]
    assert without.why() == [(1, "enum symbol that the reader's schema lacks")]


@pytest.mark.parametrize(
    ("kind", "default", "value"),
    [
        (["null", "int"], None, None),
        (["int", "null"], None, None),
        (["null", "int", "string"], "s", {"int": None, "string": "s"}),
        ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, "B", "B"),
        ({"type": "fixed", "name": "f", "size": 2}, "\u00ff\u0001", b"\xff\x01"),
        ({"type": "map", "values": ["null", "int"]}, {"k": None}, [{"key": "k", "value": None}]),
        ({"type": "array", "items": {"type": "array", "items": "int"}}, [[1], [], [2, 3]], [[1], [], [2, 3]]),
        (record(("x", "int", {"default": 4}), ("y", "string"), name="n"), {"y": "z"}, {"x": 4, "y": "z"}),
    ],
)
def test_a_field_that_the_writer_lacked_gets_its_default(kind: object, default: object, value: object) -> None:
    decoded = resolved(record(("a", "int")), record(("b", kind, {"default": default}), ("a", "int")), 1, 2)
    assert decoded.frame["b"].to_list() == [value, value]
    assert decoded.frame["a"].to_list() == [1, 2]


def test_defaults_with_logical_types_are_their_values() -> None:
    fields = (
        ("t", {"type": "int", "logicalType": "time-millis"}, {"default": 1_000}),
        ("d", {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2}, {"default": "\u00ff\u009c"}),
        ("u", {"type": "fixed", "name": "u", "size": 16, "logicalType": "uuid"}, {"default": "\u0001" * 16}),
        ("p", {"type": "fixed", "name": "p", "size": 12, "logicalType": "duration"}, {"default": "\u0001\0\0\0" * 3}),
    )
    row = resolved(record(("a", "int")), record(*fields), 1).frame.row(0, named=True)
    assert [str(row["t"]), str(row["d"]), row["u"]] == ["00:00:01", "-1.00", "01010101-0101-0101-0101-010101010101"]
    assert row["p"] == {"months": 1, "days": 1, "millis": 1}


def test_defaults_in_many_items_find_room() -> None:
    old = {"type": "array", "items": record(("x", "int"), name="n")}
    listed = ("y", {"type": "array", "items": "int"}, {"default": list(range(50))})
    new = {"type": "array", "items": record(("x", "int"), listed, name="n")}
    decoded = resolved(record(("a", old)), record(("a", new)), [{"x": i} for i in range(300)])
    assert decoded.frame["a"].to_list() == [[{"x": i, "y": list(range(50))} for i in range(300)]]


def test_named_types_match_by_short_name_or_alias() -> None:
    old = record(("x", "int"), name="before.point")
    for name, aliases in (("after.point", []), ("spot", ["before.point"])):
        new = {**old, "name": name, "aliases": aliases}
        assert resolved(record(("a", old)), record(("a", new)), {"x": 1}).frame["a"].to_list() == [{"x": 1}]


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("string", "int", "'a'"),
        ("long", "int", "'a'"),
        (["null", "int"], ["string", "boolean"], "'a'"),
        ({"type": "array", "items": "long"}, {"type": "array", "items": "string"}, r"a\[\]"),
        ("int", {"type": "array", "items": "int"}, "'a'"),
        ({"type": "map", "values": "int"}, "string", "'a'"),
        ({"type": "fixed", "name": "f", "size": 2}, {"type": "fixed", "name": "f", "size": 3}, "'a'"),
        ({"type": "fixed", "name": "f", "size": 2}, {"type": "fixed", "name": "g", "size": 2}, "'a'"),
        (record(("x", "int"), name="n"), record(("y", "int"), name="n"), "'a.y'"),
        (
            {"type": "long", "logicalType": "timestamp-millis"},
            {"type": "long", "logicalType": "timestamp-micros"},
            "timestamp-millis",
        ),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2},
            {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 3},
            "scale",
        ),
    ],
)
def test_what_cannot_be_resolved_is_refused_by_name_before_any_payload(old: object, new: object, word: str) -> None:
    with pytest.raises(IncompatibleEvolution, match=word):
        Decoder(record(("a", old)), record(("a", new)))


def test_a_missing_field_without_default_is_refused_by_name() -> None:
    with pytest.raises(IncompatibleEvolution, match="'b' is in the reader's schema only"):
        Decoder(record(("a", "int")), record(("a", "int"), ("b", "int")))


def test_a_default_of_another_type_is_refused_by_name() -> None:
    with pytest.raises(InvalidSchema, match="'b'"):
        Decoder(record(("a", "int")), record(("b", "int", {"default": "x"})))


def test_a_column_that_the_reader_lacks_is_named() -> None:
    with pytest.raises(UnknownColumn, match="'amont'; did you mean 'amount'"):
        Decoder(record(("amount", "int")), columns=["amont"])
