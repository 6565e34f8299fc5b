"""Partitions that are fetched directly: batches become blocks as they lie, and whatever is wrong goes to librdkafka."""

from __future__ import annotations

import select
import time
from collections.abc import Mapping
from typing import Final

import numpy as np

from connectors.kafka import record_batches
from connectors.kafka.admin import Admin
from connectors.kafka.fetching import Address, Fetched, Fetcher
from connectors.kafka.headers import with_headers
from connectors.kafka.packings import Unfoldable, unfolded
from connectors.kafka.profile import Profile
from connectors.kafka.waiting import Waiting
from streamproc.ports import Block, Bytes, Int64s, TopicPartition

_ASK_S: Final = 0.001
"""What to ask for is gathered so often where nothing came: a turn looks here once for each of its partitions."""


class Direct:
    """Fetches partitions for a reader.

    watch  a poll object that is to wake when an answer comes
    """

    def __init__(self, profile: Profile, admin: Admin, watch: select.poll) -> None:
        record_batches.prepare()
        settings = profile.reader()
        self._admin = admin
        self._fetcher = Fetcher(
            profile.settings, watch=watch, partition_bytes=settings["max.partition.fetch.bytes"],
            most_bytes=settings["fetch.max.bytes"], largest=settings["receive.message.max.bytes"],
        )  # fmt: skip
        self._most_unfolded = settings["receive.message.max.bytes"]
        self._told = np.zeros(4, np.int64)
        self._ask_at = 0.0

    def leader(self, partition: TopicPartition) -> Address | None:
        """The broker that a partition can be fetched from; None where that cannot be."""
        leader = self._admin.leader(partition)
        return leader if leader is not None and self._fetcher.connect(leader) else None

    def fetch(self, partitions: Mapping[TopicPartition, Waiting], most_bytes: int) -> list[TopicPartition]:
        """Takes up what brokers have sent, and asks for what there is room for; never waits.

        Gives the partitions with which, or with whose broker, something is wrong.
        """
        wrong, arrived = [], False
        for one in self._fetcher.answers():
            arrived = True
            if not isinstance(one, Fetched):
                wrong.append(one)
                continue
            waiting = partitions.get(one.place)
            # Else nobody waits for that any more.
            awaited = waiting is not None and waiting.leader is not None and waiting.fetched == one.asked
            if waiting is not None and awaited and not self._arrived(one, waiting):
                wrong.append(one.place)
        now = time.monotonic()
        if self._fetcher.is_free and (arrived or now >= self._ask_at):
            self._ask_at = now + _ASK_S
            wanted: dict[Address, dict[TopicPartition, int]] = {}
            for place, waiting in partitions.items():
                if waiting.leader is not None and place not in wrong and waiting.held < most_bytes:
                    wanted.setdefault(waiting.leader, {})[place] = waiting.fetched
            wrong += self._fetcher.ask(wanted)
        gone = [place for place in dict.fromkeys(wrong) if place in partitions and partitions[place].leader is not None]
        if gone:
            self._admin.forget_leaders()
        return gone

    def _arrived(self, answer: Fetched, waiting: Waiting) -> bool:
        """Adds what came to what waits; False where reading cannot go on so."""
        if answer.error != 0:
            return False
        batches, told = answer.batches, self._told
        record_batches.survey(batches, 0, batches.size, told)
        end, count, wrong, packed = told.tolist()
        if packed:
            try:
                batches = unfolded(batches.data[:end], self._most_unfolded)
            except Unfoldable:
                return False
            end = batches.size
        # A batch says how many records it has; there cannot be more than its bytes hold.
        count = min(count, batches.size // record_batches.LEAST_RECORD)
        columns = np.empty((record_batches.COLUMNS, count), np.int64)
        record_batches.unpack(batches, 0, end, waiting.fetched, answer.producers, answer.firsts, columns, told)
        rows, position, headed, broken = told.tolist()
        if broken:
            return False
        if rows:
            waiting.blocks.append(_unpacked(answer.place, columns[:, :rows], batches, headed=headed > 0))
        waiting.fetched = position
        if position >= answer.stable:
            waiting.reached = max(waiting.reached, answer.stable)
        return bool(wrong == record_batches.SOUND)

    @property
    def is_asking(self) -> bool:
        """Whether an answer is on its way, which will wake whoever sleeps on it."""
        return self._fetcher.owes

    def close(self) -> None:
        """Lets go of the connections."""
        self._fetcher.close()


def _unpacked(partition: TopicPartition, columns: Int64s, batches: Bytes, *, headed: bool) -> Block:
    offsets, stamps, *bounds, places = columns
    block = Block(*partition, offsets, stamps, batches, *bounds)
    if not headed:
        return block
    count = record_batches.count_headers(batches, places)
    rows, names, sizes, starts, ends = np.empty((5, count), np.int64)
    found = record_batches.list_headers(batches, places, rows, names, sizes, starts, ends)
    names += batches.ctypes.data
    return with_headers(block, *(part[:found] for part in (rows, names, sizes, starts, ends)))
