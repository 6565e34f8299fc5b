"""Avro schema text to checked JSON values: names resolved, canonical form, fingerprint.

The `avro` library is the authority on what a schema is. It is given only what it judges well: structure, names,
symbols, sizes. What it leaves unchecked (field names, aliases) is checked here; docs/decisions says what and why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NoReturn

import avro.errors
import avro.schema

from streamproc.contracts.lint import PRIMITIVES, check_json_depth, full_name, lint, refuse
from streamproc.errors import InvalidSchema

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_STRUCTURE: Final = ("name", "type", "fields", "symbols", "items", "values", "size")
"""What the parsing canonical form keeps, in its order."""
_RESOLUTION: Final = ("aliases", "default")
Json = Mapping[str, object]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidSchema(
                f"the attribute '{key}' stands twice in one object of the schema", hint="keep one of them"
            )
        found[key] = value
    return found


def _not_a_number(text: str) -> NoReturn:
    raise InvalidSchema(f"{text} is not JSON", hint="write a finite number")


def load_schema(text: str) -> object:
    """The JSON of a schema text, checked: a valid Avro schema within the limits of `lint`.

    Raises InvalidSchema with the place and the reason; attributes are kept as they are.

    >>> load_schema('{"type": "long"}')
    {'type': 'long'}
    """
    try:
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_not_a_number)
    except RecursionError:
        raise InvalidSchema("the schema text is nested too deeply to be read", hint="flatten it") from None
    except ValueError as error:
        raise InvalidSchema(f"the schema text is not JSON: {error}", hint="check it with a JSON editor") from None
    check_schema(value)
    return value


def check_schema(value: object) -> None:
    """Raises InvalidSchema unless the JSON value is an Avro schema within the limits of `lint`."""
    check_json_depth(value)
    lint(value)
    try:
        avro_schema(value)
    except avro.errors.AvroException as error:
        raise InvalidSchema(f"not an Avro schema: {error}", hint="see the Avro specification") from None


def avro_schema(value: object) -> avro.schema.Schema:
    """The `avro` library's schema: structure, defaults and aliases, all names full, without other attributes."""
    return avro.schema.make_avsc_object(_picked(qualify(value), (*_STRUCTURE, *_RESOLUTION)))


def expand(value: object) -> object:
    """The schema with each reference replaced by its definition, and all names and aliases full.

    Every named type then has "name" (full) and no "namespace"; unnamed and primitive types stay as written. Takes a
    schema that `load_schema` accepted, so it is finite.

    >>> expand({"type": "record", "name": "r", "namespace": "n", "fields": []})
    {'type': 'record', 'name': 'n.r', 'fields': []}
    """
    return _resolved(value, expand=True)


def qualify(value: object) -> object:
    """The schema with all names, aliases and references full; each named type is defined once, as written."""
    return _resolved(value, expand=False)


def canonical_form(value: object) -> str:
    """The parsing canonical form that the Avro specification defines, of a schema as JSON value.

    >>> canonical_form({"type": "long", "logicalType": "timestamp-micros"})
    '"long"'
    """
    return json.dumps(_picked(qualify(value), _STRUCTURE), separators=(",", ":"))


def resolution_form(value: object) -> str:
    """The canonical form, and with it what else decides how data is read: logical types, defaults, aliases, units.

    Two schemas of one canonical form may still mean different values (`timestamp-millis` and `-micros`): ids stand for
    this form.
    """
    keep = (*_STRUCTURE, *_RESOLUTION, "logicalType", "precision", "scale", "sp:unit")
    return json.dumps(_picked(qualify(value), keep), separators=(",", ":"), sort_keys=True)


def fingerprint64(value: object) -> int:
    """The 64-bit Rabin fingerprint of the canonical form, signed, as the Avro test data writes it.

    >>> fingerprint64("null")
    7195948357588979594
    """
    return rabin64(canonical_form(value).encode())


def rabin64(data: bytes) -> int:
    """CRC-64-AVRO of bytes, as signed integer."""
    unsigned = _EMPTY
    for byte in data:
        unsigned = (unsigned >> 8) ^ _TABLE[(unsigned ^ byte) & 0xFF]
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned


_EMPTY: Final = 0xC15D213AA4D7A795


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_EMPTY & -(value & 1))
        table.append(value)
    return table


_TABLE: Final = _table()


def _picked(node: object, keep: tuple[str, ...]) -> object:
    """A schema reduced to some attributes; a primitive that has none of them left becomes its name."""
    if isinstance(node, list):
        return [_picked(branch, keep) for branch in node]
    if not isinstance(node, Mapping):
        return node
    picked = {key: node[key] for key in keep if key in node}
    for step in ("items", "values"):
        if step in picked:
            picked[step] = _picked(picked[step], keep)
    if isinstance(fields := picked.get("fields"), list):
        picked["fields"] = [
            {key: _picked(item[key], keep) if key == "type" else item[key] for key in keep if key in item}
            for item in fields
        ]
    return picked["type"] if picked.keys() == {"type"} and picked["type"] in PRIMITIVES else picked


def _resolved(value: object, *, expand: bool) -> object:
    known: dict[str, object] = {}

    def visit(node: object, namespace: str, path: str) -> object:
        if isinstance(node, list):
            return [visit(branch, namespace, path) for branch in node]
        if isinstance(node, str):
            return refer(node, namespace)
        if not isinstance(node, Mapping):
            raise refuse(path, f"{node!r} is not a type", "write a type name, an object or a list of types")
        kind = node["type"]
        if kind == "array":
            return {**node, "items": visit(node.get("items"), namespace, f"{path}.items")}
        if kind == "map":
            return {**node, "values": visit(node.get("values"), namespace, f"{path}.values")}
        if kind in ("record", "enum", "fixed"):
            return define(node, namespace, path, visit)
        return node if kind in PRIMITIVES else refer(str(kind), namespace)

    def refer(name: str, namespace: str) -> object:
        if name in PRIMITIVES:
            return name
        full = full_name(name, namespace)
        return known[full] if expand else full

    def define(node: Json, namespace: str, path: str, visit: Callable[[object, str, str], object]) -> object:
        space = str(node.get("namespace", namespace))
        full = full_name(str(node["name"]), space)
        _check_names(full.split("."), path or full)
        if full in known:
            raise refuse(path or full, f"two types are named '{full}'", "rename one of them")
        space = full.rpartition(".")[0]
        new: dict[str, object] = {key: item for key, item in node.items() if key != "namespace"} | {"name": full}
        if "aliases" in node:
            new["aliases"] = [full_name(alias, space) for alias in _aliases(node, path or full, dotted=True)]
        if node["type"] == "enum":
            _check_symbols(node.get("symbols"), path or full)
        known[full] = new
        if isinstance(fields := node.get("fields"), list):
            new["fields"] = [member(item, space, path, visit) for item in fields]
            _check_fields(new["fields"], path or full)
        return new

    def member(item: Json, namespace: str, path: str, visit: Callable[[object, str, str], object]) -> Json:
        below = f"{path}.{item['name']}" if path else str(item["name"])
        _check_names([str(item["name"])], below)
        _aliases(item, below, dotted=False)
        return {**item, "type": visit(item["type"], namespace, below)}

    return visit(value, "", "")


def _check_names(names: Iterable[str], path: str) -> None:
    for name in names:
        if not _NAME.match(name):
            raise refuse(path, f"'{name}' is not an Avro name", "use letters, digits and _, and no digit first")


def _check_symbols(symbols: object, path: str) -> None:
    if not isinstance(symbols, list) or not symbols or not all(isinstance(symbol, str) for symbol in symbols):
        raise refuse(path, "an enum has no list of symbols", 'write "symbols": ["A", "B"]')
    _check_names(symbols, f"{path} (symbols)")


def _aliases(node: Json, path: str, *, dotted: bool) -> list[str]:
    aliases = node.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise refuse(path, "aliases are not a list of names", 'write "aliases": ["old_name"]')
    for alias in aliases:
        _check_names(alias.split(".") if dotted else [alias], path)
    return aliases


def _check_fields(fields: object, path: str) -> None:
    """No alias may be the name or the alias of another field: an old value would have two readers."""
    owners: dict[str, str] = {}
    assert isinstance(fields, list)
    for item in fields:
        if item["name"] in owners:
            raise refuse(path, f"two fields are named '{item['name']}'", "rename one of them")
        owners[item["name"]] = item["name"]
    for item in fields:
        for alias in item.get("aliases", []):
            if owners.setdefault(alias, item["name"]) != item["name"]:
                raise refuse(
                    path, f"the alias '{alias}' of '{item['name']}' also names '{owners[alias]}'", "drop the alias"
                )
