"""A file that was written is there after a power cut: bytes, its name, and the folders above it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from connectors.durable_files import write_file
from connectors.registry import FolderRegistry
from streamproc.contracts.avro_schema import parse_contract

CONTRACT = """{"type": "record", "name": "pay", "sp:version": 1, "fields": [
  {"name": "card", "type": "string", "sp:role": "key"},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""


def test_bytes_are_on_the_disk_before_the_name_and_names_of_new_folders_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "models" / "of risk" / "a.model"
    flushed: list[tuple[str, bool]] = []
    flush = os.fsync

    def seen(handle: int) -> None:
        there = os.fstat(handle)
        folders = {one.stat().st_ino: str(one.relative_to(tmp_path)) for one in path.parents[:3] if one.exists()}
        flushed.append((folders[there.st_ino] if stat.S_ISDIR(there.st_mode) else "bytes", path.exists()))
        flush(handle)

    monkeypatch.setattr(os, "fsync", seen)
    write_file(path, b"what was learned")
    assert flushed[0] == ("bytes", False) and path.read_bytes() == b"what was learned"
    assert sorted(flushed[1:]) == [(".", True), ("models", True), ("models/of risk", True)]
    flushed.clear()
    write_file(path, b"something else")
    assert flushed == [("bytes", True), ("models/of risk", True)]


def test_what_fails_on_the_way_leaves_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ids.json"
    write_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_registered_id_is_on_the_disk_before_a_record_can_carry_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's names are flushed behind the last file's rename."""
    flushed: list[tuple[bool, frozenset[str]]] = []
    flush = os.fsync

    def seen(handle: int) -> None:
        flushed.append((stat.S_ISDIR(os.fstat(handle).st_mode), frozenset(one.name for one in tmp_path.iterdir())))
        flush(handle)

    monkeypatch.setattr(os, "fsync", seen)
    FolderRegistry((tmp_path,)).register(parse_contract(CONTRACT))
    assert flushed[-1] == (True, {"pay.v1.avsc", "ids.json"})
