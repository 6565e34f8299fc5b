"""Kernels compile fast: once for each type of argument, and without NumPy's rules for slices."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core import event, types
from numba.core.compiler import Flags
from numba.core.registry import cpu_target

from streamproc.kernel_typing import Given, KnownOperations, settled
from streamproc.kernels import inlined, polished, tight
from streamproc.ports import Int64s

PACKAGE = Path(__file__).parents[2] / "streamproc"
DECORATORS = {"kernel", "tight", "inlined", "polished"}


@inlined
def _scaled(values: Int64s, at: int, by: int, back: bool) -> int:
    return int(-by * values[at] if back else by * values[at])


@tight
def _called(values: Int64s, n: int) -> int:
    return _scaled(values, 0, 3, True) + _scaled(values, 1, 5, False) + _scaled(values, n, n, n > 1)


@tight
def _twice(values: Int64s, n: int) -> int:
    return _called(values, n) + _scaled(values, 0, n, False)


@polished
def _thrice(values: Int64s, n: int) -> int:
    return _called(values, n) + _twice(values, n)


def _compiled_while(work: Callable[[], object]) -> list[str]:
    """Names of the functions that Numba compiles meanwhile, in the order in which it begins with them."""
    recorder: Any = event.install_recorder
    with recorder("numba:compile") as seen:
        work()
    begun = [one.data["dispatcher"].py_func for _, one in seen.buffer if one.is_start]
    return [function.__name__ for function in begun if function.__module__ == __name__]  # Numba has kernels of its own.


def test_a_callee_is_compiled_once_whatever_constants_callers_give() -> None:
    for one in (_called, _twice):
        one._cache.flush()  # type: ignore[attr-defined]  # Of what comes from the disk nobody sees how it was compiled.
    values = np.array([1, 10, 100])
    assert _compiled_while(lambda: _called(values, 2)) == ["_called", "_scaled"]
    assert _called(values, 2) == -3 + 50 - 200
    # As a part of another kernel it is translated anew, for it is kept as machine code; its own callee is not.
    assert _compiled_while(lambda: _twice(values, 2)) == ["_twice", "_called"]
    assert _twice(values, 2) == -3 + 50 - 200 + 2


def test_numba_is_asked_what_an_operation_is_once_for_the_same_types_and_settings() -> None:
    class Asked:
        def __init__(self) -> None:
            self.times = 0

        def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
            self.times += 1
            return context.resolve_function_type(func, args, kws)

    context: Any = cpu_target.typing_context
    context.refresh()
    plus, whole, asked = context.resolve_value_type(operator.add), types.int16, Asked()
    other = Flags()
    other.nrt = True
    for flags in (Flags(), Flags(), other, other):
        settings = Given(flags).copy()
        assert settings is settled(flags)
        found = KnownOperations(asked, settings).resolve_function_type(plus, (whole, whole), {})
        assert found.return_type == types.int64
    assert asked.times == 2
    text: Any = types.unicode_type
    for _ in range(2):
        assert KnownOperations(asked, settled(other)).resolve_function_type(plus, (text, text), {}).return_type == text
    assert asked.times == 4


def test_settings_that_are_known_by_their_hash_cannot_be_changed() -> None:
    settings = settled(Flags())
    with pytest.raises(TypeError):
        settings.nrt = True
    changed = settings.copy()
    changed.nrt = True
    assert changed != settings and settings == Flags()


def test_a_kernel_comes_from_the_disk_with_all_its_parts() -> None:
    values = np.array([1, 10, 100])
    _twice(values, 2)
    again: Any = tight(_twice.py_func)  # type: ignore[attr-defined]  # Numba's dispatcher
    assert _compiled_while(lambda: again(values, 2)) == []
    assert again(values, 2) == _twice(values, 2)


def test_callees_of_a_polished_kernel_are_compiled_for_themselves_as_numba_does_it() -> None:
    values = np.array([1, 10, 100])
    for one in (_thrice, _twice, _called, _scaled):
        one._cache.flush()  # type: ignore[attr-defined]  # as above
    assert _compiled_while(lambda: _thrice(values, 2))[0] == "_thrice"
    assert _thrice(values, 2) == _called(values, 2) + _twice(values, 2)
    assert len(_twice.signatures) == 1  # type: ignore[attr-defined]  # Python could call what was compiled
    again: Any = polished(_thrice.py_func)  # type: ignore[attr-defined]  # Numba's dispatcher
    assert _compiled_while(lambda: again(values, 2)) == []
    assert again(values, 2) == _thrice(values, 2)


def test_python_may_call_what_is_a_part_of_kernels_too() -> None:
    assert _scaled(np.array([4, 5]), 1, 3, True) == -15


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
