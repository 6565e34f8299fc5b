"""The records of a transaction on their way to the leaders of their partitions, in order, each once.

Every batch has a sequence number among those of its partition and epoch: a broker takes them without a gap, and knows
one again that comes a second time. So a batch without a good answer is sent again, as it was; behind it nothing of the
partition goes out until all that is under way has come back, and then everything is sent again in order. What a broker
refuses for its size is cut in two. Records that stay without a good answer for some seconds fail the transaction, which
is then aborted: no commit was asked for, so that nothing of it can be seen is certain.
Source: Kafka's protocol guide; KIP-98, KIP-890.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from connectors.kafka.binding import LARGEST_RECORD
from connectors.kafka.coordinators import PRODUCE, VERSION
from connectors.kafka.fields import NO_TAGS, Fields, text, uvarint
from connectors.kafka.lines import Address, Line, Lines
from connectors.kafka.written_batches import Rows, Writer, rows_of, written
from streamproc.ports import Block, TopicPartition

_RECORDS: Final = "records"
_ANSWER_MS: Final = 4_000
"""So long a leader waits for its followers before it says that they are late; less than a line may be silent."""
_PATIENCE_S: Final = 12.0
"""Records of a partition that nobody takes for so long fail their transaction."""
_AGAIN_S: Final = (0.01, 0.5)
_SOON_S: Final = 0.002
_BATCH_BYTES: Final = 1_000_000
"""Before it is packed: less than brokers take of a topic where nobody says otherwise."""
_LEAST_BATCH: Final = 16 << 10
_REQUEST_BYTES: Final = 4 << 20
_ENOUGH: Final = 1 << 19
"""Bytes that wait for a broker: fewer are kept until they are asked for, for a request costs more than its bytes."""
_RECORD_BYTES: Final = 12
"""What a small record takes besides its bytes, about."""
_ACKS = struct.Struct(">hi")
_INDEX, _SHORT = struct.Struct(">i"), struct.Struct(">h")
_ABOUT = struct.Struct(">ihqqq")
_THROTTLED = struct.Struct(">i")

_TOO_LARGE: Final = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_OUT_OF_ORDER: Final = KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER
_TAKEN: Final = {KafkaError.NO_ERROR, KafkaError.DUPLICATE_SEQUENCE_NUMBER}
_AGAIN: Final = {
    KafkaError.NETWORK_EXCEPTION, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.REQUEST_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, KafkaError.KAFKA_STORAGE_ERROR, KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.CONCURRENT_TRANSACTIONS, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR, KafkaError.INVALID_MSG,
    KafkaError.THROTTLING_QUOTA_EXCEEDED, KafkaError.REPLICA_NOT_AVAILABLE, KafkaError.BROKER_NOT_AVAILABLE,
}  # fmt: skip
"""INVALID_MSG says that the checksum is another: something happened to the bytes on their way."""
_STAYS: Final = {
    KafkaError.CONCURRENT_TRANSACTIONS, KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.INVALID_MSG,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, _OUT_OF_ORDER,
    KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR, KafkaError.THROTTLING_QUOTA_EXCEEDED,
    *_TOO_LARGE,
}  # fmt: skip
"""What says nothing against the leader."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Rows begin..end, sent or to be sent again, as the broker is to know them again."""

    rows: Rows
    begin: int
    end: int
    sequence: int
    stamp: int
    most_bytes: int
    is_asked: bool = False


@dataclass(slots=True)
class _Place:
    """What a partition still has to be given.

    most_bytes  of a batch
    batches  without a good answer yet, in order; unsent: rows behind them, from a row on
    asked    batches on their way
    since    when trouble with it began, None while there is none; again_at: before then nothing is sent
    """

    place: TopicPartition
    most_bytes: int
    batches: deque[_Batch] = field(default_factory=deque)
    unsent: deque[tuple[Rows, int]] = field(default_factory=deque)
    waiting_bytes: int = 0
    sequence: int = 0
    asked: int = 0
    leader: Address | None = None
    since: float | None = None
    again_at: float = 0.0
    rest: float = _AGAIN_S[0]
    error: int = 0

    def next(self) -> _Batch | None:
        """A batch that is to be sent again, if there is one."""
        return next((batch for batch in self.batches if not batch.is_asked), None)


class Deliveries:
    """Sends a transaction's records and takes up what brokers say of them.

    ranges  the offsets of what arrived in each partition, half-open
    failed  why a record of it did not arrive, or may not have
    """

    def __init__(
        self, lines: Lines, transactional_id: str, *, leader: Callable[[TopicPartition], Address | None],
        forget_leaders: Callable[[], None], most_bytes: int,
    ) -> None:  # fmt: skip
        self._lines, self._leader, self._forget_leaders = lines, leader, forget_leaders
        self._batch_bytes = max(_LEAST_BATCH, min(_BATCH_BYTES, most_bytes // 8))
        self._request_bytes = max(self._batch_bytes, min(_REQUEST_BYTES, most_bytes // 4))
        self._head = text(transactional_id) + _ACKS.pack(-1, _ANSWER_MS)
        self._writer = Writer(-1, -1)
        self._places: dict[TopicPartition, _Place] = {}
        self._transaction = 0
        self._turn = 0
        self._fresh_bytes = 0
        self.outstanding = 0
        self.is_touched = False
        self.ranges: dict[TopicPartition, tuple[int, int]] = {}
        self.failed: KafkaError | None = None

    def begin(self, writer: Writer) -> None:
        """A transaction begins: what is late of the one before is none of its."""
        self._writer = writer
        self._transaction += 1
        leaders = {place: one.leader for place, one in self._places.items()}
        self._places = {place: _Place(place, self._batch_bytes, leader=leader) for place, leader in leaders.items()}
        self._fresh_bytes = 0
        self.outstanding, self.is_touched, self.ranges, self.failed = 0, False, {}, None

    def add(self, block: Block) -> None:
        """Takes a block's records, and sends what there is enough of."""
        rows = rows_of(block)
        if rows.largest > LARGEST_RECORD:
            raise KafkaException(_refused(KafkaError.MSG_SIZE_TOO_LARGE, f"a record of {rows.largest:,} bytes"))
        if self.failed is not None:
            return
        place = TopicPartition(block.topic, block.partition)
        one = self._places.get(place)
        if one is None:
            one = self._places[place] = _Place(place, self._batch_bytes)
        size = rows.size + _RECORD_BYTES * len(rows)
        one.unsent.append((rows, 0))
        one.waiting_bytes += size
        self.outstanding += len(rows)
        self._fresh_bytes += size
        if self._fresh_bytes >= _ENOUGH:
            self._fresh_bytes = 0
            self._lines.serve()
            self.offer(_ENOUGH)

    def offer(self, least_bytes: int = 0) -> None:
        """Sends what may be sent now to each broker for which at least so much waits."""
        now, leading = time.monotonic(), dict[Address, list[_Place]]()
        for one in self._places.values():
            if not (one.unsent or one.batches) or now < one.again_at or (one.since is not None and one.asked):
                continue
            if one.leader is None:
                one.leader = self._leader(one.place)
            if one.leader is None:
                self._trouble(one, KafkaError.LEADER_NOT_AVAILABLE, now, now)
            else:
                leading.setdefault(one.leader, []).append(one)
        for address, places in leading.items():
            if least_bytes and sum(one.waiting_bytes for one in places) < least_bytes:
                continue
            line = self._lines.to(address, _RECORDS)
            if line is None:
                for one in places:
                    self._trouble(one, KafkaError.NETWORK_EXCEPTION, now, now)
                continue
            while line.is_free(time.monotonic()) and self._ask(line, places):
                if least_bytes and sum(one.waiting_bytes for one in places) < least_bytes:
                    break

    def pause(self) -> float:
        """Sends what can be sent, and gives how long nothing is to be done but to wait for the brokers, at most."""
        self.offer()
        now, soonest = time.monotonic(), 0.05
        for one in self._places.values():
            if one.again_at > now and (one.batches or one.unsent):
                soonest = min(soonest, one.again_at - now)
        return max(0.0005, soonest)

    def look(self) -> None:
        """Fails the transaction where records of a partition are taken by nobody for too long."""
        now = time.monotonic()
        for one in self._places.values():
            if one.since is not None and now - one.since > _PATIENCE_S and (one.batches or one.unsent):
                name = f"{one.place.topic}-{one.place.partition}"
                heard = f": {self._lines.trouble}" if self._lines.trouble else ""
                if one.error == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    self._fail(_refused(one.error, name))
                else:
                    said = f"records for {name} were taken by nobody within {_PATIENCE_S:g} s"
                    why = f"{KafkaError(one.error).name()}{heard}"
                    self._fail(_refused(KafkaError._MSG_TIMED_OUT, f"{said} ({why})"))
                return

    def forget(self) -> None:
        """Throws away what has not arrived."""
        self.outstanding = 0
        for one in self._places.values():
            one.batches.clear()
            one.unsent.clear()
            one.waiting_bytes = 0

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, line: Line, places: list[_Place]) -> bool:
        """Sends one request with a batch of each partition that has one; False where none has."""
        self._turn += 1
        order = places[self._turn % len(places) :] + places[: self._turn % len(places)]
        topics: dict[str, list[bytes | memoryview]] = {}
        counts: dict[str, int] = {}
        asked: dict[TopicPartition, _Batch] = {}
        size = 0
        for one in order:
            if size >= self._request_bytes:
                break
            taken = None if one.since is not None and one.asked else self._taken(one)
            if taken is None:
                continue
            batch, data = taken
            batch.is_asked = True
            one.asked += 1
            size += len(data)
            topic = one.place.topic
            counts[topic] = counts.get(topic, 0) + 1
            topics.setdefault(topic, []).extend(
                [_INDEX.pack(one.place.partition) + uvarint(len(data) + 1), data, NO_TAGS]
            )
            asked[one.place] = batch
        if not asked:
            return False
        body: list[bytes | memoryview] = [self._head + uvarint(len(topics) + 1)]
        for topic, parts in topics.items():
            body += [text(topic) + uvarint(counts[topic] + 1), *parts, NO_TAGS]
        body.append(NO_TAGS)
        self.is_touched = True
        try:
            line.ask(PRODUCE, VERSION[PRODUCE], body, partial(self._answered, line, self._transaction, asked))
        except OSError as broken:
            self._lines.trouble = f"{line.address[0]}:{line.address[1]}: {broken}"
            self._lines.close(line)
            return False
        return True

    def _taken(self, one: _Place) -> tuple[_Batch, memoryview] | None:
        """The partition's next batch: one that goes out again, else of rows that have not gone out yet."""
        batch = one.next()
        if batch is not None:
            data, end = self._written(batch)
            if end != batch.end:
                raise KafkaException(_refused(KafkaError._FAIL, "a batch became another one"))
            return batch, data
        if not one.unsent:
            return None
        rows, begin = one.unsent[0]
        batch = _Batch(rows, begin, len(rows), one.sequence, int(1e3 * time.time()), one.most_bytes)
        data, batch.end = self._written(batch)
        one.sequence += batch.end - begin
        if batch.end == len(rows):
            one.unsent.popleft()
        else:
            one.unsent[0] = rows, batch.end
        one.waiting_bytes = max(0, one.waiting_bytes - len(data)) if one.unsent else 0
        one.batches.append(batch)
        return batch, data

    def _written(self, batch: _Batch) -> tuple[memoryview, int]:
        return written(
            batch.rows, batch.begin, batch.end, writer=self._writer, sequence=batch.sequence, stamp=batch.stamp,
            most_bytes=batch.most_bytes,
        )  # fmt: skip

    # ── what brokers say ─────────────────────────────────────────────────────────────────────────────────────────────

    def _answered(
        self, line: Line, transaction: int, asked: dict[TopicPartition, _Batch], fields: Fields | None, since: float
    ) -> None:
        told: dict[TopicPartition, tuple[int, int]] = {}
        if fields is not None:
            told, throttled = _told(fields)
            line.hold(throttled)
        if transaction != self._transaction:
            return
        now = time.monotonic()
        for place, batch in asked.items():
            one = self._places[place]
            if not batch.is_asked or batch not in one.batches:
                continue  # The transaction failed meanwhile, or this was told before the answer turned out as garbled.
            one.asked -= 1
            batch.is_asked = False
            code, offset = told.get(place, (KafkaError.NETWORK_EXCEPTION, -1))
            if code in _TAKEN:
                self._arrived(one, batch, offset, now)
            elif code in _TOO_LARGE and batch.end - batch.begin > 1:
                self._cut(one, batch)
                self._trouble(one, code, now, now)
            elif code in _AGAIN or (code == _OUT_OF_ORDER and batch is not one.batches[0]):
                self._trouble(one, code, now, since if fields is None else now)
            else:
                self._fail(_refused(code, f"{place.topic}-{place.partition}"))
                return

    def _arrived(self, one: _Place, batch: _Batch, offset: int, now: float) -> None:
        """Trouble is over when nothing is to be sent again; what was taken behind such a batch does not end it.

        Rows that went out before then could push the batch out of what the broker knows again.
        """
        count, is_first = batch.end - batch.begin, batch is one.batches[0]
        one.batches.remove(batch)
        if is_first or one.next() is None:
            one.since = None if one.next() is None else now
            one.rest, one.again_at = _AGAIN_S[0], 0.0
        self.outstanding -= count
        if offset < 0:
            self._fail(_refused(KafkaError._FAIL, "a delivery came without its offset"))
            return
        low, high = self.ranges.get(one.place, (offset, offset + count))
        self.ranges[one.place] = min(low, offset), max(high, offset + count)

    def _cut(self, one: _Place, batch: _Batch) -> None:
        """Two batches instead of one that the topic does not take."""
        middle = (batch.begin + batch.end) // 2
        at = one.batches.index(batch)
        later = _Batch(batch.rows, middle, batch.end, batch.sequence + middle - batch.begin, batch.stamp,
                       batch.most_bytes)  # fmt: skip
        batch.end = middle
        one.most_bytes = max(_LEAST_BATCH, min(one.most_bytes, batch.most_bytes // 2))
        one.batches.insert(at + 1, later)

    def _trouble(self, one: _Place, code: int, now: float, since: float) -> None:
        """Something is wrong with a partition: all of it that comes back is sent again in order, a little later."""
        one.error = code
        if one.since is None:
            one.since = since
        one.again_at = now + (_SOON_S if code == KafkaError.CONCURRENT_TRANSACTIONS else one.rest)
        one.rest = min(2 * one.rest, _AGAIN_S[1])
        if code not in _STAYS:
            one.leader = None
            self._forget_leaders()

    def _fail(self, error: KafkaError) -> None:
        if self.failed is None:
            self.failed = error
        self.forget()


def _told(fields: Fields) -> tuple[dict[TopicPartition, tuple[int, int]], int]:
    """Error code and first offset of each batch in an answer, and how many milliseconds the broker holds us back."""
    told = {}
    for _ in fields.each():
        topic = fields.text() or ""
        for _ in fields.each():
            partition, code, offset, _stamp, _start = fields.numbers(_ABOUT)
            for _ in fields.each():
                fields.numbers(_INDEX)
                fields.text()
                fields.skip_tags()
            fields.text()
            fields.skip_tags()
            told[TopicPartition(topic, partition)] = code, offset
        fields.skip_tags()
    (throttled,) = fields.numbers(_THROTTLED)
    return told, throttled


def _refused(code: int, what: str) -> KafkaError:
    """An error of records: no commit was asked for, so an abort leaves nothing of the transaction."""
    return KafkaError(code, f"{what}: {KafkaError(code).str()}", False, False, True)
