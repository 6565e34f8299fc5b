"""Reading partitions in blocks, with no object for a record.

Batches are fetched directly (`fetching`) and become blocks as they lie. For a while after anything went wrong with a
partition or its broker, and always where the binding says so, librdkafka reads it: it has a queue for each, stops
fetching when that is full, waits for leaders, and knows what to say of damage; its messages are copied into one buffer
by a kernel. What came waits here as blocks until it is asked for. The client is in no group: positions are the
engine's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from collections.abc import Mapping
from typing import Final

import numpy as np
from confluent_kafka import KafkaError

from connectors.kafka.admin import Admin, out_of_range
from connectors.kafka.answers import Connection, refusal
from connectors.kafka.direct import Direct
from connectors.kafka.joining import beyond, cut, unused
from connectors.kafka.messages import TAKEN, Messages
from connectors.kafka.native import CONSUMER, Client, check_code, rd
from connectors.kafka.profile import Profile
from connectors.kafka.reading import POISON, READ_S, UNUSED_S, behind_broken, kind_of, unreadable_block
from connectors.kafka.waiting import Waiting
from streamproc.ports import Block, TopicPartition, block_of

logger = logging.getLogger(__name__)

_LOOK_ROUND_S: Final = 1.0
_LOOK_S: Final = 0.02
_UNASKED_S: Final = 0.002
_DIRECT_AGAIN_S: Final = 30.0
"""After so long a partition with which something was wrong is fetched directly again."""


class BlockReader:
    """The reading half of a log over Kafka.

    direct  whether brokers are talked to without librdkafka while nothing is wrong; None: as the binding says
    """

    def __init__(self, profile: Profile, admin: Admin, *, direct: bool | None = None) -> None:
        settings = profile.reader()
        del settings["group.id"]
        self._profile, self._admin = profile, admin
        self._most = profile.waiting_bytes
        self._client = Client(CONSUMER, settings, Connection(profile.brokers))
        self._waiting: dict[TopicPartition, Waiting] = {}
        self._looked_round = 0.0
        self._messages = Messages()
        # librdkafka writes a byte here when a queue is no longer empty.
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._sleeping = select.poll()  # Unlike select() it takes a file of any number.
        self._sleeping.register(self._woken, select.POLLIN)
        direct = profile.settings.direct if direct is None else direct
        self._direct = Direct(profile, admin, self._sleeping) if direct else None

    def available(self, partition: TopicPartition, offset: int) -> int:
        """One past the last record that came, or the offset itself."""
        waiting = self._at(partition, offset)
        self._pull(partition, waiting)
        if waiting.broken is not None and not waiting.blocks:
            waiting = self._passed(partition, waiting, offset)
        return max(offset, waiting.newest)

    def reached(self, partition: TopicPartition, offset: int) -> int:
        """Up to where all has come, and no record from the offset on."""
        waiting = self._waiting.get(partition)
        return offset if waiting is None else waiting.passed(offset)

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_s: float) -> bool:
        """Waits until one of the partitions has a record."""
        until = time.monotonic() + timeout_s
        while True:
            for place, offset in partitions.items():
                waiting = self._at(place, offset)
                self._pull(place, waiting)
                if waiting.blocks or waiting.broken is not None:
                    return True
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._sleep(min(left, 0.1))

    def read(self, partition: TopicPartition, offset: int, *, max_records: int, max_bytes: int) -> Block:
        """Records from an offset on; none if the partition has none up to its end."""
        until = time.monotonic() + READ_S
        end = -1
        while True:
            waiting = self._at(partition, offset)
            self._pull(partition, waiting)
            if waiting.blocks:
                block = cut(waiting.blocks, max_records, max_bytes)
                waiting.position, waiting.kept = int(block.offsets[-1]) + 1, beyond(block, offset, max_records)
                return block
            if waiting.broken is not None:
                if self._passed(partition, waiting, offset).blocks or time.monotonic() <= until:
                    continue
                raise self._client.connection.away(f"reading {partition.topic}-{partition.partition}")
            if end < 0:
                end = self._admin.end_offset(partition)
                continue  # What had come by then may lie in the queue already.
            if offset >= end or waiting.reached >= end:
                return block_of(*partition, [])
            if time.monotonic() > until:
                raise self._client.connection.away(f"reading {partition.topic}-{partition.partition} from {offset}")
            self._sleep(_LOOK_S)

    def forget(self, topic: str, partition: int | None = None) -> None:
        """Lets go of what came of a topic, or of one partition."""
        for place in [place for place in self._waiting if place.topic == topic]:
            if partition in (None, place.partition):
                self._drop(place)

    def close(self) -> None:
        """Lets go of the connections."""
        for place in list(self._waiting):
            self._drop(place)
        if self._direct is not None:
            self._direct.close()
        self._client.close()
        os.close(self._woken)
        os.close(self._wake)

    # ── what waits ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _at(self, partition: TopicPartition, offset: int) -> Waiting:
        """The partition's blocks from an offset on: what lies before it is dropped, else reading begins anew."""
        waiting = self._waiting.get(partition)
        if waiting is not None:
            kept, waiting.kept = waiting.kept, None
            if (back := unused(kept, offset)) is not None:
                waiting.blocks.insert(0, back)
                waiting.position = offset
        if waiting is None or not waiting.position <= offset <= max(waiting.newest, waiting.reached):
            self._admin.check(partition)
            start, end = self._admin.start_offset(partition), self._admin.end_offset(partition)
            if not start <= offset <= end:
                raise out_of_range(partition, offset, start, end)
            if waiting is not None:
                self._drop(partition)
            waiting = self._waiting[partition] = self._started(partition, offset)
        while waiting.blocks and offset > waiting.blocks[0].offsets[0]:
            first = waiting.blocks[0]
            rest = first.slice(int(np.searchsorted(first.offsets, offset)), len(first))
            waiting.blocks[:1] = [rest] if len(rest) else []
        waiting.position = max(waiting.position, offset)
        waiting.asked = time.monotonic()
        return waiting

    def _started(self, partition: TopicPartition, offset: int) -> Waiting:
        waiting = Waiting(offset, fetched=offset)
        waiting.leader = None if self._direct is None else self._direct.leader(partition)
        if waiting.leader is None:
            self._consume(partition, waiting, offset)
        return waiting

    def _consume(self, partition: TopicPartition, waiting: Waiting, offset: int) -> None:
        """Has librdkafka read a partition."""
        waiting.leader, waiting.direct_at = None, time.monotonic() + _DIRECT_AGAIN_S
        name = partition.topic.encode()
        topic = rd.topic_new(self._client.at, name, None)
        try:
            if rd.consume_start(topic, partition.partition, offset) != 0:
                check_code(rd.last_error())
        except BaseException:
            rd.topic_destroy(topic)
            self._waiting.pop(partition, None)
            raise
        waiting.topic, waiting.queue = topic, rd.queue_get_partition(self._client.at, name, partition.partition)
        rd.queue_io_event_enable(waiting.queue, self._wake, b"1", 1)

    def _stop(self, partition: TopicPartition, waiting: Waiting) -> None:
        """Has librdkafka read a partition no more."""
        rd.queue_io_event_enable(waiting.queue, -1, None, 0)
        rd.consume_stop(waiting.topic, partition.partition)
        rd.queue_destroy(waiting.queue)
        rd.topic_destroy(waiting.topic)

    def _drop(self, partition: TopicPartition) -> None:
        waiting = self._waiting.pop(partition)
        if waiting.leader is None:
            self._stop(partition, waiting)

    def _passed(self, partition: TopicPartition, waiting: Waiting, offset: int) -> Waiting:
        """Reads on behind a batch that cannot be read, and one record stands for it, the same wherever reading began.

        A client that met a broken batch may speak of it still when it reads elsewhere, and of one that is too large it
        does not say where it lies: where another client can read, this one begins anew.
        """
        assert waiting.broken is not None
        first, why = max(offset, waiting.broken[0]), waiting.broken[1]
        self._drop(partition)
        kind = self._what_is_wrong(partition, first)
        if not kind:
            return self._at(partition, offset)
        end = self._admin.end_offset(partition)
        behind = behind_broken(first, end, lambda at: bool(self._what_is_wrong(partition, at)))
        logger.warning("%s-%d@%d: %s", *partition, behind - 1, why)
        passed = self._waiting[partition] = self._started(partition, behind)
        passed.position, passed.asked = offset, time.monotonic()
        # Nothing of what a client said at that moment, of whichever broker: a replay must find the same words.
        why = f"the batch of records that ends here cannot be handed out: it is {kind}"
        passed.blocks = [unreadable_block(partition, behind - 1, why)]
        return passed

    def _what_is_wrong(self, partition: TopicPartition, offset: int) -> str:
        """Why what stands at an offset cannot be read, as a client says that has read nothing else; "" if it can."""
        with contextlib.closing(BlockReader(self._profile, self._admin, direct=False)) as alone:
            until = time.monotonic() + READ_S
            while time.monotonic() < until:
                waiting = alone._at(partition, offset)
                alone._pull(partition, waiting)
                if waiting.broken is not None or waiting.blocks or waiting.reached >= 0:
                    # Records that came before it met trouble are good.
                    if waiting.blocks or waiting.broken is None:
                        return ""
                    return kind_of(waiting.broken[1], self._profile)
                alone._sleep(_LOOK_S)
        raise self._client.connection.away(f"reading {partition.topic}-{partition.partition} from {offset}")

    def _sleep(self, seconds: float) -> None:
        """Until a queue has something, an answer comes, or the time is over."""
        is_silent = self._direct is not None and not self._direct.is_asking
        if is_silent and any(waiting.leader is not None for waiting in self._waiting.values()):
            seconds = min(seconds, _UNASKED_S)  # Nothing will wake us: ask soon.
        if any(number == self._woken for number, _ in self._sleeping.poll(1e3 * seconds)):
            os.read(self._woken, 4_096)

    def _pull(self, partition: TopicPartition, waiting: Waiting) -> None:
        """Takes over what the client has fetched of a partition, up to the bound on what waits."""
        self._client.serve()
        if said := self._client.connection.too_large():
            for other in self._waiting.values():
                if other.broken is None and not other.blocks and other.leader is None:
                    other.broken = (other.newest, said)
        now = time.monotonic()
        if now - self._looked_round >= _LOOK_ROUND_S:
            self._looked_round = now
            self._look_round(now)
        if waiting.leader is not None:
            self._fetch()
        held = waiting.held
        while waiting.leader is None and held < self._most and waiting.broken is None:
            count, size, troubles = self._messages.take(partition, waiting)
            for code, offset, text in troubles:
                self._trouble(partition, waiting, KafkaError(code, text), offset)
            held += size
            if count < TAKEN:
                return

    def _fetch(self) -> None:
        """Takes over what brokers have sent that are asked directly, and asks for more."""
        if self._direct is None:
            return
        for place in self._direct.fetch(self._waiting, self._most):
            # librdkafka finds out what is wrong, and waits it out.
            self._consume(place, self._waiting[place], self._waiting[place].fetched)

    def _look_round(self, now: float) -> None:
        """Drops what nobody asks for, and fetches directly again what went wrong some time ago."""
        for place in [place for place, other in self._waiting.items() if now - other.asked > UNUSED_S]:
            self._drop(place)
        for place, other in self._waiting.items():
            if self._direct is None or other.leader is not None or other.broken is not None or now < other.direct_at:
                continue
            other.direct_at = now + _DIRECT_AGAIN_S
            leader = self._direct.leader(place)
            if leader is not None:
                self._stop(place, other)
                other.leader, other.fetched = leader, other.newest

    # ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────

    def _trouble(self, partition: TopicPartition, waiting: Waiting, error: KafkaError, offset: int) -> None:
        code = error.code()
        if waiting.broken is not None:
            return  # What the client says after a broken batch is of no use: it may have taken payload for a head.
        if code == KafkaError._PARTITION_EOF:
            waiting.reached = max(waiting.reached, offset)
            return
        if code in POISON:
            waiting.broken = (offset, error.str())
            return
        gone = code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION)
        position = waiting.newest
        if not gone and code in (KafkaError._AUTO_OFFSET_RESET, KafkaError._NOT_IMPLEMENTED):
            start, end = self._admin.start_offset(partition), self._admin.end_offset(partition)
            if start <= position < end and not start <= offset <= end:
                # Nobody sent the client there: inside a broken batch it took payload for the next head.
                waiting.broken = (position, f"the client lost its place: {error.str()}")
                return
            if code == KafkaError._AUTO_OFFSET_RESET:
                self._drop(partition)
                raise out_of_range(partition, position, start, end)
        self._drop(partition)
        raise refusal(error, f"reading {partition.topic}-{partition.partition}", self._client.connection)
