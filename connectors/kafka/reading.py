"""Reading partitions through confluent-kafka's own classes: one Python object a record.

The path for installations whose librdkafka cannot be called directly; see `connectors.kafka.reading_blocks`. One
consumer has all partitions that are read, each assigned by hand at the offset that was asked for; what came and was not
asked for yet waits in a queue of its own partition. A partition whose queue is long stands still until it was read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, cast

import numpy as np
from confluent_kafka import Consumer, KafkaError
from confluent_kafka import TopicPartition as KafkaPlace

from connectors.kafka.admin import Admin, out_of_range
from connectors.kafka.answers import Connection, refusal
from connectors.kafka.profile import Profile
from streamproc.ports import Block, Int64s, TopicPartition, block_of

READ_S: Final = 60.0
"""After so long without an answer a read says that the log is away."""
UNUSED_S: Final = 10.0
"""A partition that nobody asked for is not fetched any longer."""
POISON: Final = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError.INVALID_MSG)
"""A batch of records that no client can hand out: it does not inflate, or its checksum is wrong."""
_TAKEN: Final = 20_000


class Reader(Protocol):
    """The reading half of a log over Kafka, whichever way records come."""

    def available(self, partition: TopicPartition, offset: int) -> int:
        """One past the last record that came, or the offset itself."""
        ...

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_s: float) -> bool:
        """Waits until one of the partitions has a record."""
        ...

    def read(self, partition: TopicPartition, offset: int, *, max_records: int, max_bytes: int) -> Block:
        """Records from an offset on; none if the partition has none up to its end."""
        ...

    def forget(self, topic: str) -> None:
        """Lets go of a topic that is gone."""
        ...

    def close(self) -> None:
        """Lets go of the connections."""
        ...


@dataclass(slots=True)
class _Waiting:
    """What came of a partition: messages from `position` on; `reached`: the log's end when the last one had come."""

    position: int
    messages: deque[Any] = field(default_factory=deque)
    size: int = 0
    reached: int = -1
    standing: bool = False
    asked: float = 0.0
    broken: tuple[int, str] | None = None


class MessageReader:
    """The reading half of a log over Kafka."""

    def __init__(self, profile: Profile, admin: Admin) -> None:
        self._admin = admin
        self._connection = Connection(profile.brokers)
        self._most = max(1 << 20, profile.waiting_bytes)
        self._consumer = Consumer({**profile.reader(), "error_cb": self._connection})
        self._waiting: dict[TopicPartition, _Waiting] = {}

    def available(self, partition: TopicPartition, offset: int) -> int:
        """One past the last record that came, or the offset itself."""
        waiting = self._at(partition, offset)
        self._pump(0.0)
        return self._newest(waiting, offset)

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_s: float) -> bool:
        """Waits until one of the partitions has a record."""
        until = time.monotonic() + timeout_s
        for place, offset in partitions.items():
            self._at(place, offset)
        while True:
            self._pump(max(0.0, min(0.05, until - time.monotonic())))
            for place, offset in partitions.items():
                if self._newest(self._at(place, offset), offset) > offset or self._waiting[place].broken is not None:
                    return True
            if time.monotonic() >= until:
                return False

    def read(self, partition: TopicPartition, offset: int, *, max_records: int, max_bytes: int) -> Block:
        """Records from an offset on; none if the partition has none up to its end."""
        waiting = self._at(partition, offset)
        until = time.monotonic() + READ_S
        end = -1
        while True:
            self._pump(0.0 if waiting.messages else 0.02 if end >= 0 else 0.0)
            if waiting.messages:
                return self._taken(partition, waiting, max_records, max_bytes)
            if waiting.broken is not None:
                return self._unreadable(partition, waiting)
            if end < 0:
                end = self._admin.end_offset(partition)
            if waiting.position >= end or waiting.reached >= end:
                return block_of(*partition, [])
            if time.monotonic() > until:
                raise self._connection.away(f"reading {partition.topic}-{partition.partition} from {offset}")

    def forget(self, topic: str) -> None:
        """Lets go of a topic that is gone."""
        for place in [place for place in self._waiting if place.topic == topic]:
            self._drop(place)

    def close(self) -> None:
        """Lets go of the connections."""
        self._consumer.close()

    # ── what waits ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _at(self, partition: TopicPartition, offset: int) -> _Waiting:
        """The partition's queue, beginning at an offset: what came before it is dropped, else reading begins anew."""
        waiting = self._waiting.get(partition)
        now = time.monotonic()
        if waiting is None or not waiting.position <= offset <= self._reach(waiting):
            self._admin.check(partition)
            start, end = self._admin.start_offset(partition), self._admin.end_offset(partition)
            if not start <= offset <= end:
                raise out_of_range(partition, offset, start, end)
            if waiting is not None:
                self._drop(partition)
            waiting = self._waiting[partition] = _Waiting(offset)
            self._consumer.incremental_assign([KafkaPlace(*partition, offset)])
        while waiting.messages and waiting.messages[0].offset() < offset:
            waiting.size -= _size(waiting.messages.popleft())
        waiting.position = max(waiting.position, offset)
        waiting.asked = now
        return waiting

    @staticmethod
    def _reach(waiting: _Waiting) -> int:
        """Up to which offset a reader may skip ahead without a new start."""
        newest = waiting.messages[-1].offset() + 1 if waiting.messages else waiting.position
        return max(newest, waiting.reached)

    @staticmethod
    def _newest(waiting: _Waiting, offset: int) -> int:
        return waiting.messages[-1].offset() + 1 if waiting.messages else offset

    def _drop(self, partition: TopicPartition) -> None:
        waiting = self._waiting.pop(partition)
        if waiting.standing:
            # A pause outlives the assignment: the partition would stand still also when it is read again.
            self._consumer.resume([KafkaPlace(*partition)])
        self._consumer.incremental_unassign([KafkaPlace(*partition)])

    def _pump(self, timeout_s: float) -> None:
        """Takes over what the client has fetched."""
        now = time.monotonic()
        for place in [place for place, waiting in self._waiting.items() if now - waiting.asked > UNUSED_S]:
            self._drop(place)
        if not self._waiting:
            time.sleep(min(timeout_s, 0.05))
            return
        messages = self._consumer.consume(_TAKEN, timeout_s)
        self._connection.check()
        for message in messages:
            waiting = self._waiting.get(TopicPartition(message.topic(), message.partition()))
            error = message.error()
            if waiting is None:
                if error is not None and error.code() not in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
                    raise refusal(error, "reading", self._connection)
            elif error is None:
                if message.offset() >= waiting.position:
                    waiting.messages.append(message)
                    waiting.size += _size(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                waiting.reached = max(waiting.reached, message.offset())
            else:
                self._trouble(message, error, waiting)
        for place, waiting in self._waiting.items():
            if waiting.size > self._most and not waiting.standing:
                self._consumer.pause([KafkaPlace(*place)])
                waiting.standing = True
            elif waiting.standing and waiting.size < self._most // 2:
                self._consumer.resume([KafkaPlace(*place)])
                waiting.standing = False

    def _trouble(self, message: Any, error: KafkaError, waiting: _Waiting) -> None:
        place = TopicPartition(message.topic(), message.partition())
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            position = self._newest(waiting, waiting.position)
            start, end = self._admin.start_offset(place), self._admin.end_offset(place)
            self._drop(place)
            if not start <= position <= end:
                raise out_of_range(place, position, start, end)
        elif error.code() in POISON:
            waiting.broken = (message.offset(), error.str())
        elif error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
            self._drop(place)
            raise refusal(error, f"reading {place.topic}-{place.partition}", self._connection)
        elif not error.retriable():
            raise refusal(error, f"reading {place.topic}-{place.partition}", self._connection)

    def _unreadable(self, partition: TopicPartition, waiting: _Waiting) -> Block:
        """One record that stands for a batch which cannot be handed out; reading goes on behind it."""
        at, why = waiting.broken or (waiting.position, "")
        at = max(at, waiting.position)
        self._drop(partition)
        return unreadable_block(partition, at, f"{why}; the batch that holds this offset was passed over")

    def _taken(self, partition: TopicPartition, waiting: _Waiting, most: int, most_bytes: int) -> Block:
        taken: list[Any] = []
        size = 0
        while waiting.messages and len(taken) < most:
            length = _size(waiting.messages[0])
            if taken and size + length > most_bytes:
                break
            size += length
            taken.append(waiting.messages.popleft())
        waiting.size -= size
        waiting.position = taken[-1].offset() + 1
        return _block(partition, taken)


def _size(message: Any) -> int:
    return len(message.value() or b"") + len(message.key() or b"") + 64


def _block(partition: TopicPartition, messages: list[Any]) -> Block:
    headers: list[dict[str, bytes]] | None = None
    if any(message.headers() for message in messages):
        headers = []
        for message in messages:
            mine: dict[str, bytes] = {}
            for name, value in message.headers() or ():
                if value is not None:
                    mine.setdefault(name, value)  # Of several headers with one name, the first counts.
            headers.append(mine)
    values, keys = [message.value() for message in messages], [message.key() for message in messages]
    stamps = np.array([message.timestamp()[1] for message in messages], np.int64) * 1_000
    offsets = np.array([message.offset() for message in messages], np.int64)
    if headers is not None:
        return replace(block_of(*partition, values, keys=keys, headers=headers), offsets=offsets, timestamps=stamps)
    value_data, value_starts, value_ends = _column(values, 0)
    key_data, key_starts, key_ends = _column(keys, len(value_data))
    buffer = np.frombuffer(value_data + key_data, np.uint8)
    return Block(*partition, offsets, stamps, buffer, value_starts, value_ends, key_starts, key_ends)


def _column(cells: list[bytes | None], base: int) -> tuple[bytes, Int64s, Int64s]:
    """The cells' bytes one after another, and their bounds from `base` on; -1 for null."""
    null = [row for row, cell in enumerate(cells) if cell is None] if None in cells else []
    filled = [cell or b"" for cell in cells] if null else cast(list[bytes], cells)
    sizes = np.fromiter(map(len, filled), np.int64, len(filled))
    ends = base + np.cumsum(sizes)
    starts = ends - sizes
    starts[null], ends[null] = -1, -1
    return b"".join(filled), starts, ends


def unreadable_block(partition: TopicPartition, offset: int, why: str) -> Block:
    """A block of one record without content, for a place in the log that cannot be handed out."""
    null = np.full(1, -1, np.int64)
    at, stamp = np.array([offset], np.int64), np.zeros(1, np.int64)
    return Block(*partition, at, stamp, np.empty(0, np.uint8), null, null, null, null, (), ((0, why),))
