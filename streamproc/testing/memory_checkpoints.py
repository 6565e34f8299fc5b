"""A checkpoint store in memory: for tests, and for runs that nobody resumes in another process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streamproc.errors import CorruptSnapshot
from streamproc.ports import CheckpointManifest


class MemoryCheckpoints:
    """Blocks and manifests of this process.

    >>> MemoryCheckpoints().manifests("t")
    []
    """

    def __init__(self) -> None:
        self._blocks: dict[str, bytes] = {}
        self._manifests: dict[tuple[str, int], CheckpointManifest] = {}
        self._listed: dict[str, list[CheckpointManifest]] = {}

    def put_blocks(self, blocks: Mapping[str, bytes]) -> int:
        """Stores the blocks that are not there yet."""
        new = {name: bytes(block) for name, block in blocks.items() if name not in self._blocks}
        self._blocks.update(new)
        return sum(len(block) for block in new.values())

    def get_block(self, content_id: str) -> bytes:
        """A block, or CorruptSnapshot."""
        if content_id not in self._blocks:
            raise CorruptSnapshot(f"block {content_id} is missing", hint="an older checkpoint, or the journal, is used")
        return self._blocks[content_id]

    def put_manifest(self, manifest: CheckpointManifest) -> None:
        """Publishes a checkpoint."""
        self._manifests[manifest.task, manifest.step] = manifest

    def manifests(self, task: str) -> list[CheckpointManifest]:
        """The task's manifests, newest step first."""
        mine = [manifest for (name, _), manifest in self._manifests.items() if name == task]
        self._listed[task] = sorted(mine, key=lambda manifest: -manifest.step)
        return list(self._listed[task])

    def discard(self, task: str, *, keep_steps: Iterable[int]) -> None:
        """Deletes those of the task's other manifests that were listed last; blocks stay, for a process does not live
        long."""
        keep = set(keep_steps)
        seen = self._listed.pop(task, None)
        for manifest in [m for (name, _), m in self._manifests.items() if name == task] if seen is None else seen:
            if manifest.step not in keep and self._manifests.get((task, manifest.step)) is manifest:
                del self._manifests[task, manifest.step]
