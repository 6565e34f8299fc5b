"""Bugs to be planted: each changes the engine while its context lasts, as a slip in its source would.

The simulation has to find each one. Where one slip alone does no harm because a second defence holds, both are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from streamproc.errors import Fenced, LogUnavailable, UnknownOutcome
from streamproc.event_time import MIN_TIME
from streamproc.ports import Block, TopicPartition
from streamproc.runtime import committing, restore, saving, worker
from streamproc.runtime import task as task_at_work
from streamproc.runtime.ending import Ending
from streamproc.runtime.quiet import Quiet
from streamproc.runtime.task import Task
from streamproc.runtime.worker import Worker
from streamproc.testing.simulation.case import Case
from streamproc.testing.simulation.log import SimulatedLog, SimulatedMembership, SimulatedTransaction
from streamproc.testing.simulation.partition import Batch
from streamproc.testing.simulation.store import SimulatedCheckpoints


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """Another value for an attribute, for a while."""
    there = name in vars(owner)
    old = getattr(owner, name, None)
    setattr(owner, name, new)
    try:
        yield
    finally:
        if there:
            setattr(owner, name, old)
        else:
            delattr(owner, name)


class Through:
    """Passes everything on; a bug overrides what it gets wrong."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Crooked(Through):
    """A producer whose transactions are wrapped."""

    def __init__(self, inner: Any, wrap: Callable[[Any, Any], Any]) -> None:
        super().__init__(inner)
        self._wrap = wrap

    def begin(self) -> Any:
        return self._wrap(self.inner.begin(), self.inner)


@contextmanager
def transactions(wrap: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Every transaction of a worker is wrapped: (transaction, producer) -> transaction."""
    sound = committing.commit_steps

    def commit_steps(binding: Any, producer: Any, *rest: Any) -> Any:
        return sound(binding, Crooked(producer, wrap), *rest)

    with replaced(worker, "commit_steps", commit_steps):
        yield


# ── the commit ───────────────────────────────────────────────────────────────────────────────────────────────────────


class WithoutOffsets(Through):
    def commit_offsets(self, *_: Any, **__: Any) -> None:
        """Nothing."""


class WithoutMembership(Through):
    def commit_offsets(self, group: str, offsets: Mapping[TopicPartition, int], **_: Any) -> None:
        self.inner.commit_offsets(group, offsets)


class OffsetsOff(Through):
    by = 1

    def commit_offsets(self, group: str, offsets: Mapping[TopicPartition, int], **more: Any) -> None:
        self.inner.commit_offsets(group, {place: max(0, at + self.by) for place, at in offsets.items()}, **more)


class OffsetsShort(OffsetsOff):
    by = -1


class Apart(Through):
    """Rows and journal go in two transactions."""

    first = True

    def __init__(self, inner: Any, producer: Any) -> None:
        super().__init__(inner)
        self.producer = producer
        self.rows: list[Block] = []

    def append(self, block: Block) -> None:
        if block.topic.endswith(".tasks"):
            self.inner.append(block)
        else:
            self.rows.append(block)

    def commit(self) -> Any:
        if self.first:
            journal = self.inner
            journal_blocks, journal._blocks = journal._blocks, self.rows
            offsets, journal._offsets = journal._offsets, []
            return {**journal.commit(), **self._then(journal_blocks, offsets)}
        return {**self.inner.commit(), **self._then(self.rows, [])}

    def _then(self, blocks: list[Block], offsets: Any) -> Any:
        transaction = self.producer.begin()
        for block in blocks:
            transaction.append(block)
        transaction._offsets = offsets
        return transaction.commit()


class RowsLater(Apart):
    first = False


class Twice(Through):
    def append(self, block: Block) -> None:
        self.inner.append(block)
        if not block.topic.endswith(".tasks"):
            self.inner.append(block)


class WithoutJournal(Through):
    """Every fifth commit leaves its journal entries out."""

    count = 0

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        WithoutJournal.count += 1
        self.left_out: list[TopicPartition] = []

    def append(self, block: Block) -> None:
        if block.topic.endswith(".tasks") and WithoutJournal.count % 5 == 4:
            self.left_out.append(TopicPartition(block.topic, block.partition))
        else:
            self.inner.append(block)

    def commit(self) -> Any:
        return {**dict.fromkeys(self.left_out, (0, 0)), **self.inner.commit()}


def _ranges(transaction: SimulatedTransaction) -> dict[TopicPartition, tuple[int, int]]:
    """What a commit would have answered, as far as a bug needs it."""
    cluster = transaction._log.cluster
    places = {TopicPartition(block.topic, block.partition) for block in transaction._blocks}
    return {place: (cluster.partitions[place].end - 1, cluster.partitions[place].end) for place in places}


class UnknownIsSuccess(Through):
    def commit(self) -> Any:
        try:
            return self.inner.commit()
        except UnknownOutcome:
            return _ranges(self.inner)


class UnknownIsTriedAgain(Through):
    def __init__(self, inner: Any, producer: Any) -> None:
        super().__init__(inner)
        self.producer = producer

    def commit(self) -> Any:
        try:
            return self.inner.commit()
        except UnknownOutcome:
            again = self.producer.begin()
            for block in self.inner._blocks:
                again.append(block)
            again._offsets = list(self.inner._offsets)
            return again.commit()


class FencedIsSuccess(Through):
    def commit(self) -> Any:
        try:
            return self.inner.commit()
        except Fenced:
            answer = _ranges(self.inner)
            self.inner.abort()
            return answer


def without_start(sound: Any) -> Any:
    return lambda binding, producer, membership, starts, steps, tasks: {
        **dict.fromkeys(starts, 0),
        **sound(binding, producer, membership, {}, steps, tasks),
    }


# ── restore ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def to_the_last_stable_offset(log: Any, place: TopicPartition, *_: Any) -> int:
    return int(log.end_offset(place))


@contextmanager
def journal_end_before_offsets() -> Iterator[None]:
    ends: dict[tuple[int, TopicPartition], int] = {}
    sound, settled = restore.restore_task, restore.settled_end

    def restore_task(binding: Any, number: int, log: Any, checkpoints: Any, **more: Any) -> Any:
        place = TopicPartition(binding.names.tasks, number)
        ends[id(log), place] = settled(log, place, more.get("clock"))
        return sound(binding, number, log, checkpoints, **more)

    with ExitStack() as stack:
        stack.enter_context(replaced(worker, "restore_task", restore_task))
        stack.enter_context(replaced(restore, "settled_end", lambda log, place, *_: ends[id(log), place]))
        yield


class NothingCommitted(Through):
    def committed(self, group: str) -> dict[TopicPartition, int]:
        return {}


def without_offsets(sound: Any) -> Any:
    return lambda binding, number, log, checkpoints, **more: sound(
        binding, number, NothingCommitted(log), checkpoints, **more
    )


def one_entry_too_far(sound: Any) -> Any:
    def from_checkpoint(*given: Any) -> Any:
        task, after = sound(*given)
        return task, after + (2 if task is not None else 0)  # One is the marker's.

    return from_checkpoint


def watermark_lost(sound: Any) -> Any:
    def load_state(*given: Any) -> Any:
        state = sound(*given)
        state.watermark = MIN_TIME
        state.channel_watermark[:] = MIN_TIME
        return state

    return load_state


def feeds_from_the_record(self: Task, stops: Mapping[TopicPartition, int]) -> Any:
    self.state.positions[:, 1] = 0
    return SOUND_FEEDS(self, stops)


SOUND_FEEDS: Final = Task._feeds


@contextmanager
def restored_without_running_again() -> Iterator[None]:
    """The journal after the checkpoint is read for its positions alone: the state stays as it was."""

    def rerun(self: Task, entry: Any, *, keep: bool = False) -> Any:
        state = self.state
        for c, taken in enumerate(entry.ranges):
            state.positions[c] = (taken.last, taken.last_skip)
        state.steps = entry.step
        return None

    with replaced(Task, "rerun", rerun), replaced(restore, "compare", lambda *_: None):
        yield


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _saved_blindly(self: Worker, number: int) -> None:
    """A checkpoint of whatever the task holds now, under the mark of the journal's last entry."""
    task = self.tasks[number]
    store = self.checkpointing.store
    if store is None or number in self._fresh:
        return
    at = self._journal_end.get(number, 0) - 1
    place = TopicPartition(self.binding.names.tasks, number)
    try:
        mark = restore.journal_mark(self.log, place, at)
        if mark is not None:
            positions = [[p.topic, p.partition, offset] for p, offset in sorted(task.offsets.items())]
            head = {"journal_offset": at, "at": 0, "journal": dict(task.head), "positions": positions}
            saving.save_state(
                store, task.state, task=task.name, step=mark[0], chain=mark[1],
                fingerprint=self.binding.plan.logic, head=head,
            )  # fmt: skip
    except (OSError, LogUnavailable):
        return


def saves_before_the_commit(sound: Any) -> Any:
    def commit(self: Worker, producer: Any, membership: Any, steps: Any, tasks: Any) -> None:
        for task, _ in steps:
            _saved_blindly(self, task.number)
        sound(self, producer, membership, steps, tasks)

    return commit


def saves_when_it_fails(sound: Any) -> Any:
    def recover(self: Worker, error: Any) -> Any:
        for number in sorted(self.tasks):
            _saved_blindly(self, number)
        return sound(self, error)

    return recover


def cleans_up_when_it_fails(sound: Any) -> Any:
    """A zombie tidies: of each task that it had, nothing but its own last checkpoint stays."""

    def recover(self: Worker, error: Any) -> Any:
        had = {task.name: task.state.steps for task in self.tasks.values()}
        store = self.checkpointing.store
        if isinstance(error, Fenced) and store is not None:
            for name, step in had.items():
                mine = [m.step for m in store.manifests(name) if m.step < step]
                store.discard(name, keep_steps=mine[:1])
        return sound(self, error)

    return recover


def deletes_what_it_never_listed(self: SimulatedCheckpoints, task: str, keep: set[int]) -> None:
    """Who stood still after it had listed deletes also what its successor wrote meanwhile."""
    published = self._shared.published
    for key in [key for key in published if key[0] == task and key[1] not in keep]:
        del published[key]


def trims_to_the_newest(sound: Any) -> Any:
    def kept(manifests: Any, audit: Any) -> Any:
        keep, reach = sound(manifests, audit)
        return keep[:1], keep[0] if reach is not None else None

    return kept


# ── ownership, producers, time ───────────────────────────────────────────────────────────────────────────────────────


def keeps_its_producer(sound: Any) -> Any:
    def recover(self: Worker, error: Any) -> Any:
        producer = self._producer
        if not isinstance(error, UnknownOutcome):
            return sound(self, error)
        self._producer = None
        pause = sound(self, error)
        self._producer = producer
        return min(pause, 0.001)

    return recover


def keeps_its_tasks(sound: Any) -> Any:
    def recover(self: Worker, error: Any) -> Any:
        tasks, fresh = dict(self.tasks), dict(self._fresh)
        pause = sound(self, error)
        if not isinstance(error, Fenced):
            self.tasks.update(tasks)
            self._fresh.update(fresh)
        return pause

    return recover


def works_on_what_it_gave_back(self: Worker, membership: Any) -> None:
    """Partitions that move away are released and worked on."""
    owned = membership.poll()
    self._alive_at = self.clock.monotonic()
    others = sorted(set(range(self.binding.task_count)) - owned)
    if others:
        membership.released(others)
    for number in sorted(owned - set(self.tasks)):
        self._restore(number, membership, owned)


def releases_before_it_is_done(sound: Any) -> Any:
    def turn(self: Worker, producer: Any, membership: Any) -> Any:
        if self._turns_taken % 4 == 3:
            membership.released(sorted(self.tasks))
        self._turns_taken += 1
        return sound(self, producer, membership)

    return turn


def never_releases(self: SimulatedMembership, partitions: Any) -> None:
    """Nothing."""


@contextmanager
def future_moves_time(case: Case) -> Iterator[None]:
    with ExitStack() as stack:
        for stage in case.binding.stages:
            for intake in stage.intakes:
                source = getattr(intake, "_source", None)
                if source is not None:
                    stack.enter_context(replaced(intake, "_source", replace(source, max_future_skew_us=1 << 60)))
        yield


class Deaf(Through):
    def end_offset(self, place: TopicPartition, **more: Any) -> int:
        try:
            return int(self.inner.end_offset(place, **more))
        except LogUnavailable:
            return 0


def unreachable_is_idle(sound: Any) -> Any:
    def idle_marks(self: Quiet, *given: Any) -> Any:
        log = self._log
        self._log = Deaf(log)
        try:
            return sound(self, *given)
        finally:
            self._log = log

    return idle_marks


def idle_without_asking(sound: Any) -> Any:
    class NothingMore(Through):
        def end_offset(self, place: TopicPartition, **more: Any) -> int:
            return 0

    def idle_marks(self: Quiet, *given: Any) -> Any:
        log = self._log
        self._log = NothingMore(log)
        try:
            return sound(self, *given)
        finally:
            self._log = log

    return idle_marks


def counts_what_nobody_aborted(self: Batch) -> bool:
    return True


def markers_count_as_rows(self: Ending, place: TopicPartition, position: int | None) -> bool:
    end = self.until.get(place, self.log.end_offset(place))
    return end > self.log.start_offset(place) and (position if position is not None else -1) < end


def skips_offsets(self: SimulatedLog, partition: TopicPartition) -> int:
    return int(self.cluster.partitions[partition].end)


# ── the list ─────────────────────────────────────────────────────────────────────────────────────────────────────────

Plant = Callable[[Case], Any]


@dataclass(frozen=True)
class Bug:
    """A planted bug. `case` names the topology in which it shows: "small", "two" partitions, or "idle"."""

    plant: Plant
    case: str = "small"


def attribute(owner: Any, name: str, new: Any) -> Plant:
    """One attribute is another."""
    return lambda _: replaced(owner, name, new)


def wrapped(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Plant:
    """One function is wrapped."""
    return lambda _: replaced(owner, name, wrap(getattr(owner, name)))


def together(*plants: Plant) -> Plant:
    """Several at once."""

    @contextmanager
    def all_of(case: Case) -> Iterator[None]:
        with ExitStack() as stack:
            for plant in plants:
                stack.enter_context(plant(case))
            yield

    return all_of


def within(wrap: Callable[[Any, Any], Any]) -> Plant:
    """Transactions are wrapped."""
    return lambda _: transactions(wrap)


NO_MEMBERSHIP = within(lambda t, _: WithoutMembership(t))
BELIEVES = attribute(restore, "stands_on", lambda *_: True)

PLANTED: Final[Mapping[str, Bug]] = {
    "a transaction without offsets": Bug(within(lambda t, _: WithoutOffsets(t))),
    "no generation check": Bug(NO_MEMBERSHIP),
    "committed offsets one too far": Bug(within(lambda t, _: OffsetsOff(t))),
    "committed offsets one short": Bug(within(lambda t, _: OffsetsShort(t))),
    "rows committed before their journal": Bug(within(Apart)),
    "commit before flush": Bug(within(RowsLater)),
    "rows appended twice": Bug(within(lambda t, _: Twice(t))),
    "journal entry missing": Bug(within(lambda t, _: WithoutJournal(t))),
    "unknown outcome taken for success": Bug(within(lambda t, _: UnknownIsSuccess(t))),
    "unknown outcome tried again": Bug(within(UnknownIsTriedAgain)),
    "a refused commit taken for success": Bug(within(lambda t, _: FencedIsSuccess(t))),
    "first entry not written": Bug(wrapped(worker, "commit_steps", without_start)),
    "restore to the last stable offset": Bug(attribute(restore, "settled_end", to_the_last_stable_offset)),
    "journal end read before the offsets, no generation check": Bug(
        together(lambda _: journal_end_before_offsets(), NO_MEMBERSHIP)
    ),
    "fresh start although offsets exist": Bug(
        together(
            attribute(restore, "settled_end", to_the_last_stable_offset),
            wrapped(worker, "restore_task", without_offsets),
        )
    ),
    "restore skips an entry": Bug(wrapped(restore, "newest_checkpoint", one_entry_too_far)),
    "restore takes positions, not steps": Bug(lambda _: restored_without_running_again()),
    "a checkpoint loses its watermark": Bug(wrapped(restore, "load_state", watermark_lost)),
    "a checkpoint loses its watermark, digests not compared": Bug(
        together(wrapped(restore, "load_state", watermark_lost), attribute(restore, "compare", lambda *_: None))
    ),
    "half-read records are read again": Bug(attribute(Task, "_feeds", feeds_from_the_record)),
    "state saved before the commit": Bug(wrapped(Worker, "_commit", saves_before_the_commit)),
    "a zombie's checkpoint, believed": Bug(together(wrapped(Worker, "_recover", saves_when_it_fails), BELIEVES)),
    "a zombie's clean-up of checkpoints": Bug(wrapped(Worker, "_recover", cleans_up_when_it_fails)),
    "a late cleaner deletes what it never listed": Bug(
        attribute(SimulatedCheckpoints, "_discard", deletes_what_it_never_listed)
    ),
    "the past trimmed to the newest checkpoint": Bug(wrapped(saving, "kept_checkpoints", trims_to_the_newest)),
    "producer kept after an unknown outcome": Bug(wrapped(Worker, "_recover", keeps_its_producer)),
    "tasks not restored after an abort": Bug(wrapped(Worker, "_recover", keeps_its_tasks)),
    "works on what it gave back, no generation check": Bug(
        together(attribute(Worker, "_take_over", works_on_what_it_gave_back), NO_MEMBERSHIP)
    ),
    "no abort on revoke: releases before it is done, no generation check": Bug(
        together(
            wrapped(Worker, "_turn", releases_before_it_is_done),
            attribute(Worker, "_turns_taken", 0),
            NO_MEMBERSHIP,
        )
    ),
    "never gives partitions back": Bug(attribute(SimulatedMembership, "released", never_releases)),
    "a future event moves time": Bug(future_moves_time),
    "a verdict of the clock forgotten by a restart": Bug(attribute(task_at_work, "within", lambda at, _: at[:0])),
    "a verdict of the clock not in the journal": Bug(attribute(task_at_work, "_verdicts", lambda *_: ())),
    "an unreachable partition called idle": Bug(wrapped(Quiet, "idle_marks", unreachable_is_idle), "idle"),
    "a partition called idle unasked": Bug(wrapped(Quiet, "idle_marks", idle_without_asking), "idle"),
    "aborted records are read": Bug(attribute(Batch, "counts", property(counts_what_nobody_aborted))),
    "a finite run waits for markers": Bug(attribute(Ending, "_has_more", markers_count_as_rows), "two"),
    "a finite run forgets what is in flight": Bug(attribute(Ending, "_in_flight", lambda *_: 0)),
}
OVERLAPPED: Final[Mapping[str, Plant]] = {
    "journal end read before the offsets": lambda _: journal_end_before_offsets(),
    "a zombie's checkpoint, written": wrapped(Worker, "_recover", saves_when_it_fails),
    "every checkpoint believed": BELIEVES,
    "digests not compared": attribute(restore, "compare", lambda *_: None),
    "works on what it gave back": attribute(Worker, "_take_over", works_on_what_it_gave_back),
}
"""Slips that change no result alone, because another defence holds: each is above, with that defence removed."""
