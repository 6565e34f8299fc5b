"""A checkpoint of a task: written after a committed step, then what it makes superfluous goes."""

from __future__ import annotations

from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.checkpoint import save_state, side_of
from streamproc.runtime.restore import journal_mark, stands_on
from streamproc.runtime.task import Task
from streamproc.runtime.trim import audit_us, kept_checkpoints, trim_task


def save_checkpoint(binding: Binding, log: Log, checkpoints: CheckpointStore, task: Task, offset: int) -> bool:
    """Writes a checkpoint of a task that stands after the journal entry at an offset; False if it does not.

    Older checkpoints that nobody needs are deleted, and with them the journal and the internal topics before the oldest
    that stays. Whoever loses the task meanwhile does no harm: all that is kept stands on the committed journal.
    """
    place = TopicPartition(binding.names.tasks, task.number)
    mark = journal_mark(log, place, offset)
    if mark is None or mark[0] != task.state.steps:
        return False
    # Only what the journal vouches for counts: a checkpoint of another log must not push ours out.
    sound = [manifest for manifest in checkpoints.manifests(task.name) if stands_on(log, place, manifest)]
    saved = save_state(
        checkpoints,
        task.state,
        task=task.name,
        step=mark[0],
        chain=mark[1],
        fingerprint=binding.plan.logic,
        head={
            "journal_offset": offset,
            "at": int(mark[1].rpartition("@")[2]),
            "journal": dict(task.head),
            "positions": [[at.topic, at.partition, position] for at, position in sorted(task.offsets.items())],
        },
        side=next((1 - side_of(before) for before in sound if before.step < mark[0]), 0),
    )
    # Somebody who owns the task by now may have written newer ones.
    by_step = {manifest.step: manifest for manifest in (*sound, saved)}
    newest_first = [by_step[step] for step in sorted(by_step, reverse=True)]
    kept, reach = kept_checkpoints(newest_first, audit_us(binding.plan, log.topics()))
    checkpoints.discard(task.name, keep_steps=[manifest.step for manifest in kept])
    if reach is not None:
        edges = frozenset(binding.names.edge(inlet.edge.name) for inlet in task.stage.stage.inputs if inlet.edge)
        trim_task(log, place, edges, reach)
    return True
