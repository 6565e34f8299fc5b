"""A source that got more partitions: the version that ran stops with the choices, and `rescale` takes the first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import repeat

import numpy as np
import polars as pl
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

import streamproc as sp
from connectors.checkpoint_topic import TopicCheckpoints
from connectors.kafka import KafkaLog, KafkaSettings, open_kafka_log
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import ForeignFingerprint, LogError
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import replay_by_event_time, source_ends
from streamproc.runtime.rescale import rescale
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame
from tests.deploy.deployed import within
from tests.services.kafka import KafkaCluster, kafka_cluster

SALE = parse_contract(
    """{"type": "record", "name": "sale", "sp:version": 1, "fields": [{"name": "n", "type": "long"},
    {"name": "who", "type": "string", "sp:role": "key"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}"""
)
REGISTRY = MemoryRegistry([SALE])
SINKS = ("rows", "spend")


def shop(version: int) -> sp.Topology:
    """Windows per key below `ordered`: a key's rows come from several partitions once there are more of them."""
    rows = sp.source("sales", contract=SALE, lateness="5s") | sp.dedupe("n", within="10m")
    keyed = rows | sp.key_by("who") | sp.ordered(by=("n",))
    spend = keyed | sp.tumbling("10s", n=sp.count(), last=sp.max("n"))
    return sp.Topology("shop", version=version, sinks={"rows": keyed, "spend": spend}, commit="5ms")


def append(log: KafkaLog, first: int, count: int) -> None:
    numbers = np.arange(first, first + count)
    frame = pl.DataFrame({"n": numbers, "who": [f"c{n * 7 % 11}" for n in numbers.tolist()], "at": numbers * 1_000_000})
    # Every ninth comes twice: what was seen before the change must be known after it.
    append_frame(log, REGISTRY, "sales", SALE, pl.concat([frame, frame.filter(pl.col("n") % 9 == 0)]).sort("n"))


def run(log: KafkaLog, version: int, store: TopicCheckpoints, *, close: bool = False) -> None:
    binding = bind(shop(version), log, REGISTRY)
    ends = source_ends(binding, log)
    Worker(binding, log, until_end=ends, close=close, checkpoints=store, steps=repeat(60)).run()


def rows(log: KafkaLog | MemoryLog, sink: str) -> pl.DataFrame:
    frame = read_topic(log, REGISTRY, f"shop.{sink}").drop("_partition", "_offset")
    return frame.sort(frame.columns)


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


def test_after_more_partitions_no_row_is_lost_or_doubled_and_state_is_there(cluster: KafkaCluster) -> None:
    settings = KafkaSettings((cluster.bootstrap,))
    with open_kafka_log(settings) as log:
        log.create_topic("sales", TopicSettings(2))
        append(log, 0, 120)
        run(log, 1, TopicCheckpoints(log, "shop.checkpoints", "before"))
    admin = AdminClient({**cluster.client(), "log_level": 0})
    for answer in admin.create_partitions([NewPartitions("sales", 3)]).values():
        answer.result()
    with open_kafka_log(settings) as log:
        until = time.monotonic() + 20
        while log.topics()["sales"].partitions < 3 and time.monotonic() < until:
            time.sleep(0.05)
        append(log, 120, 120)
        store = TopicCheckpoints(log, "shop.checkpoints", "after")
        with pytest.raises(ForeignFingerprint, match=r"began with 6 tasks, and now there are 9.*streamproc rescale"):
            run(log, 1, store)
        done = rescale(shop(2), log, REGISTRY, store, old=1)
        assert (done.old, done.state) == (1, "replayed")
        assert done.at[TopicPartition("sales", 2)] == 0, "what is in the new partition, only the new version has read"
        assert rescale(shop(2), log, REGISTRY, store, old=1) == done
        run(log, 2, store, close=True)
        assert verify(bind(shop(2), log, REGISTRY), log).findings == []
        _, scratch, _ = replay_by_event_time(shop(3), log, REGISTRY, MemoryLog(now=1 << 60))
        # A commit is decided before its rows can be read.
        within(60, "all rows can be read", lambda: rows(log, "rows").height == 240)
        for sink in SINKS:
            assert rows(log, sink).equals(rows(scratch, sink)), sink  # type: ignore[arg-type]


def test_workers_of_the_old_version_have_to_be_gone(cluster: KafkaCluster) -> None:
    with open_kafka_log(KafkaSettings((cluster.bootstrap,))) as log:
        log.create_topic("sales", TopicSettings(1))
        append(log, 0, 20)
        store = TopicCheckpoints(log, "shop.checkpoints", "one")
        worker = Worker(bind(shop(1), log, REGISTRY), log, checkpoints=store, member="alive")
        worker.open()
        until = time.monotonic() + 20
        while not worker.progress.steps and time.monotonic() < until:
            worker.turn()
        with pytest.raises(LogError, match="workers of version 1 of 'shop' are running"):
            rescale(shop(2), log, REGISTRY, store, old=1, clock=_Hasty())
        worker.close()


class _Hasty:
    """A clock that makes nobody wait long."""

    def monotonic(self) -> float:
        return time.monotonic() * 10

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / 10)
