"""Rows become record batches: byte by byte those of an independent writer, whatever stands in them, however packed."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as KafkaPlace
from test_record_batches import Record, batch, rows_of

from connectors.kafka import KafkaLog, Profile, kafka_settings
from connectors.kafka.fields import Fields, text, uvarint
from connectors.kafka.packings import NUMBERS
from connectors.kafka.writing_direct import DirectSender
from connectors.kafka.written_batches import Writer, written
from connectors.kafka.written_batches import rows_of as columns_of
from streamproc.ports import Block, TopicPartition, TopicSettings, block_of
from tests.services.kafka import KafkaCluster, kafka_cluster

PACKINGS = ("none", "gzip", "snappy", "lz4", "zstd")
STAMPS = (0, 1, -1, -2, -(10**15), 10**15, 1_790_000_000_000)
Content = tuple[bytes | None, bytes | None, int, list[tuple[str, bytes]]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


def contents(dice: random.Random, count: int) -> list[Content]:
    """Value, key, milliseconds and headers of each record."""

    def some(most: int) -> bytes | None:
        return None if dice.random() < 0.2 else dice.randbytes(dice.choice((0, 1, dice.randint(0, most))))

    return [
        (
            some(300), some(20), dice.choice(STAMPS),
            [(name, dice.randbytes(dice.randint(0, 70))) for name in ("a", "bb", "ö" * 70) if dice.random() < 0.3],
        )
        for _ in range(count)
    ]  # fmt: skip


def block_with(rows: list[Content], topic: str = "t", *, stamped: bool = True) -> Block:
    """The rows as a block whose buffer has strange bytes between them."""
    return block_of(
        topic, 0, [row[0] for row in rows], keys=[row[1] for row in rows],
        timestamps=[1_000 * row[2] + 7 for row in rows] if stamped else None, headers=[dict(row[3]) for row in rows],
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_is_byte_by_byte_the_one_of_an_independent_writer(seed: int) -> None:
    dice = random.Random(seed)
    rows = contents(dice, dice.randint(1, 300))
    begin = dice.randrange(len(rows))
    end = dice.randint(begin + 1, len(rows))
    found, stop = written(
        columns_of(block_with(rows)), begin, end, writer=Writer(77, 5), sequence=9, stamp=0, most_bytes=1 << 20
    )
    assert stop == end
    twin = bytearray(
        batch(
            0,
            [
                Record(at, key, value, stamp, [(name.encode(), data) for name, data in headers])
                for at, (value, key, stamp, headers) in enumerate(rows[begin:end])
            ],
            producer=77, attributes=0x10,
        )
    )  # fmt: skip
    # The independent writer knows no leader's epoch, no producer's epoch and no sequence, and leaves them at 0.
    assert struct.unpack_from(">i", found, 12) == (-1,) and struct.unpack_from(">hi", found, 51) == (5, 9)
    plain = bytearray(found)
    for data in (plain, twin):
        data[12:16], data[17:21], data[51:57] = bytes(4), bytes(4), bytes(6)
    assert plain == twin
    assert rows_of(bytes(found))[2] == 0, "the checksum is that of its bytes"


@pytest.mark.parametrize("packing", PACKINGS)
def test_batches_end_where_they_are_full_and_none_is_empty(packing: str) -> None:
    dice = random.Random(1)
    values = [dice.choice((b"ab" * 50, b"", dice.randbytes(100), b"x" * 5_000, None)) for _ in range(2_000)]
    values[700] = b"large" * 40_000
    rows, at, found, sizes = columns_of(block_of("t", 0, values)), 0, list[bytes | None](), []
    while at < len(values):
        data, stop = written(
            rows, at, len(values), writer=Writer(1, 1, packing), sequence=at, stamp=5, most_bytes=50_000
        )
        assert stop > at and struct.unpack_from(">i", data, 53) == (at,)
        told = rows_of(bytes(data))[0]
        assert [offset for offset, *_ in told] == list(range(stop - at)) and {row[1] for row in told} == {5_000}
        found += [row[3] for row in told]
        sizes.append((len(data), stop - at))
        at = stop
    assert found == values
    assert all(size <= 50_000 or count == 1 for size, count in sizes)
    assert packing == "none" or sum(size for size, _ in sizes) < sum(len(value or b"") for value in values)


def test_what_does_not_shrink_is_not_packed() -> None:
    for packing in PACKINGS[1:]:
        data, _ = written(
            columns_of(block_of("t", 0, [random.Random(3).randbytes(500)])), 0, 1,
            writer=Writer(1, 1, packing), sequence=0, stamp=0, most_bytes=1 << 20,
        )  # fmt: skip
        assert struct.unpack_from(">h", data, 21) == (0x10,)


def read_all(cluster: KafkaCluster, topic: str, count: int) -> list[tuple[Any, ...]]:
    """Every record as confluent-kafka gives it."""
    consumer = Consumer({**cluster.client(), "group.id": "twin", "log_level": 0, "check.crcs": True})
    consumer.assign([KafkaPlace(topic, 0, 0)])
    found: list[tuple[Any, ...]] = []
    until = time.monotonic() + 60
    while len(found) < count and time.monotonic() < until:
        for message in consumer.consume(1_000, 1.0):
            assert message.error() is None, message.error()
            found.append((message.value(), message.key(), message.timestamp()[1], message.headers()))
    consumer.close()
    return found


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_consumer_reads_what_was_written_directly_as_what_librdkafka_wrote(
    cluster: KafkaCluster, packing: str
) -> None:
    """Large enough that a packed batch has many blocks. Brokers refuse times to come, and where librdkafka is told time
    0 it takes that of now."""
    rows = [row for row in contents(random.Random(packing), 6_000) if row[2] not in (0, 10**15)]
    topics = [f"{way}-{packing}" for way in ("direct", "librdkafka")]
    for topic, direct in zip(topics, (True, False), strict=True):
        profile = Profile(kafka_settings({"brokers": cluster.bootstrap, "compression": packing, "direct": direct}))
        with closing(KafkaLog(profile)) as log:
            log.create_topic(topic, TopicSettings())
            producer = log.producer(topic)
            assert isinstance(producer.client, DirectSender) == direct
            transaction = producer.begin()
            transaction.append(block_with(rows, topic))
            assert transaction.commit() == {TopicPartition(topic, 0): (0, len(rows))}
            producer.close()
    found = [read_all(cluster, topic, len(rows)) for topic in topics]
    assert found[0] == [(value, key, stamp, headers or None) for value, key, stamp, headers in rows]
    assert found[0] == found[1]


def test_records_without_a_time_get_that_of_their_writing(cluster: KafkaCluster) -> None:
    with closing(KafkaLog(Profile(kafka_settings({"brokers": cluster.bootstrap})))) as log:
        log.create_topic("now", TopicSettings())
        producer = log.producer("now")
        began = int(1e3 * time.time())
        transaction = producer.begin()
        transaction.append(block_of("now", 0, [b"a", b"b"]))
        transaction.commit()
        producer.close()
    stamps = [row[2] for row in read_all(cluster, "now", 2)]
    assert all(began <= stamp <= 1e3 * time.time() + 1 for stamp in stamps)


def test_fields_are_read_as_they_are_written() -> None:
    assert uvarint(0) == b"\0" and uvarint(127) == b"\x7f" and uvarint(2**32) == b"\x80\x80\x80\x80\x10"
    fields = Fields(uvarint(2**32) + text("ö") + text(None) + text(""))
    assert (fields.uvarint(), fields.text(), fields.text(), fields.text()) == (2**32, "ö", None, "")
    assert set(NUMBERS) == set(PACKINGS[1:])
