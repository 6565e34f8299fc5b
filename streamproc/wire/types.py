"""Avro schemas as a tree of frozen values: names resolved, logical types checked, limits kept.

The tree is what layouts and programs are compiled from.  Source: Avro specification 1.12, "Schema Declaration".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from streamproc.errors import InvalidSchema

MAX_DEPTH: Final = 32
"""Levels of nesting that a schema may have."""
PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_LOGICAL: Final = {
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "timestamp-nanos": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
    "local-timestamp-nanos": ("long",),
}


@dataclass(frozen=True, slots=True)
class AvroField:
    """One field of a record; `has_default` tells a default of null from none."""

    name: str
    type: AvroType
    aliases: tuple[str, ...] = ()
    has_default: bool = False
    default: object = None


@dataclass(frozen=True, slots=True)
class AvroType:
    """One node of a schema.

    kind      null, boolean, int, long, float, double, bytes, string, enum, fixed, array, map, record or union
    logical   the logical type, "" if there is none or it does not apply (the specification says: ignore it)
    name      full name of a named type; aliases are full names too
    items     the item type of an array, the value type of a map
    default   an enum's default symbol, "" if there is none
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
    size: int = 0
    precision: int = 0
    scale: int = 0

    @property
    def null_index(self) -> int:
        """Where null stands in a union, -1 if it does not."""
        return next((i for i, branch in enumerate(self.branches) if branch.kind == "null"), -1)

    @property
    def values(self) -> tuple[AvroType, ...]:
        """A union's branches without null; of any other type, the type itself."""
        return tuple(b for b in self.branches if b.kind != "null") if self.kind == "union" else (self,)

    @property
    def label(self) -> str:
        """What a person calls the type: a named type's short name, else its kind."""
        return self.name.rpartition(".")[2] or self.kind


def parse(schema: object) -> AvroType:
    """The tree of an Avro schema given as JSON values.

    Raises InvalidSchema for anything that is not Avro, for recursive types, for nesting deeper than 32, for arrays whose
    items take no bytes (a few bytes could then claim any number of items) and for decimals wider than 38 digits.

    >>> parse({"type": "int", "logicalType": "date"}).logical
    'date'
    """
    return _Parser().node(schema, "", "the schema", 0)


def min_size(avro: AvroType) -> int:
    """The fewest bytes that a value of this type takes on the wire."""
    if avro.kind in {"null", "fixed"}:
        return avro.size
    if avro.kind == "record":
        return sum(min_size(column.type) for column in avro.fields)
    if avro.kind == "union":
        return 1 + min(min_size(branch) for branch in avro.branches)
    return {"float": 4, "double": 8}.get(avro.kind, 1)


class _Parser:
    def __init__(self) -> None:
        self.named: dict[str, AvroType] = {}
        self.open: list[str] = []

    def node(self, schema: object, namespace: str, where: str, depth: int) -> AvroType:
        if depth > MAX_DEPTH:
            raise InvalidSchema(f"{where} is nested deeper than {MAX_DEPTH} levels", hint="flatten the schema")
        if isinstance(schema, str):
            return self._reference(schema, namespace, where)
        if isinstance(schema, Mapping):
            return self._mapping(schema, namespace, where, depth)
        if isinstance(schema, Sequence):
            return self._union(schema, namespace, where, depth)
        raise InvalidSchema(f"{where} is {schema!r}, not an Avro schema", hint="write a type name, an object or a list")

    def _reference(self, name: str, namespace: str, where: str) -> AvroType:
        if name in PRIMITIVES:
            return AvroType(name)
        full = _full_name(name, namespace)
        for candidate in (full, name):
            if candidate in self.open:
                raise InvalidSchema(
                    f"{where}: the type '{candidate}' contains itself", hint="recursive types have no columns"
                )
            if candidate in self.named:
                return self.named[candidate]
        raise InvalidSchema(f"{where}: there is no type '{name}'", hint="define it before its first use")

    def _union(self, schema: Sequence[object], namespace: str, where: str, depth: int) -> AvroType:
        branches = tuple(self.node(branch, namespace, where, depth + 1) for branch in schema)
        names = [branch.name or branch.kind for branch in branches]
        if not branches or "union" in names or len(set(names)) != len(names):
            raise InvalidSchema(
                f"{where}: a union's branches are different types and not unions", hint="give each type once"
            )
        return AvroType("union", branches=branches)

    def _mapping(self, schema: Mapping[str, object], namespace: str, where: str, depth: int) -> AvroType:
        kind = schema.get("type")
        if not isinstance(kind, str):
            return self.node(kind, namespace, where, depth + 1)
        if kind in {"array", "map"}:
            items = self.node(schema.get("items" if kind == "array" else "values"), namespace, f"{where}[]", depth + 1)
            if kind == "array" and min_size(items) == 0:
                raise InvalidSchema(
                    f"{where}: items that take no bytes cannot be counted", hint="use another item type"
                )
            return AvroType(kind, items=items)
        if kind in {"record", "error", "enum", "fixed"}:
            return self._definition(schema, kind, namespace, where, depth)
        if kind not in PRIMITIVES:
            return self._reference(kind, namespace, where)
        return _logical(AvroType(kind), schema, where)

    def _definition(self, schema: Mapping[str, object], kind: str, namespace: str, where: str, depth: int) -> AvroType:
        name = schema.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidSchema(f"{where}: a {kind} has no name", hint="add the attribute 'name'")
        given = schema.get("namespace")
        full = _full_name(name, given if isinstance(given, str) else namespace)
        if full in self.named or full in self.open:
            raise InvalidSchema(f"{where}: the type '{full}' is defined twice", hint="refer to it by its name")
        inner = full.rpartition(".")[0]
        aliases = tuple(_full_name(alias, inner) for alias in _texts(schema, "aliases", where))
        if kind == "enum":
            symbols, default = _texts(schema, "symbols", where), schema.get("default", "")
            if not symbols or len(set(symbols)) != len(symbols) or (default and default not in symbols):
                raise InvalidSchema(
                    f"{where}: the enum '{full}' needs different symbols", hint="a default is one of them"
                )
            built = AvroType("enum", name=full, aliases=aliases, symbols=symbols, default=str(default))
        elif kind == "fixed":
            size = schema.get("size")
            if not isinstance(size, int) or size < 0:
                raise InvalidSchema(f"{where}: the fixed '{full}' has no size", hint="add the attribute 'size'")
            built = _logical(AvroType("fixed", name=full, aliases=aliases, size=size), schema, where)
        else:
            built = AvroType(
                "record", name=full, aliases=aliases, fields=self._fields(schema, full, inner, where, depth)
            )
        self.named[full] = built
        return built

    def _fields(
        self, schema: Mapping[str, object], full: str, namespace: str, where: str, depth: int
    ) -> tuple[AvroField, ...]:
        listed = schema.get("fields")
        if not isinstance(listed, Sequence):
            raise InvalidSchema(f"{where}: the record '{full}' has no fields", hint="add the attribute 'fields'")
        self.open.append(full)
        fields: list[AvroField] = []
        for entry in listed:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                raise InvalidSchema(f"{where}: a field of '{full}' has no name", hint="add the attribute 'name'")
            name = str(entry["name"])
            place = f"field '{name}'" if depth == 0 else f"{where}.{name}"
            inner = self.node(entry.get("type"), namespace, place, depth + 1)
            aliases = _texts(entry, "aliases", place)
            fields.append(AvroField(name, inner, aliases, "default" in entry, entry.get("default")))
        self.open.pop()
        if len({column.name for column in fields}) != len(fields):
            raise InvalidSchema(f"{where}: two fields of '{full}' have one name", hint="rename one of them")
        return tuple(fields)


def _full_name(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _texts(schema: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    value = schema.get(key, ())
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(text, str) for text in value):
        raise InvalidSchema(f"{where}: '{key}' is not a list of names", hint="write it as a list of texts")
    return tuple(str(text) for text in value)


def _logical(avro: AvroType, schema: Mapping[str, object], where: str) -> AvroType:
    """The type with its logical type, or without it where that does not fit: the specification says to ignore it then."""
    logical = schema.get("logicalType")
    plain = {"name": avro.name, "aliases": avro.aliases, "size": avro.size}
    if logical == "decimal" and avro.kind in {"bytes", "fixed"}:
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if not isinstance(precision, int) or not isinstance(scale, int) or not 0 <= scale <= precision or precision < 1:
            return avro
        if avro.kind == "fixed" and precision > _fixed_digits(avro.size):
            return avro
        if precision > 38:
            raise InvalidSchema(
                f"{where}: a decimal of {precision} digits", hint="at most 38 digits have a column type"
            )
        return AvroType(avro.kind, "decimal", precision=precision, scale=scale, **plain)  # type: ignore[arg-type]
    fits = avro.kind in _LOGICAL.get(str(logical), ())
    fits = fits or (logical == "uuid" and (avro.kind == "string" or (avro.kind == "fixed" and avro.size == 16)))
    fits = fits or (logical == "duration" and avro.kind == "fixed" and avro.size == 12)
    return AvroType(avro.kind, str(logical), **plain) if fits else avro  # type: ignore[arg-type]


def _fixed_digits(size: int) -> int:
    return len(str(2 ** (8 * size - 1) - 1)) - 1 if size else 0
