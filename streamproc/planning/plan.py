"""What a plan is: the steps of a topology with names, ranks and types, cut into stages.

The recipe is a graph of streams. The plan walks it once from the sinks (in order of their names, inputs left first),
which gives every step its *rank* and, where the author named none, its name. Types flow down the same walk; needed
columns flow back up, so that a source decodes only what someone reads.

**Stages.** A change of key moves rows between tasks, so the graph is cut below each `key_by` that really changes the
key. What is connected without a cut is one stage; its tasks are numbered by partition. Where a step joins streams that
lie a different number of cuts deep, the shallower one is forwarded through a topic of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from streamproc.contracts.model import Contract
from streamproc.errors import DefinitionError
from streamproc.graph import Source
from streamproc.operator import Operator, StreamType
from streamproc.operators.dedupe import Dedupe
from streamproc.planning.topology import Topology

Port = tuple[int, str]
"""A node and one of its outputs: "rows", "late", or what the step gives beside them."""


@dataclass(frozen=True, slots=True)
class Node:
    """One step of the plan.

    rank      its place in the walk: inputs have smaller ranks; it orders what time releases at one moment
    inputs    the nodes and ports it reads
    type      columns and key of its rows
    level     how many changes of key lie above it
    moves     of a `key_by`: whether it brings rows to other tasks, so that the graph is cut below it; so do a table and
              feedback, which is thus alone in its stage
    columns   of a source: the columns that somebody reads
    sides     types of what the step gives beside its rows, by name
    state     fingerprint of what shapes its state
    logic     fingerprint of all that shapes its output, upstream included; `meaning`: but the names of steps
    """

    rank: int
    name: str
    origin: Source | Operator
    inputs: tuple[Port, ...]
    type: StreamType
    level: int = 0
    moves: bool = False
    stage: int = 0
    contract: Contract | None = None
    columns: frozenset[str] = frozenset()
    sides: Mapping[str, StreamType] = field(default_factory=dict)
    state: str = ""
    logic: str = ""
    meaning: str = ""

    @property
    def operator(self) -> Operator:
        """The operator; raises DefinitionError for a source."""
        if isinstance(self.origin, Source):
            raise DefinitionError(f"'{self.name}' is a source, not a step")
        return self.origin


@dataclass(frozen=True, slots=True)
class Edge:
    """Rows that go from one stage to another through an internal topic.

    rekeyed  True for rows with a key: its bytes choose the partition; False: partition p goes to partition p
    """

    name: str
    port: Port
    from_stage: int
    to_stage: int
    type: StreamType
    rekeyed: bool


@dataclass(frozen=True, slots=True)
class StageInput:
    """Where rows enter a stage: a source node, or an edge.

    outside  the rows are feedback, and the stage has other inputs, which alone make its time
    """

    name: str
    port: Port
    edge: Edge | None
    source: Node | None
    type: StreamType
    outside: bool = False


@dataclass(frozen=True, slots=True)
class PlannedSink:
    """A sink with its contract, settled.

    declared  the author named the contract; else the plan derived it
    forwards  records leave as the bytes that they came in
    identified  records carry the header `sp`
    latest    a new topic is compacted
    deletes   the column that tells of a row that it leaves as a record without a value, "" where none does
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
    identified: bool = False
    latest: bool = False
    deletes: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs together on one key: inputs, steps in order of rank, what leaves.

    single  one task: the key is one key for all rows. Else there are as many as the sources have partitions, or as the
            stages that feed it have tasks
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

        Raises DefinitionError where rows of one key would lie in several tasks, because sources differ in partitions.
        """
        counts: list[int] = []
        for stage in self.stages:
            feeds = {inlet.source.origin.topic for inlet in stage.inputs if inlet.source is not None
                     if isinstance(inlet.source.origin, Source)}  # fmt: skip
            if stage.single:
                counts.append(1)
            elif feeds:
                if len({partitions[topic] for topic in feeds}) > 1 and any(map(_needs_place, stage.nodes)):
                    listed = ", ".join(f"'{topic}' has {partitions[topic]}" for topic in sorted(feeds))
                    raise DefinitionError(
                        f"'{self.topology.name}' brings rows together by key where their producers placed them, and "
                        f"the topics differ in partitions: {listed}",
                        hint='give them as many partitions each, or let key_by move the rows: "sp:partitioner": '
                        '"unknown" in a contract',
                    )
                counts.append(max(partitions[topic] for topic in feeds))
            else:
                counts.append(max(counts[inlet.edge.from_stage] for inlet in stage.inputs if inlet.edge is not None))
        return tuple(counts)


def type_of(nodes: Sequence[Node], port: Port) -> StreamType:
    """Columns and key of the rows at a port; late rows are those of the step's first input."""
    rank, name = port
    if name in nodes[rank].sides:
        return nodes[rank].sides[name]
    late = name == "late"
    while name == "late":
        rank, name = nodes[rank].inputs[0]
    kind = nodes[rank].type
    return replace(kind, ordered=False, placed_by=None) if late else kind


def _needs_place(node: Node) -> bool:
    """Whether a step of a stage of sources relies on the partitions that producers chose for keys."""
    by_id = isinstance(node.origin, Dedupe) and node.origin.per == "key"
    return by_id or (node.type.keyed_by is not None and not node.moves)
