"""A log in memory, for tests and scratch runs: the simulated log on which nothing goes wrong and nothing takes time.

Markers of transactions take no offset here, so offsets are counted as a test counts rows.
"""

from __future__ import annotations

import numpy as np

from streamproc.ports import Block, TopicPartition
from streamproc.testing.simulation.cluster import Cluster
from streamproc.testing.simulation.log import SimulatedLog


class MemoryLog(SimulatedLog):
    """A log for one process; `now` (µs) stamps appended records: it is set, and moves for who waits for the log."""

    def __init__(self, *, now: int = 0) -> None:
        super().__init__(Cluster(now=now, control_records=False))

    @property
    def now(self) -> int:
        """The moment that new records are stamped with."""
        return self.cluster.now

    @now.setter
    def now(self, us: int) -> None:
        self.cluster.now = us

    def replace_block(self, partition: TopicPartition, block: Block) -> None:
        """Puts records in place of the stored ones at their offsets: tampering, for tests of audits."""
        stored = self.cluster.at(partition)
        for batch in stored.batches:
            if batch.first == int(block.offsets[0]) and np.array_equal(batch.block.offsets, block.offsets):
                batch.block = block
                return
        raise ValueError(f"no stored batch has the offsets of the block for {partition}")
