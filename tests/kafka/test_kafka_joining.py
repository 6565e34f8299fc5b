"""Blocks that wait are handed out in parts of any size, and lose nothing by it: no record, and no word of damage."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
from confluent_kafka import KafkaError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.kafka import kernels
from connectors.kafka.joining import cut, joined
from connectors.kafka.reading import _believed, unreadable_block
from streamproc.ports import Block, TopicPartition, block_of

PLACE = TopicPartition("t", 0)
CELLS = st.none() | st.binary(max_size=6)
Record = tuple[int, bytes | None, bytes | None, bytes | None, str | None]


def records(block: Block) -> list[Record]:
    """Offset, key, value, header and what is wrong with each record."""
    wrong = dict(block.unreadable)
    return [
        (int(block.offsets[row]), block.key(row), block.value(row), block.header(row, "h"), wrong.get(row))
        for row in range(len(block))
    ]


@st.composite
def waiting(draw: st.DrawFn) -> list[Block]:
    """Blocks of one partition as they may wait: read ones, slices of them, and batches that cannot be handed out."""
    blocks, at = [], 0
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            blocks.append(unreadable_block(PLACE, at, f"damaged at {at}"))
            at += 1
            continue
        rows = draw(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8))
        headers = [{} if row[2] is None else {"h": row[2]} for row in rows]
        made = block_of(*PLACE, [row[0] for row in rows], keys=[row[1] for row in rows], headers=headers)
        made = replace(made, offsets=np.arange(at, at + len(rows)), timestamps=np.arange(len(rows)))
        first = draw(st.integers(0, len(rows) - 1))
        blocks.append(made.slice(first, draw(st.integers(first + 1, len(rows)))))
        at += len(rows)
    return blocks


@settings(deadline=None)
@given(waiting(), st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), min_size=1))
def test_what_waits_is_handed_out_in_parts_and_nothing_is_lost(
    blocks: list[Block], bounds: list[tuple[int, int]]
) -> None:
    expected = [record for block in blocks for record in records(block)]
    assert records(joined(blocks)) == expected
    left, got, turn = list(blocks), list[Record](), 0
    while left:
        most, most_bytes = bounds[turn % len(bounds)]
        part = cut(left, most, most_bytes)
        assert 1 <= len(part) <= most
        got += records(part)
        turn += 1
    assert got == expected


class CMessage(ctypes.Structure):
    """What stands at the beginning of librdkafka's message."""

    _fields_ = (
        ("err", ctypes.c_int), ("topic", ctypes.c_void_p), ("partition", ctypes.c_int32), ("payload", ctypes.c_char_p),
        ("size", ctypes.c_size_t), ("key", ctypes.c_char_p), ("key_size", ctypes.c_size_t), ("offset", ctypes.c_int64),
        ("private", ctypes.c_void_p),
    )  # fmt: skip


def test_the_kernel_stops_behind_a_message_that_is_an_error() -> None:
    messages = [CMessage(0, None, 0, b"%d" % offset, 1, None, 0, offset, None) for offset in range(5)]
    messages[2].err = KafkaError._BAD_MSG
    nothing = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(lambda message, result: -1)
    function = ctypes.cast(nothing, ctypes.c_void_p).value or 0
    pointers = np.array([ctypes.addressof(message) for message in messages], np.int64)
    scratch, taken = np.zeros(3, np.int64), np.zeros(kernels.TAKEN, np.int64)
    columns, buffer = np.empty((kernels.COLUMNS, 5), np.int64), np.empty(64, np.uint8)

    def take(begin: int) -> int:
        taken[:] = 0
        return kernels.take(
            pointers, begin, function, function, scratch, scratch.ctypes.data, 0, buffer.ctypes.data, 64, taken, columns
        )

    assert take(0) == 3
    assert taken.tolist() == [2, 2, 1, 0]
    assert columns[kernels.OFFSET, :2].tolist() == [0, 1]
    assert take(3) == 5
    assert taken.tolist() == [2, 2, 0, 0]
    assert columns[kernels.OFFSET, :2].tolist() == [3, 4]


def test_what_a_client_says_behind_a_broken_batch_is_not_believed() -> None:
    wrong = KafkaError(KafkaError._BAD_MSG, "checksum")
    ends = KafkaError(KafkaError._PARTITION_EOF, "end")
    told: list[tuple[str, int, int, KafkaError | None]] = [
        ("t", 0, 0, None), ("t", 1, 0, None), ("t", 0, 1, ends), ("t", 0, 1, None), ("t", 0, 2, wrong),
        ("t", 0, 0, None), ("t", 1, 1, None), ("t", 0, 9, None),
    ]  # fmt: skip
    messages = [Message(topic=topic, partition=part, offset=at, error=why) for topic, part, at, why in told]
    good = _believed(messages, [why for *_, why in told])
    assert [(message.partition(), message.offset()) for message in good] == [(0, 0), (1, 0), (0, 1), (1, 1)]
