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

_OLD_S: Final = 0.01
"""An answer to a question of so long ago says what there was."""
_FRESH_S: Final = 0.005
"""So long is the next one waited for then."""
_LITTLE: Final = 1 << 20
"""Bytes of a partition: an answer with more is one of many, and the next one is no news."""
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
        """Takes up what brokers have sent, and asks for what there is room for.

        An answer that lay there for a while says what there was long ago: what came since is asked for, and waited for
        some milliseconds, else it would come a turn later. Gives the partitions with which, or with whose broker,
        something is wrong.
        """
        wrong: list[TopicPartition] = []
        arrived, is_old = self._take_up(partitions, wrong)
        self._ask(partitions, most_bytes, wrong, arrived=arrived)
        until = time.monotonic() + _FRESH_S
        while is_old and not wrong and self._fetcher.owes and (left := until - time.monotonic()) > 0:
            self._fetcher.wait(left)
            arrived, _ = self._take_up(partitions, wrong)
            is_old = not arrived
            self._ask(partitions, most_bytes, wrong, arrived=arrived)
        gone = [place for place in dict.fromkeys(wrong) if place in partitions and partitions[place].leader is not None]
        if gone:
            self._admin.forget_leaders()
        return gone

    def _take_up(self, partitions: Mapping[TopicPartition, Waiting], wrong: list[TopicPartition]) -> tuple[bool, bool]:
        """Whether anything came, and whether all there was long ago: little, and asked for some time before."""
        arrived, is_old = False, False
        for one in self._fetcher.answers():
            arrived = True
            if not isinstance(one, Fetched):
                wrong.append(one)
                continue
            is_old = is_old or (0 < one.batches.size < _LITTLE and time.monotonic() - one.asked_at > _OLD_S)
            waiting = partitions.get(one.place)
            # Else nobody waits for that any more.
            awaited = waiting is not None and waiting.leader is not None and waiting.fetched == one.asked
            if waiting is not None and awaited and not self._arrived(one, waiting):
                wrong.append(one.place)
        return arrived, is_old

    def _ask(
        self, partitions: Mapping[TopicPartition, Waiting], most_bytes: int, wrong: list[TopicPartition], *,
        arrived: bool,
    ) -> None:  # fmt: skip
        now = time.monotonic()
        if self._fetcher.is_free and (arrived or now >= self._ask_at):
            self._ask_at = now + _ASK_S
            wanted: dict[Address, dict[TopicPartition, int]] = {}
            for place, waiting in partitions.items():
                if waiting.leader is not None and place not in wrong and waiting.held < most_bytes:
                    wanted.setdefault(waiting.leader, {})[place] = waiting.fetched
            wrong += self._fetcher.ask(wanted)

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
