"""Checkpoint stores with what a test does to them behind their back: damage, loss, time, copies."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from connectors.checkpoint_records import block_of_name, name_and_piece
from connectors.checkpoint_topic import TopicCheckpoints
from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.ports import Block, TopicPartition, block_of

TOPIC = "topology.v1.checkpoints"


class Keeper(Protocol):
    """A place of checkpoints, with a clock of its own."""

    def open(self, member: str = "one") -> Any:
        """A store on it, as a new process has one."""
        ...

    def copy(self, folder: Path) -> Keeper:
        """The same in another place."""
        ...

    def stored(self) -> dict[str, bytes]:
        """What lies there by name."""
        ...

    def content_of(self, name: str) -> str:
        """The content id of a stored block, "" for a manifest."""
        ...

    def put(self, name: str, data: bytes | None) -> None:
        """Puts other bytes in the place of a stored thing; None deletes it."""
        ...

    def age(self, seconds: float) -> None:
        """What was stored until now is so old."""
        ...

    def pass_time(self, seconds: float) -> None:
        """The stores' clocks go on by this."""
        ...

    def close(self) -> None:
        """Lets go of everything."""
        ...


class DirectoryKeeper:
    """A directory of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"
        self.now = time.time()

    def open(self, member: str = "one") -> DirectoryCheckpoints:
        return DirectoryCheckpoints(self.folder, clock=lambda: self.now)

    def copy(self, folder: Path) -> DirectoryKeeper:
        shutil.copytree(self.folder, folder / "checkpoints")
        return DirectoryKeeper(folder)

    def stored(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}

    def content_of(self, name: str) -> str:
        return Path(name).name if Path(name).parent.parent.name == "blocks" else ""

    def put(self, name: str, data: bytes | None) -> None:
        if data is None:
            Path(name).unlink()
        else:
            Path(name).write_bytes(data)

    def age(self, seconds: float) -> None:
        for name in self.stored():
            os.utime(name, (self.now - seconds, self.now - seconds))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def close(self) -> None:
        """Nothing is held."""


class TopicKeeper:
    """A topic of an embedded log, compacted when it is asked what lies there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = time.time()
        self._logs: list[EmbeddedLog] = []

    def log(self) -> EmbeddedLog:
        """A handle of its own, as another process has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._logs.append(EmbeddedLog(self.folder / "log.db", now_us=lambda: int(self.now * 1e6), upkeep_us=2**60))
        return self._logs[-1]

    def open(self, member: str = "one") -> TopicCheckpoints:
        return TopicCheckpoints(self.log(), TOPIC, member, clock=lambda: self.now)

    def copy(self, folder: Path) -> TopicKeeper:
        self.close()
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "log.db", folder / "log.db")
        made = TopicKeeper(folder)
        made.now = self.now
        return made

    def stored(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for key, value in records(self.log()):
            if value is None:
                found.pop(key, None)
            elif not key.startswith("doom/"):
                found[key] = value
        return dict(sorted(found.items()))

    def content_of(self, name: str) -> str:
        return block_of_name((name_and_piece(name.encode()) or ("", 0))[0])

    def put(self, name: str, data: bytes | None) -> None:
        transaction = self.log().producer("whoever does harm").begin()
        transaction.append(block_of(TOPIC, 0, [data], keys=[name.encode()]))
        transaction.commit()

    def age(self, seconds: float) -> None:
        stamps = [int(block.timestamps.max()) for block in blocks(self.log())]
        self.now = max(self.now, max(stamps) / 1e6 + seconds)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def close(self) -> None:
        for log in self._logs:
            log.close()
        self._logs.clear()


def blocks(log: EmbeddedLog) -> list[Block]:
    """All records of the topic."""
    place = TopicPartition(TOPIC, 0)
    found, at = [], log.start_offset(place) if TOPIC in log.topics() else 0
    while TOPIC in log.topics() and at < log.end_offset(place):
        found.append(log.read(place, at))
        at = int(found[-1].offsets[-1]) + 1
    return found


def records(log: EmbeddedLog) -> list[tuple[str, bytes | None]]:
    """Keys and values of the topic, in order."""
    return [((block.key(row) or b"").decode(), block.value(row)) for block in blocks(log) for row in range(len(block))]


KEEPERS: Mapping[str, Callable[[Path], Keeper]] = {"directory": DirectoryKeeper, "topic": TopicKeeper}
