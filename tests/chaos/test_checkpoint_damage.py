"""Damaged, lost and foreign checkpoints: the journal takes their place, and nothing of them is served."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import auction
import pytest
from child import step_sizes
from killing import FAR, payloads

from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.engine.compiled import TaskState
from streamproc.hashing import content_id
from streamproc.ports import CheckpointManifest, Log
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.restore import restore_task
from streamproc.runtime.worker import Progress, Worker
from streamproc.state import export_state
from streamproc.testing.memory_log import MemoryLog

ROWS = 1_500


def filled(log: Log, rows: int = ROWS, *, first: int = 0) -> Binding:
    """The narrow topology bound to a log with so many rows."""
    known = auction.registry()
    auction.create(log)
    auction.append(log, known, first, rows)
    return bind(auction.narrow(), log, known)


def run(binding: Binding, log: Log, store: DirectoryCheckpoints, *, turns: int, every_s: float = 0.0) -> Progress:
    """A worker that stops after so many commits, with a checkpoint of each task after each of them."""
    worker = Worker(
        binding,
        log,
        checkpoints=store,
        until_end=source_ends(binding, log),
        checkpoint_every_s=every_s,
        steps=step_sizes(3, (100, 100)),
    )
    left = iter(range(turns - 1))
    worker.on_commit = lambda _: None if next(left, None) is not None else worker.stop()
    return worker.run()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Binding, MemoryLog, Path]:
    """A topology that stopped half way, with checkpoints that are some steps old and as new as can be."""
    folder = tmp_path_factory.mktemp("checkpoints")
    log = MemoryLog(now=FAR)
    binding = filled(log)
    run(binding, log, DirectoryCheckpoints(folder), turns=3)
    run(binding, log, DirectoryCheckpoints(folder), turns=2, every_s=1e9)
    return binding, log, folder


def state_of(binding: Binding, log: Log, store: DirectoryCheckpoints | None) -> list[dict[str, bytes]]:
    """The state of each task as it is restored."""
    states: list[TaskState] = [
        restore_task(binding, number, log, store).task.state for number in range(binding.task_count)
    ]
    return [{name: array.tobytes() for name, array in export_state(state).items()} for state in states]


def test_a_restore_from_a_checkpoint_gives_the_state_that_the_whole_journal_gives(
    stopped: tuple[Binding, MemoryLog, Path],
) -> None:
    binding, log, folder = stopped
    store = DirectoryCheckpoints(folder)
    steps = [
        (restore_task(binding, n, log, store).steps, restore_task(binding, n, log, None).steps)
        for n in range(binding.task_count)
    ]
    assert all(few < many for few, many in steps), steps
    assert state_of(binding, log, store) == state_of(binding, log, None)


def test_25_damaged_checkpoint_folders_change_nothing(stopped: tuple[Binding, MemoryLog, Path], tmp_path: Path) -> None:
    binding, log, folder = stopped
    whole = state_of(binding, log, None)
    for seed in range(25):
        dice = random.Random(seed)
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        for path in dice.sample(files, dice.choice([1, 1, 3, len(files)])):
            damage(path, dice)
        assert state_of(binding, log, DirectoryCheckpoints(copy)) == whole, f"seed {seed}"
        shutil.rmtree(copy)


def damage(path: Path, dice: random.Random) -> None:
    """Cuts the file, turns one bit, overwrites it, or deletes it."""
    data = bytearray(path.read_bytes())
    match dice.randrange(4) if data else 3:
        case 0:
            path.write_bytes(data[: dice.randrange(len(data))])
        case 1:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            path.write_bytes(data)
        case 2:
            path.write_bytes(dice.randbytes(len(data)))
        case _:
            path.unlink()


def test_a_run_on_damaged_checkpoints_ends_like_one_on_whole_ones(
    stopped: tuple[Binding, MemoryLog, Path], tmp_path: Path
) -> None:
    shutil.copytree(stopped[2], tmp_path / "copy")
    for path in sorted((tmp_path / "copy").rglob("*")):
        if path.is_file():
            damage(path, random.Random(str(path.name)))
    log, calm = MemoryLog(now=FAR), MemoryLog(now=FAR)
    binding, undisturbed = filled(log), filled(calm)
    store = DirectoryCheckpoints(tmp_path / "copy")
    for _ in range(3):
        run(binding, log, store, turns=4)
        for path in sorted((tmp_path / "copy" / "blocks").rglob("*")):
            if path.is_file():
                damage(path, random.Random(str(path.name)))
    Worker(binding, log, checkpoints=store, until_end=source_ends(binding, log), close=True).run()
    Worker(undisturbed, calm, until_end=source_ends(undisturbed, calm), close=True).run()
    for sink in binding.plan.sinks:
        assert payloads(log, sink.topic) == payloads(calm, sink.topic)


@pytest.mark.parametrize("change", ["step", "chain", "offset", "fingerprint"])
def test_a_checkpoint_of_a_step_that_the_journal_does_not_know_is_ignored(
    stopped: tuple[Binding, MemoryLog, Path], tmp_path: Path, change: str
) -> None:
    binding, log, folder = stopped
    shutil.copytree(folder, tmp_path / "copy")
    store = DirectoryCheckpoints(tmp_path / "copy")
    for task in store.tasks():
        newest = store.manifests(task)[0]
        store.put_manifest(foreign(store, newest, change))
    assert state_of(binding, log, store) == state_of(binding, log, None)


def foreign(store: DirectoryCheckpoints, manifest: CheckpointManifest, change: str) -> CheckpointManifest:
    """The manifest with other blocks, that lies about what it stands on."""
    arrays = dict(manifest.arrays)
    dtype, shape, blocks = arrays["ledger.counts"]
    counts = bytearray(store.get_block(blocks[0]))
    counts[0] ^= 1
    store.put_blocks({content_id(counts): bytes(counts)})
    arrays["ledger.counts"] = (dtype, shape, (content_id(counts), *blocks[1:]))
    if change == "step":
        return replace(manifest, step=manifest.step + 1_000, arrays=arrays)
    if change == "chain":
        return replace(manifest, chain=manifest.chain + "x", step=manifest.step, arrays=arrays)
    if change == "offset":
        return replace(manifest, head={"journal_offset": 1_000_000}, step=manifest.step + 1_000, arrays=arrays)
    return replace(manifest, fingerprint="another", arrays=arrays)


def test_checkpoints_of_a_log_that_was_deleted_do_not_serve_the_new_one(tmp_path: Path) -> None:
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    with EmbeddedLog(tmp_path / "first.db") as first:
        run(filled(first, first=50_000), first, store, turns=9)
    with EmbeddedLog(tmp_path / "second.db") as second:
        binding = filled(second)
        run(binding, second, store, turns=3)
        assert state_of(binding, second, store) == state_of(binding, second, None)
        run(binding, second, store, turns=3)
        for number in range(binding.task_count):
            restored = restore_task(binding, number, second, store)
            assert restored.steps == 0, "its own checkpoints are kept beside those of the other log"
