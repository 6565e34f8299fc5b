"""The process that the chaos tests kill: one worker of a topology, cut into steps of random sizes."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from auction import TOPOLOGIES, registry

from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker


@dataclass(frozen=True)
class Job:
    """What a worker process is to do.

    sizes      bounds of the random step sizes, in units
    every_s    a checkpoint of a task after so much work
    until_end  stop at the end of what is in the sources; else run until a signal
    """

    folder: Path
    topology: str
    seed: int
    member: str = "worker-0"
    sizes: tuple[int, int] = (20, 400)
    every_s: float = 0.02
    until_end: bool = True
    close: bool = False
    lease_s: float = 10.0


def step_sizes(seed: int, bounds: tuple[int, int]) -> Iterator[int]:
    """Endless random sizes."""
    dice = random.Random(seed)
    while True:
        yield dice.randint(*bounds)


def work(job: Job, told: Connection) -> None:
    """Runs the worker; tells "open" before it joins, the units done after each commit, and its report at the end."""
    with EmbeddedLog(job.folder / "log.db") as log:
        binding = bind(TOPOLOGIES[job.topology](), log, registry())
        worker = Worker(
            binding,
            log,
            checkpoints=DirectoryCheckpoints(job.folder / "checkpoints"),
            member=job.member,
            until_end=source_ends(binding, log) if job.until_end else None,
            close=job.close,
            checkpoint_every_s=job.every_s,
            steps=step_sizes(job.seed, job.sizes),
            lease_s=job.lease_s,
            on_commit=lambda progress: told.send(progress.units),
        )
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        told.send("open")
        progress = worker.run()
        told.send(("done", progress.units, progress.steps, progress.restored_steps))
