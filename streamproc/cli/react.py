"""`react`: handlers with side effects on topics of decisions and alerts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import sys

import click

from streamproc.cli.render import counted, put_json, put_table
from streamproc.cli.stopping import stopping
from streamproc.cli.workspace import load_value, workspace_options
from streamproc.event_time import span_text, span_us
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.reactions.definition import Reactions
from streamproc.runtime.reactions.log_feed import LogFeed
from streamproc.runtime.reactions.log_thread import LogThread
from streamproc.runtime.reactions.plane import Deeds, Feed, ReactionPlane
from streamproc.runtime.subscribing import offset_of
from streamproc.runtime.workspace import Workspace


@click.command()
@click.argument("reactions")
@click.option(
    "--until-end",
    is_flag=True,
    help="Stop when everything that is in the topics now is dealt with.  [default: react until stopped]",
)
@click.option(
    "--from",
    "start",
    default="earliest",
    show_default=True,
    metavar="PLACE",
    help="Where reactions begin that never ran on this log: earliest, latest, an offset, or a moment of record time.",
)
@click.option(
    "--drain",
    default=None,
    metavar="SPAN",
    help="How long a stop waits for handlers that are under way.  [default: what the reactions say, 10s]",
)
@click.option(
    "--dead-letters",
    is_flag=True,
    help="Give their dead letters to the handlers again, each once, and stop.  [default: new events]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.  [default: text on stderr]")
@workspace_options
def react(
    reactions: str,
    until_end: bool,
    start: str,
    drain: str | None,
    dead_letters: bool,
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Run the handlers of REACTIONS, module:name or path/to/file.py:name; several processes share the partitions.

    What is delivered is recorded, and the next run goes on behind it. Ctrl-C or SIGTERM stop it: handlers that are
    under way are waited for, then cut off; their events are delivered again, with the same id, by the next run. With
    --until-end the exit code is 1 where there were dead letters.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    named = load_value(reactions, Reactions, "reactions", 'name = sp.Reactions("name", handlers={"topic": handler})')
    if drain is not None:
        named = dataclasses.replace(named, drain=drain)
    until_end = until_end or dead_letters
    deeds, stopped = asyncio.run(_react(named, workspace, until_end=until_end, start=start, again=dead_letters))
    _report(named, deeds, as_json=as_json)
    if stopped and until_end:
        raise click.exceptions.Exit(130)
    if until_end and deeds.dead_lettered:
        raise click.exceptions.Exit(1)


async def _react(
    reactions: Reactions, workspace: Workspace, *, until_end: bool, start: str, again: bool
) -> tuple[Deeds, bool]:
    def first(log: Log, place: TopicPartition) -> int:
        return offset_of(log, place, start)

    loop = asyncio.get_running_loop()
    async with LogThread(workspace.log) as log:
        plane = ReactionPlane(reactions, log, workspace.reading_registry(), first=first, again=again)
        feed: Feed
        if workspace.kafka is not None:
            from connectors.faust import FaustFeed

            feed = FaustFeed(workspace.kafka.connection(), plane.group, plane.topics, ask=log)
        else:
            feed = LogFeed(log, plane.group, plane.topics, f"{socket.gethostname()}-{os.getpid()}")

        def ask() -> None:
            loop.call_soon_threadsafe(plane.stop)

        with stopping(ask) as stopped:
            deeds = await plane.run(feed, until_end=until_end)
    return deeds, stopped.asked


def _report(reactions: Reactions, deeds: Deeds, *, as_json: bool) -> None:
    """What was done; on stderr, because a handler may write to stdout."""
    if as_json:
        put_json({"reactions": reactions.name, **dataclasses.asdict(deeds)})
        return
    with contextlib.redirect_stdout(sys.stderr):
        click.echo(
            f"{reactions.name}: {counted(deeds.delivered, 'event')} delivered, "
            f"{deeds.dead_lettered:,} dead-lettered, {counted(deeds.retries, 'attempt')} more than the first"
        )
        if deeds.cut_off:
            click.echo(
                f"{counted(deeds.cut_off, 'handler')} cut off after {span_text(span_us(reactions.drain))}: "
                "the events are delivered again by the next run, with the same id"
            )
        if deeds.dead_lettered:
            click.echo(f"what failed is in '{reactions.dead_letters}': 'streamproc dlq show' shows it")
        if len(deeds.topics) > 1:
            put_table("", ("topic", "events"), sorted(deeds.topics.items()))
