"""Texts are written from the buffers that they lie in: whatever held them before, the bytes are those of fastavro."""

from __future__ import annotations

import io
import uuid

import fastavro
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.wire import Decoder, Encoder
from streamproc.wire import source as sources
from streamproc.wire.source import Bytes, Int64s

SCHEMA = {
    "type": "record",
    "name": "r",
    "fields": [
        {"name": "short", "type": "string"},
        {"name": "text", "type": ["null", "string"]},
        {"name": "raw", "type": "bytes"},
        {"name": "list", "type": {"type": "array", "items": "string"}},
        {"name": "code", "type": {"type": "fixed", "name": "code", "size": 14}},
        {"name": "id", "type": {"type": "fixed", "name": "id", "size": 16, "logicalType": "uuid"}},
    ],
}
PLAIN = fastavro.parse_schema(SCHEMA)


def row(number: int) -> dict[str, object]:
    """Texts on both sides of the twelve bytes that a view holds itself."""
    return {
        "short": "s" * (number % 14),
        "text": None if number % 5 == 3 else f"text {number} " + "é" * (number % 40),
        "raw": bytes([number % 256]) * (number % 30),
        "list": [f"item {number} {k} " + "x" * k * 5 for k in range(number % 4)],
        "code": f"{number:014d}".encode(),
        "id": str(uuid.UUID(int=number * 12_345_678_901_234_567_890_123)),
    }


def written(rows: list[dict[str, object]]) -> list[bytes]:
    payloads = []
    for one in rows:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, PLAIN, {**one, "id": uuid.UUID(str(one["id"])).bytes})
        payloads.append(out.getvalue())
    return payloads


def decoded(numbers: range) -> pl.DataFrame:
    return Decoder(SCHEMA).decode_payloads(written([row(number) for number in numbers])).frame


def encoded(frame: pl.DataFrame) -> list[bytes]:
    return Encoder(SCHEMA).encode(frame, schema_id=None).to_payloads()


def given_to_the_kernel(frame: pl.DataFrame, schema: dict[str, object], wanted: list[bytes] | None) -> Bytes:
    """The bytes from which the kernel takes texts."""
    seen: list[Bytes] = []

    class Measured(sources.Source):
        def data(self) -> tuple[Bytes, Int64s]:
            data, parts = super().data()
            seen.append(data)
            return data, parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamproc.wire.encoder.Source", Measured)
        payloads = Encoder(schema).encode(frame, schema_id=None).to_payloads()
    assert wanted is None or payloads == wanted
    return seen[0]


@pytest.mark.parametrize("spare", [0, 1 << 30])
@given(
    pieces=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    keep=st.integers(1, 7),
    cut=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
@settings(deadline=None, max_examples=60)
def test_rows_of_many_steps_filtered_and_sliced_are_written_as_fastavro_writes_them(
    spare: int, pieces: list[int], keep: int, cut: tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_SPARE", spare)  # with none, bytes are copied as soon as little of the buffers is shown
        frames, rows = [], []
        for start, size in enumerate(pieces):
            numbers = range(1_000 * start, 1_000 * start + size)
            frames.append(decoded(numbers))
            rows += [row(number) for number in numbers]
        index = pl.int_range(sum(pieces), eager=True)
        frame = pl.concat(frames).filter(index % keep == 0).slice(*cut)
        rows = [one for number, one in enumerate(rows) if number % keep == 0][cut[0] : sum(cut)]
        assert encoded(frame) == written(rows)


def test_a_few_rows_of_many_large_steps_do_not_copy_what_the_steps_held() -> None:
    long = pl.concat([decoded(range(k * 1_000, k * 1_000 + 400)).tail(1) for k in range(30)])
    wanted = written([row(k * 1_000 + 399) for k in range(30)])
    given = given_to_the_kernel(long, SCHEMA, wanted)
    assert given.size < sources._SPARE + sources._TIMES * sum(map(len, wanted))


def test_one_buffer_is_read_where_it_lies() -> None:
    frame = decoded(range(50))
    buffers = {b.address for b in frame["text"].to_arrow(compat_level=pl.CompatLevel.newest()).buffers()[2:] if b.size}
    texts = frame.select("short", "text", "raw")
    schema = {**SCHEMA, "fields": SCHEMA["fields"][:3]}
    assert given_to_the_kernel(texts, schema, None).ctypes.data in buffers
