"""Replays: the journal followed to the letter, or history computed afresh in order of event time."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamproc.contracts.registry import Registry
from streamproc.engine.compiled import Names
from streamproc.errors import InputError, InputGone, ReplayDiverged
from streamproc.graph import Source
from streamproc.planning.topology import Topology
from streamproc.ports import Block, CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding, bind, plan_topology
from streamproc.runtime.clock import SystemClock
from streamproc.runtime.divergence import Before, Divergence, accepted_in, divergences, go_on_from_what_was_written
from streamproc.runtime.future import recorded_verdicts
from streamproc.runtime.journal import Entry, journal_entries
from streamproc.runtime.overlay import OverlayLog
from streamproc.runtime.restore import last_entry, oldest_checkpoint
from streamproc.runtime.seeds import opened_state
from streamproc.runtime.task import TakenStep, Task
from streamproc.runtime.worker import Progress, Worker
from streamproc.wire import Decoder, split_frames


@dataclass(frozen=True, slots=True)
class TopicSum:
    """What was written to a topic, whatever the order: rows, and the sum of their hashes modulo 2^128 in hex."""

    rows: int
    sum: str


@dataclass(slots=True)
class ReplayReport:
    """What a replay did.

    steps     recorded steps that ran again with equal digests
    accepted  those of them that give something else, as somebody accepted: the journal has both digests
    sums      per topic, over all tasks
    """

    steps: int = 0
    units: int = 0
    accepted: int = 0
    sums: dict[str, TopicSum] = field(default_factory=dict)


def last_entries(binding: Binding, log: Log) -> dict[int, Entry]:
    """The newest journal entry of each task that has one."""
    found = {n: last_entry(log, TopicPartition(binding.names.tasks, n)) for n in range(binding.task_count)}
    return {number: entry for number, entry in found.items() if entry is not None}


def recorded_sums(binding: Binding, log: Log) -> dict[str, TopicSum]:
    """What all tasks wrote since their beginning, per topic, as the journal says."""
    return _added(entry.sums for entry in last_entries(binding, log).values())


def sums_of_all_versions(names: Names, log: Log) -> dict[str, TopicSum]:
    """What all versions of a topology wrote, per topic: they take over from each other and share their sinks."""
    pattern = re.compile(re.escape(names.topology) + r"\.v\d+\.tasks")
    places = [
        TopicPartition(topic, number)
        for topic, settings in log.topics().items()
        if pattern.fullmatch(topic)
        for number in range(settings.partitions)
    ]
    entries = [last_entry(log, place) for place in places]
    return _added(entry.sums for entry in entries if entry is not None)


def _added(parts: Any) -> dict[str, TopicSum]:
    rows: dict[str, int] = {}
    sums: dict[str, int] = {}
    for part in parts:
        for topic, (count, text) in part.items():
            rows[topic] = rows.get(topic, 0) + count
            sums[topic] = (sums.get(topic, 0) + int(text, 16)) % (1 << 128)
    return {topic: TopicSum(rows[topic], f"{sums[topic]:032x}") for topic in sorted(rows)}


def replay_as_recorded(
    binding: Binding,
    log: Log,
    *,
    checkpoints: CheckpointStore | None = None,
    from_checkpoint: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> ReplayReport:
    """Runs every recorded step again on the recorded input and compares all digests; writes nothing.

    Any build may follow any journal: that is how a change is judged before it is deployed.
    checkpoints      needed by a run that began with state from another one
    from_checkpoint  where a journal was trimmed, begin at the oldest checkpoint that it vouches for
    on_step          called with (steps done, steps of the journal)

    Raises ReplayDiverged with the first row that differs, InputChanged, InputGone (also for a trimmed journal),
    CorruptLog; InputError where there is no journal.
    """
    report = ReplayReport()
    places = [TopicPartition(binding.names.tasks, n) for n in range(binding.task_count)]
    total = sum(log.end_offset(place) - log.start_offset(place) for place in places)
    if not total:
        raise InputError(
            f"topology '{binding.names.topology}' version {binding.names.version} has no journal in this log",
            hint=f"run it first: 'streamproc run {binding.names.topology}'",
        )
    done = 0
    finals: list[Mapping[str, tuple[int, str]]] = []
    for number, place in enumerate(places):
        begun = begun_task(binding, number, log, checkpoints, from_checkpoint=from_checkpoint)
        if begun is None:
            continue
        task, after = begun
        waiting: tuple[Entry, TakenStep] | None = None
        end = log.end_offset(place)
        accepted: frozenset[Divergence] | None = None
        for offset, entry in journal_entries(log, place, after, end):
            if waiting is not None:
                # The next entry says where the step before it delivered its rows.
                raise _divergence(task, *waiting, entry, log)
            before = Before.of(task.state)
            taken = task.rerun(entry)
            if different := divergences(entry, taken):
                accepted = accepted_in(log, place, offset + 1, end) if accepted is None else accepted
                if not set(different) <= accepted:
                    waiting = (entry, taken)
                    continue
                go_on_from_what_was_written(task, entry, before)
                report.accepted += 1
            report.steps += 1
            report.units += taken.units
            done += 1
            if on_step is not None:
                on_step(done, total)
        if waiting is not None:
            raise _divergence(task, *waiting, None, log)
        finals.append(
            {
                t: (task.state.written[t], f"{h:016x}{lo:016x}")
                for t, (h, lo) in task.state.sums.items()
                if task.state.written[t]
            }
        )
    report.sums = _added(finals)
    return report


def begun_task(
    binding: Binding, number: int, log: Log, checkpoints: CheckpointStore | None, *, from_checkpoint: bool
) -> tuple[Task, int] | None:
    """A task where its journal begins, and the journal offset after that; None for a task that never ran.

    Raises InputGone for a journal that was trimmed, unless the oldest sound checkpoint will do.
    """
    place = TopicPartition(binding.names.tasks, number)
    found = next(journal_entries(log, place, log.start_offset(place), log.end_offset(place)), None)
    if found is None:
        return None
    offset, first = found
    fresh = Task(binding, number, log)
    if first.kind == "start":
        return Task(binding, number, log, state=opened_state(fresh, first.head, checkpoints)), offset + 1
    begun = oldest_checkpoint(binding, number, log, checkpoints) if from_checkpoint and checkpoints else None
    if begun is None:
        raise InputGone(
            f"the journal of {fresh.name} begins at step {first.step}: the steps before it were trimmed",
            hint="'--from-checkpoint' follows it from the oldest checkpoint that is kept; to have all of it, declare "
            'settings={"audit": "all"} before the first run; \'replay --by-event-time\' needs no journal',
        )
    return begun


def _divergence(task: Task, entry: Entry, taken: TakenStep, following: Entry | None, log: Log) -> ReplayDiverged:
    """The first record in which a step's outputs now and then differ, as an error that shows both."""
    place_of = {
        (topic, partition): (first, last)
        for topic, partition, first, last in (following.delivered if following else ())
    }
    now: dict[tuple[str, int], list[Block]] = {}
    for block in taken.output.blocks:
        now.setdefault((block.topic, block.partition), []).append(block)
    where = f"step {entry.step} of {task.name}"
    for topic, partition in sorted(set(now) | set(place_of)):
        digest = taken.output.digests.get(topic)
        if digest is not None and (digest[0], digest[1].hex()) == entry.outputs.get(topic):
            continue
        new = [
            value
            for block in now.get((topic, partition), [])
            for value in (block.value(row) for row in range(len(block)))
        ]
        old: list[bytes | None] = []
        if (topic, partition) in place_of:
            first, last = place_of[topic, partition]
            while first < last:
                block = log.read(TopicPartition(topic, partition), first, max_records=last - first)
                if not len(block):
                    break
                old += [block.value(row) for row in range(len(block))]
                first = int(block.offsets[-1]) + 1
        for row in range(max(len(new), len(old))):
            a = old[row] if row < len(old) else None
            b = new[row] if row < len(new) else None
            if a != b:
                return ReplayDiverged(
                    f"{where}, '{topic}' partition {partition}, row {row}: {_compared(task, a, b)}",
                    hint="the code, a library or the processor changed; a changed topology needs a new version",
                )
    topics = ", ".join(
        f"'{t}'" for t in sorted(set(entry.outputs) ^ set(taken.output.digests)) or sorted(entry.outputs)
    )
    return ReplayDiverged(f"{where}: the digests of {topics} differ", hint="a changed topology needs a new version")


def _compared(task: Task, old: bytes | None, new: bytes | None) -> str:
    if old is None or new is None:
        then_text, now_text = ("nothing" if value is None else _shown(task, value) for value in (old, new))
        return f"then {then_text}, now {now_text}"
    then, now = _row(task, old), _row(task, new)
    if then is None or now is None:
        return f"then {old[:64]!r}, now {new[:64]!r}"
    for column in sorted(set(then) | set(now), key=lambda name: list(now).index(name) if name in now else -1):
        if then.get(column) != now.get(column):
            return f"column '{column}' was {then.get(column)!r} and is now {now.get(column)!r}"
    return f"the rows are equal and their bytes are not: {old[:64]!r}, {new[:64]!r}"


def _shown(task: Task, value: bytes) -> str:
    row = _row(task, value)
    return repr(value[:64]) if row is None else str(row)


def _row(task: Task, value: bytes) -> dict[str, Any] | None:
    buffer = np.frombuffer(value, np.uint8)
    ids, bodies = split_frames(buffer, np.zeros(1, np.int64), np.array([buffer.size]))
    if ids[0] < 0:
        return None
    decoded = Decoder(task.binding.registry.schema_of(int(ids[0]))).decode(buffer, bodies, np.array([buffer.size]))
    return decoded.frame.row(0, named=True) if decoded.rows.size else None


def source_ends(binding: Binding, log: Log) -> dict[TopicPartition, int]:
    """Where each source's partitions end now."""
    return {
        place: log.end_offset(place)
        for node in binding.plan.sources
        if isinstance(node.origin, Source)
        for place in (TopicPartition(node.origin.topic, p) for p in range(binding.partitions[node.origin.topic]))
    }


def replay_by_event_time(
    topology: Topology,
    history: Log,
    registry: Registry,
    scratch: Log,
    *,
    close: bool = True,
    starts: Mapping[TopicPartition, int] | None = None,
    ends: Mapping[TopicPartition, int] | None = None,
    on_commit: Callable[[Progress], None] | None = None,
    checkpoints: CheckpointStore | None = None,
    steps: Iterator[int] | None = None,
    silent: Collection[TopicPartition] = (),
) -> tuple[Binding, OverlayLog, Progress]:
    """Computes history afresh, in order of event time, into a scratch log; the live topics and groups stay as they are.

    starts, ends  where each source partition begins and ends; by default all that is there now
    checkpoints   where each task leaves its state at the end; steps, silent: see `Worker`

    Gives the binding and log of the run: its sinks hold the results.
    """
    plan = plan_topology(topology, registry)
    shared = frozenset(node.origin.topic for node in plan.sources if isinstance(node.origin, Source))
    log = OverlayLog(history, scratch, shared, starts=starts)
    binding = bind(topology, log, registry)
    until = dict(ends) if ends is not None else source_ends(binding, log)
    began = SystemClock().now_us()
    future = recorded_verdicts(topology.name, history, lambda: began)
    worker = Worker(
        binding, log, member="replay", until_end=until, close=close, in_stages=True, on_commit=on_commit, future=future,
        checkpoints=checkpoints, steps=steps, silent=silent,
    )  # fmt: skip
    return binding, log, worker.run()
