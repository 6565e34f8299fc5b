"""The end of a transaction that arrives late, after the client has sent it again: nothing torn, lost or resurrected.

STREAMPROC_ROUNDS and STREAMPROC_SEED change the long form: rounds are ends whose connection was cut.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from kafka_chaos_proxy import EndTxnProxy
from kafka_chaos_stage import staged, told

from tests.services.kafka import kafka_cluster


def delay(folder: Path, topology: str, *, rounds: int, seed: int, longest_s: float, within_s: float) -> None:
    """Workers behind a proxy that holds ends of transactions until so many were late."""
    with (
        kafka_cluster(brokers=1) as cluster,
        EndTxnProxy(cluster.proxy_targets, seed=seed, longest_s=longest_s) as proxy,
        staged(
            folder, cluster, topology, seed=seed, bids=rounds * 2_000 + 4_000, rate=150.0, hold=0.1,
            brokers=cluster.proxied_bootstrap,
        ) as stage,
    ):  # fmt: skip
        for name in ("worker-0", "worker-1"):
            stage.crew.start(name)
        try:
            stage.wait_for_progress()
            proxy.share = 0.6
            until = time.monotonic() + within_s
            while proxy.counts["late"] < rounds:
                assert time.monotonic() < until, f"only {proxy.counts['late']} ends were late within {within_s:.0f} s"
                stage.crew.revive()
                time.sleep(0.1)
            proxy.share = 0.0
            stage.feeder.rate = 20_000.0
            stage.feeder.release()
            stage.feeder.wait(120)
            stage.drain(600)
            wrong = stage.verdict()
        except AssertionError as failed:
            wrong = [str(failed)]
        notes = [f"seed {seed}", *proxy.notes, f"{dict(proxy.counts)}, {stage.crew.all_commits} commits"]
        print(notes[0], notes[-1])
        assert not wrong, told(folder, notes, wrong)


@pytest.mark.long
def test_ends_that_arrive_late_do_not_end_the_next_transaction(tmp_path: Path) -> None:
    delay(tmp_path, "flat", rounds=10, seed=5, longest_s=3.0, within_s=300)


@pytest.mark.long
def test_many_ends_that_arrive_late_do_not_end_the_next_transaction(tmp_path: Path) -> None:
    rounds = int(os.environ.get("STREAMPROC_ROUNDS", "500"))
    delay(
        tmp_path, "chain", rounds=rounds, seed=int(os.environ.get("STREAMPROC_SEED", "5")), longest_s=25.0,
        within_s=rounds * 20.0,
    )  # fmt: skip
