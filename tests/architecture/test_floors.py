"""The shape of the code: floors, the facade, documented names, modules that fit on a few pages."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamproc as sp

ROOT = Path(sp.__file__).parent
MOST_LINES = 420
LONGER = {
    "planning/plan.py": "the walk, the cut and the fingerprints read one graph",
    "engine/step.py": "one step from units to blocks, in the order in which it runs",
    "operators/exact.py": "one numeric kernel family: expansions and their rounding",
    "wire/decode.py": "one interpreter loop",
}


def modules() -> Iterator[Path]:
    yield from sorted(ROOT.rglob("*.py"))


def test_imports_go_down_the_floors() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-1_000:]


def test_the_facade_lists_names_that_exist_in_order() -> None:
    assert sp.__all__ == sorted(sp.__all__)
    for name in sp.__all__:
        assert getattr(sp, name).__name__.rpartition(".")[2] == name  # some are modules of their own


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, streamproc; print(sorted({'polars', 'numba', 'numpy', 'pyarrow', 'avro'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in modules()])
def test_a_module_says_what_it_is_and_fits_on_a_few_pages(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path.name} has no docstring"
    lines = text.count("\n")
    assert lines <= MOST_LINES or str(path.relative_to(ROOT)) in LONGER, f"{path.name} has {lines} lines"


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in modules()])
def test_public_classes_and_functions_say_what_they_are(path: Path) -> None:
    public = [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert public == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
    assert {path.stem for path in modules()} & empty == set()


def test_modules_can_be_imported_in_any_order() -> None:
    names = [
        module.name for module in pkgutil.walk_packages(sp.__path__, "streamproc.") if "__main__" not in module.name
    ]
    for name in names:
        importlib.import_module(name)
