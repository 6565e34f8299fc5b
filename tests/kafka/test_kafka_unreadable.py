"""A stored batch that no client can take apart: one record says so, and reading goes on behind it."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import polars as pl
import pytest

import streamproc as sp
from connectors.kafka import KafkaLog, Profile, kafka_settings
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicPartition, TopicSettings, block_of
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame
from streamproc.testing.drive import driven
from tests.services.kafka import KafkaCluster, kafka_cluster

PLACE = TopicPartition("t", 0)
PAY = parse_contract(
    '{"type": "record", "name": "pay", "sp:version": 1, "fields": ['
    '{"name": "card", "type": "string", "sp:role": "key"},'
    ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)
_HEAD, _CRC, _CHECKED = 12, 17, 21
"""In a stored batch: the bytes before the length counts, where the checksum stands, and where what it covers begins."""


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


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum, bit by bit."""
    found = 0xFFFFFFFF
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = found >> 1 ^ (0x82F63B78 if found & 1 else 0)
    return found ^ 0xFFFFFFFF


def damage(segment: bytes, offset: int, *, sealed: bool) -> tuple[int, bytes]:
    """Where the batch of an offset lies, and what it is with other bytes; `sealed`: with a checksum that fits them."""
    at = 0
    while True:
        base, size = struct.unpack(">qi", segment[at : at + _HEAD])
        if base == offset:
            break
        at += _HEAD + size
    batch = bytearray(segment[at : at + _HEAD + size])
    for place in range(61, len(batch)):
        batch[place] ^= 0xFF
    if sealed:
        batch[_CRC:_CHECKED] = struct.pack(">I", crc32c(bytes(batch[_CHECKED:])))
    return at, bytes(batch)


@pytest.mark.parametrize("sealed", [False, True], ids=["a wrong checksum", "what does not inflate"])
def test_a_worker_takes_a_broken_batch_for_one_dead_letter_and_goes_on(cluster: KafkaCluster, sealed: bool) -> None:
    name = f"pays{int(sealed)}"
    profile = Profile(kafka_settings({"brokers": cluster.bootstrap, "compression": "lz4"}))
    registry, starts = MemoryRegistry([PAY]), []
    with contextlib.closing(KafkaLog(profile, blocks=True)) as log:
        log.create_topic(name, TopicSettings())
        place = TopicPartition(name, 0)
        for part in range(3):
            starts.append(log.end_offset(place))
            rows = pl.DataFrame({"card": [f"a card of part {part}"] * 100, "at": range(100 * part, 100 * part + 100)})
            append_frame(log, registry, name, PAY, rows)
            while log.end_offset(place) < starts[part] + 101:  # The mark of the commit comes a little later.
                pass
    segment = cluster.folder / "node-1" / f"{name}-0" / "00000000000000000000.log"
    at, batch = damage(segment.read_bytes(), starts[1], sealed=sealed)
    with segment.open("r+b") as file:  # In its place, for the broker has the file open.
        file.seek(at)
        file.write(batch)

    with contextlib.closing(KafkaLog(profile, blocks=True)) as log:
        topology = sp.Topology(f"t{int(sealed)}", sinks={"all": sp.source(name, contract="pay.v1")})
        binding = bind(topology, log, registry)
        progress = Worker(binding, log, until_end=source_ends(binding, log), close=True).run()
        made = driven(binding, log, registry, progress)
        (letter,) = made.dead_letters.select("topic", "partition", "offset", "reason").to_dicts()
        assert (letter["topic"], letter["partition"]) == (name, 0)
        assert starts[1] + 99 <= letter["offset"] < starts[2]
        assert letter["reason"].startswith("unreadable")
        assert made.fates(name)["dead_lettered"] == 1
        assert made.fates(name)["emitted"] == 200
