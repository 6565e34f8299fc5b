"""Versions of models taken from a run: a learner's state where its journal ends, or where it stood after a step."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamproc.errors import InputChanged, InputError, InputGone, did_you_mean
from streamproc.learning.operator import Learn
from streamproc.learning.standing import Standing, standing
from streamproc.models.sealing import river_version
from streamproc.models.version import ModelVersion
from streamproc.planning.column_versions import column_version
from streamproc.planning.plan import Node, Plan
from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.divergence import Accepting, divergences
from streamproc.runtime.fingerprints import environment
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.replay import begun_task
from streamproc.runtime.restore import (
    check_head,
    journal_head,
    journal_mark,
    newest_checkpoint,
    run_again,
)
from streamproc.runtime.task import Task

RECORDED = "recorded"
"""The origin of a version that was taken from a run; the other one is a bounded replay (`model_replay`)."""


@dataclass(frozen=True, slots=True)
class Learner:
    """A `learn` of a plan.

    tasks  the numbers of the tasks that run it: each has models of its own
    """

    node: Node
    tasks: tuple[int, ...]

    @property
    def name(self) -> str:
        """What the plan calls it."""
        return self.node.name

    @property
    def step(self) -> Learn:
        """Its operator."""
        assert isinstance(self.node.origin, Learn), "it was chosen so"
        return self.node.origin


def learners_of(binding: Binding) -> list[Learner]:
    """The learners of a topology, in the plan's order."""
    tasks: dict[int, list[int]] = {}
    for number in range(binding.task_count):
        tasks.setdefault(binding.task_of(number)[0].stage.index, []).append(number)
    nodes = [node for node in binding.plan.nodes if isinstance(node.origin, Learn)]
    return [Learner(node, tuple(tasks[node.stage])) for node in nodes]


def chosen_learner(learners: Sequence[Learner], topology: str, name: str = "") -> Learner:
    """The learner of a name, or the only one; raises InputError where there is none, or several and no name."""
    names = [learner.name for learner in learners]
    if not names:
        raise InputError(f"topology '{topology}' learns nothing", hint="sp.learn makes a learner")
    if not name and len(names) > 1:
        raise InputError(f"topology '{topology}' has {len(names)} learners", hint="name one: " + ", ".join(names))
    if name and name not in names:
        raise InputError(f"topology '{topology}' has no learner '{name}'", hint=did_you_mean(name, names))
    return learners[names.index(name) if name else 0]


def definition(plan: Plan, node: Node) -> dict[str, Any]:
    """What a learner is: hashes of the definitions of all that it sees, and of itself with all above it."""
    step = node.origin
    assert isinstance(step, Learn), "it was chosen so"
    rows = node.inputs[0]
    told = node.inputs[-1] if step.on else rows
    schema = plan.nodes[rows[0]].type.schema if rows[1] == "rows" else plan.nodes[rows[0]].sides[rows[1]].schema
    labels = column_version(plan, told, step.label) if step.label else plan.nodes[told[0]].meaning[:12]
    return {
        "kind": step.kind,
        "into": step.into,
        "inputs": {
            name: {"type": str(schema[name].dtype), "version": column_version(plan, rows, name)} for name in step.inputs
        },
        "labels": {"column": step.label, "version": labels},
        "learner": node.meaning,
    }


def made_version(
    told: Mapping[str, Any], stands: Standing, offsets: list[list[Any]], binding: Binding, number: int,
    origin: Mapping[str, Any],
) -> ModelVersion:  # fmt: skip
    """A version of how a learner of a task stands.

    told     its definition
    offsets  per input partition: topic, partition, first offset, next offset, units of that record consumed already
    """
    stage, _ = binding.task_of(number)
    libraries = {
        **environment(stage)["libraries"], "river": river_version(),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }  # fmt: skip
    content = {
        **told, "task": binding.task_of(number)[1], "champion": stands.champion, "texts": stands.texts,
        "offsets": offsets, "libraries": libraries,
        "labels_learned": stands.labels, "metrics": stands.metrics, "state": stands.digest,
    }  # fmt: skip
    return ModelVersion(content, dict(origin), stands.models)


def current_versions(
    binding: Binding, learner: Learner, log: Log, checkpoints: CheckpointStore | None
) -> list[ModelVersion]:
    """What a learner is where the journals of its tasks end, one version a task; those that never ran have none.

    Each task is brought there from its newest checkpoint, muted; every step that runs again is compared.
    Raises ForeignFingerprint for the journal of another build, ReplayDiverged, InputChanged, InputGone.
    """
    made = []
    for number in learner.tasks:
        reached = _newest(binding, number, log, checkpoints)
        if reached is not None:
            made.append(recorded_version(binding, learner, number, log, *reached))
    return made


def recorded_version(
    binding: Binding, learner: Learner, number: int, log: Log, task: Task, offset: int, start: Mapping[str, int]
) -> ModelVersion:
    """The version of a task that stands after the journal entry at an offset.

    start  where its inputs began, by "topic-partition"
    """
    place = TopicPartition(binding.names.tasks, number)
    mark = journal_mark(log, place, offset)
    names = binding.names
    origin = {
        "made": RECORDED, "topology": names.topology, "version": names.version, "learner": learner.name,
        "task": number, "step": task.state.steps, "journal": "" if mark is None else mark[1], "offset": offset,
    }  # fmt: skip
    offsets = [
        [
            channel.place.topic, channel.place.partition, start.get(f"{channel.place.topic}-{channel.place.partition}"),
            int(position[0]), int(position[1]),
        ]
        for channel, position in zip(task.channels, task.state.positions, strict=True)
    ]  # fmt: skip
    stands = standing(learner.step, task.state.operators[learner.name])
    return made_version(definition(binding.plan, learner.node), stands, offsets, binding, number, origin)


def _newest(
    binding: Binding, number: int, log: Log, checkpoints: CheckpointStore | None
) -> tuple[Task, int, Mapping[str, int]] | None:
    """A task where its journal ends, the offset of the last entry, and where its inputs began."""
    place = TopicPartition(binding.names.tasks, number)
    start, end = log.start_offset(place), log.end_offset(place)
    _, first = next(journal_entries(log, place, start, end), (end, None))
    if first is None:
        return None
    fresh = Task(binding, number, log)
    head = journal_head(fresh.name, log, place, first, checkpoints) or {}
    if head:
        check_head(binding, fresh, head)
    task, after = newest_checkpoint(binding, fresh, log, checkpoints, place, None)
    if task is None:
        begun = begun_task(binding, number, log, checkpoints, from_checkpoint=False)
        assert begun is not None, "its journal has an entry"
        task, after = begun
    behind, _ = run_again(task, log, place, after, end, Accepting(log, place, end, new=False))
    return task, behind - 1, head.get("start", {})


@dataclass(frozen=True, slots=True)
class Rerun:
    """A recorded task that ran again to a step.

    steps    how many steps ran again; from: the step of the checkpoint at which it began, 0 for the journal's beginning
    differs  of those how many wrote something else than they had written
    """

    task: Task
    start: Mapping[str, int]
    steps: int
    began: int
    differs: int


def rerun_to(
    binding: Binding, number: int, log: Log, checkpoints: CheckpointStore | None, *, step: int, journal: str
) -> Rerun:
    """Runs a task again over the recorded input, from as early as the log reaches, until a step.

    step, journal  of the origin of a version: the step, and the mark of its entry

    What steps write is compared and counted, and stops nothing: it is the state that is asked for.
    Raises InputGone where journal or input no longer reach back, InputChanged for another journal or input.
    """
    place = TopicPartition(binding.names.tasks, number)
    begun = begun_task(binding, number, log, checkpoints, from_checkpoint=True)
    if begun is None:
        raise InputGone(f"'{place.topic}' has no journal of task {number}", hint="name the log that it ran on")
    task, after = begun
    began, differs = task.state.steps, 0
    if began >= step:
        raise InputGone(
            f"the journal of {task.name} was trimmed up to step {began}, and the version stands after step {step}",
            hint='to have all of it, declare settings={"audit": "all"} before the first run',
        )
    first = next(journal_entries(log, place, log.start_offset(place), log.end_offset(place)))[1]
    head = journal_head(task.name, log, place, first, checkpoints) or {}
    for steps, (offset, entry) in enumerate(journal_entries(log, place, after, log.end_offset(place)), 1):
        differs += bool(divergences(entry, task.rerun(entry)))
        if entry.step == step:
            mark = journal_mark(log, place, offset)
            if mark is None or mark[1] != journal:
                raise InputChanged(
                    f"step {step} of {task.name} is another one than the version stands after",
                    hint="the topology ran anew on this log since: name the log that the version was taken from",
                )
            return Rerun(task, head.get("start", {}), steps, began, differs)
    raise InputGone(f"the journal of {task.name} ends before step {step}", hint="name the log that it ran on")
