"""A stage made ready to run: codecs and intakes built once per process, none of it state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.batch import Batch
from streamproc.engine.arriving import arriving
from streamproc.engine.intake import EdgeIntake, Intake, SourceIntake
from streamproc.engine.ledger import Ledger
from streamproc.engine.rejects import REJECTED
from streamproc.event_time import MIN_TIME
from streamproc.graph import Source
from streamproc.planning.carried import Carriage, carriage
from streamproc.planning.plan import Edge, Plan, PlannedSink, Port, Stage
from streamproc.ports import Int64s, TopicPartition
from streamproc.wire import Encoder

SHADOW: Final = "shadow"
"""The id of the run that a version makes before it takes over: it runs live, and nobody acts on what it writes."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One log partition that a task reads: which input of its stage it feeds, and from which upstream task."""

    inlet: int
    upstream: int
    place: TopicPartition


@dataclass(frozen=True, slots=True)
class Names:
    """Names of everything that a topology version owns in the log.

    run  "" for the live run; else the id of a run beside it, which shares nothing with it but the sources
    """

    topology: str
    version: int
    run: str = ""

    @property
    def prefix(self) -> str:
        """What the names of all that one run owns begin with."""
        return f"{self.topology}.v{self.version}" + (f".{self.run}" if self.run else "")

    @property
    def tasks(self) -> str:
        """The task topic, which is the journal."""
        return f"{self.prefix}.tasks"

    @property
    def late(self) -> str:
        """Where late rows go."""
        return f"{self.prefix}.late" if self.run else f"{self.topology}.late"

    @property
    def dead_letters(self) -> str:
        """Where unusable records go."""
        return f"{self.prefix}.dlq" if self.run else f"{self.topology}.dlq"

    def sink(self, topic: str) -> str:
        """Where a run writes what the live one writes to a topic: a shadow to `<topic>.v<N>`."""
        if not self.run:
            return topic
        return f"{topic}.v{self.version}" + ("" if self.run == SHADOW else f".{self.run}")

    def edge(self, name: str) -> str:
        """The internal topic of an edge."""
        return f"{self.prefix}.edge.{name}"

    def group(self, stage: int) -> str:
        """The consumer group that holds a stage's input offsets."""
        return f"{self.prefix}.s{stage}"

    @property
    def workers(self) -> str:
        """The group that shares out the tasks: the one of stage 0, so that its offsets need no second fence."""
        return self.group(0)


@dataclass(frozen=True, slots=True)
class SinkWriter:
    """A sink with its codec, and the columns that it writes."""

    sink: PlannedSink
    encoder: Encoder
    schema_id: int
    partitions: int
    columns: pl.Schema


@dataclass(frozen=True, slots=True)
class EdgeWriter:
    """An edge with its codec."""

    edge: Edge
    carriage: Carriage
    encoder: Encoder
    topic: str
    downstream: int


@dataclass(frozen=True, slots=True)
class CompiledStage:
    """All that the steps of a stage need beside their state.

    tasks    the number of tasks of each stage of the plan
    types    per node, the types of what really comes to it
    nothing  per port, a batch without rows
    """

    plan: Plan
    stage: Stage
    names: Names
    tasks: tuple[int, ...]
    intakes: tuple[Intake, ...]
    types: tuple[Any, ...]
    nothing: Mapping[Port, Batch]
    sinks: tuple[SinkWriter, ...]
    edges: tuple[EdgeWriter, ...]
    rejected: Encoder
    rejected_id: int

    def channels(self, task: int, partitions: Mapping[str, int]) -> tuple[Channel, ...]:
        """What a task reads, in the order in which channels are numbered."""
        out: list[Channel] = []
        for number, inlet in enumerate(self.stage.inputs):
            if inlet.source is not None and isinstance(inlet.source.origin, Source):
                topic = inlet.source.origin.topic
                mine = range(partitions[topic]) if self.stage.single else range(task, min(task + 1, partitions[topic]))
                out += [Channel(number, 0, TopicPartition(topic, p)) for p in mine]
            elif inlet.edge is not None:
                # A partition of an internal topic has one writer and one reader, so each is a channel of its own.
                upstream = self.tasks[inlet.edge.from_stage]
                topic = self.names.edge(inlet.edge.name)
                out += [Channel(number, u, TopicPartition(topic, task * upstream + u)) for u in range(upstream)]
        return tuple(out)

    def open_state(self, channels: tuple[Channel, ...]) -> TaskState:
        """The state of a task that has seen nothing."""
        c = len(channels)
        states = {
            node.name: node.operator.open(*kinds)
            for node, kinds in zip(self.stage.nodes, self.types, strict=True)
            if not isinstance(node.origin, Source)
        }
        return TaskState(
            watermark=MIN_TIME,
            channel_watermark=np.full(c, MIN_TIME, np.int64),
            channel_idle=self.outside(channels).astype(np.int64),
            positions=np.zeros((c, 2), np.int64),
            ledger=Ledger(np.zeros((len(self.stage.inputs), 5), np.int64)),
            operators=states,
            chains=dict.fromkeys(self.outlets, b""),
            sums=dict.fromkeys(self.outlets, (0, 0)),
            written=dict.fromkeys(self.outlets, 0),
            steps=0,
        )

    def outside(self, channels: Sequence[Channel]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which channels are feedback, outside the watermark of a stage that has other inputs."""
        return np.array([self.stage.inputs[channel.inlet].outside for channel in channels], np.bool_)

    @property
    def outlets(self) -> tuple[str, ...]:
        """Topics that the stage writes, in a fixed order."""
        own = [writer.sink.topic for writer in self.sinks] + [writer.topic for writer in self.edges]
        return (*own, self.names.late, self.names.dead_letters)


@dataclass(slots=True)
class TaskState:
    """Everything that a task remembers between steps; `streamproc.state` exports it.

    positions  int64[c, 2]  per channel: the next offset to read, and how many units of that record are consumed already
    chains     per topic written: the 128-bit hash chain over what this task wrote
    sums       per topic written: the sum of row hashes modulo 2^128, which does not depend on order
    written    per topic written: rows
    """

    watermark: int
    channel_watermark: Int64s
    channel_idle: Int64s
    positions: Int64s
    ledger: Ledger
    operators: dict[str, Any]
    chains: dict[str, bytes]
    sums: dict[str, tuple[int, int]]
    written: dict[str, int]
    steps: int


def compile_stage(
    plan: Plan,
    stage: Stage,
    names: Names,
    *,
    partitions: Mapping[str, int],
    lookup: Callable[[int], Mapping[str, object] | None],
    schema_id: Callable[[Any], int],
) -> CompiledStage:
    """Builds the codecs of a stage.

    partitions  partition counts of the sources' topics and of the sinks'
    lookup      the writer's schema of an id, None if the registry says that there is none
    schema_id   the id under which a contract is written
    """
    tasks = plan.tasks_of(partitions)
    intakes: list[Intake] = [
        SourceIntake(inlet, lookup) if inlet.source is not None else EdgeIntake(inlet) for inlet in stage.inputs
    ]
    kinds, nothing = arriving(stage)
    types = tuple(tuple(kinds[port] for port in node.inputs) for node in stage.nodes)
    sinks = []
    for sink in stage.sinks:
        contract, count = sink.contract, partitions[sink.topic]
        sinks.append(SinkWriter(sink, Encoder(contract.avro), schema_id(contract), count, contract.schema.polars()))
    edges = []
    for edge in stage.edges:
        columns = carriage(edge.type.schema)
        edges.append(EdgeWriter(edge, columns, Encoder(columns.avro), names.edge(edge.name), tasks[edge.to_stage]))
    return CompiledStage(
        plan,
        stage,
        names,
        tasks,
        tuple(intakes),
        types,
        nothing,
        tuple(sinks),
        tuple(edges),
        Encoder(REJECTED.avro),
        schema_id(REJECTED),
    )
