"""The worker: takes the tasks that the group gives it, runs their steps, commits them.

One turn of the loop runs at most one step of each task and commits all of them in one transaction: outputs, journal
entries and offsets become visible together or not at all. After any failed or unknown commit the worker believes only
what is committed: it opens its producer anew and restores every task.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from streamproc.errors import (
    Fenced,
    LogError,
    LogUnavailable,
    OffsetOutOfRange,
    StaleMember,
    UnknownOutcome,
)
from streamproc.event_time import span_us
from streamproc.ports import CheckpointStore, Log, Membership, Producer, TopicPartition
from streamproc.runtime.awaited import Awaited
from streamproc.runtime.binding import Binding
from streamproc.runtime.clock import Clock, SystemClock
from streamproc.runtime.committing import commit_steps
from streamproc.runtime.control import WorkerControl
from streamproc.runtime.ending import Ending
from streamproc.runtime.freed_memory import keep_freed_memory
from streamproc.runtime.future import FutureVerdicts
from streamproc.runtime.heeding import Heed
from streamproc.runtime.ownership import Ownership
from streamproc.runtime.patience import PATIENCE_S, Patience
from streamproc.runtime.quiet import Quiet
from streamproc.runtime.restore import Restored, restore_task
from streamproc.runtime.saving import Checkpointing
from streamproc.runtime.step_size import StepSize
from streamproc.runtime.task import TakenStep, Task
from streamproc.runtime.telemetry.observer import Observer

logger = logging.getLogger(__name__)

_GROUP_POLL_S: Final = 1.0
_TICK_S: Final = 1.0
_IDLE_S: Final = 0.1
_RESTORE_S: Final = 2.0
"""After so long of restoring the tasks that stand take their steps, and the group is heard, before it goes on."""
_CHECKPOINT_WORK_S: Final = 5.0
_LEASE_S: Final = 10.0
_FENCED_AGAIN_S: Final = 60.0
_KEEP_OFFSETS_S: Final = 1_800.0
"""A task that has nothing to do says so often that its committed offsets never expire: Kafka forgets them in days."""


@dataclass(slots=True)
class Progress:
    """What a run did so far; the worker adds to it after each commit.

    fates  per stage and input: in, emitted, held, late, filtered, dead_lettered of the tasks that this worker runs
    """

    units: int = 0
    steps: int = 0
    written: dict[str, int] = field(default_factory=dict)
    restored_steps: int = 0
    seconds: float = 0.0
    fates: dict[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)


class Worker:
    """One member of a topology's group.

    until_end   None: run until stopped. Else the offsets at which the sources end: the run stops when all is read
    close       at the end of a finite run, end time itself, so that everything still waiting is released
    in_stages   begin a stage when all stages before it have read everything: inputs then merge by event time alone
    steps       how many units each turn takes at most, one number a turn; by default it follows the load
    lease_s     after so long without a sign of life others take its tasks; it gives one between two steps
    patience_s  a log that cannot be reached for so long ends the run with LogUnavailable
    on_commit   called after each commit, with the progress so far
    observer    is told of turns, steps, commits and restores: metrics
    control     the worker's side of the control topic: it is looked at every second, and obeyed; None obeys nobody
    accept_divergence  a recorded step that gives something else in another environment does not stop the worker: both
                are recorded
    silent      of a finite run: source partitions that hold no time back before they gave their first row
    most_bytes  what the rows that one turn takes in may take in memory, over all tasks; None: some hundred megabytes
    future      says which records are stamped in the future; None: nobody looks at a clock
    """

    def __init__(
        self,
        binding: Binding,
        log: Log,
        *,
        checkpoints: CheckpointStore | None = None,
        member: str = "worker-0",
        until_end: Mapping[TopicPartition, int] | None = None,
        close: bool = False,
        in_stages: bool = False,
        on_commit: Callable[[Progress], None] | None = None,
        checkpoint_every_s: float = _CHECKPOINT_WORK_S,
        steps: Iterator[int] | None = None,
        lease_s: float = _LEASE_S,
        patience_s: float = PATIENCE_S,
        clock: Clock | None = None,
        observer: Observer | None = None,
        control: WorkerControl | None = None,
        future: FutureVerdicts | None = None,
        accept_divergence: bool = False,
        silent: Collection[TopicPartition] = (),
        most_bytes: int | None = None,
    ) -> None:
        self.binding = binding
        self.log = log
        self.member = member
        self.in_stages = in_stages
        self.on_commit = on_commit
        self.steps = steps
        self.clock = clock or SystemClock()
        self.observer = observer or Observer()
        self.checkpointing = Checkpointing(binding, log, checkpoints, self.clock, every_s=checkpoint_every_s)
        own_ending = None if until_end is None else Ending(binding, log, dict(until_end), close=close)
        self.heed = Heed(binding, log, control, own_ending)
        self.future = future
        self.accept_divergence = accept_divergence
        self.silent = frozenset(silent)
        self.progress = Progress()
        self._stepped_at: dict[int, float] = {}
        self._quiet = Quiet(log)
        self._awaited = Awaited(binding, log, max_wait_s=span_us(binding.plan.topology.max_wait) / 1e6)
        self._commit_s = span_us(binding.plan.topology.commit) / 1e6
        self._size = StepSize(self._commit_s, most_bytes)
        self._patience = Patience(patience_s, self.clock)
        self._own = Ownership(
            binding, log, member, self._restore,
            lease_s=lease_s, clock=self.clock, observer=self.observer, checkpointing=self.checkpointing,
            patience=self._patience,
        )  # fmt: skip
        self._began = self.clock.monotonic()
        self._polled_at = float("-inf")
        self._idle = False
        self._stop = self._finished = False
        self._collects = False

    @property
    def tasks(self) -> dict[int, Task]:
        """By number, those that stand."""
        return self._own.tasks

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Ends the run after the current commit; may be called from a signal handler."""
        self._stop = True

    def run(self) -> Progress:
        """Works until the end of the input, or until `stop`; gives back all tasks."""
        collecting = gc.isenabled()
        # The cyclic collector nearly doubles the cost where objects live long: it runs at checkpoints, and looks only
        # at what was made since the start.
        gc.disable()
        # Whoever runs many workers may have frozen what was there before: it stays so when one of them is done.
        inside = gc.get_freeze_count() > 0
        gc.freeze()
        keep_freed_memory()
        self._collects, sound = True, False
        try:
            self._open_patiently()
            while not self._stop and (pause := self.turn()) is not None:
                if pause > 0:
                    self._rest(pause)
            sound = True
        finally:
            try:
                # After an error a task's state may be half of a step: it must never become a checkpoint.
                self.close(save=sound)
            finally:
                if not inside:
                    gc.unfreeze()
                if collecting:
                    gc.enable()
        return self.progress

    def open(self) -> None:
        """Enters the group and opens the producer; both fence an older worker of the same name."""
        self._began = self.clock.monotonic()
        self.checkpointing.open()
        self._own.enter()

    def _open_patiently(self) -> None:
        """Opens; a log that was there when the topology was bound may be away for a moment here as at any later one."""
        while not self._stop:
            try:
                self.open()
                return
            except LogUnavailable as error:
                self.observer.troubled(error)
                self.clock.sleep(self._recover(error))

    def turn(self) -> float | None:
        """One turn: looks at the group, runs a step of each task that has something to do, commits.

        Gives the seconds to rest before the next turn, None when a finite run is over. What goes wrong between worker
        and log and may be mended is mended here: everything is forgotten and restored from what is committed.
        """
        try:
            membership, producer = self._own.enter()
            due = self.clock.monotonic() - self._polled_at >= _GROUP_POLL_S
            if due or self._own.restores_on or not self.tasks:
                self._own.take_over(membership)
                self.heed.look(self.tasks)
                self._polled_at = self.clock.monotonic()
            try:
                pause = self._turn(producer, membership)
            except OffsetOutOfRange as gone:
                # Who lost a task and does not know it yet meets what its successor trimmed: a restore, which begins
                # with what is committed, tells whether anything is lost.
                raise LogUnavailable(gone.message, hint=gone.hint) from gone
            if pause is None and self.heed.ending is not None:
                if not self.heed.paused and not self._own.missing and self.heed.ending.finished(self.tasks):
                    self._finished = True
                    return None
                pause = min(self._commit_s, _IDLE_S)
        except (Fenced, UnknownOutcome, LogUnavailable) as error:
            self.observer.troubled(error)
            return self._recover(error)
        self.progress.seconds = self.clock.monotonic() - self._began
        if not self._own.missing:
            self._patience.calm()
            self.observer.turned(self.tasks, idle=self._idle, request=self.heed.request)
        return 0.0 if self._own.restores_on else self._commit_s if pause is None else pause

    def close(self, *, save: bool = True) -> None:
        """Gives everything back; `save` writes a last checkpoint of each task first."""
        try:
            for number in sorted(self.tasks) if save else ():
                self._own.save(number)
            if save and self._finished:
                self.heed.drained(self.tasks)
            self._own.leave()
        finally:
            self._own.close_producer()
            self.progress.seconds = self.clock.monotonic() - self._began

    def _rest(self, seconds: float) -> None:
        """Waits at most so long: for something to read if the last turn had nothing, else for the commit interval."""
        # What has rows that nobody took waits for another: more of it would wake a worker that has nothing to do.
        waiting = {
            feed.channel.place: feed.next_offset
            for task in self.tasks.values()
            for feed in task.feeds
            if not feed.waiting and (feed.stop is None or feed.next_offset < feed.stop)
        }
        try:
            if waiting and self._idle and not self.heed.paused:
                self.log.wait(waiting, int(max(seconds, 0.001) * 1e6))
                return
        except LogUnavailable:
            logger.debug("%s could not wait on the log; its next turn meets that again", self.member)
        self.clock.sleep(seconds)

    def _recover(self, error: LogError) -> float:
        """After an error that leaves in doubt what is ours: a new producer, and every task from its journal."""
        if isinstance(error, Fenced) and not isinstance(error, StaleMember) and self._own.overslept(error):
            # Too slow, or stopped for a while: the lease ran out between two steps. Shorter ones may fit.
            self._size.shrink()
        if self._patience.ran_out():
            raise error
        logger.warning("%s begins again from what is committed: %s", self.member, error)
        self._own.forget(error)
        self._polled_at = float("-inf")
        if isinstance(error, Fenced):
            return 0.0
        return self._patience.pause()

    def _restore(self, number: int, on_step: Callable[[], None]) -> Restored:
        restored = restore_task(
            self.binding,
            number,
            self.log,
            self.checkpointing.store,
            stops=None if self.heed.ending is None else self.heed.ending.until,
            on_step=on_step,
            clock=self.clock,
            accept=self.accept_divergence,
        )
        self._awaited.opened(restored.task, self.clock.monotonic())
        if self.future is not None:
            restored.task.future = self.future.of
        self.progress.restored_steps += restored.steps
        return restored

    # ── one turn ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _turn(self, producer: Producer, membership: Membership) -> float | None:
        """Steps and their commit; gives the seconds until the next commit is due, None where nothing was to do."""
        began = self.clock.monotonic()
        if self.steps is not None:
            self._size.units = next(self.steps, self._size.units)
        if self.heed.ending is not None:
            self.heed.ending.look(self.tasks.values())
        steps: list[tuple[Task, TakenStep]] = []
        full = False
        for task in self._tasks_in_turn():
            self._own.renew(membership)
            before = self.clock.monotonic()
            taken = self._step_of(task)
            if taken is not None:
                took = self.clock.monotonic() - before
                self.observer.stepped(task, took)
                self.checkpointing.worked(task.number, took)
                steps.append((task, taken))
                full = full or taken.units >= self._size.units or task.crowded
        standing = self._own.rested(began, _KEEP_OFFSETS_S)
        numbers = sorted({*self._own.fresh, *standing, *(task.number for task, _ in steps)})
        self._idle = not steps
        if not numbers:
            return None
        worked = self.clock.monotonic() - began
        self._commit(producer, membership, steps, [self.tasks[number] for number in numbers])
        spent = self.clock.monotonic() - began
        if self.steps is None:
            largest = max((taken.units for _, taken in steps), default=self._size.units)
            self._size.adapt(worked, full=full, tasks=len(self.tasks), largest=largest)
        due = [number for number in sorted(self.tasks) if self.checkpointing.is_due(number)]
        for number in due:
            self._own.save(number)
        if due and self._collects:  # Whoever takes turns one by one collects when it likes.
            gc.collect()
        if not steps:
            return None
        return 0.0 if self.heed.ending is not None or full else max(0.0, self._commit_s - spent)

    def _tasks_in_turn(self) -> list[Task]:
        """The tasks that may step: all, or in a run by stages those of the first stage that is not done."""
        tasks = [] if self.heed.paused else [self.tasks[number] for number in sorted(self.tasks)]
        if not self.in_stages or self.heed.ending is None:
            return tasks
        first = min((task.stage.stage.index for task in tasks if not self.heed.ending.done(task)), default=0)
        return [task for task in tasks if task.stage.stage.index <= first]

    def _step_of(self, task: Task) -> TakenStep | None:
        now = self.clock.monotonic()
        # What comes of a tick is not history's: a run by event time leaves it out.
        clock = self.clock.now_us() if task.clocked and not self.in_stages else None
        marks: tuple[tuple[int, int], ...] = ()
        most, most_bytes = self._size.units, self._size.bytes_of_each(sum(len(t.feeds) for t in self.tasks.values()))
        if self.heed.ending is None:
            ends = {feed.channel.place: self.log.available(feed.channel.place, feed.next_offset) for feed in task.feeds}
            waits = self._awaited.channels(task, ends, now)
            units, runs = task.choose(ends, most=most, waits=waits, most_bytes=most_bytes)
            marks = self._quiet.idle_marks(task, ends, units, now)
            if task.hears and clock is not None:
                marks += self._quiet.heard_marks(task, now)
        else:
            ends = self.heed.ending.ends(task)
            units, runs = task.choose(ends, most=most, most_bytes=most_bytes)
            marks = task.silence_marks(self.silent)
            if not runs.shape[0] and self.heed.ending.close and not task.is_closed() and task.ended(ends):
                marks = task.close_marks()
        quiet = now - self._stepped_at.get(task.number, now)
        self._stepped_at.setdefault(task.number, now)
        ticks = clock is not None and self.heed.ending is None and quiet >= _TICK_S
        if not runs.shape[0] and not marks and not task.note and not ticks:
            return None
        self._stepped_at[task.number] = now
        return task.run(units, runs, marks=marks, clock=clock)

    def _commit(
        self, producer: Producer, membership: Membership, steps: list[tuple[Task, TakenStep]], tasks: list[Task]
    ) -> None:
        before = self.clock.monotonic()
        ends = commit_steps(self.binding, producer, membership, self._own.fresh, steps, tasks)
        self._own.committed(tasks, ends)
        now = self.clock.monotonic()
        for task, taken in steps:
            self.progress.units += taken.units
            self.progress.steps += 1
            for topic, (rows, _) in taken.output.digests.items():
                self.progress.written[topic] = self.progress.written.get(topic, 0) + rows
            self.progress.fates[task.name] = taken.entry.fates
        self.observer.committed(steps, now - before)
        if self.on_commit is not None and steps:
            self.on_commit(self.progress)
