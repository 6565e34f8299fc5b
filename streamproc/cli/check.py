"""`check` and `describe`: what the plan says, without running anything."""

from __future__ import annotations

from typing import Any, Final

import click

from streamproc.cli.render import counted, put_json, put_table
from streamproc.cli.workspace import load_topology, workspace_options
from streamproc.contracts.derive import avsc_text
from streamproc.contracts.registry import Registry
from streamproc.contracts.sensitivity import LINKING
from streamproc.graph import Source
from streamproc.planning.classes import lowered
from streamproc.planning.plan import Node, Plan
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.freshness import freshness_findings
from streamproc.runtime.placement import source_findings
from streamproc.runtime.trim import declared_audit_us, retention_findings
from streamproc.runtime.workspace import Workspace

_NEWEST: Final = 500
"""Offsets of each partition whose lag `--live` looks at."""


@click.command()
@click.argument("topology")
@click.option(
    "--live",
    is_flag=True,
    help="Also read some hundred of the newest records of each source: can they be read, and do they lie in the "
    "partition of their key, and are they as fresh, as the contract declares?  [default: look at settings only]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def check(topology: str, live: bool, as_json: bool, workspace: Workspace) -> None:
    """Plan TOPOLOGY: names, types, units, keys, contracts. Runs nothing and needs no log.

    Where the log is there, also whether its sources keep their records for as long as a restart and audits need them.
    """
    registry = workspace.registry()
    plan = plan_topology(load_topology(topology), registry)
    findings = _on_log(plan, workspace, registry, live=live)
    derived = [sink for sink in plan.sinks if not sink.declared and not sink.forwards]
    if as_json:
        put_json(
            {
                "ok": not findings,
                "findings": findings,
                "topology": plan.topology.name,
                "version": plan.topology.version,
                "fingerprint": plan.logic,
                "stages": len(plan.stages),
                "steps": len(plan.nodes),
                "derived_contracts": [str(sink.contract) for sink in derived],
            }
        )
    if findings:
        for finding in findings if not as_json else ():
            click.echo(finding)
        raise click.exceptions.Exit(1)
    if as_json:
        return
    click.echo(
        f"{plan.topology.name} version {plan.topology.version} is sound: {counted(len(plan.nodes), 'step')} in "
        f"{counted(len(plan.stages), 'stage')}, fingerprint {plan.logic[:12]}"
    )
    if count := sum(len(lowered(sink)) for sink in plan.sinks):
        which = f"{counted(count, 'column')} of sinks {'is' if count == 1 else 'are'} declared"
        click.echo(f"{which} less sensitive than what made them; `streamproc describe` lists them")
    for sink in derived:
        click.echo(
            f"\nsink '{sink.name}' names no contract; to promise it to readers, commit this as "
            f"schemas_avro/{sink.contract}.avsc and name it with sp.sink(stream, contract=...):"
        )
        click.echo(avsc_text(sink.contract))


def _on_log(plan: Plan, workspace: Workspace, registry: Registry, *, live: bool) -> list[str]:
    declared_audit_us(plan)
    if not live and not workspace.has_log:
        return []
    with workspace.log() as log:
        found = retention_findings(plan, log.topics())
        if live:
            found += source_findings(plan, log, registry) + freshness_findings(plan, log, registry, newest=_NEWEST)
        return found


@click.command()
@click.argument("topology")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def describe(topology: str, as_json: bool, workspace: Workspace) -> None:
    """Show the stages of TOPOLOGY with their steps, schemas, topics and fingerprints."""
    plan = plan_topology(load_topology(topology), workspace.registry())
    described = description(plan)
    if as_json:
        put_json(described)
        return
    about = plan.topology
    click.echo(
        f"{about.name} version {about.version}"
        + (f", owned by {about.owner}" if about.owner else "")
        + (f", for {about.scope}" if about.scope else "")
    )
    if about.doc:
        click.echo(about.doc)
    for stage in described["stages"]:
        rows = [
            (
                step["name"],
                step["kind"],
                ", ".join(step["reads"]),
                ", ".join(step["key"]) if step["key"] is not None else "-",
                "yes" if step["ordered"] else "",
                ", ".join(f"{n}: {t}" for n, t in step["columns"].items()),
            )
            for step in stage["steps"]
        ]
        put_table(
            f"stage {stage['index']}" + (" (one task)" if stage["single"] else ""),
            ("step", "kind", "reads", "key", "ordered", "columns"),
            rows,
        )
    personal = [
        (step["name"], column, sensitivity, step["raised"].get(column, ""))
        for stage in described["stages"]
        for step in stage["steps"]
        for column, sensitivity in step["pii"].items()
    ]
    if personal:
        put_table("personal data", ("step", "column", "sensitivity", "raised here from"), personal)
    lower = [
        (sink["name"], column, told or "-", carried)
        for sink in described["sinks"]
        for column, (told, carried) in sink["lowered"].items()
    ]
    if lower:
        put_table("declared less sensitive than what made them", ("sink", "column", "declared", "made of"), lower)
    put_table(
        "sinks",
        ("sink", "topic", "contract", "how"),
        [
            (
                s["name"],
                s["topic"],
                s["contract"],
                "forwarded" if s["forwards"] else "declared" if s["declared"] else "derived",
            )
            for s in described["sinks"]
        ],
    )


def description(plan: Plan) -> dict[str, Any]:
    """A plan as plain values, for catalogues."""
    return {
        "topology": plan.topology.name,
        "version": plan.topology.version,
        "owner": plan.topology.owner,
        "scope": plan.topology.scope,
        "fingerprint": plan.logic,
        "sources": [
            {
                "topic": node.origin.topic,
                "contract": str(node.contract),
                "event_time": node.origin.event_time,
                "lateness_us": node.origin.lateness_us,
                "reads": sorted(node.columns),
            }
            for node in plan.sources
            if isinstance(node.origin, Source)
        ],
        "stages": [
            {
                "index": stage.index,
                "single": stage.single,
                "steps": [
                    {
                        "name": node.name,
                        "rank": node.rank,
                        "kind": "source" if isinstance(node.origin, Source) else node.origin.verb,
                        "reads": [
                            plan.nodes[rank].name + ("" if port == "rows" else f".{port}") for rank, port in node.inputs
                        ],
                        "key": node.type.keyed_by,
                        "ordered": node.type.ordered,
                        "state": node.state,
                        "logic": node.logic,
                        "columns": {field.name: _type_text(field.dtype) for field in node.type.schema},
                        "pii": {field.name: field.pii for field in node.type.schema if field.pii},
                        "raised": _raised(plan, node),
                    }
                    for node in stage.nodes
                ],
            }
            for stage in plan.stages
        ],
        "sinks": [
            {
                "name": sink.name,
                "topic": sink.topic,
                "contract": str(sink.contract),
                "declared": sink.declared,
                "forwards": sink.forwards,
                "stage": sink.stage,
                "lowered": lowered(sink),
            }
            for sink in plan.sinks
        ],
    }


def _raised(plan: Plan, node: Node) -> dict[str, str]:
    """Columns that are more sensitive below a step than above it, because it links records, and what they were."""
    if isinstance(node.origin, Source) or node.origin.verb not in LINKING:
        return {}
    above = {field.name: field.pii for rank, _ in reversed(node.inputs) for field in plan.nodes[rank].type.schema}
    return {f.name: above[f.name] for f in node.type.schema if f.pii and above.get(f.name, f.pii) != f.pii}


def _type_text(dtype: object) -> str:
    """A column's type as a person writes it."""
    return str(dtype).replace("time_unit='us', time_zone='UTC'", "us, UTC").replace("time_unit='us'", "us")
