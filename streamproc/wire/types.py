"""Avro schemas as a tree of frozen values, ready to be laid out and compiled.

What a schema may be is judged by `streamproc.contracts`; here every attribute that the codec reads gets its type.
Source: Avro specification 1.12, "Schema Declaration".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from streamproc.contracts.avro_json import check_schema, expand
from streamproc.contracts.columns import branch_names, kind_of, logical_of, polars_type
from streamproc.contracts.lint import MAX_DEPTH
from streamproc.errors import InvalidSchema

STACK: Final = MAX_DEPTH + 2
"""How many arrays and maps a kernel can be inside of at once, and some room."""


@dataclass(frozen=True, slots=True)
class AvroField:
    """One field of a record; `has_default` tells a default of null from none."""

    name: str
    type: AvroType
    dtype: pl.DataType
    aliases: tuple[str, ...] = ()
    has_default: bool = False
    default: object = None


@dataclass(frozen=True, slots=True)
class AvroType:
    """One node of a schema.

    kind      null, boolean, int, long, float, double, bytes, string, enum, fixed, array, map, record or union
    logical   the logical type, "" if there is none or it does not apply (the specification says: ignore it)
    name      full name of a named type; aliases are full names too
    default   an enum's default symbol, "" if there is none
    items     the item type of an array, the value type of a map
    branches  a union's types; value_names names those besides null as columns do
    source    the expanded JSON that this was read from
    """

    kind: str
    logical: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    fields: tuple[AvroField, ...] = ()
    symbols: tuple[str, ...] = ()
    default: str = ""
    items: AvroType | None = None
    branches: tuple[AvroType, ...] = ()
    value_names: tuple[str, ...] = ()
    size: int = 0
    precision: int = 0
    scale: int = 0
    source: object = field(default=None, compare=False, repr=False)

    @property
    def null_index(self) -> int:
        """Where null stands in a union, -1 if it does not."""
        return next((i for i, branch in enumerate(self.branches) if branch.kind == "null"), -1)

    @property
    def values(self) -> tuple[AvroType, ...]:
        """A union's branches without null."""
        return tuple(branch for branch in self.branches if branch.kind != "null")

    @property
    def is_wide(self) -> bool:
        """Whether it is a union of two or more types besides null."""
        return len(self.values) > 1

    @property
    def label(self) -> str:
        """What a person calls the type: a named type's short name, else its kind."""
        return self.name.rpartition(".")[2] or self.kind


def parse(schema: Mapping[str, object]) -> AvroType:
    """The tree of an Avro record schema, given as JSON values.

    Raises InvalidSchema for what is not Avro or is refused by the lint, and for a schema that is no record.

    >>> parse({"type": "record", "name": "r", "fields": [{"name": "a", "type": "long"}]}).fields[0].dtype
    Int64
    """
    check_schema(schema)
    tree = _node(expand(schema))
    if tree.kind != "record":
        raise InvalidSchema(f"the schema is a {tree.kind}, not a record", hint="put the value into a record's field")
    return tree


def min_size(avro: AvroType) -> int:
    """The fewest bytes that a value of this type takes on the wire."""
    if avro.kind in {"null", "fixed"}:
        return avro.size
    if avro.kind == "record":
        return sum(min_size(column.type) for column in avro.fields)
    if avro.kind == "union":
        return 1 + min(min_size(branch) for branch in avro.branches)
    return {"float": 4, "double": 8}.get(avro.kind, 1)


def _node(node: object) -> AvroType:
    kind, logical = kind_of(node), logical_of(node)
    if isinstance(node, list):
        branches = tuple(_node(branch) for branch in node)
        names = branch_names([branch for branch in node if kind_of(branch) != "null"])
        return AvroType(kind, branches=branches, value_names=tuple(names), source=node)
    if not isinstance(node, Mapping):
        return AvroType(kind, source=node)
    name, aliases = str(node.get("name", "")), tuple(node.get("aliases", ()))
    if kind in {"array", "map"}:
        return AvroType(kind, items=_node(node["items" if kind == "array" else "values"]), source=node)
    if kind == "enum":
        default = str(node.get("default", ""))
        return AvroType(kind, "", name, aliases, symbols=tuple(node["symbols"]), default=default, source=node)
    if kind == "record":
        return AvroType(kind, "", name, aliases, tuple(_field(item) for item in node["fields"]), source=node)
    size, precision, scale = int(node.get("size", 0)), 0, 0
    if logical == "decimal":
        precision, scale = int(node["precision"]), int(node.get("scale", 0))
    return AvroType(kind, logical, name, aliases, size=size, precision=precision, scale=scale, source=node)


def _field(item: Mapping[str, object]) -> AvroField:
    node, aliases = item["type"], item.get("aliases", ())
    assert isinstance(aliases, (list, tuple))
    dtype, _ = polars_type(node, path=str(item["name"]))
    return AvroField(str(item["name"]), _node(node), dtype, tuple(aliases), "default" in item, item.get("default"))
