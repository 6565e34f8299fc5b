"""Another number of partitions: the version that ran on the old ones ends there, the next one goes on on the new ones.

Keys lie elsewhere when a source has more partitions, so a task's state is no other task's. The old version is ended on
the partitions that it began with, whatever the topics have now; the new one computes its state muted, from the same
records, over tasks of the new number, and then goes on where the old one ended. Partitions that are new begin at their
start. What was written stays; no record is in the sinks twice, none is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from streamproc.contracts.registry import Registry
from streamproc.engine.compiled import Names
from streamproc.errors import InputError
from streamproc.planning.topology import Topology
from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import bind
from streamproc.runtime.clock import Clock
from streamproc.runtime.drain import drain, drained_at, unfinished
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.restore import journal_head
from streamproc.runtime.upgrade import TakenOver, take_over
from streamproc.runtime.worker import Progress


def rescale(
    topology: Topology,
    log: Log,
    registry: Registry,
    checkpoints: CheckpointStore,
    *,
    old: int,
    on_commit: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
) -> TakenOver:
    """Ends version `old`, which ran the same steps, and lets this one go on; done twice, it tells what was done.

    Raises InputError where version `old` never ran or nobody knows on how many partitions, LogError while its workers
    run, ForeignFingerprint if its steps are others than these, InputGone if the records of its time are gone.
    """
    names = Names(topology.name, old)
    at = drained_at(names, log)
    if at is None or unfinished(names, log, at):
        before = partitions_of_version(names, log, checkpoints)
        binding = bind(replace(topology, version=old), log, registry, partitions=before)
        drain(binding, log, checkpoints, who="rescale", why="other numbers of partitions", clock=clock)
    return take_over(topology, log, registry, checkpoints, old=old, reuse=False, on_commit=on_commit, clock=clock)


def partitions_of_version(names: Names, log: Log, checkpoints: CheckpointStore | None) -> Mapping[str, int]:
    """The partition counts that a version began with, by topic."""
    place = TopicPartition(names.tasks, 0)
    there = names.tasks in log.topics()
    entries = journal_entries(log, place, log.start_offset(place), log.end_offset(place)) if there else iter(())
    found = next(entries, None)
    head = None if found is None else journal_head(f"{names.prefix}.s0.t0", log, place, found[1], checkpoints)
    if head is None:
        raise InputError(
            f"nobody knows on how many partitions version {names.version} of '{names.topology}' began",
            hint="name the version that ran, and the checkpoint store that it used",
        )
    counts: Mapping[str, int] = head["partitions"]
    return counts
