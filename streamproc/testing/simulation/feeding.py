"""Rows come in: portion by portion, each as a producer without transactions writes it, among aborted records."""

from __future__ import annotations

from collections.abc import Iterator

from streamproc.ports import Block, TopicPartition
from streamproc.testing.simulation.inputs import portions
from streamproc.testing.simulation.scene import Scene


class Feeder:
    """Writes the variant's input to the sources."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._left = self._portions()

    def _portions(self) -> Iterator[list[Block]]:
        scene = self._scene
        cuts = [scene.dice.random() for _ in range(scene.settings.portions - 1)]
        parts = [portions(cuts, block) for _, block in sorted(scene.variant.inputs.blocks.items())]
        for number in range(scene.settings.portions):
            yield [part[number] for part in parts if number < len(part) and len(part[number])]

    def next(self) -> bool:
        """The next rows of each source; in between lie records of an aborted transaction. False: there were none."""
        scene, cluster = self._scene, self._scene.cluster
        blocks = next(self._left, None)
        if blocks is None:
            return False
        for block in blocks:
            place = TopicPartition(block.topic, block.partition)
            if (
                scene.dice.random() < 0.3
                and place not in cluster.dark
                and (ticket := cluster.open_producer("feeder")) is not None
            ):
                cluster.produce(ticket, block)
                cluster.end(ticket, commit=False)
            first, _ = cluster.partitions[place].append(block, cluster.now, None)
            scene.fed_at.setdefault(place, []).append((first, cluster.uptime))
        scene.note("feeder", f"{sum(map(len, blocks))} rows")
        cluster.advance(100_000)
        return True
