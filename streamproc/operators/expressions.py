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
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.contracts.sensitivity import strictest
from streamproc.errors import NotElementWise, TypeMismatch
from streamproc.operators.evaluation import evaluate
from streamproc.operators.expression_nodes import COMPARISONS, Node, function_name, nodes_of, one_line
from streamproc.operators.expression_walk import OTHER_ROWS, Walk
from streamproc.operators.probe import differs_when_cut, probe_frame

_FAILURES: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def check_elementwise(expr: pl.Expr, schema: Schema, step: str) -> Field:
    """The column that an expression makes: name, type, nullability, unit, and the tags of what it reads.

    Raises NotElementWise for what looks at other rows or could fail on one, naming the part; UnknownColumn;
    TypeMismatch with Polars' reason, or where units do not agree.  Cost 10-20 ms, at plan time only.

    >>> check_elementwise(pl.col("a") * 2, Schema((Field("a", pl.Int64()),)), "with_columns").dtype
    Int64
    """
    return _checked(_Written(json.dumps(nodes_of(expr, step), sort_keys=True), str(expr), expr), schema, step)


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
    walk = Walk(schema, step)
    seen = walk.visit(json.loads(written.nodes))
    try:
        ((name, dtype),) = schema.empty().lazy().select(expr).collect_schema().items()
    except pl.exceptions.PolarsError as error:
        raise TypeMismatch(f"step '{step}' cannot evaluate {one_line(expr)}: {_reason(error)}") from None
    made_null = _probe(expr, schema, seen.columns, step)
    read = [column for column in schema if column.name in seen.columns]
    return Field(
        name, dtype, seen.nullable or made_null, seen.unit,
        pii=strictest(column.pii for column in read),
        origins=frozenset().union(*(column.origins for column in read)), merges=any(column.merges for column in read),
    )  # fmt: skip


def check_predicate(expr: pl.Expr, schema: Schema, step: str) -> Field:
    """Like `check_elementwise`, for what must be true or false: raises TypeMismatch where the type is not Boolean."""
    field = check_elementwise(expr, schema, step)
    if field.dtype != pl.Boolean():
        raise TypeMismatch(
            f"step '{step}' needs true or false, and {one_line(expr)} is {field.dtype}",
            hint="compare it with something",
        )
    return field


def expression_columns(expr: pl.Expr) -> frozenset[str]:
    """Names of the columns that an expression reads.

    >>> sorted(expression_columns(pl.col("a") + pl.col("b").list.eval(pl.element() + 1).list.sum()))
    ['a', 'b']
    """
    return frozenset(name for name in expr.meta.root_names() if name)


@dataclass(frozen=True, slots=True)
class ExpressionUses:
    """The columns that an expression reads: for its value, and to choose between values (`when`).

    as_it_is  it is a column and nothing else, perhaps under another name
    """

    values: frozenset[str]
    conditions: frozenset[str]
    as_it_is: bool


def expression_uses(expr: pl.Expr) -> ExpressionUses:
    """What each column is for that an expression reads; one may be for both.

    >>> read = expression_uses(pl.when(pl.col("a") > 0).then(pl.col("b")).otherwise(pl.col("a")))
    >>> sorted(read.values), sorted(read.conditions), read.as_it_is
    (['a', 'b'], ['a'], False)
    """
    node = nodes_of(expr, "lineage")
    values: set[str] = set()
    conditions: set[str] = set()
    _gather(node, values, conditions)
    while isinstance(node, dict) and "Alias" in node:
        node = node["Alias"][0]
    return ExpressionUses(frozenset(values), frozenset(conditions), isinstance(node, dict) and "Column" in node)


def _gather(node: Node, values: set[str], conditions: set[str]) -> None:
    if isinstance(node, list):
        for part in node:
            _gather(part, values, conditions)
    elif isinstance(node, dict):
        for kind, body in node.items():
            if kind == "Column" and isinstance(body, str):
                values.update({body} - {""})  # Inside `list.eval` the items of a cell have no name.
            elif kind == "Ternary":
                _gather(body["predicate"], conditions, conditions)
                _gather([body["truthy"], body["falsy"]], values, conditions)
            elif kind != "Literal":
                _gather(body, values, conditions)


def canonical_text(expr: pl.Expr) -> str:
    """An expression as text for fingerprints: equal expressions give equal text, on every run.

    It is the serialized form with sorted keys; it can change with Polars' version, which a fingerprint of the
    environment holds too.  Raises DefinitionError for an expression that holds a Python function.

    >>> canonical_text(pl.col("a") > 1)
    '{"BinaryExpr":{"left":{"Column":"a"},"op":"Gt","right":{"Literal":{"Dyn":{"Int":1}}}}}'
    """
    nodes = nodes_of(expr, "fingerprint")
    text = json.dumps(nodes, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # JSON has no NaN and no infinity: Polars writes null for all three, and only its display tells them apart.
    return f"{text} {expr}" if '":null' in text and '"Float' in text else text


def never_null_where_true(expr: pl.Expr) -> frozenset[str]:
    """Columns that cannot be null in a row for which this predicate holds.

    >>> sorted(never_null_where_true(pl.col("a").is_not_null() & (pl.col("b") > 1)))
    ['a', 'b']
    """
    return frozenset(_present(nodes_of(expr, "where")))


def _present(node: Node) -> Iterable[str]:
    if not isinstance(node, dict):
        return
    ((kind, body),) = node.items()
    if kind == "BinaryExpr" and body["op"] in ("And", "LogicalAnd"):
        yield from _present(body["left"])
        yield from _present(body["right"])
    elif kind == "Function" and function_name(body["function"]) == "Boolean.AllHorizontal":
        for part in body["input"]:
            yield from _present(part)
    else:
        parts: list[Node] = []
        if kind == "BinaryExpr" and body["op"] in COMPARISONS - {"EqValidity", "NotEqValidity"}:
            parts = [body["left"], body["right"]]
        elif kind == "Function" and function_name(body["function"]) in ("Boolean.IsNotNull", "Boolean.IsBetween"):
            parts = body["input"][:1]
        yield from (part["Column"] for part in parts if isinstance(part, dict) and isinstance(part.get("Column"), str))


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
            why = f"gives something else when rows come in other batches, because {OTHER_ROWS}"
            raise NotElementWise(f"step '{step}': {one_line(expr)} {why}")
        return bool(compute(frame)["made"].null_count())
    except _FAILURES as error:
        for row in range(frame.height):
            try:
                compute(frame[row : row + 1])
            except _FAILURES as found:
                values = frame.row(row, named=True)
                raise NotElementWise(
                    f"step '{step}': {one_line(expr)} fails on a row such as {values}: {_reason(found)}",
                    hint="one such row would stop the task; strict=False or null_on_oob=True give null instead",
                ) from None
        raise NotElementWise(f"step '{step}': {one_line(expr)} fails on rows together: {_reason(error)}") from None
