"""What is fetched from brokers directly is what librdkafka reads, and librdkafka reads where that cannot be."""

from __future__ import annotations

import contextlib
import random
import select
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from connectors.kafka import KafkaLog, Profile, direct, fetching, kafka_settings, reading_blocks
from connectors.kafka.admin import Admin
from connectors.kafka.direct import Direct
from connectors.kafka.reading_blocks import BlockReader
from streamproc.ports import TopicPartition, TopicSettings
from tests.deploy.deployed import within
from tests.services.kafka import PASSWORD, USER, KafkaCluster, kafka_cluster

Row = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
LONG_S = 120.0
PACKINGS = ("none", "gzip", "snappy", "lz4", "zstd")


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


def profile_of(cluster: KafkaCluster, **more: object) -> Profile:
    return Profile(kafka_settings({"brokers": cluster.bootstrap, **more}))


def rows(reader: BlockReader, place: TopicPartition, offset: int, end: int, dice: random.Random) -> list[Row]:
    """All records from an offset on, read in pieces of random sizes."""
    found: list[Row] = []
    while offset < end:
        block = reader.read(place, offset, max_records=dice.choice((1, 7, 500)), max_bytes=dice.choice((100, 1 << 20)))
        if not len(block):
            break
        for row in range(len(block)):
            headers = tuple(
                (one.name, block.buffer[int(one.starts[row]) : int(one.ends[row])].tobytes())
                for one in block.headers
                if one.starts[row] >= 0
            )
            stamp = int(block.timestamps[row])
            found.append((int(block.offsets[row]), stamp, block.key(row), block.value(row), headers))
        offset = int(block.offsets[-1]) + 1
    return found


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no broker that stands still."""
    monkeypatch.setattr(fetching, "_CONNECT_S", LONG_S)
    monkeypatch.setattr(fetching, "_SILENT_S", LONG_S)


def direct_reader(profile: Profile, admin: Admin) -> contextlib.closing[BlockReader]:
    return contextlib.closing(BlockReader(profile, admin, direct=True))


def is_direct(reader: BlockReader, place: TopicPartition) -> bool:
    return reader._waiting[place].leader is not None


def write_at_random(cluster: KafkaCluster, topic: str, partitions: int, dice: random.Random, steps: int) -> None:
    """Transactions of three producers, open side by side, committed or aborted, and records outside of any."""

    def some(most: int) -> bytes | None:
        return None if dice.random() < 0.1 else dice.randbytes(dice.choice((0, 1, dice.randint(0, most))))

    settings = {"bootstrap.servers": cluster.bootstrap, "linger.ms": 0, "log_level": 0}
    writers = [
        Producer({**settings, "transactional.id": f"{topic}-{n}", "compression.type": dice.choice(PACKINGS)})
        for n in range(3)
    ]
    for writer in writers:
        writer.init_transactions(30)
    plain, open_now = Producer(settings), [False] * 3
    for _ in range(steps):
        number = dice.randrange(4)
        writer = plain if number == 3 else writers[number]
        if number < 3 and not open_now[number]:
            writer.begin_transaction()
            open_now[number] = True
        for _ in range(dice.randint(1, 30)):
            headers = [(dice.choice("abc"), some(5)) for _ in range(dice.choice((0, 0, 0, 2)))]
            writer.produce(
                topic, some(200), some(8), dice.randrange(partitions), timestamp=dice.randint(1, 1_700_000_000_000),
                headers=headers or None,
            )  # fmt: skip
        writer.flush(30)
        if number < 3 and dice.random() < 0.5:
            if dice.random() < 0.5:
                writer.commit_transaction(30)
            else:
                writer.abort_transaction(30)
            open_now[number] = False
    for writer, is_open in zip(writers, open_now, strict=True):
        if is_open:
            writer.commit_transaction(30)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("seed", range(4))
def test_directly_fetched_records_are_those_that_librdkafka_reads(cluster: KafkaCluster, seed: int) -> None:
    dice, topic = random.Random(seed), f"random-{seed}"
    places = [TopicPartition(topic, number) for number in range(3)]
    profile = profile_of(cluster)
    with contextlib.closing(KafkaLog(profile)) as log:
        log.create_topic(topic, TopicSettings(len(places), append_time=seed % 2 == 0))
        write_at_random(cluster, topic, len(places), dice, 60)
        ends = {place: log.end_offset(place, isolation="read_uncommitted") for place in places}
        within(60, "all is decided", lambda: log.end_offsets(places) == ends)
    admin = Admin(profile)
    with (
        direct_reader(profile, admin) as direct,
        contextlib.closing(BlockReader(profile, admin, direct=False)) as twin,
    ):
        for start in (0, *(dice.randrange(min(ends.values())) for _ in range(3))):
            for place in places:
                found = rows(direct, place, start, ends[place], dice)
                assert found == rows(twin, place, start, ends[place], dice)
                assert is_direct(direct, place) and not is_direct(twin, place)
            for place in places:
                direct.forget(*place)
                twin.forget(*place)
    admin.close()


@pytest.mark.usefixtures("patience")
def test_packed_records_are_fetched_directly_too(cluster: KafkaCluster) -> None:
    place, profile = TopicPartition("packed", 0), profile_of(cluster)
    with contextlib.closing(KafkaLog(profile)) as log:
        log.create_topic("packed", TopicSettings())
        for packing in PACKINGS:
            writer = Producer({"bootstrap.servers": cluster.bootstrap, "compression.type": packing})
            for number in range(100):
                writer.produce("packed", b"%d %s" % (number, packing.encode() * 20))
            writer.flush(30)
    admin = Admin(profile)
    with direct_reader(profile, admin) as reader:
        found = rows(reader, place, 0, 100 * len(PACKINGS), random.Random(1))
        assert [row[3] for row in found] == [
            b"%d %s" % (number, packing.encode() * 20) for packing in PACKINGS for number in range(100)
        ]
        assert is_direct(reader, place)
    admin.close()


def test_a_broker_that_stands_still_or_goes_is_left_to_librdkafka_and_fetched_from_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading_blocks, "_DIRECT_AGAIN_S", 0.5)
    place = TopicPartition("t", 0)
    with kafka_cluster() as cluster:
        profile = profile_of(cluster)
        settings = {"bootstrap.servers": cluster.bootstrap, "linger.ms": 0, "enable.idempotence": True, "log_level": 0}
        writer = Producer(settings)
        admin = Admin(profile)
        with contextlib.closing(KafkaLog(profile)) as log, direct_reader(profile, admin) as reader:
            log.create_topic("t", TopicSettings())
            written, found = 0, []

            def goes_on() -> None:
                nonlocal written
                for _ in range(50):
                    writer.produce("t", b"%d" % written)
                    written += 1
                assert writer.flush(LONG_S) == 0
                until = time.monotonic() + LONG_S
                while len(found) < written:
                    assert time.monotonic() < until
                    if reader.wait({place: len(found)}, 1.0):
                        block = reader.read(place, len(found), max_records=1_000, max_bytes=1 << 20)
                        found.extend(block.value(row) for row in range(len(block)))
                assert found == [b"%d" % number for number in range(written)]

            def is_direct_again() -> bool:
                reader.available(place, len(found))
                return is_direct(reader, place)

            goes_on()
            within(60, "it is fetched directly", is_direct_again)
            cluster.pause(1)
            within(30, "it is silent for too long", lambda: not is_direct_again())
            cluster.resume(1)
            goes_on()
            within(60, "it is fetched directly again", is_direct_again)
            goes_on()
            cluster.restart(1)
            goes_on()
            within(60, "it is fetched directly again", is_direct_again)
            goes_on()
        admin.close()


@pytest.mark.usefixtures("patience")
def test_an_answer_that_lay_there_is_not_all_that_a_turn_gets(
    cluster: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_WAIT_MS", (int(1e3 * LONG_S), int(1e3 * LONG_S)))  # No answer is empty.
    place, profile = TopicPartition("turns", 0), profile_of(cluster)
    writer = Producer({"bootstrap.servers": cluster.bootstrap, "linger.ms": 0, "log_level": 0})
    admin = Admin(profile)

    def write() -> None:
        writer.produce("turns", b"a record")
        assert writer.flush(LONG_S) == 0

    with contextlib.closing(KafkaLog(profile)) as log, direct_reader(profile, admin) as reader:
        log.create_topic("turns", TopicSettings())
        write()
        assert reader.wait({place: 0}, LONG_S)
        assert len(reader.read(place, 0, max_records=10, max_bytes=1 << 20)) == 1
        monkeypatch.setattr(direct, "_FRESH_S", LONG_S)
        for turn in range(5):
            read = 1 + 2 * turn
            reader.available(place, read)  # Asks for what comes next.
            write()
            assert reader._direct is not None
            reader._direct._fetcher.wait(LONG_S)
            time.sleep(0.02)  # That is the answer, and lies there.
            write()
            assert reader.available(place, read) == read + 2
            assert len(reader.read(place, read, max_records=10, max_bytes=1 << 20)) == 2
            assert is_direct(reader, place)
    admin.close()


PLAIN = {
    "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
    "connections.max.reauth.ms": 2_000,
    "listener.name.client.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'username="{USER}" password="{PASSWORD}" user_{USER}="{PASSWORD}";',
}


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("security", "mechanism"), [("scram-tls", "SCRAM-SHA-512"), ("scram", "PLAIN"), ("tls", "")], ids=str
)
def test_connections_with_tls_or_a_password_are_fetched_from_directly(
    monkeypatch: pytest.MonkeyPatch, security: str, mechanism: str
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    with kafka_cluster(security=security, settings=PLAIN if mechanism else {}) as cluster:
        more: dict[str, object] = {}
        if mechanism:
            more["sasl"] = {"mechanism": mechanism, "username": USER, "password": {"env": "KAFKA_PASSWORD"}}
        if security.endswith("tls"):
            more["tls"] = {"ca": str(cluster.folder / "tls" / "ca.pem")}
        profile, place = profile_of(cluster, **more), TopicPartition("t", 0)
        writer = Producer({**cluster.client(), "log_level": 0})
        admin = Admin(profile)
        with contextlib.closing(KafkaLog(profile)) as log, direct_reader(profile, admin) as reader:
            log.create_topic("t", TopicSettings())
            written = 0
            for _ in range(4):
                for _ in range(20_000):
                    writer.produce("t", b"%050d" % written)
                    written += 1
                assert writer.flush(LONG_S) == 0
                found = rows(reader, place, written - 20_000, written, random.Random(1))
                assert [row[3] for row in found] == [b"%050d" % n for n in range(written - 20_000, written)]
                assert is_direct(reader, place), "also when a session ended meanwhile"
                time.sleep(0.9)
        with contextlib.closing(Direct(profile, admin, select.poll())) as good:
            assert good.leader(place) is not None
        monkeypatch.setenv("KAFKA_PASSWORD", "wrong")
        with contextlib.closing(Direct(profile, admin, select.poll())) as other:
            assert (other.leader(place) is None) == bool(mechanism)
        if security.endswith("tls"):
            more["tls"] = {"ca": str(cluster.folder / "tls" / "other.pem")}
            with contextlib.closing(Direct(profile_of(cluster, **more), admin, select.poll())) as other:
                assert other.leader(place) is None
        admin.close()
