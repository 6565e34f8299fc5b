"""kill -9 of a writing process at any moment: what it was told is committed is there, and nothing is half there."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from connectors.embedded import EmbeddedLog, database
from streamproc.ports import TopicPartition, TopicSettings, block_of

PLACES = [TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("u", 0)]
# One server that has imported everything forks the writers: a kill costs milliseconds, not an import.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["connectors.embedded"])


def batch(step: int, place: TopicPartition) -> list[bytes]:
    """What a step appends to a partition: from one small record to some blocks."""
    dice = random.Random(f"{step} {place}")
    size = dice.choice([10, 1_000, 30_000])
    return [b"%d:" % step + dice.randbytes(size) for _ in range(dice.choice([1, 3, 40]))]


def write_for_ever(path: Path, told: Connection) -> None:
    """Goes on where the log stands, and tells of each step when `commit` has returned."""
    database.WAL_PAGES = 64  # so that moves into the main file are often under way when the process dies
    with EmbeddedLog(path) as log:
        producer = log.producer("writer")
        step = log.committed("g").get(PLACES[0], 0)
        while True:
            transaction = producer.begin()
            for place in PLACES:
                values = batch(step, place)
                transaction.append(block_of(*place, values[:1]))
                transaction.append(block_of(*place, values[1:]))
            step += 1
            transaction.commit_offsets("g", {PLACES[0]: step})
            transaction.commit()
            told.send(step)


def prove(path: Path, told: int, proven: dict[TopicPartition, int], since: int) -> int:
    """Checks all steps behind `since`; gives how many steps the log has."""
    with EmbeddedLog(path) as log:
        steps = log.committed("g").get(PLACES[0], 0)
        assert steps >= told, "an acknowledged step is gone"
        for place in PLACES:
            expected = [value for step in range(since, steps) for value in batch(step, place)]
            at, got = proven[place], []
            while at < log.end_offset(place):
                block = log.read(place, at)
                assert block.offsets.tolist() == list(range(at, at + len(block)))
                got += [block.value(row) for row in range(len(block))]
                at += len(block)
            assert got == expected
            proven[place] = at
        assert list(log.check()) == []
    return steps


def survive(path: Path, kills: int, seed: int) -> int:
    """Kills a writer again and again on one log; gives how many steps got through."""
    with EmbeddedLog(path) as log:
        log.create_topic("t", TopicSettings(partitions=2))
        log.create_topic("u", TopicSettings())
    dice = random.Random(seed)
    proven, steps = dict.fromkeys(PLACES, 0), 0
    for kill in range(kills):
        here, there = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=write_for_ever, args=(path, there), daemon=True)
        process.start()
        there.close()
        if kill % 4:  # every fourth one dies while it opens the log
            assert here.poll(20)
        time.sleep(dice.uniform(0, 0.08))
        process.kill()
        process.join()
        told = steps
        while here.poll():
            try:
                told = here.recv()
            except EOFError:
                break
        here.close()
        steps = prove(path, told, proven, steps)
    return steps


def test_10_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    assert survive(tmp_path / "log.db", 10, seed=1) > 10


@pytest.mark.long
def test_200_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    assert survive(tmp_path / "log.db", 200, seed=2) > 200
