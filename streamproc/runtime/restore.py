"""Bringing a task to where its journal ends: the newest sound checkpoint, then the recorded steps again, muted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from streamproc.engine.compiled import TaskState
from streamproc.errors import (
    CorruptSnapshot,
    Fenced,
    ForeignFingerprint,
    InputGone,
    LogError,
    LogUnavailable,
    OffsetOutOfRange,
    ReplayDiverged,
)
from streamproc.hashing import content_id
from streamproc.ports import CheckpointManifest, CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.checkpoint import load_state
from streamproc.runtime.clock import Clock, SystemClock
from streamproc.runtime.divergence import Accepting, Before, note_of
from streamproc.runtime.fingerprints import run_head
from streamproc.runtime.journal import Entry, entry_at, journal_blocks, journal_entries
from streamproc.runtime.reach import out_of_reach
from streamproc.runtime.seeds import opened_state
from streamproc.runtime.task import TakenStep, Task

_SETTLING_S: Final = 120.0
_SETTLING_LOOK_S: Final = 0.05
_LOOKS: Final = 5
_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Restored:
    """A task that stands where its journal ends.

    steps    how many recorded steps were run again
    fresh    the journal was empty: entry 0 is still to be written
    """

    task: Task
    steps: int
    fresh: bool
    journal_end: int


def last_entry(log: Log, place: TopicPartition) -> Entry | None:
    """The newest entry of a journal. It may lie some offsets before the end: logs keep marks between records."""
    while True:
        start, end = log.start_offset(place), log.end_offset(place)
        try:
            for back in (4, 64, end - start):
                newest = None
                for block in journal_blocks(log, place, max(start, end - back), end):
                    # A block may reach past the end: what was written since then is not looked at.
                    inside = int(np.searchsorted(block.offsets, end))
                    newest = (block, inside - 1) if inside else newest
                if newest is not None:
                    return entry_at(*newest)
        except OffsetOutOfRange:
            if log.start_offset(place) == start:
                raise
            continue  # The task's owner trimmed its journal between two looks: what is newest has grown since.
        return None


def restore_task(
    binding: Binding,
    number: int,
    log: Log,
    checkpoints: CheckpointStore | None,
    *,
    stops: Mapping[TopicPartition, int] | None = None,
    on_step: Callable[[], None] | None = None,
    clock: Clock | None = None,
    accept: bool = False,
) -> Restored:
    """The task with its state rebuilt from what is committed; `on_step` is called after each step that ran again.

    The order matters: first the group's committed offsets, then the journal's end with everything in flight, then the
    journal up to there; any other order takes a commit that becomes visible meanwhile for a contradiction. Digests of
    every step that runs again are compared with the journal's; where a step ran in another environment (processor,
    libraries), `accept` takes a difference, and the task's next entry will keep both digests.

    Raises ForeignFingerprint for a journal of another build, ReplayDiverged, InputChanged and InputGone where the past
    cannot be reproduced, LogError where journal and committed offsets disagree, LogUnavailable if somebody commits
    meanwhile.
    """
    place = TopicPartition(binding.names.tasks, number)
    group = binding.names.group(binding.task_of(number)[0].stage.index)
    committed = log.committed(group)
    end = settled_end(log, place, clock, on_step)
    fresh_task = Task(binding, number, log, stops=stops)
    told = {one: committed[one] for one in fresh_task.offsets if one in committed}
    start = log.start_offset(place)
    try:
        first, head = next(journal_entries(log, place, start, end), (end, None))
        if head is None and told:
            mine = min(told)
            raise LogError(
                f"{fresh_task.name} has committed offsets ({mine.topic}-{mine.partition}@{told[mine]}) and no journal",
                hint=f"somebody removed '{place.topic}': run a new version, or delete the group '{group}'",
            )
        if head is None:
            return Restored(fresh_task, 0, True, end)
        restored = _rebuilt(binding, fresh_task, log, checkpoints, (first, head, end), stops, on_step, accept)
        if (refused := _contradiction(restored.task, committed)) is not None:
            raise refused
        restored.task.check_reach()
    except (Fenced, LogUnavailable):
        raise
    except (LogError, InputGone):
        # Who lost the task and does not know it yet meets what its successor wrote and trimmed meanwhile.
        _still_so(log, group, told, place, (start, end), clock)
        for at, position in told.items():
            if (begins := log.start_offset(at)) > position:  # What is lost for good counts before what it led to.
                raise out_of_reach(fresh_task.name, binding.names, at, position, begins) from None
        raise
    return restored


def _rebuilt(
    binding: Binding,
    fresh_task: Task,
    log: Log,
    checkpoints: CheckpointStore | None,
    journal: tuple[int, Entry, int],
    stops: Mapping[TopicPartition, int] | None,
    on_step: Callable[[], None] | None,
    accept: bool,
) -> Restored:
    """The task from its checkpoint and the entries after it.

    journal  the offset of the first entry, that entry, and the offset at which the journal ends
    """
    first, head, end = journal
    number = fresh_task.number
    place = TopicPartition(binding.names.tasks, number)
    known = journal_head(fresh_task.name, log, place, head, checkpoints)
    if known is not None:
        check_head(binding, fresh_task, known)
    task, after = newest_checkpoint(binding, fresh_task, log, checkpoints, place, stops)
    if task is None:
        if head.kind != "start":
            raise LogError(
                f"the journal of {fresh_task.name} begins at step {head.step} and no sound checkpoint reaches back to "
                "it",
                hint="compute the topology's history afresh under a new version: version=N+1",
            )
        state = opened_state(fresh_task, head.head, checkpoints)
        task, after = Task(binding, number, log, state=state, stops=stops), first + 1
    task.head = known or {}
    accepting = Accepting(log, place, end, new=accept)
    journal_end, steps = run_again(task, log, place, after, end, accepting, on_step)
    again = Task(binding, number, log, state=task.state, stops=stops)
    again.head = task.head
    again.note = note_of(task, accepting.taken) if accepting.taken else {}
    return Restored(again, steps, False, journal_end)


def run_again(
    task: Task, log: Log, place: TopicPartition, after: int, end: int, accepting: Accepting,
    on_step: Callable[[], None] | None = None,
) -> tuple[int, int]:  # fmt: skip
    """Runs the journal's steps in these offsets again; gives the offset behind the last one, and how many they are.

    Raises ReplayDiverged where one writes something else and that is not accepted.
    """
    behind, steps = after, 0
    for offset, entry in journal_entries(log, place, after, end):
        before = Before.of(task.state)
        taken = task.rerun(entry)
        try:
            compare(task, entry, taken)
        except ReplayDiverged as diverged:
            accepting.take(task, entry, taken, before, diverged, offset)
        behind, steps = offset + 1, steps + 1
        if on_step is not None:
            on_step()
    return behind, steps


def settled_end(
    log: Log, place: TopicPartition, clock: Clock | None = None, on_wait: Callable[[], None] | None = None
) -> int:
    """The end of a partition once all that was written to it before is committed or aborted.

    What a dead worker left open holds the committed end back until the log gives it up; to restore up to there would
    miss commits that lie behind it. Raises LogError if that takes longer than any transaction may last.
    """
    clock = clock or SystemClock()
    target = log.end_offset(place, isolation="read_uncommitted")
    until = clock.monotonic() + _SETTLING_S
    while (end := log.end_offset(place)) < target:
        if clock.monotonic() >= until:
            raise LogError(
                f"a transaction on {place.topic}-{place.partition} is open since {_SETTLING_S:.0f} s",
                hint="look for a worker that hangs, or abort the transaction with the log's own tools",
            )
        if on_wait is not None:
            on_wait()
        clock.sleep(_SETTLING_LOOK_S)
    return end


def compare(task: Task, entry: Entry, taken: TakenStep) -> None:
    """Raises ReplayDiverged if a step that ran again wrote something else than it wrote then."""
    now = {topic: (rows, digest.hex()) for topic, (rows, digest) in taken.output.digests.items()}
    for topic in sorted(set(now) | set(entry.outputs)):
        then_rows, then = entry.outputs.get(topic, (0, ""))
        now_rows, digest = now.get(topic, (0, ""))
        if (then_rows, then) != (now_rows, digest):
            raise ReplayDiverged(
                f"step {entry.step} of {task.name} now writes {now_rows} rows to '{topic}', then {then_rows}, and "
                "their digests differ",
                hint="'streamproc replay --as-recorded' shows the first differing row; a changed topology needs a new "
                "version",
            )


def journal_head(
    name: str, log: Log, place: TopicPartition, first: Entry, checkpoints: CheckpointStore | None
) -> Mapping[str, Any] | None:
    """The head of a journal: in its entry 0, or where that was trimmed in any checkpoint that the journal vouches for.

    None where neither is there.
    """
    if first.kind == "start":
        return first.head
    for manifest in checkpoints.manifests(name) if checkpoints is not None else ():
        head = manifest.head.get("journal")
        if isinstance(head, Mapping) and head and stands_on(log, place, manifest):
            return head
    return None


def start_entry(binding: Binding, task: Task) -> Entry:
    """Entry 0 of a task: where it starts, on how many partitions, and which build wrote it."""
    start = {f"{place.topic}-{place.partition}": offset for place, offset in task.offsets.items()}
    return Entry("start", 0, head={**run_head(binding, task.stage), "start": start, "task": task.name})


def check_head(binding: Binding, task: Task, head: Mapping[str, Any]) -> None:
    """Raises ForeignFingerprint if a journal was begun by another build or on other partition counts."""
    mine = run_head(binding, task.stage)
    for what, way in (
        ("partitions", "drain the old version and start a new one: version=N+1"),
        ("logic", "give the changed topology a new version=, or run the old code"),
        ("state", "give the changed topology a new version=, or run the old code"),
        ("engine", "run the build that wrote the journal, or start a new version="),
    ):
        if head.get(what) != mine[what]:
            detail = ""
            if isinstance(mine[what], dict) and isinstance(head.get(what), dict):
                names = sorted(n for n in {*mine[what], *head[what]} if mine[what].get(n) != head[what].get(n))
                detail = f" ({', '.join(names)})"
            raise ForeignFingerprint(f"the journal of {task.name} was written with another {what}{detail}", hint=way)


def oldest_checkpoint(binding: Binding, number: int, log: Log, checkpoints: CheckpointStore) -> tuple[Task, int] | None:
    """The task at the oldest checkpoint that the committed journal vouches for, and the journal offset after it."""
    task = Task(binding, number, log)
    place = TopicPartition(binding.names.tasks, number)
    for manifest in reversed(checkpoints.manifests(task.name)):
        if stands_on(log, place, manifest) and (state := _loaded(manifest, task, checkpoints)) is not None:
            return Task(binding, number, log, state=state), _journal_offset(manifest) + 1
    return None


def newest_checkpoint(
    binding: Binding,
    task: Task,
    log: Log,
    checkpoints: CheckpointStore | None,
    place: TopicPartition,
    stops: Mapping[TopicPartition, int] | None,
) -> tuple[Task | None, int]:
    """The task at the newest checkpoint that the committed journal vouches for, and the journal offset after it."""
    if checkpoints is None:
        return None, 0
    for manifest in checkpoints.manifests(task.name):
        if manifest.fingerprint != binding.plan.logic or not stands_on(log, place, manifest):
            continue
        state = _loaded(manifest, task, checkpoints)
        if state is not None:
            return Task(binding, task.number, log, state=state, stops=stops), _journal_offset(manifest) + 1
    return None, 0


def _loaded(manifest: CheckpointManifest, task: Task, checkpoints: CheckpointStore) -> TaskState | None:
    try:
        return load_state(manifest, task.stage.open_state(task.channels), checkpoints)
    except CorruptSnapshot:
        # A damaged checkpoint is never served: an older one, or the journal from its beginning, takes its place.
        return None
    except ForeignFingerprint as other:
        raise ForeignFingerprint(
            f"the checkpoint of {task.name} after step {manifest.step} was saved by another build: {other.message}",
            hint="run the build that saved it; or move its checkpoints aside, then the state is rebuilt by replay of "
            "the journal; or start a new version of the topology (version=N+1), which computes its history afresh",
        ) from None


def journal_mark(log: Log, place: TopicPartition, offset: int) -> tuple[int, str] | None:
    """Step and mark of the journal entry at an offset, None if there is none.

    The mark ties a checkpoint to this entry of this log: a hash of the whole entry, and when the log took it. What an
    entry writes would not do, for many write nothing; and in a log that was made anew the same step has another mark.
    """
    if not log.start_offset(place) <= offset < log.end_offset(place):
        return None
    try:
        block = log.read(place, offset, max_records=1)
    except OffsetOutOfRange:
        return None  # Whoever owns the task now trimmed its journal since the line above.
    if not len(block) or int(block.offsets[0]) != offset:
        return None
    entry = entry_at(block, 0)
    return entry.step, f"{content_id(block.value(0) or b'')}@{int(block.timestamps[0])}"


def stands_on(log: Log, place: TopicPartition, manifest: CheckpointManifest) -> bool:
    """Whether the committed journal has the very entry that the checkpoint was written after."""
    return journal_mark(log, place, _journal_offset(manifest)) == (manifest.step, manifest.chain)


def _journal_offset(manifest: CheckpointManifest) -> int:
    offset = manifest.head.get("journal_offset")
    return offset if isinstance(offset, int) else -1


def _contradiction(task: Task, committed: Mapping[TopicPartition, int]) -> LogError | None:
    for place, offset in task.offsets.items():
        if place in committed and committed[place] != offset:
            return LogError(
                f"the journal of {task.name} ends after step {task.state.steps} at "
                f"{place.topic}-{place.partition}@{offset}, the committed offset is {committed[place]}",
                hint="two runs wrote this topology's group: run 'streamproc verify'",
            )
    return None


def _still_so(
    log: Log,
    group: str,
    told: Mapping[TopicPartition, int],
    place: TopicPartition,
    bounds: tuple[int, int],
    clock: Clock | None,
) -> None:
    """Raises LogUnavailable if offsets or journal are other than they were read: then they may agree after all.

    A worker that has lost its task and does not know it reads both while the owner commits; a broker that stood still
    answers with what it knew before, for a moment after it goes on; and a trim that an owner asked for, who is gone by
    now, may come between two looks.
    """
    clock = clock or SystemClock()
    for _ in range(_LOOKS):
        clock.sleep(_LOOK_S)
        now = log.committed(group)
        moved = any(now.get(one) != offset for one, offset in told.items())
        if moved or (log.start_offset(place), log.end_offset(place, isolation="read_uncommitted")) != bounds:
            raise LogUnavailable(
                f"the journal {place.topic}-{place.partition} and the offsets of '{group}' moved while they were read",
                hint="who owns the task now goes on with it",
            )
