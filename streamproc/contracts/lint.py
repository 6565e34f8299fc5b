"""Refuses schemas that no engine should meet: endless, bottomless, or too large.

A schema comes from a stranger, so nothing here recurses: a text of a million brackets is refused like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from streamproc.errors import InvalidSchema

MAX_DEPTH: Final = 32
"""Records, arrays and maps inside one another, the top record counted."""
MAX_FIELDS: Final = 2_000
"""Record fields, a named type counted again wherever it is used."""
MAX_JSON_DEPTH: Final = 256
"""Brackets inside one another: what 32 levels of types need, and room for attributes."""
PRIMITIVES: Final = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))


def full_name(name: str, namespace: str) -> str:
    """The full name of a type, as Avro forms it: a dotted name is full already.

    >>> full_name("pay", "shop"), full_name("bank.pay", "shop"), full_name("pay", "")
    ('shop.pay', 'bank.pay', 'pay')
    """
    return name if "." in name or not namespace else f"{namespace}.{name}"


def refuse(path: str, why: str, way_out: str) -> InvalidSchema:
    """The error that says which part of a schema is refused, why, and what to do."""
    return InvalidSchema(f"the schema is refused at {path or 'its top'}: {why}", hint=way_out)


def check_json_depth(value: object) -> None:
    """Raises InvalidSchema if JSON is nested so deeply that walking it by recursion would be unsafe."""
    level: list[object] = [value]
    for _ in range(MAX_JSON_DEPTH):
        below: list[object] = []
        for node in level:
            if isinstance(node, Mapping):
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
        if not below:
            return
        level = below
    raise refuse("", f"its JSON is nested deeper than {MAX_JSON_DEPTH} levels", "flatten it")


@dataclass(frozen=True, slots=True)
class _Size:
    """What a finished type adds to the schema around it."""

    height: int = 0
    fields: int = 0
    empty: bool = False


@dataclass(slots=True)
class _Open:
    """A type whose parts are still being looked at."""

    kind: str
    name: str
    namespace: str
    path: str
    parts: list[tuple[str, object]]
    height: int = 0
    fields: int = 0
    empty: bool = True


@dataclass(slots=True)
class _Walk:
    """One pass over a schema: the open types from the top down, and the sizes of finished named types."""

    stack: list[_Open] = field(default_factory=list)
    finished: dict[str, _Size] = field(default_factory=dict)

    def enter(self, node: object, path: str) -> _Size | _Open:
        """The size of a type that has no parts, or the type opened for its parts."""
        around = self.stack[-1] if self.stack else None
        namespace = around.namespace if around else ""
        if isinstance(node, str):
            return self._reference(node, namespace, path)
        if isinstance(node, list):
            if around and around.kind == "union":
                raise refuse(path, "a union stands directly in a union", "write its branches into the outer one")
            parts = [(f"{path}[{i}]" if path else f"[{i}]", branch) for i, branch in enumerate(node)]
            return _Open("union", "", namespace, path, parts[::-1])
        if not isinstance(node, Mapping):
            raise refuse(path, f"{node!r} is not a type", "write a type name, an object or a list of types")
        kind = node.get("type")
        if not isinstance(kind, str):
            raise refuse(path, 'an object has no type name under "type"', 'write {"type": "..."} with a name')
        if kind in ("array", "map"):
            step = "items" if kind == "array" else "values"
            return _Open(kind, "", namespace, path, [(f"{path}.{step}" if path else step, node.get(step))])
        if kind in ("record", "enum", "fixed"):
            return self._named(node, kind, namespace, path)
        if kind in ("error", "request", "error_union"):
            raise refuse(path, f"'{kind}' belongs to Avro protocols, not to data", "use a record or a union")
        return self._reference(kind, namespace, path)

    def _reference(self, name: str, namespace: str, path: str) -> _Size:
        if name in PRIMITIVES:
            return _Size(empty=name == "null")
        full = full_name(name, namespace)
        if any(open_type.name == full for open_type in self.stack):
            raise refuse(
                path, f"'{full}' contains itself", "recursive types have no columns: flatten it, or carry it as bytes"
            )
        if full not in self.finished:
            raise refuse(
                path, f"there is no type '{full}'", "define a type before the place that uses it, under its full name"
            )
        return self.finished[full]

    def _named(self, node: Mapping[str, object], kind: str, namespace: str, path: str) -> _Size | _Open:
        name, space = node.get("name"), node.get("namespace", namespace)
        if not isinstance(name, str) or not name or not isinstance(space, str):
            raise refuse(path, f"a {kind} has no name", 'give it a "name"')
        full = full_name(name, space)
        if kind != "record":
            size = _Size(empty=kind == "fixed" and node.get("size") == 0)
            self.finished[full] = size
            return size
        fields = node.get("fields")
        if not isinstance(fields, list):
            raise refuse(path, f"the record '{full}' has no list of fields", 'give it "fields"')
        parts: list[tuple[str, object]] = []
        for at, item in enumerate(fields):
            if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
                raise refuse(
                    path, f"field {at} of '{full}' is not an object with a name", 'write {"name": ..., "type": ...}'
                )
            label = str(item["name"])
            if "type" not in item:
                raise refuse(path, f"the field '{label}' has no type", 'give it a "type"')
            parts.append((f"{path}.{label}" if path else label, item["type"]))
        return _Open("record", full, full.rpartition(".")[0], path, parts[::-1], fields=len(parts))

    def leave(self) -> _Size:
        """Closes the innermost open type."""
        done = self.stack.pop()
        deeper = 0 if done.kind == "union" else 1
        size = _Size(done.height + deeper, done.fields, done.kind == "record" and done.empty)
        if done.name:
            self.finished[done.name] = size
        return size

    def absorb(self, size: _Size, path: str) -> None:
        """Counts a finished part into the type around it."""
        around = self.stack[-1]
        around.height = max(around.height, size.height)
        around.fields += size.fields
        around.empty = around.empty and size.empty
        depth = sum(open_type.kind != "union" for open_type in self.stack) + size.height
        if depth > MAX_DEPTH:
            raise refuse(path, f"types are nested {depth} deep, more than {MAX_DEPTH}", "flatten the schema")
        if around.fields > MAX_FIELDS:
            raise refuse(around.path, f"{around.fields} fields, more than {MAX_FIELDS}", "split the record")
        if around.kind == "array" and size.empty:
            raise refuse(
                path, "items of zero width: a few bytes could claim an endless array", "send the count as a long"
            )


def lint(avro: object) -> None:
    """Raises InvalidSchema, with path and reason, for a schema that is refused; `avro` is the parsed JSON.

    Refused are types that contain themselves, arrays of zero-width items (null, empty records, fixed of size 0), more
    than 32 levels, more than 2,000 fields (named types counted at each use), and what is no schema at all.
    Time and memory grow with the text alone, and nothing recurses.

    >>> lint({"type": "record", "name": "r", "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}]})
    Traceback (most recent call last):
    streamproc.errors.InvalidSchema: the schema is refused at a.items: items of zero width: ...
    """
    check_json_depth(avro)
    walk = _Walk()
    got = walk.enter(avro, "")
    if isinstance(got, _Size):
        return
    walk.stack.append(got)
    while True:
        around = walk.stack[-1]
        if around.parts:
            path, node = around.parts.pop()
            got = walk.enter(node, path)
            if isinstance(got, _Open):
                walk.stack.append(got)
                if sum(open_type.kind != "union" for open_type in walk.stack) > MAX_DEPTH:
                    raise refuse(path, f"types are nested more than {MAX_DEPTH} deep", "flatten the schema")
            else:
                walk.absorb(got, path)
        else:
            size = walk.leave()
            if not walk.stack:
                return
            walk.absorb(size, around.path)
