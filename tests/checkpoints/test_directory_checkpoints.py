"""The directory of checkpoints: what is put comes back, damage is found, and only old unnamed blocks are deleted."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from connectors.checkpoints import DirectoryCheckpoints
from streamproc.blocks import array_of, blocks_of
from streamproc.errors import CorruptSnapshot, InputError
from streamproc.hashing import content_id
from streamproc.ports import CheckpointManifest, CheckpointStore
from streamproc.state import export_state, import_state

State = tuple[np.ndarray, np.ndarray]
NOW = time.time()


def save(store: CheckpointStore, task: str, step: int, state: State) -> CheckpointManifest:
    """A checkpoint as the runtime writes it: blocks, then the manifest."""
    arrays, blocks = {}, {}
    for name, array in export_state(state).items():
        pieces = blocks_of(array)
        blocks.update(pieces)
        arrays[name] = (array.dtype.str, array.shape, tuple(block for block, _ in pieces))
    store.put_blocks(blocks)
    manifest = CheckpointManifest(task, step, "c" * 32, "f" * 32, {"start": [1, None]}, arrays)
    store.put_manifest(manifest)
    return manifest


def load(store: CheckpointStore, manifest: CheckpointManifest) -> State:
    """The state of a checkpoint."""
    arrays = {
        name: array_of(dtype, shape, [store.get_block(block) for block in blocks])
        for name, (dtype, shape, blocks) in manifest.arrays.items()
    }
    state: State = import_state((), arrays)
    return state


def state_at(step: int) -> State:
    """A state of which a step changes a small part."""
    counts = np.arange(40_000)
    counts[:step] = -1
    return counts, np.random.default_rng(0).random(20_000)


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def age(directory: Path, seconds: float) -> None:
    for path in files_below(directory):
        os.utime(path, (NOW - seconds, NOW - seconds))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    store = DirectoryCheckpoints(directory)
    for step in (3, 7):
        save(store, "topology.v1/0/2", step, state_at(step))
    return directory


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(saved, tmp_path / "copy"))


def test_a_checkpoint_comes_back_newest_first(saved: Path) -> None:
    store = DirectoryCheckpoints(saved)
    found = store.manifests("topology.v1/0/2")
    assert [manifest.step for manifest in found] == [7, 3]
    assert found[0].head == {"start": [1, None]}
    for manifest in found:
        for array, expected in zip(load(store, manifest), state_at(manifest.step), strict=True):
            assert np.array_equal(array, expected)
    assert store.tasks() == ["topology.v1/0/2"]
    assert store.damaged == ()
    assert store.manifests("another") == []


def test_only_changed_blocks_are_stored_again(tmp_path: Path) -> None:
    store = DirectoryCheckpoints(tmp_path)
    first, second = (dict(blocks_of(state_at(step)[0])) for step in (3, 7))
    assert store.put_blocks(first) == 40_000 * 8
    assert store.put_blocks(first) == 0
    assert store.put_blocks(second) == 64 << 10


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "swap"])
def test_a_damaged_file_is_found_and_never_served(saved: Path, tmp_path: Path, harm: str) -> None:
    chance = random.Random(harm)
    whole = DirectoryCheckpoints(saved)
    for case in range(50):
        directory = Path(shutil.copytree(saved, tmp_path / str(case)))
        victim = chance.choice(files_below(directory))
        data = bytearray(victim.read_bytes())
        if harm == "truncate":
            victim.write_bytes(data[: chance.randrange(len(data))])
        elif harm == "flip":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            victim.write_bytes(data)
        elif harm == "delete":
            victim.unlink()
        else:
            other = chance.choice([path for path in files_below(directory) if path != victim])
            victim.write_bytes(other.read_bytes())
        store = DirectoryCheckpoints(directory)
        found = store.manifests("topology.v1/0/2")
        if victim.parent.parent.name == "manifests":
            assert len(found) == 1
            assert store.damaged == (() if harm == "delete" else (victim,))
        else:
            assert len(found) == 2 and not store.damaged
        refused = 0
        for manifest in found:
            named = {block for _, _, blocks in manifest.arrays.values() for block in blocks}
            if victim.name in named:
                refused += 1
                with pytest.raises(CorruptSnapshot, match=f"{victim.name}.*; resume from an older checkpoint"):
                    load(store, manifest)
            else:
                assert all(map(np.array_equal, load(store, manifest), load(whole, manifest)))
        assert refused > 0 or len(found) == 1
        shutil.rmtree(directory)


def test_a_new_checkpoint_does_not_stand_on_a_damaged_block(copied: Path) -> None:
    for victim in files_below(copied / "blocks"):
        victim.write_bytes(b"rubbish")
    store = DirectoryCheckpoints(copied)
    manifest = save(store, "topology.v1/0/2", 7, state_at(7))
    assert all(map(np.array_equal, load(store, manifest), state_at(7)))


def test_discard_keeps_what_a_kept_manifest_names(copied: Path) -> None:
    age(copied, 4000)
    store = DirectoryCheckpoints(copied, clock=lambda: NOW)
    store.discard("topology.v1/0/2", keep_steps=[7])
    (manifest,) = store.manifests("topology.v1/0/2")
    named = {block for _, _, blocks in manifest.arrays.values() for block in blocks}
    assert {path.name for path in files_below(copied / "blocks")} == named
    assert all(map(np.array_equal, load(store, manifest), state_at(7)))


def test_discard_leaves_blocks_of_the_last_hour_and_of_other_tasks(copied: Path) -> None:
    other = save(DirectoryCheckpoints(copied), "other", 1, state_at(9))
    age(copied, 3500)
    before = files_below(copied / "blocks")
    now = NOW
    store = DirectoryCheckpoints(copied, clock=lambda: now)
    store.discard("topology.v1/0/2", keep_steps=[])
    assert files_below(copied / "blocks") == before
    age(copied, 3700)
    now = NOW + 299
    store.discard("topology.v1/0/2", keep_steps=[])
    assert files_below(copied / "blocks") == before, "it looks once in five minutes"
    now = NOW + 300
    store.discard("topology.v1/0/2", keep_steps=[])
    assert store.manifests("topology.v1/0/2") == []
    assert 0 < len(files_below(copied / "blocks")) < len(before)
    assert all(map(np.array_equal, load(store, other), state_at(9)))


def test_blocks_that_are_put_again_are_young_again(copied: Path) -> None:
    store = DirectoryCheckpoints(copied, clock=lambda: NOW)
    blocks = dict(blocks_of(state_at(3)[0]))
    age(copied, 4000)
    store.put_blocks(blocks)
    store.discard("topology.v1/0/2", keep_steps=[])
    assert {path.name for path in files_below(copied / "blocks")} == set(blocks)


def test_no_block_is_deleted_while_a_manifest_cannot_be_read(copied: Path) -> None:
    save(DirectoryCheckpoints(copied), "other", 1, state_at(9))
    (theirs,) = files_below(copied / "manifests" / "other")
    theirs.write_bytes(b"{}")
    age(copied, 4000)
    before = files_below(copied / "blocks")
    DirectoryCheckpoints(copied, clock=lambda: NOW).discard("topology.v1/0/2", keep_steps=[])
    assert files_below(copied / "blocks") == before


def test_what_a_crash_left_half_written_is_not_seen_and_goes_after_an_hour(copied: Path) -> None:
    (directory,) = (copied / "manifests").iterdir()
    part = directory / f"{9:020d}-{content_id(b'')}.x.part"
    part.write_bytes(b"half")
    (copied / "blocks" / "ab").mkdir(exist_ok=True)
    block = copied / "blocks" / "ab" / "abcd.y.part"
    block.write_bytes(b"half")
    store = DirectoryCheckpoints(copied, clock=lambda: NOW)
    assert [manifest.step for manifest in store.manifests("topology.v1/0/2")] == [7, 3]
    assert store.damaged == ()
    age(copied, 4000)
    store.discard("topology.v1/0/2", keep_steps=[3, 7])
    assert not part.exists() and not block.exists()
    assert len(store.manifests("topology.v1/0/2")) == 2


@pytest.mark.parametrize("task", ["..", ".", "a/b", "a%2Fb", "Ünï", "con.v1"])
def test_any_name_of_a_task_stays_inside_the_directory(tmp_path: Path, task: str) -> None:
    store = DirectoryCheckpoints(tmp_path / "inside")
    store.put_manifest(CheckpointManifest(task, 1, "", ""))
    assert [manifest.task for manifest in store.manifests(task)] == [task]
    assert store.tasks() == [task]
    assert os.listdir(tmp_path) == ["inside"]


def test_a_file_is_no_directory_for_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a directory; name a directory"):
        DirectoryCheckpoints(tmp_path / "file")


def _work(directory: str, task: str) -> None:
    store = DirectoryCheckpoints(directory)
    for step in range(1, 7):
        manifest = save(store, task, step, state_at(step % 4))
        store.discard(task, keep_steps=[step, step - 1])
        assert all(map(np.array_equal, load(store, manifest), state_at(step % 4)))


def test_several_processes_share_a_directory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(str(tmp_path), f"task{n}")) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    store = DirectoryCheckpoints(tmp_path)
    for n in range(2):
        assert [manifest.step for manifest in store.manifests(f"task{n}")] == [6, 5]
