"""Checkpoints of tasks: when one is due, and how it is written; then what it makes superfluous goes."""

from __future__ import annotations

import logging

from streamproc.errors import LogUnavailable
from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.checkpoint import save_state, side_of
from streamproc.runtime.clock import Clock
from streamproc.runtime.restore import journal_mark, stands_on
from streamproc.runtime.task import Task
from streamproc.runtime.trim import audit_us, checkpoint_every_us, kept_checkpoints, trim_task

logger = logging.getLogger(__name__)


class Checkpointing:
    """When the tasks of a worker are due a checkpoint: after so much work, and before their input is gone.

    store    None: nobody keeps checkpoints
    every_s  seconds of work after which a task is due one
    """

    def __init__(
        self, binding: Binding, log: Log, store: CheckpointStore | None, clock: Clock, *, every_s: float
    ) -> None:
        self.store, self.every_s = store, every_s
        self._binding, self._log, self._clock = binding, log, clock
        self._work: dict[int, float] = {}
        self._saved_at: dict[int, float] = {}
        self._most_unsaved_s = float("inf")
        self._opened_at = clock.monotonic()

    def open(self) -> None:
        """Asks how long the input of tasks stays."""
        self._opened_at = self._clock.monotonic()
        every = checkpoint_every_us(self._binding.plan, self._log.topics())
        self._most_unsaved_s = float("inf") if every is None else every / 1e6

    def restored(self, number: int, seconds: float) -> None:
        """A task stands again; what took long to run again shall not have to be run again."""
        self._work[number] = seconds

    def worked(self, number: int, seconds: float) -> None:
        """A task took a step."""
        self._work[number] += seconds

    def is_due(self, number: int) -> bool:
        """Whether a task did so much since its last checkpoint, or did anything and its input will not stay."""
        if self._work[number] >= self.every_s:
            return True
        since = self._clock.monotonic() - self._saved_at.setdefault(number, self._opened_at)
        return self._work[number] > 0 and since >= self._most_unsaved_s

    def save(self, task: Task, offset: int) -> None:
        """Writes a checkpoint of a task that stands after the committed journal entry at an offset."""
        if self.store is None or not self._work.get(task.number):
            return
        work, self._work[task.number] = self._work[task.number], 0.0
        try:
            if save_checkpoint(self._binding, self._log, self.store, task, offset):
                self._saved_at[task.number] = self._clock.monotonic()
            else:
                self._work[task.number] = work
        except (OSError, LogUnavailable) as error:
            # Without a checkpoint a restart takes longer; the run itself needs none.
            logger.warning("no checkpoint of %s: %s", task.name, error)


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
