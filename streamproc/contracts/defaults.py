"""Checks that each default is a value of its field's type, which the `avro` library leaves open."""

from __future__ import annotations

from collections.abc import Mapping

from streamproc.contracts.columns import kind_of
from streamproc.contracts.lint import refuse

_BOUNDS = {"int": 1 << 31, "long": 1 << 63}


def check_defaults(record: Mapping[str, object], path: str = "") -> None:
    """Raises InvalidSchema if a default in the (expanded) record, or in a record inside it, does not fit its field.

    A union's default may be of any of its branches, as from Avro 1.12 on; the first that fits counts.
    """
    fields = record["fields"]
    assert isinstance(fields, list)
    for item in fields:
        below = f"{path}.{item['name']}" if path else str(item["name"])
        if "default" in item and not fits(item["default"], item["type"]):
            raise refuse(
                below, f"the default {item['default']!r} is not a value of its type", "change the default or the type"
            )
        _inside(item["type"], below)


def _inside(node: object, path: str) -> None:
    if isinstance(node, list):
        for branch in node:
            _inside(branch, path)
    elif isinstance(node, Mapping):
        kind = kind_of(node)
        if kind in ("array", "map"):
            _inside(node["items" if kind == "array" else "values"], path)
        elif kind == "record":
            check_defaults(node, path)


def fits(value: object, node: object) -> bool:
    """Whether a JSON default is a value of an (expanded) type; bytes and fixed are texts of the code points 0-255.

    >>> fits("ÿ", "bytes"), fits(3_000_000_000, "int"), fits(None, ["int", "null"])
    (True, False, True)
    """
    if isinstance(node, list):
        return any(fits(value, branch) for branch in node)
    kind = kind_of(node)
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in _BOUNDS:
        return type(value) is int and -_BOUNDS[kind] <= value < _BOUNDS[kind]
    if kind in ("float", "double"):
        return type(value) in (int, float)
    if kind == "string":
        return isinstance(value, str)
    if kind == "bytes":
        return _is_bytes(value)
    assert isinstance(node, Mapping)
    if kind == "fixed":
        return _is_bytes(value) and isinstance(value, str) and len(value) == node["size"]
    if kind == "enum":
        return value in node["symbols"]
    if kind == "array":
        return isinstance(value, list) and all(fits(item, node["items"]) for item in value)
    if not isinstance(value, Mapping):
        return False
    if kind == "map":
        return all(fits(item, node["values"]) for item in value.values())
    names = {item["name"] for item in node["fields"]}
    return value.keys() <= names and all(
        fits(value[item["name"]], item["type"]) if item["name"] in value else "default" in item
        for item in node["fields"]
    )


def _is_bytes(value: object) -> bool:
    return isinstance(value, str) and all(ord(character) < 256 for character in value)
