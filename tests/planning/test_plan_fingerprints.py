"""A fingerprint changes with what a step does, and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numba
import polars as pl
import pytest

from streamproc.errors import DefinitionError
from streamproc.planning.fingerprint import canonical_text

PRELUDE = "import polars as pl\nfrom functools import lru_cache\n"


def function(tmp_path: Path, source: str, name: str = "f") -> Any:
    """What a file of this source calls `name`."""
    path = tmp_path / f"authors_{abs(hash(source))}.py"
    path.write_text(PRELUDE + source)
    scope: dict[str, Any] = {"__name__": "authors"}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    return scope[name]


DIFFERENT = {
    "body": ("def f(x): return x + 1", "def f(x): return x + 2"),
    "default": ("def f(x, y=1): return x", "def f(x, y=2): return x"),
    "keyword default": ("def f(x, *, y=1): return x", "def f(x, *, y=2): return x"),
    "constant": ("LIMIT = 1\ndef f(x): return x + LIMIT", "LIMIT = 2\ndef f(x): return x + LIMIT"),
    "constant table": ("TABLE = {'a': 1}\ndef f(x): return TABLE[x]", "TABLE = {'a': 2}\ndef f(x): return TABLE[x]"),
    "constant in a lambda": (
        "LIMIT = 1\ndef f(x): return map(lambda y: y + LIMIT, x)",
        "LIMIT = 2\ndef f(x): return map(lambda y: y + LIMIT, x)",
    ),
    "function that it calls": (
        "def g(x): return x\ndef f(x): return g(x)",
        "def g(x): return -x\ndef f(x): return g(x)",
    ),
    "closure": (
        "def make(n):\n    def g(x): return x + n\n    return g\nf = make(1)",
        "def make(n):\n    def g(x): return x + n\n    return g\nf = make(2)",
    ),
    "lambdas of one line": ("f, g = lambda x: x + 1, lambda x: x + 2", "g, f = lambda x: x + 1, lambda x: x + 2"),
    "method of an operator": (
        "class A:\n    def process(self, x): return x\nf = A()",
        "class A:\n    def process(self, x): return -x\nf = A()",
    ),
    "constant of an operator": (
        "class A:\n    limit = 1\n    def process(self, x): return x\nf = A()",
        "class A:\n    limit = 2\n    def process(self, x): return x\nf = A()",
    ),
    "cached function": ("@lru_cache\ndef f(x): return x", "@lru_cache\ndef f(x): return -x"),
}


@pytest.mark.parametrize("what", sorted(DIFFERENT))
def test_a_change_of_what_a_function_does_changes_its_text(what: str, tmp_path: Path) -> None:
    one, other = (canonical_text(function(tmp_path, source)) for source in DIFFERENT[what])
    assert one != other
    assert one == canonical_text(function(tmp_path, DIFFERENT[what][0]))


@pytest.mark.parametrize(
    "other",
    [
        "# a comment\ndef f(x):\n    # another one\n    return (x +\n        1)",
        "OTHER = 3\ndef h(x): return OTHER\ndef f(x):\n\n    return x + 1",
    ],
)
def test_comments_line_breaks_and_unrelated_code_do_not_count(other: str, tmp_path: Path) -> None:
    assert canonical_text(function(tmp_path, "def f(x): return x + 1")) == canonical_text(function(tmp_path, other))


def test_a_lambda_in_the_middle_of_a_pipe_is_known_by_its_own_text(tmp_path: Path) -> None:
    pipe = "steps = [1,\n    lambda x: x + 1,\n    {}]\nf = steps[1]"
    one, other = (function(tmp_path, pipe.format(end)) for end in ("2", "3"))
    assert canonical_text(one) == canonical_text(other)


def test_a_function_may_call_itself_and_close_over_itself(tmp_path: Path) -> None:
    source = "def make():\n    def g(x): return g(x - 1) if x else f\n    return g\nf = make()"
    assert canonical_text(function(tmp_path, source)) == canonical_text(function(tmp_path, source))


@dataclass(frozen=True)
class Limits:
    span: timedelta
    names: frozenset[str]


def test_values_of_authors_have_texts() -> None:
    limits = Limits(timedelta(hours=1), frozenset({"b", "a"}))
    assert canonical_text(limits) == canonical_text(Limits(timedelta(hours=1), frozenset({"a", "b"})))
    assert canonical_text(limits) != canonical_text(Limits(timedelta(hours=2), frozenset({"a", "b"})))
    assert canonical_text({1: "a", "b": 2}) == canonical_text({"b": 2, 1: "a"})
    assert canonical_text(pl.Series([1])) != canonical_text(pl.Series([2]))


def test_a_compiled_function_is_known_by_its_python() -> None:
    def plain(x: int) -> int:
        return x + 1

    compile_it: Callable[..., Any] = numba.njit
    assert "0x" not in canonical_text(compile_it(plain))
    assert canonical_text(plain) in canonical_text(compile_it(plain))


def test_a_value_without_content_is_refused() -> None:
    with pytest.raises(DefinitionError, match="cannot be read"):
        canonical_text(object())


PROGRAM = """
import polars as pl
import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.runtime.binding import plan_topology

C = parse_contract('''{"type": "record", "name": "c", "sp:version": 1, "fields": [
    {"name": "k", "type": "string"}, {"name": "v", "type": "long"}, {"name": "at", "type": "long",
    "sp:role": "event_time"}]}''')
WORDS = frozenset({"alpha", "beta", "gamma", "delta"})


class Rule:
    words = {"x", "y", "z"}

    def schema(self, rows):
        return rows

    def open(self):
        return {}

    def process(self, state, frame):
        return state, frame.select(c for c in frame.columns if c in {"k", "v", "at"} or c in WORDS)


def doubled(frame):
    return pl.DataFrame({"w": [v in {1, 2, 3} for v in frame["v"]]}, schema={"w": pl.Boolean})


rows = sp.source("c", contract=C) | sp.where(pl.col("k").is_in(sorted(WORDS))) | sp.stateless(doubled, reads=("v",))
out = rows | sp.custom(Rule()) | sp.stateless(lambda f: pl.DataFrame({"z": [w in {"a", "b"} for w in f["k"]]},
    schema={"z": pl.Boolean}), reads=("k",)) | sp.key_by("k") | sp.tumbling("1s", n=sp.count())
print(plan_topology(sp.Topology("t", sinks={"o": out}), MemoryRegistry([C])).logic)
"""


def test_fingerprints_are_the_same_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    said = {
        subprocess.run(
            [sys.executable, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "77")
    }  # fmt: skip
    assert len(said) == 1 and len(said.pop().strip()) == 32
