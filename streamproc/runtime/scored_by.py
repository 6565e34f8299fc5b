"""The models behind a decision: which learner scored its row, what that model knew then, and why it said so.

A decision's id is a hash of its row's coordinate, and steps that pass a row on keep that. So the row of a learner above
that has the same hash is the one that was decided. The learner's task runs again over its recorded input up to that
row, muted, from as early as its journal reaches; there the model is asked as it was asked then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from streamproc.batch import C0, C1, C2, C3, Batch, Meta
from streamproc.errors import ReplayDiverged, StreamprocError
from streamproc.hashing import mix64
from streamproc.learning.asked import Asked, Lenders, asked_of
from streamproc.learning.learn_state import LearnState
from streamproc.learning.operator import Learn
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.union import Union
from streamproc.planning.plan import Node, Plan
from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.divergence import Accepting
from streamproc.runtime.replay import begun_task
from streamproc.runtime.restore import run_again


@dataclass(frozen=True, slots=True)
class Scored:
    """What a learner said of the row that was decided.

    learner  its name in the plan; task, step: where and when it was asked
    made     the columns that it makes of it
    """

    learner: str
    task: str
    step: int
    made: tuple[str, ...]
    asked: Asked


@dataclass(frozen=True, slots=True)
class Unasked:
    """A learner that cannot be asked again, and why; diverged: this build gives something else than was recorded."""

    learner: str
    reason: str
    diverged: bool = False


def learners_above(plan: Plan, node: Node) -> list[Node]:
    """The learners whose rows may come to a step as they are: above its first input, and above all of a union."""
    found: dict[int, Node] = {}
    waiting = [node]
    while waiting:
        one = waiting.pop()
        inputs = one.inputs if isinstance(one.origin, Union) else one.inputs[:1]
        for rank, port in inputs:
            above = plan.nodes[rank]
            if port == "rows" and rank not in found:
                waiting.append(above)
                if isinstance(above.origin, Learn):
                    found[rank] = above
    return [found[rank] for rank in sorted(found)]


def scored_by(
    binding: Binding, log: Log, checkpoints: CheckpointStore | None, node: Node, decision: int, *,
    near: int = 0, on_step: Callable[[], None] | None = None,
) -> Iterator[Scored | Unasked]:  # fmt: skip
    """What each learner above a deciding step said of the row of a decision, or why it cannot be asked.

    near  the partition of the decision's line: the learners' tasks of that number are looked at first

    Touches nothing live.  Cost: the learner's recorded steps up to the row, once for each learner.
    """
    for learner in learners_above(binding.plan, node):
        reasons, diverged = [], False
        for number in _tasks(binding, learner, near):
            try:
                found = _asked_again(binding, number, log, checkpoints, learner, (node.rank, decision), on_step)
            except StreamprocError as problem:  # its history is gone, say: that is the answer
                reasons.append(problem.message)
                diverged = diverged or isinstance(problem, ReplayDiverged)
                continue
            if found is not None:
                yield found
                break
        else:
            told = "; ".join(reasons) or "none of the rows that it scored is the row that was decided"
            yield Unasked(learner.name, told, diverged)


def _tasks(binding: Binding, learner: Node, near: int) -> list[int]:
    numbers = [n for n in range(binding.task_count) if binding.task_of(n)[0].stage.index == learner.stage]
    return sorted(numbers, key=lambda n: (binding.task_of(n)[1] != near, n))


def _asked_again(
    binding: Binding, number: int, log: Log, checkpoints: CheckpointStore | None, learner: Node,
    wanted: tuple[int, int], on_step: Callable[[], None] | None,
) -> Scored | None:  # fmt: skip
    begun = begun_task(binding, number, log, checkpoints, from_checkpoint=True)
    if begun is None:
        return None
    task, after = begun
    assert isinstance(learner.origin, Learn), "it was chosen so"
    watch = _Watched(learner.origin, *wanted)
    nodes = tuple(replace(one, origin=watch) if one.rank == learner.rank else one for one in task.stage.stage.nodes)
    task.stage = replace(task.stage, stage=replace(task.stage.stage, nodes=nodes))
    place = TopicPartition(binding.names.tasks, number)
    end = log.end_offset(place)

    def stepped() -> None:
        if watch.found is not None:
            raise _Reached
        if on_step is not None:
            on_step()

    with contextlib.suppress(_Reached):
        run_again(task, log, place, after, end, Accepting(log, place, end, new=False), stepped)
    if watch.found is None:
        return None
    return Scored(learner.name, task.name, task.state.steps, tuple(learner.origin.made.values()), watch.found)


class _Reached(Exception):  # no error: nobody but `_asked_again` sees it
    """The step with the row has run, and has given what was recorded: nothing behind it is of interest."""


@dataclass(slots=True)
class _Watched:
    """A learner that is asked about one row on the way, and otherwise is the learner."""

    step: Learn
    rank: int
    decision: int
    lenders: Lenders = field(default_factory=Lenders)
    found: Asked | None = None

    @property
    def verb(self) -> str:
        return self.step.verb

    def schema(self, *inputs: StreamType) -> StreamType:
        return self.step.schema(*inputs)

    def reads(self, needed: frozenset[str], *inputs: Any) -> tuple[frozenset[str], ...]:
        return self.step.reads(needed, *inputs)

    def open(self, *inputs: StreamType) -> LearnState:
        return self.step.open(*inputs)

    def process(self, state: LearnState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[LearnState, Output]:
        walk = self.step.begin(state, inputs, time)
        here = np.flatnonzero(_ids(walk.rows.meta, self.rank) == self.decision)
        if here.size:
            self.found = asked_of(self.step, state, walk, int(here[0]), self.lenders)
        else:
            self.lenders.see(walk)
            walk.go()
        return state, self.step.finish(state, walk)


def _ids(meta: Meta, rank: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    columns = (np.ascontiguousarray(meta[:, c]) for c in (C0, C1, C2, C3))
    return mix64(np.full(meta.shape[0], rank), *columns).view(np.int64)
