"""State of an older version for a newer one: whose fingerprints allow it, and how it is taken over.

A step's state may be taken over if what shapes it is equal, and if all that came to it was made the same way: state and
upstream logic have equal fingerprints. If only the logic above differs, somebody may vouch for it by name (*adopt*).
Steps that hold nothing are of no account.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from streamproc.engine.compiled import CompiledStage, Names, TaskState
from streamproc.graph import Source
from streamproc.ports import CheckpointManifest, CheckpointStore, Log, TopicPartition
from streamproc.runtime.checkpoint import load_arrays
from streamproc.runtime.fingerprints import run_head
from streamproc.runtime.handover import seeded
from streamproc.runtime.restore import last_entry, settled_end, stands_on
from streamproc.runtime.task import Task
from streamproc.state import export_state, import_state


def last_checkpoint(
    old: Names, number: int, stage: int, index: int, log: Log, checkpoints: CheckpointStore
) -> CheckpointManifest | None:
    """The checkpoint that an ended version left of a task, if it stands on the task's last step."""
    place = TopicPartition(old.tasks, number)
    settled_end(log, place)  # What an ended version wrote last may have been committed a moment ago.
    last = last_entry(log, place)
    for manifest in checkpoints.manifests(f"{old.prefix}.s{stage}.t{index}"):
        if last is not None and manifest.step == last.step and stands_on(log, place, manifest):
            return manifest
    return None


def differences(manifest: CheckpointManifest, old: Names, task: Task, adopt: Collection[str]) -> list[str]:
    """Why a task cannot begin with a checkpoint of an older version: in words, one for each thing that differs."""
    head: Any = manifest.head.get("journal")
    positions: Any = manifest.head.get("positions")
    if not head or positions is None:
        return ["its checkpoint was written by an older build"]
    mine = run_head(task.binding, task.stage)
    if head["engine"] != mine["engine"]:
        return ["the engine gives other bytes"]
    places = sorted({(place.topic, place.partition) for place in task.offsets})
    new = task.binding.names
    theirs = sorted({(topic.replace(f"{old.prefix}.", f"{new.prefix}.", 1), p) for topic, p, _ in positions})
    if places != theirs:
        return ["its stages are cut otherwise, or have other partitions"]
    found = []
    for node in task.stage.stage.nodes:
        name = node.name
        same = head["state"].get(name) == node.state, head["logic"].get(name) == node.logic
        if all(same) or not (isinstance(node.origin, Source) or holds_state(task.stage, name)):
            continue
        if not same[0]:
            found.append(f"'{name}' is new" if name not in head["state"] else f"what '{name}' holds differs")
        elif name not in adopt:
            found.append(f"what comes to '{name}' is made otherwise")
    return found


def holds_state(stage: CompiledStage, name: str) -> bool:
    """Whether a step remembers anything."""
    return len(export_state(stage.open_state(()).operators[name])) > 1


def taken_over(manifest: CheckpointManifest, task: Task, checkpoints: CheckpointStore) -> TaskState:
    """The state of an older version's task as the new one begins with it; steps that hold nothing begin afresh.

    Raises CorruptSnapshot for a damaged checkpoint.
    """
    arrays = load_arrays(manifest, checkpoints)
    empty = task.stage.open_state(task.channels)
    form = json.loads(arrays[""].tobytes())
    theirs: Mapping[str, Any] = form["fields"]["operators"]["dict"]
    kept = [name for name in empty.operators if name in theirs and holds_state(task.stage, name)]
    form["fields"]["operators"]["dict"] = {name: theirs[name] for name in kept}
    arrays[""] = np.frombuffer(json.dumps(form, separators=(",", ":")).encode(), np.uint8)
    state: TaskState = import_state(empty, arrays)
    operators = {name: state.operators.get(name, fresh) for name, fresh in empty.operators.items()}
    return seeded(replace(state, operators=operators), task)
