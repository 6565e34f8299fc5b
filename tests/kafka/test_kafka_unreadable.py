"""A stored batch that no client can take apart: one record says so, and reading goes on behind it."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator

import polars as pl
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

import streamproc as sp
from connectors.kafka import KafkaLog, Profile, kafka_settings
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicPartition, TopicSettings, block_of
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.replay import replay_as_recorded, source_ends
from streamproc.runtime.telemetry.metrics import WorkerMetrics
from streamproc.runtime.telemetry.vital import Vital
from streamproc.runtime.telemetry.worker_telemetry import WorkerTelemetry
from streamproc.runtime.worker import Progress, Worker
from streamproc.testing import append_frame
from streamproc.testing.drive import driven
from tests.deploy.deployed import within
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


def lived(binding: Binding, log: KafkaLog, *, rows: int) -> tuple[Progress, WorkerMetrics]:
    """A live worker, which never knows where the input ends, until it has taken in so many records."""
    metrics = WorkerMetrics()
    telemetry = WorkerTelemetry(binding, log, None, Vital(stall_after_s=60), metrics)
    worker, until = Worker(binding, log, observer=telemetry), time.monotonic() + 90
    try:
        while worker.progress.units < rows:
            assert time.monotonic() < until, f"{worker.progress.units} of {rows} records"
            worker.turn()
    finally:
        worker.close()
    return worker.progress, metrics


@pytest.mark.parametrize("blocks", [True, False], ids=["in blocks", "as objects"])
def test_a_record_over_the_size_cap_is_a_dead_letter_by_its_coordinates_and_all_others_are_read(
    cluster: KafkaCluster, blocks: bool
) -> None:
    name = f"large{int(blocks)}"
    profile = Profile(kafka_settings({"brokers": cluster.bootstrap, "sizes": {"record_bytes": 16 << 20}}))
    registry = MemoryRegistry([PAY])
    admin = AdminClient({**cluster.client(), "log_level": 0})
    admin.create_topics([NewTopic(name, 2, 1, config={"max.message.bytes": str(32 << 20)})])[name].result(30)
    places: list[int] = []
    with contextlib.closing(KafkaLog(profile, blocks=blocks)) as log:
        for part in range(2):
            rows = pl.DataFrame({"card": [f"card {n}" for n in range(100)], "at": range(100 * part, 100 * part + 100)})
            append_frame(log, registry, name, PAY, rows)
            if part == 0:
                large = Producer({**cluster.client(), "log_level": 0, "message.max.bytes": 32 << 20})
                large.produce(name, b"x" * (20 << 20), b"c", 0, on_delivery=lambda _, m: places.append(m.offset()))
                assert large.flush(60) == 0
        binding = bind(sp.Topology(name, sinks={"all": sp.source(name, contract="pay.v1")}), log, registry)
        progress, metrics = lived(binding, log, rows=201)
        made = driven(binding, log, registry, progress)
        (letter,) = made.dead_letters.select("topic", "partition", "offset", "reason", "payload").to_dicts()
        assert (letter["topic"], letter["partition"], [letter["offset"]]) == (name, 0, places)
        assert letter["reason"].startswith("unreadable: the batch of records that")
        assert letter["reason"].endswith("it is larger than the 16,777,216 bytes of [kafka.sizes] record_bytes")
        assert letter["payload"] is None
        assert made.fates(name)["dead_lettered"] == 1
        assert made.fates(name)["emitted"] == 200
        count = "streamproc_unreadable_records_total"
        assert metrics.registry.get_sample_value(count, {"topology": name, "stage": "0"}) == 1
        assert replay_as_recorded(binding, log).steps == progress.steps


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
            # The mark of the commit comes a little later.
            within(60, "the mark", lambda: log.end_offset(place) >= starts[-1] + 101)
    segment = cluster.folder / "node-1" / f"{name}-0" / "00000000000000000000.log"
    at, batch = damage(segment.read_bytes(), starts[1], sealed=sealed)
    with segment.open("r+b") as file:  # In its place, for the broker has the file open.
        file.seek(at)
        file.write(batch)

    with contextlib.closing(KafkaLog(profile, blocks=True)) as log:
        topology = sp.Topology(f"t{int(sealed)}", sinks={"all": sp.source(name, contract="pay.v1")})
        binding = bind(topology, log, registry)
        if sealed:
            progress = Worker(binding, log, until_end=source_ends(binding, log), close=True).run()
        else:
            progress = lived(binding, log, rows=201)[0]
        made = driven(binding, log, registry, progress)
        (letter,) = made.dead_letters.select("topic", "partition", "offset", "reason").to_dicts()
        assert (letter["topic"], letter["partition"]) == (name, 0)
        assert starts[1] + 99 <= letter["offset"] < starts[2]
        assert letter["reason"].startswith("unreadable")
        assert made.fates(name)["dead_lettered"] == 1
        assert made.fates(name)["emitted"] == 200
