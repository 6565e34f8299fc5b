"""`review`: cases that wait for a person, shown, claimed and answered."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click

from streamproc.cli.control import myself, seconds
from streamproc.cli.render import counted, put_json, put_table, seconds_text
from streamproc.cli.workspace import load_topology, workspace_options
from streamproc.decisions.review import ANSWERED, OPEN, Review
from streamproc.errors import InputError
from streamproc.event_time import span_text, span_us
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.review_desk import Case, ReviewDesk
from streamproc.runtime.workspace import Workspace

F = TypeVar("F", bound=Callable[..., Any])
_LOOK_S: Final = 0.1


@click.group()
def review() -> None:
    """Cases that wait for a person: what is asked, who has it, and what was answered.

    WHERE is a review topic, or the topology that writes it.
    """


def _common(command: F) -> F:
    for option in (
        workspace_options,
        click.option("--json", "as_json", is_flag=True, help="JSON.  [default: text]"),
    ):
        command = option(command)
    return command


@review.command("list")
@click.argument("where")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@_common
def list_cases(where: str, limit: int, as_json: bool, workspace: Workspace) -> None:
    """Show the open cases of WHERE: the highest priority first, of equals the oldest."""
    with _desk(where, workspace) as desk:
        desk.look()
        cases = desk.open()
    _show(cases[:limit], as_json=as_json)
    if len(cases) > limit and not as_json:
        click.echo(f"and {len(cases) - limit:,} more", err=True)


@review.command("claim")
@click.argument("where")
@click.argument("count", type=click.IntRange(1), default=1)
@click.option("--as", "by", metavar="NAME", help="For whom.  [default: user and host]")
@click.option("--lease", default="15m", show_default=True, metavar="SPAN", help="How long they stay hers alone.")
@_common
def claim_cases(where: str, count: int, by: str | None, lease: str, as_json: bool, workspace: Workspace) -> None:
    """Take the first COUNT cases of WHERE that nobody has, and show them.

    No case is given to two people at once. A claim that lapses frees the case. Exit 1: there is none to take.
    """
    lease_us = span_us(lease)
    if lease_us <= 0:
        raise InputError(f"a lease of {lease}", hint="--lease 15m")
    with _desk(where, workspace) as desk:
        cases = desk.claim(by or myself(), count=count, lease_us=lease_us)
    _show(cases, as_json=as_json)
    if not cases:
        raise click.exceptions.Exit(1)


@review.command("answer")
@click.argument("where")
@click.argument("case")
@click.argument("verdict")
@click.option("--as", "by", metavar="NAME", help="Who answers, for the record.  [default: user and host]")
@click.option("--note", metavar="TEXT", help="Why, for the record.  [default: none]")
@click.option(
    "--wait",
    default="10s",
    show_default=True,
    metavar="SPAN",
    callback=seconds,
    help="How long to wait until the topology has taken it; 0s only writes it.",
)
@_common
def answer_case(
    where: str,
    case: str,
    verdict: str,
    by: str | None,
    note: str | None,
    wait: float,
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Decide a CASE of WHERE; the beginning of its id will do where it is no other's.

    Refused where the case is unknown, answered, out of time or claimed by somebody else. The same answer again changes
    nothing.
    """
    who = by or myself()
    with _desk(where, workspace) as desk:
        told = desk.answer(case, verdict, by=who, note=note)
        until = time.monotonic() + wait
        while told.status == OPEN and time.monotonic() < until:
            time.sleep(_LOOK_S)
            desk.look()
            told = desk.case(told.case)
    if told.status not in (OPEN, ANSWERED):
        raise InputError(
            f"case {told.case} ran out of time before the topology took the answer: it has '{told.verdict}'",
            hint="the answer is kept, and changes nothing",
        )
    taken = told.status == ANSWERED
    if as_json:
        put_json({"case": told.case, "verdict": verdict, "by": who, "note": note, "taken": taken})
    else:
        click.echo(f"case {told.case}: {verdict}")
    if not taken and wait:
        click.echo(
            f"the topology did not take it within {seconds_text(wait)}: is a worker running? The answer is kept, and "
            "counts if it was given before the deadline",
            err=True,
        )


@contextlib.contextmanager
def _desk(where: str, workspace: Workspace) -> Iterator[ReviewDesk]:
    with workspace.log() as log:
        registry = workspace.reading_registry()
        topic = where if where in log.topics() else _topic_of(where, workspace)
        yield ReviewDesk(log, registry, topic)


def _topic_of(where: str, workspace: Workspace) -> str:
    plan = plan_topology(load_topology(where), workspace.registry())
    topics = [
        sink.topic
        for sink in plan.sinks
        if sink.port[1] == "cases" and isinstance(plan.nodes[sink.port[0]].origin, Review)
    ]
    if len(topics) == 1:
        return topics[0]
    raise InputError(
        f"topology '{plan.topology.name}' writes {counted(len(topics), 'review topic')}",
        hint=f"name one of {', '.join(topics)}"
        if topics
        else 'give the side "cases" of sp.review a sink: sp.sink(reviewed.side("cases"), key="case")',
    )


def _show(cases: list[Case], *, as_json: bool) -> None:
    now = time.time_ns() // 1_000
    if as_json:
        put_json([_form(case, now) for case in cases])
    elif not cases:
        click.echo("no open case")
    else:
        rows = [
            (
                case.case[:12],
                f"{case.priority:g}",
                case.asked_at.strftime("%Y-%m-%d %H:%M:%S"),
                _span(case.deadline_us - now),
                "/".join(case.choices),
                case.default,
                "" if (holder := case.holder(now)) is None else f"{holder.by} for {_span(holder.until_us - now)}",
                ", ".join(f"{name}={value}" for name, value in case.row.items()),
            )
            for case in cases
        ]
        put_table("", ("case", "priority", "asked at", "left", "choices", "default", "claimed by", "row"), rows)


def _form(case: Case, now: int) -> dict[str, Any]:
    holder = case.holder(now)
    return {
        "case": case.case,
        "priority": case.priority,
        "subject": case.subject,
        "asked_at": case.asked_at,
        "deadline": case.deadline,
        "choices": case.choices,
        "default": case.default,
        "claimed_by": None if holder is None else holder.by,
        "row": case.row,
    }


def _span(us: int) -> str:
    return span_text(max(0, us) // 1_000_000 * 1_000_000)
