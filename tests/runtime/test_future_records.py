"""A record stamped ahead of the worker's clock is judged once, by offset, and every later run over it reads that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from connectors.kafka import KafkaSettings, open_kafka_log
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.engine.rejects import REJECTED
from streamproc.errors import ReplayDiverged
from streamproc.ports import Log, TopicPartition, TopicSettings
from streamproc.runtime import task
from streamproc.runtime.backfill import backfill_worker, open_backfill
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.future import FutureVerdicts, recorded_verdicts
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import recorded_sums, replay_as_recorded, replay_by_event_time, source_ends
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame
from tests.services.kafka import kafka_cluster

TICK = parse_contract(
    """{"type": "record", "name": "tick", "sp:version": 1, "fields": [{"name": "n", "type": "long"},
    {"name": "who", "type": "string", "sp:role": "key"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}"""
)
SECOND, HOUR = 1_000_000, 3_600_000_000
REGISTRY = MemoryRegistry([TICK])
BEGUN = (time.time_ns() // 1_000 // 1_000 * 1_000) - 24 * HOUR
"""A day ago: what the worker calls the future then is none for whoever looks today."""
AHEAD = (3, 6, 7, 15)
ROWS = 16


class Moment:
    """A clock that stands where it is put."""

    def __init__(self, us: int) -> None:
        self.us = us

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def counted() -> sp.Topology:
    """Windows, which a moment from the future would close all at once."""
    ticks = sp.source("ticks", contract=TICK, lateness="1s") | sp.ordered(by=("n",))
    windows = ticks | sp.key_by() | sp.tumbling("2s", name="windows", n=sp.count(), last=sp.max("n"))
    return sp.Topology("counted", sinks={"out": windows, "rows": ticks}, commit="5ms")


def write(log: Log, first: int, rows: int) -> None:
    """Ticks a second apart. Some come from a producer whose clock is an hour ahead: event time and stamp both."""
    numbers = np.arange(first, first + rows)
    moments = BEGUN + numbers * SECOND + np.isin(numbers, AHEAD) * HOUR
    made = MemoryLog()
    made.create_topic("ticks", TopicSettings())
    append_frame(made, REGISTRY, "ticks", TICK, pl.DataFrame({"n": numbers, "who": ["a"] * rows, "at": moments}))
    transaction = log.producer("ticks").begin()
    transaction.append(replace(made.read(TopicPartition("ticks", 0), 0), timestamps=moments))
    transaction.commit()


def live(log: Log, clock: Moment, *, rows: int, close: bool = False) -> Binding:
    """A worker without checkpoints, as a command starts one: what was done before is done again."""
    binding = bind(counted(), log, REGISTRY)
    place = TopicPartition("ticks", 0)
    until = time.monotonic() + 20
    while (ends := source_ends(binding, log))[place] < rows and time.monotonic() < until:
        time.sleep(0.01)
    worker = Worker(
        binding, log, until_end=ends, close=close, steps=repeat(3), clock=clock, future=FutureVerdicts(clock.now_us)
    )
    worker.run()
    return binding


def refused(log: Log, topic: str = "counted.dlq") -> list[int]:
    """Offsets of the source that were refused as from the future."""
    letters = read_topic(log, REGISTRY, topic, REJECTED.schema.polars())
    assert set(letters["reason"]) <= {"future"}
    return sorted(letters["offset"].to_list())


@pytest.fixture(params=["simulated", "kafka"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    if request.param == "simulated":
        yield MemoryLog(now=BEGUN)
        return
    with kafka_cluster() as cluster, open_kafka_log(KafkaSettings((cluster.bootstrap,))) as opened:
        yield opened


def test_a_stamp_ahead_of_the_clock_is_a_verdict_that_every_later_run_reads(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.create_topic("ticks", TopicSettings())
    clock = Moment(BEGUN + 60 * SECOND)
    write(log, 0, ROWS // 2)
    live(log, clock, rows=ROWS // 2)
    first = refused(log)
    assert len(first) == 3
    # Two hours later nothing of it is the future any more. What was judged stays judged, what comes now is not.
    clock.us += 2 * HOUR
    write(log, ROWS // 2, ROWS // 2)
    binding = live(log, clock, rows=ROWS, close=True)
    assert refused(log) == first
    rows = read_topic(log, REGISTRY, "counted.rows")["n"].to_list()
    assert sorted(rows) == [n for n in range(ROWS) if n not in AHEAD[:3]]
    assert verify(binding, log).findings == []
    sums = recorded_sums(binding, log)
    assert replay_as_recorded(binding, log).sums == sums
    again, scratch, _ = replay_by_event_time(counted(), log, REGISTRY, MemoryLog(now=2**60))
    assert {t: recorded_sums(again, scratch)[t] for t in sums} == sums
    backfill = open_backfill(counted(), log, REGISTRY, "again")
    backfill_worker(backfill).run()
    assert refused(log, "counted.v1.again.dlq") == first
    assert sorted(backfill.frames()["rows"]["n"]) == sorted(rows)
    with monkeypatch.context() as planted:
        # A build that forgets what its journal says would see rows there today.
        planted.setattr(task, "within", lambda offsets, _: offsets[:0])
        with pytest.raises(ReplayDiverged, match=r"step [12] of"):
            replay_as_recorded(binding, log)


def test_where_nobody_judged_the_clock_at_the_replays_start_does() -> None:
    log = MemoryLog(now=BEGUN)
    log.create_topic("ticks", TopicSettings())
    write(log, 0, ROWS)
    verdicts: Any = recorded_verdicts("counted", log, lambda: BEGUN)
    assert (verdicts.recorded, verdicts.known) == ({}, {})
    block = log.read(TopicPartition("ticks", 0), 0)
    assert verdicts.of(TopicPartition("ticks", 0), block, 300 * SECOND).tolist() == list(AHEAD)
    again, scratch, _ = replay_by_event_time(counted(), log, REGISTRY, MemoryLog(now=2**60))
    assert recorded_sums(again, scratch)["counted.rows"].rows > 0
    assert "counted.dlq" not in recorded_sums(again, scratch), "today it is the past"


def test_a_moment_from_the_future_closes_no_window() -> None:
    log = MemoryLog(now=BEGUN)
    log.create_topic("ticks", TopicSettings())
    write(log, 0, ROWS)
    live(log, Moment(BEGUN + 60 * SECOND), rows=ROWS)
    windows = read_topic(log, REGISTRY, "counted.out")
    assert 0 < windows["n"].sum() < ROWS - len(AHEAD), "and the last windows wait for rows to come"
    assert windows["n"].sum() == len([n for n in range(int(windows["last"].max()) + 1) if n not in AHEAD])
