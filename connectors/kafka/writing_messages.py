"""Sends records through confluent-kafka's own class: one Python call a record.

For installations whose librdkafka cannot be called directly; `connectors.kafka.writing_blocks` does the same without an
object per record.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import length_hint
from typing import Any, Final, Self

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPlace

from connectors.kafka.admin import Admin
from connectors.kafka.answers import Connection
from connectors.kafka.losses import STATISTICS_MS, Losses
from connectors.kafka.profile import Profile
from streamproc.ports import Block, Int64s, TopicPartition

_SILENT: Final = logging.Logger("librdkafka")
_SILENT.addHandler(logging.NullHandler())
"""What ends a client for good it would print besides; an error says it."""


class MessageSender:
    """confluent-kafka's transactional producer, given blocks."""

    aborts_by_polling = False
    ends_fence = keeps_time = False

    def __init__(self, settings: Mapping[str, Any], connection: Connection) -> None:
        self._losses = Losses()
        callbacks = {"error_cb": connection, "stats_cb": self._losses, "logger": _SILENT}
        self._client = Producer({**settings, **callbacks, "statistics.interval.ms": STATISTICS_MS})
        self._committed_at = 0.0
        self.ranges: dict[TopicPartition, tuple[int, int]] = {}
        self.failed: KafkaError | None = None

    @classmethod
    def opened(cls, profile: Profile, _admin: Admin, transactional_id: str, connection: Connection) -> Self:
        """The client of a transactional id."""
        return cls(profile.writer(transactional_id), connection)

    def __len__(self) -> int:
        return len(self._client)

    @property
    def sent_again(self) -> bool:
        """Whether a copy of a request of the last transaction may still be on its way; waits for statistics."""
        return self._losses.since(self._client, self._committed_at)

    def init_transactions(self, timeout_s: float) -> None:
        """Fences older producers of the id."""
        self._client.init_transactions(timeout_s)

    def begin_transaction(self) -> None:
        """Begins; the brokers hear of it with the first record."""
        self.ranges, self.failed = {}, None
        self._client.begin_transaction()

    def send_offsets_to_transaction(self, places: list[KafkaPlace], metadata: bytes, timeout_s: float) -> None:
        """Adds a group's offsets; the metadata is as a consumer gives it."""
        self._client.send_offsets_to_transaction(places, metadata, timeout_s)

    def commit_transaction(self, timeout_s: float) -> None:
        """Commits."""
        self._client.commit_transaction(timeout_s)
        self._committed_at = time.monotonic()

    def abort_transaction(self, timeout_s: float) -> None:
        """Aborts; what was not sent yet is thrown away."""
        self._client.abort_transaction(timeout_s)

    def poll(self, timeout_s: float) -> None:
        """Takes up delivery reports."""
        self._client.poll(timeout_s)

    def close(self, timeout_s: float = 0.0) -> None:
        """Lets go; what was not sent is forgotten."""
        self._client.close(timeout_s)

    def send(self, block: Block) -> None:
        """Hands a block's records to the client; waits while its queue is full."""
        data = block.buffer.tobytes()
        values = _cells(data, block.value_starts, block.value_ends)
        keys = _cells(data, block.key_starts, block.key_ends)
        last = len(block) - 1
        if block.headers or block.timestamps.size:
            self._send_each(block, data, values, keys)
        else:
            # A partition's records arrive in order: the first and the last say where all of them lie. Each report costs
            # as much as its record, and the commit refuses a transaction of which any record failed.
            topic, partition = block.topic, block.partition
            self._produce(topic, values[0], keys[0], partition, self._report)
            self._produce_all(topic, values[1:last], keys[1:last], partition)
            if last:
                self._produce(topic, values[last], keys[last], partition, self._report)
        self.poll(0.0)

    def _produce_all(
        self, topic: str, values: Sequence[bytes | None], keys: Sequence[bytes | None], partition: int
    ) -> None:
        """Hands over records without reports: one `map` over the method takes two thirds of the time of a loop."""
        left = iter(values)
        calls = map(self._client.produce, repeat(topic), left, iter(keys), repeat(partition))
        while True:
            try:
                deque(calls, maxlen=0)
                return
            except (BufferError, KafkaException):
                # What was asked for last was not taken; `calls` goes on behind it.
                row = len(values) - length_hint(left) - 1
                self._produce(topic, values[row], keys[row], partition)

    def _send_each(
        self, block: Block, data: bytes, values: Sequence[bytes | None], keys: Sequence[bytes | None]
    ) -> None:
        """Records with a timestamp or headers of their own."""
        headers = [(header.name, _cells(data, header.starts, header.ends)) for header in block.headers]
        stamped, last = block.timestamps.size > 0, len(block) - 1
        for row, (value, key) in enumerate(zip(values, keys, strict=True)):
            extra: dict[str, Any] = {}
            if headers:
                extra["headers"] = [(name, column[row]) for name, column in headers if column[row] is not None]
            if stamped:
                extra["timestamp"] = int(block.timestamps[row]) // 1_000
            report = self._report if row in (0, last) else None
            self._produce(block.topic, value, key, block.partition, report, **extra)

    def _produce(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int, report: Any = None, **extra: Any
    ) -> None:
        """Hands over one record, however long its queue is full."""
        if report is not None:
            extra["on_delivery"] = report
        while True:
            try:
                self._client.produce(topic, value, key, partition, **extra)
                return
            except BufferError:
                self._client.poll(0.05)

    def _report(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            if error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
                self.failed = self.failed or error
            return
        place, offset = TopicPartition(message.topic(), message.partition()), message.offset()
        first, last = self.ranges.get(place, (offset, offset + 1))
        self.ranges[place] = (min(first, offset), max(last, offset + 1))


def _cells(data: bytes, starts: Int64s, ends: Int64s) -> list[bytes | None]:
    """The bytes of each range; None for null."""
    bounds = zip(starts.tolist(), ends.tolist(), strict=True)
    if starts.size and int(starts.min()) >= 0:
        return [data[start:end] for start, end in bounds]
    return [None if start < 0 else data[start:end] for start, end in bounds]
