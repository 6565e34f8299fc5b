"""`run`: one worker, or several processes of them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys

import click
import orjson

from streamproc.cli.fates import Counts, fates_in, of_sources, put_fates, read_so_far
from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, progress_bar, put_json, put_table, seconds_text, watched
from streamproc.cli.stopping import stopping
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.ports import Log
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.first_start import begin, refuse_begun
from streamproc.runtime.offsets import offsets_at, source_places
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Progress, Worker


@click.command()
@click.argument("topology")
@click.option(
    "--until-end",
    is_flag=True,
    help="Stop when everything that is in the sources now has been read.  [default: run until stopped]",
)
@click.option(
    "--close",
    is_flag=True,
    help="With --until-end: end time: open windows are released, later rows are late.  [default: leave them open]",
)
@click.option(
    "--from",
    "begin_at",
    metavar="WHERE",
    help="Of a first start: earliest, latest, a moment (2026-11-01T09:30:00Z, as records are stamped), or offsets of "
    "all partitions (payments:0=120,payments:1=99).  [default: earliest]",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the tasks."
)
@click.option("--member", default="", help="The worker's name in its group.  [default: host and number]")
@click.option(
    "--no-create", is_flag=True, help="Only check that the topics exist.  [default: create those that it writes]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.  [default: text]")
@workspace_options
def run(
    topology: str,
    until_end: bool,
    close: bool,
    begin_at: str | None,
    workers: int,
    member: str,
    no_create: bool,
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Run TOPOLOGY on the log. Ctrl-C or SIGTERM stop it after the current commit; the next run goes on there."""
    if close and not until_end:
        raise click.UsageError("--close needs --until-end: a live run never ends time")
    if member and workers > 1:
        raise click.UsageError("--member names one worker; with --workers each gets a number")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    with workspace.log() as log:
        with compiling():
            binding = bind(load_topology(topology), log, workspace.registry(), create=not no_create)
            workspace.keep_derived(binding.plan)
            if begin_at is not None:
                refuse_begun(binding, log)
                starts = offsets_at(log, source_places(binding.plan, log), begin_at)
                begin(binding, log, starts, heads={n: {"from": begin_at} for n in range(binding.task_count)})
            before = of_sources(fates_in(binding, log), binding.plan)
            if workers > 1:
                flags = [
                    flag
                    for flag, on in (("--until-end", until_end), ("--close", close), ("--no-create", no_create))
                    if on
                ]
                progress, stopped, code = _processes(workers, topology, [*flags, *workspace.options])
            else:
                progress, stopped = _work(
                    binding, log, workspace, member or f"{socket.gethostname()}-0", until_end=until_end, close=close
                )
                code = 0
        _report(binding, log, before, progress, as_json=as_json)
        if stopped:
            done, there = read_so_far(binding, log)
            click.echo(
                f"stopped after a commit: {done:,} of {counted(there, 'record')} of its sources are read; "
                f"'streamproc run {topology}' goes on there",
                err=True,
            )
            # A live run ends only so; a run that should have read everything has not.
            code = code or (130 if until_end else 0)
    raise click.exceptions.Exit(code)


def _work(
    binding: Binding, log: Log, workspace: Workspace, member: str, *, until_end: bool, close: bool
) -> tuple[Progress, bool]:
    ends = source_ends(binding, log) if until_end else None
    done, _ = read_so_far(binding, log)
    total = None if ends is None else sum(ends.values()) - done
    with progress_bar(f"running {binding.names.topology}", total) as update:
        worker = Worker(
            binding,
            log,
            checkpoints=workspace.checkpoints(),
            member=member,
            until_end=ends,
            close=close,
            on_commit=(lambda _: update(read_so_far(binding, log)[0] - done)) if watched() else None,
        )
        with stopping(worker.stop) as stopped:
            progress = worker.run()
    return progress, stopped.asked


def _report(binding: Binding, log: Log, before: dict[str, Counts], progress: Progress, *, as_json: bool) -> None:
    """What a run did."""
    everything = fates_in(binding, log)
    sources = of_sources(everything, binding.plan)
    rows = sum(row["in"] for row in sources.values()) - sum(row["in"] for row in before.values())
    rate = rows / progress.seconds if progress.seconds else 0.0
    name = f"{binding.names.topology} version {binding.names.version}"
    if as_json:
        put_json(
            {
                "topology": binding.names.topology,
                "version": binding.names.version,
                "rows": rows,
                "steps": progress.steps,
                "seconds": round(progress.seconds, 3),
                "rows_per_second": round(rate),
                "restored_steps": progress.restored_steps,
                "written": progress.written,
                "sources": sources,
                "inputs": everything,
            }
        )
        return
    if not progress.steps:
        click.echo(f"{name}: nothing new to read")
    elif not rows:
        click.echo(f"{name}: no new rows, what still waited was taken on in {counted(progress.steps, 'step')}")
    else:
        click.echo(
            f"{name}: {counted(rows, 'row')} read in {seconds_text(progress.seconds)}, {rate:,.0f} rows/s, "
            f"{counted(progress.steps, 'step')}"
        )
    if progress.restored_steps:
        click.echo(f"restored first: {counted(progress.restored_steps, 'recorded step')} run again")
    if everything:
        put_fates("\nrows by fate since the topology's beginning (in = all others added)", everything)
    written = sorted((topic, rows) for topic, rows in progress.written.items() if ".edge." not in topic)
    if written:
        put_table("written by this run", ("topic", "rows"), written)


def _processes(workers: int, topology: str, flags: list[str]) -> tuple[Progress, bool, int]:
    """Starts the workers as processes of their own and waits; gives what they did together, and the worst exit code."""
    command = [sys.executable, "-m", "streamproc", "run", topology, "--json", *flags]
    children = [
        subprocess.Popen(
            [*command, "--member", f"{socket.gethostname()}-{number}"],
            stdout=subprocess.PIPE,
            env=os.environ,
        )
        for number in range(workers)
    ]

    def pass_on() -> None:
        for child in children:
            child.send_signal(signal.SIGTERM)

    together = Progress()
    with stopping(pass_on) as stopped:
        answers = [child.communicate()[0] for child in children]
    for answer in answers:
        if not answer.strip():
            continue
        did = orjson.loads(answer)
        together.steps += did["steps"]
        together.seconds = max(together.seconds, did["seconds"])
        together.restored_steps += did["restored_steps"]
        for topic, rows in did["written"].items():
            together.written[topic] = together.written.get(topic, 0) + rows
    codes = [child.returncode for child in children if child.returncode not in (0, 130)]
    return together, stopped.asked, max((2 if code == 2 else 1 for code in codes), default=0)
