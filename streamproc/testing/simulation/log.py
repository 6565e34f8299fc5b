"""The simulated log as one process sees it: the log port over a `Cluster`, one request at a time.

A commit is a row of requests (records of each block, offsets of each group, the end), as Kafka's clients send them, so
anything may happen between any two of them. What goes wrong is the business of the `Link` that carries them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol, TypeVar

import numpy as np

from streamproc.errors import LogError, LogUnavailable, UnknownOutcome
from streamproc.ports import Block, Isolation, Membership, TopicPartition, TopicSettings
from streamproc.testing.simulation.cluster import Cluster, Ticket
from streamproc.testing.simulation.groups import Group

T = TypeVar("T")

_LOOK_US: Final = 20_000
_PATIENCE_LOOKS: Final = 1_500


class Link(Protocol):
    """What carries a process's requests to the cluster and the answers back."""

    def call(self, step: str, act: Callable[[], T]) -> T:
        """Does one request; may raise LogUnavailable, let time pass, or never come back."""
        ...

    def end(self, act: Callable[[], bool]) -> bool:
        """Does the request that ends a transaction; raises UnknownOutcome where its answer is lost."""
        ...

    def pause(self, us: int) -> None:
        """Lets time pass for a process that waits for the cluster."""
        ...


class Wire:
    """A link on which nothing goes wrong; who waits moves the cluster's time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def call(self, step: str, act: Callable[[], T]) -> T:
        """Does the request."""
        return act()

    def end(self, act: Callable[[], bool]) -> bool:
        """Does the request."""
        return act()

    def pause(self, us: int) -> None:
        """Moves the cluster's time."""
        self._cluster.advance(us)


class SimulatedLog:
    """One process's handle on a cluster."""

    def __init__(self, cluster: Cluster, link: Link | None = None) -> None:
        self.cluster = cluster
        self.link: Link = link if link is not None else Wire(cluster)
        self._known: dict[TopicPartition, int] = {}

    def topics(self) -> dict[str, TopicSettings]:
        """Every topic by name."""
        return self.link.call("topics", lambda: dict(sorted(self.cluster.settings.items())))

    def create_topic(self, topic: str, settings: TopicSettings) -> None:
        """Creates the topic; other settings for a known one raise LogError."""
        self.link.call("create_topic", lambda: self.cluster.create_topic(topic, settings))

    def delete_topic(self, topic: str) -> None:
        """Removes topic, records and committed offsets."""
        self.link.call("delete_topic", lambda: self.cluster.delete_topic(topic))

    def delete_records(self, partition: TopicPartition, before: int) -> None:
        """Removes records below an offset."""
        self.link.call("delete_records", lambda: self.cluster.at(partition).delete(before))

    def start_offset(self, partition: TopicPartition) -> int:
        """The first offset held."""
        return self.link.call("start_offset", lambda: self.cluster.at(partition).start)

    def end_offset(self, partition: TopicPartition, *, isolation: Isolation = "read_committed") -> int:
        """The last stable offset, or one past everything."""
        if isolation == "read_uncommitted":
            return self.link.call("high_watermark", lambda: self.cluster.at(partition).end)
        return self.link.call("end_offset", lambda: self.cluster.at(partition).stable)

    def end_offsets(
        self, partitions: Iterable[TopicPartition], *, isolation: Isolation = "read_committed"
    ) -> dict[TopicPartition, int]:
        """The ends of many partitions."""
        return {place: self.end_offset(place, isolation=isolation) for place in partitions}

    def available(self, partition: TopicPartition, offset: int) -> int:
        """The last stable offset, as it was when the partition's broker last answered."""
        try:
            self._known[partition] = self.link.call("available", lambda: self.cluster.at(partition).stable)
        except LogUnavailable:
            return max(offset, self._known.get(partition, offset))
        return self._known[partition]

    def reached(self, partition: TopicPartition, offset: int) -> int:
        """The offset: `available` tells of marks behind the last record here."""
        return offset

    def offset_at(self, partition: TopicPartition, timestamp: int) -> int:
        """The first offset whose timestamp is at or after the moment, or the end offset."""
        return self.link.call("offset_at", lambda: self.cluster.at(partition).offset_at(timestamp))

    def read(
        self, partition: TopicPartition, offset: int, *, max_records: int = 65_536, max_bytes: int = 16 << 20
    ) -> Block:
        """Committed records from an offset on."""
        return self.link.call("read", lambda: self.cluster.at(partition).read(offset, max_records, max_bytes))

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_us: int) -> bool:
        """Whether something is there; only time can bring it, so waiting lets time pass."""
        until = self.cluster.uptime + timeout_us
        while not self.link.call("wait", lambda: self._has(partitions)):
            if self.cluster.uptime >= until:
                return False
            self.link.pause(min(_LOOK_US, until - self.cluster.uptime))
        return True

    def producer(self, transactional_id: str) -> SimulatedProducer:
        """Opens the producer, fences older ones of the id, and waits until what they left open is settled."""
        for _ in range(_PATIENCE_LOOKS):
            ticket = self.link.call("open_producer", lambda: self.cluster.open_producer(transactional_id))
            if ticket is not None:
                return SimulatedProducer(self, ticket)
            self.link.pause(_LOOK_US)
        raise LogUnavailable(f"the last transaction of '{transactional_id}' does not end", hint="try again later")

    def join(self, group: str, topic: str, member: str, *, lease_us: int = 10_000_000) -> SimulatedMembership:
        """Joins the group that shares out the partitions of a topic."""
        joined, instance = self.link.call("join", lambda: self.cluster.join(group, topic, member, lease_us))
        return SimulatedMembership(self, joined, member, instance)

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """The group's committed next offsets, once no transaction is about to change them."""
        for _ in range(_PATIENCE_LOOKS):
            found = self.link.call("committed", lambda: self._settled(group))
            if found is not None:
                return found
            self.link.pause(_LOOK_US)
        raise LogUnavailable(f"offsets of group '{group}' stay pending", hint="try again later")

    def groups(self) -> list[str]:
        """Groups that committed an offset."""
        return self.link.call("groups", lambda: sorted(self.cluster.offsets))

    def close(self) -> None:
        """Nothing to let go of."""

    def _has(self, partitions: Mapping[TopicPartition, int]) -> bool:
        return any(self.cluster.at(place).has_record(offset) for place, offset in partitions.items())

    def _settled(self, group: str) -> dict[TopicPartition, int] | None:
        return None if self.cluster.unsettled(group) else dict(self.cluster.offsets.get(group, {}))


class SimulatedProducer:
    """Writes under a transactional id and epoch."""

    def __init__(self, log: SimulatedLog, ticket: Ticket) -> None:
        self.log = log
        self.ticket = ticket
        self.open: SimulatedTransaction | None = None

    def begin(self) -> SimulatedTransaction:
        """A new transaction, once the markers of the last one are written."""
        if self.open is not None:
            raise LogError(f"'{self.ticket[0]}' has an open transaction", hint="commit or abort it first")
        for _ in range(_PATIENCE_LOOKS):
            if not self.log.link.call("begin", lambda: self.log.cluster.busy(self.ticket)):
                break
            self.log.link.pause(_LOOK_US)
        else:
            raise LogUnavailable(f"the last transaction of '{self.ticket[0]}' does not end", hint="try again later")
        self.open = SimulatedTransaction(self)
        return self.open

    def close(self) -> None:
        """Aborts what is open."""
        if self.open is not None:
            self.open.abort()


class SimulatedTransaction:
    """Appends and offsets, kept until `commit` sends them.

    A transaction of which nobody knows what became of it is over: neither its commit nor its abort may be sent again.
    """

    def __init__(self, producer: SimulatedProducer) -> None:
        self._producer = producer
        self._log = producer.log
        self._blocks: list[Block] = []
        self._offsets: list[tuple[str, dict[TopicPartition, int], SimulatedMembership | None, int, frozenset[int]]] = []
        self._sent = False
        self._over = False

    def append(self, block: Block) -> None:
        """Adds records (visible after `commit`)."""
        self._require_open()
        self._log.cluster.at(TopicPartition(block.topic, block.partition))
        _require_bounds(block)
        if len(block):
            self._blocks.append(block)

    def commit_offsets(
        self,
        group: str,
        offsets: Mapping[TopicPartition, int],
        *,
        membership: Membership | None = None,
        owned: Iterable[int] = (),
    ) -> None:
        """Commits next offsets to read, as a member of the generation that the member has now."""
        self._require_open()
        member = membership if isinstance(membership, SimulatedMembership) else None
        generation = 0 if member is None else member.generation
        self._offsets.append((group, dict(offsets), member, generation, frozenset(owned)))

    def commit(self) -> dict[TopicPartition, tuple[int, int]]:
        """Sends everything and decides it; gives the offsets that the records took."""
        self._require_open()
        cluster, link, ticket = self._log.cluster, self._log.link, self._producer.ticket
        self._sent = True
        ranges: dict[TopicPartition, tuple[int, int]] = {}
        for block in self._blocks:
            first, end = link.call("produce", lambda block=block: cluster.produce(ticket, block))  # type: ignore[misc]
            place = TopicPartition(block.topic, block.partition)
            ranges[place] = (ranges.get(place, (first, 0))[0], end)
        for offsets in self._offsets:
            link.call("add_offsets", lambda offsets=offsets: self._send(*offsets))  # type: ignore[misc]
        if not self._blocks and not self._offsets:
            cluster.check(ticket)
        else:
            try:
                ended = link.end(lambda: cluster.end(ticket, commit=True))
            except UnknownOutcome:
                self._finish()
                raise
            if not ended:
                self._finish()
                raise UnknownOutcome(
                    f"the transaction of '{ticket[0]}' was ended by somebody else", hint="believe what is committed"
                )
        self._finish()
        return ranges

    def abort(self) -> None:
        """Leaves no trace."""
        if self._over:
            return
        sent = self._sent
        self._finish()
        if sent:
            cluster, ticket = self._log.cluster, self._producer.ticket
            self._log.link.call("abort", lambda: _quietly_ended(cluster, ticket))

    def _send(
        self,
        group: str,
        offsets: Mapping[TopicPartition, int],
        member: SimulatedMembership | None,
        generation: int,
        owned: frozenset[int],
    ) -> None:
        cluster = self._log.cluster
        cluster.check(self._producer.ticket)
        if member is not None:
            cluster.check_members(member.group, member.member, member.instance, generation, owned)
        cluster.add_offsets(self._producer.ticket, group, offsets)

    def _finish(self) -> None:
        self._over = True
        self._producer.open = None

    def _require_open(self) -> None:
        if self._over:
            raise LogError("the transaction is over", hint="begin a new one")


class SimulatedMembership:
    """A place in a group."""

    def __init__(self, log: SimulatedLog, group: Group, member: str, instance: int) -> None:
        self._log = log
        self.group = group
        self.instance = instance
        self._member = member
        self._generation = 0

    @property
    def member(self) -> str:
        """The member's id."""
        return self._member

    @property
    def generation(self) -> int:
        """The generation that the last `poll` saw."""
        return self._generation

    def poll(self) -> frozenset[int]:
        """The partitions that are this member's now."""

        def polled() -> tuple[frozenset[int], int]:
            mine = self.group.poll(self._member, self.instance, self._log.cluster.uptime)
            return mine, self.group.generation

        owned, self._generation = self._log.link.call("poll", polled)
        return owned

    def renew(self) -> None:
        """A sign of life."""
        now = self._log.cluster
        self._log.link.call("renew", lambda: self.group.present(self._member, self.instance, now.uptime))

    def released(self, partitions: Iterable[int]) -> None:
        """The work on these partitions is finished."""
        gone, now = frozenset(partitions), self._log.cluster
        self._log.link.call("released", lambda: self.group.release(self._member, self.instance, gone, now.uptime))

    def leave(self) -> None:
        """Gives everything back."""
        self._log.link.call("leave", lambda: self.group.leave(self._member, self.instance))


def _quietly_ended(cluster: Cluster, ticket: Ticket) -> bool:
    try:
        return cluster.end(ticket, commit=False)
    except LogError:
        return False  # A newer producer has the id: opening it aborted what was open.


def _require_bounds(block: Block) -> None:
    size = block.buffer.size
    columns = [(block.value_starts, block.value_ends), (block.key_starts, block.key_ends)]
    for starts, ends in [*columns, *((h.starts, h.ends) for h in block.headers)]:
        here = starts >= 0
        if np.any(here & ((ends < starts) | (ends > size))):
            raise LogError(
                f"the bounds of a block of '{block.topic}' lie outside its buffer of {size} bytes",
                hint="value, key and header bounds must lie inside the buffer",
            )
