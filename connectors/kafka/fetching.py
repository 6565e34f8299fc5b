"""Fetching record batches from brokers over connections of our own: one request at a time each, never waited for.

librdkafka hands out messages, each of which costs it an allocation, a lock and several copies: two thirds of what
reading costs. What brokers send is a few batches a partition, which kernels turn into columns as they lie. So the bytes
are fetched here, and only that: whoever reads goes back to librdkafka for a partition with which anything is wrong, and
there are leaders that move, brokers that stand still, damaged and packed batches told of and waited out.

The protocol is Fetch version 11 (Kafka 2.3 and newer), read committed, without fetch sessions.
Source: Kafka's protocol guide; KIP-227, KIP-320, KIP-392.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from connectors.kafka.binding import KafkaSettings
from connectors.kafka.connecting import Refused, connect
from streamproc.errors import InputError
from streamproc.ports import Bytes, Int64s, TopicPartition

Address = tuple[str, int]

_FETCH, _VERSION = 1, 11
_WAIT_MS: Final = (5, 50)
"""How long a broker that has nothing may wait for something: longer where nothing has come for a while, for each empty
answer is work. Whoever wants another partition meanwhile waits as long; records are answered at once."""
_CONNECT_S: Final = 0.5
_SILENT_S: Final = 2.0
"""A broker that owes an answer for so long stands still, or is gone."""
_AWAY_S: Final = 5.0
"""One that could not be reached, or was silent, is left alone for so long: each attempt may cost half a second."""
_READ_COMMITTED: Final = 1
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_CLIENT: Final = b"streamproc.reader"
_REQUEST = struct.Struct(">hhih")
_BODY = struct.Struct(">iiiibii")
_PARTITION = struct.Struct(">iiqqi")
_ANSWER = struct.Struct(">iihii")
_ABOUT = struct.Struct(">ihqqqi")
_PAIR = struct.Struct(">qq")
_RECORDS = struct.Struct(">ii")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one answer says of a partition.

    asked      the offset that was asked for
    asked_at   and when, monotonic seconds
    error      Kafka's error code, 0 for none
    stable     the last stable offset: nothing that is decided lies behind it
    batches    record batches, the last one perhaps cut off
    producers, firsts  of each aborted transaction in it, by first offset
    """

    place: TopicPartition
    asked: int
    asked_at: float
    error: int
    stable: int
    batches: Bytes
    producers: Int64s
    firsts: Int64s


class Unusable(Exception):
    """A connection that can be used no more."""


@dataclass(slots=True)
class _Broker:
    """A connection to one broker: what was asked, since when, and how much of the answer has come."""

    address: Address
    socket: socket.socket
    until: float
    asked: dict[TopicPartition, int] = field(default_factory=dict)
    asked_at: float = 0.0
    since: float = 0.0
    number: int = 0
    wait_ms: int = _WAIT_MS[0]
    head: bytearray = field(default_factory=lambda: bytearray(4))
    body: Bytes | None = None
    got: int = 0


class Fetcher:
    """Connections to the brokers from which partitions are fetched.

    partition_bytes  what one answer holds of one partition, about
    most_bytes       what one answer holds, about
    largest          a larger answer than that is not taken
    watch            a poll object that is to wake when an answer comes
    """

    def __init__(
        self, settings: KafkaSettings, *, partition_bytes: int, most_bytes: int, largest: int, watch: select.poll
    ) -> None:
        self._settings = settings
        self._partition_bytes, self._most_bytes, self._largest = partition_bytes, most_bytes, largest
        self._watch = watch
        self._ready = select.poll()
        self._brokers: dict[Address, _Broker] = {}
        self._by_number: dict[int, _Broker] = {}
        self._away: dict[Address, float] = {}
        self._turn = 0

    def connect(self, address: Address) -> bool:
        """Connects to a broker, if that is not done yet; False where it does not answer soon, or did not just now."""
        if address in self._brokers:
            return True
        if time.monotonic() < self._away.get(address, 0.0):
            return False
        try:
            made, until = connect(address, self._settings, _CONNECT_S)
        except (OSError, Refused, InputError):
            self._away[address] = time.monotonic() + _AWAY_S
            return False
        self._brokers[address] = self._by_number[made.fileno()] = _Broker(address, made, until)
        self._ready.register(made, select.POLLIN)
        self._watch.register(made, select.POLLIN)
        return True

    def ask(self, wanted: Mapping[Address, Mapping[TopicPartition, int]]) -> list[TopicPartition]:
        """Asks every broker that owes no answer for partitions from offsets on; gives those that could not be asked."""
        lost: list[TopicPartition] = []
        for address, places in wanted.items():
            broker = self._brokers.get(address)
            if broker is not None and not broker.asked and time.monotonic() > broker.until:
                self._close(broker)  # The proof of who we are runs out: a new connection brings a new one.
                broker = None
            if broker is None and self.connect(address):
                broker = self._brokers[address]
            if broker is None:
                lost += places
            elif not broker.asked and places:
                try:
                    self._send(broker, places)
                except OSError:
                    self._close(broker)
                    lost += places
        return lost

    def answers(self) -> Iterator[Fetched | TopicPartition]:
        """What has come: what an answer says of each partition, or partitions of which none will come."""
        for number, _ in self._ready.poll(0):
            broker = self._by_number.get(number)
            if broker is None:
                continue
            try:
                body = self._received(broker)
                if body is not None:
                    told = list(_parsed(body, broker.number, broker.asked, broker.asked_at))
                    broker.asked = {}
                    some = any(isinstance(one, Fetched) and one.batches.size for one in told)
                    broker.wait_ms = _WAIT_MS[0] if some else min(2 * broker.wait_ms, _WAIT_MS[1])
                    yield from told
            except (OSError, Unusable, struct.error, UnicodeDecodeError):
                yield from self._close(broker)
        now = time.monotonic()
        for broker in list(self._brokers.values()):
            if broker.asked and now - broker.since > _SILENT_S:
                self._away[broker.address] = now + _AWAY_S
                yield from self._close(broker)

    def wait(self, seconds: float) -> None:
        """Waits at most so long for the first bytes of an answer."""
        self._ready.poll(1e3 * seconds)

    @property
    def owes(self) -> bool:
        """Whether any broker owes an answer."""
        return any(broker.asked for broker in self._brokers.values())

    @property
    def is_free(self) -> bool:
        """Whether there is a broker that owes no answer, or none at all: then it is time to ask."""
        return not self._brokers or any(not broker.asked for broker in self._brokers.values())

    def close(self) -> None:
        """Lets go of all connections."""
        for broker in list(self._brokers.values()):
            self._close(broker)

    def _close(self, broker: _Broker) -> list[TopicPartition]:
        """Lets go of a connection; gives what was expected of it."""
        self._brokers.pop(broker.address, None)
        self._by_number.pop(broker.socket.fileno(), None)
        self._ready.unregister(broker.socket)
        self._watch.unregister(broker.socket)
        broker.socket.close()
        lost, broker.asked = list(broker.asked), {}
        return lost

    def _send(self, broker: _Broker, places: Mapping[TopicPartition, int]) -> None:
        broker.number = (broker.number + 1) & 0x7FFFFFFF
        # A broker fills its answer from the front: each partition is in front now and then.
        self._turn += 1
        order = sorted(places)
        order = order[self._turn % len(order) :] + order[: self._turn % len(order)]
        topics: dict[str, list[TopicPartition]] = {}
        for place in order:
            topics.setdefault(place.topic, []).append(place)
        parts = [
            _REQUEST.pack(_FETCH, _VERSION, broker.number, len(_CLIENT)), _CLIENT,
            _BODY.pack(-1, broker.wait_ms, 1, self._most_bytes, _READ_COMMITTED, 0, -1),
            struct.pack(">i", len(topics)),
        ]  # fmt: skip
        for topic, mine in topics.items():
            name = topic.encode()
            parts += [struct.pack(">h", len(name)), name, struct.pack(">i", len(mine))]
            parts += [_PARTITION.pack(at.partition, -1, places[at], -1, self._partition_bytes) for at in mine]
        parts.append(struct.pack(">ih", 0, 0))  # Nothing is forgotten, and we are in no rack.
        request = b"".join(parts)
        message = memoryview(struct.pack(">i", len(request)) + request)
        # A request of some kilobytes fits in what the kernel takes; one that does not is finished here.
        until = time.monotonic() + _CONNECT_S
        while message:
            try:
                message = message[broker.socket.send(message) :]
            except _NOT_NOW:
                if time.monotonic() > until:
                    raise OSError(errno.ETIMEDOUT, "the broker takes no request") from None
                time.sleep(0.001)
        broker.asked, broker.asked_at = dict(places), time.monotonic()
        broker.since = broker.asked_at

    def _received(self, broker: _Broker) -> Bytes | None:
        """The whole answer, once it has come; None while bytes are missing."""
        try:
            if broker.body is None:
                while broker.got < 4:
                    got = broker.socket.recv_into(memoryview(broker.head)[broker.got :])
                    if got == 0:
                        raise Unusable("the broker closed the connection")
                    broker.got += got
                size = int.from_bytes(broker.head, "big")
                if not broker.asked or not _ANSWER.size <= size <= self._largest:
                    raise Unusable(f"an answer of {size} bytes")
                broker.body, broker.got = np.empty(size, np.uint8), 0
            room = broker.body.data
            while broker.got < room.nbytes:
                got = broker.socket.recv_into(room[broker.got :])
                if got == 0:
                    raise Unusable("the broker closed the connection")
                broker.got += got
                broker.since = time.monotonic()
        except _NOT_NOW:
            return None
        body, broker.body, broker.got = broker.body, None, 0
        return body


def _parsed(
    body: Bytes, number: int, asked: Mapping[TopicPartition, int], asked_at: float
) -> Iterator[Fetched | TopicPartition]:
    """What an answer says of each partition; raises Unusable where it is no answer to what was asked."""
    view = body.data
    answers, _throttled, error, _session, topics = _ANSWER.unpack_from(view)
    if answers != number:
        raise Unusable("the answer to another question")
    if error != 0:
        yield from asked
        return
    at, left = _ANSWER.size, dict(asked)
    for _ in range(topics):
        (size,) = struct.unpack_from(">h", view, at)
        at += 2
        topic = bytes(view[at : at + size]).decode()
        (partitions,) = struct.unpack_from(">i", view, at + size)
        at += size + 4
        for _ in range(partitions):
            partition, error, _high, stable, _start, aborted = _ABOUT.unpack_from(view, at)
            at += _ABOUT.size
            pairs = sorted((_PAIR.unpack_from(view, at + row * _PAIR.size) for row in range(max(0, aborted))),
                           key=lambda pair: pair[1])  # fmt: skip
            at += max(0, aborted) * _PAIR.size
            _replica, size = _RECORDS.unpack_from(view, at)
            at += _RECORDS.size
            if at + max(0, size) > body.size:
                raise Unusable("records that are longer than the answer")
            place = TopicPartition(topic, partition)
            if place in left:
                batches = body[at : at + max(0, size)]
                if 2 * batches.size < body.size:
                    batches = batches.copy()  # One partition that waits must not keep what came of all others.
                producers = np.array([producer for producer, _ in pairs], np.int64)
                firsts = np.array([first for _, first in pairs], np.int64)
                yield Fetched(place, left.pop(place), asked_at, error, stable, batches, producers, firsts)
            at += max(0, size)
    yield from left
