"""A reader of committed records beside a simulated run: what it saw once has to stay."""

from __future__ import annotations

from streamproc.ports import TopicPartition
from streamproc.testing.simulation.scene import Scene


class Reader:
    """Reads what is compared, portion by portion."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._seen: dict[TopicPartition, tuple[int, list[bytes | None]]] = {}

    def look(self) -> None:
        """Reads on from where it stood."""
        case = self._scene.case
        for topic in case.compared:
            for number in range(case.topics[topic].partitions):
                place = TopicPartition(topic, number)
                at, seen = self._seen.setdefault(place, (0, []))
                partition = self._scene.cluster.partitions[place]
                if partition.stable > at:
                    block = partition.read(max(at, partition.start), 1 << 20, 1 << 40)
                    seen += [block.value(row) for row in range(len(block))]
                    self._seen[place] = (partition.stable, seen)

    def finding(self) -> str | None:
        """A record that was seen and is not what lies there now."""
        for place, (_, seen) in sorted(self._seen.items()):
            partition = self._scene.cluster.partitions[place]
            block = partition.read(partition.start, 1 << 20, 1 << 40)
            now = [block.value(row) for row in range(len(block))]
            if seen[len(seen) - len(now) :] != now:
                return f"{place.topic}-{place.partition}: a reader saw {len(seen)} records, and {len(now)} are there"
        return None
