"""Entry 0 of every task, written on purpose: where a run begins, and with what.

A worker that finds an empty journal begins at the earliest offsets by itself. Where a run is to begin elsewhere (at an
offset that somebody names, at the end of a backfill, where an older version stopped), this is said once, before any
worker: one transaction writes entry 0 of all tasks and commits their offsets, so either the run has begun or it has
not. Whoever does it holds all tasks of the group meanwhile, so no worker can begin the run otherwise at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from streamproc.errors import InputError, LogError
from streamproc.ports import Log, Membership, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.clock import Clock, SystemClock
from streamproc.runtime.journal import Entry, entry_block
from streamproc.runtime.restore import last_entry, start_entry
from streamproc.runtime.task import Task

_LOOK_S: Final = 0.02


def begun_tasks(binding: Binding, log: Log) -> list[int]:
    """The tasks that have a journal."""
    places = [TopicPartition(binding.names.tasks, number) for number in range(binding.task_count)]
    return [place.partition for place in places if last_entry(log, place) is not None]


def begin(
    binding: Binding,
    log: Log,
    starts: Mapping[TopicPartition, int],
    *,
    heads: Mapping[int, Mapping[str, Any]] | None = None,
    fates: Mapping[int, Mapping[str, Mapping[str, int]]] | None = None,
    clock: Clock | None = None,
    patience_s: float = 30.0,
) -> None:
    """Writes entry 0 of all tasks and commits their offsets, in one transaction.

    starts      where each source partition begins; what it does not name begins at its start
    heads       more for the heads of entry 0, by task number
    fates       the rows that a task's first state has taken in already, by fate
    patience_s  how long to wait for other members of the group to go

    Raises InputError if a task has a journal already, LogError if workers of the run are alive.
    """
    names = binding.names
    clock = clock or SystemClock()
    membership = log.join(names.workers, names.tasks, "begin")
    try:
        own_all(binding, membership, clock, patience_s)
        refuse_begun(binding, log)
        producer = log.producer(f"{names.topology}.v{names.version}.{names.run or 'live'}.begin")
        try:
            transaction = producer.begin()
            try:
                for number in range(binding.task_count):
                    task = Task(binding, number, log)
                    for c, channel in enumerate(task.channels):
                        task.state.positions[c, 0] = starts.get(channel.place, int(task.state.positions[c, 0]))
                    entry = start_entry(binding, task)
                    head = {**entry.head, **(heads or {}).get(number, {})}
                    begun = Entry("start", 0, fates=(fates or {}).get(number, {}), head=head)
                    transaction.append(entry_block(names.tasks, number, [begun]))
                    group = names.group(task.stage.stage.index)
                    transaction.commit_offsets(group, task.offsets, membership=membership, owned=(number,))
                transaction.commit()
            except BaseException:
                transaction.abort()
                raise
        finally:
            producer.close()
    finally:
        membership.leave()


def refuse_begun(binding: Binding, log: Log) -> None:
    """Raises InputError if the run has begun."""
    begun = begun_tasks(binding, log)
    if begun:
        name = f"version {binding.names.version} of '{binding.names.topology}'"
        raise InputError(
            f"{name} has begun already ({len(begun)} of {binding.task_count} tasks have a journal): where it begins "
            "was settled then",
            hint="leave the start out to go on; to begin elsewhere, give the topology a new version=; to compute the "
            "past, use 'streamproc replay'",
        )


def own_all(binding: Binding, membership: Membership, clock: Clock | None, patience_s: float) -> None:
    """Waits until a member has all tasks; raises LogError if others keep theirs for longer than that."""
    clock = clock or SystemClock()
    until = clock.monotonic() + patience_s
    everything = frozenset(range(binding.task_count))
    while membership.poll() != everything:
        if clock.monotonic() >= until:
            raise LogError(
                f"workers of version {binding.names.version} of '{binding.names.topology}' are running",
                hint="stop them first; a worker that died gives its tasks free when its lease ends",
            )
        clock.sleep(_LOOK_S)
