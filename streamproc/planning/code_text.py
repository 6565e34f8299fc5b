"""Functions and classes of authors as text: equal if they do the same, in every process and however they are laid out.

A function is its parsed source, so that comments and line breaks do not count, with its defaults, the values that it
closes over, and what it names of its module: constants, functions and classes of the same package. Other libraries
stand under their names only.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import linecache
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any

Text = Callable[[Any], str]


def function_text(function: types.FunctionType, text: Text) -> str:
    """The canonical text of a function; `text` gives that of any value."""
    cells = [_cell(cell, text) for cell in function.__closure__ or ()]
    named = {
        name: text(function.__globals__[name])
        for name in sorted(set(_names(function.__code__)))
        if _belongs(name, function.__globals__.get(name), _package(function))
    }
    defaults = f"{text(function.__defaults__)} {text(function.__kwdefaults__)}"
    return f"function {_source(function)} {defaults} {cells} {named}"


def class_text(kind: type, text: Text) -> str:
    """The canonical text of a class of an author: its methods and constants, and those of its bases in the package."""
    parts = []
    for base in kind.__mro__:
        if _package(base) != _package(kind):
            continue
        for name, value in sorted(vars(base).items()):
            made = name.startswith("__") and (name not in ("__init__", "__call__") or dataclasses.is_dataclass(base))
            if made:
                continue
            match value:
                case types.FunctionType():
                    parts.append(f"{name}={text(value)}")
                case staticmethod() | classmethod():
                    parts.append(f"{name}={text(value.__func__)}")
                case property():
                    parts.append(f"{name}={text(value.fget)}")
                case int() | float() | str() | bytes() | tuple() | frozenset() | list() | dict() | set():
                    parts.append(f"{name}={text(value)}")
    return f"class {kind.__qualname__}({', '.join(parts)})"


def is_an_authors(kind: type) -> bool:
    """Whether an author wrote a class: it is neither the engine's own, which its build speaks for, nor a library's."""
    package = _package(kind)
    if package == "streamproc" or package in sys.stdlib_module_names - {"__main__"}:
        return False
    path = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    return "site-packages" not in path and "dist-packages" not in path


def _package(of: Any) -> str:
    return str(getattr(of, "__module__", None) or "").partition(".")[0]


def _belongs(name: str, value: object, package: str) -> bool:
    """Whether what a function names decides what it does, and may change without the engine or a library changing."""
    match value:
        case types.FunctionType() | type():
            return _package(value) == package
        case int() | float() | str() | bytes() | tuple() | frozenset():
            return True
        case list() | dict() | set():
            return name.isupper()  # Others may be caches, which are filled while it runs.
    return False


def _cell(cell: types.CellType, text: Text) -> str:
    try:
        return text(cell.cell_contents)
    except ValueError:
        return "empty"


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that the code, and code inside it, takes from outside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _source(function: types.FunctionType) -> str:
    if function.__name__ == "<lambda>":
        found = _lambda(function)
        if found is not None:
            return ast.dump(found)
    else:
        try:
            return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(function))))
        except (OSError, TypeError, SyntaxError):
            pass
    return _bytecode(function.__code__)  # Typed-in code has no file.


def _lambda(function: types.FunctionType) -> ast.Lambda | None:
    """The lambda in the parsed file that the function was made of: the innermost one around all of its instructions."""
    lines = linecache.getlines(function.__code__.co_filename, function.__globals__)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return None
    spans = [
        ((first, start), (last, end))
        for first, last, start, end in function.__code__.co_positions()
        if first is not None and last is not None and start is not None and end is not None and (start, end) != (0, 0)
    ]
    best: ast.Lambda | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            opens, closes = _place(node.body)
            if spans and all(opens <= begin and stop <= closes for begin, stop in spans):
                best = node if best is None or _place(best.body)[0] <= opens else best
    return best


def _place(node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    end = (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
    return (node.lineno, node.col_offset), end


def _bytecode(code: types.CodeType) -> str:
    return f"{code.co_code.hex()} {code.co_names!r} [{' '.join(_constant(value) for value in code.co_consts)}]"


def _constant(value: object) -> str:
    match value:
        case types.CodeType():
            return _bytecode(value)
        case frozenset():
            return f"{{{', '.join(sorted(map(repr, value)))}}}"  # The order of a set is another one in each process.
        case tuple():
            return f"({', '.join(map(_constant, value))})"
    return repr(value)
