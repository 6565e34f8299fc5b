"""A producer ten times faster than the worker: its memory stays where it was told to, and its lag is told right."""

from __future__ import annotations

import struct
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, NewTopic

from streamproc.cli.app import run
from streamproc.runtime.workspace import workspace_of
from tests.deploy.deployed import Deployed, deployed, within
from tests.services.kafka import KafkaCluster, kafka_cluster

LIMIT = 480 << 20
BINDING = f"""memory = "{LIMIT}"
[kafka]
brokers = ["{{brokers}}"]
[kafka.sizes]
partition_bytes = {1 << 30}
fetch_bytes = {64 << 20}
outstanding_bytes = {1 << 30}
"""
"""The sizes of the single parts would let it grow without a bound."""
BEHIND = 250_000
"""Rows of lag, of a kilobyte each, that are waited for."""
RATE = 4_000
"""Rows a second of the slow worker, at most."""
TOPIC, PARTITIONS, GROUP = "payments", 2, "card_risk.v1.s0"
CONTRACT = """{"type": "record", "name": "payment", "sp:version": 1, "sp:owner": "payments", "fields": [
    {"name": "paid_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"},
    {"name": "card_id", "type": "string", "sp:role": "key"}, {"name": "note", "type": "string"}]}"""
TOPOLOGY = f"""
import os, time
import polars as pl
import streamproc as sp

def weigh(frame):
    # A function that takes its time for every row, as a user's may.
    if os.path.exists("slow"):
        time.sleep(frame.height / {RATE})
    return frame

payments = sp.source("{TOPIC}", contract="payment") | sp.stateless(weigh)
card_risk = sp.Topology("card_risk", version=1, owner="payments-risk", sinks={{"weighed": payments}})
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


class Flood:
    """A plain client that writes rows of a kilobyte, stamped with the moment at which they were made, at a rate.

    moments  per partition, (offset, event time in seconds) of the first row of each part
    """

    def __init__(self, client: Mapping[str, str], head: bytes) -> None:
        self.rate = 0.0
        self.rows = 0
        self.moments: list[list[tuple[int, float]]] = [[] for _ in range(PARTITIONS)]
        note = ("payment of the month " * 60)[:1_000].encode()
        self._head, self._tail = head, _avro(b"c-1") + _avro(note)
        self._sent = [0] * PARTITIONS
        self._stop = threading.Event()
        self._client = Producer({**client, "log_level": 0, "linger.ms": 50, "compression.type": "lz4",
                                 "enable.idempotence": True})  # fmt: skip
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Writes no more; what was written is on the log."""
        self._stop.set()
        self._thread.join()
        self._client.flush(60)

    def _run(self) -> None:
        credit, before = 0.0, time.monotonic()
        while not self._stop.wait(0.02):
            now = time.monotonic()
            # One that was held up does not write all of it at once.
            credit, before = min(credit + (now - before) * self.rate, 20_000), now
            for partition in range(PARTITIONS):
                moment = time.time_ns() // 1_000
                self.moments[partition].append((self._sent[partition], moment / 1e6))
                value = self._head + _avro_long(moment) + self._tail
                for _ in range(int(credit) // PARTITIONS):
                    while True:
                        try:
                            self._client.produce(TOPIC, value, b"c-1", partition)
                            break
                        except BufferError:
                            self._client.poll(0.1)
                    self._sent[partition] += 1
                    self.rows += 1
            credit -= int(credit) // PARTITIONS * PARTITIONS
            self._client.poll(0)

    def moment_of(self, partition: int, offset: int) -> float:
        """The event time of a row."""
        at = bisect_right(self.moments[partition], offset, key=lambda part: part[0])
        return self.moments[partition][at - 1][1]


def _avro_long(number: int) -> bytes:
    rest, out = number << 1 ^ number >> 63, bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def _avro(text: bytes) -> bytes:
    return _avro_long(len(text)) + text


@dataclass(frozen=True)
class Seen:
    """What a client of its own saw of log and group, from when to when: ends and committed offsets by partition."""

    at: float
    ends: list[int]
    committed: list[int]
    done: float

    @property
    def behind(self) -> int:
        """Rows that are there and not committed."""
        return sum(self.ends) - sum(self.committed)


class Watch:
    """Sees log and group as any client does."""

    def __init__(self, client: Mapping[str, str]) -> None:
        self._asker = Consumer({**client, "group.id": GROUP, "enable.auto.commit": False, "log_level": 0})
        self._places = [Place(TOPIC, partition) for partition in range(PARTITIONS)]

    def look(self) -> Seen:
        """What is there now."""
        at = time.time()
        committed = [max(0, place.offset) for place in self._asker.committed(self._places, timeout=30)]
        ends = [self._asker.get_watermark_offsets(place, timeout=30)[1] for place in self._places]
        return Seen(at, ends, committed, time.time())

    def close(self) -> None:
        """Lets go."""
        self._asker.close()


def told(there: Deployed) -> tuple[float, float]:
    """Rows and seconds behind, as the worker says."""
    samples = there.metrics()
    rows, seconds = (
        sum(value for (name, _), value in samples.items() if name == f"streamproc_{wanted}")
        for wanted in ("lag_rows", "event_time_lag_seconds")
    )
    return rows, seconds


def check_lag(looks: list[Seen], says: list[tuple[float, float]], flood: Flood) -> None:
    """What the worker newly said between two questions lies between what was seen before the first and after the
    second: ends and committed offsets only grow."""
    news = [0, 0]
    for k in range(len(says) - 1):
        before, after = looks[k], looks[k + 2]
        for number, (then, now) in enumerate(zip(says[k], says[k + 1], strict=True)):
            if then == now or not min(before.committed):
                continue
            news[number] += 1
            if number == 0:
                least, most = sum(before.ends) - sum(after.committed), sum(after.ends) - sum(before.committed)
            else:
                newest, oldest = (
                    min(flood.moment_of(p, offset - 1) for p, offset in enumerate(seen.committed))
                    for seen in (after, before)
                )
                least, most = before.at - newest, after.done - oldest
            assert least <= now <= most, (number, k, least, now, most)
    assert min(news) >= 3, news


@pytest.mark.parametrize("seconds", [0, pytest.param(300, marks=pytest.mark.long)])
def test_a_worker_that_cannot_follow_keeps_to_its_memory_and_says_how_far_it_is_behind(
    cluster: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, text in (("schemas_avro/payment.v1.avsc", CONTRACT), ("card_risk.py", TOPOLOGY), ("slow", ""),
                       ("kafka.toml", BINDING.format(brokers=cluster.bootstrap))):  # fmt: skip
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    admin = AdminClient({**cluster.client(), "log_level": 0})
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)
    assert run(["contracts", "register", "payment.v1"]) == 0
    registry = workspace_of(Path("kafka.toml")).registry()
    head = b"\0" + struct.pack(">i", registry.id_of(registry.contract("payment.v1")))

    most = 0
    with (
        Flood(cluster.client(), head) as flood,
        deployed("--bind", "kafka.toml", "--http", "0") as there,
    ):
        there.is_ready()
        # How fast the worker is when rows always wait: what it takes in while its steps find their size.
        flood.rate = 2 * RATE
        rows_read = lambda: there.total("streamproc_rows_read_total")  # noqa: E731
        within(240, "rows", lambda: rows_read() > RATE)
        before, began = rows_read(), time.monotonic()
        within(240, "more rows", lambda: rows_read() > before + 2 * RATE)
        flood.rate = 10 * (rows_read() - before) / (time.monotonic() - began)
        watch, worker = Watch(cluster.client()), psutil.Process(there.process.pid)
        looks, says, until = [watch.look()], [told(there)], time.monotonic() + seconds
        while time.monotonic() < until or looks[-1].behind < BEHIND or len(set(says)) < 5:
            assert time.monotonic() < until + 120, (looks[-1], says[-1], flood.rows, flood.rate, there.said)
            looks.append(watch.look())
            says.append(told(there))
            most = max(most, worker.memory_info().rss)
            time.sleep(0.1)
        looks.append(watch.look())
        flood.stop()
        check_lag(looks, says, flood)
        assert most <= 1.2 * LIMIT, f"{most >> 20} MiB"
        Path("slow").unlink()
        within(120 + seconds, "no lag", lambda: told(there)[0] == 0)
        most = max(most, worker.memory_info().rss)
        last = watch.look()
        assert last.committed == last.ends
        watch.close()
        assert there.stop() == 0, there.said
    assert most <= 1.2 * LIMIT, f"{most >> 20} MiB"
    assert flood.rows == sum(last.ends)
    print(f"{flood.rows:,} rows at {flood.rate:,.0f} a second, at most {most >> 20} MiB of {LIMIT >> 20}")
