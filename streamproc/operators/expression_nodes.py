"""The nodes of a Polars expression as JSON: a string, or a mapping of one kind to what stands below it."""

from __future__ import annotations

import io
import json
from typing import Any, Final

import polars as pl

from streamproc.errors import DefinitionError, NotElementWise
from streamproc.operators.element_wise import FAMILIES

Node = Any

COMPARISONS: Final = frozenset({"Eq", "NotEq", "Lt", "LtEq", "Gt", "GtEq", "EqValidity", "NotEqValidity"})


def nodes_of(expr: pl.Expr, step: str) -> Node:
    """The nodes of an expression; raises NotElementWise where it holds a Python function."""
    if not isinstance(expr, pl.Expr):
        raise DefinitionError(
            f"step '{step}' got {type(expr).__name__}, not a Polars expression",
            hint="write pl.col('amount') > 0, or pl.lit(value)",
        )
    try:
        return json.loads(expr.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, ValueError, TypeError):
        raise NotElementWise(
            f"step '{step}': {one_line(expr)} holds a Python function, which Polars cannot show to the planner",
            hint="write it as an expression, or as | sp.stateless(function)",
        ) from None


def function_name(function: Node) -> str:
    """The name of a serialized function without its options: "Abs", "Boolean.IsNull"."""
    if isinstance(function, str):
        return function
    ((name, rest),) = function.items()
    if name in FAMILIES:
        return f"{name}.{rest if isinstance(rest, str) else next(iter(rest))}"
    return str(name)


def expression_of(node: Node) -> pl.Expr:
    """The expression that begins at a node."""
    return pl.Expr.deserialize(io.StringIO(json.dumps(node)), format="json")


def shown(node: Node) -> str:
    """A node as Polars shows expressions, or its kind where that cannot be had."""
    try:
        return one_line(expression_of(node))
    except (pl.exceptions.PolarsError, ValueError, TypeError):
        return node if isinstance(node, str) else str(next(iter(node)))


def one_line(expr: pl.Expr) -> str:
    """An expression as Polars shows it, in one line of 200 characters at most."""
    text = " ".join(str(expr).split())
    return text if len(text) <= 200 else text[:197] + "..."
