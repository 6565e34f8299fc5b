"""Each reason for a bad payload has one that shows it, and stands alone among good neighbours."""

from __future__ import annotations

import tracemalloc

import numpy as np
import polars as pl
import pytest
from wire_twin import zigzag

from streamproc.errors import InvalidSchema
from streamproc.wire import REASONS, Decoder


def record(kind: object) -> dict[str, object]:
    return {"type": "record", "name": "r", "fields": [{"name": "a", "type": kind}]}


ENUM = {"type": "enum", "name": "e", "symbols": ["A", "B"]}
INNER = {**record("long"), "name": "inner"}
LONGS = {"type": "array", "items": "long"}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1}
FIXED_DECIMAL = {"type": "fixed", "name": "f", "size": 20, "logicalType": "decimal", "precision": 38, "scale": 0}
TIME = {"type": "int", "logicalType": "time-millis"}


@pytest.mark.parametrize(
    ("kind", "good", "bad", "reason"),
    [
        ("long", b"\x02", b"", "truncated"),
        ("long", b"\x02", b"\x80", "truncated"),
        ("double", bytes(8), bytes(7), "truncated"),
        ("float", bytes(4), bytes(3), "truncated"),
        ("boolean", b"\x01", b"", "truncated"),
        ({"type": "fixed", "name": "f", "size": 3}, b"abc", b"ab", "truncated"),
        (LONGS, b"\x02\x02\0", b"\x02\x02", "truncated"),
        (["null", "long"], b"\0", b"\x02", "truncated"),
        ("string", b"\x02a", b"\x04a", "length past the end"),
        ("string", b"\x02a", b"\x01", "length past the end"),
        ("bytes", b"\x02a", zigzag(2**62) + b"a", "length past the end"),
        (["null", "long"], b"\0", b"\x04", "bad union branch"),
        (["null", "long"], b"\0", b"\x01", "bad union branch"),
        (["null", "long"], b"\0", b"\x84\x00", "bad union branch"),
        (["null", "long", "string"], b"\0", b"\x06", "bad union branch"),
        (["null", LONGS], b"\0", b"\x04", "bad union branch"),
        (["null", INNER], b"\0", b"\x03", "bad union branch"),
        ("long", b"\x02", b"\x02\x02", "trailing bytes"),
        ("null", b"", b"\0", "trailing bytes"),
        ("string", b"\x02a", b"\x02\xff", "bad UTF-8"),
        ("boolean", b"\0", b"\x02", "bad boolean"),
        ("long", b"\xff" * 9 + b"\x01", b"\xff" * 9 + b"\x02", "varint overflow"),
        ("long", b"\x02", b"\x80" * 10 + b"\x01", "varint overflow"),
        (ENUM, b"\x02", b"\x04", "enum index out of range"),
        (ENUM, b"\x02", b"\x01", "enum index out of range"),
        ("int", zigzag(2**31 - 1), zigzag(2**31), "int out of 32-bit range"),
        ("int", zigzag(-(2**31)), zigzag(-(2**31) - 1), "int out of 32-bit range"),
        (LONGS, b"\0", b"\x04\x02\0", "truncated"),
        (LONGS, b"\0", b"\x08\x02\0", "item count too large"),
        (LONGS, b"\0", zigzag(2**62) + b"\0", "item count too large"),
        (LONGS, b"\0", zigzag(-(2**63)) + b"\x02\0\0", "item count too large"),
        (LONGS, b"\x01\x02\x02\0", b"\x01\x04\x02\0", "block size does not match its items"),
        (LONGS, b"\x01\x02\x02\0", b"\x01\x01\x02\0", "length past the end"),
        ({"type": "map", "values": "null"}, b"\x02\x02k\0", b"\x08\x02k\0", "item count too large"),
        (DECIMAL, b"\x04\x03\xe7", b"\x04\x03\xe8", "decimal out of range"),
        (DECIMAL, b"\x04\xfc\x19", b"\x04\xfc\x18", "decimal out of range"),
        (DECIMAL, zigzag(30) + b"\xff" * 30, zigzag(30) + b"\x7f" + bytes(29), "decimal out of range"),
        (FIXED_DECIMAL, bytes(20), b"\x01" + bytes(19), "decimal out of range"),
        (
            FIXED_DECIMAL,
            (-(10**38) + 1).to_bytes(20, "big", signed=True),
            b"\xff" * 3 + bytes(17),
            "decimal out of range",
        ),
        (TIME, zigzag(86_399_999), zigzag(86_400_000), "time of day out of range"),
        (TIME, zigzag(0), zigzag(-1), "time of day out of range"),
    ],
)
def test_a_bad_payload_is_named_and_its_neighbours_are_read(kind: object, good: bytes, bad: bytes, reason: str) -> None:
    payloads = [good, bad, good, bad, bad, good]
    decoded = Decoder(record(kind)).decode_payloads(payloads)
    assert decoded.why() == [(1, reason), (3, reason), (4, reason)]
    alone = Decoder(record(kind)).decode_payloads([good] * 3)
    assert decoded.frame.equals(alone.frame)
    assert decoded.rows.tolist() == [0, 2, 5]
    assert reason in REASONS


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("string", b"\x04a"), (LONGS, b"\x08\x02\0"), ("int", zigzag(2**31)), ("boolean", b"\x02"), (ENUM, b"\x04"),
        ("double", bytes(7)), (["null", "long", "string"], b"\x06"), (["null", LONGS], b"\x04"),
        (["null", INNER], b"\x03"), (LONGS, b"\x01\x04\x02\0"), ({"type": "map", "values": "long"}, b"\x02"),
    ],
)  # fmt: skip
def test_a_column_that_is_stepped_over_is_still_checked_for_structure(kind: object, bad: bytes) -> None:
    schema = record(kind)
    assert Decoder(schema, columns=[]).decode_payloads([bad]).bad.tolist() == [0]


@pytest.mark.parametrize(
    "text",
    [
        b"\x80", b"\xc0\xaf", b"\xc1\x81", b"\xe0\x80\xaf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x80\x80\xaf",
        b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\xa6", b"\xc3(",
        b"a" * 20 + b"\xff", b"a" * 20 + b"\xe2\x82", "ü".encode() * 9 + b"\x9f", b"\xe2(\xa1", b"\xf0\x9f(\xa6",
    ],
)  # fmt: skip
def test_ill_formed_utf8_costs_its_row(text: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        text.decode()
    good = "üñ€🦉 and a long tail".encode()
    payloads = [zigzag(len(value)) + value for value in (good, text, good)]
    decoded = Decoder(record("string")).decode_payloads(payloads)
    assert decoded.frame["a"].to_list() == [good.decode()] * 2
    assert decoded.why() == [(1, "bad UTF-8")]


def test_every_pair_of_bytes_is_judged_as_python_judges_it() -> None:
    texts = [bytes((a, b)) for a in range(256) for b in range(256)]
    decoded = Decoder(record("string")).decode_payloads([b"\x04" + text for text in texts])
    good = [i for i, text in enumerate(texts) if text.decode(errors="replace").encode() == text]
    assert decoded.rows.tolist() == good


def test_an_item_count_from_a_stranger_costs_no_memory() -> None:
    payload = zigzag(2**40) + b"\0" * 100
    decoder = Decoder(record({"type": "array", "items": LONGS}))
    decoder.decode_payloads([payload])
    tracemalloc.start()
    decoded = decoder.decode_payloads([payload] * 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert decoded.bad.size == 100
    assert peak < 1_000_000


def test_items_grow_past_the_first_guess_without_losing_any() -> None:
    counts = [0, 5000, 3, 0, 20_000, 1]
    payloads = [(zigzag(n) + b"\x02" * n if n else b"") + b"\0" for n in counts]
    decoded = Decoder(record(LONGS)).decode_payloads([*payloads[:3], b"\x02", *payloads[3:]])
    assert decoded.frame["a"].list.len().to_list() == counts
    assert decoded.frame["a"].explode().drop_nulls().sum() == sum(counts)
    assert decoded.why() == [(3, "item count too large")]


def test_blocks_of_items_are_joined() -> None:
    payload = b"\x04\x02\x04" + b"\x01\x02\x06" + b"\x02\x08" + b"\0"
    assert Decoder(record(LONGS)).decode_payloads([payload]).frame["a"].to_list() == [[1, 2, 3, 4]]


def test_payloads_may_overlap_lie_in_any_order_or_outside() -> None:
    buffer = np.array([2, 4, 6], np.uint8)
    starts, ends = np.array([2, 0, 1, 0, 3, -1, 2, 0]), np.array([3, 1, 2, 1, 4, 1, 1, 0])
    decoded = Decoder(record("long")).decode(buffer, starts, ends)
    assert decoded.frame["a"].to_list() == [3, 1, 2, 1]
    assert [row for row, _ in decoded.why()] == [4, 5, 6, 7]


def test_no_payloads_give_an_empty_frame_of_the_right_types() -> None:
    frame = Decoder(record({"type": "array", "items": ENUM})).decode_payloads([]).frame
    assert frame.schema == pl.Schema({"a": pl.List(pl.Enum(["A", "B"]))})
    assert frame.height == 0


@pytest.mark.parametrize("schema", ["long", {"type": "array", "items": "long"}, ["null", record("long")]])
def test_a_schema_that_is_no_record_is_refused(schema: object) -> None:
    with pytest.raises(InvalidSchema, match="not a record"):
        Decoder(schema)
