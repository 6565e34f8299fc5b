"""Workers that stand still past their session and go on: their group has moved on, and nothing of theirs may count.

STREAMPROC_ROUNDS and STREAMPROC_SEED change the long form.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from kafka_chaos_stage import SESSION_S, staged, told

from tests.services.kafka import kafka_cluster


def raise_the_dead(folder: Path, *, rounds: int, seed: int, protocol: str) -> None:
    """Freezes one of two workers past its session, again and again, at any moment of its work."""
    dice = random.Random(seed)
    with (
        kafka_cluster(brokers=1) as cluster,
        staged(
            folder, cluster, "chain", seed=seed, bids=rounds * 6_000 + 4_000, rate=200.0, hold=0.05,
            settings={"group_protocol": protocol},
        ) as stage,
    ):  # fmt: skip
        names = ("worker-0", "worker-1")
        for name in names:
            stage.crew.start(name)
        notes = [f"seed {seed}"]
        moved = 0
        try:
            stage.wait_for_progress()
            for number in range(rounds):
                time.sleep(dice.uniform(1.0, 3.0))
                frozen, other = dice.sample(names, 2)
                began = time.monotonic()
                os.kill(stage.crew.hands[frozen].pid, signal.SIGSTOP)
                before = stage.committed()
                # Every partition goes on without it: the other one has them all.
                while any(offset <= before.get(place, 0) for place, offset in stage.committed().items()):
                    assert time.monotonic() - began < 60, "partitions of a frozen worker stand still"
                    time.sleep(0.1)
                time.sleep(max(0.0, SESSION_S + 1 - (time.monotonic() - began)))
                moved += stage.crew.hands[other].process.is_alive()
                os.kill(stage.crew.hands[frozen].pid, signal.SIGCONT)
                notes.append(f"round {number}: {frozen} stood still for {time.monotonic() - began:.1f} s")
                stage.crew.revive()
            stage.feeder.rate = 20_000.0
            stage.feeder.release()
            stage.feeder.wait(120)
            stage.drain(300)
            wrong = stage.verdict()
        except AssertionError as failed:
            wrong = [str(failed)]
        notes.append(f"{moved} rounds, {stage.crew.all_commits} commits")
        print(notes[0], notes[-1])
        assert not wrong, told(folder, notes, wrong)
        again = sum(log.read_text().count("begins again") for log in folder.glob("worker-*.log"))
        assert again >= rounds / 2, f"only {again} times did a worker notice that it had been away"


def test_a_worker_that_was_away_past_its_session_writes_nothing_that_counts(tmp_path: Path) -> None:
    raise_the_dead(tmp_path, rounds=2, seed=3, protocol="classic")


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_many_workers_that_were_away_write_nothing_that_counts(tmp_path: Path, protocol: str) -> None:
    rounds = int(os.environ.get("STREAMPROC_ROUNDS", "100"))
    raise_the_dead(tmp_path, rounds=rounds, seed=int(os.environ.get("STREAMPROC_SEED", "3")), protocol=protocol)
