"""While a source of scores is dead, decisions wait for it no longer than was declared, and stand on the next rung."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest

import streamproc as sp
from benchmarks.fallback import CONTRACTS, topology
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import replay_as_recorded
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame
from tests.runtime.told_clock import Told

SECOND = 1_000_000
COMMIT, SLACK = 0.02, 0.006
"""Seconds of a commit, of which each stage waits one; and of a turn of the loop below."""
DEAD = {"fulls": (20, 60), "smalls": (40, 60)}
"""Between which seconds a source gives nothing."""


def lived(value: sp.Topology) -> tuple[MemoryLog, MemoryRegistry, Worker, list[tuple[int, float]]]:
    """A payment a second for eighty seconds, by a clock that is told; gives each one's second and how long it took."""
    log, registry, clock = MemoryLog(now=100 * SECOND), MemoryRegistry(list(CONTRACTS)), Told()
    for one in CONTRACTS:
        log.create_topic(f"{one.name}s", TopicSettings(1))
    worker = Worker(bind(value, log, registry), log, clock=clock)
    worker.open()
    took: list[tuple[int, float]] = []
    for second in range(80):
        for one in CONTRACTS:
            first, last = DEAD.get(f"{one.name}s", (0, 0))
            if not first <= second < last:
                row: dict[str, Any] = {"card": ["c"], "at": [second * SECOND + (one.name == "pay")]}
                row |= {name: [0.25] for name in one.schema.names[1:-1]}
                append_frame(log, registry, f"{one.name}s", one, pl.DataFrame(row))
        came = clock.seconds
        told = None
        while clock.seconds < came + 1.0:
            pause = worker.turn()
            if told is None and read_topic(log, registry, "ladder.log").height > second:
                told = clock.seconds - came
            clock.sleep(max(pause or 0.0, 0.005))
        took.append((second, 1.0 if told is None else told))
    worker.close()
    return log, registry, worker, took


def test_no_decision_waits_longer_than_declared_and_each_stands_on_the_right_rung() -> None:
    log, registry, worker, took = lived(topology())
    rows = read_topic(log, registry, "ladder.log").sort("at")
    assert rows.height == 80
    for second, rung in zip(range(80), rows["risk_rung"], strict=True):
        wanted = "prior" if 40 <= second < 60 else "reduced" if 20 <= second < 40 else "full"
        assert rung == wanted, second
    # A payment is always a little ahead of its scores, so it waits `max_wait` for them while they live.
    alive = max(seconds for second, seconds in took if 1 <= second < 20)
    assert alive <= 0.05 + 3 * COMMIT + SLACK
    assert max(seconds for second, seconds in took if second >= 20) <= alive + SLACK
    # Sources that are silent for `idle_after` are not waited for at all.
    assert max(seconds for second, seconds in took if 42 <= second < 60) <= 2 * COMMIT + SLACK
    assert replay_as_recorded(worker.binding, log).sums["ladder.log"].rows == 80


@pytest.mark.parametrize(("wait", "declared"), [("50ms", 0.05), ("300ms", 0.3)])
def test_the_wait_for_a_source_that_has_just_died_is_the_declared_one(wait: str, declared: float) -> None:
    """The measure can fail: with six times the wait payments without a score take as much longer."""
    *_, took = lived(replace(topology(), max_wait=wait))
    assert declared <= max(seconds for second, seconds in took if second) <= declared + 3 * COMMIT + SLACK
