"""A partition that gives nothing for the declared time holds time back no more, neither in its stage nor below."""

from __future__ import annotations

import time
from collections.abc import Callable

import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import replay_as_recorded
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame

TICK = parse_contract(
    """{"type": "record", "name": "tick", "sp:version": 1, "fields": [
    {"name": "who", "type": "string", "sp:role": "key"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}"""
)
SECOND = 1_000_000


def counted(*, idle_after: str | None) -> sp.Topology:
    """Windows below a change of key: time has to cross an edge from every upstream task."""
    ticks = sp.source("ticks", contract=TICK, idle_after=idle_after)
    return sp.Topology(
        "counted", sinks={"out": ticks | sp.key_by("who") | sp.tumbling("1s", n=sp.count())}, commit="5ms"
    )


def run_live(topology: sp.Topology, enough: Callable[[MemoryLog], bool]) -> tuple[MemoryLog, Worker]:
    """Runs as a live worker on a topic of three partitions, of which one has rows, until `enough` or two seconds."""
    log, registry = MemoryLog(now=2**60), MemoryRegistry([TICK])
    log.create_topic("ticks", TopicSettings(3))
    append_frame(log, registry, "ticks", TICK, pl.DataFrame({"who": ["a"] * 4, "at": [s * SECOND for s in range(4)]}))
    binding = bind(topology, log, registry)
    worker = Worker(binding, log)
    worker.open()
    for _ in range(400):
        pause = worker.turn()
        if enough(log):
            break
        time.sleep(pause or 0.0)
    worker.close()
    return log, worker


def rows(log: MemoryLog) -> int:
    return sum(log.end_offset(TopicPartition("counted.out", p)) for p in range(3))


def test_windows_below_an_edge_close_once_the_silent_partitions_are_idle() -> None:
    log, worker = run_live(counted(idle_after="20ms"), lambda log: rows(log) >= 3)
    assert rows(log) == 3
    assert replay_as_recorded(worker.binding, log).sums["counted.out"].rows == 3


@pytest.mark.parametrize("idle_after", [None])
def test_without_a_declared_idleness_silent_partitions_hold_time_back(idle_after: str | None) -> None:
    log, _ = run_live(counted(idle_after=idle_after), lambda log: rows(log) > 0)
    assert rows(log) == 0
