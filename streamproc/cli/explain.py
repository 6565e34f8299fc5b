"""`explain`: why a decision is as it is, from its line in the log, by making it again."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import click
import polars as pl

from streamproc.cli.kernels import compiling
from streamproc.cli.render import progress_bar, put_json, put_table, seconds_text
from streamproc.cli.scores import put_score, score_form
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.decisions.decide import Decide
from streamproc.decisions.decision_log import strays
from streamproc.decisions.explain import Explanation, explain_line, made_again
from streamproc.errors import InputError, StreamprocError, VerificationError
from streamproc.planning.plan import Node, Plan, PlannedSink, type_of
from streamproc.planning.topology import Topology
from streamproc.ports import Log
from streamproc.runtime.binding import bind, plan_topology
from streamproc.runtime.decision_latency import Latencies, decision_latencies
from streamproc.runtime.reading import read_topic
from streamproc.runtime.scored_by import Scored, Unasked, learners_above, scored_by


@click.command(context_settings={"ignore_unknown_options": True})  # half of all ids begin with a minus
@click.argument("topology")
@click.argument("decision", type=int, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def explain(topology: str, decision: int | None, as_json: bool, workspace: Workspace) -> None:
    """Make DECISION (its id) of TOPOLOGY again from the decision log, and say what it rested on.

    Where models scored its row, their recorded steps run again up to it, and what each input added to the score is
    told: exactly for linear models and trees, else as an estimate by permutations. Without DECISION every logged
    decision is made again and the log's hash chain is checked. Exit 1 if anything is not as it was logged.
    """
    value = load_topology(topology)
    plan = plan_topology(value, workspace.registry())
    with workspace.log() as log:
        found = [(sink, node, _lines(log, workspace, sink)) for sink, node in _logs(plan)]
        if not found:
            raise InputError(
                f"'{plan.topology.name}' keeps no decision log", hint='give it a sink: decided.side("log")'
            )
        if decision is None:
            _check_all(plan, found)
            every = [_latencies(plan, log, workspace, sink, node).told() for sink, node, _ in found]
            _tell_all(found, every, as_json=as_json)
            return
        for sink, node, lines in found:
            step: Any = node.operator
            mine = lines.filter(pl.col(step.made[0]) == decision)
            if mine.height:
                schema, line = type_of(plan.nodes, node.inputs[0]).schema, mine.head(1)
                why = explain_line(step, schema, line)
                scored = _scored(value, plan, node, log, workspace, line)
                took = _latencies(plan, log, workspace, sink, node).of(decision)
                _tell(step, line, why, scored, took, as_json=as_json)
                if any(isinstance(one, Unasked) and one.diverged for one in scored):
                    raise click.exceptions.Exit(1)
                return
    raise InputError(f"no log of '{plan.topology.name}' has a decision {decision}")


def _logs(plan: Plan) -> list[tuple[PlannedSink, Node]]:
    """Sinks that hold decision logs, with the steps that decide."""
    return [
        (sink, plan.nodes[sink.port[0]])
        for sink in plan.sinks
        if sink.port[1] == "log" and isinstance(plan.nodes[sink.port[0]].origin, Decide)
    ]


def _lines(log: Log, workspace: Workspace, sink: PlannedSink) -> pl.DataFrame:
    return read_topic(log, workspace.reading_registry(), sink.topic, sink.contract.schema.polars())


def _scored(
    topology: Topology, plan: Plan, node: Node, log: Log, workspace: Workspace, line: pl.DataFrame
) -> list[Scored | Unasked]:
    """What models said of the row; of those that cannot be asked any more the reason."""
    step: Any = node.operator
    learners = learners_above(plan, node)
    if not learners:
        return []
    try:
        binding = bind(topology, log, workspace.registry(), create=False)
    except StreamprocError as problem:  # the decision log alone was kept
        return [Unasked(one.name, problem.message) for one in learners]
    name = f"{binding.names.prefix}.model"
    with compiling(), workspace.checkpoints(log, name) as checkpoints, progress_bar("asking models", None) as update:
        steps = itertools.count(1)
        return list(
            scored_by(
                binding, log, checkpoints, node, line[step.made[0]][0], near=line["_partition"][0],
                on_step=lambda: update(next(steps)),
            )
        )  # fmt: skip


def _check_all(plan: Plan, found: list[tuple[PlannedSink, Node, pl.DataFrame]]) -> None:
    for sink, node, lines in found:
        step: Any = node.operator
        schema = type_of(plan.nodes, node.inputs[0]).schema
        made_again(step, schema, lines)
        broken = strays(step.form(schema), lines)
        if broken:
            line = lines.row(broken[0], named=True)
            raise VerificationError(
                f"the decision log was changed at {sink.topic}-{line['_partition']}@{line['_offset']}, decision "
                f"{line[step.made[0]]}: its hash does not follow from the line before it"
            )


def _latencies(plan: Plan, log: Log, workspace: Workspace, sink: PlannedSink, node: Node) -> Latencies:
    step: Any = node.operator
    return decision_latencies(plan, log, workspace.reading_registry(), node, sink.topic, step.made[0])


def _tell_all(
    found: list[tuple[PlannedSink, Node, pl.DataFrame]], took: list[dict[str, int]], *, as_json: bool
) -> None:
    checked = sum(lines.height for _, _, lines in found)
    if as_json:
        latencies = {sink.topic: told for (sink, _, _), told in zip(found, took, strict=True)}
        put_json({"decisions": checked, "sound": True, "latency": latencies})
        return
    click.echo(f"sound: {checked:,} decisions made again, equal to the log")
    for (sink, _, _), told in zip(found, took, strict=True):
        if told:
            p50, p99, most = (seconds_text(told[name] / 1e6) for name in ("p50_us", "p99_us", "most_us"))
            click.echo(f"{sink.topic}: written p50 {p50}, p99 {p99}, at most {most} after the record decided about")


def _tell(
    step: Decide, line: pl.DataFrame, why: Explanation, scored: list[Scored | Unasked],
    took: Mapping[str, Any] | None, *, as_json: bool,
) -> None:  # fmt: skip
    row = line.row(0, named=True)
    inputs = {name: row[name] for name in step.logged}
    if as_json:
        put_json({
            "decision": why.decision, "rule": why.rule, "inputs": {name: str(value) for name, value in inputs.items()},
            "rules": [{"name": n, "condition": c, "held": h} for n, c, h in why.rules],
            "costs": dict(why.costs), "matters": dict(why.matters),
            "counterfactual": None if why.counterfactual is None else dict(
                zip(("column", "value", "decision"), why.counterfactual, strict=True)
            ),
            "models": [score_form(one, inputs) for one in scored],
            "record": None if took is None else {name: took[name] for name in ("topic", "partition", "offset")},
            "latency_us": None if took is None else took["latency_us"],
        })  # fmt: skip
        return
    click.echo(f"{why.decision}, by {why.rule}; made again: equal")
    if took is not None:
        record = f"{took['topic']}-{took['partition']}@{took['offset']}"
        click.echo(f"written {seconds_text(took['latency_us'] / 1e6)} after {record}, which it is about")
    put_table("inputs", ("column", "value"), [(name, str(value)) for name, value in inputs.items()])
    if why.rules:
        put_table("rules", ("rule", "condition", "held"), [(n, c, "yes" if h else "no") for n, c, h in why.rules])
    if why.costs:
        put_table("expected costs", ("decision", "cost"), [(n, f"{c:.4g}") for n, c in why.costs])
    for name, other in why.matters:
        click.echo(f"without {name}: {other}")
    if why.counterfactual is not None:
        column, value, other = why.counterfactual
        click.echo(f"nearest other decision: {other}, were {column} {_beside(value)}")
    for one in scored:
        put_score(one, inputs)


def _beside(value: float) -> str:
    """A number in few digits; of one that is next to a round one, on which side of it: there a condition turns."""
    short = float(f"{value:.6g}")
    if short == value:
        return f"{value:.6g}"
    if short == float(f"{value:.4g}"):
        return f"just {'below' if value < short else 'above'} {short:.6g}"
    return f"{value:.9g}"
