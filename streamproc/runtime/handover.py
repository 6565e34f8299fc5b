"""The hand-over: a run beside the live one has read history up to some offsets, and the live run begins right there.

The live run's entry 0 holds these offsets, the run that it goes on from, and the id of a *seed*: that run's state,
saved under the live task's name. All of it becomes true in one transaction, so history and live are two tiles of one
floor: what lies below the cut is in the results of the first run, what lies above it in those of the second, nothing is
in both and nothing in none, however many rows come in meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from streamproc.engine.compiled import TaskState
from streamproc.errors import InputError
from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.checkpoint import save_state
from streamproc.runtime.clock import Clock
from streamproc.runtime.first_start import begin, begun_tasks, refuse_begun
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.restore import journal_head, journal_mark, restore_task
from streamproc.runtime.seeds import seed_name
from streamproc.runtime.task import Task


@dataclass(frozen=True, slots=True)
class Tile:
    """One source partition over a hand-over: the first run has [first, reached), the live one [live_from, ...)."""

    place: TopicPartition
    first: int
    cut: int
    reached: int
    live_from: int

    @property
    def whole(self) -> bool:
        """Whether the two runs meet without gap or overlap."""
        return self.reached <= self.cut == self.live_from


def hand_over(
    side: Binding,
    live: Binding,
    log: Log,
    checkpoints: CheckpointStore,
    cut: Mapping[TopicPartition, int],
    *,
    note: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> list[Tile]:
    """Lets the live run begin where a run beside it ended; done twice, it only tells again what was done.

    cut   the source offsets at which the first run ends and the live one begins
    note  what else the live run's entry 0 shall say

    Raises InputError if the first run has not read everything up to the cut, has ended time, or differs from the live
    one in tasks; if the live run has begun otherwise; LogError if its workers are alive.
    """
    if begun_tasks(live, log):
        head = begun_head(live, 0, log, checkpoints)
        if head.get("handed_over", {}).get("run") == side.names.prefix:
            return tiles(side, live, log, checkpoints)
    refuse_begun(live, log)
    if side.tasks != live.tasks or any(side.partitions[place.topic] != live.partitions[place.topic] for place in cut):
        raise InputError(
            f"'{side.names.prefix}' has {side.tasks} tasks in its stages and the live run would have {live.tasks}",
            hint="compute the history again under another --id: the sources' partitions changed",
        )
    heads: dict[int, dict[str, Any]] = {}
    fates: dict[int, dict[str, dict[str, int]]] = {}
    for number in range(side.task_count):
        restored = restore_task(side, number, log, checkpoints, clock=clock)
        require_rest(restored.task, log, cut)
        place = TopicPartition(side.names.tasks, number)
        mark = journal_mark(log, place, restored.journal_end - 1)
        if mark is None:
            raise InputError(f"the journal of {restored.task.name} moved meanwhile", hint="stop its workers, try again")
        task = Task(live, number, log)
        chain = f"{restored.task.name}@{mark[0]}:{mark[1]}"
        save_state(
            checkpoints,
            seeded(restored.task.state, task),
            task=seed_name(task.name),
            step=0,
            chain=chain,
            fingerprint=live.plan.logic,
            head={"from": restored.task.name, "step": mark[0]},
        )
        heads[number] = {
            "seed": chain,
            "handed_over": {
                "run": side.names.prefix,
                "cut": {f"{p.topic}-{p.partition}": offset for p, offset in sorted(cut.items())},
                "written": dict(restored.task.state.written),
            },
            **(note or {}),
        }
        inlets = [inlet.name for inlet in restored.task.stage.stage.inputs]
        fates[number] = restored.task.state.ledger.summary(inlets)
    begin(live, log, cut, heads=heads, fates=fates, clock=clock)
    return tiles(side, live, log, checkpoints)


def seeded(state: TaskState, task: Task) -> TaskState:
    """A task's state as another run's task goes on from it: what it knows of events stays, what it wrote does not."""
    fresh = task.state
    return replace(
        state,
        positions=fresh.positions,
        chains=fresh.chains,
        sums=fresh.sums,
        written=fresh.written,
        steps=0,
    )


def require_rest(task: Task, log: Log, cut: Mapping[TopicPartition, int]) -> None:
    """Raises InputError unless a task has read its sources up to the cut and its internal topics to their ends."""
    if task.is_closed():
        raise InputError(
            f"{task.name} has ended time: rows that come later would all be late",
            hint="hand over a replay that was run with --no-close",
        )
    for feed in task.feeds:
        place = feed.channel.place
        end = cut.get(place)
        if end is None:
            end = log.end_offset(place)
        if place in cut and feed.next_offset > end:
            raise InputError(
                f"{task.name} has read {place.topic}-{place.partition} up to {feed.next_offset}, beyond {end}",
                hint="the version that takes over must not run ahead of the one that it takes over from: stop a shadow "
                "before the older version is drained; 'streamproc upgrade --replay' computes the state from history",
            )
        feed.fill(log, wanted=1, end=end)
        if not feed.ended(end):
            raise InputError(
                f"{task.name} has not read {place.topic}-{place.partition} to {end}", hint="run it to its end first"
            )


def tiles(side: Binding, live: Binding, log: Log, checkpoints: CheckpointStore | None) -> list[Tile]:
    """How the two runs share out each source partition, from their journals and committed offsets alone."""
    found: dict[TopicPartition, Tile] = {}
    for number in range(live.task_count):
        before, after = begun_head(side, number, log, checkpoints), begun_head(live, number, log, checkpoints)
        stage, index = live.task_of(number)
        ends = log.committed(side.names.group(stage.stage.index))
        for channel in stage.channels(index, live.partitions):
            name = f"{channel.place.topic}-{channel.place.partition}"
            if name not in after["handed_over"]["cut"]:
                continue
            first, cut = before["start"][name], after["handed_over"]["cut"][name]
            place = channel.place
            found[place] = Tile(place, first, cut, ends.get(place, first), after["start"][name])
    return [found[place] for place in sorted(found)]


def begun_head(binding: Binding, number: int, log: Log, checkpoints: CheckpointStore | None) -> Mapping[str, Any]:
    """What entry 0 of a task says; raises InputError where that is gone."""
    task = Task(binding, number, log)
    place = TopicPartition(binding.names.tasks, number)
    found = next(journal_entries(log, place, log.start_offset(place), log.end_offset(place)), None)
    head = None if found is None else journal_head(task.name, log, place, found[1], checkpoints)
    if head is None:
        raise InputError(f"nobody knows where {task.name} began", hint="its journal or its checkpoints are gone")
    return head
