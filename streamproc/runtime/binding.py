"""A topology bound to a log and a registry: planned, its topics in place, its stages compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from streamproc.contracts.derive import contract_of
from streamproc.contracts.model import Contract, Schema
from streamproc.contracts.registry import Registry, version_before
from streamproc.engine.compiled import CompiledStage, Names, compile_stage
from streamproc.engine.rejects import REJECTED
from streamproc.errors import ForeignFingerprint, UnknownContract, UnknownTopic, did_you_mean
from streamproc.graph import Source
from streamproc.planning.build import build_plan
from streamproc.planning.ownership import check_owners
from streamproc.planning.plan import Plan
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicSettings

_FEEDBACK: Final = TopicSettings(1, append_time=True)


@dataclass(frozen=True, slots=True)
class Binding:
    """A plan with everything that it needs to run on one log.

    tasks       number of tasks of each stage
    partitions  partition counts of the topics that it reads and writes
    """

    plan: Plan
    names: Names
    registry: Registry
    stages: tuple[CompiledStage, ...]
    tasks: tuple[int, ...]
    partitions: Mapping[str, int]

    @property
    def task_count(self) -> int:
        """All tasks, which is the number of partitions of the task topic."""
        return sum(self.tasks)

    def task_of(self, number: int) -> tuple[CompiledStage, int]:
        """Stage and partition of a partition of the task topic: tasks are numbered stage by stage."""
        for stage, count in zip(self.stages, self.tasks, strict=True):
            if number < count:
                return stage, number
            number -= count
        raise IndexError(number)

    def number_of(self, stage: int, task: int) -> int:
        """The partition of the task topic that is the journal of a task."""
        return sum(self.tasks[:stage]) + task


def plan_topology(topology: Topology, registry: Registry) -> Plan:
    """The plan of a topology; sinks without a contract get one derived from their columns, owned by the topology.

    Raises what `build_plan` raises, and NotOwned where it writes what is another's, see `planning.ownership`.
    """

    def derive(name: str, schema: Schema) -> Contract:
        return contract_of(name, schema, owner=topology.owner, scope=(topology.scope,) if topology.scope else ())

    plan = build_plan(topology, registry.contract, derive)
    check_owners(plan, registry.approvals(), lambda contract: version_before(registry, contract))
    return plan


def bind(
    topology: Topology,
    log: Log,
    registry: Registry,
    *,
    create: bool = True,
    run: str = "",
    partitions: Mapping[str, int] | None = None,
) -> Binding:
    """Plans a topology and compiles it for a log; creates the topics that it writes, unless told not to.

    run         the id of a run beside the live one, with journal, internal topics, groups and sinks of its own
    partitions  by topic, how many partitions to work with where it is not all of them: those that a version began with

    Raises UnknownTopic for a source that the log does not have, naming the command that fills it, and
    ForeignFingerprint if the version began on other partition counts.
    """
    plan = plan_topology(topology, registry)
    names = Names(topology.name, topology.version, run)
    topics = there = log.topics()
    if run:
        plan, topics = _beside(plan, names, topics)
    known = partitions or {}
    partitions = {}
    for node in plan.sources:
        if not isinstance(node.origin, Source):
            continue
        topic = node.origin.topic
        if topic not in topics and node.origin.feedback and create:
            # Nobody can have answered yet: what was asked for is told by this topology first.
            log.create_topic(topic, _FEEDBACK)
            topics = {**topics, topic: _FEEDBACK}
        if topic not in topics:
            raise UnknownTopic(
                f"source '{topic}' of topology '{topology.name}': the log has no such topic",
                hint=f"fill it with 'streamproc produce FILE {topic} --contract {node.contract}'; "
                f"{did_you_mean(topic, [t for t in topics if '.v' not in t])}",
            )
        partitions[topic] = known.get(topic, topics[topic].partitions)
    tasks = plan.tasks_of(partitions)
    _check_partitions(plan, names, topics, partitions, sum(tasks))
    wanted: dict[str, TopicSettings] = {}
    for stage in plan.stages:
        for sink in stage.sinks:
            have = topics.get(sink.topic)
            count = have.partitions if have is not None else tasks[stage.index]
            partitions[sink.topic] = known.get(sink.topic, count)
            retention = sink.contract.retention_us
            wanted[sink.topic] = (
                have
                if have is not None
                else TopicSettings(
                    partitions[sink.topic],
                    retention_us=None if sink.latest else retention,
                    compacted=sink.latest,
                    append_time=True,
                )
            )
        for edge in stage.edges:
            wanted[names.edge(edge.name)] = TopicSettings(
                tasks[edge.from_stage] * tasks[edge.to_stage], append_time=True
            )
    wanted[names.late] = topics.get(names.late, TopicSettings(1, append_time=True))
    wanted[names.dead_letters] = topics.get(names.dead_letters, TopicSettings(1, append_time=True))
    wanted[names.tasks] = TopicSettings(sum(tasks), append_time=True)
    if create:
        for topic, settings in wanted.items():
            if there.get(topic) != settings:
                log.create_topic(topic, settings)
    else:
        missing = sorted(set(wanted) - set(there))
        if missing:
            raise UnknownTopic(
                f"topology '{topology.name}' writes topics that the log does not have: {', '.join(missing)}",
                hint="create them, or run without --no-create",
            )

    def lookup(schema_id: int) -> Mapping[str, object] | None:
        try:
            return registry.schema_of(schema_id)
        except UnknownContract:
            return None

    registry.adopt(REJECTED)
    for node in plan.sources:
        if isinstance(node.origin, Source) and isinstance(node.origin.contract, Contract) and node.origin.feedback:
            registry.adopt(node.origin.contract)
    stages = tuple(
        compile_stage(plan, stage, names, partitions=partitions, lookup=lookup, schema_id=registry.adopt)
        for stage in plan.stages
    )
    return Binding(plan, names, registry, stages, tasks, partitions)


def _beside(plan: Plan, names: Names, topics: Mapping[str, TopicSettings]) -> tuple[Plan, dict[str, TopicSettings]]:
    """The plan with sinks of its own, and the topics with these as they are or, not there yet, as the live ones are."""
    moved = {sink.topic: names.sink(sink.topic) for sink in plan.sinks}
    known = dict(topics)
    for live, own in moved.items():
        if live in topics and own not in topics:
            known[own] = topics[live]
    stages = tuple(
        replace(stage, sinks=tuple(replace(sink, topic=moved[sink.topic]) for sink in stage.sinks))
        for stage in plan.stages
    )
    return replace(plan, stages=stages), known


def _check_partitions(
    plan: Plan, names: Names, topics: Mapping[str, TopicSettings], partitions: Mapping[str, int], tasks: int
) -> None:
    have = topics.get(names.tasks)
    if have is None or have.partitions == tasks:
        return
    counts = ", ".join(f"'{topic}' has {count}" for topic, count in sorted(partitions.items()))
    raise ForeignFingerprint(
        f"version {names.version} of '{names.topology}' began with {have.partitions} tasks, and now there are {tasks}, "
        f"because the partitions of its sources changed ({counts}): keys would find their state elsewhere",
        hint=f"choose: (a) give the topology version={names.version + 1}, and 'streamproc rescale' ends this one on "
        "the partitions that it began with and lets the new one go on, with state computed from history; (b) give the "
        "sources back their partitions; (c) begin the new version without history, with 'streamproc run "
        f"{names.topology} --from latest'",
    )
