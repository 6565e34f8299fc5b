"""Reading partitions in blocks: librdkafka's messages are copied into one buffer by a kernel, with no object for each.

Each partition that is read has a queue of its own inside librdkafka, which stops fetching when the queue is full; what
is taken from it waits here as blocks until it is asked for.  The client is in no group: positions are the engine's.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from confluent_kafka import KafkaError

from connectors.kafka import kernels
from connectors.kafka.admin import Admin, out_of_range
from connectors.kafka.answers import Connection, refusal
from connectors.kafka.joining import beyond, cut, unused
from connectors.kafka.native import CONSUMER, Client, check_code, rd
from connectors.kafka.profile import Profile
from connectors.kafka.reading import POISON, READ_S, UNUSED_S, behind_broken, kind_of, unreadable_block
from streamproc.ports import Block, Bytes, HeaderColumn, Int64s, TopicPartition, block_of

logger = logging.getLogger(__name__)

_TAKEN: Final = 4_096
"""Messages that are taken from a queue at once: so many stay in the processor's cache until they are freed."""
_LEAST_BUFFER: Final = 4_096
_LOOK_ROUND_S: Final = 1.0
_LOOK_S: Final = 0.02
_TIMESTAMP, _HEADERS = rd.address("message_timestamp"), rd.address("message_headers")
_COUNT, _GET, _DESTROY = rd.address("header_cnt"), rd.address("header_get_all"), rd.address("message_destroy")


@dataclass(slots=True)
class _Waiting:
    """What came of a partition: blocks from `position` on; `reached`: the log's end when all before it had come.

    record_bytes  what a record of the last blocks took, by which the next one's buffer is made
    kept          what was handed out last and lies behind what was asked for
    """

    topic: int
    queue: int
    position: int
    blocks: list[Block] = field(default_factory=list)
    reached: int = -1
    asked: float = 0.0
    record_bytes: float = 128.0
    kept: tuple[int, Block] | None = None
    broken: tuple[int, str] | None = None

    @property
    def newest(self) -> int:
        """One past the last record here."""
        return int(self.blocks[-1].offsets[-1]) + 1 if self.blocks else self.position


class BlockReader:
    """The reading half of a log over Kafka."""

    def __init__(self, profile: Profile, admin: Admin) -> None:
        kernels.prepare()
        settings = profile.reader()
        del settings["group.id"]
        self._profile, self._admin = profile, admin
        self._most = profile.waiting_bytes
        self._client = Client(CONSUMER, settings, Connection(profile.brokers))
        self._waiting: dict[TopicPartition, _Waiting] = {}
        self._looked_round = 0.0
        self._pointers = np.empty(_TAKEN, np.int64)
        self._scratch = np.zeros(3, np.int64)
        self._taken = np.zeros(kernels.TAKEN, np.int64)
        self._troubles = np.empty(_TAKEN, np.int64)
        # librdkafka writes a byte here when a queue is no longer empty.
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._sleeping = select.poll()  # Unlike select() it takes a file of any number.
        self._sleeping.register(self._woken, select.POLLIN)

    def available(self, partition: TopicPartition, offset: int) -> int:
        """One past the last record that came, or the offset itself."""
        waiting = self._at(partition, offset)
        self._pull(partition, waiting)
        if waiting.broken is not None and not waiting.blocks:
            waiting = self._passed(partition, waiting, offset)
        return max(offset, waiting.newest)

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
        self._client.close()
        os.close(self._woken)
        os.close(self._wake)

    # ── what waits ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _at(self, partition: TopicPartition, offset: int) -> _Waiting:
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

    def _started(self, partition: TopicPartition, offset: int) -> _Waiting:
        name = partition.topic.encode()
        topic = rd.topic_new(self._client.at, name, None)
        try:
            if rd.consume_start(topic, partition.partition, offset) != 0:
                check_code(rd.last_error())
        except BaseException:
            rd.topic_destroy(topic)
            raise
        queue = rd.queue_get_partition(self._client.at, name, partition.partition)
        rd.queue_io_event_enable(queue, self._wake, b"1", 1)
        return _Waiting(topic, queue, offset)

    def _drop(self, partition: TopicPartition) -> None:
        waiting = self._waiting.pop(partition)
        rd.queue_io_event_enable(waiting.queue, -1, None, 0)
        rd.consume_stop(waiting.topic, partition.partition)
        rd.queue_destroy(waiting.queue)
        rd.topic_destroy(waiting.topic)

    def _passed(self, partition: TopicPartition, waiting: _Waiting, offset: int) -> _Waiting:
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
        with contextlib.closing(BlockReader(self._profile, self._admin)) as alone:
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
        """Until a queue has something, or the time is over."""
        if self._sleeping.poll(1e3 * seconds):
            os.read(self._woken, 4_096)

    def _pull(self, partition: TopicPartition, waiting: _Waiting) -> None:
        """Takes over what the client has fetched of a partition, up to the bound on what waits."""
        self._client.serve()
        if said := self._client.connection.too_large():
            for other in self._waiting.values():
                if other.broken is None and not other.blocks:
                    other.broken = (other.newest, said)
        now = time.monotonic()
        if now - self._looked_round >= _LOOK_ROUND_S:
            self._looked_round = now
            for place in [place for place, other in self._waiting.items() if now - other.asked > UNUSED_S]:
                self._drop(place)
        held = sum(block.buffer.size for block in waiting.blocks)
        while held < self._most and waiting.broken is None:
            count = rd.consume_batch_queue(waiting.queue, 0, self._pointers.ctypes.data, _TAKEN)
            if count <= 0:
                return
            held += self._take(partition, waiting, self._pointers[:count])
            if count < _TAKEN:
                return

    def _take(self, partition: TopicPartition, waiting: _Waiting, pointers: Int64s) -> int:
        """Copies messages into blocks that wait, and frees them; gives the bytes."""
        at, size, room = 0, 0, int(1.25 * waiting.record_bytes * pointers.size) + _LEAST_BUFFER
        troubles: list[tuple[int, int, str]] = []
        try:
            while at < pointers.size:
                columns = np.empty((kernels.COLUMNS, pointers.size - at), np.int64)
                buffer, self._taken[:] = np.empty(room, np.uint8), 0
                at = kernels.take(
                    pointers, at, _TIMESTAMP, _HEADERS, self._scratch, self._scratch.ctypes.data, waiting.newest,
                    buffer.ctypes.data, room, self._taken, columns, self._troubles,
                )  # fmt: skip
                rows, used, wrong, headed = self._taken.tolist()
                troubles += [_told(int(pointers[row])) for row in self._troubles[:wrong]]
                if rows:
                    size += used
                    waiting.record_bytes = max(used / rows, 0.9 * waiting.record_bytes)
                    waiting.blocks.append(self._block(partition, columns[:, :rows], buffer[:used], headed=headed > 0))
                elif at < pointers.size:
                    room *= 2
        finally:
            kernels.destroy(pointers, _DESTROY)
        for code, offset, text in troubles:
            self._trouble(partition, waiting, KafkaError(code, text), offset)
        return size

    def _block(self, partition: TopicPartition, columns: Int64s, buffer: Bytes, *, headed: bool) -> Block:
        offsets, stamps, *bounds, lists = columns
        block = Block(*partition, offsets, stamps, buffer, *bounds)
        return self._with_headers(block, lists, kernels.count_headers(lists, _COUNT)) if headed else block

    def _with_headers(self, block: Block, lists: Int64s, count: int) -> Block:
        rows, names, name_sizes, values, sizes = np.empty((5, count), np.int64)
        kernels.list_headers(
            lists, _COUNT, _GET, self._scratch, self._scratch.ctypes.data, rows, names, name_sizes, values, sizes
        )
        ids, firsts = np.empty((2, count), np.int64)
        known = kernels.number_names(names, name_sizes, ids, firsts)
        words = [ctypes.string_at(int(names[at]), int(name_sizes[at])) for at in firsts[:known]]
        kept = values != 0
        sizes = np.where(kept, sizes, 0)
        starts = np.empty(count, np.int64)
        more = np.empty(int(sizes.sum()), np.uint8)
        kernels.copy_spans(values, sizes, more.ctypes.data, starts)
        starts += block.buffer.size
        columns = []
        for word, number in sorted(zip(words, range(known), strict=True)):
            # Of several headers with one name in a record the first counts: written last, it stays.
            mine = np.flatnonzero((ids == number) & kept)[::-1]
            column = np.full((2, len(block)), -1, np.int64)
            column[0, rows[mine]] = starts[mine]
            column[1, rows[mine]] = starts[mine] + sizes[mine]
            columns.append(HeaderColumn(word.decode(errors="replace"), column[0], column[1]))
        return replace(block, buffer=np.concatenate([block.buffer, more]), headers=tuple(columns))

    def _trouble(self, partition: TopicPartition, waiting: _Waiting, error: KafkaError, offset: int) -> None:
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
        if not gone and code != KafkaError._AUTO_OFFSET_RESET and error.retriable():
            return
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


def _told(message: int) -> tuple[int, int, str]:
    """Code, offset and words of a message that is an error."""
    code, offset = ctypes.c_int32.from_address(message).value, ctypes.c_int64.from_address(message + kernels.AT_OFFSET)
    return code, offset.value, str((rd.message_errstr(message) or b"").decode(errors="replace"))
