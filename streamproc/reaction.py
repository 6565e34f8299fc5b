"""What a reaction sees and may say: an event, a handler, and the two errors that tell the plane what to do next.

A handler is asynchronous and has side effects; handlers that ship (`connectors.handlers`) and those that a user writes
know these names alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from streamproc.errors import StreamprocError
from streamproc.event_time import Span, instant_text, span_us
from streamproc.ports import Block, Membership, TopicPartition


@dataclass(frozen=True, slots=True)
class Event:
    """One record of a topic, as a handler or a subscriber gets it.

    id           the idempotency key: the same however often the record is delivered, and however often a replay makes
                 it where its sink is identified; else its topic, partition and offset
    topic, partition, offset  where it lies
    recorded_at  the record's own timestamp, µs since 1970 UTC
    key          its key as it came
    row          its columns as Python values
    text         the same row as a JSON object in UTF-8, binary columns in hexadecimal digits
    attempt      which attempt of the delivery this is, from 1 on
    """

    id: str
    topic: str
    partition: int
    offset: int
    recorded_at: int
    key: bytes | None
    row: Mapping[str, Any]
    text: bytes
    attempt: int = 1

    def envelope(self) -> bytes:
        """The event as a JSON object, equal at each attempt: id, topic, partition, offset, recorded_at and row."""
        import orjson

        return orjson.dumps(
            {
                "id": self.id,
                "topic": self.topic,
                "partition": self.partition,
                "offset": self.offset,
                "recorded_at": instant_text(self.recorded_at),
                "row": orjson.Fragment(self.text),
            }
        )


class Handler(Protocol):
    """Something asynchronous that is done about an event.

    What it returns is only looked at where the reaction has `answers`. An exception means that it did not succeed: it
    is tried again, but for `GiveUp`, after which the event is a dead letter.
    """

    def __call__(self, event: Event, /) -> Awaitable[Any]:
        """Acts on one event."""
        ...


class GiveUp(StreamprocError):
    """Raised by a handler that will not succeed however often it is tried: the event becomes a dead letter at once."""


class TryLater(StreamprocError):
    """Raised by a handler that may succeed later; `after` is the least wait that the other side asked for.

    >>> TryLater("the service is busy", after="2s").after_us
    2000000
    """

    def __init__(self, message: str, *, after: Span = "0s", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.after_us = span_us(after)


class Deliveries(Protocol):
    """Where a feed hands records over: what happens to them there is recorded, and no business of the feed."""

    async def begin(self, place: TopicPartition, membership: Membership | None = None) -> int:
        """Takes a partition over, if it has not; gives the offset to read from.

        With a membership, nothing is recorded any more once the partition is somebody else's.
        """
        ...

    def room(self, place: TopicPartition) -> int:
        """How many more records of a partition it takes at once; -1 where it has not the partition, or lost it."""
        ...

    async def offer(self, block: Block) -> None:
        """Takes records of one partition in offset order; waits while too many are under way.

        Records that were delivered by now are skipped, so a feed may begin too early, but never too late.
        """
        ...

    async def withdraw(self, places: Iterable[TopicPartition]) -> None:
        """Partitions that belong to somebody else from now on: what is under way is finished or cut off."""
        ...
