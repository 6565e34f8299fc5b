"""The feed of the embedded log, and of any log by its port: members of a group share out each topic's partitions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Final

from streamproc.errors import Fenced, LogError
from streamproc.ports import Block, Log, Membership, TopicPartition
from streamproc.reaction import Deliveries
from streamproc.runtime.reactions.lane import WAITING
from streamproc.runtime.reactions.log_thread import LogThread

_PAUSE_S: Final = (0.01, 0.1)
_LEASE_US: Final = 5_000_000
"""So long a killed process keeps its partitions from others; a handler that blocks the event loop longer loses them."""


class LogFeed:
    """Brings what a member of the group owns.

    topics  read under one group, each with a membership of its own
    member  a name that no other process of the group has
    """

    def __init__(self, log: LogThread, group: str, topics: Sequence[str], member: str) -> None:
        self._log, self._group, self._topics, self._member = log, group, topics, member
        self._memberships: dict[str, Membership] = {}
        self._next: dict[TopicPartition, int] = {}
        self._leaving: dict[TopicPartition, asyncio.Task[None]] = {}

    async def run(self, deliveries: Deliveries) -> None:
        """Offers records until it is cancelled. A member that lost its lease joins anew."""
        least, most = _PAUSE_S
        pause = least
        while True:
            try:
                changed = await self._settle(deliveries)
                room = {place: deliveries.room(place) for place in self._next}
                if min(room.values(), default=0) < 0:
                    raise Fenced("a partition was taken over", hint="join anew")
                blocks = await self._log(partial(self._read, room))
            except Fenced:
                await self._rejoin(deliveries)
                continue
            for block in blocks:
                self._next[TopicPartition(block.topic, block.partition)] = int(block.offsets[-1]) + 1
                await deliveries.offer(block)
            pause = least if blocks or changed else min(pause * 1.5, most)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Leaves the group."""
        for task in self._leaving.values():
            task.cancel()
        memberships, self._memberships = list(self._memberships.values()), {}

        def leave(log: Log) -> None:
            for membership in memberships:
                with contextlib.suppress(LogError):
                    membership.leave()

        await self._log(leave)

    async def _settle(self, deliveries: Deliveries) -> bool:
        """Begins partitions that came and hands over those that go; whether there were any."""
        mine = await self._log(self._mine)
        came = sorted(mine - set(self._next) - set(self._leaving))
        gone = sorted(set(self._next) - mine)
        for place in gone:
            del self._next[place]
            self._leaving[place] = asyncio.create_task(self._give(place, deliveries))
        for place in came:
            self._next[place] = await deliveries.begin(place, self._memberships[place.topic])
        for place, task in list(self._leaving.items()):
            if task.done():
                del self._leaving[place]
                task.result()
        return bool(came or gone)

    async def _give(self, place: TopicPartition, deliveries: Deliveries) -> None:
        """Hands a partition over; meanwhile the lease is renewed by the loop."""
        await deliveries.withdraw([place])
        membership = self._memberships[place.topic]
        await self._log(lambda log: membership.released([place.partition]))

    async def _rejoin(self, deliveries: Deliveries) -> None:
        for task in self._leaving.values():
            task.cancel()
        self._leaving.clear()
        places = list(self._next)
        self._next.clear()
        await deliveries.withdraw(places)
        await self.close()

    def _mine(self, log: Log) -> set[TopicPartition]:
        for topic in self._topics:
            if topic not in self._memberships:
                self._memberships[topic] = log.join(self._group, topic, self._member, lease_us=_LEASE_US)
        return {
            TopicPartition(topic, number)
            for topic, membership in self._memberships.items()
            for number in membership.poll()
        }

    def _read(self, room: dict[TopicPartition, int], log: Log) -> list[Block]:
        blocks = []
        for place, at in self._next.items():
            if room[place] > 0 and log.available(place, at) > at:
                block = log.read(place, at, max_records=min(room[place], WAITING), max_bytes=4 << 20)
                if len(block):
                    blocks.append(block)
        return blocks
