"""Exactly once on three real brokers, while workers are killed and brokers are killed, restarted and frozen.

The verdict comes from topics alone: what the sources hold, put through an independent naive computation, must be what
the sinks hold, row for row, for a reader at the end and for one that read all the while; `verify` must agree.
STREAMPROC_SEED, STREAMPROC_SECONDS and STREAMPROC_EVENTS change the long form.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kafka_chaos_faults import ROLES, Faults
from kafka_chaos_stage import staged, told

from tests.services.kafka import kafka_cluster

WORKERS = 4


def survive(
    folder: Path, topology: str, *, seed: int, seconds: float, bids: int, kill_every_s: float, bounce_every_s: float,
    pause_every_s: float, pause_s: tuple[float, float], bounces: int = 2,
) -> None:  # fmt: skip
    """A run under faults, and its verdict; `bounces` of brokers strike at least."""
    rate = bids / seconds / 1.1
    with (
        kafka_cluster(brokers=3) as cluster,
        staged(folder, cluster, topology, seed=seed, bids=bids, rate=rate) as stage,
    ):
        for number in range(WORKERS):
            stage.crew.start(f"worker-{number}")
        # On a new machine the first workers compile the kernels, and one that is killed meanwhile keeps none.
        stage.wait_for_progress(300, everywhere=True)
        names = stage.binding.names
        faults = Faults(
            cluster,
            stage.crew,
            seed=seed,
            group=names.workers,
            topic=names.tasks,
            transactional_id=f"{names.topology}.v{names.version}.live.worker-0",
        )
        try:
            faults.run(
                seconds,
                kill_every_s=kill_every_s,
                bounce_every_s=bounce_every_s,
                pause_every_s=pause_every_s,
                pause_s=pause_s,
                bounces=bounces,
            )
            done = sum(stage.committed().values())
            faults.note(f"{done} of {stage.feeder.sent} rows were consumed under faults")
            faults.note(f"progress after {stage.wait_for_progress():.1f} s")
            stage.feeder.wait(120)
            faults.note(f"everything consumed after {stage.drain(600):.1f} s")
            wrong = stage.verdict()
        except AssertionError as failed:
            wrong = [str(failed)]
        faults.note(f"{dict(faults.counts)}, {stage.crew.starts} starts, {stage.crew.commits} commits")
        print("\n".join(faults.notes[-4:]))
        assert not wrong, told(folder, faults.notes, wrong)
        for fault in ("kills", "kill", "restart", "pause", *ROLES):
            assert faults.counts[fault], f"no fault of the kind '{fault}' struck, so nothing is proved of it"
        assert faults.counts["bounces"] >= bounces


def test_killed_workers_and_brokers_lose_and_double_nothing(tmp_path: Path) -> None:
    survive(
        tmp_path, "both", seed=11, seconds=60, bids=100_000, kill_every_s=5, bounce_every_s=16, pause_every_s=16,
        pause_s=(5, 7),
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("topology", ["chain", "flat"])
def test_killed_workers_and_brokers_lose_and_double_nothing_in_ten_minutes(topology: str, tmp_path: Path) -> None:
    survive(
        tmp_path, topology, seed=int(os.environ.get("STREAMPROC_SEED", "1")),
        seconds=float(os.environ.get("STREAMPROC_SECONDS", "600")),
        bids=int(os.environ.get("STREAMPROC_EVENTS", "1000000")),
        kill_every_s=3, bounce_every_s=14, pause_every_s=24, pause_s=(5, 40), bounces=30,
    )  # fmt: skip
