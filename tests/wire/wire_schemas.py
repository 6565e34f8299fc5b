"""Random record schemas: every type and logical type, nested, with and without wide unions."""

from __future__ import annotations

from hypothesis import strategies as st

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
LOGICAL = (
    ("int", "date"), ("int", "time-millis"), ("long", "time-micros"), ("long", "timestamp-millis"),
    ("long", "timestamp-micros"), ("long", "timestamp-nanos"), ("long", "local-timestamp-millis"),
    ("long", "local-timestamp-micros"), ("long", "local-timestamp-nanos"), ("string", "uuid"), ("long", "unheard-of"),
)  # fmt: skip
SYMBOLS = ("A", "B", "C", "D")


class Names:
    """Fresh names, so that no two types of a schema share one."""

    def __init__(self) -> None:
        self.count = 0

    def fresh(self) -> str:
        """The next name."""
        self.count += 1
        return f"n{self.count}"


@st.composite
def schemas(draw: st.DrawFn, *, wide_unions: bool = True) -> dict[str, object]:
    """A record schema of one to six fields."""
    names = Names()
    count = draw(st.integers(1, 6))
    fields = [{"name": f"f{i}", "type": _node(draw, names, 0, wide_unions)} for i in range(count)]
    return {"type": "record", "name": "top", "fields": fields}


def _node(draw: st.DrawFn, names: Names, depth: int, wide: bool) -> object:
    choices = ["primitive", "primitive", "logical", "named", "nullable"]
    if depth < 3:
        choices += ["array", "map", "record"] + ["union"] * wide
    kind = draw(st.sampled_from(choices))
    if kind == "primitive":
        return draw(st.sampled_from(PRIMITIVES))
    if kind == "logical":
        base, logical = draw(st.sampled_from(LOGICAL))
        return {"type": base, "logicalType": logical}
    if kind == "named":
        return _named(draw, names)
    if kind == "nullable":
        inner = _inner(draw, names, depth, wide)
        return ["null", inner] if draw(st.booleans()) else [inner, "null"]
    if kind == "array":
        return {"type": "array", "items": _counted(_node(draw, names, depth + 1, wide))}
    if kind == "map":
        return {"type": "map", "values": _node(draw, names, depth + 1, wide)}
    if kind == "record":
        return _record(draw, names, depth, wide)
    return _union(draw, names, depth)


def _counted(item: object) -> object:
    """The item type of an array, which must take at least a byte."""
    empty = item == "null" or (isinstance(item, dict) and item["type"] in ("record", "fixed"))
    return ["null", item] if empty and item != "null" else ("long" if item == "null" else item)


def _inner(draw: st.DrawFn, names: Names, depth: int, wide: bool) -> object:
    item = _node(draw, names, depth + 1, wide)
    return "long" if isinstance(item, list) or item == "null" else item


def _named(draw: st.DrawFn, names: Names) -> object:
    fixed = {"type": "fixed", "name": names.fresh()}
    return draw(
        st.sampled_from(
            (
                {"type": "enum", "name": names.fresh(), "symbols": list(SYMBOLS)},
                {**fixed, "size": 5},
                {**fixed, "size": 20},
                {**fixed, "size": 16, "logicalType": "uuid"},
                {**fixed, "size": 12, "logicalType": "duration"},
                {**fixed, "size": 9, "logicalType": "decimal", "precision": 20, "scale": 4},
                {**fixed, "size": 17, "logicalType": "decimal", "precision": 38, "scale": 0},
                {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
                {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 10},
            )
        )
    )


def _record(draw: st.DrawFn, names: Names, depth: int, wide: bool) -> object:
    name = names.fresh()
    fields = [{"name": f"g{i}", "type": _node(draw, names, depth + 1, wide)} for i in range(draw(st.integers(1, 3)))]
    return {"type": "record", "name": name, "fields": fields}


def _union(draw: st.DrawFn, names: Names, depth: int) -> object:
    branches: list[object] = draw(st.lists(st.sampled_from(PRIMITIVES), min_size=1, max_size=4, unique=True))
    extra = draw(st.integers(0, 3))
    if extra == 1:
        branches.append(_record(draw, names, depth + 1, True))
    elif extra == 2:
        branches.append({"type": "array", "items": "string"})
        branches.append({"type": "enum", "name": names.fresh(), "symbols": list(SYMBOLS)})
    elif extra == 3:
        branches.append({"type": "map", "values": ["null", "long"]})
    return branches


DEFAULTS: tuple[tuple[object, object], ...] = (
    ("long", -7), ("int", 2**31 - 1), ("double", 1.5), ("float", 0.25), ("boolean", True), ("string", "short"),
    ("string", "a default that no view holds inline: ü"), ("bytes", "\u00ff\u0000"), (["null", "long"], None),
    (["string", "null"], "x"), ({"type": "array", "items": "string"}, ["a", "a longer text than twelve bytes"]),
    ({"type": "map", "values": "int"}, {"k": 1, "l": 2}), ({"type": "array", "items": "long"}, []),
)  # fmt: skip
PROMOTIONS = {
    "int": ("long", "float", "double"), "long": ("float", "double"), "float": ("double",), "string": ("bytes",),
}  # fmt: skip


@st.composite
def evolutions(draw: st.DrawFn) -> tuple[dict[str, object], dict[str, object]]:
    """A writer's schema without wide unions or logical types, and a reader's that can read it."""
    writer = _bare(draw(schemas(wide_unions=False)))
    reader = _evolved(draw, writer)
    assert isinstance(writer, dict)
    assert isinstance(reader, dict)
    return writer, reader


def _bare(node: object) -> object:
    if isinstance(node, list):
        return [_bare(branch) for branch in node]
    if isinstance(node, dict):
        return {key: _bare(item) for key, item in node.items() if key not in ("logicalType", "precision", "scale")}
    return node


def _evolved(draw: st.DrawFn, node: object) -> object:
    """A type that reads what this one wrote."""
    if isinstance(node, list):
        return [_evolved(draw, branch) if branch != "null" else branch for branch in node]
    if isinstance(node, str):
        return draw(st.sampled_from((node, *PROMOTIONS.get(node, ()))))
    assert isinstance(node, dict)
    if node["type"] == "array":
        return {**node, "items": _evolved(draw, node["items"])}
    if node["type"] == "map":
        return {**node, "values": _evolved(draw, node["values"])}
    if node["type"] == "enum":
        kept = draw(st.permutations([*SYMBOLS[:2], "E"]))
        return {**node, "symbols": kept, "default": "E"}
    if node["type"] != "record":
        return _evolved(draw, node["type"]) if node["type"] in PRIMITIVES else node
    fields = [_evolved_field(draw, item) for item in node["fields"]]
    fields = draw(st.permutations(fields))[: draw(st.integers(1, len(fields)))]
    for i in range(draw(st.integers(0, 2))):
        kind, default = draw(st.sampled_from(DEFAULTS))
        fields.insert(draw(st.integers(0, len(fields))), {"name": f"new{i}", "type": kind, "default": default})
    return {**node, "fields": fields}


def _evolved_field(draw: st.DrawFn, item: dict[str, object]) -> dict[str, object]:
    kind = _evolved(draw, item["type"])
    if not isinstance(kind, list) and kind != "null" and draw(st.booleans()):
        kind = ["null", kind]
    if draw(st.booleans()):
        return {
            "name": f"{item['name']}_renamed",
            "aliases": [f"never_{item['name']}", str(item["name"])],
            "type": kind,
        }
    return {"name": item["name"], "type": kind}
