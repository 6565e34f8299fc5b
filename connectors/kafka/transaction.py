"""One transaction, and what each error of one means.

After any time-out or unknown outcome of a transaction its producer is never used again, because a delayed end of that
transaction could hit the next one; opened anew under the same id, it has a newer epoch, and whatever is late is
refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final, Protocol

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPlace

from connectors.kafka.admin import Admin
from connectors.kafka.answers import Connection, error_of, fenced, is_fenced, is_stale, is_torn, refusal, stale, unknown
from connectors.kafka.calls import Calls, Here
from connectors.kafka.membership import KafkaMembership
from connectors.kafka.profile import TRANSACTION_TIMEOUT_S
from streamproc.errors import LogError
from streamproc.ports import Block, Membership, TopicPartition

_CALL_S: Final = 15.0
_ABORT_S: Final = 10.0
_COMMIT_S: Final = TRANSACTION_TIMEOUT_S
_AGAIN: Final = 20
"""How often a transaction is run again because the group's generation moved on while the member kept its partitions."""


class Sender(Protocol):
    """A client that sends records in transactions.

    ranges  the offsets of what the transaction sent to each partition and was reported, half-open
    failed  why a record of it did not arrive
    aborts_by_polling  whether an abort comes back only if the client is polled
    ends_fence  whether each end brings a new epoch: then nothing of a transaction can come late
    keeps_time  whether its calls come back in their time, and need no thread of their own
    """

    aborts_by_polling: bool
    ends_fence: bool
    keeps_time: bool

    @property
    def ranges(self) -> dict[TopicPartition, tuple[int, int]]:
        """See above."""

    @property
    def failed(self) -> KafkaError | None:
        """See above."""

    def __len__(self) -> int:
        """Records that were not reported yet."""

    @property
    def sent_again(self) -> bool:
        """Whether a copy of a request of the last transaction, which succeeded, may still be on its way."""

    def init_transactions(self, timeout_s: float) -> None:
        """Fences older producers of the id."""

    def begin_transaction(self) -> None:
        """Begins; the brokers hear of it with the first record or offset."""

    def send(self, block: Block) -> None:
        """Hands records to the client; waits while too much is on its way."""

    def send_offsets_to_transaction(self, places: list[KafkaPlace], metadata: bytes, timeout_s: float) -> None:
        """Adds a group's offsets; the metadata is as a consumer gives it."""

    def commit_transaction(self, timeout_s: float) -> None:
        """Commits."""

    def abort_transaction(self, timeout_s: float) -> None:
        """Aborts; what was not sent yet is thrown away."""

    def poll(self, timeout_s: float) -> object:
        """Takes up delivery reports."""

    def close(self, timeout_s: float) -> None:
        """Lets go; what was not sent is forgotten."""


class Owner(Protocol):
    """The producer of a transaction; `broken` is what made it unusable."""

    id: str
    admin: Admin
    connection: Connection
    client: Sender
    calls: Calls | Here
    broken: LogError | None

    def usable(self) -> None:
        """Raises what made the producer unusable."""

    def renew(self) -> None:
        """Opens the client anew if a request of an earlier transaction may still be on its way."""

    def settled(self) -> None:
        """Notes that a transaction is committed."""

    def doubt(self) -> None:
        """Notes that a request of this transaction may come late."""

    def plain_metadata(self, group: str) -> bytes:
        """Group metadata without a member, for groups that only keep offsets."""


class KafkaTransaction:
    """Appends and offsets that become visible together or not at all."""

    def __init__(self, producer: Owner) -> None:
        self.over = False
        self._producer = producer
        self._begun = self._ending = False
        self._since = time.monotonic()
        self._blocks: list[Block] = []
        self._sent = 0
        self._offsets: dict[str, dict[TopicPartition, int]] = {}
        self._standing: list[tuple[KafkaMembership, dict[int, int]]] = []
        self._refused: LogError | None = None

    def append(self, block: Block) -> None:
        """Hands the records to the client, which sends them while the engine goes on working."""
        self._check_open()
        if not len(block):
            return
        check_bounds(block)
        self._producer.admin.check(TopicPartition(block.topic, block.partition))
        self._blocks.append(block)
        self._send()

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
        if not self._blocks:
            return {}
        self._delivered()
        return {place: end for place, (_, end) in self._arrived().items()}

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
                ranges = self._finish()
            except _Moved as moved:
                self._abort()
                if self._producer.broken is not None:
                    self._break(self._producer.broken)
                self._still_held(moved)
                time.sleep(0.05)
                continue
            self.over = True
            self._producer.settled()
            return ranges
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

    def _finish(self) -> dict[TopicPartition, tuple[int, int]]:
        try:
            self._begin()
            client, calls = self._producer.client, self._producer.calls
            # A member's own group comes last: what it proves then covers offsets that already hold others back.
            members = {membership.group for membership, _ in self._standing}
            for group in sorted(self._offsets, key=lambda name: (name in members, name)):
                offsets = self._offsets[group]
                places = [KafkaPlace(*place, offset) for place, offset in offsets.items()]
                if places:
                    calls(partial(client.send_offsets_to_transaction, places, self._metadata(group)), _CALL_S)
            self._send()
            self._delivered()
            self._ending = True
            calls(client.commit_transaction, _COMMIT_S)
        except KafkaException as problem:
            self._answer(problem)
        return self._arrived()

    def _metadata(self, group: str) -> bytes:
        for membership, _ in self._standing:
            if membership.group == group:
                return membership.metadata()
        return self._producer.plain_metadata(group)

    def _send(self) -> None:
        """Sends what was not sent yet; all of it where the transaction runs again."""
        if self._sent == len(self._blocks):
            return
        self._begin()
        try:
            while self._sent < len(self._blocks):
                self._producer.client.send(self._blocks[self._sent])
                self._sent += 1
        except KafkaException as problem:
            self._answer(problem, certain=True)

    def _delivered(self) -> None:
        """Waits for every delivery report: a commit may only follow what has arrived."""
        client, until = self._producer.client, time.monotonic() + _COMMIT_S
        while len(client) and time.monotonic() < until:
            client.poll(0.05)  # Not flush: it mixes up a fatal error with the reports that it serves.
        if len(client):
            late = KafkaError(KafkaError._MSG_TIMED_OUT, f"{len(client)} records were not taken within {_COMMIT_S:g} s")
            self._answer(KafkaException(late), certain=True)

    def _arrived(self) -> dict[TopicPartition, tuple[int, int]]:
        client = self._producer.client
        client.poll(0.0)
        if client.failed is not None:
            self._break(unknown(f"a delivery of producer '{self._producer.id}'", client.failed))
        return client.ranges

    def _answer(self, problem: KafkaException, *, certain: bool = False) -> None:
        """Raises what a failed step means: nothing happened (`certain`: whatever it says), or nobody knows."""
        error, producer = error_of(problem), self._producer
        if is_fenced(error):
            if time.monotonic() - self._since > 0.8 * TRANSACTION_TIMEOUT_S:
                # The brokers say the same to a producer that was too slow; only the log can tell what is ours.
                self._break(unknown(f"the transaction of '{producer.id}' took too long", error))
            if self._ending and self._asked_twice():
                # And to the second copy of an end that happened, where a successor has come since.
                self._break(unknown(f"the transaction of '{producer.id}' was asked twice to end", error))
            self._break(fenced(producer.id))
        if is_stale(error):
            raise _Moved(error) from problem
        if is_torn(error):
            # Something else ended the transaction, perhaps an end of the one before that was late: who can say how.
            self._break(unknown(f"the transaction of '{producer.id}'", error))
        if not error.fatal() and (certain or error.txn_requires_abort()):
            error = producer.client.failed or error  # A commit says that deliveries failed, a delivery says why.
            self._abort()
            self.over = True
            raise refusal(error, f"a transaction of '{producer.id}' was aborted", producer.connection) from problem
        self._break(unknown(f"the transaction of '{producer.id}'", error))

    def _asked_twice(self) -> bool:
        """Whether a request of this transaction was sent more than once, or nobody can tell."""
        try:
            return self._producer.client.sent_again
        except KafkaException:
            return True

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
        self._begun, self._sent = False, 0
        producer = self._producer
        if not producer.client.ends_fence:
            producer.doubt()  # An abort is rare: what led to it may still be on its way.
        try:
            poll = partial(producer.client.poll, 0.0) if producer.client.aborts_by_polling else None
            producer.calls(producer.client.abort_transaction, _ABORT_S, meanwhile=poll)
        except KafkaException as problem:
            producer.doubt()
            error = error_of(problem)
            if is_fenced(error):
                producer.broken = fenced(producer.id)
            elif self._ending:
                producer.broken = unknown(f"the abort of '{producer.id}'", error)
            # Else no commit was asked for: nothing of it will ever be visible, and the next transaction begins with a
            # new client, which ends whatever is open.

    def _begin(self) -> None:
        if self._begun:
            return
        self._producer.renew()
        try:
            client = self._producer.client
            self._producer.calls(lambda _: client.begin_transaction(), _CALL_S)
        except KafkaException as problem:
            self._answer(problem)
        self._begun = True

    def _break(self, error: LogError) -> None:
        self._producer.broken = error
        self.over = True
        raise error

    def _check_open(self) -> None:
        if self.over:
            raise LogError("the transaction is over", hint="begin another one")
        self._producer.usable()


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
