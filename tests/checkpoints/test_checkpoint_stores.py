"""Every checkpoint store: what is put comes back, damage is found, and only old unnamed blocks are deleted."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from keepers import KEEPERS, Keeper

from streamproc.blocks import array_of, blocks_of
from streamproc.errors import CorruptSnapshot
from streamproc.ports import CheckpointManifest, CheckpointStore
from streamproc.state import export_state, import_state

State = tuple[np.ndarray, np.ndarray]
TASK = "topology.v1/0/2"


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


def blocks_in(keeper: Keeper) -> set[str]:
    """Content ids of the blocks that lie there."""
    return {keeper.content_of(name) for name in keeper.stored()} - {""}


def named_by(*manifests: CheckpointManifest) -> set[str]:
    return {block for manifest in manifests for _, _, blocks in manifest.arrays.values() for block in blocks}


@pytest.fixture(scope="module", params=sorted(KEEPERS))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    """Two checkpoints of one task; not to be changed."""
    keeper = KEEPERS[request.param](tmp_path_factory.mktemp("saved"))
    store = keeper.open()
    for step in (3, 7):
        save(store, TASK, step, state_at(step))
    yield keeper
    keeper.close()


@pytest.fixture
def copied(saved: Keeper, tmp_path: Path) -> Iterator[Keeper]:
    keeper = saved.copy(tmp_path / "copy")
    yield keeper
    keeper.close()


@pytest.fixture(params=sorted(KEEPERS))
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keeper]:
    keeper = KEEPERS[request.param](tmp_path / "fresh")
    yield keeper
    keeper.close()


def test_a_checkpoint_comes_back_newest_first(saved: Keeper) -> None:
    store = saved.open()
    found = store.manifests(TASK)
    assert [manifest.step for manifest in found] == [7, 3]
    assert found[0].head == {"start": [1, None]}
    for manifest in found:
        for array, expected in zip(load(store, manifest), state_at(manifest.step), strict=True):
            assert np.array_equal(array, expected)
    assert store.tasks() == [TASK]
    assert store.damaged == ()
    assert store.manifests("another") == []


def test_a_store_without_anything_is_empty(fresh: Keeper) -> None:
    store = fresh.open()
    assert store.manifests("t") == [] and store.tasks() == []
    store.discard("t", keep_steps=[])
    with pytest.raises(CorruptSnapshot, match="resume from an older checkpoint"):
        store.get_block("0" * 32)


def test_only_changed_blocks_are_stored_again(fresh: Keeper) -> None:
    store = fresh.open()
    first, second = (dict(blocks_of(state_at(step)[0])) for step in (3, 7))
    assert store.put_blocks(first) == 40_000 * 8
    assert store.put_blocks(first) == 0
    assert store.put_blocks(second) == 64 << 10
    assert fresh.open("two").put_blocks(second) == 0


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "swap"])
def test_what_is_damaged_is_found_and_never_served(saved: Keeper, tmp_path: Path, harm: str) -> None:
    chance = random.Random(harm)
    whole = saved.open()
    whole_states = {manifest.step: load(whole, manifest) for manifest in whole.manifests(TASK)}
    for case in range(50):
        keeper = saved.copy(tmp_path / str(case))
        stored = keeper.stored()
        victim = chance.choice(list(stored))
        data = bytearray(stored[victim])
        if harm == "truncate":
            keeper.put(victim, bytes(data[: chance.randrange(len(data))]))
        elif harm == "flip":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            keeper.put(victim, bytes(data))
        elif harm == "delete":
            keeper.put(victim, None)
        else:
            keeper.put(victim, stored[chance.choice([name for name in stored if name != victim])])
        content = keeper.content_of(victim)
        store = keeper.open()
        found = store.manifests(TASK)
        if content:
            assert len(found) == 2 and not store.damaged
        else:
            assert len(found) == 1
            assert len(store.damaged) == (0 if harm == "delete" else 1)
        refused = 0
        for manifest in found:
            if content in named_by(manifest):
                refused += 1
                with pytest.raises(CorruptSnapshot, match=rf"{content}.*; resume from an older checkpoint"):
                    load(store, manifest)
            else:
                assert all(map(np.array_equal, load(store, manifest), whole_states[manifest.step]))
        assert refused > 0 or len(found) == 1
        keeper.close()


def test_a_new_checkpoint_does_not_stand_on_a_damaged_block(copied: Keeper) -> None:
    for name in copied.stored():
        if copied.content_of(name):
            copied.put(name, b"rubbish")
    store = copied.open()
    manifest = save(store, TASK, 7, state_at(7))
    assert all(map(np.array_equal, load(store, manifest), state_at(7)))


def test_discard_keeps_what_a_kept_manifest_names(copied: Keeper) -> None:
    copied.age(4000)
    store = copied.open()
    store.discard(TASK, keep_steps=[7])
    (manifest,) = store.manifests(TASK)
    assert blocks_in(copied) == named_by(manifest)
    assert all(map(np.array_equal, load(store, manifest), state_at(7)))


def test_a_cleaner_that_comes_late_leaves_what_the_new_owner_published(copied: Keeper) -> None:
    """It stood still after it had listed: the new owner's checkpoints are not on its list, and not its business."""
    late = copied.open("late")
    listed = [found.step for found in late.manifests(TASK)]
    owner = copied.open("owner")
    published = [save(owner, TASK, step, state_at(step)) for step in (11, 12)]
    owner.manifests(TASK)
    owner.discard(TASK, keep_steps=[11, 12])
    late.discard(TASK, keep_steps=listed[:2])
    assert [found.step for found in copied.open("reader").manifests(TASK)] == [12, 11]
    assert all(np.array_equal(a, b) for a, b in zip(load(owner, published[1]), state_at(12), strict=True))


def test_discard_leaves_blocks_of_the_last_hour_and_of_other_tasks(copied: Keeper) -> None:
    other = save(copied.open(), "other", 1, state_at(9))
    before = blocks_in(copied)
    copied.age(3500)
    store = copied.open()
    store.discard(TASK, keep_steps=[])
    assert blocks_in(copied) == before
    copied.age(3700)
    copied.pass_time(0)
    fresh = copied.open()
    fresh.discard(TASK, keep_steps=[])
    assert fresh.manifests(TASK) == []
    assert blocks_in(copied) == named_by(other)
    assert all(map(np.array_equal, load(fresh, other), state_at(9)))


def test_blocks_are_looked_at_once_in_five_minutes(copied: Keeper) -> None:
    copied.age(3500)
    store = copied.open()
    store.discard(TASK, keep_steps=[7])
    before = blocks_in(copied)
    copied.age(3700)
    store = copied.open()
    store.discard(TASK, keep_steps=[3, 7])
    assert blocks_in(copied) < before
    kept = blocks_in(copied)
    store.discard(TASK, keep_steps=[])
    copied.pass_time(299)
    store.discard(TASK, keep_steps=[])
    assert blocks_in(copied) == kept
    copied.pass_time(2)
    store.discard(TASK, keep_steps=[])
    assert blocks_in(copied) == set()


def test_blocks_that_are_put_again_are_young_again(copied: Keeper) -> None:
    store = copied.open()
    blocks = dict(blocks_of(state_at(3)[0]))
    copied.age(4000)
    store.put_blocks(blocks)
    store.discard(TASK, keep_steps=[])
    assert blocks_in(copied) == set(blocks)


def test_no_block_is_deleted_while_a_manifest_cannot_be_read(copied: Keeper) -> None:
    known = set(copied.stored())
    save(copied.open(), "other", 1, state_at(9))
    (theirs,) = [name for name in copied.stored() if name not in known and not copied.content_of(name)]
    copied.put(theirs, b"{}")
    before = blocks_in(copied)
    copied.age(4000)
    copied.open().discard(TASK, keep_steps=[])
    assert blocks_in(copied) == before


@pytest.mark.parametrize("task", ["..", ".", "a/b", "a%2Fb", "Ünï", "con.v1"])
def test_any_name_of_a_task_is_kept_apart(fresh: Keeper, task: str) -> None:
    store = fresh.open()
    store.put_manifest(CheckpointManifest(task, 1, "", ""))
    assert [manifest.task for manifest in store.manifests(task)] == [task]
    assert store.tasks() == [task]


def _work(kind: str, folder: str, task: str) -> None:
    keeper = KEEPERS[kind](Path(folder))
    store = keeper.open(task)
    for step in range(1, 7):
        manifest = save(store, task, step, state_at(step % 4))
        store.discard(task, keep_steps=[step, step - 1])
        assert all(map(np.array_equal, load(store, manifest), state_at(step % 4)))
    keeper.close()


@pytest.mark.parametrize("kind", sorted(KEEPERS))
def test_several_processes_share_a_store(tmp_path: Path, kind: str) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(kind, str(tmp_path), f"task{n}")) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    keeper = KEEPERS[kind](tmp_path)
    store = keeper.open()
    for n in range(2):
        assert [manifest.step for manifest in store.manifests(f"task{n}")] == [6, 5]
    keeper.close()
