"""One worker or four, each a process of its own: below `ordered` they give the same rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from payments import ORDERED, PAYMENT, payments, topology

from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import TopicSum, recorded_sums, replay_as_recorded, replay_by_event_time
from streamproc.testing import MemoryLog, append_frame

HERE = Path(__file__).parent


def run(file: Path, workers: int) -> tuple[dict[str, TopicSum], dict[str, TopicSum]]:
    """Sums of the ordered sinks after a run by so many processes, and of a replay by event time."""
    registry = MemoryRegistry((PAYMENT,))
    log = EmbeddedLog(file)
    log.create_topic("payments", TopicSettings(4))
    append_frame(log, registry, "payments", PAYMENT, payments(5, 200))
    bind(topology(), log, registry)
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "run_worker.py"), str(file)]
    started = [
        subprocess.Popen([*command, f"w{n}"], cwd=HERE.parents[1], env=environment, stderr=subprocess.PIPE, text=True)
        for n in range(workers)
    ]
    for process in started:
        _, told = process.communicate(timeout=200)
        assert process.returncode == 0, told[-2_000:]
    binding = bind(topology(), log, registry)
    sums = recorded_sums(binding, log)
    assert replay_as_recorded(binding, log).sums == sums
    again, scratch, _ = replay_by_event_time(topology(), log, registry, MemoryLog(now=2**60))
    replayed = recorded_sums(again, scratch)
    log.close()
    topics = [f"pay.{name}" for name in ORDERED]
    return {topic: sums[topic] for topic in topics}, {topic: replayed[topic] for topic in topics}


def test_one_worker_four_workers_and_a_replay_give_the_same_rows_below_ordered(tmp_path: Path) -> None:
    one, replayed = run(tmp_path / "one.db", 1)
    four, _ = run(tmp_path / "four.db", 4)
    assert one == replayed
    assert one == four
    assert all(part.rows for part in one.values())
