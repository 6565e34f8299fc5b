"""The plan: a topology checked, typed, cut into stages, ranked and fingerprinted.

The recipe is a graph of streams. The plan walks it once from the sinks (in order of their names, inputs left first),
which
gives every step its *rank* and, where the author named none, its name. Types flow down the same walk; needed columns
flow
back up, so that a source decodes only what someone reads.

**Stages.** A change of key moves rows between tasks, so the graph is cut below each `key_by` that really changes the
key.
What is connected without a cut is one stage; its tasks are numbered by partition. Where a step joins streams that lie a
different number of cuts deep, the shallower one is forwarded, partition by partition, through a topic of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from streamproc.contracts.model import Contract, Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.graph import Source, Stream
from streamproc.operator import Operator, StreamType
from streamproc.operators.columns import Where
from streamproc.operators.dedupe import Dedupe
from streamproc.operators.key_by import KeyBy
from streamproc.operators.ordered import Ordered
from streamproc.operators.require import Require
from streamproc.planning.fingerprint import canonical_text, digest
from streamproc.planning.topology import Sink, Topology

Port = tuple[int, str]
"""A node and one of its outputs: "rows" or "late"."""


@dataclass(frozen=True, slots=True)
class Node:
    """One step of the plan.

    rank      its place in the walk: inputs have smaller ranks; it orders what time releases at one moment
    inputs    the nodes and ports it reads
    type      columns and key of its rows
    columns   of a source: the columns that somebody reads
    state     fingerprint of what shapes its state; `logic` of all that shapes its output, upstream included
    """

    rank: int
    name: str
    origin: Source | Operator
    inputs: tuple[Port, ...]
    type: StreamType
    stage: int = 0
    contract: Contract | None = None
    columns: frozenset[str] = frozenset()
    state: str = ""
    logic: str = ""

    @property
    def operator(self) -> Operator:
        """The operator; raises DefinitionError for a source."""
        if isinstance(self.origin, Source):
            raise DefinitionError(f"'{self.name}' is a source, not a step")
        return self.origin


@dataclass(frozen=True, slots=True)
class Edge:
    """Rows that go from one stage to another through an internal topic.

    rekeyed  True below a change of key: the key's bytes choose the partition; False: partition p goes to partition p
    """

    name: str
    port: Port
    from_stage: int
    to_stage: int
    type: StreamType
    rekeyed: bool


@dataclass(frozen=True, slots=True)
class StageInput:
    """Where rows enter a stage: a source node, or an edge."""

    name: str
    port: Port
    edge: Edge | None
    source: Node | None
    type: StreamType


@dataclass(frozen=True, slots=True)
class PlannedSink:
    """A sink with its contract, settled.

    declared  the author named the contract; else the plan derived it
    forwards  records leave as the bytes that they came in
    """

    name: str
    port: Port
    stage: int
    topic: str
    contract: Contract
    declared: bool
    forwards: bool
    type: StreamType
    key: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs together on one key: inputs, steps in order of rank, what leaves.

    follows_sources  the number of tasks is that of the sources' partitions; else of the stages that feed it
    single           one task: the key is one key for all rows
    """

    index: int
    inputs: tuple[StageInput, ...]
    nodes: tuple[Node, ...]
    sinks: tuple[PlannedSink, ...]
    edges: tuple[Edge, ...]
    single: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A topology that can run.

    logic   fingerprint of everything that shapes what is written
    """

    topology: Topology
    nodes: tuple[Node, ...]
    stages: tuple[Stage, ...]
    logic: str

    @property
    def sinks(self) -> tuple[PlannedSink, ...]:
        """All sinks, by name."""
        return tuple(sorted((sink for stage in self.stages for sink in stage.sinks), key=lambda sink: sink.name))

    @property
    def sources(self) -> tuple[Node, ...]:
        """All sources in order of rank."""
        return tuple(node for node in self.nodes if isinstance(node.origin, Source))

    def tasks_of(self, partitions: Mapping[str, int]) -> tuple[int, ...]:
        """The number of tasks of each stage, from the partition counts of the source topics.

        Raises DefinitionError where a keyed step joins sources with different counts.
        """
        counts: list[int] = []
        for stage in self.stages:
            feeds = {
                inlet.name: partitions[_source_of(inlet).topic] for inlet in stage.inputs if inlet.source is not None
            }
            if stage.single:
                counts.append(1)
            elif feeds:
                if len(set(feeds.values())) > 1 and any(node.type.keyed_by for node in stage.nodes):
                    listed = ", ".join(f"'{name}' has {count}" for name, count in sorted(feeds.items()))
                    raise DefinitionError(
                        f"stage {stage.index} of '{self.topology.name}' joins sources with different partition counts: "
                        f"{listed}",
                        hint="put sp.key_by on each of them, so that their rows are brought together by key",
                    )
                counts.append(max(feeds.values()))
            else:
                counts.append(max(counts[inlet.edge.from_stage] for inlet in stage.inputs if inlet.edge is not None))
        return tuple(counts)


Lookup = Callable[[str], Contract]


def build_plan(topology: Topology, contract: Lookup, derive: Callable[[str, Schema], Contract]) -> Plan:
    """Checks, types, cuts and fingerprints a topology.

    contract  gives the contract of a name ("payment", "payment.v2")
    derive    makes the contract of a sink that names none, from its columns

    Raises DefinitionError (UnknownColumn, TypeMismatch, DuplicateName, NotElementWise) naming the step, and
    ContractError.
    """
    walk = _Walk(topology, contract)
    leaves = {name: (topology.sink(name), walk.visit(topology.sink(name).stream)) for name in sorted(topology.sinks)}
    nodes, needed = _with_columns(walk.nodes, leaves, contract)
    nodes, edges = _cut(nodes)
    edges = [_narrowed(edge, needed.get(edge.port, frozenset())) for edge in edges]
    nodes = _fingerprinted(nodes)
    sinks = [
        _planned_sink(topology, name, leaf, port, nodes, contract, derive) for name, (leaf, port) in leaves.items()
    ]
    topics: dict[str, str] = {}
    for planned in sinks:
        if planned.topic in topics:
            raise DuplicateName(
                f"sinks '{topics[planned.topic]}' and '{planned.name}' both write topic '{planned.topic}'",
                hint="give one of them topic=",
            )
        topics[planned.topic] = planned.name
    stages = _stages(nodes, edges, sinks)
    logic = digest(
        canonical_text(
            (
                topology.name,
                topology.version,
                topology.late,
                [n.logic for n in nodes],
                [
                    (s.name, s.topic, s.key, nodes[s.port[0]].logic, s.port[1], _contract_text(s.contract))
                    for s in sinks
                ],
            )
        )
    )
    return Plan(topology, tuple(nodes), stages, logic)


class _Walk:
    """The walk from sinks to sources: names, ranks and types."""

    def __init__(self, topology: Topology, contract: Lookup) -> None:
        self.topology = topology
        self.contract = contract
        self.nodes: list[Node] = []
        self._ranks: dict[object, int] = {}
        self._names: dict[str, bool] = {}

    def visit(self, stream: Stream) -> Port:
        """Plans a stream and all above it; gives its node and port. Recipes deeper than Python's stack are planned
        too."""
        todo = [stream]
        ports: dict[int, Port] = {}
        while todo:
            top = todo[-1]
            missing = [above for above in top.inputs if id(above) not in ports]
            if missing:
                if len(todo) > 10_000:
                    raise DefinitionError(
                        f"topology '{self.topology.name}' is deeper than 10,000 steps",
                        hint="cut it into several topologies",
                    )
                todo.extend(reversed(missing))
                continue
            todo.pop()
            if id(top) not in ports:
                ports[id(top)] = self._node(top, tuple(ports[id(above)] for above in top.inputs))
        return ports[id(stream)]

    def _node(self, stream: Stream, inputs: tuple[Port, ...]) -> Port:
        # A source is known by its value, a step by its operator object and inputs: `stream.late` shares both.
        identity: object = (id(stream.origin), inputs)
        if isinstance(stream.origin, Source):
            contract = stream.origin.contract
            identity = replace(stream.origin, contract=contract if isinstance(contract, str) else f"{id(contract)}")
        if identity not in self._ranks:
            self._ranks[identity] = self._planned(stream, self._brought_together(stream.origin, inputs))
        return self._ranks[identity], stream.port

    def _planned(self, stream: Stream, inputs: tuple[Port, ...]) -> int:
        if isinstance(stream.origin, Source):
            self.nodes.append(self._source(stream.origin, len(self.nodes)))
            return len(self.nodes) - 1
        name = self._name(stream.name or stream.origin.verb, chosen=bool(stream.name))
        return self._append_in_order(stream.origin, name, inputs)

    def _brought_together(self, origin: Source | Operator, inputs: tuple[Port, ...]) -> tuple[Port, ...]:
        """Inputs of a step; below a dedupe by id, keyed by the id where its rows could lie in several tasks."""
        if not isinstance(origin, Dedupe) or origin.per != "key":
            return inputs
        kind = self._type(inputs[0])
        together = [columns for columns in (kind.keyed_by, kind.placed_by) if columns is not None]
        if any(set(columns) <= set(origin.columns) for columns in together):
            return inputs
        return ((self._append_in_order(KeyBy(origin.columns), self._name("key_by", chosen=False), inputs), "rows"),)

    def _append_in_order(self, operator: Operator, name: str, inputs: tuple[Port, ...]) -> int:
        """Appends a step; below a change of key, rows that were in order of event time are put in order again.

        Several upstream tasks meet there, each in its own order.
        """
        rank = self._append(operator, name, inputs)
        if isinstance(operator, KeyBy) and self._type(inputs[0]).ordered and _moves(self.nodes, rank):
            again = next(node.origin for node in self._above(rank) if isinstance(node.origin, Ordered))
            rank = self._append(again, self._name("ordered", chosen=False), ((rank, "rows"),))
        return rank

    def _above(self, rank: int) -> Iterator[Node]:
        """The step's first inputs, nearest first."""
        while self.nodes[rank].inputs:
            rank = self.nodes[rank].inputs[0][0]
            yield self.nodes[rank]

    def _append(self, operator: Operator, name: str, inputs: tuple[Port, ...]) -> int:
        types = [self._type(port) for port in inputs]
        try:
            out = operator.schema(*types)
        except DefinitionError as problem:
            if f"'{name}'" in problem.message:
                raise
            raise type(problem)(f"step '{name}': {problem.message}", hint=problem.hint) from None
        self.nodes.append(Node(len(self.nodes), name, operator, inputs, out))
        return len(self.nodes) - 1

    def _type(self, port: Port) -> StreamType:
        node = self.nodes[port[0]]
        if port[1] == "late":
            first = self.nodes[node.inputs[0][0]]
            return StreamType(self._type(node.inputs[0]).schema, keyed_by=first.type.keyed_by)
        return node.type

    def _source(self, source: Source, rank: int) -> Node:
        contract = source.contract if isinstance(source.contract, Contract) else self.contract(source.contract)
        event_time = source.event_time or contract.event_time
        if not event_time:
            raise DefinitionError(
                f"source '{source.topic}' has no event time: contract '{contract}' marks no field with \"sp:role\": "
                '"event_time"',
                hint="mark one, or say sp.source(..., event_time='column')",
            )
        if event_time not in contract.schema:
            raise UnknownColumn(
                f"source '{source.topic}' takes event time from '{event_time}', which '{contract}' does not have",
                hint=did_you_mean(event_time, contract.schema.names),
            )
        time_type = contract.schema[event_time].dtype
        if not (time_type.is_integer() or time_type.is_temporal()) or str(time_type).startswith(("Time", "Duration")):
            raise TypeMismatch(
                f"source '{source.topic}' takes event time from '{event_time}', a {time_type}",
                hint="event time is a timestamp, a date, or a long of microseconds since 1970 UTC",
            )
        fields = tuple(replace(f, origins=f.origins or frozenset({f"{contract}.{f.name}"})) for f in contract.schema)
        # A topic that its producers partition by murmur2 of the contract's key needs no moving for a `key_by` of that
        # key.
        placed = contract.key if contract.partitioner == "murmur2" and contract.key else None
        return Node(
            rank,
            self._name(source.topic, chosen=False),
            replace(source, event_time=event_time),
            (),
            StreamType(Schema(fields), placed_by=placed),
            contract=contract,
        )

    def _name(self, word: str, *, chosen: bool) -> str:
        if word in self._names:
            if chosen and self._names[word]:
                raise DuplicateName(
                    f"two steps of '{self.topology.name}' are named '{word}'", hint="give one of them another name="
                )
            number = 2
            while f"{word}_{number}" in self._names:
                number += 1
            word = f"{word}_{number}"
        self._names[word] = chosen
        return word


def _source_of(inlet: StageInput) -> Source:
    if inlet.source is None or not isinstance(inlet.source.origin, Source):
        raise DefinitionError(f"input '{inlet.name}' is not a source")
    return inlet.source.origin


def _with_columns(
    nodes: list[Node], leaves: Mapping[str, tuple[Sink, Port]], contract: Lookup
) -> tuple[list[Node], dict[Port, frozenset[str]]]:
    """Needed columns per port, from the sinks up; sets `columns` of the sources."""
    needed: dict[Port, frozenset[str]] = {}

    def add(port: Port, columns: frozenset[str]) -> None:
        needed[port] = needed.get(port, frozenset()) | columns

    for leaf, port in leaves.values():
        node = nodes[port[0]]
        if leaf.key is None and _forwarded(nodes, port, leaf, contract) is not None:
            continue  # The record's own bytes leave: no column of it is needed for that.
        schema = node.type.schema if port[1] == "rows" else nodes[node.inputs[0][0]].type.schema
        add(port, frozenset(schema.names))
    out = list(nodes)
    for node in reversed(nodes):
        rows = needed.get((node.rank, "rows"), frozenset())
        if isinstance(node.origin, Source):
            event_time = {node.origin.event_time}
            out[node.rank] = replace(node, columns=rows | event_time)
            continue
        schemas = [nodes[rank].type.schema for rank, _ in node.inputs]
        reads = node.origin.reads(rows, *schemas)
        late = needed.get((node.rank, "late"), frozenset())
        for position, (port, columns) in enumerate(zip(node.inputs, reads, strict=True)):
            wanted = columns | (late if position == 0 else frozenset())
            unknown = wanted - frozenset(schemas[position].names)
            if unknown:
                raise UnknownColumn(
                    f"step '{node.name}' reads {', '.join(map(repr, sorted(unknown)))}",
                    hint=did_you_mean(min(unknown), schemas[position].names),
                )
            # Rows that are only counted need a column too: a frame without one has no height.
            add(port, wanted or frozenset(schemas[position].names[:1]))
    return out, needed


def _narrowed(edge: Edge, needed: frozenset[str]) -> Edge:
    """The edge with the columns that somebody below it reads, and its key."""
    kept = needed | frozenset(edge.type.keyed_by or ())
    schema = Schema(tuple(column for column in edge.type.schema if column.name in kept))
    return replace(edge, type=replace(edge.type, schema=schema))


def _cut(nodes: list[Node]) -> tuple[list[Node], list[Edge]]:
    """Levels, stages and edges. A node lies as many cuts deep as its deepest input, one more below a `key_by`."""
    level: list[int] = []
    for node in nodes:
        depths = [
            level[rank] + (1 if isinstance(nodes[rank].origin, KeyBy) and _moves(nodes, rank) else 0)
            for rank, _ in node.inputs
        ]
        level.append(max(depths, default=0))
    parent = list(range(len(nodes)))

    def find(rank: int) -> int:
        while parent[rank] != rank:
            rank = parent[rank]
        return rank

    crossing: list[tuple[Port, int, bool]] = []
    for node in nodes:
        for port in node.inputs:
            above = nodes[port[0]]
            moved = isinstance(above.origin, KeyBy) and _moves(nodes, above.rank)
            if moved or level[above.rank] != level[node.rank]:
                crossing.append((port, node.rank, moved))
            else:
                a, b = find(above.rank), find(node.rank)
                parent[max(a, b)] = min(a, b)
    # A key_by whose rows only leave through a sink is not cut: the sink's key does the same.
    roots = sorted({find(node.rank) for node in nodes}, key=lambda root: (level[root], root))
    index = {root: number for number, root in enumerate(roots)}
    staged = [replace(node, stage=index[find(node.rank)]) for node in nodes]
    edges: dict[tuple[Port, int], Edge] = {}
    for port, reader, moved in crossing:
        above, to_stage = staged[port[0]], staged[reader].stage
        kind = above.type if port[1] == "rows" else StreamType(staged[above.inputs[0][0]].type.schema)
        # Orderedness does not survive a change of key: several upstream tasks meet.
        edges.setdefault(
            (port, to_stage),
            Edge(
                f"{above.name}{'' if port[1] == 'rows' else '.late'}.s{to_stage}",
                port,
                above.stage,
                to_stage,
                replace(kind, ordered=False),
                moved,
            ),
        )
    return staged, list(edges.values())


def _moves(nodes: list[Node], rank: int) -> bool:
    """Whether a `key_by` brings rows to other tasks: not if its input already has that key."""
    node = nodes[rank]
    above = nodes[node.inputs[0][0]]
    return node.type.keyed_by not in (above.type.keyed_by, above.type.placed_by)


def _fingerprinted(nodes: list[Node]) -> list[Node]:
    out: list[Node] = []
    for node in nodes:
        above = [(out[rank].logic, port) for rank, port in node.inputs]
        if isinstance(node.origin, Source):
            own = canonical_text(
                (
                    node.origin.topic,
                    node.origin.lateness_us,
                    node.origin.max_future_skew_us,
                    node.origin.idle_after_us,
                    node.origin.event_time,
                    _contract_text(node.contract),
                )
            )
        else:
            own = canonical_text(node.origin)
        types = ",".join(f"{f.name}:{f.dtype}:{f.nullable}" for f in node.type.schema)
        state = digest(f"{type(node.origin).__name__} {own} {node.type.keyed_by} {types}")
        out.append(replace(node, state=state, logic=digest(f"{node.name} {state} {above}")))
    return out


def _contract_text(contract: Contract | None) -> str:
    return "" if contract is None else f"{contract} {canonical_text(contract.avro)}"


def _planned_sink(
    topology: Topology,
    name: str,
    leaf: Sink,
    port: Port,
    nodes: list[Node],
    contract: Lookup,
    derive: Callable[[str, Schema], Contract],
) -> PlannedSink:
    node = nodes[port[0]]
    kind = node.type if port[1] == "rows" else StreamType(nodes[node.inputs[0][0]].type.schema)
    source = _forwarded(nodes, port, leaf, contract)
    if source is not None and source.contract is not None:
        settled = source.contract
    elif leaf.contract is None:
        settled = derive(f"{topology.name}_{name}".replace("-", "_"), kind.schema)
    else:
        settled = leaf.contract if isinstance(leaf.contract, Contract) else contract(leaf.contract)
        _check_sink(name, settled, kind.schema)
    for column in leaf.key or ():
        if column not in kind.schema:
            raise UnknownColumn(f"sink '{name}' is keyed by '{column}'", hint=did_you_mean(column, kind.schema.names))
    return PlannedSink(
        name,
        port,
        node.stage,
        leaf.topic or f"{topology.name}.{name}",
        settled,
        leaf.contract is not None,
        source is not None,
        kind,
        leaf.key,
    )


def _forwarded(nodes: list[Node], port: Port, leaf: Sink, contract: Lookup) -> Node | None:
    """The source whose records leave through a sink exactly as they came, or None.

    That is so where only filters lie between, and the sink names the source's contract or none.
    """
    rank, name = port
    while name == "rows":
        node = nodes[rank]
        if node.contract is not None:
            if leaf.contract is None:
                return node
            named = leaf.contract if isinstance(leaf.contract, Contract) else contract(leaf.contract)
            return node if named.avro == node.contract.avro else None
        if not isinstance(node.origin, Where | Require):
            return None
        rank, name = node.inputs[0]
    return None


def _check_sink(name: str, contract: Contract, schema: Schema) -> None:
    for wanted in contract.schema:
        if wanted.name not in schema:
            if wanted.nullable:
                continue
            raise UnknownColumn(
                f"sink '{name}' must write '{wanted.name}' of contract '{contract}'",
                hint=did_you_mean(wanted.name, schema.names),
            )
        have: Field = schema[wanted.name]
        if have.dtype != wanted.dtype:
            raise TypeMismatch(
                f"sink '{name}' writes '{wanted.name}' as {have.dtype}; contract '{contract}' says {wanted.dtype}",
                hint=f"cast it before the sink: sp.with_columns({wanted.name}=pl.col('{wanted.name}').cast(...))",
            )
        if have.unit and wanted.unit and have.unit != wanted.unit:
            raise TypeMismatch(
                f"sink '{name}' writes '{wanted.name}' in {have.unit}; contract '{contract}' says {wanted.unit}",
                hint="convert it, or correct the contract",
            )
    extra = [column for column in schema.names if column not in contract.schema]
    if extra:
        raise UnknownColumn(
            f"sink '{name}' has columns that contract '{contract}' lacks: {', '.join(extra)}",
            hint=f"end the pipe with sp.select({', '.join(repr(n) for n in contract.schema.names)})",
        )


def _stages(nodes: list[Node], edges: list[Edge], sinks: list[PlannedSink]) -> tuple[Stage, ...]:
    out = []
    for index in range(max(node.stage for node in nodes) + 1):
        members = tuple(node for node in nodes if node.stage == index)
        inputs: list[StageInput] = []
        for node in members:
            if isinstance(node.origin, Source):
                inputs.append(StageInput(node.name, (node.rank, "rows"), None, node, node.type))
        incoming = [edge for edge in edges if edge.to_stage == index]
        inputs += [StageInput(edge.name, edge.port, edge, None, edge.type) for edge in incoming]
        single = any(edge.rekeyed and edge.type.keyed_by == () for edge in incoming)
        out.append(
            Stage(
                index,
                tuple(inputs),
                members,
                tuple(s for s in sinks if s.stage == index),
                tuple(edge for edge in edges if edge.from_stage == index),
                single,
            )
        )
    return tuple(out)
