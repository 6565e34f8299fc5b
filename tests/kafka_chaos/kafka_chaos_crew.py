"""Worker processes that are started from a warm server, killed, and started again under their names."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from kafka_chaos_worker import Job, work

_WARM = str(Path(__file__).parents[1] / "chaos")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["warm", "kafka_chaos_worker"])


def _serve() -> None:
    """Starts the server that forks the workers; it holds no client of Kafka, whose threads would not live in a fork."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*(path for path in sys.path if path), _WARM])
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@dataclass(slots=True)
class Hand:
    """A worker process, and what it told."""

    job: Job
    process: ForkServerProcess
    here: Connection
    commits: int = 0
    done: tuple[object, ...] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process.pid is not None
        return self.process.pid

    def listen(self) -> None:
        """Takes what it told since; a worker that is not listened to would stand still in the end."""
        try:
            while self.here.poll():
                said = self.here.recv()
                self.commits += isinstance(said, int)
                if isinstance(said, tuple):
                    self.done = said
        except (EOFError, OSError):
            return


class Crew:
    """Workers by name; `with Crew(job) as crew` kills at the end whoever is left. Threads may call it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.hands: dict[str, Hand] = {}
        self.starts = self.commits = 0
        self.ended: list[str] = []
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Crew:
        _serve()
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.join()
        with self._lock:
            for name in list(self.hands):
                self.kill(name)

    @property
    def all_commits(self) -> int:
        """Commits that were told of, also by those that still work."""
        with self._lock:
            return self.commits + sum(hand.commits for hand in self.hands.values())

    def start(self, name: str, **changes: object) -> Hand:
        """Starts a worker of that name."""
        with self._lock:
            here, there = CONTEXT.Pipe(duplex=False)
            job = replace(self.job, member=name, **changes)  # type: ignore[arg-type]
            process = CONTEXT.Process(target=work, args=(job, there), daemon=True)
            process.start()
            there.close()
            self.starts += 1
            self.hands[name] = Hand(job, process, here)
            return self.hands[name]

    def wait_for_commits(self, name: str, more: int, within_s: float = 60.0) -> None:
        """Waits until a worker told of so many more commits."""
        hand, until = self.hands[name], time.monotonic() + within_s
        enough = hand.commits + more
        while hand.commits < enough:
            assert time.monotonic() < until, f"{name} committed nothing for {within_s:.0f} s"
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """Ends it with SIGKILL."""
        with self._lock:
            hand = self.hands.pop(name)
            hand.process.kill()
            hand.process.join()
            self._settle(hand)

    def ask_to_end(self, *names: str, within_s: float = 90.0) -> list[str]:
        """SIGTERM, and SIGKILL for those who do not end in time; gives the names of these, and of those that failed."""
        with self._lock:
            hands = {name: self.hands.pop(name) for name in names or tuple(self.hands)}
        for hand in hands.values():
            hand.process.terminate()
        slow = []
        until = time.monotonic() + within_s
        for name, hand in hands.items():
            while hand.process.is_alive() and time.monotonic() < until:
                hand.listen()
                hand.process.join(0.05)
            if hand.process.is_alive() or hand.process.exitcode != 0:
                slow.append(f"{name} (exit code {hand.process.exitcode})")
            hand.process.kill()
            hand.process.join()
            self._settle(hand)
        return slow

    def finish(self, *, within_s: float = 600.0) -> tuple[object, ...]:
        """Runs one worker to the end of the input, and closes time."""
        hand = self.start("finisher", finish=True)
        until = time.monotonic() + within_s
        while hand.process.is_alive() and time.monotonic() < until:
            time.sleep(0.05)
        self.kill("finisher")
        assert hand.done is not None, f"the finishing worker ended with {hand.process.exitcode}"
        return hand.done

    def revive(self) -> None:
        """Starts those again that ended by themselves, which none should: it is noted."""
        with self._lock:
            for name, hand in list(self.hands.items()):
                if not hand.process.is_alive() and not hand.job.finish:
                    self.ended.append(f"{name} ended by itself with {hand.process.exitcode}")
                    self.kill(name)
                    self.start(name)

    def _settle(self, hand: Hand) -> None:
        hand.listen()
        self.commits += hand.commits
        hand.here.close()

    def _listen(self) -> None:
        while not self._over.wait(0.05):
            with self._lock:
                for hand in self.hands.values():
                    hand.listen()
