"""A walk through an expression that refuses every part whose value for a row could depend on other rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from streamproc.contracts.model import Schema
from streamproc.errors import NotElementWise, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.operators.element_wise import CONSTANT_ARGUMENTS, FUNCTIONS, WITHIN_A_CELL
from streamproc.operators.expression_nodes import COMPARISONS, Node, expression_of, function_name, shown

OTHER_ROWS: Final = "its value for a row depends on other rows"
_SAME_UNIT: Final = COMPARISONS | {"Plus", "Minus"}
_NULL_ON_ZERO: Final = frozenset({"Divide", "TrueDivide", "FloorDivide", "Modulus"})
_UNIT_MEETS: Final = frozenset(
    {
        "FillNull",
        "Coalesce",
        "Clip",
        "MinHorizontal",
        "MaxHorizontal",
        "SumHorizontal",
        "MeanHorizontal",
        "Boolean.IsBetween",
    }
)
_UNIT_STAYS: Final = _UNIT_MEETS - {"Boolean.IsBetween"} | {
    "Abs",
    "Negate",
    "Round",
    "RoundSF",
    "Floor",
    "Ceil",
    "Truncate",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A part of an expression: the columns it reads, whether it can be null, its unit, and if it is a constant."""

    columns: frozenset[str] = frozenset()
    nullable: bool = False
    unit: str = ""
    constant: bool = False


class Walk:
    """Goes through the nodes of one expression over one schema and refuses what does not belong."""

    __slots__ = ("schema", "step")

    def __init__(self, schema: Schema, step: str) -> None:
        self.schema = schema
        self.step = step

    def visit(self, node: Node, *, cell: bool = False) -> Seen:
        """`cell` holds inside `list.eval`, where a column is the items of one cell."""
        if isinstance(node, str):
            if cell and node in ("Element", "Len"):
                return Seen(nullable=True)
            raise self.refused(node, "a count of rows depends on the batch" if node == "Len" else OTHER_ROWS)
        ((kind, body),) = node.items()
        match kind:
            case "Column":
                return Seen(nullable=True) if cell and body == "" else self.column(body)
            case "Literal":
                return self.literal(node, body)
            case "Alias":
                return self.visit(body[0], cell=cell)
            case "KeepName":
                return self.visit(body, cell=cell)
            case "Cast":
                return self.cast(node, body, cell)
            case "BinaryExpr":
                return self.binary(node, body, cell)
            case "Ternary":
                test = self.visit(body["predicate"], cell=cell)
                branches = [self.visit(body[branch], cell=cell) for branch in ("truthy", "falsy")]
                return self.join(
                    node, [test, *branches], nullable=any(b.nullable for b in branches), meet=branches, unit=True
                )
            case "Function":
                return self.function(node, body, cell)
            case "Eval":
                outside, inside = self.visit(body["expr"], cell=cell), self.visit(body["evaluation"], cell=True)
                return self.join(node, [outside, inside], nullable=True)
            case "StructEval":
                parts = [
                    self.visit(body["expr"], cell=cell),
                    *(self.visit(part, cell=cell) for part in body["evaluation"]),
                ]
                return self.join(node, parts, nullable=True)
            case "Field":
                return Seen(nullable=True)
            case "Selector":
                raise self.refused(
                    node, "what a selector picks changes with the contract", "name the columns one by one"
                )
            case "RenameAlias":
                raise self.refused(node, "the name is made by a function", "name the column with .alias('...')")
            case "Agg" | "Sort" | "SortBy" | "Filter" | "Slice" | "Gather" if cell:
                return self.join(node, [self.visit(part, cell=True) for part in _children(body)], nullable=True)
        raise self.refused(node, OTHER_ROWS)

    def column(self, name: str) -> Seen:
        if name not in self.schema:
            raise UnknownColumn(f"step '{self.step}' reads '{name}'", hint=did_you_mean(name, self.schema.names))
        field = self.schema[name]
        return Seen(frozenset((name,)), field.nullable, field.unit)

    def literal(self, node: Node, value: Node) -> Seen:
        if isinstance(value, dict) and not {"Series", "Range"} & value.keys():
            scalar = value.get("Scalar")  # {"Null": type} is a null of that type: pl.lit(None, pl.String)
            return Seen(nullable=isinstance(scalar, dict) and "Null" in scalar, constant=True)
        raise self.refused(node, "a whole column as a literal has its own length", "use pl.lit of one value")

    def cast(self, node: Node, body: Node, cell: bool) -> Seen:
        inner = self.visit(body["expr"], cell=cell)
        if "Categorical" in json.dumps(body["dtype"]):
            raise self.refused(
                node, "codes of a categorical depend on the rows before", "cast to pl.Enum([...]) or pl.String"
            )
        return self.join(node, [inner], nullable=inner.nullable or body["options"] != "Strict", meet=[inner], unit=True)

    def binary(self, node: Node, body: Node, cell: bool) -> Seen:
        op, parts = body["op"], [self.visit(body[side], cell=cell) for side in ("left", "right")]
        nullable = any(part.nullable for part in parts) and op not in ("EqValidity", "NotEqValidity")
        return self.join(
            node,
            parts,
            nullable=nullable or op in _NULL_ON_ZERO,
            meet=parts if op in _SAME_UNIT else (),
            unit=op in ("Plus", "Minus"),
        )

    def function(self, node: Node, body: Node, cell: bool) -> Seen:
        name = function_name(body["function"])
        nulls = FUNCTIONS.get(name)
        if nulls is None and (not cell or name in WITHIN_A_CELL):
            if "Anonymous" in name or "Python" in name:
                raise self.refused(
                    node, "it runs a Python function", "write it as an expression, or as | sp.stateless(function)"
                )
            if name in ("Random", "Hash") or name.endswith(".Sample"):
                raise self.refused(node, "it does not give the same on every run")
            if name.startswith(("ListExpr", "StructExpr", "StringExpr", "TemporalExpr", "Categorical", "Extension")):
                raise self.refused(node, "it is not known to be element-wise")
            raise self.refused(node, OTHER_ROWS)
        if name == "ListExpr.Sample":
            raise self.refused(node, "it does not give the same on every run")
        parts = []
        for place, part in enumerate(body["input"]):
            collection = not cell and place >= CONSTANT_ARGUMENTS.get(name, len(body["input"]))
            parts.append(Seen(constant=True) if collection and self.is_collection(node, name, place, part)
                         else self.visit(part, cell=cell))  # fmt: skip
        nullable = {
            "never": False,
            "keeps": any(part.nullable for part in parts),
            "first": all(part.nullable for part in parts),
        }.get(nulls or "makes", True)
        meet = parts if name in _UNIT_MEETS | _UNIT_STAYS else ()
        return self.join(node, parts, nullable=nullable, meet=meet, unit=name in _UNIT_STAYS)

    def is_collection(self, node: Node, name: str, place: int, part: Node) -> bool:
        """Whether an argument is a literal collection; refuses a column, unless it holds a list for each row."""
        if isinstance(part, dict) and "Literal" in part:
            return True
        if name == "ReplaceStrict" and place == 3:
            return False  # the default, one a row
        seen = self.visit(part)
        if not seen.constant and name == "Boolean.IsIn":
            dtype = self.schema.empty().lazy().select(expression_of(part)).collect_schema().dtypes()[0]
            if isinstance(dtype, pl.List | pl.Array):
                return False
        if not seen.constant:
            raise self.refused(node, "it looks through a whole column", "give the values as a Python list")
        return False

    def join(
        self, node: Node, parts: Sequence[Seen], *, nullable: bool, meet: Sequence[Seen] = (), unit: bool = False
    ) -> Seen:
        """Parts as one: those that `meet` must not have two units, and give theirs on if `unit`."""
        units = sorted({part.unit for part in meet if part.unit})
        if len(units) > 1:
            raise TypeMismatch(
                f"step '{self.step}' brings {' and '.join(units)} together in {shown(node)}",
                hint="bring both to one unit in a column of its own first",
            )
        bare = any(not part.unit and not part.constant for part in meet)
        return Seen(
            frozenset().union(*(part.columns for part in parts)),
            nullable,
            units[0] if unit and units and not bare else "",
            all(part.constant for part in parts),
        )

    def refused(self, node: Node, why: str, hint: str = "") -> NotElementWise:
        return NotElementWise(
            f"step '{self.step}': {shown(node)} is not allowed, because {why}",
            hint=hint
            or "a window, features or a join give values of other rows; sp.stateless takes a function of frames",
        )


def _children(body: Node) -> list[Node]:
    """Nodes right below a node of a kind that only `list.eval` may hold."""
    if isinstance(body, str):
        return [body]
    if isinstance(body, list):
        return [child for part in body for child in _children(part)]
    if not isinstance(body, dict):
        return []
    if len(body) == 1 and next(iter(body)) in (
        "Column",
        "Literal",
        "BinaryExpr",
        "Function",
        "Cast",
        "Ternary",
        "Agg",
        "Alias",
    ):
        return [body]
    return [child for key, part in body.items() if key in _NODES_AT for child in _children(part)]


_NODES_AT: Final = frozenset(
    {"input", "expr", "by", "idx", "offset", "length", "Sum", "Mean", "Min", "Max", "First", "Last", "NUnique", "Count",
     "Median", "Item", "Any", "All", "Product", "Std", "Var", "Quantile", "FirstNonNull", "LastNonNull"}
)  # fmt: skip
