"""A worker's place in a consumer group that shares out the task topic.

The group's consumer reads nothing: what it is assigned stands still, and the tasks' inputs are read by another client.
All its callbacks run inside `poll`, on the thread that also commits, and the worker polls only between two
transactions: so no transaction is open when a partition changes hands, and `released` has nothing left to say.
Heartbeats are librdkafka's own.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPlace

from connectors.kafka.answers import Connection, error_of, refusal, stale
from connectors.kafka.profile import Profile
from streamproc.errors import Fenced, LogError

logger = logging.getLogger(__name__)

_SERVE_S: Final = 0.0
"""What the group has to say lies ready, and is rare: to wait for it would hold up a worker's records once a second."""
_JOIN_S: Final = 0.2
_METADATA: Final = b"CGMDv2:"
"""So begins the metadata as the library writes it: then four bytes of the generation, the names of group and member."""


class KafkaMembership:
    """One member of a group; `partition -> generation since which it is held` is kept by the rebalance callbacks."""

    def __init__(self, profile: Profile, group: str, topic: str, member: str, *, lease_s: float) -> None:
        self._group, self._topic, self._member = group, topic, member
        self._connection = Connection(profile.brokers)
        self._held: dict[int, int] = {}
        self._generation = 0
        self._left = False
        self._lost = False
        self._assigned_once = False
        self._consumer = Consumer({**profile.member(group, member, lease_s), "error_cb": self._connection})
        self._consumer.subscribe([topic], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._lose)

    @property
    def member(self) -> str:
        """The member's name."""
        return self._member

    @property
    def group(self) -> str:
        """The group's name."""
        return self._group

    @property
    def topic(self) -> str:
        """The topic whose partitions are shared out."""
        return self._topic

    @property
    def generation(self) -> int:
        """Grows with every change of this member's partitions."""
        return self._generation

    def poll(self) -> frozenset[int]:
        """Serves the group and gives the partitions that are this member's now; those that moved away are gone already.

        Raises Fenced if the member left, StaleMember once if the group threw it out; it has joined anew by then.
        """
        if self._left:
            raise Fenced(f"'{self._member}' left the group '{self._group}'", hint="join again")
        until = time.monotonic() + (_SERVE_S if self._assigned_once else _JOIN_S)
        while True:
            message = self._consumer.poll(max(0.0, until - time.monotonic()))
            error = None if message is None else message.error()
            if error is not None:
                self._complain(error)
            if time.monotonic() >= until:
                break
            if message is None and self._assigned_once:
                break
        self._connection.check()
        if self._lost:
            self._lost = False
            lost = stale(self._member, self._group, "its session ran out, and its partitions went to others")
            # To leave while that is under way makes a member of nobody, which keeps its share for a whole session.
            lost.joined = True
            raise lost
        return frozenset(self._held)

    def renew(self) -> None:
        """Heartbeats are sent in the background: nothing is to be done, and nothing may move."""

    def released(self, partitions: Iterable[int]) -> None:
        """What moved away has moved already, inside `poll`."""

    def leave(self) -> None:
        """Gives everything back at once."""
        if self._left:
            return
        self._left = True
        self._held.clear()
        self._generation += 1
        self._consumer.close()

    def standing(self, owned: Iterable[int]) -> dict[int, int]:
        """Since which generation each of these partitions is held; raises StaleMember for one that is not."""
        missing = sorted(number for number in owned if number not in self._held)
        if self._left or missing:
            raise stale(self._member, self._group, f"it does not hold {missing}" if missing else "it left")
        return {number: self._held[number] for number in owned}

    def metadata(self) -> bytes:
        """What brokers compare a commit with: member and generation, as the client knows them now.

        Raises StaleMember where it knows neither: brokers compare nothing then, and would let a zombie's commit in.
        """
        found: bytes = self._consumer.consumer_group_metadata()
        if found.startswith(_METADATA):
            _, generation, member = member_of(found)
            if generation < 0 or not member:
                raise stale(self._member, self._group, "it is no member now")
        return found

    def _complain(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
            return
        if error.code() == KafkaError._MAX_POLL_EXCEEDED:
            self._lost = True
            return
        raise refusal(error, f"group '{self._group}'", self._connection)

    def _assign(self, consumer: Consumer, places: list[KafkaPlace]) -> None:
        self._assigned_once = True
        if not places:
            return
        self._generation += 1
        for place in places:
            self._held[place.partition] = self._generation
        # Nothing is ever read here: paused before the first fetch can go out.
        given = [KafkaPlace(place.topic, place.partition, OFFSET_BEGINNING) for place in places]
        consumer.incremental_assign(given)
        consumer.pause(given)

    def _revoke(self, consumer: Consumer, places: list[KafkaPlace]) -> None:
        self._generation += 1
        for place in places:
            self._held.pop(place.partition, None)
        try:
            consumer.incremental_unassign(places)
        except KafkaException as problem:
            logger.debug("%s: unassign: %s", self._member, error_of(problem).str())

    def _lose(self, consumer: Consumer, places: list[KafkaPlace]) -> None:
        self._lost = True
        self._revoke(consumer, places)


def member_of(metadata: bytes) -> tuple[str, int, str]:
    """Group, generation and member as a consumer's metadata have them: -1 and "" of one that never joined."""
    rest = metadata.removeprefix(_METADATA)
    if len(rest) == len(metadata):
        raise LogError("a consumer's metadata are written in another way", hint="write direct = false under [kafka]")
    group, member, *_ = rest[4:].split(b"\0")
    return group.decode(), int.from_bytes(rest[:4], sys.byteorder, signed=True), member.decode()
