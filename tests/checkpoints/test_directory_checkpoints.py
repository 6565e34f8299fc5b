"""The directory of checkpoints as files: names that stay inside, and what a crash leaves."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from connectors.checkpoints import DirectoryCheckpoints
from streamproc.errors import InputError
from streamproc.hashing import content_id
from streamproc.ports import CheckpointManifest

NOW = time.time()


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def age(directory: Path, seconds: float) -> None:
    for path in files_below(directory):
        os.utime(path, (NOW - seconds, NOW - seconds))


def test_what_a_crash_left_half_written_is_not_seen_and_goes_after_an_hour(tmp_path: Path) -> None:
    before = DirectoryCheckpoints(tmp_path)
    for step in (3, 7):
        before.put_manifest(CheckpointManifest("topology.v1/0/2", step, "", ""))
    (directory,) = (tmp_path / "manifests").iterdir()
    part = directory / f"{9:020d}-{content_id(b'')}.x.part"
    part.write_bytes(b"half")
    (tmp_path / "blocks" / "ab").mkdir(parents=True)
    block = tmp_path / "blocks" / "ab" / "abcd.y.part"
    block.write_bytes(b"half")
    store = DirectoryCheckpoints(tmp_path, clock=lambda: NOW)
    assert [manifest.step for manifest in store.manifests("topology.v1/0/2")] == [7, 3]
    assert store.damaged == ()
    age(tmp_path, 4000)
    store.discard("topology.v1/0/2", keep_steps=[3, 7])
    assert not part.exists() and not block.exists()
    assert len(store.manifests("topology.v1/0/2")) == 2


@pytest.mark.parametrize("task", ["..", ".", "a/b", "a%2Fb", "Ünï", "con.v1"])
def test_any_name_of_a_task_stays_inside_the_directory(tmp_path: Path, task: str) -> None:
    store = DirectoryCheckpoints(tmp_path / "inside")
    store.put_manifest(CheckpointManifest(task, 1, "", ""))
    assert os.listdir(tmp_path) == ["inside"]


def test_a_file_is_no_directory_for_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a directory; name a directory"):
        DirectoryCheckpoints(tmp_path / "file")
