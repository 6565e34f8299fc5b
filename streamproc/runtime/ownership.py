"""What a member of a topology's group owns: the tasks that are its, which of them stand, and the producer for them.

A task stands when it was restored from what is committed. What is owned and does not stand yet is restored between two
turns, a few seconds at a time, so that the group hears of the member and the tasks that stand go on meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from streamproc.errors import Fenced, LogError, LogUnavailable, StaleMember, StreamprocError, UnknownOutcome
from streamproc.ports import Log, Marks, Membership, Producer, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.clock import Clock
from streamproc.runtime.journal import Entry
from streamproc.runtime.patience import Patience
from streamproc.runtime.restore import Restored, start_entry
from streamproc.runtime.saving import Checkpointing
from streamproc.runtime.task import Task
from streamproc.runtime.telemetry.observer import Observer

logger = logging.getLogger(__name__)

_RESTORE_S: Final = 2.0
"""After so long of restoring the tasks that stand take their steps, and the group is heard, before it goes on."""
_FENCED_AGAIN_S: Final = 60.0


class Ownership:
    """The worker's side of its group.

    restore  restores one task of what is committed; it calls what it is given after each step that is run again
    tasks        by number, those that stand
    fresh        of those that never ran: the journal entry that says where they begin, written with their first step
    missing      how many are this member's and do not stand yet
    restores_on  whether more of them are restored in the next turn
    """

    def __init__(
        self,
        binding: Binding,
        log: Log,
        member: str,
        restore: Callable[[int, Callable[[], None]], Restored],
        *,
        lease_s: float,
        clock: Clock,
        observer: Observer,
        checkpointing: Checkpointing,
        patience: Patience,
    ) -> None:
        self._binding, self._log, self._member, self._restore_task = binding, log, member, restore
        self._lease_s, self._clock, self._observer = lease_s, clock, observer
        self._checkpointing, self._patience = checkpointing, patience
        self.tasks: dict[int, Task] = {}
        self.fresh: dict[int, Entry] = {}
        self.missing, self.restores_on = 0, False
        self._journal_end: dict[int, int] = {}
        self._committed_at: dict[int, float] = {}
        self._membership: Membership | None = None
        self._producer: Producer | None = None
        self._alive_at = self._fenced_at = float("-inf")
        self._generation = -1
        self._marked: set[int] = set()  # Tasks that were written to since they are this member's.

    def enter(self) -> tuple[Membership, Producer]:
        """Joins the group and opens the producer where that is not done; both fence an older worker of the name."""
        names = self._binding.names
        if self._membership is None:
            lease_us = int(self._lease_s * 1e6)
            self._membership = self._log.join(names.workers, names.tasks, self._member, lease_us=lease_us)
            self._alive_at, self._generation = self._clock.monotonic(), -1
        if self._producer is None:
            name = f"{names.topology}.v{names.version}.{names.run or 'live'}.{self._member}"
            self._producer = self._log.producer(name)
        return self._membership, self._producer

    def take_over(self, membership: Membership) -> None:
        """Asks the group: what is gone is saved and let go of, and what came is restored, for some seconds."""
        owned = membership.poll()
        self._alive_at = self._clock.monotonic()
        for number in sorted(set(self.tasks) - owned):
            self.save(number)
            del self.tasks[number]
            self.fresh.pop(number, None)
        generation = membership.generation
        if generation != self._generation:
            # Also those that were given to this member and taken away again before it ever looked: nobody else can
            # have them until it says so.
            self._marked.clear()
            others = sorted(set(range(self._binding.task_count)) - owned)
            if others:
                membership.released(others)
            # Only now, so that what was not said is said again.
            self._generation = generation
        until = self._alive_at + _RESTORE_S
        self.restores_on = False
        missing = sorted(owned - set(self.tasks))
        for number in missing:
            self.restores_on = self._clock.monotonic() >= until
            if self.restores_on:
                break
            try:
                self._mark(missing, membership)
                self._restore(number, membership, len(owned))
            except LogUnavailable as error:
                # Nothing of the other tasks is in doubt: they go on, and this one is tried again with the next look.
                if self._patience.ran_out() or not self.tasks:
                    raise
                logger.warning("%s restores task %d later: %s", self._member, number, error)
                self._observer.waiting(error)
                break
        self.missing = len(owned - set(self.tasks))

    def renew(self, membership: Membership) -> None:
        """A sign of life in the middle of long work; what it says of ownership is looked at after the turn."""
        if self._clock.monotonic() - self._alive_at >= self._lease_s / 4:
            membership.renew()
            self._alive_at = self._clock.monotonic()

    def committed(self, tasks: Iterable[Task], journal_ends: Mapping[int, int]) -> None:
        """Notes what a commit wrote."""
        self._journal_end.update(journal_ends)
        self.fresh.clear()
        now = self._clock.monotonic()
        for task in tasks:
            self._committed_at[task.number] = now

    def rested(self, now: float, seconds: float) -> list[int]:
        """Tasks that committed nothing for so long."""
        return [
            number
            for number in self.tasks
            if number not in self.fresh and now - self._committed_at[number] >= seconds
        ]  # fmt: skip

    def save(self, number: int) -> None:
        """Writes a checkpoint of a task, unless its first step is not committed yet."""
        if number not in self.fresh:
            self._checkpointing.save(self.tasks[number], self._journal_end[number] - 1)

    def overslept(self, error: Fenced) -> bool:
        """Whether others took over because this member gave no sign of life for too long.

        Raises the error where that is not so and it happened a moment ago already: somebody else runs under this name.
        """
        now = self._clock.monotonic()
        slow = now - self._alive_at >= self._lease_s / 2  # A log may note only every third sign of life.
        if not slow and now - self._fenced_at < _FENCED_AGAIN_S:
            raise error
        self._fenced_at = now
        return slow

    def forget(self, error: LogError) -> None:
        """After an error that leaves in doubt what is ours: lets go of everything, unsaved."""
        self.tasks.clear()
        self.fresh.clear()
        self.missing, self.restores_on = 0, False
        self._marked.clear()
        producer, self._producer = self._producer, None
        try:
            if isinstance(error, Fenced) and not (isinstance(error, StaleMember) and error.joined):
                self.leave()
            if producer is not None:
                producer.close()
        except LogError as again:
            logger.warning("%s: %s", self._member, again)

    def leave(self) -> None:
        """Gives all tasks back and leaves the group; one that cannot be told waits for the lease to run out."""
        self.tasks.clear()
        membership, self._membership = self._membership, None
        if membership is None:
            return
        try:
            membership.leave()
        except LogError as error:
            if not isinstance(error, Fenced):
                logger.warning("%s could not leave its group, its lease will run out: %s", self._member, error)

    def close_producer(self) -> None:
        """Lets go of the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def _mark(self, missing: list[int], membership: Membership) -> None:
        """Writes to tasks before anything is read of them.

        A machine that stood still while another took over answers with offsets and a journal that are old, and agree.
        """
        fresh = [number for number in missing if number not in self._marked]
        if fresh and isinstance(self._producer, Marks):
            names = self._binding.names
            groups = {number: names.group(self._binding.task_of(number)[0].stage.index) for number in fresh}
            self._producer.mark({TopicPartition(names.tasks, number): groups[number] for number in fresh}, membership)
        self._marked.update(fresh)

    def _restore(self, number: int, membership: Membership, owned: int) -> None:
        self.renew(membership)
        began = self._clock.monotonic()
        self._observer.restoring(number, owned)

        def on_step() -> None:
            self.renew(membership)
            self._observer.restored_step()

        try:
            restored = self._restore_task(number, on_step)
        except (Fenced, LogUnavailable, UnknownOutcome):
            raise
        except StreamprocError:
            # Who lost the task meanwhile meets what its successor wrote and trimmed: that is no contradiction.
            membership.renew()
            raise
        now = self._clock.monotonic()
        self.tasks[number] = restored.task
        self._journal_end[number] = restored.journal_end
        self._checkpointing.restored(number, now - began if restored.steps else 0.0)
        self._committed_at[number] = now
        if restored.fresh:
            # Written with the first step, but it says where the task stood before it.
            self.fresh[number] = start_entry(self._binding, restored.task)
            restored.task.head = self.fresh[number].head
        self._observer.restored(restored.task, restored.steps, now - began)
        if restored.steps:
            logger.info("%s restored: %d steps run again", restored.task.name, restored.steps)
