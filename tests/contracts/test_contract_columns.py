"""Avro types and the Polars types of their columns."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import polars as pl
import pytest
from avro_strategies import data
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from streamproc.contracts.avro_schema import contract_of_avro
from streamproc.contracts.columns import logical_of, polars_type
from streamproc.errors import InvalidSchema

DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}


def logical(kind: str, name: str, **attributes: object) -> dict[str, object]:
    return {"type": kind, "logicalType": name, **attributes}


def fixed(size: int, **attributes: object) -> dict[str, object]:
    return {"type": "fixed", "name": "n.f", "size": size, **attributes}


@pytest.mark.parametrize(
    ("avro_type", "dtype"),
    [
        ("boolean", pl.Boolean()),
        ("int", pl.Int32()),
        ("long", pl.Int64()),
        ("float", pl.Float32()),
        ("double", pl.Float64()),
        ("bytes", pl.Binary()),
        ("string", pl.String()),
        (fixed(3), pl.Binary()),
        ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, pl.Enum(["A", "B"])),
        ({"type": "array", "items": ["null", "int"]}, pl.List(pl.Int32())),
        ({"type": "map", "values": "long"}, pl.List(pl.Struct({"key": pl.String(), "value": pl.Int64()}))),
        ({"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}]}, pl.Struct({"a": pl.Int32()})),
        (DECIMAL, pl.Decimal(12, 2)),
        (fixed(6, logicalType="decimal", precision=14), pl.Decimal(14, 0)),
        (logical("int", "date"), pl.Date()),
        (logical("int", "time-millis"), pl.Time()),
        (logical("long", "time-micros"), pl.Time()),
        (logical("long", "timestamp-millis"), pl.Datetime("ms", "UTC")),
        (logical("long", "timestamp-micros"), pl.Datetime("us", "UTC")),
        (logical("long", "timestamp-nanos"), pl.Datetime("ns", "UTC")),
        (logical("long", "local-timestamp-millis"), pl.Datetime("ms")),
        (logical("long", "local-timestamp-micros"), pl.Datetime("us")),
        (logical("long", "local-timestamp-nanos"), pl.Datetime("ns")),
        (logical("string", "uuid"), pl.String()),
        (fixed(16, logicalType="uuid"), pl.String()),
        (fixed(12, logicalType="duration"), pl.Struct(dict.fromkeys(("months", "days", "millis"), pl.Int64()))),
        (["int"], pl.Int32()),
        (["int", "string"], pl.Struct({"int": pl.Int32(), "string": pl.String()})),
    ],
)
def test_each_type_has_one_column_type_nullable_in_a_union_with_null(avro_type: Any, dtype: pl.DataType) -> None:
    assert polars_type(avro_type) == (dtype, False)
    branches = avro_type if isinstance(avro_type, list) else [avro_type]
    assert polars_type(["null", *branches]) == (dtype, True)
    assert polars_type([*branches, "null"]) == (dtype, True)


def test_null_is_a_nullable_column_of_nothing() -> None:
    assert polars_type("null") == polars_type(["null"]) == (pl.Null(), True)


@pytest.mark.parametrize(
    ("node", "dtype"),
    [
        (logical("int", "timestamp-micros"), pl.Int32()),
        (logical("string", "no-such-thing"), pl.String()),
        (logical("bytes", "decimal"), pl.Binary()),
        (logical("bytes", "decimal", precision=2, scale=3), pl.Binary()),
        (logical("bytes", "decimal", precision=True), pl.Binary()),
        (fixed(6, logicalType="decimal", precision=15), pl.Binary()),
        (fixed(11, logicalType="duration"), pl.Binary()),
    ],
)
def test_logical_types_that_do_not_fit_are_ignored(node: Any, dtype: pl.DataType) -> None:
    assert logical_of(node) == ""
    assert polars_type(node) == (dtype, False)


def test_decimals_of_more_than_38_digits_are_refused_with_their_place() -> None:
    record = {"type": "record", "name": "r", "fields": [{"name": "sum", "type": {**DECIMAL, "precision": 39}}]}
    with pytest.raises(InvalidSchema, match="at sum: a decimal of 39 digits does not fit"):
        contract_of_avro(record)


def test_wide_unions_name_their_fields_by_type_in_full_where_short_names_clash() -> None:
    first, second = ({"type": "fixed", "name": f"{space}.id", "size": 4} for space in ("a", "b"))
    bank = {"type": "record", "name": "pay.bank", "fields": []}
    dtype, nullable = polars_type([first, "null", bank, second, logical("long", "timestamp-millis")])
    assert nullable
    assert isinstance(dtype, pl.Struct)
    assert [field.name for field in dtype.fields] == ["a.id", "bank", "b.id", "long"]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_polars_reads_files_of_simple_schemas_into_the_same_columns(drawn: st.DataObject) -> None:
    names = drawn.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True))
    simple = ["boolean", "int", "long", "float", "double", "bytes", "string"]
    kinds = st.sampled_from([*simple, logical("int", "date"), {"type": "array", "items": "long"}])
    schema = {"type": "record", "name": "r", "fields": [{"name": name, "type": drawn.draw(kinds)} for name in names]}
    assume(schema["fields"])
    rows = drawn.draw(st.lists(data(plain(schema)), min_size=1, max_size=3))
    file = io.BytesIO()
    fastavro.writer(file, schema, rows)
    file.seek(0)
    assert pl.read_avro(file).schema == contract_of_avro(schema).schema.polars()


def plain(node: Any) -> Any:
    """Without dates, so that the data are days since 1970."""
    if isinstance(node, dict):
        return {key: plain(item) for key, item in node.items() if key != "logicalType"}
    return [plain(item) for item in node] if isinstance(node, list) else node
