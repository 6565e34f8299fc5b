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

MOST_S = 60.0
"""A frozen worker's partitions move again within so long: its session and the transaction that it left open run out."""


def raise_the_dead(folder: Path, *, rounds: int, seed: int, protocol: str) -> None:
    """Freezes one of two workers past its session, again and again, at any moment of its work."""
    dice = random.Random(seed)
    with (
        kafka_cluster(brokers=1) as cluster,
        staged(
            folder, cluster, "chain", seed=seed, bids=rounds * 6_000 + 4_000, rate=100.0, hold=0.05,
            settings={"group_protocol": protocol},
        ) as stage,
    ):  # fmt: skip
        names = ("worker-0", "worker-1")
        for name in names:
            stage.crew.start(name)
        notes, longest = [f"seed {seed}"], 0.0
        try:
            stage.wait_for_progress()
            for number in range(rounds):
                frozen = dice.choice(names)
                # Whoever has just come back holds nothing that it could write for.
                for name in names:
                    stage.crew.wait_for_commits(name, dice.randint(1, 8))
                time.sleep(dice.uniform(0.0, 1.0))
                began = time.monotonic()
                os.kill(stage.crew.hands[frozen].pid, signal.SIGSTOP)
                # Every partition goes on without it: the other one has them all.
                spent = stage.wait_for_progress(MOST_S, everywhere=True)
                longest = max(longest, spent)
                time.sleep(max(0.0, SESSION_S + 1 - (time.monotonic() - began)))
                os.kill(stage.crew.hands[frozen].pid, signal.SIGCONT)
                notes.append(f"round {number}: {frozen} stood still for {time.monotonic() - began:.1f} s")
                stage.crew.revive()
                assert not stage.crew.ended, "a worker ended by itself"
                assert not stage.feeder.rests, "nothing is left to work on, so nothing is proved"
            stage.feeder.rate = 20_000.0
            stage.feeder.release()
            stage.feeder.wait(120)
            stage.drain(600)
            wrong = stage.verdict()
        except AssertionError as failed:
            wrong = [str(failed), *stage.crew.ended]
        away = sum(log.read_text().count("begins again") for log in folder.glob("worker-*.log"))
        notes.append(
            f"{len(notes) - 1} rounds, every partition moved within {longest:.1f} s, a worker began again {away} "
            f"times, {stage.crew.all_commits} commits"
        )
        print(notes[0], notes[-1])
        assert not wrong, told(folder, notes, wrong)
        assert away >= rounds, f"only {away} times did a worker notice that it had been away"


def test_a_worker_that_was_away_past_its_session_writes_nothing_that_counts(tmp_path: Path) -> None:
    raise_the_dead(tmp_path, rounds=2, seed=3, protocol="classic")


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_many_workers_that_were_away_write_nothing_that_counts(tmp_path: Path, protocol: str) -> None:
    rounds = int(os.environ.get("STREAMPROC_ROUNDS", "100"))
    raise_the_dead(tmp_path, rounds=rounds, seed=int(os.environ.get("STREAMPROC_SEED", "3")), protocol=protocol)
