"""Damage shows: a changed byte gives an error that names the place, never other data."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from connectors.embedded import EmbeddedLog
from streamproc.errors import CorruptLog, InputError, LogError
from streamproc.ports import TopicPartition, TopicSettings, block_of

T0, T1 = TopicPartition("payments", 0), TopicPartition("payments", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of two partitions, three blocks each, of bytes that do not compress."""
    dice = random.Random(1)
    with EmbeddedLog(tmp_path / "log.db") as log:
        log.create_topic("payments", TopicSettings(partitions=2))
        for _ in range(3):
            transaction = log.producer("w").begin()
            for place in (T0, T1):
                values = [dice.randbytes(100) for _ in range(100)]
                transaction.append(block_of(*place, values, keys=[b"%d" % i for i in range(100)]))
            transaction.commit_offsets("g", {T0: 1})
            transaction.commit()
    return tmp_path / "log.db"


def edit(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def contents(path: Path) -> list[list[tuple[int, int, bytes | None, bytes | None]]]:
    """Everything that can be read."""
    answer = []
    with EmbeddedLog(path, create=False) as log:
        for topic, settings in log.topics().items():
            for number in range(settings.partitions):
                place, rows = TopicPartition(topic, number), []
                at = log.start_offset(place)
                while at < log.end_offset(place):
                    block = log.read(place, at)
                    if not len(block):
                        break
                    rows += [
                        (int(block.offsets[i]), int(block.timestamps[i]), block.value(i), block.key(i))
                        for i in range(len(block))
                    ]
                    at = int(block.offsets[-1]) + 1
                answer.append(rows)
    return answer


FLIP = "UPDATE block SET payload = substr(payload, 1, 50) || x'00ff00' || substr(payload, 54) WHERE id = 3"


@pytest.mark.parametrize(
    "statement",
    [
        FLIP,
        "UPDATE block SET append_time = append_time + 1 WHERE id = 3",
        "UPDATE block SET newest = newest + 1 WHERE id = 3",
        "UPDATE block SET count = count - 1 WHERE id = 3",
        "UPDATE block SET checksum = x'00' WHERE id = 3",
        "UPDATE block SET (payload, checksum) = (SELECT payload, checksum FROM block WHERE id = 1) WHERE id = 3",
        "DELETE FROM block WHERE id = 3",
    ],
)
def test_an_edited_exchanged_or_deleted_block_is_named(path: Path, statement: str) -> None:
    edit(path, statement)
    with EmbeddedLog(path) as log:
        assert len(log.read(T1, 0)) == 300
        assert len(log.read(T0, 0, max_records=100)) == 100
        with pytest.raises(CorruptLog, match=r"topic 'payments', partition 0, offset 100 .*; restore"):
            log.read(T0, 100)
        (finding,) = log.check()
        assert (finding.topic, finding.partition, finding.start, finding.end) == ("payments", 0, 100, 200)
        assert "payments" in finding.text


def test_blocks_exchanged_between_partitions_show(path: Path) -> None:
    edit(
        path,
        "UPDATE block SET partition_id = 9 WHERE id = 3",
        "UPDATE block SET partition_id = 1 WHERE id = 4",
        "UPDATE block SET partition_id = 2 WHERE id = 3",
    )
    with EmbeddedLog(path) as log:
        for place in (T0, T1):
            with pytest.raises(CorruptLog, match=f"partition {place.partition}, offset 100"):
                log.read(place, 0)
        assert len(list(log.check())) == 2


def test_a_cut_off_end_shows(path: Path) -> None:
    edit(path, "DELETE FROM block WHERE id = 5")
    with EmbeddedLog(path) as log:
        with pytest.raises(CorruptLog, match="partition 0, offset 200"):
            log.read(T0, 0)
        (finding,) = log.check()
        assert (finding.start, finding.end) == (200, 300)


def test_an_edited_partition_row_shows(path: Path) -> None:
    edit(path, "UPDATE partition SET end_offset = 100 WHERE id = 1")
    with EmbeddedLog(path) as log:
        with pytest.raises(CorruptLog, match="partition 0"):
            log.end_offset(T0)
        assert [finding.partition for finding in log.check()] == [0]


def test_what_is_damaged_can_be_given_up(path: Path) -> None:
    edit(path, FLIP)
    with EmbeddedLog(path) as log:
        log.delete_records(T0, 200)
        assert len(log.read(T0, 200)) == 100
        assert list(log.check()) == []


def test_a_flipped_byte_of_a_payload_in_the_file_is_named(path: Path) -> None:
    with EmbeddedLog(path) as log:
        wanted = log.read(T0, 150).value(0)
    data = bytearray(path.read_bytes())
    data[data.find(wanted[:60]) + 30] ^= 1
    path.write_bytes(data)
    with EmbeddedLog(path) as log, pytest.raises(CorruptLog, match="topic 'payments', partition 0, offset 100"):
        log.read(T0, 150)


def test_no_flipped_byte_anywhere_gives_other_data(path: Path, tmp_path: Path) -> None:
    whole, data = contents(path), path.read_bytes()
    dice, copy, refused = random.Random(5), tmp_path / "copy.db", 0
    # The first bytes of each page decide how SQLite reads it: half of the flips go there.
    places = [dice.randrange(len(data)) for _ in range(150)]
    places += [dice.randrange(len(data) // 8192) * 8192 + dice.randrange(64) for _ in range(150)]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << dice.randrange(8)
        copy.write_bytes(changed)
        try:
            assert contents(copy) == whole, f"byte {place}"
        except (LogError, InputError):
            refused += 1
        for end in ("-wal", "-shm"):
            Path(f"{copy}{end}").unlink(missing_ok=True)
    assert refused > 50


def test_a_file_cut_short_is_refused(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "cut.db")
    with (tmp_path / "cut.db").open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(LogError):
        contents(tmp_path / "cut.db")
