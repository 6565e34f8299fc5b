"""What the encoder takes, what it refuses by column and row, and that equal rows are equal bytes."""

from __future__ import annotations

import io
import struct
from datetime import UTC, datetime, time
from decimal import Decimal
from pathlib import Path

import fastavro
import numpy as np
import polars as pl
import pytest
from wire_twin import zigzag

from streamproc.errors import DefinitionError, InputError, TypeMismatch, UnknownColumn
from streamproc.wire import Decoder, Encoder

DATA = Path(__file__).parent / "data"


def record(kind: object) -> dict[str, object]:
    return {"type": "record", "name": "r", "fields": [{"name": "a", "type": kind}]}


def bodies(kind: object, *values: object, dtype: pl.DataType | None = None) -> list[bytes]:
    frame = pl.DataFrame({"a": pl.Series("a", list(values), dtype=dtype, strict=False)})
    return Encoder(record(kind)).encode(frame, schema_id=None).to_payloads()


@pytest.mark.parametrize("name", ["weather.avro", "weather-deflate.avro", "weather-sorted.avro"])
def test_the_bodies_of_avros_own_test_files_are_written_back_byte_for_byte(name: str) -> None:
    with (DATA / name).open("rb") as file:
        reader = fastavro.block_reader(file)
        schema = reader.writer_schema
        blocks = [(block.num_records, block.bytes_.getvalue()) for block in reader]
    with (DATA / name).open("rb") as file:
        rows = list(fastavro.reader(file))
    for count, body in blocks:
        payloads = []
        stream = io.BytesIO(body)
        for _ in range(count):
            start = stream.tell()
            fastavro.schemaless_reader(stream, schema)
            payloads.append(body[start : stream.tell()])
        frame = Decoder(schema).decode_payloads(payloads).frame
        assert frame.to_dicts() == rows
        assert Encoder(schema).encode(frame, schema_id=None).buffer.tobytes() == body


def test_the_header_is_a_zero_byte_and_the_id() -> None:
    encoded = Encoder(record("long")).encode(pl.DataFrame({"a": [1, 2]}), schema_id=0x01020304)
    assert encoded.to_payloads() == [b"\0\1\2\3\4\x02", b"\0\1\2\3\4\x04"]
    assert encoded.starts.tolist() == [0, 6]
    assert encoded.ends.tolist() == [6, 12]


def test_an_empty_frame_gives_no_payloads() -> None:
    encoded = Encoder(record("string")).encode(pl.DataFrame(schema={"a": pl.String}), schema_id=1)
    assert (encoded.to_payloads(), encoded.buffer.size) == ([], 0)


def test_what_lies_under_a_null_does_not_reach_the_bytes() -> None:
    struct_type = pl.Struct({"x": pl.Int64, "s": pl.String})
    whole = pl.Series("a", [{"x": 1, "s": "secret"}, {"x": 2, "s": "t"}], dtype=struct_type)
    masked = pl.select(pl.when(pl.Series([False, True])).then(whole).alias("a"))
    fields = [{"name": "x", "type": "long"}, {"name": "s", "type": "string"}]
    kind = ["null", {"type": "record", "name": "n", "fields": fields}]
    assert Encoder(record(kind)).encode(masked, schema_id=None).to_payloads() == [b"\0", b"\2\4\2t"]


def test_every_nan_is_one_nan_and_zeros_keep_their_sign() -> None:
    odd = np.array([0x7FF0000000000001, 0xFFF8000000000000, 0x7FFFFFFFFFFFFFFF], np.uint64).view(np.float64)
    nan = struct.pack("<Q", 0x7FF8000000000000)
    encoded = Encoder(record("double")).encode(pl.DataFrame({"a": odd}), schema_id=None)
    assert encoded.to_payloads() == [nan] * 3
    single = np.array([0x7F800001, 0xFFC00000], np.uint32).view(np.float32)
    encoded = Encoder(record("float")).encode(pl.DataFrame({"a": single}), schema_id=None)
    assert encoded.to_payloads() == [struct.pack("<I", 0x7FC00000)] * 2
    assert bodies("double", 0.0, -0.0, float("inf")) == [struct.pack("<d", x) for x in (0.0, -0.0, float("inf"))]


def test_a_list_is_one_block_however_it_was_sliced() -> None:
    frame = pl.DataFrame({"a": [[9], [1, 2, 3], [], [4]]})
    encoded = Encoder(record({"type": "array", "items": "long"})).encode(frame[1:], schema_id=None)
    assert encoded.to_payloads() == [b"\6\2\4\6\0", b"\0", b"\2\x08\0"]


def test_decimals_in_bytes_are_as_short_as_they_can_be() -> None:
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 0}
    numbers = [0, 127, 128, -128, -129, 10**38 - 1, -(10**38) + 1]
    values = [Decimal(number) for number in numbers]
    sizes = [1, 1, 2, 1, 2, 16, 16]
    wanted = [zigzag(size) + n.to_bytes(size, "big", signed=True) for n, size in zip(numbers, sizes, strict=True)]
    assert bodies(kind, *values, dtype=pl.Decimal(38, 0)) == wanted


@pytest.mark.parametrize(
    ("kind", "series", "body"),
    [
        ("long", pl.Series("a", [1], dtype=pl.Int8), b"\2"),
        ("long", pl.Series("a", [1], dtype=pl.UInt64), b"\2"),
        ("int", pl.Series("a", [1], dtype=pl.Int64), b"\2"),
        ("double", pl.Series("a", [1.5], dtype=pl.Float32), struct.pack("<d", 1.5)),
        ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, pl.Series("a", ["B"]), b"\2"),
        ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, pl.Series("a", ["B"], dtype=pl.Categorical), b"\2"),
        ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, pl.Series("a", ["B"], dtype=pl.Enum(["B"])), b"\2"),
        (["null", "long"], pl.Series("a", [None], dtype=pl.Null), b"\0"),
        (["long", "null"], pl.Series("a", [None], dtype=pl.Int64), b"\2"),
        (["long"], pl.Series("a", [4], dtype=pl.Int64), b"\0\x08"),
        ({"type": "array", "items": "long"}, pl.Series("a", [[1]], dtype=pl.List(pl.Int16)), b"\2\2\0"),
    ],
)
def test_a_column_that_loses_nothing_is_taken(kind: object, series: pl.Series, body: bytes) -> None:
    assert Encoder(record(kind)).encode(series.to_frame(), schema_id=None).to_payloads() == [body]


UUID = {"type": "fixed", "name": "u", "size": 16, "logicalType": "uuid"}
WIDE = pl.Struct({"long": pl.Int64, "string": pl.String})


@pytest.mark.parametrize(
    ("kind", "series", "words"),
    [
        ("long", pl.Series("a", ["x"]), "the column 'a' is String, the schema needs Int64"),
        ("string", pl.Series("a", [1]), "the column 'a' is Int64, the schema needs String"),
        ("long", pl.Series("a", [1.5]), "the column 'a' is Float64"),
        ("long", pl.Series("a", [1, None, None]), "row 1: the value of 'a' is null"),
        ("int", pl.Series("a", [1, 2, 2**31]), r"row 2: the value of 'a' \(2147483648\) does not fit Int32"),
        ("long", pl.Series("a", [0, 2**63], dtype=pl.UInt64), "row 1: .*does not fit Int64"),
        (
            {"type": "enum", "name": "e", "symbols": ["A"]},
            pl.Series("a", ["A", "A", "B", "C"]),
            r"row 2: the value of 'a' \('B'\)",
        ),
        (
            {"type": "long", "logicalType": "timestamp-micros"},
            pl.Series("a", [datetime(2020, 1, 1, tzinfo=UTC)], dtype=pl.Datetime("ms", "UTC")),
            "the column 'a' is Datetime.*ms.*, the schema needs Datetime.*us",
        ),
        (
            {"type": "int", "logicalType": "time-millis"},
            pl.Series("a", [time(1), time(1, 2, 3, 500)]),
            "row 1: the value of 'a' .* is finer than its time unit",
        ),
        (
            {"type": "fixed", "name": "f", "size": 2},
            pl.Series("a", [b"ab", b"abc"]),
            "row 1: .* does not have the size that its fixed type asks for",
        ),
        (UUID, pl.Series("a", ["01010101-0101-0101-0101-01010101010g"]), "row 0: the value of 'a' .* size"),
        (
            ["long", "string"],
            pl.Series("a", [{"long": 1, "string": "x"}], dtype=WIDE),
            "row 0: .* more than one branch",
        ),
        (["long", "string"], pl.Series("a", [{"long": None, "string": None}], dtype=WIDE), "row 0: .* no branch set"),
        (
            {"type": "array", "items": "long"},
            pl.Series("a", [[1], [2, None]]),
            r"row 1: the value of 'a\[\]' is null",
        ),
        (
            {"type": "fixed", "name": "p", "size": 12, "logicalType": "duration"},
            pl.Series("a", [{"months": 1, "days": -1, "millis": 0}]),
            r"row 0: the value of 'a.days' .* does not fit 32 bits",
        ),
    ],
)
def test_a_value_that_the_schema_cannot_hold_is_named_with_its_row(kind: object, series: pl.Series, words: str) -> None:
    with pytest.raises(TypeMismatch, match=words):
        Encoder(record(kind)).encode(series.to_frame(), schema_id=None)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UnknownColumn, match="no column 'a'; did you mean 'aa'") as caught:
        Encoder(record("long")).encode(pl.DataFrame({"aa": [1]}), schema_id=None)
    assert isinstance(caught.value, DefinitionError)


def test_other_columns_are_left_alone() -> None:
    frame = pl.DataFrame({"b": ["x"], "a": [1]})
    assert Encoder(record("long")).encode(frame, schema_id=None).to_payloads() == [b"\2"]


def test_a_schema_id_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="4294967296"):
        Encoder(record("long")).encode(pl.DataFrame({"a": [1]}), schema_id=2**32)


def test_a_null_struct_is_null_in_a_wide_union_and_so_is_one_without_a_branch() -> None:
    series = pl.Series("a", [None, {"long": None, "string": None}, {"long": 1, "string": None}], dtype=WIDE)
    payloads = Encoder(record(["long", "null", "string"])).encode(series.to_frame(), schema_id=None).to_payloads()
    assert payloads == [b"\2", b"\2", b"\0\2"]
