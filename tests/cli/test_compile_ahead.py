"""Kernels are compiled before a first run by processes that share the steps, and never twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from connectors.registry import FolderRegistry
from streamproc.cli.compile_ahead import compile_ahead, exercise, shares
from streamproc.cli.workspace import load_topology
from streamproc.planning.plan import Plan
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.workspace import shipped_contracts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_topology(load_topology("topologies.retail"), FolderRegistry((shipped_contracts(),)))


def test_each_step_is_in_one_share_and_no_share_has_both_slow_kernels(plan: Plan) -> None:
    steps = [node for node in plan.nodes if node.inputs]
    made = shares(steps, 2)
    assert sorted(node.rank for share in made for node in share) == [node.rank for node in steps]
    verbs = [{node.operator.verb for node in share} for share in made]
    assert verbs[0].isdisjoint(verbs[1])
    assert {"resolve", "features"} & verbs[0] != {"resolve", "features"} & verbs[1]


def test_every_step_of_the_story_takes_a_made_up_row(plan: Plan) -> None:
    assert exercise(plan, [node for node in plan.nodes if node.inputs]) == []


SMALL_RUN = """
from connectors.registry import FolderRegistry
from streamproc.cli.compile_engine import compile_engine
from streamproc.engine.intake import _source_units
from streamproc.engine.leaving import _moved
from streamproc.engine.timeline import choose_runs, place_rows, run_time
from streamproc.key_order import _sort
from streamproc.runtime.workspace import shipped_contracts
kernels = [choose_runs, run_time, place_rows, _source_units, _moved, _sort]
assert not any(one.overloads for one in kernels)
compile_engine(FolderRegistry((shipped_contracts(),)))
print([one.__name__ for one in kernels if not one.overloads])
"""


def test_a_small_run_compiles_what_the_engine_needs_for_any_topology() -> None:
    """In a process of its own: in this one other tests may have used kernels before."""
    done = subprocess.run([sys.executable, "-c", SMALL_RUN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_what_is_compiled_already_begins_nothing(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    exercise(plan, [node for node in plan.nodes if node.inputs and node.operator.verb in ("resolve", "features")])
    compile_ahead("topologies.retail")()
    assert "compiling" not in capsys.readouterr().err
