"""The worker: takes the tasks that the group gives it, runs their steps, commits them.

One turn of the loop runs at most one step of each task and commits all of them in one transaction: outputs, journal
entries and offsets become visible together or not at all. After any failed or unknown commit the worker believes only
what is committed: it opens its producer anew and restores every task.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from streamproc.engine.intake import Units
from streamproc.errors import Fenced, LogBusy, LogError
from streamproc.event_time import MAX_TIME, span_us
from streamproc.ports import CheckpointStore, Log, Membership, Producer, TopicPartition, Transaction
from streamproc.runtime.binding import Binding
from streamproc.runtime.checkpoint import save_state
from streamproc.runtime.journal import Entry, entry_block
from streamproc.runtime.restore import journal_entries, journal_mark, restore_task, stands_on, start_entry
from streamproc.runtime.task import TakenStep, Task

logger = logging.getLogger(__name__)

_FIRST_STEP_UNITS = 65_536
_MOST_STEP_UNITS = 1 << 20
_LEAST_STEP_UNITS = 4_096
_GROUP_POLL_S = 1.0
_TICK_S = 1.0
_IDLE_S = 0.1
_CHECKPOINT_WORK_S = 5.0
_LEASE_S = 10.0
_FENCED_AGAIN_S = 60.0
_BUSY_COMMITS = 3


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

    until_end  None: run until stopped. Else the offsets at which the sources end: the run stops when all is read
    close      at the end of a finite run, end time itself, so that everything still waiting is released
    in_stages  begin a stage when all stages before it have read everything: inputs then merge by event time alone
    steps      how many units each turn takes at most, one number a turn; by default it follows the load
    lease_s    after so long without a sign of life others take its tasks; it gives one between two steps
    on_commit  called after each commit, with the progress so far and the share of the finite input that is read
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
    ) -> None:
        self.binding = binding
        self.log = log
        self.checkpoints = checkpoints
        self.member = member
        self.until_end = dict(until_end) if until_end is not None else None
        self.close = close
        self.in_stages = in_stages
        self.on_commit = on_commit
        self.checkpoint_every_s = checkpoint_every_s
        self.steps = steps
        self.lease_s = lease_s
        self.progress = Progress()
        self.tasks: dict[int, Task] = {}
        self._fresh: dict[int, Entry] = {}
        self._journal_end: dict[int, int] = {}
        self._work_since: dict[int, float] = {}
        self._quiet_since: dict[tuple[int, int], float] = {}
        self._stepped_at: dict[int, float] = {}
        self._waiting_since: dict[int, float] = {}
        self._max_wait_s = span_us(binding.plan.topology.max_wait) / 1e6
        self._most = _FIRST_STEP_UNITS
        self._commit_s = span_us(binding.plan.topology.commit) / 1e6
        self._alive_at = float("-inf")
        self._generation = -1
        self._stop = False

    def stop(self) -> None:
        """Ends the run after the current commit; may be called from a signal handler."""
        self._stop = True

    def run(self) -> Progress:
        """Works until the end of the input, or until `stop`; gives back all tasks."""
        began = time.monotonic()
        collecting = gc.isenabled()
        # The cyclic collector nearly doubles the cost where objects live long: it runs at checkpoints, and looks only
        # at what was made since the start.
        gc.disable()
        gc.freeze()
        membership, producer = self._join()
        sound = False
        try:
            polled = 0.0
            fenced_at = float("-inf")
            while not self._stop:
                try:
                    if time.monotonic() - polled >= _GROUP_POLL_S or not self.tasks:
                        self._take_over(membership)
                        polled = time.monotonic()
                    busy = self._turn(producer, membership)
                except Fenced as fenced:
                    # A log may note only every third sign of life.
                    if time.monotonic() - self._alive_at >= self.lease_s / 2:
                        # Too slow, or stopped for a while: the lease ran out between two steps. Shorter ones may fit.
                        self._most = max(_LEAST_STEP_UNITS, self._most // 2)
                    elif time.monotonic() - fenced_at < _FENCED_AGAIN_S:
                        raise  # Somebody else runs under this name: one of the two has to go.
                    fenced_at, polled = time.monotonic(), 0.0
                    logger.warning("%s lost its place and joins again: %s", self.member, fenced)
                    # Believe only what is committed: a new producer, and every task from its journal.
                    producer.close()
                    self.tasks.clear()
                    self._fresh.clear()
                    membership, producer = self._join()
                    continue
                if not busy:
                    if self.until_end is not None and self._finished():
                        break
                    self._rest()
                self.progress.seconds = time.monotonic() - began
            sound = True
        finally:
            try:
                # After an error a task's state may be half of a step: it must never become a checkpoint.
                self._give_back(membership, save=sound)
                producer.close()
            finally:
                gc.unfreeze()
                if collecting:
                    gc.enable()
                self.progress.seconds = time.monotonic() - began
        return self.progress

    # ── ownership ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_over(self, membership: Membership) -> None:
        owned = membership.poll()
        self._alive_at = time.monotonic()
        gone = sorted(set(self.tasks) - owned)
        for number in gone:
            self._save(number)
            del self.tasks[number]
        if membership.generation != self._generation:
            # Also those that were given to this member and taken away again before it ever looked: nobody else can
            # have them until it says so.
            self._generation = membership.generation
            others = sorted(set(range(self.binding.task_count)) - owned)
            if others:
                membership.released(others)
        for number in sorted(owned - set(self.tasks)):
            self._renew(membership)
            restored = restore_task(
                self.binding,
                number,
                self.log,
                self.checkpoints,
                stops=self.until_end,
                on_step=lambda: self._renew(membership),
            )
            self.tasks[number] = restored.task
            self._journal_end[number] = restored.journal_end
            self._work_since[number] = 0.0
            self.progress.restored_steps += restored.steps
            if restored.fresh:
                # Written with the first step, but it says where the task stood before it.
                self._fresh[number] = start_entry(self.binding, restored.task)
            if restored.steps:
                logger.info("%s restored: %d steps run again", restored.task.name, restored.steps)

    def _join(self) -> tuple[Membership, Producer]:
        """Enters the group and opens the producer; both fence an older worker of the same name."""
        names = self.binding.names
        membership = self.log.join(names.workers, names.tasks, self.member, lease_us=int(self.lease_s * 1e6))
        self._alive_at, self._generation = time.monotonic(), -1
        return membership, self.log.producer(f"{names.topology}.v{names.version}.live.{self.member}")

    def _renew(self, membership: Membership) -> None:
        """A sign of life in the middle of long work; what it says of ownership is looked at after the turn."""
        if time.monotonic() - self._alive_at >= self.lease_s / 4:
            membership.poll()
            self._alive_at = time.monotonic()

    def _give_back(self, membership: Membership, *, save: bool) -> None:
        for number in sorted(self.tasks) if save else ():
            self._save(number)
        self.tasks.clear()
        try:
            membership.leave()
        except LogError as error:
            if not isinstance(error, Fenced):
                logger.warning("%s could not leave its group, its lease will run out: %s", self.member, error)

    # ── one turn ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _turn(self, producer: Producer, membership: Membership) -> bool:
        began = time.monotonic()
        if self.steps is not None:
            self._most = next(self.steps, self._most)
        steps: list[tuple[Task, TakenStep]] = []
        full = False
        behind = (
            min((task.stage.stage.index for task in self.tasks.values() if not self._task_done(task)), default=0)
            if self.in_stages
            else 0
        )
        for number in sorted(self.tasks):
            task = self.tasks[number]
            if self.in_stages and task.stage.stage.index > behind:
                break
            self._renew(membership)
            taken = self._step_of(task)
            if taken is not None:
                steps.append((task, taken))
                full = full or taken.units >= self._most
                self._work_since[number] += time.monotonic() - began
        fresh = [self.tasks[number] for number in sorted(self._fresh)]
        if not steps and not fresh:
            return False
        self._commit(producer, membership, fresh, steps)
        spent = time.monotonic() - began
        self._adapt(spent, full=full)
        due = [number for number in sorted(self.tasks) if self._work_since[number] >= self.checkpoint_every_s]
        for number in due:
            self._save(number)
        if due:
            gc.collect()
        if self.until_end is None and not full and spent < self._commit_s:
            time.sleep(self._commit_s - spent)
        return bool(steps)

    def _step_of(self, task: Task) -> TakenStep | None:
        now = time.monotonic()
        ends = {channel.place: self.log.end_offset(channel.place) for channel in task.channels}
        units, runs = task.choose(ends, most=self._most, waits=self._waits(task, ends, now))
        marks = self._idle_marks(task, ends, units, now)
        took = bool(runs.shape[0]) or bool(marks)
        if not took and self.until_end is not None and self.close and not task.is_closed() and task.ended(ends):
            marks = task.close_marks()
            took = bool(marks)
        # What comes of a tick is not history's: a run by event time leaves it out.
        clocked = task.clocked and not self.in_stages
        quiet = now - self._stepped_at.get(task.number, now)
        self._stepped_at.setdefault(task.number, now)
        if not took and not (clocked and self.until_end is None and quiet >= _TICK_S):
            return None
        self._stepped_at[task.number] = now
        return task.run(units, runs, marks=marks, clock=time.time_ns() // 1_000 if clocked else None)

    def _waits(self, task: Task, ends: Mapping[TopicPartition, int], now: float) -> bool:
        """Whether a live step still waits for an input that has nothing while another has rows (`max_wait`)."""
        if self.until_end is not None or not self._max_wait_s:
            return False
        empty = [feed.ended(ends[feed.channel.place]) for feed in task.feeds]
        if all(empty) or not any(empty):
            self._waiting_since.pop(task.number, None)
            return False
        if now - self._waiting_since.setdefault(task.number, now) < self._max_wait_s:
            return True
        self._waiting_since.pop(task.number, None)
        return False

    def _idle_marks(
        self, task: Task, ends: Mapping[TopicPartition, int], units: tuple[Units, ...], now: float
    ) -> tuple[tuple[int, int], ...]:
        """Verdicts that a source's partition gives nothing for so long that it no longer holds time back.

        Only a partition that was read to its end can be idle: one that lags is late, not idle.
        """
        marks: list[tuple[int, int]] = []
        for c, feed in enumerate(task.feeds):
            after = task.idle_after(c)
            if after is None or self.until_end is not None:
                continue
            if len(units[c]) or not feed.ended(ends[feed.channel.place]):
                self._quiet_since.pop((task.number, c), None)
                continue
            since = self._quiet_since.setdefault((task.number, c), now)
            if (now - since) * 1e6 >= after and not task.state.channel_idle[c]:
                marks.append(task.idle_mark(c))
        return tuple(marks)

    def _commit(
        self, producer: Producer, membership: Membership, fresh: list[Task], steps: list[tuple[Task, TakenStep]]
    ) -> None:
        journal: dict[int, list[Entry]] = {}
        transaction = producer.begin()
        try:
            for task in fresh:
                journal[task.number] = [self._fresh[task.number]]
            for task, taken in steps:
                for block in taken.output.blocks:
                    transaction.append(block)
                journal.setdefault(task.number, []).append(taken.entry)
            owned = sorted({task.number for task in fresh} | {task.number for task, _ in steps})
            for number in owned:
                transaction.append(entry_block(self.binding.names.tasks, number, journal[number]))
                task = self.tasks[number]
                transaction.commit_offsets(
                    self.binding.names.group(task.stage.stage.index),
                    task.offsets,
                    membership=membership,
                    owned=(number,),
                )
            ranges = _committed(transaction)
        except BaseException:
            transaction.abort()
            raise
        for number in journal:
            self._journal_end[number] = ranges[TopicPartition(self.binding.names.tasks, number)][1]
            self._fresh.pop(number, None)
        cursors = {place: first for place, (first, _) in ranges.items()}
        for task, taken in steps:
            # A commit's range of a partition holds the blocks of all tasks in the order in which they were appended.
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
            self.progress.units += taken.units
            self.progress.steps += 1
            for topic, (rows, _) in taken.output.digests.items():
                self.progress.written[topic] = self.progress.written.get(topic, 0) + rows
            self.progress.fates[task.name] = taken.entry.fates
        if self.on_commit is not None and steps:
            self.on_commit(self.progress)

    def _adapt(self, spent: float, *, full: bool) -> None:
        """Steps grow while commits keep up, and shrink when one takes longer than the commit interval allows."""
        if self.steps is not None:
            return
        if spent > 2 * self._commit_s:
            self._most = max(_LEAST_STEP_UNITS, self._most // 2)
        elif full and spent < self._commit_s:
            self._most = min(_MOST_STEP_UNITS, self._most * 2)

    def _save(self, number: int) -> None:
        """Writes a checkpoint of a task, of a step that is committed."""
        task = self.tasks[number]
        if self.checkpoints is None or number in self._fresh or not self._work_since.get(number):
            return
        place = TopicPartition(self.binding.names.tasks, number)
        offset = self._journal_end[number] - 1
        mark = journal_mark(self.log, place, offset)
        if mark is None or mark[0] != task.state.steps:
            return
        self._work_since[number] = 0.0
        try:
            save_state(
                self.checkpoints,
                task.state,
                task=task.name,
                step=mark[0],
                chain=mark[1],
                fingerprint=self.binding.plan.logic,
                journal_offset=offset,
            )
            # Only what the journal vouches for counts: a checkpoint of another log must not push ours out.
            sound = [
                manifest.step
                for manifest in self.checkpoints.manifests(task.name)
                if stands_on(self.log, place, manifest)
            ]
            self.checkpoints.discard(task.name, keep_steps=sound[:2])
        except OSError as error:
            # Without a checkpoint a restart takes longer; the run itself needs none.
            logger.warning("no checkpoint of %s: %s", task.name, error)

    # ── the end of a finite run ──────────────────────────────────────────────────────────────────────────────────────

    def _finished(self) -> bool:
        """Whether every task of the topology, also of other workers, has read all that there is."""
        if len(self.tasks) == self.binding.task_count:
            return all(self._task_done(task) for task in self.tasks.values())
        for stage, count in zip(self.binding.stages, self.binding.tasks, strict=True):
            committed = self.log.committed(self.binding.names.group(stage.stage.index))
            for index in range(count):
                for channel in stage.channels(index, self.binding.partitions):
                    end = self.log.end_offset(channel.place)
                    if self.until_end is not None and channel.place in self.until_end:
                        end = min(end, self.until_end[channel.place])
                    if end > self.log.start_offset(channel.place) and committed.get(channel.place, -1) < end:
                        return False
        if self.close and any(number not in self.tasks and not self._closed(number) for number in self._of_sources()):
            return False  # Its owner may die before it ends time; then somebody has to be there.
        return all(self._task_done(task) for task in self.tasks.values())

    def _of_sources(self) -> Iterator[int]:
        for stage, count in zip(self.binding.stages, self.binding.tasks, strict=True):
            if any(inlet.source is not None for inlet in stage.stage.inputs):
                yield from (self.binding.number_of(stage.stage.index, index) for index in range(count))

    def _closed(self, number: int) -> bool:
        """Whether a task of another worker has ended time, as its journal says."""
        place = TopicPartition(self.binding.names.tasks, number)
        end = self.log.end_offset(place)
        return end > 0 and any(
            entry.watermark >= MAX_TIME for _, entry in journal_entries(self.log, place, end - 1, end)
        )

    def _task_done(self, task: Task) -> bool:
        ends = {channel.place: self.log.end_offset(channel.place) for channel in task.channels}
        return task.ended(ends) and (not self.close or not task.close_marks() or task.is_closed())

    def _rest(self) -> None:
        """Waits for something to read, at most one commit interval."""
        waiting = {
            feed.channel.place: feed.next_offset
            for task in self.tasks.values()
            for feed in task.feeds
            if feed.stop is None or feed.next_offset < feed.stop
        }
        if waiting:
            self.log.wait(waiting, int(max(self._commit_s, 0.001) * 1e6))
        else:
            time.sleep(_IDLE_S)


def _committed(transaction: Transaction) -> dict[TopicPartition, tuple[int, int]]:
    """Commits; a log that is busy leaves the transaction open, so the same commit is tried again for a while."""
    for _ in range(_BUSY_COMMITS):
        try:
            return transaction.commit()
        except LogBusy as busy:
            logger.warning("the commit waits: %s", busy)
    return transaction.commit()
