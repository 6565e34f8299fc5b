"""On a broker: a stream that stood in the log waits for the table that stood there too, and marks are no records."""

from __future__ import annotations

import time
from collections.abc import Iterator

import polars as pl
import pytest

import streamproc as sp
from connectors.kafka import KafkaLog, Profile, kafka_settings
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.hashing import partitions_of
from streamproc.keys import keys_of
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame
from tests.services.kafka import KafkaCluster, kafka_cluster

_AT = '{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}'
_WHO = '{"name": "who", "type": "long", "sp:role": "key"}'
_HEAD = '"type": "record", "sp:version": 1, "sp:partitioner": "murmur2"'
BID = parse_contract(f'{{{_HEAD}, "name": "bid", "fields": [{_WHO}, {_AT}]}}')
PROFILE = parse_contract(
    f'{{{_HEAD}, "name": "profile", "fields": [{_WHO}, {{"name": "segment", "type": "long"}}, {_AT}]}}'
)
SECOND = 1_000_000
WHO = 2_000


class Slow(KafkaLog):
    """What it has fetched of one topic is on its way for so many looks."""

    slow, looks = "", 0

    def available(self, partition: TopicPartition, offset: int) -> int:
        if partition.topic == self.slow and self.looks > 0:
            self.looks -= 1
            return offset
        return super().available(partition, offset)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


@pytest.fixture
def log(cluster: KafkaCluster) -> Iterator[Slow]:
    with Slow(Profile(kafka_settings({"brokers": cluster.bootstrap}))) as log:
        yield log


def turned(worker: Worker, log: Slow, registry: MemoryRegistry, topic: str, rows: int) -> pl.DataFrame:
    """Turns a worker until so many rows are there, for 20 s at most."""
    worker.open()
    until = time.monotonic() + 20
    found = read_topic(log, registry, topic)
    while found.height < rows and time.monotonic() < until:
        time.sleep(worker.turn() or 0.0)
        found = read_topic(log, registry, topic)
    worker.close()
    return found


@pytest.mark.parametrize(("slow", "stages"), [("profiles", 0), ("bids", 0), ("profiles", 1), ("profiles", 2)])
def test_each_row_finds_the_table_that_was_written_before_it(log: Slow, slow: str, stages: int) -> None:
    """Also where the table goes through so many stages before they meet."""
    names = {topic: f"{topic}-{slow}-slow-{stages}" for topic in ("bids", "profiles")}
    registry, who = MemoryRegistry([BID, PROFILE]), pl.int_range(WHO, eager=True)
    for name in names.values():
        log.create_topic(name, TopicSettings(1))
    at = pl.Series([0], dtype=pl.Int64).new_from_index(0, WHO)
    table = pl.DataFrame({"who": who, "segment": who * 3, "at": at})
    append_frame(log, registry, names["profiles"], PROFILE, table)
    append_frame(log, registry, names["bids"], BID, pl.DataFrame({"who": who, "at": at + SECOND}))
    # The newest row of the table is an hour ahead of the stream.
    ahead = pl.DataFrame({"who": [0], "segment": [-1], "at": [3_600 * SECOND]})
    append_frame(log, registry, names["profiles"], PROFILE, ahead)
    bids = sp.source(names["bids"], contract=BID) | sp.key_by("who")
    profiles = sp.source(names["profiles"], contract=PROFILE)
    for stage in range(stages):
        profiles = profiles | sp.with_columns(half=pl.col("who") // (stage + 2)) | sp.key_by("half", name=f"to_{stage}")
        profiles = profiles | sp.select("who", "segment", "at", name=f"back_{stage}")
    profiles = profiles | sp.key_by("who")
    topology = sp.Topology(f"joined-{slow}-{stages}", sinks={"out": bids | sp.as_of(profiles)}, commit="20ms")
    log.slow, log.looks = names[slow], 12
    worker = Worker(bind(topology, log, registry), log)
    found = turned(worker, log, registry, f"joined-{slow}-{stages}.out", WHO)
    assert log.looks == 0
    assert found["segment"].to_list() == (found["who"] * 3).to_list() and found.height == WHO


def test_a_partition_whose_last_offset_is_a_mark_becomes_idle(log: Slow) -> None:
    registry = MemoryRegistry([BID])
    log.create_topic("ticks", TopicSettings(2))
    ticks = pl.DataFrame({"who": [0] * 4, "at": [s * SECOND for s in range(4)]})
    append_frame(log, registry, "ticks", BID, ticks)
    # The other partition, whichever it is, holds one old row, and the mark of its transaction.
    other = next(who for who in range(1, 50) if _partition(who) != _partition(0))
    append_frame(log, registry, "ticks", BID, pl.DataFrame({"who": [other], "at": [0]}))
    source = sp.source("ticks", contract=BID, idle_after="200ms")
    # Both partitions belong to one task of the second stage: it hears from both before it closes a window.
    topology = sp.Topology(
        "idle",
        sinks={
            "out": source | sp.with_columns(all=pl.lit("x")) | sp.key_by("all") | sp.tumbling("1s", n=sp.count())
        },
        commit="20ms",
    )
    worker = Worker(bind(topology, log, registry), log)
    assert turned(worker, log, registry, "idle.out", 3).height == 3


def _partition(who: int) -> int:
    keys = keys_of(pl.DataFrame({"who": [who]}), ["who"])
    return int(partitions_of(keys.buffer, keys.starts, keys.ends, 2)[0])
