"""Seeds: state that a task begins with because another run left it. Entry 0 of its journal names the seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamproc.engine.compiled import TaskState
from streamproc.errors import LogError
from streamproc.ports import CheckpointStore
from streamproc.runtime.checkpoint import load_state
from streamproc.runtime.task import Task


def seed_name(task: str) -> str:
    """Under which name a task's seed lies in the checkpoint store: no checkpoint of the task pushes it out."""
    return f"{task}.seed"


def opened_state(task: Task, head: Mapping[str, Any], checkpoints: CheckpointStore | None) -> TaskState:
    """The state of a task before its first step, as the head of its journal has it.

    Raises LogError if the journal begins with a seed that is not in the store, CorruptSnapshot for a damaged one.
    """
    state = task.stage.open_state(task.channels)
    if head.get("seed"):
        state = _seed(task, head["seed"], checkpoints, state)
    for c, channel in enumerate(task.channels):
        state.positions[c] = head["start"][f"{channel.place.topic}-{channel.place.partition}"], 0
    return state


def _seed(task: Task, chain: str, checkpoints: CheckpointStore | None, empty: TaskState) -> TaskState:
    for manifest in checkpoints.manifests(seed_name(task.name)) if checkpoints is not None else ():
        if manifest.chain == chain and checkpoints is not None:
            return load_state(manifest, empty, checkpoints)
    raise LogError(
        f"{task.name} began with the state that {chain.partition('@')[0]} left, and this state is in no checkpoint",
        hint="name the checkpoint store that it was handed over in, or compute the history again under a new version=",
    )
