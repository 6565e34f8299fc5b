"""A checkpoint store that fills up, is damaged, and is compacted like a topic of blocks and manifests."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from streamproc.errors import CorruptSnapshot
from streamproc.ports import CheckpointManifest

T = TypeVar("T")


class Carrier(Protocol):
    """What carries a process's requests."""

    def call(self, step: str, act: Callable[[], T]) -> T:
        """Does one request."""
        ...


class SharedStore:
    """What lies on the disk that all processes share. What was put and not yet named by a manifest may go at any time.

    full     writes fail
    damaged  the block that is read next is not what was written, and stays so
    spoiled  how many blocks were damaged so far
    """

    def __init__(self) -> None:
        self.blocks: dict[str, bytes] = {}
        self.published: dict[tuple[str, int], CheckpointManifest] = {}
        self.full = False
        self.damaged = False
        self.spoiled = 0

    def compact(self) -> None:
        """Removes every block that no manifest names."""
        named = {
            content for m in self.published.values() for _, _, contents in m.arrays.values() for content in contents
        }
        self.blocks = {content: block for content, block in self.blocks.items() if content in named}

    def clear(self) -> None:
        """The disk is lost."""
        self.blocks.clear()
        self.published.clear()


class SimulatedCheckpoints:
    """One process's handle on the shared store."""

    def __init__(self, shared: SharedStore, link: Carrier) -> None:
        self._shared = shared
        self._link = link
        self._listed: dict[str, list[CheckpointManifest]] = {}

    def put_blocks(self, blocks: Mapping[str, bytes]) -> int:
        """Stores the blocks that are not there yet, in two goes."""
        names = list(blocks)
        middle = len(names) // 2
        return sum(self._link.call("store.put_blocks", lambda part=part: self._put(part, blocks))  # type: ignore[misc]
                   for part in (names[:middle], names[middle:]))  # fmt: skip

    def get_block(self, content_id: str) -> bytes:
        """A block, or CorruptSnapshot."""
        return self._link.call("store.get_block", lambda: self._get(content_id))

    def put_manifest(self, manifest: CheckpointManifest) -> None:
        """Publishes a checkpoint."""
        self._link.call("store.put_manifest", lambda: self._publish(manifest))

    def manifests(self, task: str) -> list[CheckpointManifest]:
        """The task's manifests, newest step first."""
        found = self._link.call(
            "store.manifests",
            lambda: sorted(
                [m for (name, _), m in self._shared.published.items() if name == task], key=lambda m: -m.step
            ),
        )
        self._listed[task] = found
        return list(found)

    def discard(self, task: str, *, keep_steps: Iterable[int]) -> None:
        """Deletes those of the task's other manifests that were listed last; their blocks go with the next
        compaction."""
        keep = set(keep_steps)
        self._link.call("store.discard", lambda: self._discard(task, keep))

    def _put(self, names: list[str], blocks: Mapping[str, bytes]) -> int:
        self._require_room()
        new = {name: bytes(blocks[name]) for name in names if name not in self._shared.blocks}
        self._shared.blocks.update(new)
        return sum(map(len, new.values()))

    def _get(self, content_id: str) -> bytes:
        if self._shared.damaged:
            self._shared.damaged = False
            self._shared.spoiled += 1
            self._shared.blocks.pop(content_id, None)
        if content_id not in self._shared.blocks:
            raise CorruptSnapshot(f"block {content_id} is missing", hint="an older checkpoint, or the journal, is used")
        return self._shared.blocks[content_id]

    def _publish(self, manifest: CheckpointManifest) -> None:
        self._require_room()
        self._shared.published[manifest.task, manifest.step] = manifest

    def _discard(self, task: str, keep: set[int]) -> None:
        published = self._shared.published
        seen = self._listed.pop(task, None)
        for manifest in [m for (name, _), m in published.items() if name == task] if seen is None else seen:
            if manifest.step not in keep and published.get((task, manifest.step)) is manifest:
                del published[task, manifest.step]

    def _require_room(self) -> None:
        if self._shared.full:
            raise OSError(errno.ENOSPC, "no space left on device")
