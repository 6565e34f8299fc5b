"""Column lineage: which source columns have a part in each column of each sink, how, and through which steps.

It is read off the plan: what every step makes its columns of (`step_uses`), added up from the sources down. Nothing
runs. What decides which rows a sink has has a part in all of its columns, so it is told once, for the sink.

The promise: where a source column that is not named, neither for a column nor for the rows of its sink, has other
values, the sink's column has the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streamproc.errors import UnknownColumn, did_you_mean
from streamproc.graph import Source
from streamproc.planning.column_versions import column_versions
from streamproc.planning.plan import Node, Plan, PlannedSink, type_of
from streamproc.planning.step_uses import step_uses
from streamproc.planning.uses import DIRECT, EVENT_TIME, INDIRECT, ROWS, WATERMARK, Kind, Uses, together

Origin = tuple[str, str]
"""A source topic and a column of it."""
_Parts = Mapping[Origin, Mapping[Kind, frozenset[int]]]
"""What has a part in something: of each source column the kinds, and for each the ranks of the steps on the way."""
_NOTHING: _Parts = {}


@dataclass(frozen=True, slots=True)
class Part:
    """A source column that has a part in something.

    how  by kind, direct ones first, the names of the steps on the way that do more than pass it on, upstream ones first
    """

    topic: str
    column: str
    how: Mapping[Kind, tuple[str, ...]]

    @property
    def direct(self) -> bool:
        """Whether the value is made of it; else it only decides."""
        return any(kind in DIRECT for kind in self.how)


@dataclass(frozen=True, slots=True)
class SinkLineage:
    """The lineage of a sink.

    columns   by column what has a part in its values, beside what decides on the rows
    rows      what decides which rows there are, when and in which order
    versions  by column the hash of all that makes it (`column_versions`)
    """

    sink: PlannedSink
    columns: Mapping[str, tuple[Part, ...]]
    rows: tuple[Part, ...]
    versions: Mapping[str, str]

    def origins(self, column: str) -> frozenset[Origin]:
        """Every source column that has any part in a column: for all others its values are the same.

        Raises UnknownColumn.
        """
        if column not in self.columns:
            raise UnknownColumn(
                f"sink '{self.sink.name}' has no column '{column}'", hint=did_you_mean(column, self.columns)
            )
        return frozenset((part.topic, part.column) for part in (*self.columns[column], *self.rows))


def plan_lineage(plan: Plan) -> dict[str, SinkLineage]:
    """The lineage of each sink, by its name, in order of names.  Cost O(steps * columns * source columns)."""
    walk = _Walk(plan)
    return {sink.name: walk.of_sink(sink) for sink in plan.sinks}


class _Walk:
    """Parts of all columns of every port that somebody reads, in order of rank."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.watermarks: list[_Parts] = []
        for stage in plan.stages:  # Stages stand behind those that feed them.
            times: list[_Parts] = []
            for inlet in stage.inputs:
                if inlet.source is not None:
                    times.append(_event_time_of(inlet.source))
                elif inlet.edge is not None:
                    times.append(self.watermarks[inlet.edge.from_stage])
            self.watermarks.append(_joined(times))
        self.known: dict[tuple[int, str], dict[str, _Parts]] = {}
        read = {port for node in plan.nodes for port in node.inputs} | {sink.port for sink in plan.sinks}
        for node in plan.nodes:
            for name in ("rows", "late", *node.sides):
                if (node.rank, name) in read:
                    self.known[node.rank, name] = self._port(node, name)

    def of_sink(self, sink: PlannedSink) -> SinkLineage:
        known = self.known[sink.port]
        deletes = (sink.deletes,) if sink.deletes else ()
        # A row that deletes its key leaves without a value; the key decides the partition, and what compaction leaves.
        keys = (sink.type.keyed_by if sink.key is None else sink.key) or ()
        decides = [_as(known[name], "FILTER", None) for name in deletes]
        decides += [_as(known[name], "GROUP_BY", None) for name in keys]
        names = [name for name in sink.type.schema.names if name not in deletes]
        versions = column_versions(self.plan, sink)
        return SinkLineage(
            sink,
            {name: self._told(known[name]) for name in names},
            self._told(_joined([known[ROWS], *decides])),
            {name: versions[name] for name in names},
        )

    def _told(self, parts: _Parts) -> tuple[Part, ...]:
        return tuple(
            Part(topic, column, {
                kind: tuple(self.plan.nodes[rank].name for rank in sorted(parts[topic, column][kind]))
                for kind in (*DIRECT, *INDIRECT) if kind in parts[topic, column]
            })
            for topic, column in sorted(parts)
        )  # fmt: skip

    def _port(self, node: Node, port: str) -> dict[str, _Parts]:
        if isinstance(node.origin, Source):
            return _of_source(node, node.origin)
        inputs = [type_of(self.plan.nodes, above) for above in node.inputs]
        out = type_of(self.plan.nodes, (node.rank, port))
        made = step_uses(node.origin, inputs, out, port)
        return {name: self._composed(node, name, made[name]) for name in (*out.schema.names, EVENT_TIME, ROWS)}

    def _composed(self, node: Node, name: str, read: Uses) -> _Parts:
        """What has a part in what a step makes of what it reads."""
        parts = []
        for use in sorted(read):
            above = self._above(node, use.port, use.column)
            plain = use.kind == "IDENTITY" and use.column == name
            parts.append(above if plain else _as(above, use.kind, node.rank))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _above(self, node: Node, port: int, column: str) -> _Parts:
        if column == WATERMARK:
            return self.watermarks[node.stage]
        rank, name = node.inputs[port]
        above = self.known[rank, name][column]
        stage = self.plan.nodes[rank].stage
        if column == ROWS and stage != node.stage:
            # Rows that come from several tasks of another stage interleave as time went there.
            return _joined([above, _as(self.watermarks[stage], "SORT", None)])
        return above


def _of_source(node: Node, source: Source) -> dict[str, _Parts]:
    """A source's columns from themselves; a record without an event time, or with one of the future, gives no row."""
    assert node.contract is not None  # the plan gives each source its contract
    columns: dict[str, _Parts] = {
        name: {(source.topic, name): {"IDENTITY": frozenset()}} if name in node.contract.schema else _NOTHING
        for name in node.type.schema.names
    }
    time = _event_time_of(node)
    moved = [_as(columns[name], "GROUP_BY", node.rank) for name in node.type.keyed_by or ()]  # of a table, by its key
    return columns | {EVENT_TIME: time, ROWS: _joined([_as(time, "FILTER", node.rank), *moved])}


def _event_time_of(node: Node) -> _Parts:
    assert isinstance(node.origin, Source)
    return {(node.origin.topic, node.origin.event_time): {"IDENTITY": frozenset()}}


def _as(parts: _Parts, kind: Kind, rank: int | None) -> _Parts:
    """The same parts in something that a step makes of it."""
    on_the_way = frozenset() if rank is None else frozenset({rank})
    out: dict[Origin, dict[Kind, frozenset[int]]] = {}
    for origin, how in parts.items():
        mine = out.setdefault(origin, {})
        for above, steps in how.items():
            both = together(above, kind)
            mine[both] = mine.get(both, frozenset()) | steps | on_the_way
    return out


def _joined(several: Iterable[_Parts]) -> _Parts:
    out: dict[Origin, dict[Kind, frozenset[int]]] = {}
    for parts in several:
        for origin, how in parts.items():
            mine = out.setdefault(origin, {})
            for kind, steps in how.items():
                mine[kind] = mine.get(kind, frozenset()) | steps
    return out
