"""The simulated cluster: what brokers would keep, on a clock that somebody else moves. It never fails by itself.

Transactions are those of Kafka before each of them had an epoch of its own: a producer has an epoch; records and group
offsets of an open transaction are written and pending; the end of a transaction is decided at once and becomes visible
marker by marker, later, at each partition and group separately. An end that arrives late ends whatever transaction is
then open under its epoch. A transaction that lasts too long is aborted and its producer fenced.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from streamproc.errors import Fenced, LogError, LogUnavailable, UnknownTopic, did_you_mean
from streamproc.ports import Block, TopicPartition, TopicSettings
from streamproc.testing.simulation.groups import Group
from streamproc.testing.simulation.partition import Fate, Partition

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")

Ticket = tuple[str, int]
"""A producer as the cluster knows it: transactional id and epoch."""


@dataclass(slots=True)
class Open:
    """A transaction between its first record and its last marker."""

    fate: Fate
    began: int
    places: set[TopicPartition] = field(default_factory=set)
    offsets: dict[str, dict[TopicPartition, int]] = field(default_factory=dict)
    waiting: int = 0

    @property
    def decided(self) -> bool:
        """Whether only markers are still to come."""
        return self.fate.committed is not None


@dataclass(slots=True)
class _Producer:
    epoch: int = 0
    open: Open | None = None


class Cluster:
    """Topics, transactions and groups.

    now             µs since 1970: append times. It may jump
    uptime          µs that only grow (`advance`): leases, time-outs and markers
    markers         µs that the marker of a decided transaction takes to each place; called once a place
    control_records whether a marker takes an offset
    strict          see `Group`
    dark            partitions whose broker does not answer
    """

    def __init__(
        self,
        *,
        now: int = 0,
        markers: Callable[[], int] | None = None,
        control_records: bool = True,
        strict: bool = False,
        transaction_us: int | None = None,
    ) -> None:
        self.now = now
        self.uptime = 0
        self.markers = markers
        self.control_records = control_records
        self.strict = strict
        self.transaction_us = transaction_us
        self.settings: dict[str, TopicSettings] = {}
        self.partitions: dict[TopicPartition, Partition] = {}
        self.offsets: dict[str, dict[TopicPartition, int]] = {}
        self.groups: dict[tuple[str, str], Group] = {}
        self.dark: set[TopicPartition] = set()
        self._producers: dict[str, _Producer] = {}
        self._instances = 0
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._scheduled = 0

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def advance(self, us: int) -> None:
        """Lets time pass, and lets happen what falls due meanwhile."""
        self.reach(self.uptime + us)

    def reach(self, uptime: int) -> None:
        """Lets time pass up to a moment of `uptime`."""
        while self._due and self._due[0][0] <= uptime:
            at, _, act = heapq.heappop(self._due)
            self._pass(at)
            act()
        self._pass(uptime)

    def _pass(self, uptime: int) -> None:
        gone = max(0, uptime - self.uptime)
        self.uptime += gone
        self.now += gone

    def later(self, us: int, act: Callable[[], None]) -> None:
        """Does something when so much time has passed; at once for none."""
        if us <= 0:
            act()
            return
        self._scheduled += 1
        heapq.heappush(self._due, (self.uptime + us, self._scheduled, act))

    # ── topics ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def create_topic(self, topic: str, settings: TopicSettings) -> None:
        """Creates a topic; other settings for a known one, and names that no log takes, raise LogError."""
        if not _NAME.fullmatch(topic):
            raise LogError(f"'{topic}' is no name for a topic", hint="use 1 to 249 letters, digits, '.', '_' and '-'")
        have = self.settings.get(topic)
        if have is not None and have != settings:
            raise LogError(
                f"topic '{topic}' exists with other settings: {have}", hint="delete it, or keep its settings"
            )
        self.settings[topic] = settings
        for partition in range(settings.partitions):
            place = TopicPartition(topic, partition)
            self.partitions.setdefault(place, Partition(place, settings))

    def delete_topic(self, topic: str) -> None:
        """Removes a topic with its records and committed offsets."""
        if topic not in self.settings:
            raise self._unknown(topic)
        del self.settings[topic]
        for place in [place for place in self.partitions if place.topic == topic]:
            del self.partitions[place]
            for offsets in self.offsets.values():
                offsets.pop(place, None)

    def at(self, place: TopicPartition) -> Partition:
        """A partition whose broker answers; raises UnknownTopic, LogUnavailable."""
        found = self.partitions.get(place)
        if found is None:
            if place.topic in self.settings:
                raise UnknownTopic(
                    f"topic '{place.topic}' has no partition {place.partition}",
                    hint=f"it has {self.settings[place.topic].partitions}",
                )
            raise self._unknown(place.topic)
        if place in self.dark:
            raise LogUnavailable(f"no answer from {place.topic}-{place.partition}", hint="try again later")
        return found

    def _unknown(self, topic: str) -> UnknownTopic:
        return UnknownTopic(f"the log has no topic '{topic}'", hint=did_you_mean(topic, self.settings))

    def clean(self) -> None:
        """Retention of all topics, and compaction of those that are compacted."""
        for partition in self.partitions.values():
            partition.expire(self.now)
            if partition.settings.compacted:
                partition.compact()

    # ── transactions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def open_producer(self, transactional_id: str) -> Ticket | None:
        """A new epoch, which fences the older ones; None while an older transaction still has to be settled."""
        producer = self._producers.setdefault(transactional_id, _Producer())
        if producer.open is not None:
            if not producer.open.decided:
                producer.epoch += 1
                self._decide(producer, commit=False)
            if producer.open is not None:
                return None
        producer.epoch += 1
        return transactional_id, producer.epoch

    def produce(self, ticket: Ticket, block: Block) -> tuple[int, int]:
        """Writes records in the producer's open transaction, which begins with them; gives their offsets."""
        partition = self.at(TopicPartition(block.topic, block.partition))
        transaction = self._transaction(ticket)
        transaction.places.add(partition.place)
        return partition.append(block, self.now, transaction.fate)

    def add_offsets(self, ticket: Ticket, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Makes a group's offsets pending in the producer's open transaction."""
        self._transaction(ticket).offsets.setdefault(group, {}).update(offsets)

    def end(self, ticket: Ticket, *, commit: bool) -> bool:
        """Ends the transaction that is open under the ticket; False if there is none to end."""
        producer = self._checked(ticket)
        if producer.open is None or producer.open.decided:
            return False
        self._decide(producer, commit=commit)
        return True

    def busy(self, ticket: Ticket) -> bool:
        """Whether markers of the producer's last transaction are still to come: a new one must wait for them."""
        producer = self._checked(ticket)
        return producer.open is not None and producer.open.decided

    def unsettled(self, group: str) -> bool:
        """Whether a transaction is about to change a group's offsets."""
        return any(p.open is not None and group in p.open.offsets for p in self._producers.values())

    def check(self, ticket: Ticket) -> None:
        """Raises Fenced if a newer producer has the id."""
        self._checked(ticket)

    def _checked(self, ticket: Ticket) -> _Producer:
        producer = self._producers[ticket[0]]
        if producer.epoch != ticket[1]:
            raise Fenced(f"another producer opened '{ticket[0]}'", hint="only one worker may run under an id")
        return producer

    def _transaction(self, ticket: Ticket) -> Open:
        producer = self._checked(ticket)
        if producer.open is None:
            begun = producer.open = Open(Fate(), self.uptime)
            if self.transaction_us is not None:
                self.later(self.transaction_us, lambda: self._time_out(producer, begun))
        if producer.open.decided:
            raise LogError(f"the last transaction of '{ticket[0]}' is not settled", hint="wait for it")
        return producer.open

    def _time_out(self, producer: _Producer, begun: Open) -> None:
        if producer.open is begun and not begun.decided:
            producer.epoch += 1
            self._decide(producer, commit=False)

    def _decide(self, producer: _Producer, *, commit: bool) -> None:
        transaction = producer.open
        assert transaction is not None
        transaction.fate.committed = commit
        transaction.waiting = len(transaction.places) + len(transaction.offsets)
        if not transaction.waiting:
            producer.open = None
        for place in sorted(transaction.places):
            self.later(self._delay(), lambda place=place: self._mark(producer, transaction, place))  # type: ignore[misc]
        for group in sorted(transaction.offsets):
            self.later(self._delay(), lambda group=group: self._settle(producer, transaction, group))  # type: ignore[misc]

    def _delay(self) -> int:
        return 0 if self.markers is None else self.markers()

    def _mark(self, producer: _Producer, transaction: Open, place: TopicPartition) -> None:
        partition = self.partitions.get(place)
        if partition is not None:
            partition.mark(transaction.fate, takes_offset=self.control_records)
        self._arrived(producer, transaction)

    def _settle(self, producer: _Producer, transaction: Open, group: str) -> None:
        offsets = transaction.offsets.pop(group)
        if transaction.fate.committed:
            known = {place: offset for place, offset in offsets.items() if place in self.partitions}
            self.offsets.setdefault(group, {}).update(known)
        self._arrived(producer, transaction)

    def _arrived(self, producer: _Producer, transaction: Open) -> None:
        transaction.waiting -= 1
        if not transaction.waiting and producer.open is transaction:
            producer.open = None

    # ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def join(self, group: str, topic: str, member: str, lease_us: int) -> tuple[Group, int]:
        """Takes a member into a group; gives the group and the number of this start of the member."""
        if topic not in self.settings:
            raise self._unknown(topic)
        key = (group, topic)
        if key not in self.groups:
            self.groups[key] = Group(group, self.settings[topic].partitions, self.strict)
        self._instances += 1
        self.groups[key].join(member, self._instances, lease_us, self.uptime)
        return self.groups[key], self._instances

    def check_members(self, group: Group, member: str, instance: int, generation: int, owned: Iterable[int]) -> None:
        """Raises Fenced unless a member may commit for these partitions."""
        group.check(member, instance, generation, owned, self.uptime)
