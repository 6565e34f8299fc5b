"""Where everything in a checkpoint topic lies: names, offsets and soundness, never the bytes themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from connectors.checkpoint_records import block_of_name, name_and_piece, piece_count, plain, task_step_seal
from streamproc.ports import Block

_DOOM: Final = "doom/"


@dataclass(slots=True)
class Stored:
    """The newest records of one name.

    stamp    the log's stamp of the newest of them, µs
    offsets  by number of the piece
    broken   pieces whose seal does not fit
    """

    stamp: int = 0
    count: int = 0
    offsets: dict[int, int] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)

    @property
    def is_whole(self) -> bool:
        """Whether all pieces are there and sound."""
        return (
            not self.broken
            and 0 < self.count <= len(self.offsets)
            and all(n in self.offsets for n in range(self.count))
        )


class TopicIndex:
    """What one scan of the topic's records tells, in any state of compaction."""

    __slots__ = ("_blocks", "_doomed", "_dooms", "_manifests", "_names")

    def __init__(self) -> None:
        self._names: dict[str, Stored] = {}
        self._blocks: dict[str, set[str]] = {}
        self._manifests: dict[str, set[str]] = {}
        self._dooms: dict[str, frozenset[str]] = {}
        self._doomed: Counter[str] = Counter()

    def take(self, block: Block) -> None:
        """Takes in records, in offset order."""
        for row in range(len(block)):
            key = block.key(row)
            place = None if key is None else name_and_piece(key)
            if key is None or place is None:
                continue
            value = block.value(row)
            if value is None:
                self._drop(*place)
            else:
                self._put(*place, key, value, int(block.offsets[row]), int(block.timestamps[row]))

    def stored(self, name: str) -> Stored | None:
        """The records of a name."""
        return self._names.get(name)

    def sound_block(self, content: str) -> str | None:
        """The name of a whole block with this content, on which a new checkpoint may stand."""
        for name in sorted(self._blocks.get(content, ())):
            if self._names[name].is_whole and not self.is_doomed(name):
                return name
        return None

    def blocks_with(self, content: str) -> list[str]:
        """Names of all blocks with this content, those first that stay."""
        return sorted(self._blocks.get(content, ()), key=lambda name: (self.is_doomed(name), name))

    def old_blocks(self, before: int) -> list[str]:
        """Names of blocks whose newest record is older than a stamp."""
        return [name for names in self._blocks.values() for name in names if self._names[name].stamp < before]

    def manifests(self, task: str) -> list[str]:
        """Names of a task's manifests, newest step first."""
        return sorted(self._manifests.get(task, ()), reverse=True)

    def tasks(self) -> list[str]:
        """The tasks that have manifests, by name."""
        return sorted(task for task, names in self._manifests.items() if names)

    def is_doomed(self, name: str) -> bool:
        """Whether somebody announced that the block goes."""
        return self._doomed[name] > 0

    def old_dooms(self, before: int) -> list[str]:
        """Names of announcements that are older than a stamp."""
        return [name for name in self._dooms if self._names[name].stamp < before]

    def _put(self, name: str, piece: int, key: bytes, value: bytes, offset: int, stamp: int) -> None:
        count = piece_count(key, value)
        stored = self._names.setdefault(name, Stored())
        stored.offsets[piece] = offset
        stored.stamp = max(stored.stamp, stamp)
        if count == 0:
            stored.broken.add(piece)
        else:
            stored.broken.discard(piece)
            stored.count = count
        if content := block_of_name(name):
            self._blocks.setdefault(content, set()).add(name)
        elif (said := task_step_seal(name)) is not None:
            self._manifests.setdefault(said[0], set()).add(name)
        elif name.startswith(_DOOM):
            self._announce(name, frozenset(plain(value).decode().split("\n")) if count else frozenset())

    def _drop(self, name: str, piece: int) -> None:
        stored = self._names.get(name)
        if stored is None:
            return
        stored.offsets.pop(piece, None)
        stored.broken.discard(piece)
        if stored.offsets:
            return
        del self._names[name]
        if name.startswith(_DOOM):
            self._announce(name, frozenset())
            del self._dooms[name]
        if content := block_of_name(name):
            self._blocks[content].discard(name)
            if not self._blocks[content]:
                del self._blocks[content]
        elif (said := task_step_seal(name)) is not None:
            self._manifests[said[0]].discard(name)

    def _announce(self, doom: str, names: frozenset[str]) -> None:
        self._doomed.subtract(self._dooms.get(doom, ()))
        self._doomed.update(names)
        self._doomed = +self._doomed
        self._dooms[doom] = names
