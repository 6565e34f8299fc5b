"""A stored batch that no client can take apart: one record says so, and reading goes on behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from connectors.kafka import KafkaLog, Profile, kafka_settings
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.services.kafka import KafkaCluster, kafka_cluster

PLACE = TopicPartition("t", 0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


def test_a_batch_with_a_flipped_bit_becomes_one_unreadable_record(cluster: KafkaCluster) -> None:
    profile = Profile(kafka_settings({"brokers": cluster.bootstrap}))
    with contextlib.closing(KafkaLog(profile, blocks=True)) as log:
        log.create_topic("t", TopicSettings())
        producer = log.producer("writer")
        ranges = []
        for word in (b"good", b"bad!", b"fine"):
            transaction = producer.begin()
            transaction.append(block_of("t", 0, [word] * 100))
            ranges.append(transaction.commit()[PLACE])
        producer.close()
    segment = cluster.folder / "node-1" / "t-0" / "00000000000000000000.log"
    stored = segment.read_bytes()
    with segment.open("r+b") as file:
        file.seek(stored.index(b"bad!"))
        file.write(b"B")

    (start, end), (after, last) = ranges[1], ranges[2]
    with contextlib.closing(KafkaLog(profile, blocks=True)) as log:
        for begin in (0, start, start + 50):
            seen: list[bytes | None] = []
            unreadable = []
            at = begin
            while at < last:
                block = log.read(PLACE, at)
                seen += [block.value(row) for row in range(len(block))]
                unreadable += [(int(block.offsets[row]), why) for row, why in block.unreadable]
                at = int(block.offsets[-1]) + 1
            assert len(unreadable) == 1
            assert end - 1 <= unreadable[0][0] < after
            assert "cannot be handed out" in unreadable[0][1]
            assert seen == [b"good"] * (ranges[0][1] if begin == 0 else 0) + [None] + [b"fine"] * 100
