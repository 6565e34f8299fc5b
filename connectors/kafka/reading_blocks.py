"""Reading partitions in blocks, with no object for a record.

Where brokers can be talked to directly (`fetching`), batches become blocks as they lie. Otherwise, and for a while
after anything went wrong with a partition, librdkafka reads it: it has a queue for each, stops fetching when that is
full, waits for leaders, and knows what to say of damage; its messages are copied into one buffer by a kernel. What came
waits here as blocks until it is asked for. The client is in no group: positions are the engine's.
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

from connectors.kafka import kernels, record_batches
from connectors.kafka.admin import Admin, out_of_range
from connectors.kafka.answers import Connection, refusal
from connectors.kafka.fetching import Address, Fetched, Fetcher
from connectors.kafka.joining import beyond, cut, unused
from connectors.kafka.native import CONSUMER, Client, check_code, rd
from connectors.kafka.profile import Profile
from connectors.kafka.reading import POISON, READ_S, UNUSED_S, behind_broken, kind_of, unreadable_block
from streamproc.errors import LogError
from streamproc.ports import Block, Bytes, HeaderColumn, Int64s, TopicPartition, block_of

logger = logging.getLogger(__name__)

_TAKEN: Final = 4_096
"""Messages that are taken from a queue at once: so many stay in the processor's cache until they are freed."""
_LEAST_BUFFER: Final = 4_096
_LOOK_ROUND_S: Final = 1.0
_LOOK_S: Final = 0.02
_DIRECT_AGAIN_S: Final = 30.0
"""After so long a partition with which something was wrong is fetched directly again."""
_TIMESTAMP, _HEADERS = rd.address("message_timestamp"), rd.address("message_headers")
_COUNT, _GET, _DESTROY = rd.address("header_cnt"), rd.address("header_get_all"), rd.address("message_destroy")


@dataclass(slots=True)
class _Waiting:
    """What came of a partition: blocks from `position` on; `reached`: the log's end when all before it had come.

    leader        the broker that is asked directly, None where librdkafka reads from `topic` into `queue`
    fetched       up to where batches have come directly
    direct_at     when it may be fetched directly again
    record_bytes  what a record of the last blocks took, by which the next one's buffer is made
    kept          what was handed out last and lies behind what was asked for
    """

    position: int
    leader: Address | None = None
    fetched: int = 0
    direct_at: float = 0.0
    topic: int = 0
    queue: int = 0
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

    @property
    def held(self) -> int:
        """Bytes of what waits."""
        return sum(block.buffer.size for block in self.blocks)


class BlockReader:
    """The reading half of a log over Kafka.

    direct  whether brokers are talked to without librdkafka, where the connection needs neither TLS nor a password
    """

    def __init__(self, profile: Profile, admin: Admin, *, direct: bool = True) -> None:
        kernels.prepare()
        record_batches.prepare()
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
        self._fetcher: Fetcher | None = None
        if direct and profile.settings.sasl is None and profile.settings.tls is None:
            self._fetcher = Fetcher(
                partition_bytes=settings["max.partition.fetch.bytes"], most_bytes=settings["fetch.max.bytes"],
                largest=settings["receive.message.max.bytes"], watch=self._sleeping,
            )  # fmt: skip
        self._packed: set[str] = set()
        self._told = np.zeros(4, np.int64)

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
        if self._fetcher is not None:
            self._fetcher.close()
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
        waiting = _Waiting(offset, fetched=offset)
        waiting.leader = self._leader(partition)
        if waiting.leader is None:
            self._consume(partition, waiting, offset)
        return waiting

    def _leader(self, partition: TopicPartition) -> Address | None:
        """Where a partition is fetched directly; None where that cannot be."""
        if self._fetcher is None or partition.topic in self._packed:
            return None
        try:
            leader = self._admin.leader(partition)
        except LogError:
            return None
        return leader if leader is not None and self._fetcher.connect(leader) else None

    def _consume(self, partition: TopicPartition, waiting: _Waiting, offset: int) -> None:
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

    def _stop(self, partition: TopicPartition, waiting: _Waiting) -> None:
        """Has librdkafka read a partition no more."""
        rd.queue_io_event_enable(waiting.queue, -1, None, 0)
        rd.consume_stop(waiting.topic, partition.partition)
        rd.queue_destroy(waiting.queue)
        rd.topic_destroy(waiting.topic)

    def _drop(self, partition: TopicPartition) -> None:
        waiting = self._waiting.pop(partition)
        if waiting.leader is None:
            self._stop(partition, waiting)

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
        if any(number == self._woken for number, _ in self._sleeping.poll(1e3 * seconds)):
            os.read(self._woken, 4_096)

    def _pull(self, partition: TopicPartition, waiting: _Waiting) -> None:
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
        if waiting.leader is not None:
            return
        held = waiting.held
        while held < self._most and waiting.broken is None:
            count = rd.consume_batch_queue(waiting.queue, 0, self._pointers.ctypes.data, _TAKEN)
            if count <= 0:
                return
            held += self._take(partition, waiting, self._pointers[:count])
            if count < _TAKEN:
                return

    def _look_round(self, now: float) -> None:
        """Drops what nobody asks for, and fetches directly again what went wrong some time ago."""
        for place in [place for place, other in self._waiting.items() if now - other.asked > UNUSED_S]:
            self._drop(place)
        for place, other in self._waiting.items():
            if other.leader is None and other.broken is None and now >= other.direct_at:
                other.direct_at = now + _DIRECT_AGAIN_S
                leader = self._leader(place)
                if leader is not None:
                    self._stop(place, other)
                    other.leader, other.fetched = leader, other.newest

    # ── batches, as brokers send them ────────────────────────────────────────────────────────────────────────────────

    def _fetch(self) -> None:
        """Takes up what brokers have sent, and asks for what there is room for."""
        assert self._fetcher is not None
        for one in self._fetcher.answers():
            if isinstance(one, Fetched):
                self._arrived(one)
            else:
                self._go_back(one)
        if self._fetcher.is_free:
            wanted: dict[Address, dict[TopicPartition, int]] = {}
            for place, waiting in self._waiting.items():
                if waiting.leader is not None and waiting.held < self._most:
                    wanted.setdefault(waiting.leader, {})[place] = waiting.fetched
            for place in self._fetcher.ask(wanted):
                self._go_back(place)

    def _go_back(self, partition: TopicPartition) -> None:
        """Something is wrong with a partition, or with its broker: librdkafka finds out what, and waits it out."""
        waiting = self._waiting.get(partition)
        if waiting is not None and waiting.leader is not None:
            self._admin.forget_leaders()
            self._consume(partition, waiting, waiting.fetched)

    def _arrived(self, answer: Fetched) -> None:
        waiting = self._waiting.get(answer.place)
        if waiting is None or waiting.leader is None or answer.asked != waiting.fetched:
            return  # Nobody waits for that any more.
        if answer.error != 0:
            self._go_back(answer.place)
            return
        batches, told = answer.batches, self._told
        record_batches.survey(batches, 0, batches.size, told)
        end, count, wrong = told[:3].tolist()
        columns = np.empty((record_batches.COLUMNS, count), np.int64)
        record_batches.unpack(batches, 0, end, waiting.fetched, answer.producers, answer.firsts, columns, told)
        rows, position, headed, broken = told.tolist()
        if broken:
            self._go_back(answer.place)
            return
        if rows:
            waiting.blocks.append(self._unpacked(answer.place, columns[:, :rows], batches, headed=headed > 0))
        waiting.fetched = position
        if position >= answer.stable:
            waiting.reached = max(waiting.reached, answer.stable)
        if wrong != record_batches.SOUND:
            if wrong == record_batches.COMPRESSED:
                self._packed.add(answer.place.topic)
            self._go_back(answer.place)

    def _unpacked(self, partition: TopicPartition, columns: Int64s, batches: Bytes, *, headed: bool) -> Block:
        offsets, stamps, *bounds, places = columns
        block = Block(*partition, offsets, stamps, batches, *bounds)
        if not headed:
            return block
        count = record_batches.count_headers(batches, places)
        rows, names, sizes, starts, ends = np.empty((5, count), np.int64)
        found = record_batches.list_headers(batches, places, rows, names, sizes, starts, ends)
        names += batches.ctypes.data
        return _with_headers(block, *(part[:found] for part in (rows, names, sizes, starts, ends)))

    # ── messages, as librdkafka hands them out ───────────────────────────────────────────────────────────────────────

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
        return self._listed(block, lists, kernels.count_headers(lists, _COUNT)) if headed else block

    def _listed(self, block: Block, lists: Int64s, count: int) -> Block:
        """The block with the headers in librdkafka's lists."""
        rows, names, name_sizes, values, sizes = np.empty((5, count), np.int64)
        kernels.list_headers(
            lists, _COUNT, _GET, self._scratch, self._scratch.ctypes.data, rows, names, name_sizes, values, sizes
        )
        null = values == 0
        sizes = np.where(null, 0, sizes)
        starts = np.empty(count, np.int64)
        more = np.empty(int(sizes.sum()), np.uint8)
        kernels.copy_spans(values, sizes, more.ctypes.data, starts)
        starts = np.where(null, -1, starts + block.buffer.size)
        block = replace(block, buffer=np.concatenate([block.buffer, more]))
        return _with_headers(block, rows, names, name_sizes, starts, starts + sizes)

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


def _with_headers(
    block: Block, rows: Int64s, names: Int64s, name_sizes: Int64s, starts: Int64s, ends: Int64s
) -> Block:
    """The block with a column for each name; `names` are addresses, a value that starts at -1 is null."""
    ids, firsts = np.empty((2, rows.size), np.int64)
    known = kernels.number_names(names, name_sizes, ids, firsts)
    words = [ctypes.string_at(int(names[at]), int(name_sizes[at])) for at in firsts[:known]]
    columns = []
    for word, number in sorted(zip(words, range(known), strict=True)):
        # Of several headers with one name in a record the first counts: written last, it stays.
        mine = np.flatnonzero((ids == number) & (starts >= 0))[::-1]
        column = np.full((2, len(block)), -1, np.int64)
        column[0, rows[mine]] = starts[mine]
        column[1, rows[mine]] = ends[mine]
        columns.append(HeaderColumn(word.decode(errors="replace"), column[0], column[1]))
    return replace(block, headers=tuple(columns))


def _told(message: int) -> tuple[int, int, str]:
    """Code, offset and words of a message that is an error."""
    code, offset = ctypes.c_int32.from_address(message).value, ctypes.c_int64.from_address(message + kernels.AT_OFFSET)
    return code, offset.value, str((rd.message_errstr(message) or b"").decode(errors="replace"))
