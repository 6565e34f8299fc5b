"""Fingerprints: what decides whether state and journal of one run belong to another.

A fingerprint hashes a *canonical text*, made from values only: dataclasses field by field, expressions in the engine's
own
canonical form, functions by their parsed source (so that comments and line breaks do not count) with their defaults
and the
values that they close over. Object addresses never enter.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import xxhash

from streamproc.errors import DefinitionError
from streamproc.graph import Stream
from streamproc.operators.expressions import canonical_text as expression_text


def digest(text: str) -> str:
    """128 bits of a text, in hex.

    >>> digest("a") == digest("a")
    True
    """
    return xxhash.xxh3_128_hexdigest(text.encode())


def canonical_text(value: Any) -> str:
    """A text that is equal for equal values, in every process and on every machine.

    Raises DefinitionError for a value of which nothing but its address is known.

    >>> canonical_text({"b": (1, 2.5), "a": None})
    "{'a': None, 'b': (1, 2.5)}"
    """
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return repr(value)
        case pl.Expr():
            return f"expr {expression_text(value)}"
        case Stream():
            return "stream"  # inputs have fingerprints of their own
        case Mapping():
            return "{" + ", ".join(f"{key!r}: {canonical_text(value[key])}" for key in sorted(value)) + "}"
        case frozenset() | set():
            return "{" + ", ".join(sorted(canonical_text(item) for item in value)) + "}"
        case tuple() | list():
            return "(" + ", ".join(canonical_text(item) for item in value) + ")"
        case np.ndarray():
            return (
                f"array {value.dtype} {value.shape} {xxhash.xxh3_128_hexdigest(np.ascontiguousarray(value).tobytes())}"
            )
        case types.FunctionType():
            return _function_text(value)
        case functools.partial():
            return f"partial {canonical_text(value.func)} {canonical_text(value.args)} {canonical_text(value.keywords)}"
        case types.MethodType():
            return f"method {canonical_text(value.__func__)} of {canonical_text(value.__self__)}"
        case types.BuiltinFunctionType() | type() | np.ufunc():
            return (
                f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"
            )
        case types.ModuleType():
            return f"module {value.__name__}"
    if isinstance(value, pl.DataType):
        return repr(value)
    if dataclasses.is_dataclass(value):
        body = ", ".join(
            f"{f.name}={canonical_text(getattr(value, f.name))}"
            for f in dataclasses.fields(value)
            if f.metadata.get("fingerprint", True)
        )
        return f"{type(value).__qualname__}({body})"
    if hasattr(value, "__dict__") and type(value).__module__ not in ("builtins",):
        return f"{type(value).__qualname__}{canonical_text(vars(value))}"
    if isinstance(value, np.generic):
        return repr(value.item())
    raise DefinitionError(
        f"a step holds a {type(value).__name__}, whose value cannot be read",
        hint="pass numbers, text, expressions, functions or dataclasses to a step",
    )


def _function_text(function: types.FunctionType) -> str:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        source = ast.dump(tree)
    except (OSError, TypeError, SyntaxError):
        # A lambda inside an expression does not parse alone, and typed-in code has no file: its byte code stands for
        # it.
        source = f"{function.__code__.co_code.hex()} {_constants(function.__code__)} {function.__code__.co_names!r}"
    cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    named = function.__code__.co_names
    values = {name: function.__globals__[name] for name in named if _is_plain(function.__globals__.get(name))}
    return f"function {source} {canonical_text(function.__defaults__)} {canonical_text(cells)} {canonical_text(values)}"


def _constants(code: types.CodeType) -> str:
    return " ".join(
        _constants(c) + c.co_code.hex() if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts
    )


def _is_plain(value: object) -> bool:
    """Module-level constants count: a changed threshold is a changed function."""
    return isinstance(value, int | float | str | bytes | tuple | frozenset) and value is not None
