"""A model file that was written is there after a power cut: bytes, its name, and the folders above it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from streamproc.runtime.model_store import write_file


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
