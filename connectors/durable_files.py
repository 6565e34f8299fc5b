"""Files that are there after a power cut: bytes first, then the name, then the names of folders above it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Final

PART_DIGITS: Final = 12
"""Hexadecimal digits behind the last dot of a file that is not whole yet."""


def write_file(path: Path, data: bytes) -> None:
    """Writes a file as a whole or not at all: beside its place, under a hidden name that no other process takes.

    The file, its name and new folders are on the disk when it returns. Raises OSError, and leaves nothing behind then.
    """
    changed = make_folder(path.parent)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:PART_DIGITS]}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    for folder in (*changed, path.parent):
        flush(folder)


def make_folder(folder: Path) -> list[Path]:
    """Makes a folder and those above it; gives those whose entries changed, to be flushed."""
    changed, level = [], folder
    while not level.exists():
        changed.append(level.parent)
        level = level.parent
    folder.mkdir(parents=True, exist_ok=True)
    return changed


def flush(path: Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handles of folders and makes renames durable by itself.
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
