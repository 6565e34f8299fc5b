"""`pause`, `resume` and `drain`: what an operator asks of all workers of a topology, over its control topic."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, put_json, put_table, seconds_text
from streamproc.cli.workspace import load_topology, workspace_options
from streamproc.engine.compiled import Names
from streamproc.errors import InputError
from streamproc.event_time import span_us
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import bind
from streamproc.runtime.control import (
    Answer,
    ControlReader,
    Deed,
    Request,
    State,
    ask,
    control_topic,
    create_control,
    where_all_stand,
)
from streamproc.runtime.drain import drain as finish_drain
from streamproc.runtime.drain import drained_at
from streamproc.runtime.upgrade import refuse_taken_over
from streamproc.runtime.workspace import Workspace

F = TypeVar("F", bound=Callable[..., Any])

_LOOK_S: Final = 0.1
_SILENCE_S: Final = 5.0


def seconds(_: click.Context, __: click.Parameter, value: str) -> float:
    """The value of an option that is a span, in seconds."""
    return span_us(value) / 1e6


def myself() -> str:
    """Who asks, where no name was given."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container may run under a number that has no name.
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _asking(command: F) -> F:
    """The options that all three have."""
    for option in (
        workspace_options,
        click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]"),
        click.option("--by", metavar="NAME", help="Who asks, for the record.  [default: user and host]"),
        click.option(
            "--wait",
            default="30s",
            show_default=True,
            metavar="SPAN",
            callback=seconds,
            help="How long to wait until workers that have all tasks say that it is so; 0s only writes the request.",
        ),
        click.argument("topology"),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the record and for /ready.")
@_asking
def pause(topology: str, wait: float, by: str | None, reason: str, as_json: bool, workspace: Workspace) -> None:
    """Let the workers of TOPOLOGY rest: they keep their tasks and read nothing, also those that start later.

    Exit 1: the request is written, and workers that have all tasks did not answer in time.
    """
    names = _names(topology)
    with workspace.log() as log:
        _refuse_ended(log, names, workspace)
        _told(log, names, "pause", "paused", by, reason, wait, as_json=as_json)


@click.command()
@click.option("--reason", default="", metavar="TEXT", help="Why, for the record.  [default: none]")
@_asking
def resume(topology: str, wait: float, by: str | None, reason: str, as_json: bool, workspace: Workspace) -> None:
    """Let the workers of TOPOLOGY go on after a pause or a drain; workers that a drain ended have to be started.

    A version that another one took over from stays where it ended. Exit 1: the request is written, and workers that
    have all tasks did not answer in time.
    """
    names = _names(topology)
    with workspace.log() as log:
        _refuse_ended(log, names, workspace)
        _told(log, names, "resume", "running", by, reason, wait, as_json=as_json)


@click.command()
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the record and for /ready.")
@_asking
def drain(topology: str, wait: float, by: str | None, reason: str, as_json: bool, workspace: Workspace) -> None:
    """End a version of TOPOLOGY at one place: what was begun is finished, checkpoints are written, workers go.

    Workers are paused first, so that where each source is read to is fixed; then all stages come to that place and the
    internal topics to their ends. Without workers it is done here. 'streamproc upgrade' lets a new version begin there.
    """
    names = _names(topology)
    with workspace.log() as log:
        _require_begun(log, names)
        tasks = log.topics()[names.tasks].partitions
        create_control(log, names)
        who = by or myself()
        if drained_at(names, log) is None:
            number = _ask(log, names, "pause", who, f"to drain: {reason}")
            # Workers look every second: where none says a word, there are none, and what follows makes sure of it.
            answers = _answers(log, names, number, "paused", tasks, min(wait, _SILENCE_S))
            answers = answers and _answers(log, names, number, "paused", tasks, wait)
            stand = where_all_stand(answers, tasks)
            if stand is not None:
                number = _ask(log, names, "drain", who, reason, stand)
                _await_drained(log, names, number, set(answers), wait)
            elif answers:
                raise InputError(
                    f"workers answered for {len(_covered(answers))} of {tasks} tasks within {seconds_text(wait)}: "
                    f"'{names.topology}' stays paused",
                    hint="look at the others, then drain again, or 'streamproc resume'",
                )
        with compiling():
            binding = bind(load_topology(topology), log, workspace.registry())
            with workspace.checkpoints(log, f"{names.prefix}.drain") as checkpoints:
                ends = finish_drain(binding, log, checkpoints, who=who, why=reason)
        _tell_drained(names, who, ends, as_json=as_json)


def _told(
    log: Log, names: Names, deed: Deed, state: State, by: str | None, why: str, wait: float, *, as_json: bool
) -> None:
    """Asks, waits for the answers, and says how it went."""
    _require_begun(log, names)
    create_control(log, names)
    who = by or myself()
    tasks = log.topics()[names.tasks].partitions
    number = _ask(log, names, deed, who, why)
    answers = _answers(log, names, number, state, tasks, wait) if wait else {}
    covered = len(_covered(answers))
    if as_json:
        put_json(
            {
                "topology": names.topology,
                "version": names.version,
                "asked": deed,
                "by": who,
                "why": why,
                "request": number,
                "tasks": tasks,
                "answered_tasks": covered,
                "workers": {name: sorted(answer.tasks) for name, answer in answers.items()},
            }
        )
    else:
        name = f"{names.topology} version {names.version}"
        if covered == tasks:
            click.echo(f"{name} is {state}: {counted(len(answers), 'worker')} with {counted(tasks, 'task')}")
        else:
            click.echo(f"{name}: the request to {deed} is written; workers obey it within about a second of reading it")
    if wait and covered < tasks:
        click.echo(f"workers answered for {covered} of {counted(tasks, 'task')} in {seconds_text(wait)}", err=True)
        raise click.exceptions.Exit(1)


def _names(topology: str) -> Names:
    value = load_topology(topology)
    return Names(value.name, value.version)


def _require_begun(log: Log, names: Names) -> None:
    if names.tasks not in log.topics():
        raise InputError(
            f"version {names.version} of '{names.topology}' never ran on this log",
            hint="look at the version, or at --bind and --log",
        )


def _refuse_ended(log: Log, names: Names, workspace: Workspace) -> None:
    """A drained version that another one took over from must never go on, and its drain must stay in force."""
    _require_begun(log, names)
    with workspace.checkpoints(log, f"{names.prefix}.control") as checkpoints:
        refuse_taken_over(names, log, checkpoints)


def _ask(
    log: Log, names: Names, deed: Deed, who: str, why: str, offsets: Mapping[TopicPartition, int] | None = None
) -> int:
    return ask(log, names, Request(deed, who, time.time_ns() // 1_000, why, offsets or {}))


def _answers(log: Log, names: Names, number: int, state: State, tasks: int, wait: float) -> dict[str, Answer]:
    """The answers to a request in a state, as soon as they cover all tasks, else when the time is over."""
    reader = ControlReader(log, names)
    until = time.monotonic() + wait
    while True:
        reader.look()
        found = {n: answer for n, answer in reader.standing.following(number).items() if answer.state == state}
        if len(_covered(found)) == tasks or time.monotonic() >= until:
            return found
        time.sleep(_LOOK_S)


def _await_drained(log: Log, names: Names, number: int, members: set[str], wait: float) -> None:
    """Until every worker that had tasks has drained them and written its checkpoints."""
    reader = ControlReader(log, names)
    until = time.monotonic() + wait
    while True:
        reader.look()
        there = {name for name, answer in reader.standing.following(number).items() if answer.state == "drained"}
        if members <= there:
            return
        if time.monotonic() >= until:
            click.echo(
                f"{', '.join(sorted(members - there))} did not say 'drained' within {seconds_text(wait)}; "
                f"'{control_topic(names)}' keeps the request",
                err=True,
            )
            return
        time.sleep(_LOOK_S)


def _covered(answers: Mapping[str, Answer]) -> set[int]:
    return {number for answer in answers.values() for number in answer.tasks}


def _tell_drained(names: Names, who: str, ends: Mapping[TopicPartition, int], *, as_json: bool) -> None:
    if as_json:
        put_json(
            {
                "topology": names.topology,
                "version": names.version,
                "asked": "drain",
                "by": who,
                "offsets": [{"topic": p.topic, "partition": p.partition, "at": o} for p, o in sorted(ends.items())],
            }
        )
        return
    click.echo(f"{names.topology} version {names.version} is drained")
    put_table("", ("topic", "partition", "read to"), [(*place, offset) for place, offset in sorted(ends.items())])
