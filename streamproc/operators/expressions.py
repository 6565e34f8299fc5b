"""Checks of Polars expressions at plan time: element-wise, on known columns, of fitting types and units.

A row's value must not depend on other rows, because how rows come together in a batch is chance. Polars' own
`is_row_separable` does not suffice (it holds for `a - a.mean()`). So the nodes of the serialized expression are walked:
each must be of a known kind, each function on the allow-list of `element_wise`, and single values only literals. As a
last net the expression is run on a frame of awkward values, whole and in pieces: it must give the same, and must not
fail.

Exponentials, logarithms and trigonometry are allowed. Their last bits differ between processors' math libraries, which
is why fingerprints carry the environment and digests decide.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, NotElementWise, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.operators.element_wise import CONSTANT_ARGUMENTS, FAMILIES, FUNCTIONS, WITHIN_A_CELL
from streamproc.operators.evaluation import evaluate
from streamproc.operators.probe import differs_when_cut, probe_frame

Node = Any  # JSON: a string or a mapping with one key

_COMPARISONS: Final = frozenset({"Eq", "NotEq", "Lt", "LtEq", "Gt", "GtEq", "EqValidity", "NotEqValidity"})
_SAME_UNIT: Final = _COMPARISONS | {"Plus", "Minus"}
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
_FAILURES: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
_OTHER_ROWS: Final = "its value for a row depends on other rows"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A part of an expression: the columns it reads, whether it can be null, its unit, and if it is a constant."""

    columns: frozenset[str] = frozenset()
    nullable: bool = False
    unit: str = ""
    constant: bool = False


def check_elementwise(expr: pl.Expr, schema: Schema, step: str) -> Field:
    """The column that an expression makes: name, type, nullability, unit, and the tags of what it reads.

    Raises NotElementWise for what looks at other rows or could fail on one, naming the part; UnknownColumn;
    TypeMismatch with Polars' reason, or where units do not agree.  Cost 10-20 ms, at plan time only.

    >>> check_elementwise(pl.col("a") * 2, Schema((Field("a", pl.Int64()),)), "with_columns").dtype
    Int64
    """
    return _checked(_Written(json.dumps(_nodes(expr, step), sort_keys=True), str(expr), expr), schema, step)


@dataclass(frozen=True, slots=True)
class _Written:
    """An expression with its text, by which equal ones are known (`==` of expressions makes an expression)."""

    nodes: str
    shown: str
    expr: pl.Expr = field(compare=False)


@functools.lru_cache(maxsize=1024)
def _checked(written: _Written, schema: Schema, step: str) -> Field:
    """The work of `check_elementwise`, once for each expression: a plan asks for types many times."""
    expr = written.expr
    walk = _Walk(schema, step)
    seen = walk.visit(json.loads(written.nodes))
    try:
        ((name, dtype),) = schema.empty().lazy().select(expr).collect_schema().items()
    except pl.exceptions.PolarsError as error:
        raise TypeMismatch(f"step '{step}' cannot evaluate {_one_line(expr)}: {_reason(error)}") from None
    made_null = _probe(expr, schema, seen.columns, step)
    read = [column for column in schema if column.name in seen.columns]
    tags = sorted({column.pii for column in read if column.pii})
    return Field(
        name, dtype, seen.nullable or made_null, seen.unit,
        pii=tags[0] if tags else "",  # "direct" sorts before every other tag
        origins=frozenset().union(*(column.origins for column in read)),
    )  # fmt: skip


def check_predicate(expr: pl.Expr, schema: Schema, step: str) -> Field:
    """Like `check_elementwise`, for what must be true or false: raises TypeMismatch where the type is not Boolean."""
    field = check_elementwise(expr, schema, step)
    if field.dtype != pl.Boolean():
        raise TypeMismatch(
            f"step '{step}' needs true or false, and {_one_line(expr)} is {field.dtype}",
            hint="compare it with something",
        )
    return field


def expression_columns(expr: pl.Expr) -> frozenset[str]:
    """Names of the columns that an expression reads.

    >>> sorted(expression_columns(pl.col("a") + pl.col("b").list.eval(pl.element() + 1).list.sum()))
    ['a', 'b']
    """
    return frozenset(name for name in expr.meta.root_names() if name)


def canonical_text(expr: pl.Expr) -> str:
    """An expression as text for fingerprints: equal expressions give equal text, on every run.

    It is the serialized form with sorted keys; it can change with Polars' version, which a fingerprint of the
    environment holds too.  Raises DefinitionError for an expression that holds a Python function.

    >>> canonical_text(pl.col("a") > 1)
    '{"BinaryExpr":{"left":{"Column":"a"},"op":"Gt","right":{"Literal":{"Dyn":{"Int":1}}}}}'
    """
    nodes = _nodes(expr, "fingerprint")
    text = json.dumps(nodes, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # JSON has no NaN and no infinity: Polars writes null for all three, and only its display tells them apart.
    return f"{text} {expr}" if '":null' in text and '"Float' in text else text


def never_null_where_true(expr: pl.Expr) -> frozenset[str]:
    """Columns that cannot be null in a row for which this predicate holds.

    >>> sorted(never_null_where_true(pl.col("a").is_not_null() & (pl.col("b") > 1)))
    ['a', 'b']
    """
    return frozenset(_present(_nodes(expr, "where")))


def _present(node: Node) -> Iterable[str]:
    if not isinstance(node, dict):
        return
    ((kind, body),) = node.items()
    if kind == "BinaryExpr" and body["op"] in ("And", "LogicalAnd"):
        yield from _present(body["left"])
        yield from _present(body["right"])
    elif kind == "Function" and _function_name(body["function"]) == "Boolean.AllHorizontal":
        for part in body["input"]:
            yield from _present(part)
    else:
        parts: list[Node] = []
        if kind == "BinaryExpr" and body["op"] in _COMPARISONS - {"EqValidity", "NotEqValidity"}:
            parts = [body["left"], body["right"]]
        elif kind == "Function" and _function_name(body["function"]) in ("Boolean.IsNotNull", "Boolean.IsBetween"):
            parts = body["input"][:1]
        yield from (part["Column"] for part in parts if isinstance(part, dict) and isinstance(part.get("Column"), str))


def _nodes(expr: pl.Expr, step: str) -> Node:
    if not isinstance(expr, pl.Expr):
        raise DefinitionError(
            f"step '{step}' got {type(expr).__name__}, not a Polars expression",
            hint="write pl.col('amount') > 0, or pl.lit(value)",
        )
    try:
        return json.loads(expr.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, ValueError, TypeError):
        raise NotElementWise(
            f"step '{step}': {_one_line(expr)} holds a Python function, which Polars cannot show to the planner",
            hint="write it as an expression, or as | sp.stateless(function)",
        ) from None


def _function_name(function: Node) -> str:
    """ "Abs", "Boolean.IsNull": the name of a serialized function without its options."""
    if isinstance(function, str):
        return function
    ((name, rest),) = function.items()
    if name in FAMILIES:
        return f"{name}.{rest if isinstance(rest, str) else next(iter(rest))}"
    return str(name)


class _Walk:
    """Goes through the nodes of one expression over one schema and refuses what does not belong."""

    __slots__ = ("schema", "step")

    def __init__(self, schema: Schema, step: str) -> None:
        self.schema = schema
        self.step = step

    def visit(self, node: Node, *, cell: bool = False) -> _Seen:
        """`cell` holds inside `list.eval`, where a column is the items of one cell."""
        if isinstance(node, str):
            if cell and node in ("Element", "Len"):
                return _Seen(nullable=True)
            raise self.refused(node, "a count of rows depends on the batch" if node == "Len" else _OTHER_ROWS)
        ((kind, body),) = node.items()
        match kind:
            case "Column":
                return _Seen(nullable=True) if cell and body == "" else self.column(body)
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
                return _Seen(nullable=True)
            case "Selector":
                raise self.refused(
                    node, "what a selector picks changes with the contract", "name the columns one by one"
                )
            case "RenameAlias":
                raise self.refused(node, "the name is made by a function", "name the column with .alias('...')")
            case "Agg" | "Sort" | "SortBy" | "Filter" | "Slice" | "Gather" if cell:
                return self.join(node, [self.visit(part, cell=True) for part in _children(body)], nullable=True)
        raise self.refused(node, _OTHER_ROWS)

    def column(self, name: str) -> _Seen:
        if name not in self.schema:
            raise UnknownColumn(f"step '{self.step}' reads '{name}'", hint=did_you_mean(name, self.schema.names))
        field = self.schema[name]
        return _Seen(frozenset((name,)), field.nullable, field.unit)

    def literal(self, node: Node, value: Node) -> _Seen:
        if isinstance(value, dict) and not {"Series", "Range"} & value.keys():
            return _Seen(nullable=value == {"Scalar": {"Null": "Null"}}, constant=True)
        raise self.refused(node, "a whole column as a literal has its own length", "use pl.lit of one value")

    def cast(self, node: Node, body: Node, cell: bool) -> _Seen:
        inner = self.visit(body["expr"], cell=cell)
        if "Categorical" in json.dumps(body["dtype"]):
            raise self.refused(
                node, "codes of a categorical depend on the rows before", "cast to pl.Enum([...]) or pl.String"
            )
        return self.join(node, [inner], nullable=inner.nullable or body["options"] != "Strict", meet=[inner], unit=True)

    def binary(self, node: Node, body: Node, cell: bool) -> _Seen:
        op, parts = body["op"], [self.visit(body[side], cell=cell) for side in ("left", "right")]
        nullable = any(part.nullable for part in parts) and op not in ("EqValidity", "NotEqValidity")
        return self.join(
            node,
            parts,
            nullable=nullable or op in _NULL_ON_ZERO,
            meet=parts if op in _SAME_UNIT else (),
            unit=op in ("Plus", "Minus"),
        )

    def function(self, node: Node, body: Node, cell: bool) -> _Seen:
        name = _function_name(body["function"])
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
            raise self.refused(node, _OTHER_ROWS)
        if name == "ListExpr.Sample":
            raise self.refused(node, "it does not give the same on every run")
        parts = []
        for place, part in enumerate(body["input"]):
            collection = not cell and place >= CONSTANT_ARGUMENTS.get(name, len(body["input"]))
            parts.append(_Seen(constant=True) if collection and self.is_collection(node, name, place, part)
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
            dtype = self.schema.empty().lazy().select(_expression(part)).collect_schema().dtypes()[0]
            if isinstance(dtype, pl.List | pl.Array):
                return False
        if not seen.constant:
            raise self.refused(node, "it looks through a whole column", "give the values as a Python list")
        return False

    def join(
        self, node: Node, parts: Sequence[_Seen], *, nullable: bool, meet: Sequence[_Seen] = (), unit: bool = False
    ) -> _Seen:
        """Parts as one: those that `meet` must not have two units, and give theirs on if `unit`."""
        units = sorted({part.unit for part in meet if part.unit})
        if len(units) > 1:
            raise TypeMismatch(
                f"step '{self.step}' brings {' and '.join(units)} together in {_shown(node)}",
                hint="bring both to one unit in a column of its own first",
            )
        bare = any(not part.unit and not part.constant for part in meet)
        return _Seen(
            frozenset().union(*(part.columns for part in parts)),
            nullable,
            units[0] if unit and units and not bare else "",
            all(part.constant for part in parts),
        )

    def refused(self, node: Node, why: str, hint: str = "") -> NotElementWise:
        return NotElementWise(
            f"step '{self.step}': {_shown(node)} is not allowed, because {why}",
            hint=hint
            or "a window, lookback or join gives values of other rows; sp.stateless takes a function of frames",
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


def _expression(node: Node) -> pl.Expr:
    return pl.Expr.deserialize(io.StringIO(json.dumps(node)), format="json")


def _shown(node: Node) -> str:
    """A node as Polars shows expressions, or its kind where that cannot be had."""
    try:
        return _one_line(_expression(node))
    except (pl.exceptions.PolarsError, ValueError, TypeError):
        return node if isinstance(node, str) else str(next(iter(node)))


def _one_line(expr: pl.Expr) -> str:
    text = " ".join(str(expr).split())
    return text if len(text) <= 200 else text[:197] + "..."


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _probe(expr: pl.Expr, schema: Schema, columns: frozenset[str], step: str) -> bool:
    """Runs the expression on awkward rows and says whether a null comes out.

    Raises NotElementWise if it fails on one, or if cutting shows.
    """
    frame = probe_frame(Schema(tuple(column for column in schema if column.name in columns)))
    if not frame.width:
        return False

    def compute(part: pl.DataFrame) -> pl.DataFrame:
        return evaluate(part, [("made", expr)], part.height).select("made")

    try:
        if differs_when_cut(compute, frame):
            why = f"gives something else when rows come in other batches, because {_OTHER_ROWS}"
            raise NotElementWise(f"step '{step}': {_one_line(expr)} {why}")
        return bool(compute(frame)["made"].null_count())
    except _FAILURES as error:
        for row in range(frame.height):
            try:
                compute(frame[row : row + 1])
            except _FAILURES as found:
                values = frame.row(row, named=True)
                raise NotElementWise(
                    f"step '{step}': {_one_line(expr)} fails on a row such as {values}: {_reason(found)}",
                    hint="one such row would stop the task; strict=False or null_on_oob=True give null instead",
                ) from None
        raise NotElementWise(f"step '{step}': {_one_line(expr)} fails on rows together: {_reason(error)}") from None
