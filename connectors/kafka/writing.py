"""A transactional producer: it owns the client, and opens it anew whenever something of the old one may come late.

librdkafka sends requests again by itself and says nothing of it, though the first one may still be on its way: a
transaction that succeeded while a request of it stayed without an answer is followed by a new epoch.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from typing import Final

from confluent_kafka import Consumer, KafkaException

from connectors.kafka.admin import Admin
from connectors.kafka.answers import Connection, error_of, refusal
from connectors.kafka.calls import Calls, Here
from connectors.kafka.profile import Profile
from connectors.kafka.transaction import KafkaTransaction, Sender
from streamproc.errors import LogError
from streamproc.ports import Membership, TopicPartition, block_of

_INIT_S: Final = 30.0

MakeSender = Callable[[Profile, Admin, str, Connection], Sender]
"""Opens the client that sends, of a transactional id."""


class KafkaProducer:
    """Writes under a transactional id; opening it fences every older one, and settles what that one left open."""

    def __init__(self, profile: Profile, admin: Admin, transactional_id: str, make_sender: MakeSender) -> None:
        self.id = transactional_id
        self.profile, self.admin = profile, admin
        self.connection = Connection(profile.brokers)
        self.broken: LogError | None = None
        self._make_sender = make_sender
        self._doubted = False
        self._open: KafkaTransaction | None = None
        self._plain: dict[str, bytes] = {}
        self.client, self.calls = self._opened()

    def begin(self) -> KafkaTransaction:
        """A new transaction; the brokers hear of it with its first record."""
        if self._open is not None and not self._open.over:
            raise LogError(f"producer '{self.id}' has an open transaction", hint="commit or abort it first")
        self.usable()
        self._open = KafkaTransaction(self)
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

    def settled(self) -> None:
        """Notes that a transaction is committed; nothing of its epoch outlives this that may come late.

        Where the brokers do not answer, the next transaction opens the client anew.
        """
        if self.client.ends_fence:
            return
        self._doubted = True  # Until somebody knows better.
        with contextlib.suppress(LogError, KafkaException):
            self._doubted = self.client.sent_again
            self.renew()

    def doubt(self) -> None:
        """Notes that a request of this transaction may come late."""
        self._doubted = True

    def renew(self) -> None:
        """Opens the client anew if a request of an earlier transaction may still be on its way."""
        if not self._doubted:
            return
        client, calls = self.client, self.calls
        self.client, self.calls = self._opened()
        _let_go(client, calls, 0)
        self._doubted = False

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

    def _opened(self) -> tuple[Sender, Calls | Here]:
        doing = f"opening producer '{self.id}'"
        try:
            client = self._make_sender(self.profile, self.admin, self.id, self.connection)
        except KafkaException as problem:
            raise refusal(error_of(problem), doing, self.connection) from problem
        calls = Here() if client.keeps_time else Calls(client)
        try:
            calls(client.init_transactions, _INIT_S)
        except KafkaException as problem:
            with contextlib.suppress(KafkaException):  # A fatal error is raised here once more.
                client.poll(0.1)
            _let_go(client, calls, 0)
            self.connection.check()
            raise refusal(error_of(problem), doing, self.connection) from problem
        return client, calls


def _let_go(client: Sender, calls: Calls | Here, timeout_s: float) -> None:
    """Frees a client, unless a call is still inside it."""
    calls.close()
    if calls.stuck:
        return
    # Why it is broken was told already, and that it has nothing to abort is no news.
    with contextlib.suppress(KafkaException), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        client.close(timeout_s)
