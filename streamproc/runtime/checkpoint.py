"""A task's state to a checkpoint store and back: arrays, cut into blocks that are stored once.

Checkpoints have two sides, and one that follows another takes the other side. Those of one side share every block that
did not change; those of different sides share none, for every block of side 1 ends with one byte more and so has
another name. Damage to one stored block, however old, therefore spoils one of the two newest checkpoints and never
both, and a journal that was trimmed to the older one is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from streamproc.blocks import array_of, blocks_of
from streamproc.engine.compiled import TaskState
from streamproc.ports import CheckpointManifest, CheckpointStore
from streamproc.state import export_state, import_state

_MORE: Final = (b"", b"\x01")
"""What the blocks of each side end with."""
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
    side: int = 0,
) -> CheckpointManifest:
    """Stores the blocks that are new, then the manifest, and gives that.

    The step must be committed: a manifest that names an unknown step is ignored by every loader.
    head  what a restore needs beside the state: `journal_offset` of the step's entry and its time `at`, the head of the
          `journal` (entry 0 may be gone by then), and the `positions` up to which each partition is consumed
    side  0 or 1: no block is shared with a checkpoint of the other side
    """
    arrays: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {}
    waiting: dict[str, bytes] = {}
    size = 0
    for name, array in export_state(state).items():
        blocks = blocks_of(array, more=_MORE[side])
        arrays[name] = (array.dtype.str, array.shape, tuple(content for content, _ in blocks))
        waiting.update(blocks)
        size += array.nbytes
        if size >= _TOGETHER_BYTES:
            store.put_blocks(waiting)
            waiting, size = {}, 0
    store.put_blocks(waiting)
    manifest = CheckpointManifest(task, step, chain, fingerprint, {**head, "side": side}, arrays)
    store.put_manifest(manifest)
    return manifest


def load_state(manifest: CheckpointManifest, empty: TaskState, store: CheckpointStore) -> TaskState:
    """The state in a checkpoint; raises CorruptSnapshot if any part of it is missing or damaged."""
    state: TaskState = import_state(empty, load_arrays(manifest, store))
    return state


def load_arrays(manifest: CheckpointManifest, store: CheckpointStore) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a checkpoint by name, writable; raises CorruptSnapshot if any of them is missing or damaged."""
    more = _MORE[side_of(manifest)]
    return {
        name: array_of(dtype, shape, (store.get_block(content).removesuffix(more) for content in contents))
        for name, (dtype, shape, contents) in manifest.arrays.items()
    }


def side_of(manifest: CheckpointManifest) -> int:
    """The side of a checkpoint, 0 or 1."""
    return 1 if manifest.head.get("side") == 1 else 0
