"""A run from beginning to verdict: brokers, topics, workers, producer, concurrent reader."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kafka_chaos_topology as world
from kafka_chaos_crew import Crew
from kafka_chaos_feed import Feeder, Reader, read_all, stable_ends
from kafka_chaos_verdict import judge, same, schemas, verified
from kafka_chaos_worker import Job, Place

from streamproc.errors import LogUnavailable
from streamproc.ports import Log
from streamproc.runtime.binding import Binding, bind
from tests.services.kafka import KafkaCluster

SESSION_S = 6.0
BACK_S = 60.0
"""After the last fault every partition moves again within so long."""


@dataclass(slots=True)
class Stage:
    """A topology on a cluster while it runs."""

    topology: str
    cluster: KafkaCluster
    place: Place
    folder: Path
    binding: Binding
    feeder: Feeder
    reader: Reader
    crew: Crew
    log: Log
    notes: list[str] = field(default_factory=list)

    def committed(self) -> dict[tuple[str, int], int]:
        """How far each partition of the sources was consumed, by committed offsets."""
        found: dict[tuple[str, int], int] = {}
        for stage in self.binding.stages:
            group = self.binding.names.group(stage.stage.index)
            with suppress(LogUnavailable):
                for place, offset in self.log.committed(group).items():
                    if place.topic in world.PARTITIONS:
                        found[place] = min(offset, found.get(place, offset))
        return found

    def wait_for_progress(self, within_s: float = BACK_S, *, everywhere: bool = False) -> float:
        """Waits until each partition of the sources that has records left was consumed further; gives the seconds.

        everywhere  also those that have none left: somebody must be producing
        """
        began, before = time.monotonic(), self.committed()
        left = set(before)
        if not everywhere:
            ends = stable_ends(self.cluster.client(), self.sources)
            left = {place for place, end in ends.items() if before.get(place, 0) < end}
        while left:
            now = self.committed()
            left = {place for place in left if now.get(place, 0) <= before.get(place, 0)}
            spent = time.monotonic() - began
            assert not left or spent < within_s, f"{sorted(left)} stand still for {spent:.0f} s"
            time.sleep(0.2)
        return time.monotonic() - began

    def drain(self, within_s: float) -> float:
        """Waits until everything in the sources is consumed; gives the seconds."""
        began = time.monotonic()
        ends = stable_ends(self.cluster.client(), self.sources)
        while left := {place: end for place, end in ends.items() if self.committed().get(place, 0) < end}:
            assert time.monotonic() - began < within_s, f"not consumed within {within_s:.0f} s: {left}"
            self.crew.revive()
            time.sleep(0.5)
        return time.monotonic() - began

    def verdict(self) -> list[str]:
        """Ends the workers, closes time, and tells everything that is wrong with what the topics hold."""
        wrong = [f"did not end when asked: {name}" for name in self.crew.ask_to_end()]
        self.crew.finish()
        client, topics = self.cluster.client(), self.topics
        found = read_all(client, [*topics, *world.PARTITIONS])
        schema = schemas(self.binding)
        wrong += judge(self.topology, found, schema, produced=self.feeder.values)
        self.reader.read_to(stable_ends(client, topics), 120)
        wrong += [f"concurrent reader: {line}" for line in self.reader.wrong]
        wrong += [f"concurrent reader: {line}" for line in same(self.reader.values, found)]
        wrong += [f"verify: {line}" for line in verified(self.topology, self.place)]
        return wrong + self.crew.ended

    @property
    def sources(self) -> list[str]:
        """The topics that the topology reads."""
        return [topic for topic in world.PARTITIONS if topic in self.binding.partitions]

    @property
    def topics(self) -> list[str]:
        """What the topology delivers to others."""
        names = self.binding.names
        return [*world.SINKS[self.topology], names.late, names.dead_letters]


@contextmanager
def staged(
    folder: Path, cluster: KafkaCluster, topology: str, *, seed: int, bids: int, rate: float, hold: float = 0.0,
    settings: Mapping[str, Any] | None = None, brokers: str = "", **job: Any,
) -> Iterator[Stage]:  # fmt: skip
    """A topology on an empty cluster: topics are there, producer and reader run, no worker yet.

    brokers  where the workers find the cluster, if not where everybody does
    """
    place = Place(brokers=cluster.bootstrap, settings=dict(settings or {}))
    log = place.open()
    try:
        world.create(log)
        binding = bind(world.TOPOLOGIES[topology](), log, world.registry())
    finally:
        log.close()
    own = Place(brokers=brokers or cluster.bootstrap, settings=place.settings)
    feeder = Feeder(cluster.client(), seed=seed, bids=bids, rate=rate, hold=hold)
    names = [*world.SINKS[topology], binding.names.late, binding.names.dead_letters]
    reader = Reader(cluster.client(), names)
    with ExitStack() as stack:
        crew = stack.enter_context(Crew(Job(folder, own, topology, "", **job)))
        stack.enter_context(reader)
        stack.enter_context(feeder)
        looking = place.open()
        stack.callback(looking.close)
        yield Stage(topology, cluster, place, folder, binding, feeder, reader, crew, looking)


def told(folder: Path, notes: list[str], wrong: list[str], *, most: int = 40) -> str:
    """Writes what was done beside the workers' logs, and gives the message of a failed run."""
    (folder / "faults.log").write_text("\n".join(notes) + "\n")
    lines = [*wrong[:most], f"faults and workers' logs: {folder}", *notes[:1], *notes[-20:]]
    return "\n".join(lines)
