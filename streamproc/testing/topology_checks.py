"""`check_topology`: holds a whole topology to its promises, on frames and in memory.

Live equals replay; no cut, no restart and no checkpoint shows; below `ordered`, event time alone decides; nothing is
lost. A topology that passes may be deployed, stopped, killed and replayed without its numbers changing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from streamproc.contracts.model import Contract
from streamproc.contracts.registry import MemoryRegistry, Registry
from streamproc.planning.topology import Topology
from streamproc.ports import CheckpointStore, TopicPartition
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.replay import (
    TopicSum,
    last_entries,
    recorded_sums,
    replay_as_recorded,
    replay_by_event_time,
    source_ends,
)
from streamproc.runtime.worker import Progress, Worker
from streamproc.testing.drive import prepared
from streamproc.testing.memory_checkpoints import MemoryCheckpoints
from streamproc.testing.memory_log import MemoryLog


class TopologyError(AssertionError):
    """A topology does not keep a promise; the message names the promise, the topic and both digests."""


def check_topology(
    topology: Topology,
    frames: Mapping[str, pl.DataFrame],
    /,
    *,
    registry: Registry | None = None,
    contracts: tuple[Contract, ...] = (),
    partitions: Sequence[int] = (1,),
    seeds: int = 3,
    ordered: Sequence[str] = (),
) -> dict[str, TopicSum]:
    """Runs a topology over frames in many ways and requires equal results; gives rows and digests per topic.

    partitions  of the source topics; for more than one count, sinks in `ordered` must agree over them
    seeds       how many random cuts and restarts are tried for each
    ordered     sinks below an `ordered`, whose rows depend on event time alone: equal by event time, whatever the cut
                across stages, and for each number of partitions

    Proves: a replay as recorded gives the same digests; counts add up after each commit; a worker that stops anywhere
    and goes on, with or without checkpoints, ends with the same digests; a replay by event time gives the same sums.
    Raises TopologyError (an AssertionError), or what a replay raises.
    """
    registry = registry if registry is not None else MemoryRegistry(contracts)
    ahead: dict[str, TopicSum] = {}
    for count in partitions:
        log = prepared(topology, frames, registry, partitions=count)
        binding = bind(topology, log, registry)
        whole = _sums(binding, log, _run(binding, log))
        _replayed(binding, log, whole)
        topics = [sink.topic for sink in binding.plan.sinks if sink.name in ordered]
        again, scratch, _ = replay_by_event_time(topology, log, registry, MemoryLog(now=log.now))
        _agree("replay by event time", topics, whole, recorded_sums(again, scratch))
        for seed in range(seeds):
            _cut_anywhere(topology, frames, registry, count, seed, whole, topics)
            _stopped_anywhere(topology, frames, registry, count, seed)
        if ahead:
            _agree(f"{partitions[0]} and {count} partitions", topics, ahead, whole)
        ahead = ahead or whole
    return ahead


def check_hash_seeds(module: str, call: str, *, seeds: Sequence[int] = (0, 1, 2)) -> str:
    """Calls a function in a process of its own for each PYTHONHASHSEED; what it returns must be equal.

    >>> check_hash_seeds("streamproc.event_time", "MIN_TIME.__str__", seeds=(0, 1))
    '-4611686018427387904'
    """
    code = f"import sys; sys.path[:0] = {sys.path!r}; import {module} as m; sys.stdout.write(str(m.{call}()))"
    given = {}
    for seed in seeds:
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise TopologyError(f"{module}.{call} fails under PYTHONHASHSEED={seed}: {done.stderr[-800:]}")
        given[seed] = done.stdout
    values = set(given.values())
    if len(values) != 1:
        raise TopologyError(f"{module}.{call} depends on PYTHONHASHSEED: {given}")
    return values.pop()


def require_conservation(progress: Progress) -> None:
    """Raises TopologyError unless the fates of the rows of every input of every task add up to what came in."""
    for task, inputs in progress.fates.items():
        for name, fates in inputs.items():
            parts = {fate: rows for fate, rows in fates.items() if fate != "in"}
            if fates["in"] != sum(parts.values()) or min(fates.values()) < 0:
                raise TopologyError(
                    f"conservation: {task} read {fates['in']} rows of '{name}', their fates are {parts}"
                )


def chains(binding: Binding, log: MemoryLog) -> dict[str, str]:
    """The digest chain of each task and topic, as its last journal entry that wrote to the topic has it."""
    out: dict[str, str] = {}
    for number in range(binding.task_count):
        place = TopicPartition(binding.names.tasks, number)
        for _, entry in journal_entries(log, place, log.start_offset(place), log.end_offset(place)):
            out.update({f"{number}:{topic}": digest for topic, (_, digest) in entry.outputs.items()})
    return out


class _Standing:
    """A clock that stands still: on a busy machine a worker takes turns between two restores, and cuts elsewhere."""

    def monotonic(self) -> float:
        return 0.0

    def now_us(self) -> int:
        return 0

    def sleep(self, seconds: float) -> None:
        """Nobody waits for anybody."""


def _run(
    binding: Binding,
    log: MemoryLog,
    *,
    steps: Iterator[int] | None = None,
    in_stages: bool = True,
    checkpoints: CheckpointStore | None = None,
    commits: int | None = None,
) -> Progress:
    """Works to the end of the input, or stops after so many commits."""
    done = 0

    def committed(progress: Progress, *_: object) -> None:
        nonlocal done
        require_conservation(progress)
        done += 1
        if commits is not None and done >= commits:
            worker.stop()

    worker = Worker(
        binding, log, until_end=source_ends(binding, log), close=True, in_stages=in_stages, steps=steps,
        on_commit=committed, checkpoints=checkpoints, checkpoint_every_s=0.0, clock=_Standing(),
    )  # fmt: skip
    progress = worker.run()
    require_conservation(progress)
    return progress


def _sums(binding: Binding, log: MemoryLog, progress: Progress) -> dict[str, TopicSum]:
    """What was written; every row must have left what waits, now that time has ended."""
    for task, inputs in progress.fates.items():
        for name, fates in inputs.items():
            if fates["held"]:
                raise TopologyError(f"conservation: {task} still holds {fates['held']} rows of '{name}' after the end")
    return recorded_sums(binding, log)


def _replayed(binding: Binding, log: MemoryLog, whole: Mapping[str, TopicSum]) -> None:
    report = replay_as_recorded(binding, log)
    _agree("replay as recorded", sorted(whole), whole, report.sums)
    steps = sum(entry.step for entry in last_entries(binding, log).values())
    if report.steps != steps:
        raise TopologyError(f"replay as recorded: {report.steps} steps ran again, the journal has {steps}")


def _sizes(seed: int) -> Iterator[int]:
    random = np.random.default_rng(seed)
    most = int(random.choice((1, 7, 100)))
    while True:
        yield int(random.integers(1, most + 1))


def _cut_anywhere(
    topology: Topology,
    frames: Mapping[str, pl.DataFrame],
    registry: Registry,
    count: int,
    seed: int,
    whole: Mapping[str, TopicSum],
    topics: Sequence[str],
) -> None:
    """Other cuts: equal sums of what is ordered, and of everything where no stage reads another."""
    log = prepared(topology, frames, registry, partitions=count)
    binding = bind(topology, log, registry)
    sums = _sums(binding, log, _run(binding, log, steps=_sizes(seed)))
    _replayed(binding, log, sums)
    single = len(binding.stages) == 1 and all(len(stage.stage.inputs) == 1 for stage in binding.stages)
    _agree(f"cut (seed {seed})", sorted(whole) if single else topics, whole, sums)


def _stopped_anywhere(
    topology: Topology, frames: Mapping[str, pl.DataFrame], registry: Registry, count: int, seed: int
) -> None:
    """The same cuts with and without stops between them, and with checkpoints: equal chains to the last digest."""

    def finished(stops: int, store: CheckpointStore | None) -> dict[str, str]:
        log = prepared(topology, frames, registry, partitions=count)
        binding = bind(topology, log, registry)
        random = np.random.default_rng((seed, 3))
        steps = _sizes(seed)
        for _ in range(stops):
            _run(binding, log, steps=steps, commits=int(random.integers(1, 4)), checkpoints=store)
        _run(binding, log, steps=steps, checkpoints=store)
        return chains(binding, log)

    straight = finished(0, None)
    stops = 3
    for what, store in (("restart", None), ("restart from checkpoints", MemoryCheckpoints())):
        resumed = finished(stops, store)
        for place in sorted({*straight, *resumed}):
            if straight.get(place) != resumed.get(place):
                raise TopologyError(
                    f"{what} (seed {seed}): the chain of task {place} is {straight.get(place)} without a stop, "
                    f"{resumed.get(place)} with {stops} stops"
                )


def _agree(what: str, topics: Sequence[str], left: Mapping[str, TopicSum], right: Mapping[str, TopicSum]) -> None:
    nothing = TopicSum(0, "0" * 32)
    for topic in topics:
        a, b = left.get(topic, nothing), right.get(topic, nothing)
        if a != b:
            raise TopologyError(f"{what}: '{topic}' has {a.rows} rows, sum {a.sum}, and {b.rows} rows, sum {b.sum}")
