"""Contracts from columns, and their text: what a sink that names no contract writes, as an `.avsc` to commit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from streamproc.contracts.avro_json import check_schema
from streamproc.contracts.avro_schema import contract_of_avro
from streamproc.contracts.model import Contract, Field, Schema
from streamproc.errors import InvalidSchema, TypeMismatch
from streamproc.event_time import span_text

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_WIDTH: Final = 110
_FIRST: Final = ("name", "type", "namespace", "aliases", "doc", "default")
_LAST: Final = ("items", "values", "size", "symbols", "fields")
_PLAIN: Final[tuple[tuple[type[pl.DataType], str], ...]] = (
    (pl.Null, "null"), (pl.Boolean, "boolean"), (pl.Int8, "int"), (pl.Int16, "int"), (pl.Int32, "int"),
    (pl.UInt8, "int"), (pl.UInt16, "int"), (pl.UInt32, "long"), (pl.Int64, "long"), (pl.Float32, "float"),
    (pl.Float64, "double"), (pl.Binary, "bytes"), (pl.String, "string"), (pl.Categorical, "string"),
)  # fmt: skip
_STAMP: Final = {"ms": "millis", "us": "micros", "ns": "nanos"}


def contract_of(
    name: str,
    schema: Schema,
    *,
    version: int = 1,
    event_time: str = "",
    key: Sequence[str] = (),
    owner: str = "",
    steward: str = "",
    scope: Sequence[str] = (),
    retention_us: int | None = None,
    doc: str = "",
) -> Contract:
    """The contract that says what the columns of `schema` are, under the subject `name`.

    `contract.schema` has the columns as they are read back: narrower integers become Int32 or Int64, categories text,
    zones UTC, fixed-size arrays lists; every other type stays. Values inside lists and structs may be null.
    Raises TypeMismatch for columns that Avro cannot hold (UInt64, Int128, Duration, Object), InvalidSchema for column
    names that are no Avro names and for roles that do not fit.

    >>> contract = contract_of("alert", Schema((Field("at", pl.Datetime("us", "UTC")),)), event_time="at")
    >>> print(avsc_text(contract), end="")
    {
      "name": "alert",
      "type": "record",
      "sp:version": 1,
      "fields": [
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}
      ]
    }
    """
    record: dict[str, object] = {"type": "record", "name": re.sub(r"[^A-Za-z0-9_]", "_", name)}
    if record["name"] != name:
        record["sp:subject"] = name
    record["sp:version"] = version
    optional = {"doc": doc, "sp:owner": owner, "sp:steward": steward, "sp:scope": list(scope)}
    record |= {attribute: value for attribute, value in optional.items() if value}
    if retention_us is not None:
        record["sp:retention"] = span_text(retention_us)
    roles = dict.fromkeys(key, "key") | ({event_time: "event_time"} if event_time else {})
    for field in roles:
        schema[field]
    roles = {column.name: "deleted" for column in schema if column.deletes} | roles
    record["fields"] = [_member(column, str(record["name"]), roles.get(column.name, "")) for column in schema]
    check_schema(record)
    return contract_of_avro(record)


def _member(column: Field, namespace: str, role: str) -> dict[str, object]:
    avro_type = avro_type_of(column.dtype, path=f"{namespace}.{_checked(column.name)}")
    member: dict[str, object] = {"name": column.name, "type": avro_type}
    if column.nullable and avro_type != "null":
        member |= {"type": ["null", avro_type], "default": None}
    optional = {"doc": column.doc, "sp:role": role, "sp:unit": column.unit, "sp:pii": column.pii}
    return member | {attribute: value for attribute, value in optional.items() if value}


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise InvalidSchema(
            f"the column '{name}' has no Avro name", hint="rename it: letters, digits and _, no digit first"
        )
    return name


def avro_type_of(dtype: pl.DataType, *, path: str) -> object:
    """The Avro type, as JSON, of values of a Polars type; `path` (dotted) becomes the full name of a named type.

    Raises TypeMismatch for a type that Avro cannot hold without loss.

    >>> avro_type_of(pl.List(pl.Int64()), path="alert.scores")
    {'type': 'array', 'items': ['null', 'long']}
    """
    for plain, avro_type in _PLAIN:
        if isinstance(dtype, plain):
            return avro_type
    if isinstance(dtype, pl.Decimal):
        return {"type": "bytes", "logicalType": "decimal", "precision": dtype.precision or 38, "scale": dtype.scale}
    if isinstance(dtype, pl.Date):
        return {"type": "int", "logicalType": "date"}
    if isinstance(dtype, pl.Time):
        return {"type": "long", "logicalType": "time-micros"}
    if isinstance(dtype, pl.Datetime):
        local = "" if dtype.time_zone else "local-"
        return {"type": "long", "logicalType": f"{local}timestamp-{_STAMP[dtype.time_unit]}"}
    if isinstance(dtype, pl.Enum):
        symbols = dtype.categories.to_list()
        if symbols and all(_NAME.match(symbol) for symbol in symbols):
            return {"type": "enum", "name": path, "symbols": symbols}
        return "string"
    if isinstance(dtype, pl.List | pl.Array):
        return _list(dtype.inner, path)
    if isinstance(dtype, pl.Struct):
        members = [
            {"name": _checked(field.name), "type": _nullable(_typed(field.dtype), f"{path}.{field.name}")}
            for field in dtype.fields
        ]
        return {"type": "record", "name": path, "fields": members}
    raise TypeMismatch(
        f"the column '{path.partition('.')[2]}' of type {dtype} has no Avro type",
        hint="cast it: large unsigned integers to Decimal(20, 0) or Int64, durations to Int64 microseconds",
    )


def _typed(dtype: object) -> pl.DataType:
    assert isinstance(dtype, pl.DataType)
    return dtype


def _list(inner: object, path: str) -> object:
    """An array, or a map where the items are pairs of a text key and a value."""
    item = _typed(inner)
    if isinstance(item, pl.Struct) and [field.name for field in item.fields] == ["key", "value"]:
        key, value = (_typed(field.dtype) for field in item.fields)
        if isinstance(key, pl.String):
            return {"type": "map", "values": _nullable(value, path)}
    return {"type": "array", "items": _nullable(item, path)}


def _nullable(dtype: pl.DataType, path: str) -> object:
    avro_type = avro_type_of(dtype, path=path)
    return "null" if avro_type == "null" else ["null", avro_type]


def avsc_text(contract: Contract) -> str:
    """The contract as `.avsc` text: the same for the same schema, whatever the order its attributes were written in.

    Read back, it gives the same contract.
    """
    return _render(contract.avro, 0) + "\n"


def _render(value: object, indent: int, *, apart: bool = False) -> str:
    """JSON that breaks lines around what is long or holds fields, so that each field is a line of a diff."""
    line = json.dumps(_ordered(value), ensure_ascii=False)
    short = len(line) + indent <= _WIDTH and not apart and not _holds_fields(value)
    if not isinstance(value, Mapping | list) or not value or short:
        return line
    inner, outer = "\n" + " " * (indent + 2), "\n" + " " * indent
    if isinstance(value, list):
        return "[" + ",".join(inner + _render(item, indent + 2) for item in value) + outer + "]"
    parts = [
        f"{inner}{json.dumps(key, ensure_ascii=False)}: {_render(item, indent + 2, apart=key == 'fields')}"
        for key, item in _items(value)
    ]
    return "{" + ",".join(parts) + outer + "}"


def _holds_fields(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value.get("fields")) or any(_holds_fields(item) for item in value.values())
    return isinstance(value, list) and any(_holds_fields(item) for item in value)


def _ordered(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _ordered(item) for key, item in _items(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def _items(value: Mapping[str, object]) -> list[tuple[str, object]]:
    def rank(item: tuple[str, object]) -> tuple[int, int, str]:
        key = item[0]
        if key in _FIRST:
            return 0, _FIRST.index(key), ""
        return (2, _LAST.index(key), "") if key in _LAST else (1, 0, key)

    return sorted(value.items(), key=rank)
