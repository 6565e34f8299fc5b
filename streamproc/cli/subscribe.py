"""`subscribe`: a topic's rows as JSON lines."""

from __future__ import annotations

import sys

import click
import numpy as np
import polars as pl

from connectors.embedded import EmbeddedLog
from streamproc.cli.render import counted
from streamproc.cli.stopping import Stopped, stopping
from streamproc.cli.topics import visible
from streamproc.cli.workspace import Workspace, workspace_options
from streamproc.engine.rejects import row_json
from streamproc.errors import InputError, UnknownTopic, did_you_mean
from streamproc.event_time import instant_us
from streamproc.ports import Block, Producer, TopicPartition
from streamproc.runtime.reading import TopicReader


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
    with workspace.log() as log:
        settings = log.topics().get(topic)
        if settings is None:
            raise UnknownTopic(f"the log has no topic '{topic}'", hint=did_you_mean(topic, visible(log.topics())))
        places = [TopicPartition(topic, p) for p in range(settings.partitions)]
        committed = log.committed(f"subscribe.{group}") if group is not None else {}
        at = {
            place: committed[place]
            if start is None and place in committed
            else _offset(log, place, start or "earliest")
            for place in places
        }
        ends = None if follow else {place: _offset(log, place, until or "latest") for place in places}
        producer = log.producer(f"subscribe.{group}.{topic}") if group is not None else None
        with stopping(lambda: None) as stopped:
            _print(log, workspace, at, ends, group, producer, limit, stopped)


def _print(
    log: EmbeddedLog,
    workspace: Workspace,
    at: dict[TopicPartition, int],
    ends: dict[TopicPartition, int] | None,
    group: str | None,
    producer: Producer | None,
    limit: int | None,
    stopped: Stopped,
) -> None:
    reader = TopicReader(workspace.reading_registry())
    left = limit
    while not stopped.asked:
        before = dict(at)
        for place, begin in before.items():
            end = log.end_offset(place) if ends is None else min(ends[place], log.end_offset(place))
            if begin >= end or left == 0:
                continue
            block = log.read(
                place,
                begin,
                max_records=min(4096, end - begin) if left is None else min(4096, end - begin, left),
            )
            rows = _lines(block, reader)
            for line in rows:
                sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
            if left is not None:
                left -= len(block)
            at[place] = int(block.offsets[-1]) + 1
        if at != before and producer is not None and group is not None:
            # The rows are out before their place is remembered: a crash between repeats them, and loses none.
            transaction = producer.begin()
            transaction.commit_offsets(f"subscribe.{group}", at)
            transaction.commit()
        if left == 0:
            return
        if at == before:
            if ends is not None:
                return
            log.wait(at, 200_000)


def _lines(block: Block, reader: TopicReader) -> list[bytes]:
    read = 0
    lines: list[bytes] = []
    for frame in reader.frames(block):
        read += frame.height
        lines += row_json(frame.select(pl.col("_partition", "_offset"), pl.exclude("_partition", "_offset")))
    if read < len(block):
        first = int(block.offsets[0])
        click.echo(
            f"{counted(len(block) - read, 'record')} of {block.topic}-{block.partition} from offset {first} on: "
            "no rows of a known contract",
            err=True,
        )
    return lines


def _offset(log: EmbeddedLog, place: TopicPartition, text: str) -> int:
    start, end = log.start_offset(place), log.end_offset(place)
    if text == "earliest":
        return start
    if text == "latest":
        return end
    if text.lstrip("-").isdigit():
        if int(text) < 0:
            raise InputError(f"offset {text} is below zero", hint="offsets count from 0")
        return int(np.clip(int(text), start, end))
    return log.offset_at(place, instant_us(text))
