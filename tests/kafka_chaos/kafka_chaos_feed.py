"""A paced producer and a reader of committed records: plain clients of Kafka that know nothing of the engine."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import fastavro
import kafka_chaos_topology as world
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

_SCHEMAS = {"bids": world.BID, "floors": world.FLOOR}
_KEYS = {"bids": "who", "floors": "auction"}
_END_S = 60.0
_QUIET = {"log_level": 0, "error_cb": lambda _: None}


class Feeder:
    """Writes rows at a pace, each once and in order, until all are there; `hold` is a last part that it keeps back.

    rate  bids a second; may be changed while it runs
    """

    def __init__(self, client: Mapping[str, str], *, seed: int, bids: int, rate: float, hold: float = 0.0) -> None:
        self.rate = rate
        self.values: dict[str, list[bytes]] = {topic: [] for topic in _SCHEMAS}
        self.failed: list[str] = []
        self._keys: list[tuple[str, bytes, bytes]] = []
        known = world.registry()
        heads = {topic: b"\0" + known.id_of(contract).to_bytes(4, "big") for topic, contract in _SCHEMAS.items()}
        parsed = {topic: fastavro.parse_schema(dict(contract.avro)) for topic, contract in _SCHEMAS.items()}
        for topic, row in world.rows(seed, bids):
            out = io.BytesIO()
            fastavro.schemaless_writer(out, parsed[topic], row)
            value = heads[topic] + out.getvalue()
            self._keys.append((topic, row[_KEYS[topic]].encode(), value))
            self.values[topic].append(value)
        self.total = len(self._keys)
        self.sent = 0
        self._until = int(self.total * (1 - hold))
        self._release = threading.Event()
        self._stop = threading.Event()
        self._client = Producer(
            {
                **client, **_QUIET, "enable.idempotence": True, "acks": "all", "partitioner": "murmur2_random",
                "message.timeout.ms": 900_000, "linger.ms": 20, "compression.type": "lz4",
            }
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_END_S)  # Of a cluster that is gone nobody knows what its clients wait for.

    @property
    def rests(self) -> bool:
        """Whether all but what it keeps back is sent."""
        return self.sent >= self._until

    def release(self) -> None:
        """Lets the last part go."""
        self._release.set()

    def wait(self, within_s: float) -> None:
        """Waits until every record has been acknowledged; raises what failed."""
        self._thread.join(within_s)
        assert not self._thread.is_alive(), f"{self.sent} of {self.total} rows were sent within {within_s} s"
        assert not self.failed, self.failed[:3]

    def _run(self) -> None:
        credit, before = 0.0, time.monotonic()
        while self.sent < self.total and not self._stop.wait(0.02):
            now = time.monotonic()
            credit, before = credit + (now - before) * self.rate * (1 + 1 / world.FLOOR_EVERY), now
            until = min(self.total, self.sent + int(credit))
            if not self._release.is_set():
                until = max(self.sent, min(until, self._until))
            credit = 0.0 if until == self.sent and credit >= 1 else credit - (until - self.sent)
            for topic, key, value in self._keys[self.sent : until]:
                while not self._stop.is_set():
                    try:
                        self._client.produce(topic, value, key, on_delivery=self._report)
                        break
                    except BufferError:
                        self._client.poll(0.1)
            self.sent = until
            self._client.poll(0)
        while len(self._client) and not self._stop.is_set():
            self._client.flush(1)

    def _report(self, error: KafkaError | None, _: Any) -> None:
        if error is not None:
            self.failed.append(error.str())


def _consumer(client: Mapping[str, str]) -> Consumer:
    return Consumer(
        {
            **client, **_QUIET, "group.id": "kafka-chaos-reader", "enable.auto.commit": False,
            "isolation.level": "read_committed", "auto.offset.reset": "error", "fetch.wait.max.ms": 100,
            "enable.partition.eof": False,
        }
    )  # fmt: skip


class Reader:
    """Reads topics as they grow, committed records only, as an application of somebody else would."""

    def __init__(self, client: Mapping[str, str], topics: Iterable[str]) -> None:
        self.values: dict[str, list[bytes]] = {topic: [] for topic in topics}
        self.wrong: list[str] = []
        self.next: dict[tuple[str, int], int] = {}
        self._client = dict(client)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_END_S)  # Of a cluster that is gone nobody knows what its clients wait for.

    @property
    def count(self) -> int:
        """How many records it has."""
        return sum(len(values) for values in self.values.values())

    def read_to(self, ends: Mapping[tuple[str, int], int], within_s: float) -> None:
        """Waits until it stands at these offsets."""
        until = time.monotonic() + within_s
        while left := {place: end for place, end in ends.items() if self.next.get(place, 0) < end}:
            assert time.monotonic() < until, f"a concurrent reader does not come to {left}"
            time.sleep(0.1)

    def _run(self) -> None:
        consumer = _consumer(self._client)
        try:
            consumer.assign([TopicPartition(t, p, 0) for t in self.values for p in _partitions(consumer, t)])
            while not self._stop.is_set():
                for message in consumer.consume(5_000, 0.2):
                    self._take(message)
                for place in consumer.position(consumer.assignment()):
                    if place.offset >= 0:
                        self.next[place.topic, place.partition] = place.offset
        finally:
            consumer.close()

    def _take(self, message: Any) -> None:
        error = message.error()
        if error is not None:
            if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                self.wrong.append(f"{message.topic()}-{message.partition()}: {error.str()}")
            return
        place = (message.topic(), message.partition())
        if message.offset() < self.next.get(place, 0):
            self.wrong.append(f"{place} gave offset {message.offset()} after {self.next[place] - 1}")
        self.next[place] = message.offset() + 1
        self.values[message.topic()].append(message.value())


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    while True:
        found = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        if found:
            return list(found)
        time.sleep(0.2)


def stable_ends(client: Mapping[str, str], topics: Iterable[str]) -> dict[tuple[str, int], int]:
    """The last stable offset of each partition."""
    consumer = _consumer(client)
    try:
        return {
            (topic, partition): consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
            for topic in topics
            for partition in _partitions(consumer, topic)
        }
    finally:
        consumer.close()


def read_all(client: Mapping[str, str], topics: Iterable[str], *, within_s: float = 300.0) -> dict[str, list[bytes]]:
    """Everything that topics hold now, committed records only."""
    names = list(topics)
    with Reader(client, names) as reader:
        reader.read_to(stable_ends(client, names), within_s)
        assert not reader.wrong, reader.wrong
        return reader.values
