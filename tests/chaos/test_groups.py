"""Several workers on one log: they share the tasks, outlive each other, and none of their work counts twice."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import auction
from child import Job
from killing import finish, prove, started, told

from connectors.embedded import EmbeddedLog
from streamproc.runtime.binding import bind

ROWS = 4_000


def fill(folder: Path, rows: int = ROWS) -> None:
    """Both sources, three and two partitions, and the topics of the topology."""
    with EmbeddedLog(folder / "log.db") as log:
        known = auction.registry()
        auction.create(log, bids=3, prices=2)
        auction.append(log, known, 0, rows)
        bind(auction.wide(), log, known)


def job(folder: Path, number: int, *, until_end: bool = True, close: bool = False) -> Job:
    """A worker of its own name; one that runs until it is stopped has a short lease."""
    return Job(
        folder,
        "wide",
        number,
        member=f"worker-{number}",
        sizes=(200, 400),
        until_end=until_end,
        close=close,
        lease_s=10.0 if until_end else 1.0,
    )


def test_three_workers_that_are_killed_and_stopped_past_their_lease_do_the_work_of_one(tmp_path: Path) -> None:
    fill(tmp_path)
    dice = random.Random(5)
    with ExitStack() as stack:
        workers = [stack.enter_context(started(job(tmp_path, number, until_end=False))) for number in range(3)]
        for _, said in workers:
            assert told(said) == "open"
        # Whoever is there first does all that there is: rows come until each has had some.
        _append_until_both_commit(tmp_path, [said for _, said in workers[:2]])
        time.sleep(dice.uniform(0, 0.1))
        zombie = workers[0][0].pid or 0
        os.kill(zombie, signal.SIGSTOP)
        workers[1][0].kill()
        # Longer than the lease: the third one gets all tasks meanwhile.
        time.sleep(2.5)
        os.kill(zombie, signal.SIGCONT)
        time.sleep(1.5)
        for process in (workers[0][0], workers[2][0]):
            process.terminate()
        for process in (workers[0][0], workers[2][0]):
            process.join(60)
            assert process.exitcode == 0, "SIGTERM ends it after its commit; a lost lease does not end it at all"
    finish(job(tmp_path, 9, close=True))
    with EmbeddedLog(tmp_path / "log.db") as log:
        prove(auction.wide(), log)


def _append_until_both_commit(folder: Path, said: list[Connection]) -> None:
    with EmbeddedLog(folder / "log.db") as log:
        rows, until = ROWS, time.monotonic() + 120
        while not all(one.poll() for one in said):
            assert time.monotonic() < until, "a worker commits nothing though rows come"
            auction.append(log, auction.registry(), rows, 600)
            rows += 600
            time.sleep(0.1)


def test_all_of_several_finite_workers_end_and_time_is_closed_once(tmp_path: Path) -> None:
    fill(tmp_path)
    with ExitStack() as stack:
        workers = [stack.enter_context(started(job(tmp_path, number, close=True))) for number in range(3)]
        for process, said in workers:
            while not isinstance(told(said), tuple):
                pass
            process.join(60)
            assert process.exitcode == 0
    with EmbeddedLog(tmp_path / "log.db") as log:
        prove(auction.wide(), log)
