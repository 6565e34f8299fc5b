"""Framed payloads of several writers in one block become one frame in the block's order; the rest says why not."""

from __future__ import annotations

import numpy as np
import polars as pl

from streamproc.wire import REASONS, Decoded, Encoder, Reader, split_frames

OLD = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}]}
NEW = {
    "type": "record",
    "name": "r",
    "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string", "default": "none at all, long enough"}],
}
FOREIGN = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "string"}]}
SCHEMAS = {1: OLD, 2: NEW, 3: FOREIGN}


def block(values: list[bytes | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts, ends, at = [], [], 3
    for value in values:
        starts.append(-1 if value is None else at)
        ends.append(-1 if value is None else at + len(value))
        at += len(value or b"")
    buffer = np.frombuffer(b"\xff\xff\xff" + b"".join(v or b"" for v in values), np.uint8)
    return buffer, np.array(starts, np.int64), np.array(ends, np.int64)


def read(values: list[bytes | None]) -> Decoded:
    return Reader(NEW, SCHEMAS.get).decode(*block(values))


def framed(schema_id: int, frame: pl.DataFrame) -> list[bytes]:
    return Encoder(SCHEMAS[schema_id]).encode(frame, schema_id=schema_id).to_payloads()


def test_rows_of_two_writers_come_out_in_the_order_of_the_block() -> None:
    old, new = framed(1, pl.DataFrame({"a": [1, 3]})), framed(2, pl.DataFrame({"a": [2], "b": ["x"]}))
    decoded = read([old[0], new[0], old[1]])
    assert decoded.frame["a"].to_list() == [1, 2, 3]
    assert decoded.frame["b"].to_list() == ["none at all, long enough", "x", "none at all, long enough"]
    assert decoded.rows.tolist() == [0, 1, 2]
    assert decoded.why() == []


def test_every_payload_that_cannot_be_read_has_its_reason() -> None:
    good = framed(1, pl.DataFrame({"a": [7]}))[0]
    foreign = framed(3, pl.DataFrame({"a": ["x"]}))[0]
    decoded = read(
        [None, b"", b"\0\0\0\0", b"\1" + good[1:], good[:4] + b"\x09" + good[5:], foreign, good[:5], good, good + b"!"]
    )
    assert decoded.frame["a"].to_list() == [7]
    assert decoded.rows.tolist() == [7]
    assert decoded.why() == [
        (0, "null payload"),
        (1, "not Confluent-framed"),
        (2, "not Confluent-framed"),
        (3, "not Confluent-framed"),
        (4, "unknown schema"),
        (5, "writer schema that the reader's schema cannot read"),
        (6, "truncated"),
        (8, "trailing bytes"),
    ]


def test_a_block_without_a_good_row_gives_an_empty_frame_of_the_readers_columns() -> None:
    assert read([]).frame.schema == read([None]).frame.schema == pl.Schema({"a": pl.Int64(), "b": pl.String()})


def test_bounds_outside_the_buffer_read_nothing() -> None:
    buffer = np.zeros(8, np.uint8)
    starts, ends = np.array([6, 8, 5, -1]), np.array([12, 8, 2, -1])
    ids, bodies = split_frames(buffer, starts, ends)
    assert ids.tolist() == bodies.tolist() == [-1] * 4


def test_every_reason_has_its_own_words() -> None:
    assert len(set(REASONS)) == len(REASONS)
