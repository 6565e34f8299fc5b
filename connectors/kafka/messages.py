"""librdkafka's messages as blocks: kernels copy a batch of them into one buffer, with no object for each."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Final

import numpy as np
from confluent_kafka import KafkaError

from connectors.kafka import kernels
from connectors.kafka.headers import with_headers
from connectors.kafka.native import rd
from connectors.kafka.waiting import Waiting
from streamproc.ports import Block, Bytes, Int64s, TopicPartition

TAKEN: Final = 4_096
"""Messages that are taken from a queue at once: so many stay in the processor's cache until they are freed."""
_LEAST_BUFFER: Final = 4_096
_TIMESTAMP, _HEADERS = rd.address("message_timestamp"), rd.address("message_headers")
_COUNT, _GET, _DESTROY = rd.address("header_cnt"), rd.address("header_get_all"), rd.address("message_destroy")

Trouble = tuple[int, int, str]
"""Code, offset and words of a message that is an error."""


class Messages:
    """Takes messages from a partition's queue; what kernels write into is made once."""

    def __init__(self) -> None:
        kernels.prepare()
        self._pointers = np.empty(TAKEN, np.int64)
        self._scratch = np.zeros(3, np.int64)
        self._taken = np.zeros(kernels.TAKEN, np.int64)

    def take(self, partition: TopicPartition, waiting: Waiting) -> tuple[int, int, list[Trouble]]:
        """Moves what lies in the queue, at most TAKEN messages, to the blocks that wait.

        Gives how many messages there were, the bytes of their records, and those that are errors. What comes behind
        one that says anything but that the partition ends is let go of: a client that met a broken batch goes on at
        any place that looks like a batch, and nothing would tell what it passed over.
        """
        count = rd.consume_batch_queue(waiting.queue, 0, self._pointers.ctypes.data, TAKEN)
        if count <= 0:
            return 0, 0, []
        pointers = self._pointers[:count]
        at, size, room = 0, 0, int(1.25 * waiting.record_bytes * count) + _LEAST_BUFFER
        troubles: list[Trouble] = []
        try:
            while at < count:
                columns = np.empty((kernels.COLUMNS, count - at), np.int64)
                buffer, self._taken[:] = np.empty(room, np.uint8), 0
                at = kernels.take(
                    pointers, at, _TIMESTAMP, _HEADERS, self._scratch, self._scratch.ctypes.data, waiting.newest,
                    buffer.ctypes.data, room, self._taken, columns,
                )  # fmt: skip
                rows, used, wrong, headed = self._taken.tolist()
                if rows:
                    size += used
                    waiting.record_bytes = max(used / rows, 0.9 * waiting.record_bytes)
                    waiting.blocks.append(self._block(partition, columns[:, :rows], buffer[:used], headed=headed > 0))
                elif at < count and not wrong:
                    room *= 2
                if wrong:
                    troubles.append(_told(int(pointers[at - 1])))
                    if troubles[-1][0] != KafkaError._PARTITION_EOF:
                        break
        finally:
            kernels.destroy(pointers, _DESTROY)
        return count, size, troubles

    def _block(self, partition: TopicPartition, columns: Int64s, buffer: Bytes, *, headed: bool) -> Block:
        offsets, stamps, *bounds, lists = columns
        block = Block(*partition, offsets, stamps, buffer, *bounds)
        return self._with_headers(block, lists, kernels.count_headers(lists, _COUNT)) if headed else block

    def _with_headers(self, block: Block, lists: Int64s, count: int) -> Block:
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
        return with_headers(block, rows, names, name_sizes, starts, starts + sizes)


def _told(message: int) -> Trouble:
    code, offset = ctypes.c_int32.from_address(message).value, ctypes.c_int64.from_address(message + kernels.AT_OFFSET)
    return code, offset.value, str((rd.message_errstr(message) or b"").decode(errors="replace"))
