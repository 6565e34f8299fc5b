"""`subscribe`: a topic's rows as JSON lines."""

from __future__ import annotations

import sys

import click
import polars as pl

from streamproc.cli.stopping import stopping
from streamproc.cli.workspace import workspace_options
from streamproc.engine.rejects import row_json
from streamproc.ports import Block
from streamproc.runtime.reading import TopicReader, left_out
from streamproc.runtime.subscribing import Subscription
from streamproc.runtime.workspace import Workspace


@click.command()
@click.argument("topic")
@click.option(
    "--from",
    "start",
    default=None,
    metavar="PLACE",
    help="earliest, latest, an offset, or a moment of record time.  [default: the group's place, else earliest]",
)
@click.option(
    "--until",
    default=None,
    metavar="PLACE",
    help="latest, an offset, or a moment of record time.  [default: latest, what is there now]",
)
@click.option("--follow", is_flag=True, help="Go on when the end is reached, until stopped.  [default: stop there]")
@click.option(
    "--group",
    default=None,
    metavar="NAME",
    help="Remember the place under this name, and go on there next time.  [default: forget it]",
)
@click.option("--limit", type=click.IntRange(1), default=None, help="Stop after so many rows.  [default: all]")
@workspace_options
def subscribe(
    topic: str,
    start: str | None,
    until: str | None,
    follow: bool,
    group: str | None,
    limit: int | None,
    workspace: Workspace,
) -> None:
    """Print the rows of TOPIC as JSON lines, with _partition and _offset; stderr tells of records without contract."""
    if follow and until is not None:
        raise click.UsageError("--follow never ends, --until does: use one of them")
    registry = workspace.reading_registry()
    with (
        workspace.log() as log,
        Subscription(topic, log, registry, group=group, start=start, until=until, follow=follow, limit=limit) as rows,
        stopping(rows.stop),
    ):
        reader = TopicReader(registry)
        for block in rows.blocks():
            for line in _lines(block, reader):
                sys.stdout.buffer.write(line + b"\n")
            # The rows are out before their place is remembered: a crash between repeats them, and loses none.
            sys.stdout.buffer.flush()


def _lines(block: Block, reader: TopicReader) -> list[bytes]:
    read = 0
    lines: list[bytes] = []
    for frame in reader.frames(block):
        read += frame.height
        lines += row_json(frame.select(pl.col("_partition", "_offset"), pl.exclude("_partition", "_offset")))
    if said := left_out(block, read):
        click.echo(said, err=True)
    return lines
