"""A checkpoint is due when its own task has worked so long, whatever the tasks beside it do."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from payments import PAYMENT, payments, simple

from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import Block, CheckpointManifest, TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.clock import SystemClock
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame

TASKS = 4


class Hurried(SystemClock):
    """A clock that stands unless it is put forward: what else the machine does must not count as work."""

    ahead = 0.0

    def monotonic(self) -> float:
        return self.ahead


class SlowLog(EmbeddedLog):
    """An embedded log whose source takes a second to read, by a clock."""

    clock: Hurried

    def read(
        self, partition: TopicPartition, offset: int, *, max_records: int = 65_536, max_bytes: int = 16 << 20
    ) -> Block:
        """Records from an offset on."""
        if partition.topic == "payments":
            self.clock.ahead += 1.0
        return super().read(partition, offset, max_records=max_records, max_bytes=max_bytes)


class Counted(DirectoryCheckpoints):
    """Checkpoints whose tasks are noted, in order."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.saved: list[str] = []

    def put_manifest(self, manifest: CheckpointManifest) -> None:
        self.saved.append(manifest.task)
        super().put_manifest(manifest)


def test_four_tasks_that_work_a_second_each_are_not_charged_for_each_other(tmp_path: Path) -> None:
    registry = MemoryRegistry((PAYMENT,))
    with SlowLog(tmp_path / "log.db") as log:
        log.clock = Hurried()
        log.create_topic("payments", TopicSettings(TASKS))
        append_frame(log, registry, "payments", PAYMENT, payments(5, 400).with_columns(card=pl.format("c{}", "id")))
        binding = bind(simple(), log, registry)
        store = Counted(tmp_path / "checkpoints")
        worker = Worker(
            binding, log, until_end=source_ends(binding, log), checkpoints=store, checkpoint_every_s=1.5,
            clock=log.clock, steps=iter([5, 5, 5]), lease_s=1_000.0,
        )  # fmt: skip
        worker.open()
        worker.turn()
        assert worker.progress.steps == TASKS
        assert store.saved == [], "each has worked one second"
        worker.checkpointing.every_s = 0.9
        worker.turn()
        assert len(store.saved) == len(set(store.saved)) == TASKS, "that is more than nine tenths of one"
        worker.close(save=False)
