"""`why`: the source records behind one record of a sink."""

from __future__ import annotations

import click

from streamproc.cli.kernels import compiling
from streamproc.cli.render import put_json, put_table
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.ports import TopicPartition
from streamproc.runtime.binding import bind
from streamproc.runtime.made_by import decoded
from streamproc.runtime.why import Why
from streamproc.runtime.why import why as explained


@click.command()
@click.argument("topology")
@click.argument("topic")
@click.argument("partition", type=click.IntRange(min=0))
@click.argument("offset", type=click.IntRange(min=0))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def why(topology: str, topic: str, partition: int, offset: int, as_json: bool, workspace: Workspace) -> None:
    """Name the source records behind one record that TOPOLOGY wrote, and the columns that each had a part in.

    The recorded steps run again without one record after the other: those without which the row would be missing, or
    another, are named. Each column has its version, as `streamproc lineage` tells it. Nothing is written.
    """
    value = load_topology(topology)
    with workspace.log() as log, compiling():
        binding = bind(value, log, workspace.registry(), create=False)
        answer = explained(binding, log, TopicPartition(topic, partition), offset)
        records = [decoded(binding, log, TopicPartition(c.topic, c.partition), c.offset) for c in answer.contributors]
    if as_json:
        put_json(
            {
                "row": dict(answer.row),
                "task": answer.task,
                "step": answer.step,
                "logic": answer.logic,
                "versions": dict(answer.versions),
                "contributors": [
                    {"topic": c.topic, "partition": c.partition, "offset": c.offset, "columns": c.columns, "record": r}
                    for c, r in zip(answer.contributors, records, strict=True)
                ],
                "shared": answer.shared,
                "by_blocks": answer.by_blocks,
            }
        )
        return
    click.echo(f"{topic}-{partition}@{offset}, made by step {answer.step} of {answer.task} (logic {answer.logic[:12]})")
    click.echo("  " + ", ".join(f"{name}={shown}" for name, shown in answer.row.items()))
    click.echo("  versions " + ", ".join(f"{name}={version}" for name, version in answer.versions.items()))
    put_table(
        "without one of these it would not be so",
        ("record", "has a part in", "it says"),
        [
            (
                f"{c.topic}-{c.partition}@{c.offset}",
                _columns(answer, c.columns),
                ", ".join(f"{name}={shown}" for name, shown in (record or {}).items()),
            )
            for c, record in zip(answer.contributors, records, strict=True)
        ],
    )
    if answer.shared:
        click.echo(f"nothing is attributed to {', '.join(answer.shared)}: rows of other keys shape it too")
    if answer.by_blocks:
        click.echo("so many rows share the key that two which cancel each other out may be missing")


def _columns(answer: Why, columns: tuple[str, ...]) -> str:
    return "all of it" if len(columns) == len(answer.row) - len(answer.shared) else ", ".join(columns)
