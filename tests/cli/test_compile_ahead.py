"""Kernels are compiled before a first run by processes that share the steps, and never twice."""

from __future__ import annotations

import pytest

from connectors.registry import FolderRegistry
from streamproc.cli.compile_ahead import compile_ahead, exercise, shares
from streamproc.cli.workspace import load_topology
from streamproc.planning.plan import Plan
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.workspace import shipped_contracts


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


def test_what_is_compiled_already_begins_nothing(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    exercise(plan, [node for node in plan.nodes if node.inputs and node.operator.verb in ("resolve", "features")])
    compile_ahead("topologies.retail")()
    assert "compiling" not in capsys.readouterr().err
