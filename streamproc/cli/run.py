"""`run`: one worker, or several processes of them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys

import click

from streamproc.cli.render import FATES, fates_by_source, progress_bar, put_json, put_table
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.planning.topology import Topology
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Progress, Worker


@click.command()
@click.argument("topology")
@click.option("--until-end", is_flag=True, help="Stop when everything that is in the sources now has been read.")
@click.option(
    "--close",
    is_flag=True,
    help="With --until-end: end time too, so that open windows are released. The version is finished then.",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the tasks."
)
@click.option("--member", default="", help="The worker's name in its group.  [default: host and number]")
@click.option("--no-create", is_flag=True, help="Only check that the topics exist.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.")
@workspace_options
def run(
    topology: str,
    until_end: bool,
    close: bool,
    workers: int,
    member: str,
    no_create: bool,
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Run TOPOLOGY on the log until stopped. Ctrl-C or SIGTERM stop after the current commit; the next run goes on there."""
    if close and not until_end:
        raise click.UsageError("--close needs --until-end: a live run never ends time")
    if workers > 1:
        sys.exit(_processes(workers, topology, workspace, until_end=until_end, close=close, no_create=no_create))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    with workspace.log() as log:
        binding = bind(load_topology(topology), log, workspace.registry(), create=not no_create)
        ends = source_ends(binding, log) if until_end else None
        done = log.committed(binding.names.group(0))
        total = None if ends is None else sum(end - done.get(place, 0) for place, end in ends.items())
        with progress_bar(f"running {binding.names.topology}", total) as update:
            worker = Worker(
                binding,
                log,
                checkpoints=workspace.checkpoints(),
                member=member or f"{socket.gethostname()}-0",
                until_end=ends,
                close=close,
                on_commit=lambda progress: update(progress.units),
            )
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, lambda *_: worker.stop())
            progress = worker.run()
    report(binding.plan.topology, [node.name for node in binding.plan.sources], progress, as_json=as_json)


def report(topology: Topology, sources: list[str], progress: Progress, *, as_json: bool) -> None:
    """What a run did."""
    by_source = fates_by_source(progress.fates, sources)
    rate = progress.units / progress.seconds if progress.seconds else 0.0
    if as_json:
        put_json(
            {
                "topology": topology.name,
                "version": topology.version,
                "units": progress.units,
                "steps": progress.steps,
                "seconds": round(progress.seconds, 3),
                "rows_per_second": round(rate),
                "restored_steps": progress.restored_steps,
                "written": progress.written,
                "sources": by_source,
            }
        )
        return
    click.echo(
        f"{topology.name}: {progress.units:,} rows in {progress.steps:,} steps, {rate:,.0f} rows/s"
        + (f", {progress.restored_steps:,} recorded steps run again first" if progress.restored_steps else "")
    )
    if by_source:
        put_table(
            "rows by fate, since the topology's beginning",
            ("source", *FATES),
            [(name, *(row[fate] for fate in FATES)) for name, row in by_source.items()],
        )
    if progress.written:
        put_table("written", ("topic", "rows"), sorted(progress.written.items()))


def _processes(
    workers: int, topology: str, workspace: Workspace, *, until_end: bool, close: bool, no_create: bool
) -> int:
    """Starts the workers as processes of their own and waits; a signal reaches all of them."""
    flags = [flag for flag, on in (("--until-end", until_end), ("--close", close), ("--no-create", no_create)) if on]
    if not no_create:
        with workspace.log() as log:
            bind(load_topology(topology), log, workspace.registry())
    command = [sys.executable, "-m", "streamproc", "run", topology, *flags, *workspace.options]
    children = [
        subprocess.Popen([*command, "--member", f"{socket.gethostname()}-{number}"], env=os.environ)
        for number in range(workers)
    ]

    def pass_on(number: int, _: object) -> None:
        for child in children:
            child.send_signal(number)

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, pass_on)
    codes = [child.wait() for child in children]
    return max((2 if code == 2 else 1 for code in codes if code), default=0)
