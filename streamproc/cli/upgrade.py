"""`upgrade` and `rescale`: a new version takes over where an older one was drained, or its partitions changed."""

from __future__ import annotations

import click

from streamproc.cli.fates import rows_read, source_names
from streamproc.cli.kernels import compiling
from streamproc.cli.render import progress_bar, put_json, put_table
from streamproc.cli.workspace import load_topology, workspace_options
from streamproc.errors import InputError
from streamproc.planning.topology import Topology
from streamproc.ports import Log
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.rescale import rescale as change_partitions
from streamproc.runtime.upgrade import TakenOver, older_versions, take_over
from streamproc.runtime.workspace import Workspace

_STATES = {
    "shadow": "with the state of its shadow",
    "reused": "with the state of version {old}",
    "replayed": "with state computed from history, which nobody reads",
}


@click.command()
@click.argument("topology")
@click.option(
    "--from-version",
    "old",
    type=click.IntRange(1),
    help="The version to take over from, which must be drained.  [default: the highest below that ran]",
)
@click.option(
    "--adopt",
    multiple=True,
    metavar="STEP",
    help="Take over the state of STEP although what comes to it is made otherwise; entry 0 of the journal keeps it.  "
    "[default: none]",
)
@click.option("--replay", is_flag=True, help="Compute the state from history even where it could be taken over.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def upgrade(
    topology: str, old: int | None, adopt: tuple[str, ...], replay: bool, as_json: bool, workspace: Workspace
) -> None:
    """Let TOPOLOGY begin where an older version of it was drained, in the same sinks: no row twice, none missing.

    Going back is the same with the old code under a higher version.
    """
    if adopt and replay:
        raise click.UsageError("--adopt takes state over, --replay computes it")
    value = load_topology(topology)
    registry = workspace.registry()
    with workspace.log() as log, compiling():
        plan = plan_topology(value, registry)
        names = source_names(plan)
        old = _older(value, log, topology) if old is None else old
        with (
            progress_bar(f"upgrading {value.name}", None) as update,
            workspace.checkpoints(log, f"{value.name}.v{value.version}.upgrade") as checkpoints,
        ):
            done = take_over(
                value,
                log,
                registry,
                checkpoints,
                old=old,
                adopt=adopt,
                reuse=not replay,
                on_commit=lambda progress: update(rows_read(progress.fates, names)),
            )
        workspace.keep_derived(plan)
    _tell(done, value.name, value.version, as_json=as_json)


@click.command()
@click.argument("topology")
@click.option(
    "--from-version",
    "old",
    type=click.IntRange(1),
    help="The version that ran on the partitions of before.  [default: the highest below that ran]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def rescale(topology: str, old: int | None, as_json: bool, workspace: Workspace) -> None:
    """Let TOPOLOGY, under a new version, go on where an older one stopped because its sources' partitions changed.

    The older version's workers must be gone. It is ended on the partitions that it began with; the new one's state is
    computed from history over the partitions of now, and nobody reads what comes of that.
    """
    value = load_topology(topology)
    registry = workspace.registry()
    with workspace.log() as log, compiling():
        plan = plan_topology(value, registry)
        names = source_names(plan)
        old = _older(value, log, topology) if old is None else old
        with (
            progress_bar(f"rescaling {value.name}", None) as update,
            workspace.checkpoints(log, f"{value.name}.v{value.version}.rescale") as checkpoints,
        ):
            done = change_partitions(
                value, log, registry, checkpoints, old=old,
                on_commit=lambda progress: update(rows_read(progress.fates, names)),
            )  # fmt: skip
        workspace.keep_derived(plan)
    _tell(done, value.name, value.version, as_json=as_json)


def _older(value: Topology, log: Log, topology: str) -> int:
    """The highest version below that ran."""
    older = older_versions(value, log)
    if not older:
        raise InputError(
            f"no version of '{value.name}' below {value.version} ever ran on this log",
            hint=f"begin it with 'streamproc run {topology}'",
        )
    return older[0]


def _tell(done: TakenOver, name: str, version: int, *, as_json: bool) -> None:
    if as_json:
        put_json(
            {
                "topology": name,
                "version": version,
                "from_version": done.old,
                "state": done.state,
                "why_not_reused": list(done.why),
                "offsets": [{"topic": p.topic, "partition": p.partition, "at": o} for p, o in sorted(done.at.items())],
            }
        )
        return
    how = _STATES[done.state].format(old=done.old)
    click.echo(f"{name} version {version} takes over from version {done.old}, {how}")
    for reason in done.why:
        click.echo(f"  state of version {done.old} was not taken over: {reason}")
    put_table(
        "", ("topic", "partition", "old to, new from"), [(*place, offset) for place, offset in sorted(done.at.items())]
    )
    click.echo(f"'streamproc run' of version {version} goes on from there")
