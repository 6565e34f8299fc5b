"""One transaction of a worker: outputs, journal entries and offsets of every task that it writes for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from streamproc.errors import LogBusy
from streamproc.ports import Membership, Producer, TopicPartition, Transaction
from streamproc.runtime.binding import Binding
from streamproc.runtime.journal import Entry, entry_block
from streamproc.runtime.task import TakenStep, Task

logger = logging.getLogger(__name__)

_BUSY_COMMITS: Final = 3


def commit_steps(
    binding: Binding,
    producer: Producer,
    membership: Membership,
    starts: Mapping[int, Entry],
    steps: Sequence[tuple[Task, TakenStep]],
    tasks: Sequence[Task],
) -> dict[int, int]:
    """Commits what tasks wrote; gives for each task with a new journal entry one past that entry's offset.

    starts  entry 0 of tasks that have no journal yet, by task number
    tasks   all tasks of the transaction: those of `starts` and `steps`, and those that only say where they stand. The
            offsets of each are in it, for a transaction without a task's offsets could be a zombie's, and nobody would
            refuse it

    After it each task knows the ranges that its outputs got. Any error leaves nothing visible, but for UnknownOutcome,
    after which nobody knows.
    """
    journal: dict[int, list[Entry]] = {number: [entry] for number, entry in starts.items()}
    for task, taken in steps:
        journal.setdefault(task.number, []).append(taken.entry)
    transaction = producer.begin()
    try:
        for _, taken in steps:
            for block in taken.output.blocks:
                transaction.append(block)
        for task in tasks:
            if task.number in journal:
                transaction.append(entry_block(binding.names.tasks, task.number, journal[task.number]))
            group = binding.names.group(task.stage.stage.index)
            transaction.commit_offsets(group, task.offsets, membership=membership, owned=(task.number,))
        ranges = _committed(transaction)
    except BaseException:
        transaction.abort()
        raise
    _note_deliveries(steps, ranges)
    return {number: ranges[TopicPartition(binding.names.tasks, number)][1] for number in journal}


def _note_deliveries(
    steps: Sequence[tuple[Task, TakenStep]], ranges: Mapping[TopicPartition, tuple[int, int]]
) -> None:
    """Tells each task where its outputs lie: a commit's range of a partition holds the blocks in order of appending."""
    cursors = {place: first for place, (first, _) in ranges.items()}
    for task, taken in steps:
        sizes: dict[TopicPartition, int] = {}
        for block in taken.output.blocks:
            place = TopicPartition(block.topic, block.partition)
            sizes[place] = sizes.get(place, 0) + len(block)
        task.delivered = tuple(
            (place.topic, place.partition, cursors[place], cursors[place] + size)
            for place, size in sorted(sizes.items())
        )
        for place, size in sizes.items():
            cursors[place] += size


def _committed(transaction: Transaction) -> dict[TopicPartition, tuple[int, int]]:
    """Commits; a log that is busy leaves the transaction open, so the same commit is tried again for a while."""
    for _ in range(_BUSY_COMMITS):
        try:
            return transaction.commit()
        except LogBusy as busy:
            logger.warning("the commit waits: %s", busy)
    return transaction.commit()
