"""Reading partitions through confluent-kafka's own classes: one Python object a record.

The path for installations whose librdkafka cannot be called directly; see `connectors.kafka.reading_blocks`. One
consumer has all partitions that are read, each assigned by hand at the offset that was asked for; what came and was not
asked for yet waits as blocks of its own partition. The client is asked for more only while a partition that is read has
little: for one of which too much waits, because others are read and it is not, it has to forget what it fetched.

Whatever is asked of a message is asked of a whole batch of them by one `map` over the method: that takes a third of the
time of a loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from operator import itemgetter
from typing import Any, Final, Protocol, cast

import numpy as np
from confluent_kafka import Consumer, KafkaError, Message
from confluent_kafka import TopicPartition as KafkaPlace

from connectors.kafka.admin import Admin, out_of_range
from connectors.kafka.answers import OVER_SIZE, Connection, refusal
from connectors.kafka.joining import beyond, cut, unused
from connectors.kafka.profile import Profile
from streamproc.ports import Block, Int64s, TopicPartition, block_of

logger = logging.getLogger(__name__)

READ_S: Final = 60.0
"""After so long without an answer a read says that the log is away."""
UNUSED_S: Final = 10.0
"""A partition that nobody asked for is not fetched any longer."""
POISON: Final = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError.INVALID_MSG)
"""A batch of records that no client can hand out: it does not inflate, or its checksum is wrong."""
_TAKEN: Final = 4_096
"""Messages that are taken at once: so many stay in the processor's cache until they are a block."""
_PLENTY: Final = 65_536
"""So many records of a partition wait before the client is not asked for more."""


class Reader(Protocol):
    """The reading half of a log over Kafka, whichever way records come."""

    def available(self, partition: TopicPartition, offset: int) -> int:
        """One past the last record that came, or the offset itself."""
        ...

    def reached(self, partition: TopicPartition, offset: int) -> int:
        """Up to where all has come, and no record from the offset on."""
        ...

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_s: float) -> bool:
        """Waits until one of the partitions has a record."""
        ...

    def read(self, partition: TopicPartition, offset: int, *, max_records: int, max_bytes: int) -> Block:
        """Records from an offset on; none if the partition has none up to its end."""
        ...

    def forget(self, topic: str, partition: int | None = None) -> None:
        """Lets go of what came of a topic, or of one partition."""
        ...

    def close(self) -> None:
        """Lets go of the connections."""
        ...


@dataclass(slots=True)
class _Waiting:
    """What came of a partition: blocks from `position` on; `reached`: the log's end when the last one had come."""

    position: int
    blocks: list[Block] = field(default_factory=list)
    reached: int = -1
    standing: bool = False
    asked: float = 0.0
    broken: tuple[int, str] | None = None
    kept: tuple[int, Block] | None = None

    @property
    def newest(self) -> int:
        """One past the last record here."""
        return int(self.blocks[-1].offsets[-1]) + 1 if self.blocks else self.position

    @property
    def size(self) -> int:
        """Bytes of what waits."""
        return sum(block.buffer.size for block in self.blocks)

    @property
    def has_plenty(self) -> bool:
        """Whether a step finds as much as it may take."""
        return sum(map(len, self.blocks)) >= _PLENTY


class MessageReader:
    """The reading half of a log over Kafka."""

    def __init__(self, profile: Profile, admin: Admin) -> None:
        self._profile, self._admin = profile, admin
        self._connection = Connection(profile.brokers)
        self._most = profile.waiting_bytes
        self._consumer = Consumer({**profile.reader(), "error_cb": self._connection})
        self._waiting: dict[TopicPartition, _Waiting] = {}

    def available(self, partition: TopicPartition, offset: int) -> int:
        """One past the last record that came, or the offset itself."""
        waiting = self._at(partition, offset)
        while not waiting.has_plenty and self._pump(0.0) == _TAKEN:
            pass
        if waiting.broken is not None and not waiting.blocks:
            return max(waiting.broken[0], offset) + 1
        return max(offset, waiting.newest)

    def reached(self, partition: TopicPartition, offset: int) -> int:
        """Up to where all has come, and no record from the offset on."""
        waiting = self._waiting.get(partition)
        known = waiting is not None and not waiting.blocks and waiting.broken is None and offset >= waiting.position
        return max(offset, waiting.reached) if waiting is not None and known else offset

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_s: float) -> bool:
        """Waits until one of the partitions has a record."""
        until = time.monotonic() + timeout_s
        for place, offset in partitions.items():
            self._at(place, offset)
        while True:
            for place, offset in partitions.items():
                waiting = self._at(place, offset)
                if waiting.blocks or waiting.broken is not None:
                    return True
            left = until - time.monotonic()
            if left < 0:
                return False
            self._pump(min(0.05, left))

    def read(self, partition: TopicPartition, offset: int, *, max_records: int, max_bytes: int) -> Block:
        """Records from an offset on; none if the partition has none up to its end."""
        waiting = self._at(partition, offset)
        until = time.monotonic() + READ_S
        end = -1
        while True:
            if not waiting.blocks:
                self._pump(0.02 if end >= 0 else 0.0)
            if waiting.blocks:
                block = cut(waiting.blocks, max_records, max_bytes)
                waiting.position, waiting.kept = int(block.offsets[-1]) + 1, beyond(block, offset, max_records)
                return block
            if waiting.broken is not None:
                return self._unreadable(partition, waiting)
            if end < 0:
                end = self._admin.end_offset(partition)
            if waiting.position >= end or waiting.reached >= end:
                return block_of(*partition, [])
            if time.monotonic() > until:
                raise self._connection.away(f"reading {partition.topic}-{partition.partition} from {offset}")

    def forget(self, topic: str, partition: int | None = None) -> None:
        """Lets go of what came of a topic, or of one partition."""
        for place in [place for place in self._waiting if place.topic == topic]:
            if partition in (None, place.partition):
                self._drop(place)

    def close(self) -> None:
        """Lets go of the connections."""
        self._consumer.close()

    # ── what waits ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _at(self, partition: TopicPartition, offset: int) -> _Waiting:
        """The partition's queue, beginning at an offset: what came before it is dropped, else reading begins anew."""
        waiting = self._waiting.get(partition)
        now = time.monotonic()
        if waiting is not None:
            kept, waiting.kept = waiting.kept, None
            if (back := unused(kept, offset)) is not None:
                waiting.blocks.insert(0, back)
                waiting.position = offset
        if waiting is None or not waiting.position <= offset <= max(waiting.newest, waiting.reached):
            self._admin.check(partition)
            start, end = self._admin.start_offset(partition), self._admin.end_offset(partition)
            if not start <= offset <= end:
                raise out_of_range(partition, offset, start, end)
            if waiting is not None:
                self._drop(partition)
            waiting = self._waiting[partition] = _Waiting(offset)
            self._consumer.incremental_assign([KafkaPlace(*partition, offset)])
        while waiting.blocks and offset > waiting.blocks[0].offsets[0]:
            first = waiting.blocks[0]
            rest = first.slice(int(np.searchsorted(first.offsets, offset)), len(first))
            waiting.blocks[:1] = [rest] if len(rest) else []
        waiting.position = max(waiting.position, offset)
        waiting.asked = now
        return waiting

    def _drop(self, partition: TopicPartition) -> None:
        waiting = self._waiting.pop(partition)
        if waiting.standing:
            # A pause outlives the assignment: the partition would stand still also when it is read again.
            self._consumer.resume([KafkaPlace(*partition)])
        self._consumer.incremental_unassign([KafkaPlace(*partition)])

    def _pump(self, timeout_s: float) -> int:
        """Takes over what the client has fetched; gives how many messages that were."""
        now = time.monotonic()
        for place in [place for place, waiting in self._waiting.items() if now - waiting.asked > UNUSED_S]:
            self._drop(place)
        if not self._waiting:
            time.sleep(min(timeout_s, 0.05))
            return 0
        messages = self._consumer.consume(_TAKEN, timeout_s)
        self._connection.check()
        if said := self._connection.too_large():
            self._pass_over(said)
        if not messages:
            return 0
        errors = list(map(Message.error, messages))
        wrong = any(errors)  # To compare an error with None would leave an exception behind.
        for place, mine in by_partition(_believed(messages, errors) if wrong else messages):
            waiting = self._waiting.get(place)
            if waiting is not None and waiting.broken is None:
                block = _block(place, mine)
                first = int(np.searchsorted(block.offsets, waiting.newest))
                if first < len(block):
                    waiting.blocks.append(block.slice(first, len(block)) if first else block)
        if wrong:
            for message, error in zip(messages, errors, strict=True):
                if error is not None:
                    self._trouble(message, error)
        self._hold_back()
        return len(messages)

    def _hold_back(self) -> None:
        """Stops and starts the partitions of which too much waits."""
        for place, waiting in self._waiting.items():
            size = waiting.size
            if size > self._most and not waiting.standing:
                self._consumer.pause([KafkaPlace(*place)])
                waiting.standing = True
            elif waiting.standing and size < self._most // 2:
                self._consumer.resume([KafkaPlace(*place)])
                waiting.standing = False

    def _trouble(self, message: Any, error: KafkaError) -> None:
        place = TopicPartition(message.topic(), message.partition())
        waiting = self._waiting.get(place)
        if waiting is None:
            if error.code() not in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
                raise refusal(error, "reading", self._connection)
        elif error.code() == KafkaError._PARTITION_EOF:
            waiting.reached = max(waiting.reached, message.offset())
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            position = waiting.newest
            start, end = self._admin.start_offset(place), self._admin.end_offset(place)
            self._drop(place)
            if not start <= position <= end:
                raise out_of_range(place, position, start, end)
        elif error.code() in POISON:
            waiting.broken = waiting.broken or (message.offset(), error.str())
        elif error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
            self._drop(place)
            raise refusal(error, f"reading {place.topic}-{place.partition}", self._connection)
        elif not error.retriable():
            raise refusal(error, f"reading {place.topic}-{place.partition}", self._connection)

    def _pass_over(self, said: str) -> None:
        """Looks for the batch that is larger than the client takes, which does not say where it lies."""
        for place, waiting in self._waiting.items():
            at = waiting.position
            if not waiting.blocks and waiting.broken is None and self._is_too_large(place, at):
                end = self._admin.end_offset(place)
                waiting.broken = (behind_broken(at, end, partial(self._is_too_large, place)) - 1, said)

    def _is_too_large(self, partition: TopicPartition, offset: int) -> bool:
        """Whether what stands at an offset is more than a client takes, as one says that reads nothing else."""
        connection = Connection(self._profile.brokers)
        alone = Consumer({**self._profile.reader(), "error_cb": connection})
        try:
            alone.assign([KafkaPlace(*partition, offset)])
            until = time.monotonic() + READ_S
            while time.monotonic() < until:
                message = alone.poll(0.02)
                if connection.too_large():
                    return True
                if message is not None:
                    return False
        finally:
            alone.close()
        raise self._connection.away(f"reading {partition.topic}-{partition.partition} from {offset}")

    def _unreadable(self, partition: TopicPartition, waiting: _Waiting) -> Block:
        """One record that stands for a batch which cannot be handed out; reading goes on behind it."""
        at, said = waiting.broken or (waiting.position, "")
        at = max(at, waiting.position)
        self._drop(partition)
        logger.warning("%s-%d@%d: %s", *partition, at, said)
        kind = kind_of(said, self._profile)
        return unreadable_block(partition, at, f"the batch of records that holds it cannot be handed out: it is {kind}")


def by_partition(messages: Sequence[Any]) -> Iterator[tuple[TopicPartition, Sequence[Any]]]:
    """The messages of each partition, in order."""
    if not messages:
        return
    topics = list(map(Message.topic, messages))
    numbers = np.fromiter(map(Message.partition, messages), np.int64, len(messages))
    for topic in [topics[0]] if topics.count(topics[0]) == len(topics) else sorted(set(topics)):
        there = np.fromiter(map(topic.__eq__, topics), np.bool_, len(topics))
        for number in np.unique(numbers[there]).tolist():
            mine = there & (numbers == number)
            yield TopicPartition(topic, number), messages if mine.all() else list(compress(messages, mine.tolist()))


def _believed(messages: Sequence[Any], errors: Sequence[KafkaError | None]) -> list[Any]:
    """The messages without errors, and without those of a partition that come behind a broken batch of it.

    A client goes on at any place that looks like a batch, and nothing would tell what it passed over.
    """
    broken, good = set(), []
    for message, error in zip(messages, errors, strict=True):
        if error is not None:
            if error.code() in POISON:
                broken.add((message.topic(), message.partition()))
        elif not broken or (message.topic(), message.partition()) not in broken:
            good.append(message)
    return good


def _block(partition: TopicPartition, messages: Sequence[Any]) -> Block:
    count = len(messages)
    values, keys = list(map(Message.value, messages)), list(map(Message.key, messages))
    stamps = np.fromiter(map(itemgetter(1), map(Message.timestamp, messages)), np.int64, count) * 1_000
    offsets = np.fromiter(map(Message.offset, messages), np.int64, count)
    lists = list(map(Message.headers, messages))
    if lists.count(None) != count and any(lists):
        headers: list[dict[str, bytes]] = []
        for given in lists:
            mine: dict[str, bytes] = {}
            for name, value in given or ():
                if value is not None:
                    mine.setdefault(name, value)  # Of several headers with one name, the first counts.
            headers.append(mine)
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


def behind_broken(broken: int, end: int, is_broken: Callable[[int], bool]) -> int:
    """The first offset behind a batch that cannot be read: nothing tells where it ends, so it is searched for.

    >>> behind_broken(5, 1_000, lambda offset: offset < 77)
    77
    """
    step, good = 1, end
    while broken + step < end:
        if not is_broken(broken + step):
            good = broken + step
            break
        broken, step = broken + step, 2 * step
    while good - broken > 1:
        middle = (broken + good) // 2
        if is_broken(middle):
            broken = middle
        else:
            good = middle
    return good


def kind_of(said: str, profile: Profile) -> str:
    """What is wrong with a batch, in words that are the same whichever broker was asked and when."""
    most = profile.settings.sizes.record_bytes
    return f"larger than the {most:,} bytes of [kafka.sizes] record_bytes" if OVER_SIZE in said else "damaged"


def unreadable_block(partition: TopicPartition, offset: int, why: str) -> Block:
    """A block of one record without content, for a place in the log that cannot be handed out."""
    null = np.full(1, -1, np.int64)
    at, stamp = np.array([offset], np.int64), np.zeros(1, np.int64)
    return Block(*partition, at, stamp, np.empty(0, np.uint8), null, null, null, null, (), ((0, why),))
