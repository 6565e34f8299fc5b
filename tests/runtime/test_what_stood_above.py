"""A join overtakes nothing that stood in the sources above it when it began, however many stages lie between."""

from __future__ import annotations

import logging

import polars as pl
import pytest
from told_clock import Told

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import replay_as_recorded
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame
from streamproc.testing.simulation.cluster import Cluster
from streamproc.testing.simulation.log import SimulatedLog

_AT = '{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}'
_WHO = '{"name": "who", "type": "string"}'
BID = parse_contract(
    f'{{"type": "record", "name": "bid", "sp:version": 1, "fields": [{_WHO}, {{"name": "n", "type": "long"}}, {_AT}]}}'
)
PROFILE = parse_contract(
    f'{{"type": "record", "name": "profile", "sp:version": 1, "fields": [{_WHO}, '
    f'{{"name": "segment", "type": "long"}}, {_AT}]}}'
)
SECOND = 1_000_000
TABLE = [("ann", 7, 0), ("bob", 8, 0), ("cyd", 9, 0), ("dan", 6, 0)]
STREAM = [("ann", 0, 100), ("bob", 1, 101), ("cyd", 2, 102), ("dan", 3, 103)]
MATCHED = [(0, 7), (1, 8), (2, 9), (3, 6)]
UNMATCHED = [(n, None) for n in range(4)]


class Fetching(SimulatedLog):
    """A log elsewhere: its ends are known at once, and what lies in the topics of `on_the_way` has not come yet."""

    def __init__(self) -> None:
        super().__init__(Cluster(now=2**60))
        self.on_the_way: frozenset[str] = frozenset()

    def available(self, partition: TopicPartition, offset: int) -> int:
        return offset if partition.topic in self.on_the_way else super().available(partition, offset)


def joined(moves: int) -> sp.Topology:
    """Bids and the profiles of their bidders, of which each goes through `moves` changes of key, or none."""
    profiles = sp.source("profiles", contract=PROFILE)
    for move in range(moves - 1):
        profiles = profiles | sp.key_by("segment", name=f"by_segment_{move}") | sp.select("who", "segment", "at")
    profiles = profiles | sp.key_by("who", name="profiles_by_who")
    bids = sp.source("bids", contract=BID) | sp.key_by("who", name="bids_by_who")
    return sp.Topology("joined", sinks={"out": bids | sp.as_of(profiles, columns=("segment",))}, commit="5ms")


class Live:
    """Live workers on such a log, turn by turn; the topics are there, with two partitions each."""

    def __init__(self, moves: int = 1, members: int = 1) -> None:
        self.log, self.registry, self.clock = Fetching(), MemoryRegistry([BID, PROFILE]), Told()
        for topic in ("bids", "profiles"):
            self.log.create_topic(topic, TopicSettings(2))
        self.write("profiles", TABLE)
        self.write("bids", STREAM)
        self.binding = bind(joined(moves), self.log, self.registry)
        self.workers = [
            Worker(self.binding, self.log, clock=self.clock, member=f"worker-{n}", lease_s=1e6) for n in range(members)
        ]
        self.log.on_the_way = frozenset({"profiles"})
        for worker in self.workers:
            worker.open()

    def write(self, topic: str, rows: list[tuple[str, int, int]]) -> None:
        contract, name = (BID, "n") if topic == "bids" else (PROFILE, "segment")
        frame = pl.DataFrame(rows, schema={"who": pl.String, name: pl.Int64, "at": pl.Int64}, orient="row")
        append_frame(self.log, self.registry, topic, contract, frame.with_columns(pl.col("at") * SECOND))

    def turns(self, count: int, *, seconds: float = 1.0) -> None:
        for _ in range(count):
            for worker in self.workers:
                worker.turn()
            self.clock.seconds += seconds

    @property
    def out(self) -> list[tuple[int, int | None]]:
        rows = read_topic(self.log, self.registry, "joined.out", {"n": pl.Int64, "segment": pl.Int64})
        return sorted(rows.select("n", "segment").rows())


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("moves", [1, 3])
def test_rows_wait_for_a_table_that_has_yet_to_go_through_the_stages_above(moves: int, members: int) -> None:
    live = Live(moves, members)
    live.turns(20)
    assert live.out == []
    live.log.on_the_way = frozenset()
    live.turns(20)
    assert live.out == MATCHED
    assert replay_as_recorded(live.binding, live.log).sums["joined.out"].rows == 4


def test_what_came_into_the_sources_later_is_not_waited_for() -> None:
    live = Live()
    live.log.on_the_way = frozenset()
    live.turns(20)
    assert live.out == MATCHED
    live.log.on_the_way = frozenset({"profiles"})
    live.write("profiles", [("ann", 70, 200)])
    live.write("bids", [("ann", 4, 300)])
    live.turns(5)
    assert live.out == [*MATCHED, (4, 7)]


def test_a_table_without_rows_is_not_waited_for() -> None:
    live = Live()
    live.log.delete_records(TopicPartition("profiles", 0), live.log.end_offset(TopicPartition("profiles", 0)))
    live.log.delete_records(TopicPartition("profiles", 1), live.log.end_offset(TopicPartition("profiles", 1)))
    live.turns(20)
    assert live.out == UNMATCHED


def test_what_is_not_read_in_a_minute_is_given_up_and_named(caplog: pytest.LogCaptureFixture) -> None:
    live = Live()
    live.turns(55)
    assert live.out == []
    with caplog.at_level(logging.WARNING):
        live.turns(15)
    assert live.out == UNMATCHED
    assert "goes on without what stood above joined.v1.edge.profiles_by_who" in caplog.text


def test_a_worker_that_begins_again_still_waits() -> None:
    live = Live()
    live.turns(20)
    live.workers[0].close()
    live.workers = [Worker(live.binding, live.log, clock=live.clock, member="worker-0", lease_s=1e6)]
    live.workers[0].open()
    live.turns(20)
    assert live.out == []
    live.log.on_the_way = frozenset()
    live.turns(20)
    assert live.out == MATCHED
