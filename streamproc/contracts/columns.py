"""Avro types to Polars types, and back.

The mapping (the codec follows the same one):

    null Null               boolean Boolean         int Int32               long Int64
    float Float32           double Float64          bytes, fixed Binary     string, uuid String
    enum Enum(symbols)      array List(T)           map List(Struct{key, value})
    record Struct           decimal Decimal(p, s)   date Date               time-millis, time-micros Time
    timestamp-millis, -micros, -nanos  Datetime("ms" | "us" | "ns", "UTC")
    local-timestamp-*       Datetime without zone   duration Struct{months, days, millis: Int64}
    [null, T] and [T, null] a nullable T
    wider unions            Struct with one nullable field a branch, named by the branch's type (short name for
                            records, enums and fixed, full where short ones clash); exactly one is set, none for null
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from streamproc.contracts.lint import refuse

_PRIMITIVE: Final[dict[str, pl.DataType]] = {
    "null": pl.Null(), "boolean": pl.Boolean(), "int": pl.Int32(), "long": pl.Int64(), "float": pl.Float32(),
    "double": pl.Float64(), "bytes": pl.Binary(), "string": pl.String(),
}  # fmt: skip
DURATION: Final = pl.Struct({"months": pl.Int64(), "days": pl.Int64(), "millis": pl.Int64()})
_LOGICAL: Final[dict[tuple[str, str], pl.DataType]] = {
    ("int", "date"): pl.Date(),
    ("int", "time-millis"): pl.Time(),
    ("long", "time-micros"): pl.Time(),
    ("long", "timestamp-millis"): pl.Datetime("ms", "UTC"),
    ("long", "timestamp-micros"): pl.Datetime("us", "UTC"),
    ("long", "timestamp-nanos"): pl.Datetime("ns", "UTC"),
    ("long", "local-timestamp-millis"): pl.Datetime("ms"),
    ("long", "local-timestamp-micros"): pl.Datetime("us"),
    ("long", "local-timestamp-nanos"): pl.Datetime("ns"),
    ("string", "uuid"): pl.String(),
    ("fixed", "uuid"): pl.String(),
    ("fixed", "duration"): DURATION,
}
MAX_PRECISION: Final = 38


def kind_of(node: object) -> str:
    """The Avro type of a schema node: a primitive's name, "record", "array" and so on, or "union".

    >>> kind_of("int"), kind_of({"type": "map", "values": "int"}), kind_of(["null"])
    ('int', 'map', 'union')
    """
    if isinstance(node, str):
        return node
    return str(node["type"]) if isinstance(node, Mapping) else "union"


def logical_of(node: object) -> str:
    """The logical type that counts, or "": unknown and ill-formed ones are ignored, as Avro demands.

    >>> logical_of({"type": "int", "logicalType": "date"}), logical_of({"type": "int", "logicalType": "uuid"})
    ('date', '')
    """
    if not isinstance(node, Mapping) or not isinstance(name := node.get("logicalType"), str):
        return ""
    kind = kind_of(node)
    if kind != "fixed" and (kind, name) in _LOGICAL:
        return name
    if kind == "fixed" and (name, node.get("size")) in (("duration", 12), ("uuid", 16)):
        return name
    if name == "decimal" and kind in ("bytes", "fixed"):
        precision, scale = node.get("precision"), node.get("scale", 0)
        if type(precision) is int and type(scale) is int and precision > 0 and 0 <= scale <= precision:
            return name if kind == "bytes" or precision <= _fixed_digits(node["size"]) else ""
    return ""


def _fixed_digits(size: object) -> int:
    """How many decimal digits always fit in a two's complement number of so many bytes."""
    assert isinstance(size, int)
    return len(str(2 ** (8 * size - 1) - 1)) - 1 if size else 0


def branch_name(node: object) -> str:
    """The name of a union branch: the short name of a record, enum or fixed, else the name of the type.

    >>> branch_name({"type": "fixed", "name": "a.b", "size": 4}), branch_name("long")
    ('b', 'long')
    """
    if isinstance(node, Mapping) and "name" in node:
        return str(node["name"]).rpartition(".")[2]
    return kind_of(node)


def branch_names(values: list[object]) -> list[str]:
    """The names of a wide union's fields: short names, full ones where short ones clash."""
    short = [branch_name(branch) for branch in values]
    return [
        str(branch["name"]) if isinstance(branch, Mapping) and "name" in branch and short.count(name) > 1 else name
        for branch, name in zip(values, short, strict=True)
    ]


def polars_type(avro_type: object, *, path: str = "") -> tuple[pl.DataType, bool]:
    """The Polars type of an Avro type and whether it is nullable; takes a node of an expanded schema.

    Raises InvalidSchema for decimals of more than 38 digits, and empty unions.

    >>> polars_type(["null", {"type": "int", "logicalType": "date"}])
    (Date, True)
    """
    kind = kind_of(avro_type)
    if isinstance(avro_type, list):
        return _union(avro_type, path)
    if kind == "null":
        return pl.Null(), True
    assert isinstance(avro_type, str | Mapping)
    if logical := logical_of(avro_type):
        assert isinstance(avro_type, Mapping)
        if logical == "decimal":
            precision, scale = int(avro_type["precision"]), int(avro_type.get("scale", 0))
            if precision > MAX_PRECISION:
                raise refuse(
                    path, f"a decimal of {precision} digits does not fit in a column", "use at most 38, or plain bytes"
                )
            return pl.Decimal(precision, scale), False
        return _LOGICAL[kind, logical], False
    if kind in _PRIMITIVE:
        return _PRIMITIVE[kind], False
    if not isinstance(avro_type, Mapping):
        raise refuse(
            path, f"there is no type '{avro_type}'", "expand the schema first: references need their definition"
        )
    if kind == "fixed":
        return pl.Binary(), False
    if kind == "enum":
        return pl.Enum(avro_type["symbols"]), False
    if kind == "array":
        return pl.List(polars_type(avro_type["items"], path=f"{path}.items")[0]), False
    if kind == "map":
        value = polars_type(avro_type["values"], path=f"{path}.values")[0]
        return pl.List(pl.Struct({"key": pl.String(), "value": value})), False
    members = {
        item["name"]: polars_type(item["type"], path=f"{path}.{item['name']}")[0] for item in avro_type["fields"]
    }
    return pl.Struct(members), False


def _union(branches: list[object], path: str) -> tuple[pl.DataType, bool]:
    values = [branch for branch in branches if kind_of(branch) != "null"]
    nullable = len(values) < len(branches)
    if not branches:
        raise refuse(path, "an empty union has no values", "name at least one branch")
    if not values:
        return pl.Null(), True
    if len(values) == 1:
        return polars_type(values[0], path=path)[0], nullable
    names = branch_names(values)
    members = {name: polars_type(branch, path=f"{path}.{name}")[0] for name, branch in zip(names, values, strict=True)}
    return pl.Struct(members), nullable
