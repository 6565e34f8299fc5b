"""Record batches become columns: each record as it was written, none of an aborted transaction, nothing of damage."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from connectors.kafka import record_batches as kernels
from connectors.kafka.packings import Unfoldable, unfolded

Header = tuple[bytes, bytes | None]


@dataclass
class Record:
    """One record of a batch; the offset counts from the batch's first."""

    behind: int
    key: bytes | None
    value: bytes | None
    stamp: int
    headers: list[Header] = field(default_factory=list)


def varint(number: int) -> bytes:
    zigzag = (number << 1) ^ (number >> 63)
    out = bytearray()
    while zigzag > 127:
        out.append(zigzag & 127 | 128)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def sized(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def batch(
    first: int, records: list[Record], *, producer: int = -1, attributes: int = 0, last: int | None = None
) -> bytes:
    """A batch as Kafka's protocol guide describes it, written independently of the kernels."""
    times = [record.stamp for record in records]
    body = b""
    for record in records:
        one = b"\0" + varint(record.stamp - times[0]) + varint(record.behind) + sized(record.key) + sized(record.value)
        one += varint(len(record.headers)) + b"".join(sized(name) + sized(value) for name, value in record.headers)
        body += varint(len(one)) + one
    last = max(record.behind for record in records) if last is None else last
    checked = struct.pack(">hiqqqhii", attributes, last, times[0], max(times), producer, 0, 0, len(records)) + body
    crc = kernels.crc32c(np.frombuffer(bytearray(checked), np.uint8), 0, len(checked))
    return struct.pack(">qiibI", first, len(checked) + 9, 0, 2, crc) + checked


def mark(first: int, producer: int, *, commit: bool) -> bytes:
    """The mark that ends a transaction."""
    record = Record(0, struct.pack(">hh", 0, int(commit)), b"\0\0\0\0\0\0", 0)
    return batch(first, [record], producer=producer, attributes=0x30)


Row = tuple[int, int, bytes | None, bytes | None, list[Header]]


def rows_of(data: bytes, *, least: int = 0, aborted: tuple[tuple[int, int], ...] = ()) -> tuple[list[Row], int, int]:
    """Offset, µs, key, value and headers of each record, the offset behind all, and what is wrong."""
    buffer, told = np.frombuffer(bytearray(data), np.uint8), np.zeros(4, np.int64)
    kernels.survey(buffer, 0, buffer.size, told)
    end, count, wrong, packed = told.tolist()
    if packed:
        buffer = unfolded(buffer.data[:end], 1 << 20)
        data, end = buffer.tobytes(), buffer.size
    columns = np.empty((kernels.COLUMNS, count), np.int64)
    producers, firsts = (np.array([pair[at] for pair in aborted], np.int64) for at in (0, 1))
    kernels.unpack(buffer, 0, end, least, producers, firsts, columns, told)
    rows, position, _, broken = told.tolist()
    assert not broken

    def cell(start: int, stop: int) -> bytes | None:
        return None if start < 0 else data[start:stop]

    more = kernels.count_headers(buffer, columns[kernels.HEADERS, :rows])
    listed = np.empty((5, more), np.int64)
    assert kernels.list_headers(buffer, columns[kernels.HEADERS, :rows], *listed) == more
    headers: list[list[Header]] = [[] for _ in range(rows)]
    for row, name, size, start, stop in listed.T.tolist():
        headers[row].append((data[name : name + size], cell(start, stop)))
    return (
        [
            (offset, stamp, cell(key, key_end), cell(value, value_end), headers[row])
            for row, (offset, stamp, value, value_end, key, key_end, _) in enumerate(columns[:, :rows].T.tolist())
        ],
        position,
        wrong,
    )


def random_bytes(dice: random.Random, most: int) -> bytes | None:
    return None if dice.random() < 0.15 else dice.randbytes(dice.choice((0, 1, 7, dice.randint(0, most))))


def random_records(dice: random.Random) -> list[Record]:
    """Records with gaps, as compaction leaves them; stamps in any order."""
    behind = sorted(dice.sample(range(200), dice.randint(1, 40)))
    return [
        Record(
            at, random_bytes(dice, 20), random_bytes(dice, 300), dice.randint(0, 2**41),
            [(dice.choice((b"a", b"name", b"")), random_bytes(dice, 9)) for _ in range(dice.choice((0, 0, 0, 1, 3)))],
        )
        for at in behind
    ]  # fmt: skip


def test_the_checksum_is_the_published_one() -> None:
    for data, crc in ((b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)):
        buffer = np.frombuffer(bytearray(b"xyz" + data), np.uint8)
        assert kernels.crc32c(buffer, 3, buffer.size) == crc


@pytest.mark.parametrize("seed", range(20))
def test_every_record_comes_as_it_was_written_from_whichever_offset(seed: int) -> None:
    dice = random.Random(seed)
    data, wanted, first = b"", [], 0
    for _ in range(dice.randint(1, 6)):
        records, append_time = random_records(dice), dice.random() < 0.3
        last = records[-1].behind + dice.choice((0, 0, 5))
        data += batch(first, records, attributes=0x8 if append_time else 0, last=last)
        newest = max(record.stamp for record in records)
        wanted += [
            (first + r.behind, 1_000 * (newest if append_time else r.stamp), r.key, r.value, r.headers) for r in records
        ]
        first += last + 1
    assert rows_of(data) == (wanted, first, kernels.SOUND)
    least = dice.randint(0, first)
    assert rows_of(data, least=least)[0] == [row for row in wanted if row[0] >= least]


def test_records_of_aborted_transactions_and_marks_are_left_out() -> None:
    def one(first: int, producer: int, word: bytes) -> bytes:
        return batch(first, [Record(0, None, word, 1)], producer=producer, attributes=0x10)

    data = b"".join([
        one(0, 7, b"aborted"), one(1, 8, b"kept"), batch(2, [Record(0, None, b"plain", 1)]), one(3, 7, b"aborted too"),
        mark(4, 7, commit=False), one(5, 7, b"the next one of the same producer"), mark(6, 8, commit=True),
        one(7, 9, b"aborted"), mark(8, 7, commit=True), mark(9, 9, commit=False), one(10, 9, b"aborted"),
        mark(11, 9, commit=False), one(12, 9, b"kept"), mark(13, 9, commit=True),
    ])  # fmt: skip
    aborted = ((7, 0), (9, 7), (9, 10))
    found, position, _ = rows_of(data, aborted=aborted)
    assert [(row[0], row[3]) for row in found] == [
        (1, b"kept"), (2, b"plain"), (5, b"the next one of the same producer"), (12, b"kept"),
    ]  # fmt: skip
    assert position == 14
    # The broker names transactions that began before the place from which one reads.
    tail = data[len(one(0, 7, b"aborted")) :]
    assert [row[0] for row in rows_of(tail, least=1, aborted=aborted)[0]] == [1, 2, 5, 12]


def test_a_batch_that_is_cut_off_or_damaged_gives_nothing_and_what_lies_before_it_stays() -> None:
    dice = random.Random(1)
    good, next_one = batch(0, random_records(dice)), batch(1_000, random_records(dice))
    before = rows_of(good)[0]
    for size in range(len(next_one)):
        assert rows_of(good + next_one[:size])[0] == before
    for _ in range(500):
        bad, at = bytearray(next_one), dice.randrange(16, len(next_one))
        bad[at] ^= 1 << dice.randrange(8)
        found, position, wrong = rows_of(good + bytes(bad))
        assert (found, wrong) == (before, kernels.FOREIGN if at == 16 else kernels.DAMAGED)
        assert position < 1_000


@pytest.mark.parametrize("seed", range(30))
def test_rubbish_under_a_right_checksum_stays_inside_the_buffer(seed: int) -> None:
    """No broker stores such a batch; a kernel that believed its sizes would read anywhere in memory."""
    dice = random.Random(seed)
    for _ in range(100):
        good = batch(0, random_records(dice), attributes=dice.choice((0, 0x10, 0x20, 0x30)))
        body = bytearray(good[61:])
        for _ in range(dice.randint(1, 5)):
            at = dice.randrange(len(body))
            body[at : at + dice.randint(0, 3)] = dice.choice((b"\xff" * 9 + b"\1", b"\x80", dice.randbytes(3), b""))
        checked = good[21:61] + bytes(body)
        crc = kernels.crc32c(np.frombuffer(bytearray(checked), np.uint8), 0, len(checked))
        data = good[:8] + struct.pack(">iibI", len(checked) + 9, 0, 2, crc) + checked
        buffer, told = np.frombuffer(bytearray(data), np.uint8), np.zeros(4, np.int64)
        kernels.survey(buffer, 0, buffer.size, told)
        assert told[2] == kernels.SOUND
        columns, none = np.empty((kernels.COLUMNS, int(told[1])), np.int64), np.empty(0, np.int64)
        kernels.unpack(buffer, 0, buffer.size, 0, none, none, columns, told)
        found = columns[:, : int(told[0])]
        for low, high in ((kernels.VALUE_START, kernels.VALUE_END), (kernels.KEY_START, kernels.KEY_END)):
            null = found[low] < 0
            assert (found[high][null] == -1).all()
            assert (found[low] <= found[high]).all() and (found[high] <= buffer.size).all()
        more = kernels.count_headers(buffer, found[kernels.HEADERS])
        assert 0 <= more <= buffer.size
        listed = np.empty((5, more), np.int64)
        listed = listed[:, : kernels.list_headers(buffer, found[kernels.HEADERS], *listed)]
        assert (listed[1] >= 0).all()
        assert (np.maximum(listed[1] + listed[2], listed[4]) <= buffer.size).all()


def test_an_older_format_is_told() -> None:
    old = bytearray(batch(0, [Record(0, b"k", b"v", 1)]))
    old[16] = 1
    assert rows_of(bytes(old))[2] == kernels.FOREIGN


def xerial(data: bytes) -> bytes:
    """Chunks in the framing of the Java library."""
    chunks = [snappy(data[at : at + 100]) for at in range(0, len(data), 100)]
    return b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + b"".join(struct.pack(">i", len(one)) + one for one in chunks)


def snappy(data: bytes) -> bytes:
    return pa.Codec("snappy").compress(data, asbytes=True)


def lz4(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


PACKINGS = [(1, gzip), (2, snappy), (2, xerial), (3, lz4), (4, zstandard.compress)]


def packed(data: bytes, number: int, pack: Callable[[bytes], bytes]) -> bytes:
    """A batch with its records packed, and its checksum made anew."""
    checked = struct.pack(">h", struct.unpack_from(">h", data, 21)[0] | number) + data[23:61] + pack(data[61:])
    crc = kernels.crc32c(np.frombuffer(bytearray(checked), np.uint8), 0, len(checked))
    return data[:8] + struct.pack(">iibI", len(checked) + 9, 0, 2, crc) + checked


@pytest.mark.parametrize(("number", "pack"), PACKINGS, ids=["gzip", "snappy", "xerial", "lz4", "zstd"])
def test_packed_batches_give_the_same_records(number: int, pack: Callable[[bytes], bytes]) -> None:
    dice = random.Random(number)
    plain = [batch(first, random_records(dice), last=199, attributes=8 * dice.randint(0, 1)) for first in (0, 200, 400)]
    mixed = b"".join(packed(one, number, pack) if at != 1 else one for at, one in enumerate(plain))
    assert rows_of(mixed) == rows_of(b"".join(plain))
    assert rows_of(mixed, least=250) == rows_of(b"".join(plain), least=250)


@pytest.mark.parametrize(("number", "pack"), PACKINGS, ids=["gzip", "snappy", "xerial", "lz4", "zstd"])
def test_what_does_not_unfold_or_unfolds_to_too_much_is_refused(number: int, pack: Callable[[bytes], bytes]) -> None:
    data = packed(batch(0, [Record(0, None, bytes(100_000), 1)]), number, pack)
    with pytest.raises(Unfoldable):
        unfolded(memoryview(data), 50_000)
    broken = data[:61] + random.Random(1).randbytes(50)
    with pytest.raises(Unfoldable):
        unfolded(memoryview(broken[:8] + struct.pack(">i", len(broken) - 12) + broken[12:]), 1 << 20)
    foreign = data[:21] + struct.pack(">h", 7) + data[23:]
    with pytest.raises(Unfoldable, match="packing 7"):
        unfolded(memoryview(foreign), 1 << 20)
