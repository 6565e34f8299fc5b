"""What all parts of a simulated run share: case, dice, cluster, disk, and the record of what happened."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import xxhash

from streamproc.ports import TopicPartition
from streamproc.testing.simulation.case import Case, Variant
from streamproc.testing.simulation.cluster import Cluster
from streamproc.testing.simulation.inputs import NOW
from streamproc.testing.simulation.store import SharedStore


@dataclass(slots=True)
class Settings:
    """How a run is set up, by its seed."""

    workers: int
    strict: bool
    marker_us: int
    transaction_s: float
    late_starts: bool
    checkpoint_every_s: float
    step_rows: int
    portions: int
    preempt: float
    live: bool
    trims: bool

    @staticmethod
    def of(dice: random.Random) -> Settings:
        """Drawn from a seed."""
        return Settings(
            workers=dice.choice((1, 1, 2, 2, 3)),
            strict=dice.random() < 0.2,
            marker_us=dice.choice((0, 2_000, 60_000, 60_000, 1_500_000)),
            transaction_s=dice.choice((2.0, 8.0)),
            late_starts=dice.random() < 0.4,
            checkpoint_every_s=dice.choice((0.0, 0.0, 0.02, 1e9)),
            step_rows=dice.choice((8, 20, 60)),
            portions=dice.choice((1, 2, 3)),
            preempt=dice.choice((0.0, 0.01, 0.05)),
            live=dice.random() < 0.6,
            trims=dice.random() < 0.3,
        )


class Scene:
    """The state of a run that belongs to nobody alone.

    trace       (µs, process, what) of every request and event
    requests    the kinds of all requests, in order: faults are placed by their numbers
    ends        where each source ends, once everything has come
    fed_at      per source partition: first offset and moment of each portion
    trimmed     retention took records that no kept checkpoint needs
    input_lost  something took what a restore may need: then a worker has to stop, and say so
    """

    def __init__(self, case: Case, variant: Variant, seed: int) -> None:
        self.case = case
        self.variant = variant
        self.dice = random.Random(seed)
        self.settings = Settings.of(self.dice)
        self.cluster = Cluster(
            now=NOW,
            markers=self._marker_us,
            strict=self.settings.strict,
            transaction_us=int(self.settings.transaction_s * 1e6),
        )
        self.store = SharedStore()
        self.trace: list[tuple[int, str, str]] = []
        self.requests: list[str] = []
        self.ends: Mapping[TopicPartition, int] = {}
        self.fed_at: dict[TopicPartition, list[tuple[int, int]]] = {}
        self.slow_markers_until = -1
        self.trimmed = False
        self.input_lost = False
        sources = {place.topic for place in case.sources}
        for topic, topic_settings in case.topics.items():
            if self.settings.trims and topic in sources:
                # A source that does not keep its records for ever: workers then trim their own past too.
                topic_settings = replace(topic_settings, retention_bytes=1 << 40)
            self.cluster.create_topic(topic, topic_settings)

    def note(self, who: str, what: str) -> None:
        """Something that happened, for the trace."""
        self.trace.append((self.cluster.uptime, who, what))

    def digest(self) -> str:
        """A hash of everything that happened and of all that lies in the log at the end."""
        hashed = xxhash.xxh3_128()
        for at, who, what in self.trace:
            hashed.update(f"{at}|{who}|{what}\n".encode())
        for place, partition in sorted(self.cluster.partitions.items()):
            hashed.update(f"{place}|{partition.start}|{partition.end}|{partition.stable}\n".encode())
            for batch in partition.batches:
                hashed.update(f"{batch.counts}".encode())
                hashed.update(batch.block.offsets.tobytes())
                hashed.update(batch.block.buffer.tobytes())
        return hashed.hexdigest()

    def _marker_us(self) -> int:
        if self.cluster.uptime <= self.slow_markers_until:
            return self.dice.randrange(200_000, 1_800_000)
        return self.dice.randrange(self.settings.marker_us) if self.settings.marker_us else 0
