"""Checkpoints in a topic: pieces, compaction, damage, and cleaners that come late or never come back."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from interrupted import InterruptedLog
from keepers import TOPIC, TopicKeeper, blocks, records

from connectors.checkpoint_records import PIECE_BYTES
from connectors.checkpoint_topic import TopicCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.errors import CorruptSnapshot, Fenced, LogUnavailable
from streamproc.hashing import content_id
from streamproc.ports import CheckpointManifest, TopicPartition
from streamproc.testing.memory_log import MemoryLog
from streamproc.testing.simulation.cluster import Cluster
from streamproc.testing.simulation.log import SimulatedLog

BASE = 1_700_000_000


class Time:
    """The clock of a log in memory and of the stores on it."""

    def __init__(self) -> None:
        self.log = MemoryLog(now=BASE * 1_000_000)

    def __call__(self) -> float:
        return self.log.now / 1e6

    def go_on(self, seconds: float) -> None:
        self.log.now += int(seconds * 1e6)


def numbered(*numbers: int) -> dict[str, bytes]:
    """Blocks that differ by their numbers."""
    data = [number.to_bytes(4) * 100 for number in numbers]
    return {content_id(block): block for block in data}


def manifest(task: str, step: int, held: dict[str, bytes]) -> CheckpointManifest:
    return CheckpointManifest(task, step, "", "", {}, {"a": ("|u1", (400 * len(held),), tuple(held))})


def save(store: TopicCheckpoints, task: str, step: int, *numbers: int) -> CheckpointManifest:
    held = numbered(*numbers)
    store.put_blocks(held)
    published = manifest(task, step, held)
    store.put_manifest(published)
    return published


def is_whole(store: TopicCheckpoints, published: CheckpointManifest) -> bool:
    return all(store.get_block(block) for _, _, blocks in published.arrays.values() for block in blocks)


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 7])
def test_large_blocks_travel_in_pieces_that_brokers_take(tmp_path: Path, size: int) -> None:
    keeper = TopicKeeper(tmp_path)
    data = random.Random(size).randbytes(size)
    store = keeper.open()
    assert store.put_blocks({content_id(data): data}) == size
    assert store.get_block(content_id(data)) == data == keeper.open().get_block(content_id(data))
    assert max(len(value) for value in keeper.stored().values()) < 600_000
    assert len(keeper.stored()) == max(1, -(-size // PIECE_BYTES))
    keeper.close()


def test_a_manifest_of_many_blocks_travels_in_pieces_and_is_there_at_once(tmp_path: Path) -> None:
    keeper = TopicKeeper(tmp_path)
    store = keeper.open()
    held = numbered(*range(30_000))
    store.put_blocks(held)
    store.put_manifest(manifest("t", 1, held))
    names = [name for name in keeper.stored() if name.startswith("manifest/")]
    assert len(names) == 3
    assert keeper.open().manifests("t") == [manifest("t", 1, held)]
    keeper.put(names[1], None)
    torn = keeper.open()
    assert torn.manifests("t") == [] and len(torn.damaged) == 1
    keeper.close()


def test_the_topic_is_compacted_and_what_stays_in_it_is_enough(tmp_path: Path) -> None:
    keeper = TopicKeeper(tmp_path)
    store, log = keeper.open(), keeper.log()
    for step in range(1, 20):
        last = save(store, "t", step, 0, step, step + 1)
        store.manifests("t")
        store.discard("t", keep_steps=[step, step - 1])
        keeper.pass_time(1_800)
        log.compact(TOPIC)
    assert log.topics()[TOPIC].compacted
    for opened in (store, keeper.open()):
        assert [found.step for found in opened.manifests("t")] == [19, 18]
        assert is_whole(opened, last)
    assert sum(len(block) for block in blocks(log)) < 25, "what was deleted is gone from the file"
    keeper.close()


def test_it_works_on_logs_that_keep_marks_between_records() -> None:
    store = TopicCheckpoints(SimulatedLog(Cluster(now=BASE * 1_000_000)), TOPIC, "one", clock=lambda: float(BASE))
    published = save(store, "t", 1, 1, 2)
    assert store.manifests("t") == [published] and is_whole(store, published)


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_damaged_part_of_the_log_costs_what_lies_in_it_alone(tmp_path: Path) -> None:
    keeper = TopicKeeper(tmp_path)
    for step in range(1, 6):
        save(keeper.open(f"member{step}"), "t", step, step)
    keeper.close()
    with closing(sqlite3.connect(tmp_path / "log.db")) as file:
        rows = [row for (row,) in file.execute("SELECT id FROM block ORDER BY next")]
        for row in rows[4:6]:  # block and manifest of step 3
            file.execute("UPDATE block SET payload = zeroblob(length(payload)) WHERE id = ?", (row,))
        file.commit()
    store = keeper.open()
    found = store.manifests("t")
    assert [published.step for published in found] == [5, 4, 2, 1]
    assert all(is_whole(store, published) for published in found)
    with pytest.raises(CorruptSnapshot, match="is missing"):
        store.get_block(next(iter(numbered(3))))
    keeper.pass_time(7_200)
    store.discard("t", keep_steps=[5])
    assert {keeper.content_of(name) for name in keeper_names(keeper)} >= set(numbered(1, 2, 4, 5)), (
        "nobody knows what the damaged manifest named"
    )
    keeper.close()


def keeper_names(keeper: TopicKeeper) -> list[str]:
    """Names in the readable part of the topic's file."""
    with closing(sqlite3.connect(keeper.folder / "log.db")) as file:
        assert file.execute("SELECT count(*) FROM block").fetchone()[0]
    store = keeper.open()
    store.tasks()
    return [f"{name}/0" for number in range(10) for name in store._index.blocks_with(next(iter(numbered(number))))]


def test_a_topic_that_somebody_deleted_begins_anew(tmp_path: Path) -> None:
    keeper = TopicKeeper(tmp_path)
    store = keeper.open()
    save(store, "t", 1, 1, 2, 3, 4)
    keeper.log().delete_topic(TOPIC)
    fresh = keeper.open("two")
    assert fresh.manifests("t") == []
    published = save(fresh, "t", 2, 5)
    assert store.manifests("t") == [published] and is_whole(store, published)
    keeper.close()


# ── several of them ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_member_that_starts_again_fences_its_older_self(tmp_path: Path) -> None:
    keeper = TopicKeeper(tmp_path)
    older = keeper.open()
    save(older, "t", 1, 1)
    newer = keeper.open()
    save(newer, "t", 2, 2)
    with pytest.raises(Fenced):
        save(older, "t", 3, 3)
    assert [published.step for published in newer.manifests("t")] == [2, 1]
    keeper.close()


def test_a_cleaner_that_comes_late_leaves_what_the_new_owner_published() -> None:
    now = Time()
    zombie, owner = (TopicCheckpoints(now.log, TOPIC, member, clock=now) for member in ("zombie", "owner"))
    for step in (1, 2, 3):
        save(zombie, "t", step, step)
    zombie.manifests("t")
    now.go_on(7_200)
    published = [save(owner, "t", step, step) for step in (4, 5)]
    owner.manifests("t")
    owner.discard("t", keep_steps=[4, 5])
    zombie.discard("t", keep_steps=[2, 3])
    for store in (zombie, owner, TopicCheckpoints(now.log, TOPIC, "reader", clock=now)):
        assert [found.step for found in store.manifests("t")] == [5, 4]
        assert all(is_whole(store, found) for found in published)


def interrupting(now: Time, when: str, what: str, act: Callable[[], None]) -> TopicCheckpoints:
    """A store, beside which something happens at one commit of records of a kind."""
    left = [act]

    def between(moment: str, keys: list[str]) -> None:
        if left and moment == when and keys[0].startswith(what):
            left.pop()()

    return TopicCheckpoints(InterruptedLog(now.log, between), TOPIC, "interrupted", clock=now)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("pause", [0, 300, 7_200, 100_000])
def test_a_checkpoint_on_blocks_that_are_just_deleted_is_whole_or_not_published(when: str, pause: float) -> None:
    """The deleter stands still around its announcement, and another worker saves what needs the same blocks."""
    now = Time()
    writer = TopicCheckpoints(now.log, TOPIC, "writer", clock=now)
    held = numbered(1, 2, 3)
    published: list[CheckpointManifest] = []

    def meanwhile() -> None:
        published.append(save(writer, "other", 9, *range(1, 4)))
        now.go_on(pause)

    deleter = interrupting(now, when, "doom/", meanwhile)
    deleter.put_blocks(held)
    now.go_on(4_000)
    deleter = interrupting(now, when, "doom/", meanwhile)
    deleter.discard("t", keep_steps=[])
    assert published
    for store in (deleter, writer, TopicCheckpoints(now.log, TOPIC, "reader", clock=now)):
        assert store.manifests("other") == published
        assert is_whole(store, published[0])


def test_a_manifest_whose_blocks_go_before_it_comes_is_withdrawn_and_the_next_one_is_whole() -> None:
    now = Time()
    deleter = TopicCheckpoints(now.log, TOPIC, "deleter", clock=now)
    deleter.put_blocks(numbered(1, 2, 3))
    now.go_on(4_000)
    writer = interrupting(now, "before", "manifest/", lambda: deleter.discard("t", keep_steps=[]))
    with pytest.raises(LogUnavailable, match=r"is not published: 3 of its blocks .* the next checkpoint stores them"):
        save(writer, "other", 9, 1, 2, 3)
    assert writer.manifests("other") == deleter.manifests("other") == []
    published = save(writer, "other", 10, 1, 2, 3)
    assert is_whole(TopicCheckpoints(now.log, TOPIC, "reader", clock=now), published)


def test_what_a_deleter_announced_before_it_died_is_deleted_by_the_next_one() -> None:
    now = Time()

    def die() -> None:
        raise KeyboardInterrupt

    interrupted = interrupting(now, "after", "doom/", die)
    interrupted.put_blocks(numbered(1, 2))
    now.go_on(4_000)
    with pytest.raises(KeyboardInterrupt):
        interrupted.discard("t", keep_steps=[])
    store = TopicCheckpoints(now.log, TOPIC, "next", clock=now)
    assert store.put_blocks(numbered(1)) == 400, "nobody builds on what was announced"
    store.discard("t", keep_steps=[])
    left = dict(records(now.log))  # type: ignore[arg-type]
    assert [name for name, value in left.items() if value is not None and name.startswith("block/")] != []
    assert store.get_block(next(iter(numbered(1))))
    with pytest.raises(CorruptSnapshot):
        store.get_block(next(iter(numbered(2))))
    now.go_on(90_000)
    TopicCheckpoints(now.log, TOPIC, "later", clock=now).discard("t", keep_steps=[])
    left = dict(records(now.log))  # type: ignore[arg-type]
    assert [name for name, value in left.items() if value is not None and name.startswith("doom/")] != left


@pytest.mark.parametrize("seed", range(40))
def test_no_interleaving_breaks_a_checkpoint_that_was_published(seed: int) -> None:
    """Owners and late former owners save and clean, and at every commit any other one may do so, hours may pass."""
    dice = random.Random(seed)
    now = Time()
    tasks, members = ("a", "b"), range(4)
    steps = iter(range(1, 10_000))
    alive: dict[str, dict[int, CheckpointManifest]] = {task: {} for task in tasks}
    discarded: dict[str, set[int]] = {task: set() for task in tasks}
    depth = 0

    def between(moment: str, keys: list[str]) -> None:
        nonlocal depth
        if depth < 2 and dice.random() < 0.4:
            depth += 1
            busy.append(current[-1])
            try:
                act(dice.choice([member for member in members if member not in busy]))
            finally:
                busy.pop()
                depth -= 1

    def act(member: int) -> None:
        current.append(member)
        try:
            now.go_on(dice.choice([0, 0, 0, 1, 400, 1_900, 4_000, 50_000]))
            task = dice.choice(tasks)
            if dice.random() < 0.6:
                step = next(steps)
                try:
                    published = save(stores[member], task, step, *dice.sample(range(8), 3))
                except LogUnavailable:
                    return
                alive[task][step] = published
            else:
                listed = [found.step for found in stores[member].manifests(task)]
                discarded[task].update(listed[2:])
                stores[member].discard(task, keep_steps=listed[:2])
        finally:
            current.pop()

    current: list[int] = []
    busy: list[int] = []
    stores = [TopicCheckpoints(InterruptedLog(now.log, between), TOPIC, f"m{n}", clock=now) for n in members]
    for _ in range(60):
        act(dice.choice(members))
        if dice.random() < 0.1:
            now.log.cluster.clean()
    reader = TopicCheckpoints(now.log, TOPIC, "reader", clock=now)
    for task in tasks:
        found = {published.step: published for published in reader.manifests(task)}
        kept = set(alive[task]) - discarded[task]
        assert kept and kept == set(found) - discarded[task], f"seed {seed}"
        for step in kept:
            assert is_whole(reader, alive[task][step]), f"seed {seed}"


def test_the_log_of_the_steps_is_not_touched(tmp_path: Path) -> None:
    """Everything goes to the one topic, in two small transactions."""
    with EmbeddedLog(tmp_path / "log.db") as log:
        store = TopicCheckpoints(log, TOPIC, "one")
        save(store, "t", 1, 1)
        store.close()
        assert list(log.topics()) == [TOPIC] and log.groups() == []
        assert log.end_offset(TopicPartition(TOPIC, 0)) == 2
