"""Hands whole blocks to librdkafka: no Python call, and no object, for each record.

What a transaction means, and what each error of one means, is `transaction`'s; here is how records get out and how
their offsets come back.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPlace

from connectors.kafka import kernels
from connectors.kafka.admin import Admin
from connectors.kafka.answers import Connection
from connectors.kafka.native import (
    EVENT_DELIVERIES,
    PRODUCER,
    PURGE_ALL,
    Client,
    PartitionList,
    check,
    check_code,
    rd,
)
from connectors.kafka.profile import Profile
from connectors.kafka.requests import TransactionRequests
from streamproc.hashing import frozen
from streamproc.ports import Block, Bytes, Int64s, TopicPartition

_PART: Final = 8_192
"""Messages that are handed over at once: their structs stay in the processor's cache."""
_OUTSTANDING: Final = 1_000_000
_WAIT_S: Final = 30.0
_PRODUCE, _NONE = rd.address("produceva"), np.empty(0, np.int64)
_NOTHING: Final = np.zeros(1, np.uint8)
_KEPT: Final[dict[int, list[Bytes]]] = {}
"""Per client, the buffers from which it may still send: not with the sender, which may be forgotten without a close
while the client's threads go on."""
_LEFT_BEHIND: Final[list[tuple[BlockSender, list[Bytes]]]] = []
"""Whose clients could not be freed: their threads still count requests in the sender's memory, and read its buffers."""


class BlockSender:
    """librdkafka's transactional producer, given blocks."""

    aborts_by_polling = True
    ends_fence = keeps_time = False

    def __init__(self, settings: Mapping[str, Any], connection: Connection, *, most_bytes: int) -> None:
        kernels.prepare()
        self._requests = TransactionRequests()
        self._client = Client(PRODUCER, settings, connection, deliveries=True, watch=self._requests.watch)
        self._most_bytes = most_bytes
        self._topics: dict[str, int] = {}
        self._outstanding = self._bytes = 0
        self._messages = np.empty((_PART, kernels.MESSAGE_WORDS), np.int64)
        self._reports = np.empty(0, np.int64)
        self._runs = np.empty((0, kernels.RUN_WORDS), np.int64)
        self.ranges: dict[TopicPartition, tuple[int, int]] = {}
        self.failed: KafkaError | None = None

    @classmethod
    def opened(cls, profile: Profile, _admin: Admin, transactional_id: str, connection: Connection) -> Self:
        """The client of a transactional id."""
        return cls(profile.writer(transactional_id), connection, most_bytes=profile.outstanding_bytes)

    def __len__(self) -> int:
        return self._outstanding

    @property
    def sent_again(self) -> bool:
        """Whether a copy of a request of the last transaction may still be under way."""
        return self._requests.sent_again

    def init_transactions(self, timeout_s: float) -> None:
        """Fences older producers of the id."""
        check(rd.init_transactions(self._client.at, _ms(timeout_s)))

    def begin_transaction(self) -> None:
        """Begins; the brokers hear of it with the first record."""
        self.ranges, self.failed = {}, None
        self._requests.begin()
        check(rd.begin_transaction(self._client.at))

    def send_offsets_to_transaction(self, places: list[KafkaPlace], metadata: bytes, timeout_s: float) -> None:
        """Adds a group's offsets; the metadata is as a consumer gives it."""
        self._requests.offsets_called()
        found = ctypes.c_void_p()
        check(rd.consumer_group_metadata_read(ctypes.byref(found), metadata, len(metadata)))
        try:
            with PartitionList({(place.topic, place.partition): place.offset for place in places}) as offsets:
                check(rd.send_offsets_to_transaction(self._client.at, offsets, found, _ms(timeout_s)))
        finally:
            rd.consumer_group_metadata_destroy(found)

    def commit_transaction(self, timeout_s: float) -> None:
        """Commits."""
        check(rd.commit_transaction(self._client.at, _ms(timeout_s)))

    def abort_transaction(self, timeout_s: float) -> None:
        """Aborts; what was not sent yet is thrown away. Comes back only if every report is taken up meanwhile."""
        check(rd.abort_transaction(self._client.at, _ms(timeout_s)))

    def poll(self, timeout_s: float) -> None:
        """Takes up delivery reports."""
        for kind, event in self._client.events(timeout_s):
            if kind == EVENT_DELIVERIES:
                self._delivered(event)

    def close(self, _timeout_s: float = 0.0) -> None:
        """Lets go; what was not sent is forgotten."""
        rd.purge(self._client.at, PURGE_ALL)
        self.poll(0.0)
        for topic in self._topics.values():
            rd.topic_destroy(topic)
        # Taken out before the client is gone: the next one may lie at the same address.
        kept = _KEPT.pop(self._client.at, [])
        if not self._client.close():
            _LEFT_BEHIND.append((self, kept))

    # ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, block: Block) -> None:
        """Hands a block's records to the client; waits while too much is on its way.

        The client reads them where they lie: the buffer is kept until everything that was sent has been reported.
        """
        topic = self._topic(block.topic)
        if block.headers or block.timestamps.size:
            self._send_each(topic, block)
        else:
            self._send_batches(topic, block)
        self.poll(0.0)

    def _send_batches(self, topic: int, block: Block) -> None:
        buffer = block.buffer if block.buffer.size else _NOTHING
        value_starts, value_ends = frozen(block.value_starts), frozen(block.value_ends)
        key_starts, key_ends = frozen(block.key_starts), frozen(block.key_ends)
        start = 0
        while start < len(block):
            count, size = kernels.fill_messages(
                buffer.ctypes.data, value_starts, value_ends, key_starts, key_ends, start, self._most_bytes // 4,
                self._messages,
            )  # fmt: skip
            self._make_room(count, size)
            kept = _KEPT.setdefault(self._client.at, [])
            if not kept or kept[-1] is not buffer:
                kept.append(buffer)
            sent = rd.produce_batch(topic, block.partition, 0, self._messages.ctypes.data, count)
            self._outstanding += sent
            self._bytes += size
            if sent != count:
                errors = self._messages.view(np.int32)[:count, 0]
                check_code(int(errors[errors != 0][0]))
            start += count

    def _send_each(self, topic: int, block: Block) -> None:
        buffer = block.buffer if block.buffer.size else _NOTHING
        base = buffer.ctypes.data
        sizes = np.where(block.value_starts >= 0, block.value_ends - block.value_starts, 0)
        key_sizes = np.where(block.key_starts >= 0, block.key_ends - block.key_starts, 0)
        payloads = np.where(block.value_starts >= 0, base + block.value_starts, 0)
        keys = np.where(block.key_starts >= 0, base + block.key_starts, 0)
        ends = np.cumsum(sizes + key_sizes)
        start = 0
        while start < len(block):
            spent = int(ends[start - 1]) if start else 0
            fits = int(np.searchsorted(ends, spent + self._most_bytes // 4, side="right"))
            stop = min(len(block), start + _PART, max(start + 1, fits))
            size = int(ends[stop - 1]) - spent
            self._make_room(stop - start, size)
            self._send_part(topic, block, slice(start, stop), base, payloads, sizes, keys, key_sizes)
            self._outstanding += stop - start
            self._bytes += size
            start = stop

    def _send_part(self, topic: int, block: Block, part: slice, base: int, payloads: Int64s, sizes: Int64s,
                   keys: Int64s, key_sizes: Int64s) -> None:
        names = [ctypes.create_string_buffer(header.name.encode()) for header in block.headers]
        count = payloads[part].size
        values, lengths = np.zeros((2, len(names), count), np.int64)
        for number, header in enumerate(block.headers):
            there = header.starts[part] >= 0
            values[number] = np.where(there, base + header.starts[part], 0)
            lengths[number] = np.where(there, header.ends[part] - header.starts[part], 0)
        arguments = np.zeros((6 + len(names)) * 9, np.int64)
        error = kernels.produce_each(
            _PRODUCE, self._client.at, topic, block.partition, payloads[part], sizes[part], keys[part], key_sizes[part],
            block.timestamps[part] // 1_000 if block.timestamps.size else _NONE,
            np.array([ctypes.addressof(name) for name in names], np.int64), values, lengths,
            arguments, arguments.ctypes.data,
        )  # fmt: skip
        check(error)

    def _make_room(self, records: int, size: int) -> None:
        until = time.monotonic() + _WAIT_S
        while self._outstanding and (
            self._outstanding + records > _OUTSTANDING or self._bytes + size > self._most_bytes
        ):
            before = self._outstanding
            self.poll(0.05)
            if self._outstanding < before:
                until = time.monotonic() + _WAIT_S
            elif time.monotonic() > until:
                raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT, "nothing was delivered", False, False, True))
            if self.failed is not None:
                return

    def _topic(self, name: str) -> int:
        if name not in self._topics:
            self._topics[name] = rd.topic_new(self._client.at, name.encode(), None)
        return self._topics[name]

    def _delivered(self, event: int) -> None:
        reported = rd.event_message_count(event)
        if reported > self._reports.size:
            self._reports = np.empty(2 * reported, np.int64)
            self._runs = np.empty((2 * reported, kernels.RUN_WORDS), np.int64)
        count = rd.event_message_array(event, self._reports.ctypes.data, reported)
        told = np.zeros(2, np.int64)
        runs, size = kernels.delivered(
            self._reports[:count], KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, self._runs, told
        )
        self._outstanding -= count
        self._bytes -= size
        if told[0]:  # What was thrown away with others says nothing of why.
            self.failed = self.failed or KafkaError(int(told[0]))
        if told[1]:
            self.failed = self.failed or KafkaError(KafkaError._FAIL, "a delivery came without its offset")
        # Reports come partition by partition: few runs.
        for topic, partition, low, high in self._runs[:runs].tolist():
            place = TopicPartition(rd.topic_name(topic).decode(), partition)
            have = self.ranges.get(place, (low, high))
            self.ranges[place] = (min(have[0], low), max(have[1], high))
        if self._outstanding == 0:
            self._let_go()

    def _let_go(self) -> None:
        """Nothing is on its way any more, so nothing is read from the buffers."""
        self._bytes = 0
        _KEPT.pop(self._client.at, None)


def _ms(seconds: float) -> int:
    return int(seconds * 1_000)
