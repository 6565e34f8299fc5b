"""A task overtakes nothing that stood in the log when it was opened, however late the log hands it out."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import polars as pl
import pytest
from told_clock import Told

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import Log, TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import replay_as_recorded
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame
from streamproc.testing.simulation.cluster import Cluster
from streamproc.testing.simulation.log import SimulatedLog

_AT = '{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}'
_WHO = '{"name": "who", "type": "string", "sp:role": "key"}'
_HEAD = '"type": "record", "sp:version": 1, "sp:partitioner": "murmur2"'
BID = parse_contract(
    f'{{{_HEAD}, "name": "bid", "fields": [{_WHO}, {{"name": "n", "type": "long"}}, {_AT}]}}'
)
PROFILE = parse_contract(
    f'{{{_HEAD}, "name": "profile", "fields": [{_WHO}, {{"name": "segment", "type": "long"}}, {_AT}]}}'
)
SECOND = 1_000_000
HOUR = 3_600 * SECOND


class Fetching(SimulatedLog):
    """A log elsewhere: its ends are known at once, and what lies in the topics of `on_the_way` has not come yet.

    As on a broker, marks of transactions take offsets behind the last record, and only a fetch that has come tells of
    them.  `waited` holds what was waited for.
    """

    def __init__(self) -> None:
        super().__init__(Cluster(now=2**60))
        self.on_the_way: frozenset[str] = frozenset()
        self.waited: list[frozenset[TopicPartition]] = []

    def available(self, partition: TopicPartition, offset: int) -> int:
        if partition.topic in self.on_the_way or not self.cluster.at(partition).has_record(offset):
            return offset
        stored = self.cluster.at(partition)
        return 1 + max(batch.last for batch in stored.batches if batch.counts and batch.first < stored.stable)

    def reached(self, partition: TopicPartition, offset: int) -> int:
        stored = self.cluster.at(partition)
        unknown = partition.topic in self.on_the_way or stored.has_record(offset)
        return offset if unknown else max(offset, stored.stable)

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_us: int) -> bool:
        self.waited.append(frozenset(partitions))
        return super().wait(partitions, timeout_us)


def write(log: Log, topic: str, rows: list[tuple[str, int, int]]) -> None:
    """Rows (who, number or segment, second)."""
    contract, name = (BID, "n") if topic == "bids" else (PROFILE, "segment")
    frame = pl.DataFrame(rows, schema={"who": pl.String, name: pl.Int64, "at": pl.Int64}, orient="row")
    append_frame(log, MemoryRegistry([BID, PROFILE]), topic, contract, frame.with_columns(pl.col("at") * SECOND))


def joined(*, idle_after: str | None = None, **more: str) -> sp.Topology:
    profiles = sp.source("profiles", contract=PROFILE, idle_after=idle_after) | sp.key_by("who")
    bids = sp.source("bids", contract=BID) | sp.key_by("who")
    return sp.Topology("joined", sinks={"out": bids | sp.as_of(profiles, columns=("segment",))}, commit="5ms", **more)


class Live:
    """A live worker on such a log, turn by turn; the topics are there."""

    def __init__(self, topology: sp.Topology | None = None, log: SimulatedLog | None = None) -> None:
        self.log = log if log is not None else Fetching()
        self.registry, self.clock = MemoryRegistry([BID, PROFILE]), Told()
        for topic in ("bids", "profiles"):
            self.log.create_topic(topic, TopicSettings(1))
        self.topology = topology if topology is not None else joined()
        self.worker: Worker

    def begin(self) -> None:
        self.binding = bind(self.topology, self.log, self.registry)
        self.worker = Worker(self.binding, self.log, clock=self.clock)
        self.worker.open()

    def turns(self, count: int, *, seconds: float = 0.0) -> None:
        for _ in range(count):
            self.worker.turn()
            self.clock.seconds += seconds

    def out(self) -> list[tuple[int, int | None]]:
        rows = read_topic(self.log, self.registry, "joined.out", {"n": pl.Int64, "segment": pl.Int64})
        return rows.select("n", "segment").rows()


TABLE = [("ann", 7, 0), ("bob", 8, 0)]
STREAM = [("ann", 0, 100), ("bob", 1, 101), ("ann", 2, 102)]
MATCHED = [(0, 7), (1, 8), (2, 7)]


@pytest.fixture
def live() -> Live:
    made = Live()
    assert isinstance(made.log, Fetching)
    return made


def test_a_row_waits_for_a_table_that_stood_in_the_log_and_has_not_come(live: Live) -> None:
    write(live.log, "profiles", TABLE)
    write(live.log, "bids", STREAM)
    live.log.on_the_way = frozenset({"profiles"})
    live.begin()
    live.turns(5)
    assert live.out() == []
    live.log.on_the_way = frozenset()
    live.turns(3)
    assert live.out() == MATCHED
    assert replay_as_recorded(live.binding, live.log).sums["joined.out"].rows == 3


def test_a_newer_row_of_the_table_does_not_overtake_the_stream_that_stood_before_it(live: Live) -> None:
    """The table's newest row is an hour ahead, and the stream comes in pieces."""
    write(live.log, "profiles", TABLE)
    write(live.log, "bids", STREAM)
    write(live.log, "profiles", [("ann", 70, 3_600)])
    live.log.on_the_way = frozenset({"bids"})
    live.begin()
    live.turns(5)
    live.log.on_the_way = frozenset()
    live.turns(3)
    assert live.out() == MATCHED
    order = [int(entry_runs) for entry_runs in live.worker.tasks[0].state.positions[:, 0]]
    assert order == [3, 4]  # All was taken in the end; a mark lies between the two pieces of the table.


def test_what_comes_after_the_start_is_not_waited_for(live: Live) -> None:
    write(live.log, "profiles", TABLE)
    live.begin()
    live.turns(3)
    write(live.log, "profiles", [("ann", 70, 1)])
    write(live.log, "bids", STREAM)
    live.log.on_the_way = frozenset({"profiles"})
    live.turns(1)
    assert live.out() == MATCHED


def test_a_task_that_is_opened_again_waits_for_what_stood_in_the_log_then(live: Live) -> None:
    write(live.log, "profiles", TABLE)
    live.begin()
    live.turns(3)
    live.worker.close()
    write(live.log, "profiles", [("ann", 70, 1)])
    write(live.log, "bids", STREAM)
    live.log.on_the_way = frozenset({"profiles"})
    live.begin()
    live.turns(5)
    assert live.out() == []
    live.log.on_the_way = frozenset()
    live.turns(3)
    assert live.out() == [(0, 70), (1, 8), (2, 70)]


@pytest.mark.parametrize("aborted", [False, True])
def test_marks_and_aborted_records_behind_the_last_record_are_not_waited_for(live: Live, aborted: bool) -> None:
    write(live.log, "profiles", TABLE)
    if aborted:
        transaction = live.log.producer("fails").begin()
        transaction.append(live.log.read(TopicPartition("profiles", 0), 0))
        transaction.abort()
    write(live.log, "bids", STREAM)
    assert live.log.end_offset(TopicPartition("profiles", 0)) > 2
    live.begin()
    live.turns(3)
    assert live.out() == MATCHED


def test_an_input_that_never_had_a_row_is_not_waited_for(live: Live) -> None:
    write(live.log, "bids", STREAM)
    live.begin()
    live.turns(2)
    assert live.out() == [(0, None), (1, None), (2, None)]


def test_what_does_not_come_in_a_minute_is_given_up_and_named(
    live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    write(live.log, "profiles", TABLE)
    write(live.log, "bids", STREAM)
    live.log.on_the_way = frozenset({"profiles"})
    live.begin()
    live.turns(59, seconds=1)
    assert live.out() == []
    with caplog.at_level(logging.WARNING):
        live.turns(4, seconds=1)
    assert live.out() == [(0, None), (1, None), (2, None)]
    assert "joined.v1.s0.t0 goes on without profiles-0" in caplog.text


def test_time_in_which_nobody_looked_is_not_time_that_was_waited(live: Live) -> None:
    write(live.log, "profiles", TABLE)
    write(live.log, "bids", STREAM)
    live.log.on_the_way = frozenset({"profiles"})
    live.begin()
    live.turns(2)
    live.clock.seconds += 600
    live.turns(2)
    assert live.out() == []


# ── max_wait ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def waiting_for_five_seconds(idle_after: str | None = None) -> Live:
    live = Live(joined(max_wait="5s", idle_after=idle_after))
    write(live.log, "profiles", TABLE)
    live.begin()
    live.turns(3)
    return live


def test_an_input_that_is_ahead_is_not_waited_for() -> None:
    live = waiting_for_five_seconds()
    write(live.log, "profiles", [("cyd", 9, 3_600)])
    write(live.log, "bids", STREAM)
    live.turns(1)
    live.turns(6, seconds=1)  # The table has been read up to a moment beyond the stream's.
    assert live.worker.tasks[0].state.positions[1, 0] == live.log.end_offset(TopicPartition("profiles", 0)) - 1
    before = len(live.out())
    write(live.log, "bids", [("bob", 3, 103)])
    live.turns(1)
    assert len(live.out()) == before + 1


def test_an_input_that_lags_is_waited_for_as_long_as_declared() -> None:
    live = waiting_for_five_seconds()
    write(live.log, "bids", STREAM)
    live.turns(5, seconds=1)
    assert live.out() == []
    live.turns(2, seconds=1)
    assert live.out() == MATCHED


def test_an_input_that_is_idle_is_not_waited_for() -> None:
    live = waiting_for_five_seconds(idle_after="2s")
    write(live.log, "bids", STREAM[:1])
    live.turns(4, seconds=1)
    write(live.log, "bids", STREAM[1:])
    live.turns(1)
    assert live.out() == MATCHED


def test_a_row_that_came_in_time_is_seen() -> None:
    live = waiting_for_five_seconds()
    write(live.log, "bids", STREAM)
    live.turns(3, seconds=1)
    write(live.log, "profiles", [("ann", 70, 50), ("bob", 80, 200)])
    live.turns(1)
    assert live.out() == [(0, 70), (1, 8), (2, 70)]


def test_a_row_that_is_ahead_waits_however_often_the_input_behind_it_gives_one() -> None:
    """Rows that lag come each second: the row ahead of them goes after the declared time all the same."""
    live = waiting_for_five_seconds()
    write(live.log, "bids", [("ann", 0, 100)])
    for second in range(12):
        write(live.log, "profiles", [("bob", second, second)])
        live.turns(1, seconds=1)
    assert live.out() == [(0, 7)]


def test_an_input_of_which_the_log_has_more_is_not_called_silent() -> None:
    live = waiting_for_five_seconds()
    write(live.log, "profiles", [("ann", 70, 1)])
    write(live.log, "bids", STREAM)
    live.log.on_the_way = frozenset({"profiles"})
    live.turns(20, seconds=1)
    assert live.out() == []
    live.log.on_the_way = frozenset()
    live.turns(8, seconds=1)
    assert live.out() == [(0, 70), (1, 8), (2, 70)]


def test_a_worker_that_waits_sleeps_until_what_it_waits_for_comes() -> None:
    """Rows that lie there already do not wake it: it would look at them again and again, at the cost of a core."""
    live = waiting_for_five_seconds()
    assert isinstance(live.log, Fetching)
    write(live.log, "bids", STREAM)
    live.turns(2)
    write(live.log, "bids", STREAM)
    live.log.waited.clear()
    live.worker._rest(0.1)
    assert live.log.waited == [frozenset({TopicPartition("profiles", 0)})]


def test_a_log_at_hand_hands_out_all_and_nothing_is_waited_for() -> None:
    live = Live(log=MemoryLog(now=2**60))
    write(live.log, "bids", STREAM)
    write(live.log, "profiles", TABLE)
    live.begin()
    live.turns(1)
    assert live.out() == MATCHED
