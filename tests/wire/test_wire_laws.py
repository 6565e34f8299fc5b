"""What holds for every schema: the kernels agree with the twin and with fastavro; bad payloads cost only themselves."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Mapping

import fastavro
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_schemas import schemas
from wire_twin import BadError, column_value, decode, draw, encode, mutated

from streamproc.contracts.avro_json import expand
from streamproc.contracts.columns import kind_of
from streamproc.wire import Decoded, Decoder, Encoder, Reader
from streamproc.wire.decode import decode_rows
from streamproc.wire.encode import encode_rows

SEEDS = st.integers(0, 2**32)


def held(frame: pl.DataFrame) -> list[object]:
    """A frame's rows in their physical form, comparable."""
    columns = [comparable(series.to_physical().to_list()) for series in frame]
    return [list(row) for row in zip(*columns, strict=True)]


def comparable(value: object) -> object:
    """Floats as text, so that NaN equals itself and -0.0 differs from 0.0."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value.hex()
    if isinstance(value, Mapping):
        return {key: comparable(item) for key, item in value.items()}
    return [comparable(item) for item in value] if isinstance(value, list) else value


def expected(schema: Mapping[str, object], raws: list[object]) -> list[object]:
    rows = [column_value(schema, raw) for raw in raws]
    return [comparable(list(row.values())) for row in rows if isinstance(row, dict)]


def plain(node: object) -> object:
    """The schema without logical types, for fastavro to give raw values."""
    if isinstance(node, list):
        return [plain(branch) for branch in node]
    if isinstance(node, dict):
        return {key: plain(item) for key, item in node.items() if key not in ("logicalType", "precision", "scale")}
    return node


def as_fastavro(node: object, raw: object) -> object:
    """A twin's raw value as fastavro gives it: no branch numbers, maps as dicts, symbols as texts."""
    kind = kind_of(node)
    if kind == "union":
        return as_fastavro(node[raw[0]], raw[1])
    if kind == "record":
        return {item["name"]: as_fastavro(item["type"], raw[item["name"]]) for item in node["fields"]}
    if kind == "array":
        return [as_fastavro(node["items"], item) for item in raw]
    if kind == "map":
        return {key: as_fastavro(node["values"], item) for key, item in raw}
    return node["symbols"][raw] if kind == "enum" else raw


def check_against_oracles(schema: dict[str, object], payloads: list[bytes]) -> Decoded:
    """Decodes the payloads; good ones must be what twin and fastavro read, bad ones bad for the twin too."""
    node = expand(schema)
    parsed = fastavro.parse_schema(plain(schema))
    decoded = Decoder(schema).decode_payloads(payloads)
    assert decoded.frame.height == decoded.rows.size
    assert sorted([*decoded.rows.tolist(), *decoded.bad.tolist()]) == list(range(len(payloads)))
    good = []
    for row, payload in enumerate(payloads):
        try:
            raw = decode(node, payload)
        except BadError:
            continue
        good.append((row, raw))
        stream = io.BytesIO(payload)
        assert comparable(fastavro.schemaless_reader(stream, parsed)) == comparable(as_fastavro(node, raw))
        assert stream.tell() == len(payload)
    assert decoded.rows.tolist() == [row for row, _ in good]
    assert held(decoded.frame) == expected(node, [raw for _, raw in good])
    return decoded


@settings(max_examples=150, deadline=None)
@given(schemas(), SEEDS)
def test_every_value_of_every_schema_is_decoded_as_written_and_written_back_as_it_was(
    schema: dict[str, object], seed: int
) -> None:
    rnd, node = random.Random(seed), expand(schema)
    payloads = [encode(node, draw(rnd, node)) for _ in range(rnd.choice((1, 7, 40)))]
    decoded = check_against_oracles(schema, payloads)
    assert decoded.bad.size == 0
    assert Encoder(schema).encode(decoded.frame, schema_id=None).to_payloads() == payloads


@settings(max_examples=100, deadline=None)
@given(schemas(), SEEDS)
def test_a_damaged_payload_is_read_exactly_or_set_aside_and_its_neighbours_do_not_notice(
    schema: dict[str, object], seed: int
) -> None:
    rnd, node = random.Random(seed), expand(schema)
    whole = [encode(node, draw(rnd, node)) for _ in range(20)]
    payloads = [
        rnd.choice(whole) if rnd.random() < 0.2 else mutated(rnd, rnd.choice(whole), rnd.choice(whole))
        for _ in range(200)
    ]
    check_against_oracles(schema, payloads)


@pytest.mark.long
@settings(max_examples=1_000, deadline=None)
@given(schemas(), SEEDS)
def test_a_million_damaged_payloads_are_read_exactly_or_set_aside(schema: dict[str, object], seed: int) -> None:
    rnd, node = random.Random(seed), expand(schema)
    whole = [encode(node, draw(rnd, node)) for _ in range(50)]
    check_against_oracles(schema, [mutated(rnd, rnd.choice(whole), rnd.choice(whole)) for _ in range(1_000)])


@settings(max_examples=60, deadline=None)
@given(schemas(wide_unions=False), SEEDS)
def test_fastavro_writes_the_same_bytes(schema: dict[str, object], seed: int) -> None:
    rnd, node = random.Random(seed), expand(schema)
    raws = [draw(rnd, node) for _ in range(8)]
    frame = Decoder(schema).decode_payloads([encode(node, raw) for raw in raws]).frame
    ours = Encoder(schema).encode(frame, schema_id=None).to_payloads()
    for raw, payload in zip(raws, ours, strict=True):
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, fastavro.parse_schema(plain(schema)), as_fastavro(node, raw))
        assert stream.getvalue() == payload


@settings(max_examples=60, deadline=None)
@given(schemas(), SEEDS, st.data())
def test_columns_that_nobody_reads_change_nothing_in_those_that_are_read(
    schema: dict[str, object], seed: int, data: st.DataObject
) -> None:
    rnd, node = random.Random(seed), expand(schema)
    payloads = [encode(node, draw(rnd, node)) for _ in range(10)]
    payloads = [rnd.choice((p, p, mutated(rnd, p, payloads[0]))) for p in payloads]
    names = [item["name"] for item in schema["fields"]]
    kept = data.draw(st.lists(st.sampled_from(names), unique=True))
    whole, part = Decoder(schema).decode_payloads(payloads), Decoder(schema, columns=kept).decode_payloads(payloads)
    assert part.frame.columns == [name for name in names if name in kept]
    same = part.frame.filter(pl.Series(np.isin(part.rows, whole.rows), dtype=pl.Boolean)) if kept else part.frame
    assert held(same) == held(whole.frame.select(part.frame.columns)) or not kept
    assert set(whole.rows.tolist()) <= set(part.rows.tolist())


@settings(max_examples=60, deadline=None)
@given(schemas(), SEEDS)
def test_the_cut_into_batches_changes_neither_rows_nor_bytes(schema: dict[str, object], seed: int) -> None:
    rnd, node = random.Random(seed), expand(schema)
    payloads = [encode(node, draw(rnd, node)) for _ in range(12)]
    cut = rnd.randrange(13)
    decoder, encoder = Decoder(schema), Encoder(schema)
    parts = [decoder.decode_payloads(part).frame for part in (payloads[:cut], payloads[cut:])]
    joined = pl.concat(parts)
    assert held(joined) == held(decoder.decode_payloads(payloads).frame)
    assert encoder.encode(joined, schema_id=None).to_payloads() == payloads
    assert encoder.encode(joined[cut:], schema_id=None).to_payloads() == payloads[cut:]
    order = rnd.sample(range(12), 12)
    assert encoder.encode(joined[order], schema_id=None).to_payloads() == [payloads[i] for i in order]


def test_each_kernel_is_compiled_for_one_kind_of_arguments() -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": ["null", "string"]}]}
    frames = [pl.DataFrame({"a": values}, schema={"a": pl.String}) for values in (["x", None], ["y"], [], [None])]
    for frame in (*frames, frames[0][1:]):
        for schema_id in (None, 3):
            encoded = Encoder(schema).encode(frame, schema_id=schema_id)
            Reader(schema, {3: schema}.get).decode(encoded.buffer, encoded.starts, encoded.ends)
            Decoder(schema).decode_payloads(encoded.to_payloads())
    for kernel in (decode_rows, encode_rows):
        assert len(kernel.signatures) == 1
