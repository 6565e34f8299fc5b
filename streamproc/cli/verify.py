"""`verify`: the log's blocks, and history against the journal."""

from __future__ import annotations

import contextlib

import click

from connectors.embedded import EmbeddedLog
from streamproc.cli.kernels import compiling
from streamproc.cli.render import progress_bar, put_json, put_table
from streamproc.cli.workspace import load_topology, workspace_options
from streamproc.errors import CorruptLog
from streamproc.runtime.binding import bind
from streamproc.runtime.verify import verify as verify_topology
from streamproc.runtime.workspace import Workspace


@click.command()
@click.argument("topology", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def verify(topology: str | None, as_json: bool, workspace: Workspace) -> None:
    """Check every stored block; with TOPOLOGY, also that nothing it read or wrote was lost, doubled or changed.

    Exit 1 for a finding.
    """
    findings: list[tuple[str, str]] = []
    answer: dict[str, object] = {}
    with contextlib.ExitStack() as opened:
        try:
            log = opened.enter_context(workspace.log())
        except CorruptLog as damaged:
            # Here damage is what was looked for.
            _tell(
                [(workspace.log_name, f"{damaged.message}; restore it from a copy")],
                answer,
                topology,
                as_json=as_json,
            )
            return
        if isinstance(log, EmbeddedLog):  # Kafka's brokers keep checksums of their own, and every read checks them.
            findings += [(f"{f.topic}-{f.partition}@{f.start}", f.text) for f in log.check()]
        if topology is not None:
            opened.enter_context(compiling())
            binding = bind(load_topology(topology), log, workspace.registry(), create=False)
            with progress_bar("verifying", None) as update:
                report = verify_topology(binding, log, on_step=update)
            findings += [(finding.place, finding.what) for finding in report.findings]
            answer = {
                "tasks": report.tasks,
                "steps": report.steps,
                "records_read": report.records,
                "rows_written": report.rows,
            }
    _tell(findings, answer, topology, as_json=as_json)


def _tell(findings: list[tuple[str, str]], answer: dict[str, object], topology: str | None, *, as_json: bool) -> None:
    if as_json:
        put_json(
            {**answer, "sound": not findings, "findings": [{"place": place, "what": what} for place, what in findings]}
        )
    elif findings:
        put_table("findings", ("place", "what"), findings)
    elif topology is None:
        click.echo("every stored block is sound")
    else:
        click.echo(
            f"sound: {answer['steps']:,} steps of {answer['tasks']} tasks, {answer['records_read']:,} records read, "
            f"{answer['rows_written']:,} rows written"
        )
    if findings:
        raise click.exceptions.Exit(1)
