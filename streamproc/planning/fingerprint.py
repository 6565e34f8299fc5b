"""Fingerprints: what decides whether state and journal of one run belong to another.

A fingerprint hashes a *canonical text*, made from values only: dataclasses field by field, expressions in the engine's
own canonical form, functions and authors' classes by their parsed source (`code_text`). Object addresses, the order of
sets and the seed of Python's hashes never enter.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import re
import types
import uuid
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

import numpy as np
import polars as pl
import xxhash

from streamproc.errors import DefinitionError
from streamproc.graph import Stream
from streamproc.operators.expressions import canonical_text as expression_text
from streamproc.planning.code_text import class_text, function_text, is_an_authors

_PLAIN: Final = (
    datetime.date, datetime.time, datetime.timedelta, datetime.timezone, decimal.Decimal, fractions.Fraction,
    uuid.UUID, PurePath, re.Pattern, range, slice, complex, pl.DataType, pl.Series,
)  # fmt: skip


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
    return _Writer().text(value)


class _Writer:
    """Writes one text; what is being written already stands as its depth, so that values may contain themselves."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def text(self, value: Any) -> str:
        match value:
            case enum.Enum():
                return f"{type(value).__qualname__}.{value.name}"
            case None | bool() | int() | float() | str() | bytes():
                return repr(value)
            case pl.Expr():
                return f"expr {expression_text(value)}"
            case Stream():
                return "stream"  # Inputs have fingerprints of their own.
            case types.ModuleType():
                return f"module {value.__name__}"
            case types.BuiltinFunctionType() | np.ufunc():
                return _named(value)
            case pl.Series():
                return f"series {value.dtype} {value.to_list()!r}"
        if id(value) in self._open:
            return f"again {self._open.index(id(value))}"
        self._open.append(id(value))
        try:
            return self._whole(value)
        finally:
            self._open.pop()

    def _whole(self, value: Any) -> str:
        match value:
            case Mapping():
                pairs = sorted((repr(key), self.text(value[key])) for key in value)
                return "{" + ", ".join(f"{key}: {text}" for key, text in pairs) + "}"
            case frozenset() | set():
                return "{" + ", ".join(sorted(self.text(item) for item in value)) + "}"
            case tuple() | list():
                return "(" + ", ".join(self.text(item) for item in value) + ")"
            case np.ndarray():
                content = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(value).tobytes())
                return f"array {value.dtype} {value.shape} {content}"
            case types.FunctionType():
                return function_text(value, self.text)
            case functools.partial():
                return f"partial {self.text(value.func)} {self.text(value.args)} {self.text(value.keywords)}"
            case types.MethodType():
                return f"method {self.text(value.__func__)} of {self.text(value.__self__)}"
            case type():
                return class_text(value, self.text) if is_an_authors(value) else _named(value)
        return self._object(value)

    def _object(self, value: Any) -> str:
        inner = getattr(value, "py_func", None) or getattr(value, "__wrapped__", None)
        if isinstance(inner, types.FunctionType):
            return f"{type(value).__qualname__} of {self.text(inner)}"  # Compiled by Numba, or remembered by a cache.
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, np.generic):
            return repr(value.item())
        kind = self.text(type(value)) if is_an_authors(type(value)) else type(value).__qualname__
        if dataclasses.is_dataclass(value):
            body = ", ".join(
                f"{f.name}={self.text(getattr(value, f.name))}"
                for f in dataclasses.fields(value)
                if f.metadata.get("fingerprint", True)
            )
            return f"{kind}({body})"
        if hasattr(value, "__dict__") and type(value).__module__ not in ("builtins",):
            return f"{kind}{self.text(vars(value))}"
        raise DefinitionError(
            f"a step holds a {type(value).__name__}, whose value cannot be read",
            hint="pass numbers, text, expressions, functions or dataclasses to a step",
        )


def _named(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"
