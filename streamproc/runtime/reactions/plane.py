"""The reaction plane of one process: what a feed brings goes to handlers, and what became of it into the log."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from streamproc.contracts.registry import Registry
from streamproc.errors import Fenced, UnknownTopic, did_you_mean
from streamproc.event_time import span_us
from streamproc.ports import Block, Log, Membership, TopicPartition, TopicSettings
from streamproc.reaction import Deliveries
from streamproc.runtime.reactions.breaker import BreakerState
from streamproc.runtime.reactions.definition import Reactions
from streamproc.runtime.reactions.delivery import Delivery, Outcome
from streamproc.runtime.reactions.lane import Lane
from streamproc.runtime.reactions.log_thread import LogThread
from streamproc.runtime.reactions.receiving import Origin, Received, letters, received
from streamproc.runtime.reactions.recording import Recorder
from streamproc.runtime.reactions.records import (
    BREAKER,
    DELIVERY,
    UNDELIVERED,
    Writer,
    answer_block,
    partition_of,
)
from streamproc.runtime.reading import TopicReader, read_topic

_KEPT_US: Final = 30 * 86_400_000_000
"""How long the record of a delivery is kept."""
_LOOK_S: Final = 0.05


class Feed(Protocol):
    """Brings the records of the topics that reactions act on, from the partitions that are this process's."""

    async def run(self, deliveries: Deliveries) -> None:
        """Offers records until it is cancelled."""
        ...

    async def close(self) -> None:
        """Gives the partitions back; called when everything that was offered is recorded or cut off."""
        ...


@dataclass(slots=True)
class Deeds:
    """What one process did: events by what became of them, attempts beyond the first, handlers cut off at the end."""

    delivered: int = 0
    dead_lettered: int = 0
    retries: int = 0
    cut_off: int = 0
    topics: dict[str, int] = field(default_factory=dict)


class ReactionPlane:
    """Runs `Reactions` on a log.

    log       the log's thread, entered
    registry  contracts of the topics, and of answers
    first     gives the offset at which reactions begin that never ran on this log
    again     delivers the dead letters of these reactions, instead of the topics that they act on
    now_us    the moment, µs since 1970 UTC

    It is the `Deliveries` that its feed brings records to.
    """

    def __init__(
        self,
        reactions: Reactions,
        log: LogThread,
        registry: Registry,
        *,
        first: Callable[[Log, TopicPartition], int] = lambda log, place: log.start_offset(place),
        again: bool = False,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._reactions, self._log, self._registry, self._first, self._now_us = reactions, log, registry, first, now_us
        self._again = again
        self.group = f"{reactions.group}.again" if again else reactions.group
        self.topics = (reactions.dead_letters,) if again else tuple(reactions.handlers)
        self._reader = TopicReader(registry)
        self._lanes: dict[TopicPartition, tuple[Lane, Recorder]] = {}
        self._opening = asyncio.Lock()
        self._stop = asyncio.Event()
        self._closing = False
        self._partitions: dict[str, int] = {}
        self._limits: Mapping[TopicPartition, int] = {}
        self._letters, self._deliveries = Writer(UNDELIVERED, registry), Writer(DELIVERY, registry)
        self._breaker_rows = Writer(BREAKER, registry)
        self._answers = {
            topic: Writer(registry.contract(answers.contract), registry)
            for topic in reactions.handlers
            if (answers := reactions.reaction(topic).answers) is not None
        }
        self.deeds = Deeds()

    def stop(self) -> None:
        """Asks `run` to come to an end; from any code of its event loop."""
        self._stop.set()

    async def run(self, feed: Feed, *, until_end: bool = False) -> Deeds:
        """Delivers until it is stopped, or, `until_end`, until all that is in the topics now is dealt with.

        At the end it waits for handlers that are under way, `drain` at most; one that is cut off then was not recorded,
        and its event is delivered again, with the same id, by whoever runs next.
        Raises UnknownTopic, and other LogErrors that waiting does not mend.
        """
        await self._prepare()
        ends = await self._log(self._ends) if until_end else None
        if self._again:
            # A dead letter that fails once more is a new one: it waits for the next time.
            self._limits = ends or {}
        tasks = [asyncio.ensure_future(work) for work in (feed.run(self), self._watch(ends), self._stop.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._closing = True
            await asyncio.wait(tasks)
            try:
                await self.withdraw(list(self._lanes))
            finally:
                await feed.close()
        for task in done:
            task.result()
        return self.deeds

    async def begin(self, place: TopicPartition, membership: Membership | None = None) -> int:
        """Takes a partition over; gives the offset to read from."""
        async with self._opening:
            if place in self._lanes:
                return self._lanes[place][1].position
            recorder = Recorder(self._log, self.group, place, membership, first=self._first)
            position = await recorder.open()
            deliver: Callable[[Received], Awaitable[Outcome]]
            if self._again:
                each = {topic: await self._delivery(topic, place, recorder) for topic in self._reactions.handlers}
                deliver, concurrency = partial(self._deliver_again, each), 1
            else:
                delivery = await self._delivery(place.topic, place, recorder)
                deliver, concurrency = delivery.deliver, self._reactions.reaction(place.topic).concurrency
            lane = Lane(
                position, concurrency, deliver=deliver, record=lambda ended: self._record(recorder, place, ended)
            )
            self._lanes[place] = lane, recorder
            return position

    def room(self, place: TopicPartition) -> int:
        """How many more events of a partition it takes at once; -1 where it has not the partition, or lost it."""
        return self._lanes[place][0].room if place in self._lanes else -1

    async def offer(self, block: Block) -> None:
        """Takes records of one partition in offset order; waits while too many are under way."""
        place = TopicPartition(block.topic, block.partition)
        for record in (letters if self._again else received)(block, self._reader):
            lane = self._lanes.get(place)
            if lane is None or self._closing or record.offset >= self._limits.get(place, record.offset + 1):
                return
            await lane[0].take(record)

    async def withdraw(self, places: Iterable[TopicPartition]) -> None:
        """Partitions that belong to somebody else from now on: what is under way is finished or cut off."""
        drain_s = span_us(self._reactions.drain) / 1e6
        leaving = [self._lanes.pop(place) for place in places if place in self._lanes]
        for cut, (_, recorder) in zip(
            await asyncio.gather(*(lane.close(drain_s) for lane, _ in leaving)), leaving, strict=True
        ):
            self.deeds.cut_off += cut
            await recorder.close()

    async def _delivery(self, topic: str, place: TopicPartition, recorder: Recorder) -> Delivery:
        reaction = self._reactions.reaction(topic)
        return Delivery(
            reaction,
            f"{place.topic}-{place.partition}",
            answers=self._answers.get(topic),
            save=lambda name, state: self._store(recorder, name, state),
            states={} if reaction.breaker is None else await self._log(self._breaker_states),
            now_us=self._now_us,
        )

    async def _deliver_again(self, each: Mapping[str, Delivery], letter: Received) -> Outcome:
        if letter.origin is not None and letter.origin.topic in each:
            return await each[letter.origin.topic].deliver(letter)
        now = self._now_us()
        return Outcome("dead_lettered", 0, now, now, "no_handler", "no handler acts on its topic any more")

    async def _prepare(self) -> None:
        for topic in self._reactions.handlers:
            check = getattr(self._reactions.reaction(topic).handler, "check", None)
            if check is not None:
                check()
        await self._log(self._create_topics)

    def _create_topics(self, log: Log) -> None:
        topics = log.topics()
        own = self._reactions
        wanted = {own.dead_letters: TopicSettings(1), own.deliveries: TopicSettings(1, retention_us=_KEPT_US)}
        for topic in own.handlers:
            if topic not in topics:
                raise UnknownTopic(
                    f"reactions '{own.name}' act on '{topic}', and the log has no such topic",
                    hint=f"run the topology that writes it first; {did_you_mean(topic, topics)}",
                )
            reaction = own.reaction(topic)
            if reaction.answers is not None:
                wanted[reaction.answers.topic] = TopicSettings(topics[topic].partitions)
            if reaction.breaker is not None:
                wanted[own.breakers] = TopicSettings(1, compacted=True)
        for topic, settings in wanted.items():
            if topic not in topics:
                log.create_topic(topic, settings)
        self._partitions = {topic: made.partitions for topic, made in log.topics().items()}

    def _ends(self, log: Log) -> dict[TopicPartition, int]:
        return {
            place: log.end_offset(place)
            for topic in self.topics
            for place in (TopicPartition(topic, number) for number in range(self._partitions[topic]))
        }

    async def _watch(self, ends: dict[TopicPartition, int] | None) -> None:
        """Notices lanes that ended, and the end of everything; raises what waiting does not mend."""
        while True:
            for place, (lane, recorder) in list(self._lanes.items()):
                if (error := lane.failure()) is None:
                    continue
                if not isinstance(error, Fenced):
                    raise error
                del self._lanes[place]
                await lane.close(0)
                with contextlib.suppress(Fenced):
                    await recorder.close()
            if (
                ends is not None
                and all(lane.idle for lane, _ in self._lanes.values())
                and await self._log(lambda log: self._reached(log, ends))
            ):
                return
            await asyncio.sleep(_LOOK_S)

    def _reached(self, log: Log, ends: dict[TopicPartition, int]) -> bool:
        """Whether everything below the ends is dealt with, by whomever. Markers of transactions are no records."""
        committed = log.committed(self.group)
        for place, end in ends.items():
            at = max(committed.get(place, 0), log.start_offset(place))
            if at < end:
                block = log.read(place, at, max_records=1)
                if len(block) and int(block.offsets[0]) < end:
                    return False
        return True

    def _breaker_states(self, log: Log) -> dict[str, BreakerState]:
        frame = read_topic(log, self._registry, self._reactions.breakers, BREAKER.schema.polars())
        return {
            row["breaker"]: BreakerState(row["state"], row["since_us"], row["until_us"], row["wait_us"], row["probes"])
            for row in frame.with_columns(
                since_us=frame["since"].to_physical(), until_us=frame["until"].to_physical()
            ).to_dicts()
        }

    async def _store(self, recorder: Recorder, name: str, state: BreakerState) -> None:
        row = {
            "breaker": name, "state": state.state, "since": state.since, "until": state.until,
            "wait_us": state.wait_us, "probes": state.probes,
        }  # fmt: skip
        await recorder.store(self._breaker_rows.block(self._reactions.breakers, [row], key=name.encode()))

    async def _record(
        self, recorder: Recorder, place: TopicPartition, ended: Sequence[tuple[Received, Outcome]]
    ) -> None:
        own = self._reactions
        blocks: list[Block] = []
        failed: list[dict[str, object]] = []
        rows: list[dict[str, Any]] = []
        for event, outcome in ended:
            origin = event.origin or Origin(place.topic, place.partition, event.offset)
            handler = handler_name(own.reaction(origin.topic).handler) if origin.topic in own.handlers else ""
            rows.append(
                {
                    "id": event.id, **origin._asdict(), "handler": handler, "outcome": outcome.outcome,
                    "attempts": outcome.attempts, "started_at": outcome.started_at, "ended_at": outcome.ended_at,
                }
            )  # fmt: skip
            if outcome.outcome == "dead_lettered":
                failed.append(_letter(origin, handler, event, outcome))
            if outcome.answers:
                answers = own.reaction(origin.topic).answers
                assert answers is not None, "only a reaction with answers makes payloads"
                partition = partition_of(event.key, self._partitions[answers.topic], origin.partition)
                blocks.append(answer_block(answers.topic, partition, outcome.answers, event.key, event.id))
        if failed:
            blocks.append(self._letters.block(own.dead_letters, failed))
        blocks.append(self._deliveries.block(own.deliveries, rows))
        await recorder.record(blocks, ended[-1][0].offset + 1)
        self.deeds.delivered += len(ended) - len(failed)
        self.deeds.dead_lettered += len(failed)
        for row in rows:
            self.deeds.topics[row["topic"]] = self.deeds.topics.get(row["topic"], 0) + 1
        self.deeds.retries += sum(max(outcome.attempts - 1, 0) for _, outcome in ended)


def handler_name(handler: object) -> str:
    """What a handler is called in records.

    >>> async def notify(event): ...
    >>> handler_name(notify)
    'notify'
    """
    return getattr(handler, "__name__", type(handler).__name__)


def _letter(origin: Origin, handler: str, event: Received, outcome: Outcome) -> dict[str, object]:
    return {
        "fate": "dead_lettered", "reason": outcome.reason, "step": handler, **origin._asdict(),
        "recorded_at": event.recorded_at, "key": event.key, "payload": event.payload, "encoding": "record",
        "id": event.id, "attempts": outcome.attempts, "detail": outcome.detail, "failed_at": outcome.ended_at,
    }  # fmt: skip
