"""Kernels compile fast: once for each type of argument, and without NumPy's rules for slices."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from streamproc.hashing import inlined, tight
from streamproc.ports import Int64s

PACKAGE = Path(__file__).parents[2] / "streamproc"
DECORATORS = {"kernel", "tight", "inlined"}


@inlined
def _scaled(values: Int64s, at: int, by: int, back: bool) -> int:
    return int(-by * values[at] if back else by * values[at])


@tight
def _called(values: Int64s, n: int) -> int:
    return _scaled(values, 0, 3, True) + _scaled(values, 1, 5, False) + _scaled(values, n, n, n > 1)


def test_a_callee_is_compiled_once_whatever_constants_callers_give() -> None:
    for one in (_called, _scaled):
        one._cache.flush()  # type: ignore[attr-defined]  # Of what comes from the disk nobody sees how it was compiled.
    assert _called(np.array([1, 10, 100]), 2) == -3 + 50 - 200
    assert len(_scaled.signatures) == 1  # type: ignore[attr-defined]  # Numba's dispatcher


def test_kernels_set_and_copy_rows_by_loops() -> None:
    """See `streamproc.row_loops`; this line alone takes a second to compile, in each kernel that has it."""
    found = [
        f"{path.relative_to(PACKAGE)}:{line}" for path in sorted(PACKAGE.rglob("*.py"))
        for line in _slices_set(ast.parse(path.read_text("utf-8")))
    ]  # fmt: skip
    assert found == []


def test_such_a_line_is_found() -> None:
    assert list(_slices_set(ast.parse("@tight\ndef f(a, i):\n    a[i, :] = 0\n"))) == [3]
    assert list(_slices_set(ast.parse("@tight\ndef f(a, i):\n    g(a[i:], 0)\n"))) == []


def _slices_set(tree: ast.AST) -> Iterator[int]:
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        if not DECORATORS & {one.id for one in function.decorator_list if isinstance(one, ast.Name)}:
            continue
        for node in ast.walk(function):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                if any(isinstance(part, ast.Slice) for part in ast.walk(target)):
                    yield node.lineno
