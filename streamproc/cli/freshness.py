"""`freshness`: how late the rows of a topology's sources came, against what their contracts promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from streamproc.cli.render import put_json, put_table
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.errors import InputError
from streamproc.event_time import instant_text, span_text, span_us
from streamproc.planning.freshness import LATE, WARN
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.freshness import JoinLag, TopicLags, WindowVerdict, join_lags, measured

_POLICY = {"topic": "go to '{}.late'", "count": "are only counted"}


@click.command()
@click.argument("topology")
@click.option("--every", default="1m", show_default=True, help="A verdict for each such span of record time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with all spans.  [default: text]")
@workspace_options
def freshness(topology: str, every: str, as_json: bool, workspace: Workspace) -> None:
    """Say how late the rows of TOPOLOGY's sources came, held against what their contracts promise; exit 1 if too late.

    A row's lag is its record's timestamp minus its event time, so the same log gives the same verdicts each time. Each
    source is ok, warn or late by the lag that 99 in a hundred rows keep; a join by its slower side plus lateness.
    Proposes the thresholds that the log would have kept. Reads the sources once, writes nothing.
    """
    plan, every_us = plan_topology(load_topology(topology), workspace.registry()), span_us(every)
    if not every_us:
        raise InputError("--every 0s is no span", hint="write for example 1m")
    with workspace.log() as log:
        topics = measured(plan, log, workspace.registry(), every_us=every_us)
    sides = join_lags(plan, topics)
    late = _POLICY[plan.topology.late].format(plan.topology.name)
    if as_json:
        put_json({
            "topology": plan.topology.name,
            "late_rows": late,
            "sources": [_source(one) for one in topics],
            "joins": [_join(one) for one in sides],
            "verdicts": [asdict(verdict) for one in topics for verdict in one.verdicts(every_us)],
        })  # fmt: skip
    else:
        _tell(topics, sides, every_us, late)
    if LATE in {one.verdict for one in topics} | {one.verdict for one in sides}:
        raise click.exceptions.Exit(1)


def _source(one: TopicLags) -> Mapping[str, Any]:
    return {
        "topic": one.topic, "rows": one.all.rows, "p50_us": one.all.quantile(0.5), "p99_us": one.all.quantile(0.99),
        "max_us": one.all.most, "warn_us": one.bound.warn_us, "promised_us": one.bound.late_us,
        "late_rows": one.late_rows, "lateness_us": one.lateness_us, "verdict": one.verdict, "proposed": one.proposed,
    }  # fmt: skip


def _join(one: JoinLag) -> Mapping[str, Any]:
    return {
        "step": one.sides.step, "sides": one.sides.sides, "p99_us": one.p99_us, "lateness_us": one.sides.lateness_us,
        "lag_us": one.lag_us, "bound_us": one.sides.bound.late_us, "verdict": one.verdict,
    }  # fmt: skip


def _tell(topics: list[TopicLags], sides: list[JoinLag], every_us: int, late: str) -> None:
    put_table(
        "sources: how old rows were when they came",
        ("topic", "rows", "p50", "p99", "oldest", "promised", "verdict"),
        [
            (one.topic, one.all.rows, _span(one.all.quantile(0.5)), _span(one.all.quantile(0.99)), _span(one.all.most),
             _span(one.bound.late_us), one.verdict)
            for one in topics
        ],
    )  # fmt: skip
    if sides:
        put_table(
            "joins: the slower side plus lateness",
            ("step", "sides", "p99 of each", "lateness", "together", "bound", "verdict"),
            [
                (one.sides.step, " | ".join(", ".join(side) for side in one.sides.sides),
                 " | ".join(_span(us) for us in one.p99_us), _span(one.sides.lateness_us), _span(one.lag_us),
                 _span(one.sides.bound.late_us), one.verdict)
                for one in sides
            ],
        )  # fmt: skip
    spans = [verdict for one in topics for verdict in one.verdicts(every_us) if verdict.verdict in (WARN, LATE)]
    if spans:
        put_table(
            f"spans of {span_text(every_us)} that were not ok",
            ("topic", "from", "rows", "p99", "verdict"),
            [_row(verdict) for verdict in spans[-20:]],
        )
        if len(spans) > 20:
            click.echo(f"and {len(spans) - 20} earlier ones: --json has them")
    for one in topics:
        if one.late_rows:
            click.echo(f"{one.late_rows:,} rows of '{one.topic}' came behind its lateness of "
                       f"{_span(one.lateness_us)}: they {late}")  # fmt: skip
    proposals = [(one.topic, *(_span(us) for us in one.proposed.values())) for one in topics if one.proposed]
    if proposals:
        put_table("what the log would have kept", ("topic", "freshness_warn", "freshness", "lateness"), proposals)


def _row(verdict: WindowVerdict) -> tuple[Any, ...]:
    final = "" if verdict.final else ", so far"
    return (verdict.topic, instant_text(verdict.start_us), verdict.rows, _span(verdict.p99_us), verdict.verdict + final)


def _span(us: int | None) -> str:
    """A span to three figures or so: nobody reads microseconds of hours."""
    if us is None:
        return "-"
    for unit in (1_000_000, 1_000):
        if us >= 100 * unit:
            return span_text(us // unit * unit)
    return span_text(us)
