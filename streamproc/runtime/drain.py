"""The end of a version: where it ended is written down, and what it had begun is finished.

While workers run, they are asked to end over the control topic. This module is for a version whose workers are gone, or
have ended: it takes all tasks, so that nobody reads the sources any more and where they are read to is fixed (the
offsets O); writes O as a drain in force to the control topic, so that no worker ever reads on; takes all stages to O
and the internal topics to their ends; and writes a checkpoint of every task. Each part can be done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamproc.engine.compiled import Names
from streamproc.errors import InputError, LogError
from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.clock import Clock, SystemClock
from streamproc.runtime.control import ControlReader, Request, ask, control_topic, create_control
from streamproc.runtime.first_start import begun_tasks, own_all
from streamproc.runtime.future import FutureVerdicts
from streamproc.runtime.offsets import source_places
from streamproc.runtime.restore import restore_task
from streamproc.runtime.saving import save_checkpoint
from streamproc.runtime.worker import Worker

_PATIENCE_S: Final = 60.0


def drained_at(names: Names, log: Log) -> Mapping[TopicPartition, int] | None:
    """Where a version is to end, if a drain is in force for it; it may still be on its way there (`unfinished`)."""
    if control_topic(names) not in log.topics():
        return None
    reader = ControlReader(log, names)
    reader.look()
    request = reader.standing.in_force
    return request.offsets if request is not None and request.deed == "drain" else None


def unfinished(names: Names, log: Log, at: Mapping[TopicPartition, int]) -> str:
    """What a version still has to read before it rests at offsets, in words; "" for nothing.

    Told from committed offsets alone, so the version's code is not needed.
    """
    edges = f"{names.prefix}.edge."
    topics = log.topics()
    for group in (group for group in log.groups() if group.startswith(f"{names.prefix}.s")):
        committed = log.committed(group)
        for place, position in sorted(committed.items()):
            if place not in at and not place.topic.startswith(edges):
                continue
            end = at[place] if place in at else log.end_offset(place)
            if position > end:
                return f"{place.topic}-{place.partition} was read to {position}, beyond {end}"
            if _holds(log, place, position, end):
                return f"{place.topic}-{place.partition} is read to {position} and not yet to {end}"
    # A task that never read anything has no offset for its internal topics: there must be nothing for it.
    known = {place for group in log.groups() if group.startswith(names.prefix) for place in log.committed(group)}
    for topic in topics:
        for place in (TopicPartition(topic, p) for p in range(topics[topic].partitions)):
            if topic.startswith(edges) and place not in known and log.end_offset(place) > log.start_offset(place):
                return f"nobody has read {place.topic}-{place.partition}"
    return ""


def drain(
    binding: Binding,
    log: Log,
    checkpoints: CheckpointStore,
    *,
    who: str = "drain",
    why: str = "",
    clock: Clock | None = None,
    patience_s: float = _PATIENCE_S,
) -> Mapping[TopicPartition, int]:
    """Ends a version whose workers are gone; gives the source offsets at which it ended. Done twice, it gives the same.

    Raises InputError for a version that has not begun, LogError if workers do not go.
    """
    names = binding.names
    clock = clock or SystemClock()
    if len(begun_tasks(binding, log)) < binding.task_count:
        raise InputError(
            f"version {names.version} of '{names.topology}' has not begun everywhere: there is nothing to take over",
            hint=f"run it first: 'streamproc run {names.topology} --until-end'",
        )
    membership = log.join(names.workers, names.tasks, "drain")
    try:
        own_all(binding, membership, clock, patience_s)
        at = drained_at(names, log)
        if at is None:
            at = _read_to(binding, log)
            create_control(log, names)
            ask(log, names, Request("drain", who, clock.now_us(), why, at))
    finally:
        membership.leave()
    future = FutureVerdicts(clock.now_us)
    Worker(binding, log, checkpoints=checkpoints, member="drain", until_end=at, clock=clock, future=future).run()
    for number in range(binding.task_count):
        restored = restore_task(binding, number, log, checkpoints, clock=clock)
        if not save_checkpoint(binding, log, checkpoints, restored.task, restored.journal_end - 1):
            raise LogError(f"{restored.task.name} moved while it was drained", hint="stop its workers and drain again")
    return at


def _read_to(binding: Binding, log: Log) -> dict[TopicPartition, int]:
    """The furthest that any stage has read each source partition: where one has been, all others must come."""
    ends = {place: log.start_offset(place) for place in source_places(binding.plan, log)}
    for stage in binding.stages:
        for place, offset in log.committed(binding.names.group(stage.stage.index)).items():
            if place in ends:
                ends[place] = max(ends[place], offset)
    return ends


def _holds(log: Log, place: TopicPartition, first: int, end: int) -> bool:
    """Whether there is a record in [first, end): some logs keep marks of their own between records."""
    if first >= end:
        return False
    block = log.read(place, first, max_records=1)
    return bool(len(block)) and int(block.offsets[0]) < end
