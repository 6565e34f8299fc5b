"""A transactional producer over confluent-kafka's own classes: one Python call a record.

The path for installations whose librdkafka cannot be called directly; `connectors.kafka.writing_blocks` does the same
without an object per record. Both follow one rule: after any time-out or unknown outcome of a transaction its producer
is never used again, because a delayed end of that transaction could hit the next one; opened anew under the same id, it
has a newer epoch, and whatever is late is refused. librdkafka also sends requests again by itself and says nothing of
it, though the first one may still be on its way: a transaction that succeeded while a request of it stayed without an
answer is followed by a new producer as well.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from operator import length_hint
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPlace

from connectors.kafka.admin import Admin
from connectors.kafka.answers import (
    Connection,
    error_of,
    fenced,
    is_fenced,
    is_stale,
    is_torn,
    refusal,
    stale,
    unknown,
)
from connectors.kafka.calls import Calls
from connectors.kafka.losses import STATISTICS_MS, Losses
from connectors.kafka.membership import KafkaMembership
from connectors.kafka.profile import TRANSACTION_TIMEOUT_S, Profile
from streamproc.errors import LogError
from streamproc.ports import Block, Int64s, Membership, TopicPartition, block_of

_CALL_S: Final = 15.0
_INIT_S: Final = 30.0
_ABORT_S: Final = 10.0
_COMMIT_S: Final = TRANSACTION_TIMEOUT_S
_OFTEN_S: Final = 0.005
_AGAIN: Final = 20
"""How often a transaction is run again because the group's generation moved on while the member kept its partitions."""

_SILENT: Final = logging.Logger("librdkafka")
_SILENT.addHandler(logging.NullHandler())
"""What ends a client for good it would print besides; an error says it."""


class KafkaProducer:
    """Writes under a transactional id; opening it fences every older one, and settles what that one left open.

    meanwhile  what is done now and then while the brokers' answers to a commit are waited for
    """

    aborts_by_polling = False
    """Whether an abort comes back only if its client is polled."""

    def __init__(
        self,
        profile: Profile,
        admin: Admin,
        transactional_id: str,
        *,
        meanwhile: Callable[[], object] | None = None,
    ) -> None:
        self.id = transactional_id
        self.meanwhile = meanwhile
        self.profile, self.admin = profile, admin
        self.connection = Connection(profile.brokers)
        self.broken: LogError | None = None
        self._open: KafkaTransaction | None = None
        self._plain: dict[str, bytes] = {}
        self.doubted = False
        self._settled_at: float | None = None
        self.calls: Calls
        self.client = self._opened()

    def begin(self) -> KafkaTransaction:
        """A new transaction; the brokers hear of it with its first record."""
        if self._open is not None and not self._open.over:
            raise LogError(f"producer '{self.id}' has an open transaction", hint="commit or abort it first")
        self.usable()
        self._open = self._transaction()
        return self._open

    def close(self) -> None:
        """Aborts an open transaction and lets go."""
        if self._open is not None and not self._open.over:
            self._open.abort()
        _let_go(self.client, self.calls, 0 if self.broken is not None else 1.0)

    def mark(self, tasks: Mapping[TopicPartition, str], membership: Membership) -> None:
        """Writes to these partitions and to their groups, so that answers which do not know of it are known to be old.

        What is written to the partitions is aborted: it takes an offset, and no reader is given it. That offset is what
        each group commits for the partition, as a member.
        """
        attempt = self.begin()
        try:
            for place in tasks:
                attempt.append(block_of(*place, [b""]))
            written = attempt.written()
        finally:
            attempt.abort()
        if set(written) != set(tasks):
            raise self.connection.away(f"writing to {len(tasks)} partitions of the task topic")
        proof = self.begin()
        try:
            for place, group in tasks.items():
                proof.commit_offsets(group, {place: written[place]}, membership=membership, owned=(place.partition,))
            proof.commit()
        finally:
            proof.abort()
        for place, group in tasks.items():
            self.admin.mark(place, written[place], group)

    def usable(self) -> None:
        """Raises what made the producer unusable."""
        if self.broken is not None:
            raise self.broken

    def renew(self) -> None:
        """Opens the client anew if a request of an earlier transaction may still be on its way."""
        if not (self.doubted or self._lost()):
            return
        client, calls = self.client, self.calls
        self.client = self._opened()
        _let_go(client, calls, 0)
        self.doubted = False

    def settled(self) -> None:
        """Notes that a transaction is committed."""
        self._settled_at = time.monotonic()

    def _lost(self) -> bool:
        """Whether a request of a transaction that is over may have been sent twice, and answered once."""
        return self._settled_at is not None and self._losses.since(self.client, self._settled_at)

    def _opened(self) -> Any:
        client = self._client(self.profile)
        calls = Calls(client)
        try:
            calls(client.init_transactions, _INIT_S)
        except KafkaException as problem:
            with contextlib.suppress(KafkaException):  # A fatal error is raised here once more.
                client.poll(0.1)
            _let_go(client, calls, 0)
            self.connection.check()
            raise refusal(error_of(problem), f"opening producer '{self.id}'", self.connection) from problem
        self._settled_at, self.calls = None, calls
        return client

    def _client(self, profile: Profile) -> Any:
        self._losses = Losses()
        settings = {**profile.writer(self.id), "statistics.interval.ms": STATISTICS_MS, "logger": _SILENT}
        return Producer({**settings, "error_cb": self.connection, "stats_cb": self._losses})

    def _transaction(self) -> KafkaTransaction:
        return KafkaTransaction(self)

    def plain_metadata(self, group: str) -> bytes:
        """Group metadata without a member, for groups that only keep offsets."""
        if group not in self._plain:
            # The first group of a cluster has no coordinator yet: a client that sends offsets waits for one without an
            # end, one that asks for them waits until it is there.
            self.admin.committed(group)
            asker = Consumer({**self.profile.common(), "group.id": group})
            self._plain[group] = asker.consumer_group_metadata()
            asker.close()
        return self._plain[group]


class KafkaTransaction:
    """Appends and offsets that become visible together or not at all."""

    def __init__(self, producer: KafkaProducer) -> None:
        self.over = False
        self._producer = producer
        self._begun = False
        self._since = time.monotonic()
        self._blocks: list[Block] = []
        self._offsets: dict[str, dict[TopicPartition, int]] = {}
        self._standing: list[tuple[KafkaMembership, dict[int, int]]] = []
        self._ranges: dict[TopicPartition, tuple[int, int]] = {}
        self._failed: KafkaError | None = None
        self._refused: LogError | None = None

    def append(self, block: Block) -> None:
        """Hands the records to the client, which sends them while the engine goes on working."""
        self._check_open()
        if not len(block):
            return
        check_bounds(block)
        self._producer.admin.check(TopicPartition(block.topic, block.partition))
        self._blocks.append(block)
        self._begin()
        self._send(block)

    def commit_offsets(
        self,
        group: str,
        offsets: Mapping[TopicPartition, int],
        *,
        membership: Membership | None = None,
        owned: Iterable[int] = (),
    ) -> None:
        """Commits offsets for a group; with a membership, the brokers refuse the whole transaction of a stale member.

        Where the offsets belong to another group than the membership, the membership's own group gets a commit too, for
        only that one is compared with member and generation.
        """
        self._check_open()
        self._offsets.setdefault(group, {}).update(offsets)
        if membership is None:
            return
        if not isinstance(membership, KafkaMembership):
            raise LogError("a membership of another log cannot fence a commit to Kafka", hint="join through this log")
        owned = tuple(owned)
        try:
            self._standing.append((membership, membership.standing(owned)))
        except LogError as refused:
            self._refused = refused
        fence = self._offsets.setdefault(membership.group, {})
        for number in owned:
            place = TopicPartition(membership.topic, number)
            fence.setdefault(place, self._producer.admin.mark_of(place))

    def written(self) -> dict[TopicPartition, int]:
        """Waits until what was appended has arrived; gives the offset behind the last record of each partition."""
        self._check_open()
        self._delivered()
        self._deliveries()
        return {place: end for place, (_, end) in self._ranges.items()}

    def commit(self) -> dict[TopicPartition, tuple[int, int]]:
        """Makes all of it visible; gives for each partition the offsets that its records got, half-open.

        A group whose generation moved on while this member kept all its partitions refuses the commit though nothing is
        wrong: the transaction is aborted, which is certain, and run again from the blocks that it still has.
        """
        self._check_open()
        if self._refused is not None:
            self.abort()
            raise self._refused
        if not self._blocks and not self._offsets:
            self.over = True
            return {}
        for _ in range(_AGAIN):
            try:
                self._finish()
            except _Moved as moved:
                self._abort()
                self._still_held(moved)
                time.sleep(0.05)
                self._begin()
                for block in self._blocks:
                    self._send(block)
                continue
            self.over = True
            return self._ranges
        self._abort()
        self.over = True
        raise stale("the member", "its group", f"its generation changed {_AGAIN} times in a row")

    def abort(self) -> None:
        """Leaves no trace."""
        if self.over:
            return
        self.over = True
        if self._producer.broken is None:
            self._abort()

    # ── the steps of a commit ────────────────────────────────────────────────────────────────────────────────────────

    def _finish(self) -> None:
        try:
            self._begin()
            client, calls, meanwhile = self._producer.client, self._producer.calls, self._producer.meanwhile
            # A member's own group comes last: what it proves then covers offsets that already hold others back.
            members = {membership.group for membership, _ in self._standing}
            for group in sorted(self._offsets, key=lambda name: (name in members, name)):
                offsets = self._offsets[group]
                places = [KafkaPlace(*place, offset) for place, offset in offsets.items()]
                if places:
                    send = partial(client.send_offsets_to_transaction, places, self._metadata(group))
                    calls(send, _CALL_S, meanwhile=meanwhile)
            self._delivered()
            if meanwhile is not None:
                meanwhile()  # What comes until the commit is done waits for the next step then.
            calls(client.commit_transaction, _COMMIT_S, meanwhile=meanwhile)
        except KafkaException as problem:
            self._answer(problem)
        self._deliveries()
        self._producer.settled()

    def _metadata(self, group: str) -> bytes:
        for membership, _ in self._standing:
            if membership.group == group:
                return membership.metadata()
        return self._producer.plain_metadata(group)

    def _delivered(self) -> None:
        """Waits for every delivery report: a commit may only follow what has arrived."""
        client, meanwhile, until = self._producer.client, self._producer.meanwhile, time.monotonic() + _COMMIT_S
        while len(client) and time.monotonic() < until:
            # poll, not flush: flush mixes up a fatal error with the reports that it serves.
            if meanwhile is None:
                client.poll(0.05)
            else:
                client.poll(_OFTEN_S)
                meanwhile()

    def _deliveries(self) -> None:
        self._producer.client.poll(0)
        if self._failed is not None:
            self._break(unknown(f"a delivery of producer '{self._producer.id}'", self._failed))

    def _answer(self, problem: KafkaException, *, certain: bool = False) -> None:
        """Raises what a failed step means: nothing happened (`certain`: whatever it says), or nobody knows."""
        error, producer = error_of(problem), self._producer
        if is_fenced(error):
            if time.monotonic() - self._since > 0.8 * TRANSACTION_TIMEOUT_S:
                # The brokers say the same to a producer that was too slow; only the log can tell what is ours.
                self._break(unknown(f"the transaction of '{producer.id}' took too long", error))
            self._break(fenced(producer.id))
        if is_stale(error):
            raise _Moved(error) from problem
        if is_torn(error):
            # Something else ended the transaction, perhaps an end of the one before that was late: who can say how.
            self._break(unknown(f"the transaction of '{producer.id}'", error))
        if not error.fatal() and (certain or error.txn_requires_abort()):
            error = self._failure() or error  # A commit says that deliveries failed, a delivery says why.
            self._abort()
            self.over = True
            raise refusal(error, f"a transaction of '{producer.id}' was aborted", producer.connection) from problem
        self._break(unknown(f"the transaction of '{producer.id}'", error))

    def _failure(self) -> KafkaError | None:
        return self._failed

    def _still_held(self, moved: _Moved) -> None:
        """Raises StaleMember unless every partition has been held without a break since the commit was asked for."""
        for membership, since in self._standing:
            try:
                now = membership.standing(since)
            except LogError:
                self.over = True
                raise
            if now != since or moved.error.code() in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_INSTANCE_ID):
                self.over = True
                raise stale(membership.member, membership.group, moved.error.str())

    def _abort(self) -> None:
        if not self._begun:
            return
        self._begun = False
        producer = self._producer
        producer.doubted = True  # An abort is rare: what led to it may still be on its way.
        try:
            poll = partial(producer.client.poll, 0.0) if producer.aborts_by_polling else None
            producer.calls(producer.client.abort_transaction, _ABORT_S, meanwhile=poll)
        except KafkaException as problem:
            error = error_of(problem)
            producer.broken = (
                fenced(producer.id) if is_fenced(error) else unknown(f"the abort of '{producer.id}'", error)
            )
        self._ranges, self._failed = {}, None

    def _begin(self) -> None:
        if self._begun:
            return
        self._producer.renew()
        try:
            client = self._producer.client
            self._producer.calls(lambda _: client.begin_transaction(), _CALL_S)
        except KafkaException as problem:
            self._answer(problem)
        self._begun, self._ranges, self._failed = True, {}, None

    def _break(self, error: LogError) -> None:
        self._producer.broken = error
        self.over = True
        raise error

    # ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _send(self, block: Block) -> None:
        client, data = self._producer.client, block.buffer.tobytes()
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
        client.poll(0)

    def _produce_all(
        self, topic: str, values: Sequence[bytes | None], keys: Sequence[bytes | None], partition: int
    ) -> None:
        """Hands over records without reports: one `map` over the method takes two thirds of the time of a loop."""
        produce, left = self._producer.client.produce, iter(values)
        calls = map(produce, repeat(topic), left, iter(keys), repeat(partition))
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
        client = self._producer.client
        if report is not None:
            extra["on_delivery"] = report
        while True:
            try:
                client.produce(topic, value, key, partition, **extra)
                return
            except BufferError:
                client.poll(0.05)
            except KafkaException as problem:
                self._answer(problem, certain=True)

    def _report(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            if error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
                self._failed = self._failed or error
            return
        place, offset = TopicPartition(message.topic(), message.partition()), message.offset()
        first, last = self._ranges.get(place, (offset, offset + 1))
        self._ranges[place] = (min(first, offset), max(last, offset + 1))

    def _check_open(self) -> None:
        if self.over:
            raise LogError("the transaction is over", hint="begin another one")
        self._producer.usable()


def _cells(data: bytes, starts: Int64s, ends: Int64s) -> list[bytes | None]:
    """The bytes of each range; None for null."""
    bounds = zip(starts.tolist(), ends.tolist(), strict=True)
    if starts.size and int(starts.min()) >= 0:
        return [data[start:end] for start, end in bounds]
    return [None if start < 0 else data[start:end] for start, end in bounds]


def _let_go(client: Any, calls: Calls, timeout_s: float) -> None:
    """Frees a client, unless a call is still inside it."""
    calls.close()
    if calls.stuck:
        return
    # Why it is broken was told already, and that it has nothing to abort is no news.
    with contextlib.suppress(KafkaException), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        client.close(timeout_s)


class _Moved(Exception):
    """The group's generation is another than the commit said; nothing of the transaction is visible."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(error.str())
        self.error = error


def check_bounds(block: Block) -> None:
    """Raises LogError for bounds that lie outside the block's buffer."""
    pairs = [(block.value_starts, block.value_ends), (block.key_starts, block.key_ends)]
    pairs += [(header.starts, header.ends) for header in block.headers]
    for starts, ends in pairs:
        some = starts >= 0
        if starts.size != len(block) or (some & ((ends > block.buffer.size) | (ends < starts))).any():
            raise LogError(
                f"a block for '{block.topic}' has bounds outside its buffer of {block.buffer.size} bytes",
                hint="bounds count bytes of the block's own buffer",
            )
