"""Checkpoints in a directory: blocks named by their content, manifests written last.

    blocks/3f/3fa9...c2              a seal (XXH3-128 of the rest), then the block with zstd level 1; the name is the
                                     XXH3-128 of the plain bytes
    manifests/<task>/<step>-<seal>   one manifest: JSON, whose XXH3-128 is the seal in its name

Every file is written beside its place, flushed to the disk and renamed, so a file that has its name is complete.
Reading checks seals and names: what is damaged is reported, never served.

Several processes may use one directory.  A block that is put again gets a new modification time, and `discard` deletes
only blocks that have been untouched for an hour: so a checkpoint has an hour from its first block to its manifest.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import orjson
import zstandard

from connectors.durable_files import flush, make_folder
from streamproc.errors import CorruptSnapshot, InputError
from streamproc.hashing import content_id
from streamproc.ports import CheckpointManifest

_HOUR: Final = 3600.0
_SWEEP_S: Final = 300.0
_SEAL_BYTES: Final = 16
_AT_ONCE: Final = 256
_OLDER: Final = "resume from an older checkpoint, the journal re-executes what came after it; then delete this file"


class DirectoryCheckpoints:
    """A checkpoint store (`streamproc.ports.CheckpointStore`) in a local or shared directory.

    clock    seconds since 1970, compared with modification times by `discard` alone
    damaged  manifest files that the last `manifests` call left out
    """

    __slots__ = ("_clock", "_directory", "_listed", "_seen_whole", "_swept", "damaged")

    def __init__(self, directory: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = Path(directory)
        self._clock = clock
        self._swept = float("-inf")
        self._seen_whole: set[str] = set()
        self._listed: dict[str, list[Path]] = {}
        self.damaged: tuple[Path, ...] = ()
        if self._directory.exists() and not self._directory.is_dir():
            raise InputError(f"'{directory}' is not a directory", hint="name a directory for checkpoints")
        self._directory.mkdir(parents=True, exist_ok=True)

    def put_blocks(self, blocks: Mapping[str, bytes]) -> int:
        """Stores the blocks that are not there yet, durably; gives how many bytes were new (before compression).

        A block that is there gets a new modification time.  The first time that this object meets it, it is read, and
        replaced if it is damaged: else a new checkpoint would stand on a broken block of an old one.
        """
        missing = [name for name in blocks if not self._is_there(name)]
        for at in range(0, len(missing), _AT_ONCE):
            self._store({name: blocks[name] for name in missing[at : at + _AT_ONCE]})
        self._seen_whole.update(blocks)
        return sum(len(blocks[name]) for name in missing)

    def get_block(self, content_id: str) -> bytes:
        """A block whose bytes match its id.  Raises CorruptSnapshot, naming the file, if it is missing or damaged."""
        path = self._block_path(content_id)
        try:
            stored = path.read_bytes()
        except OSError as error:
            raise CorruptSnapshot(f"checkpoint block {path} cannot be read: {error.strerror}", hint=_OLDER) from error
        data = _plain(content_id, stored)
        if data is None:
            raise CorruptSnapshot(f"checkpoint block {path} is damaged: its bytes do not match its name", hint=_OLDER)
        return data

    def put_manifest(self, manifest: CheckpointManifest) -> None:
        """Publishes a checkpoint, durably and atomically; its blocks must be stored before."""
        body = manifest_body(manifest)
        directory = self._manifest_directory(manifest.task)
        touched = make_folder(directory)
        path = directory / f"{manifest.step:020d}-{content_id(body)}"
        part = _write_part(path, body)
        flush(part)
        part.replace(path)
        for parent in (*touched, directory):
            flush(parent)

    def manifests(self, task: str) -> list[CheckpointManifest]:
        """The task's readable manifests, newest step first; damaged ones are left out and listed in `damaged`."""
        readable, damaged = [], []
        self._listed[task] = sorted(_files(self._manifest_directory(task)), reverse=True)
        for path in self._listed[task]:
            manifest = _read_manifest(path)
            if manifest is None or manifest.task != task:
                damaged.append(path)
            else:
                readable.append(manifest)
        self.damaged = tuple(damaged)
        return readable

    def discard(self, task: str, *, keep_steps: Iterable[int]) -> None:
        """Deletes the task's other manifests, then blocks that no manifest names and that are older than an hour.

        Of manifests only those go that the last `manifests` call saw: what a new owner published since then is
        none of a late caller's business. Blocks are looked at once in five minutes. A manifest of any task that
        cannot be read stops the deletion of blocks: nobody knows which ones it names. A damaged manifest of
        this task is deleted unless its step is kept.
        """
        keep = set(keep_steps)
        there = list(_files(self._manifest_directory(task), temporary=True))
        seen = self._listed.pop(task, None)
        for path in there if seen is None else seen:
            if not path.name.endswith(".part") and _step(path) not in keep:
                path.unlink(missing_ok=True)
        for path in there:
            if path.name.endswith(".part") and self._is_old(path):
                path.unlink(missing_ok=True)
        # To look at every block takes a while where there are many, and an hour is long: not at each checkpoint.
        now = self._clock()
        if self._swept <= now < self._swept + _SWEEP_S:
            return
        self._swept = now
        old = [path for path in self._blocks() if self._is_old(path)]
        # Manifests are read after the candidates are listed: one that is published meanwhile renewed its blocks first.
        named = self._named_blocks()
        if named is None:
            return
        for path in old:
            if path.name not in named:
                self._remove(path)

    def tasks(self) -> list[str]:
        """The tasks that have manifests, by name."""
        root = self._directory / "manifests"
        return sorted(unquote(path.name) for path in root.iterdir()) if root.exists() else []

    def _block_path(self, name: str) -> Path:
        return self._directory / "blocks" / name[:2] / name

    def _manifest_directory(self, task: str) -> Path:
        # Quoting leaves dots alone, and "." or ".." is no name for a directory of ours.
        return self._directory / "manifests" / quote(task, safe="").replace(".", "%2E")

    def _blocks(self) -> Iterator[Path]:
        root = self._directory / "blocks"
        for directory in sorted(root.iterdir()) if root.exists() else []:
            yield from _files(directory, temporary=True)

    def _is_there(self, name: str) -> bool:
        path = self._block_path(name)
        try:
            os.utime(path)
            return name in self._seen_whole or _plain(name, path.read_bytes()) is not None
        except FileNotFoundError:
            return False

    def _store(self, blocks: Mapping[str, bytes]) -> None:
        squeeze = zstandard.ZstdCompressor(level=1)
        parts: dict[Path, Path] = {}
        changed: set[Path] = set()
        for name, data in blocks.items():
            path = self._block_path(name)
            changed.update((path.parent, *make_folder(path.parent)))
            body = squeeze.compress(data)
            parts[path] = _write_part(path, bytes.fromhex(content_id(body)) + body)
        # All are written before the first is flushed: the disk then takes them together.
        for part in parts.values():
            flush(part)
        for path, part in parts.items():
            part.replace(path)
        for directory in sorted(changed):
            flush(directory)

    def _remove(self, path: Path) -> None:
        """Deletes an old block, unless another process renews it at this moment."""
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        try:
            path.replace(aside)
        except FileNotFoundError:
            return
        # Away from its name nobody can renew it any more, so this look is the last word.
        if self._is_old(aside):
            aside.unlink(missing_ok=True)
        else:
            aside.replace(path)

    def _is_old(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime < self._clock() - _HOUR
        except FileNotFoundError:
            return False

    def _named_blocks(self) -> set[str] | None:
        named: set[str] = set()
        for task in self.tasks():
            for path in _files(self._manifest_directory(task)):
                manifest = _read_manifest(path)
                if manifest is not None:
                    named.update(block for _, _, blocks in manifest.arrays.values() for block in blocks)
                elif path.exists():
                    return None
        return named


def manifest_body(manifest: CheckpointManifest) -> bytes:
    """A manifest as JSON."""
    return orjson.dumps(
        {
            "task": manifest.task,
            "step": manifest.step,
            "chain": manifest.chain,
            "fingerprint": manifest.fingerprint,
            "head": dict(manifest.head),
            "arrays": {name: [dtype, shape, blocks] for name, (dtype, shape, blocks) in manifest.arrays.items()},
        }
    )


def _read_manifest(path: Path) -> CheckpointManifest | None:
    """The manifest of a file, or None if the file does not match its seal or has gone."""
    try:
        body = path.read_bytes()
    except OSError:
        return None
    if content_id(body) != path.name.partition("-")[2]:
        return None
    manifest = manifest_of(body)
    return manifest if manifest.step == _step(path) else None


def manifest_of(body: bytes) -> CheckpointManifest:
    """The manifest that `manifest_body` wrote."""
    parts = orjson.loads(body)
    arrays = {name: (dtype, tuple(shape), tuple(blocks)) for name, (dtype, shape, blocks) in parts["arrays"].items()}
    return CheckpointManifest(parts["task"], parts["step"], parts["chain"], parts["fingerprint"], parts["head"], arrays)


def _step(path: Path) -> int:
    digits = path.name.partition("-")[0]
    return int(digits) if digits.isdecimal() else -1


def _plain(name: str, stored: bytes) -> bytes | None:
    """The plain bytes of a stored block if seal and name fit, else None."""
    body = stored[_SEAL_BYTES:]
    if content_id(body) != stored[:_SEAL_BYTES].hex():
        return None
    data = zstandard.ZstdDecompressor().decompress(body)
    return data if content_id(data) == name else None


def _files(directory: Path, *, temporary: bool = False) -> list[Path]:
    """The files of a directory by name; those still being written, or left by a crash, only where asked for."""
    try:
        return sorted(path for path in directory.iterdir() if temporary or not path.name.endswith(".part"))
    except FileNotFoundError:
        return []


def _write_part(path: Path, data: bytes) -> Path:
    """Writes the bytes beside the path, under a name that no other process takes."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    part.write_bytes(data)
    return part
