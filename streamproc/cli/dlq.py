"""`dlq`: dead letters, counted, shown, and sent again after a fix."""

from __future__ import annotations

import contextlib

import click
import numpy as np
import polars as pl

from streamproc.cli.render import counted, put_json, put_table
from streamproc.cli.workspace import load_topology, load_value, workspace_options
from streamproc.engine.compiled import Names
from streamproc.engine.rejects import REJECTED, row_json
from streamproc.errors import InputError, UnknownTopic
from streamproc.planning.topology import Topology
from streamproc.ports import Log, block_of
from streamproc.runtime.dead_letters import send_again, would_send
from streamproc.runtime.reactions.definition import Reactions
from streamproc.runtime.reading import TopicReader, read_topic
from streamproc.runtime.workspace import Workspace


@click.group()
def dlq() -> None:
    """Dead letters of a topology, or of reactions: records that could not be used, with reason and origin."""


@dlq.command("list")
@click.argument("topology")
@click.option("--late", is_flag=True, help="Late rows.  [default: dead letters]")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.  [default: text]")
@workspace_options
def list_letters(topology: str, late: bool, as_json: bool, workspace: Workspace) -> None:
    """Count the dead letters of TOPOLOGY, or of reactions, by topic, step and reason."""
    with workspace.log() as log:
        frame = _letters(log, workspace, topology, late=late)
    counts = (
        frame.group_by("topic", "step", "reason")
        .len("rows")
        .sort("rows", "topic", "step", "reason", descending=[True, False, False, False])
    )
    if as_json:
        put_json(counts.to_dicts())
    elif counts.is_empty():
        click.echo(f"no {_kind(late)}")
    else:
        put_table("", tuple(counts.columns), counts.rows())


@dlq.command("show")
@click.argument("topology")
@click.option("--late", is_flag=True, help="Late rows.  [default: dead letters]")
@click.option("--reason", default=None, help="Only those with this reason.  [default: all]")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@click.option(
    "--json", "as_json", is_flag=True, help="JSON lines with everything, payload as hexadecimal text.  [default: text]"
)
@workspace_options
def show_letters(
    topology: str, late: bool, reason: str | None, limit: int, as_json: bool, workspace: Workspace
) -> None:
    """Show dead letters of TOPOLOGY, or of reactions: origin, reason, and the row as far as it can be read."""
    with workspace.log() as log:
        frame = _letters(log, workspace, topology, late=late)
        if reason is not None:
            frame = frame.filter(pl.col("reason") == reason)
        frame = frame.head(limit)
        if as_json:
            for line in row_json(frame):
                click.echo(line.decode())
            return
        if frame.is_empty():
            click.echo(f"no {_kind(late)}" + (f" with the reason '{reason}'" if reason is not None else ""))
            return
        reader = TopicReader(workspace.reading_registry())
        rows = [
            (f"{row['topic']}-{row['partition']}@{row['offset']}", row["step"], _why(row), _readable(row, reader))
            for row in frame.to_dicts()
        ]
    put_table("", ("origin", "step", "reason", "row"), rows)


@dlq.command("replay")
@click.argument("topology")
@click.option("--reason", default=None, help="Only those with this reason.  [default: all]")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.  [default: send]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def replay_letters(topology: str, reason: str | None, dry_run: bool, as_json: bool, workspace: Workspace) -> None:
    """Send dead letters of TOPOLOGY to their source topics again, each exactly once, with key and payload as they came.

    What was sent is remembered in the same transaction: a second call sends only what came since. Rows that were made
    inside the topology have no record to send and are counted as skipped. A new version of the topology reads all of
    history by itself and needs no replay.
    """
    name = _owner(topology)
    if isinstance(name, Reactions):
        raise InputError(
            f"the topics that reactions '{name.name}' act on have other readers, who would see the records twice",
            hint=f"'streamproc react {topology} --dead-letters' gives them to the handlers alone",
        )
    with workspace.log() as log:
        letters, reader = _topic(log, topology, late=False), TopicReader(workspace.reading_registry())
        deed = would_send if dry_run else send_again
        answer = deed(log, letters, f"{name.name}.dlq.replay", reader, reason=reason)
    if as_json:
        put_json({"sent": dict(answer.sent), "skipped": answer.skipped, "dry_run": dry_run})
    else:
        click.echo(
            f"{'would send' if dry_run else 'sent'} {counted(answer.records, 'record')} again"
            + (f", {answer.skipped:,} skipped: no record of theirs is left" if answer.skipped else "")
        )
        if answer.sent:
            put_table("", ("topic", "records"), sorted(answer.sent.items()))


def _why(row: dict[str, object]) -> str:
    """The reason, with what a reaction says besides."""
    if "detail" not in row:
        return str(row["reason"])
    return f"{row['reason']}: {row['detail']} ({counted(int(str(row['attempts'])), 'attempt')})"


def _kind(late: bool) -> str:
    return "late rows" if late else "dead letters"


def _topic(log: Log, named: str, *, late: bool) -> str:
    value = _owner(named)
    if isinstance(value, Reactions):
        if late:
            raise click.UsageError(f"reactions have no late rows, and '{named}' names some")
        topic, never, way = value.dead_letters, f"reactions '{value.name}'", "react"
    else:
        names = Names(value.name, value.version)
        topic = names.late if late else names.dead_letters
        never, way = f"topology '{value.name}' version {value.version}", "run"
    if topic not in log.topics():
        raise UnknownTopic(f"{never} never ran on this log", hint=f"run it first: 'streamproc {way} {named}'")
    return topic


def _owner(named: str) -> Topology | Reactions:
    """The topology or the reactions of that name; the errors are those of a topology."""
    try:
        return load_topology(named)
    except InputError:
        with contextlib.suppress(InputError):
            return load_value(named, Reactions, "reactions", "")
        raise


def _letters(log: Log, workspace: Workspace, topology: str, *, late: bool) -> pl.DataFrame:
    return read_topic(log, workspace.reading_registry(), _topic(log, topology, late=late), REJECTED.schema.polars())


def _readable(row: dict[str, object], reader: TopicReader) -> str:
    payload = row["payload"]
    if not isinstance(payload, bytes):
        return ""
    if row["encoding"] == "json":
        return payload.decode(errors="replace")
    block = block_of("t", 0, [payload])
    stamped = type(block)(
        block.topic,
        0,
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
        block.buffer,
        block.value_starts,
        block.value_ends,
        block.key_starts,
        block.key_ends,
    )
    for frame in reader.frames(stamped):
        if frame.height:
            return row_json(frame.drop("_partition", "_offset"))[0].decode()
    return payload[:48].hex()
