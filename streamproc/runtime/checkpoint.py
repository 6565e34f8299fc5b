"""A task's state to a checkpoint store and back: arrays, cut into blocks that are stored once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from streamproc.blocks import array_of, blocks_of
from streamproc.engine.compiled import TaskState
from streamproc.ports import CheckpointManifest, CheckpointStore
from streamproc.state import export_state, import_state

_TOGETHER_BYTES: Final = 64 << 20
"""Arrays are handed to the store together up to this size: a disk takes many small files at once far sooner."""


def save_state(
    store: CheckpointStore,
    state: TaskState,
    *,
    task: str,
    step: int,
    chain: str,
    fingerprint: str,
    head: Mapping[str, object],
) -> int:
    """Stores the blocks that are new, then the manifest; gives the number of new bytes.

    The step must be committed: a manifest that names an unknown step is ignored by every loader.
    head  what a restore needs beside the state: `journal_offset` of the step's entry and its time `at`, the head of the
          `journal` (entry 0 may be gone by then), and the `positions` up to which each partition is consumed
    """
    arrays: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {}
    new = 0
    waiting: dict[str, bytes] = {}
    size = 0
    for name, array in export_state(state).items():
        blocks = blocks_of(array)
        arrays[name] = (array.dtype.str, array.shape, tuple(content for content, _ in blocks))
        waiting.update(blocks)
        size += array.nbytes
        if size >= _TOGETHER_BYTES:
            new += store.put_blocks(waiting)
            waiting, size = {}, 0
    new += store.put_blocks(waiting)
    store.put_manifest(CheckpointManifest(task, step, chain, fingerprint, dict(head), arrays))
    return new


def load_state(manifest: CheckpointManifest, empty: TaskState, store: CheckpointStore) -> TaskState:
    """The state in a checkpoint; raises CorruptSnapshot if any part of it is missing or damaged."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, (dtype, shape, contents) in manifest.arrays.items():
        arrays[name] = array_of(dtype, shape, (store.get_block(content) for content in contents))
    state: TaskState = import_state(empty, arrays)
    return state
