"""Killing workers at random moments, and holding what is left against a run that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import auction
from child import Job, work

from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.planning.topology import Topology
from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.model_versions import current_versions, learners_of
from streamproc.runtime.overlay import OverlayLog
from streamproc.runtime.replay import TopicSum, recorded_sums, replay_as_recorded, source_ends
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing.memory_log import MemoryLog

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["warm", "child"])
FAR = 1 << 62


def _serve() -> None:
    """Starts the server that forks the workers; it needs this folder on its path to find what it imports."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def started(job: Job) -> Iterator[tuple[ForkServerProcess, Connection]]:
    """A worker process at work; it is killed at the end if it still lives."""
    _serve()
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=work, args=(job, there), daemon=True)
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        here.close()


def told(here: Connection, *, within_s: float = 600.0) -> Any:
    """The next thing that a worker process tells; fails if it dies or says nothing."""
    assert here.poll(within_s), "the worker process says nothing"
    return here.recv()


def finish(job: Job) -> tuple[int, int, int]:
    """Runs a worker process to its end; gives units, steps, and steps that it ran again at first."""
    with started(job) as (process, here):
        while not isinstance(said := told(here), tuple):
            pass
        process.join(60)
        assert process.exitcode == 0
    return said[1], said[2], said[3]


def survive(folder: Path, topology: str, kills: int, seed: int, *, partitions: tuple[int, int]) -> dict[str, int]:
    """Kills a worker again and again while the sources grow, lets the last one finish, and proves all.

    Most are killed within 0.1 s of their first to twelfth commit; every fourth at any moment from its start, so
    also while it restores; now and then the checkpoints are gone before a start, so that the whole journal is restored.
    """
    dice = random.Random(seed)
    known = auction.registry()
    rows, seen = 0, {"kills": 0, "while restoring": 0, "commits": 0, "while labels waited": 0, "labels": 0}
    with EmbeddedLog(folder / "log.db") as log:
        auction.create(log, bids=partitions[0], prices=partitions[1])
        for kill in range(kills):
            binding = bind(auction.TOPOLOGIES[topology](), log, known)
            if _left(binding, log) < 4_000:
                auction.append(log, known, rows, 6_000, ahead=auction.AHEAD.get(topology, 0))
                rows += 6_000
            if dice.random() < 0.1 and kill < 50:  # later the journal is so long that it would take minutes
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            with started(Job(folder, topology, dice.getrandbits(32))) as (process, here):
                assert told(here) == "open"
                first = dice.randint(1, 12) if kill % 4 else 0
                for _ in range(first):
                    told(here)
                time.sleep(dice.uniform(0, 0.1 if kill % 4 else 0.3))
                process.kill()
                process.join()
                commits = first
                while here.poll():
                    try:
                        commits += isinstance(here.recv(), int)
                    except EOFError:
                        break
            seen["kills"] += 1
            seen["while labels waited"] += _labels_ahead(binding, log) > 100
            seen["commits"] += commits
            seen["while restoring"] += not commits and not kill % 4
        finish(Job(folder, topology, seed, close=True, sizes=(2_000, 2_000)))
        seen["labels"] = prove(auction.TOPOLOGIES[topology](), log, DirectoryCheckpoints(folder / "checkpoints"))
        assert list(log.check()) == []
    return seen


def prove(topology: Topology, log: Log, checkpoints: CheckpointStore | None = None) -> int:
    """What the killed workers left is sound, replays as recorded, and equals an undisturbed run; gives labels learned.

    With one task in each stage the payloads of each sink are the same in the same order. Learners stand where those of
    the undisturbed run do, as the killed workers' checkpoints have them.
    """
    binding = bind(topology, log, auction.registry())
    report = verify(binding, log)
    assert report.findings == []
    assert replay_as_recorded(binding, log).sums == recorded_sums(binding, log)
    calm_binding, calm = undisturbed(topology, log)
    for name, (then, now) in sums(calm_binding, calm, binding, log).items():
        assert now == then, name
    if binding.tasks == (1,) * len(binding.tasks) and all(len(stage.stage.inputs) == 1 for stage in binding.stages):
        for sink in binding.plan.sinks:
            assert payloads(log, sink.topic) == payloads(calm, sink.topic), sink.topic
    kept, now_kept = learned(calm_binding, calm, None), learned(binding, log, checkpoints)
    assert now_kept == kept
    return sum(labels for labels, *_ in now_kept)


def learned(binding: Binding, log: Log, checkpoints: CheckpointStore | None) -> list[tuple[int, str, Any]]:
    """Per task of each learner: labels learned, metrics, and its models bit for bit."""
    return [
        (one.content["labels_learned"], repr(one.content["metrics"]), dict(one.models))
        for learner in learners_of(binding)
        for one in current_versions(binding, learner, log, checkpoints)
    ]


def _labels_ahead(binding: Binding, log: Log) -> int:
    """How many labels a learner holds that came before their rows, at the most, as its last entry has it."""
    held = [0]
    for learner in learners_of(binding):
        for number in learner.tasks:
            place = TopicPartition(binding.names.tasks, number)
            end = log.end_offset(place)
            entries = [entry for _, entry in journal_entries(log, place, log.start_offset(place), end)]
            # That of a start is of no step: it has no fates.
            told = [entry.fates for entry in entries if entry.fates]
            held += [list(fates.values())[-1]["held"] for fates in told[-1:]]
    return max(held)


def undisturbed(topology: Topology, log: Log) -> tuple[Binding, Log]:
    """The same sources run in one go, in memory."""
    shared = frozenset(("bids", "prices"))
    calm = OverlayLog(log, MemoryLog(now=FAR), shared)
    binding = bind(topology, calm, auction.registry())
    Worker(binding, calm, until_end=source_ends(binding, calm), close=True).run()
    return binding, calm


def sums(left: Binding, calm: Log, right: Binding, log: Log) -> dict[str, tuple[TopicSum, TopicSum]]:
    """Rows and order-free sums per topic that leaves, of the undisturbed run and of the other."""
    nothing = TopicSum(0, "")
    then, now = recorded_sums(left, calm), recorded_sums(right, log)
    names = sorted({topic for topic in {**then, **now} if ".edge." not in topic})
    return {name: (then.get(name, nothing), now.get(name, nothing)) for name in names}


def payloads(log: Log, topic: str) -> list[bytes | None]:
    """A topic's values, partition by partition, in order."""
    out: list[bytes | None] = []
    for partition in range(log.topics()[topic].partitions):
        at, end = 0, log.end_offset(TopicPartition(topic, partition))
        while at < end:
            block = log.read(TopicPartition(topic, partition), at)
            out += [block.value(row) for row in range(len(block))]
            at = int(block.offsets[-1]) + 1
    return out


def _left(binding: Binding, log: Log) -> int:
    """How many source records nobody has consumed."""
    left = 0
    for place, end in source_ends(binding, log).items():
        done = max(log.committed(binding.names.group(stage.stage.index)).get(place, 0) for stage in binding.stages)
        left += end - done
    return left
