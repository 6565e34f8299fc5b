"""Random Avro schemas, data for them, and edits that a careless author might make to them."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from hypothesis import strategies as st

Node = Any
PRIMITIVES = ("boolean", "int", "long", "float", "double", "bytes", "string")
LOGICAL = (
    {"type": "int", "logicalType": "date"},
    {"type": "int", "logicalType": "time-millis"},
    {"type": "long", "logicalType": "time-micros"},
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "long", "logicalType": "timestamp-nanos"},
    {"type": "long", "logicalType": "local-timestamp-micros"},
    {"type": "string", "logicalType": "uuid"},
    {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
    {"type": "long", "logicalType": "no-such-thing"},
)


@st.composite
def types(draw: st.DrawFn, path: str, *, depth: int = 2, union: bool = True) -> Node:
    """A type; named ones are called after their path, so that no name stands twice."""
    kinds = ["primitive", "primitive", "logical", "enum", "fixed"]
    kinds += ["union"] if union else []
    kinds += ["array", "map", "record"] if depth else []
    kind = draw(st.sampled_from(kinds))
    if kind == "primitive":
        return draw(st.sampled_from(PRIMITIVES))
    if kind == "logical":
        return dict(draw(st.sampled_from(LOGICAL)))
    if kind == "enum":
        symbols = draw(st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=4, unique=True))
        default = {"default": symbols[0]} if draw(st.booleans()) else {}
        return {"type": "enum", "name": f"{path}_enum", "symbols": symbols, **default}
    if kind == "fixed":
        return {"type": "fixed", "name": f"{path}_fixed", "size": draw(st.integers(1, 4))}
    if kind == "array":
        return {"type": "array", "items": draw(types(f"{path}_item", depth=depth - 1))}
    if kind == "map":
        return {"type": "map", "values": draw(types(f"{path}_value", depth=depth - 1))}
    if kind == "record":
        return draw(records(path, depth=depth - 1))
    branches = draw(st.lists(types(path, depth=depth, union=False), min_size=0, max_size=3, unique_by=_kind))
    return draw(st.permutations(["null", *branches])) if draw(st.booleans()) or not branches else branches


def _kind(node: Node) -> str:
    return node if isinstance(node, str) else str(node["type"])


@st.composite
def records(draw: st.DrawFn, name: str = "top", *, depth: int = 2) -> Node:
    """A record of up to four fields."""
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True))
    fields = []
    for field in names:
        node = draw(types(f"{name}_{field}", depth=depth))
        fields.append({"name": field, "type": node} | ({"default": None} if _first(node) == "null" else {}))
    return {"type": "record", "name": f"{name}_record", "namespace": "tests", "fields": fields}


def _first(node: Node) -> Node:
    return node[0] if isinstance(node, list) else node


def data(node: Node) -> st.SearchStrategy[Any]:
    """Values of a type as fastavro writes them, logical types left out."""
    if isinstance(node, list):
        return st.one_of([data(branch).map(partial(_tagged, branch)) for branch in node])
    plain: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(width=32, allow_nan=False),
        "double": st.floats(allow_nan=False),
        "bytes": st.binary(max_size=4),
        "string": st.text(max_size=4),
    }
    kind = _kind(node)
    if kind in plain:
        return plain[kind]
    if kind == "enum":
        return st.sampled_from(node["symbols"])
    if kind == "fixed":
        return st.binary(min_size=node["size"], max_size=node["size"])
    if kind == "array":
        return st.lists(data(node["items"]), max_size=2)
    if kind == "map":
        return st.dictionaries(st.text(max_size=2), data(node["values"]), max_size=2)
    return st.fixed_dictionaries({field["name"]: data(field["type"]) for field in node["fields"]})


def _tagged(branch: Node, value: object) -> object:
    """A union's value with the branch that it belongs to, so that fastavro need not guess."""
    name = branch["name"] if isinstance(branch, dict) and "name" in branch else _kind(branch)
    name = f"{branch['namespace']}.{name}" if isinstance(branch, dict) and "namespace" in branch else name
    return (
        value
        if name == "null"
        else (name if "." in name or not isinstance(branch, dict) or "name" not in branch else f"tests.{name}", value)
    )


@st.composite
def edited(draw: st.DrawFn, schema: Node) -> Node:
    """The schema after one to three edits."""
    new = copy.deepcopy(schema)
    for _ in range(draw(st.integers(1, 3))):
        places: list[tuple[Any, Any]] = []
        _places(new, places)
        _edit(draw, *draw(st.sampled_from(places)))
    return new


def _places(node: Node, places: list[tuple[Any, Any]]) -> None:
    """Every (holder, key) of a type inside a type."""
    if isinstance(node, list):
        for index, branch in enumerate(node):
            places.append((node, index))
            _places(branch, places)
    elif isinstance(node, dict):
        for key in ("items", "values"):
            if key in node:
                places.append((node, key))
                _places(node[key], places)
        for field in node.get("fields", []):
            places.append((field, "type"))
            places.append((node, "fields"))
            _places(field["type"], places)


def _edit(draw: st.DrawFn, holder: Any, key: Any) -> None:
    if key == "fields":
        _edit_fields(draw, holder["fields"])
        return
    node = holder[key]
    wider = {"int": ["long", "double"], "long": ["float", "double"], "float": ["double"], "string": ["bytes"]}
    if isinstance(node, str) and node in wider:
        new = draw(st.sampled_from(wider[node]))
        if not isinstance(holder, list) or new not in holder:
            holder[key] = new
    elif isinstance(node, dict) and node["type"] == "enum":
        node["symbols"] = draw(st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=4, unique=True))
        node.pop("default", None)
        if draw(st.booleans()):
            node["default"] = node["symbols"][0]
    elif isinstance(node, dict) and "name" in node:
        old = node["name"]
        node["name"] = f"{old}_new"
        if draw(st.booleans()):
            node["aliases"] = [old]
    elif isinstance(node, list):
        if "null" in node and len(node) > 1:
            node.remove("null")
            holder.pop("default", None) if isinstance(holder, dict) else None
        else:
            node.insert(0, "null") if "null" not in node else None
    elif not isinstance(holder, list):
        holder[key] = ["null", node]


def _edit_fields(draw: st.DrawFn, fields: list[Any]) -> None:
    edit = draw(st.sampled_from(["drop", "add", "add with default", "reverse", "rename", "rename with alias"]))
    free = next(name for name in "ghijklmnopqrstuvwxyz" if all(field["name"] != name for field in fields))
    if edit == "drop" and len(fields) > 1:
        fields.pop()
    elif edit == "reverse":
        fields.reverse()
    elif edit.startswith("add"):
        default = {"default": 7} if edit == "add with default" else {}
        fields.append({"name": free, "type": "int", **default})
    elif edit.startswith("rename"):
        field = fields[0]
        field["aliases"] = [field["name"]] if edit == "rename with alias" else []
        field["name"] = free
