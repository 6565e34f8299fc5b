"""Following a topic: what it has got since one looked last, and when to look again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from streamproc.errors import UnknownTopic, did_you_mean
from streamproc.event_time import Span, span_us
from streamproc.ports import Block, Log, TopicPartition

_BLOCK: Final = 65_536


def now_us() -> int:
    """The clock of this machine, µs since 1970 UTC."""
    return time.time_ns() // 1_000


@dataclass(slots=True)
class TopicTail:
    """The committed records of a topic, each once, from its first on.

    clock  µs
    fresh  how long ago the last look may be, see `is_due`; None: for ever

    Raises UnknownTopic.
    """

    topic: str
    log: Log
    clock: Callable[[], int] = now_us
    fresh: Span | None = None
    _within_us: int | None = None
    _looked_at: int | None = None
    _reached: dict[TopicPartition, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._within_us = None if self.fresh is None else span_us(self.fresh)
        settings = self.log.topics().get(self.topic)
        if settings is None:
            names = [name for name in self.log.topics() if not name.endswith(".tasks") and ".edge." not in name]
            raise UnknownTopic(f"the log has no topic '{self.topic}'", hint=did_you_mean(self.topic, names))
        places = [TopicPartition(self.topic, number) for number in range(settings.partitions)]
        self._reached = {place: self.log.start_offset(place) for place in places}

    @property
    def partitions(self) -> int:
        """How many the topic has."""
        return len(self._reached)

    def is_due(self, now: int) -> bool:
        """Whether the last look is longer ago than `fresh` allows."""
        return self._within_us is not None and (self._looked_at is None or now - self._looked_at > self._within_us)

    def blocks(self) -> Iterator[Block]:
        """What was committed since the last look, partition by partition; take all of it."""
        self._looked_at = self.clock()
        for place in self._reached:
            end = self.log.end_offset(place)
            while self._reached[place] < end:
                at = self._reached[place]
                block = self.log.read(place, at, max_records=min(_BLOCK, end - at))
                if not len(block):
                    self._reached[place] = end
                    break
                yield block
                self._reached[place] = int(block.offsets[-1]) + 1
