"""`lineage`: which source columns have a part in each column of each sink, without running anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from streamproc.cli.render import counted, put_json, put_table
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.errors import InputError, UnknownColumn, did_you_mean
from streamproc.planning.lineage import Part, SinkLineage, plan_lineage
from streamproc.planning.plan import Plan
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.clock import SystemClock
from streamproc.runtime.openlineage import Names, job_event


@click.command()
@click.argument("topology")
@click.option(
    "--column",
    metavar="TOPIC.COLUMN",
    help="Of a topic that TOPOLOGY writes: only that column. Of one that it reads: what the column has a part in.  "
    "[default: all columns of all sinks]",
)
@click.option(
    "--openlineage",
    metavar="FILE",
    help="Write it as an OpenLineage JobEvent, with column lineage; - is stdout.  [default: text]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def lineage(topology: str, column: str | None, openlineage: str | None, as_json: bool, workspace: Workspace) -> None:
    """Say which source columns have a part in each column that TOPOLOGY writes, how, and through which steps.

    Direct is what the value is made of: IDENTITY, TRANSFORMATION, AGGREGATION. Indirect is what only decides: branches
    (CONDITIONAL), which rows there are (FILTER), meet (JOIN, GROUP_BY, WINDOW), and when and in which order they come
    (SORT). Runs nothing and needs no log.
    """
    if openlineage is not None and (column is not None or as_json):
        raise click.UsageError("--openlineage is of all columns, and JSON already: leave out --column and --json")
    plan = plan_topology(load_topology(topology), workspace.registry())
    found = plan_lineage(plan)
    if openlineage is not None:
        _write(openlineage, job_event(plan, found, _names(workspace), at_us=SystemClock().now_us()))
        return
    if column is None:
        _tell(plan, found, as_json=as_json)
        return
    topic, name = _column_of(plan, found, column)
    written = {sink: told for sink, told in found.items() if topic in (sink, told.sink.topic)}
    if not written:
        _tell_below(found, topic, name, as_json=as_json)
    else:
        sink, told = next(iter(written.items()))
        alone = SinkLineage(told.sink, {name: told.columns[name]}, told.rows, {name: told.versions[name]})
        _tell(plan, {sink: alone}, as_json=as_json)


def _names(workspace: Workspace) -> Names:
    if workspace.kafka is not None:
        return Names(f"kafka://{workspace.kafka.brokers[0]}")
    return Names("file", workspace.log_path.absolute().as_posix())


def _write(place: str, event: dict[str, Any]) -> None:
    if place == "-":
        put_json(event)
        return
    try:
        Path(place).write_bytes(orjson.dumps(event, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise InputError(
            f"'{place}' cannot be written: {error.strerror}", hint="name a file in a folder that is there, or -"
        ) from None


def _column_of(plan: Plan, found: Mapping[str, SinkLineage], text: str) -> tuple[str, str]:
    """The topic and column that a word names; a sink's own name will do for its topic."""
    known: dict[str, Sequence[str]] = {}
    for node in plan.sources:
        known[node.origin.topic] = node.contract.schema.names if node.contract else ()  # type: ignore[union-attr]
    for name, told in found.items():
        known[name] = known[told.sink.topic] = tuple(told.columns)
    # Names of topics have dots; the longest one that fits is meant.
    for at in reversed([place for place, letter in enumerate(text) if letter == "."]):
        topic, column = text[:at], text[at + 1 :]
        if topic in known:
            if column not in known[topic]:
                raise UnknownColumn(f"'{topic}' has no column '{column}'", hint=did_you_mean(column, known[topic]))
            return topic, column
    raise InputError(
        f"'{text}' names no column of a topic that '{plan.topology.name}' reads or writes",
        hint=did_you_mean(text, [f"{topic}.{column}" for topic, columns in known.items() for column in columns]),
    )


def _tell(plan: Plan, found: Mapping[str, SinkLineage], *, as_json: bool) -> None:
    if as_json:
        put_json({
            "topology": plan.topology.name, "version": plan.topology.version, "fingerprint": plan.logic,
            "sinks": {
                name: {
                    "topic": told.sink.topic,
                    "columns": {
                        column: {"version": told.versions[column], "from": _plain(parts)}
                        for column, parts in told.columns.items()
                    },
                    "rows": _plain(told.rows),
                }
                for name, told in found.items()
            },
        })  # fmt: skip
        return
    for told in found.values():
        rows = [
            (column if first else "", told.versions[column] if first else "", *line)
            for column, parts in told.columns.items()
            for first, line in _lines(parts)
        ]
        put_table(told.sink.topic, ("column", "version", "from", "how", "through"), rows)
        put_table(
            f"which rows {told.sink.topic} has, when and in which order",
            ("from", "how", "through"),
            [line for _, line in _lines(told.rows)],
        )


def _tell_below(found: Mapping[str, SinkLineage], topic: str, column: str, *, as_json: bool) -> None:
    """What a source column has a part in."""
    below: list[tuple[str, str, Part]] = []
    for told in found.values():
        for name, parts in (*told.columns.items(), ("", told.rows)):
            below += [(told.sink.topic, name, part) for part in parts if (part.topic, part.column) == (topic, column)]
    if as_json:
        put_json({
            "topic": topic, "column": column,
            "part_in": [{"topic": to, "column": name or None, "direct": part.direct, "how": dict(part.how)}
                        for to, name, part in below],
        })  # fmt: skip
        return
    lines = [
        (f"{to}.{name}" if name else f"{to} (which rows)", *line[1:])
        for to, name, part in below
        for _, line in _lines((part,))
    ]
    if lines:
        put_table(f"{topic}.{column} has a part in", ("column", "how", "through"), lines)
    else:
        click.echo(f"{topic}.{column} has no part in any of {counted(len(found), 'sink')}")


def _lines(parts: Iterable[Part]) -> list[tuple[bool, tuple[str, str, str]]]:
    """A line for each kind of each part, direct ones first; the first line of all is marked."""
    ordered = sorted(parts, key=lambda part: not part.direct)
    lines = [
        (f"{part.topic}.{part.column}", kind, ", ".join(steps)) for part in ordered for kind, steps in part.how.items()
    ]
    return [(number == 0, line) for number, line in enumerate(lines or [("-", "", "")])]


def _plain(parts: Iterable[Part]) -> list[dict[str, Any]]:
    return [
        {"topic": part.topic, "column": part.column, "direct": part.direct, "how": dict(part.how)} for part in parts
    ]
