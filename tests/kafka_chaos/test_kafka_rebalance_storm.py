"""Workers that come and go all the time, one to eight to one: exact, and no partition stands still for a minute.

STREAMPROC_SEED and STREAMPROC_CHANGES change the long form.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from kafka_chaos_stage import Stage, staged, told

from tests.services.kafka import kafka_cluster

STUCK_S = 60.0


class Watch:
    """When each partition of the sources was last seen to move."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._seen = stage.committed()
        self._moved = dict.fromkeys(self._seen, time.monotonic())
        self.longest = 0.0

    def look(self) -> None:
        """Fails if one that has records left stands still for too long."""
        now = time.monotonic()
        for place, offset in self._stage.committed().items():
            if offset > self._seen.get(place, -1):
                self._moved[place] = now
            self._seen[place] = offset
        for place, since in self._moved.items():
            self.longest = max(self.longest, now - since)
            assert now - since < STUCK_S, f"{place} stands still for {now - since:.0f} s"


def storm(folder: Path, *, most: int, changes: int, every_s: float, seed: int, protocol: str) -> None:
    """Up to `most` workers, down to one, and `changes` more in between at any moment."""
    dice = random.Random(seed)
    rate = 200.0
    steps = [+1] * (most - 1) + [dice.choice((-1, +1)) for _ in range(changes)] + [-1] * most
    with (
        kafka_cluster(brokers=1) as cluster,
        staged(
            folder, cluster, "chain", seed=seed, bids=int(len(steps) * every_s * rate * 3) + 4_000, rate=rate,
            hold=0.05, settings={"group_protocol": protocol},
        ) as stage,
    ):  # fmt: skip
        notes, number = [f"seed {seed}"], 0
        stage.crew.start("worker-0")
        try:
            stage.wait_for_progress()
            watch = Watch(stage)
            for step in steps:
                alive = sorted(stage.crew.hands)
                if step > 0 and len(alive) < most:
                    number += 1
                    stage.crew.start(f"worker-{number}")
                elif step < 0 and len(alive) > 1:
                    slow = stage.crew.ask_to_end(dice.choice(alive))
                    assert not slow, slow
                notes.append(f"{len(stage.crew.hands)} workers")
                until = time.monotonic() + dice.uniform(0.2, 1.8) * every_s
                while time.monotonic() < until:
                    watch.look()
                    time.sleep(0.2)
                stage.crew.revive()
            stage.feeder.rate = 20_000.0
            stage.feeder.release()
            stage.feeder.wait(120)
            stage.drain(600)
            notes.append(
                f"{stage.crew.starts} starts, {stage.crew.all_commits} commits, longest pause {watch.longest:.1f} s"
            )
            wrong = stage.verdict()
        except AssertionError as failed:
            wrong = [str(failed)]
        print(notes[0], notes[-1])
        assert not wrong, told(folder, notes, wrong)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_workers_that_come_and_go_lose_and_double_nothing(tmp_path: Path, protocol: str) -> None:
    storm(tmp_path, most=4, changes=2, every_s=2.0, seed=7, protocol=protocol)


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_storm_of_workers_loses_and_doubles_nothing(tmp_path: Path, protocol: str) -> None:
    changes = int(os.environ.get("STREAMPROC_CHANGES", "85"))
    seed = int(os.environ.get("STREAMPROC_SEED", "7"))
    storm(tmp_path, most=8, changes=changes, every_s=6.0, seed=seed, protocol=protocol)
