"""What is simulated: a topology, bound once, with variants of its input and what an undisturbed run makes of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from streamproc.contracts.registry import Registry
from streamproc.graph import Source
from streamproc.planning.plan import Plan
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicPartition, TopicSettings
from streamproc.runtime.binding import Binding, bind, plan_topology
from streamproc.runtime.future import FutureVerdicts
from streamproc.runtime.reading import read_blocks
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing.memory_log import MemoryLog
from streamproc.testing.simulation.inputs import NOW, Inputs, random_inputs

_ROW_BY_ROW: Final = frozenset(
    ("where", "with_columns", "select", "rename", "drop", "require", "explode", "union", "key_by", "stateless")
)

Payloads = Mapping[str, Counter[bytes | None]]
"""The values in each topic and how often each is there."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One input with what has to come of it."""

    inputs: Inputs
    payloads: Payloads


@dataclass(slots=True)
class Case:
    """A topology on topics of so many partitions.

    given    makes the input of a variant; by default random rows of the contracts
    compared topics whose rows do not depend on how input was cut, shared out and merged: below `ordered`, or row by row
    """

    topology: Topology
    registry: Registry
    partitions: int = 1
    rows: int = 60
    given: Callable[[Plan, Registry, int, int], Inputs] | None = None
    plan: Plan = field(init=False)
    binding: Binding = field(init=False)
    topics: dict[str, TopicSettings] = field(init=False)
    compared: tuple[str, ...] = field(init=False)
    _variants: dict[int, Variant] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = plan_topology(self.topology, self.registry)
        log = MemoryLog()
        for topic in sorted({n.origin.topic for n in self.plan.sources if isinstance(n.origin, Source)}):
            log.create_topic(topic, TopicSettings(self.partitions))
        self.binding = bind(self.topology, log, self.registry)
        self.topics = log.topics()
        self.compared = (
            *(sink.topic for sink in self.plan.sinks if _settled(self.plan, sink.port[0])),
            self.binding.names.dead_letters,
        )

    @property
    def sources(self) -> list[TopicPartition]:
        """Partitions that rows come in by."""
        topics = sorted({n.origin.topic for n in self.plan.sources if isinstance(n.origin, Source)})
        return [TopicPartition(topic, number) for topic in topics for number in range(self.partitions)]

    def variant(self, number: int) -> Variant:
        """The input of that number and what an undisturbed run makes of it; made when it is first asked for."""
        if number not in self._variants:
            if self.given is not None:
                inputs = self.given(self.plan, self.registry, number, self.partitions)
            else:
                inputs = random_inputs(self.plan, self.registry, number, rows=self.rows, partitions=self.partitions)
            self._variants[number] = Variant(inputs, self._calm(inputs))
        return self._variants[number]

    def _calm(self, inputs: Inputs) -> Payloads:
        log = MemoryLog()
        for topic, settings in self.topics.items():
            log.create_topic(topic, settings)
        transaction = log.producer("inputs").begin()
        for block in inputs.blocks.values():
            transaction.append(block)
        transaction.commit()
        ends = source_ends(self.binding, log)
        future = FutureVerdicts(lambda: NOW)
        Worker(self.binding, log, until_end=ends, close=True, in_stages=True, future=future).run()
        return payloads(log, self.compared, self.binding.names.dead_letters)


def payloads(log: Log, topics: tuple[str, ...], counted: str) -> dict[str, Counter[bytes | None]]:
    """What lies in topics; of the topic `counted` only how many records, for they name offsets."""
    out: dict[str, Counter[bytes | None]] = {}
    for topic in topics:
        found: Counter[bytes | None] = Counter()
        for block in read_blocks(log, topic):
            if topic == counted:
                found[None] += len(block)
            else:
                found.update(block.value(row) for row in range(len(block)))
        out[topic] = found
    return out


def _settled(plan: Plan, rank: int) -> bool:
    """Whether a step's rows depend on event time alone, or on single rows alone."""

    # A partition that is called idle lets time pass its rows: what is late then depends on when it was called so.
    verdicts = any(isinstance(n.origin, Source) and n.origin.idle_after_us is not None for n in plan.sources)

    def by_rows(rank: int) -> bool:
        node = plan.nodes[rank]
        if isinstance(node.origin, Source):
            return True
        return node.origin.verb in _ROW_BY_ROW and all(by_rows(r) and port == "rows" for r, port in node.inputs)

    def by_time(rank: int) -> bool:
        node = plan.nodes[rank]
        if isinstance(node.origin, Source) or verdicts:
            return False
        if node.origin.verb == "ordered":
            return all(by_rows(r) or by_time(r) for r, _ in node.inputs)
        return all(by_time(r) and port == "rows" for r, port in node.inputs)

    return by_rows(rank) or by_time(rank)
