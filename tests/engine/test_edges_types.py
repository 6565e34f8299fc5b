"""Every type arrives at the next stage as what it was, and through a derived sink as the nearest in Avro."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.batch import WIDTH
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.engine.edges import LARGEST, read_edge, write_edge
from streamproc.errors import TypeMismatch
from streamproc.planning.carried import carriage
from streamproc.ports import block_of
from streamproc.testing import drive

EVENT = parse_contract(
    """{"type": "record", "name": "event", "sp:version": 1, "fields": [{"name": "k", "type": "long"},
    {"name": "text", "type": "string"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"},
    "sp:role": "event_time"}]}"""
)
ROWS = pl.DataFrame({"k": [1, 2, 3], "text": ["a", "b", "a"], "at": [0, 1, 2]})

VALUES: dict[str, tuple[pl.DataType, list[Any]]] = {
    "small": (pl.Int8(), [-128, 0, 127]),
    "short": (pl.Int16(), [-32768, 0, None]),
    "tiny": (pl.UInt8(), [0, 255, None]),
    "unsigned short": (pl.UInt16(), [0, 65535, 1]),
    "unsigned": (pl.UInt32(), [0, 2**32 - 1, None]),
    "zoned": (pl.Datetime("ms", "Europe/Berlin"), [datetime(2024, 7, 1, tzinfo=UTC), None]),
    "local": (pl.Datetime("ns"), [datetime(2024, 7, 1, tzinfo=UTC).replace(tzinfo=None), None]),
    "day": (pl.Date(), [date(2024, 7, 1), None]),
    "time": (pl.Time(), [time(1, 2, 3), None]),
    "category": (pl.Categorical(), ["a", None, "b"]),
    "enum": (pl.Enum(["a", "b"]), ["a", None]),
    "enum of other words": (pl.Enum(["größer", "1"]), ["1", None, "größer"]),
    "pair": (pl.Array(pl.Int16(), 2), [[1, 2], None]),
    "money": (pl.Decimal(20, 2), [Decimal("1.23"), None]),
    "list": (pl.List(pl.UInt8()), [[1, None], [], None]),
    "struct": (pl.Struct({"a": pl.Int16(), "b": pl.List(pl.String())}), [{"a": 1, "b": ["x"]}, {"a": None, "b": None}]),
    "bytes": (pl.Binary(), [b"", b"\xff", None]),
    "flag": (pl.Boolean(), [True, None]),
    "float": (pl.Float32(), [0.5, float("nan"), None]),
    "nothing": (pl.Null(), [None, None]),
}


@pytest.mark.parametrize("what", sorted(VALUES))
def test_a_column_arrives_as_what_it_was(what: str) -> None:
    from streamproc.wire import Decoder, Encoder

    dtype, values = VALUES[what]
    frame = pl.DataFrame([pl.Series("ä column", values, dtype=dtype, strict=False)])
    there = carriage(Schema((Field("ä column", dtype, nullable=True),)))
    encoded = Encoder(there.avro).encode(there.packed(frame), schema_id=None)
    decoded = Decoder(there.avro).decode(encoded.buffer, encoded.starts, encoded.ends)
    back = there.unpacked(decoded.frame)
    assert back.schema == frame.schema
    assert back.equals(frame, null_equal=True)


def test_narrow_and_zoned_columns_go_through_stages_and_sinks() -> None:
    berlin = pl.col("at").dt.convert_time_zone("Europe/Berlin")
    rows = sp.source("event", contract=EVENT) | sp.with_columns(
        small=pl.col("k").cast(pl.Int16, strict=False),
        zoned=berlin,
        kind=pl.col("text").cast(pl.Enum(["a", "b"]), strict=False),
    )
    below = (
        rows
        | sp.key_by("k")
        | sp.with_columns(more=pl.col("small") + pl.lit(1, pl.Int16), hour=pl.col("zoned").dt.hour())
    )
    made = drive(sp.Topology("t", sinks={"direct": rows, "below": below}), event=ROWS, contracts=(EVENT,), partitions=2)
    assert made["direct"]["small"].to_list() == [1, 2, 3] or sorted(made["direct"]["small"]) == [1, 2, 3]
    assert sorted(made["below"]["more"]) == [2, 3, 4]
    assert set(made["below"]["hour"]) == {1}
    assert made["below"].schema["small"] == pl.Int32
    assert made["below"].schema["zoned"] == pl.Datetime("us", "UTC")


UNFIT = {
    "UInt64": pl.col("k").cast(pl.UInt64, strict=False),
    "Int128": pl.col("k").cast(pl.Int128),
    "Duration": pl.col("at") - pl.col("at"),
}


@pytest.mark.parametrize("dtype", sorted(UNFIT))
def test_what_avro_does_not_have_is_refused_by_name_when_planned(dtype: str) -> None:
    rows = sp.source("event", contract=EVENT) | sp.with_columns(odd=UNFIT[dtype])
    moved = rows | sp.key_by("k", name="moves") | sp.where(pl.col("odd").is_not_null()) | sp.select("text")
    with pytest.raises(TypeMismatch, match=rf"'moves'.*'odd' of type {dtype}.*cast it"):
        drive(sp.Topology("t", sinks={"o": moved}), event=ROWS, contracts=(EVENT,))
    with pytest.raises(TypeMismatch, match=rf"sink 'o'.*'odd' of type {dtype}.*cast it"):
        drive(sp.Topology("t", sinks={"o": rows}), event=ROWS, contracts=(EVENT,))
    unread = rows | sp.key_by("k") | sp.select("text")
    made = drive(sp.Topology("t", sinks={"o": unread}), event=ROWS, contracts=(EVENT,))
    assert sorted(made["o"]["text"]) == ["a", "a", "b"]


def test_a_duration_may_live_inside_a_stage() -> None:
    spans = sp.source("event", contract=EVENT) | sp.with_columns(odd=UNFIT["Duration"]) | sp.where(
        pl.col("odd") == timedelta(0)
    )  # fmt: skip
    made = drive(sp.Topology("t", sinks={"o": spans | sp.select("k")}), event=ROWS, contracts=(EVENT,))
    assert made["o"].height == 3


# ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sizes", [[], [1], [LARGEST + 1], [10, LARGEST * 2, 10], [LARGEST // 3] * 7, [0, 0, 0]])
def test_blocks_hold_512_kilobytes_or_one_larger_row(sizes: list[int]) -> None:
    ends = np.cumsum(sizes, dtype=np.int64)
    starts = ends - np.array(sizes, np.int64)
    buffer = np.random.default_rng(1).integers(0, 255, int(ends[-1]) if sizes else 0).astype(np.uint8)
    meta = np.zeros((len(sizes), WIDTH), np.int64)
    meta[:, :2] = np.arange(len(sizes))[:, None] + 5
    values = list(write_edge(meta, buffer, starts, ends, watermark=77, flags=1))
    block = block_of("edge", 0, values)
    rows, marks, flags, carried, record, begins, stops = read_edge(
        type(block)("edge", 0, np.arange(len(values)), np.zeros(len(values), np.int64), block.buffer,
                    block.value_starts, block.value_ends, block.key_starts, block.key_ends)
    )  # fmt: skip
    assert all(len(value) <= LARGEST + 100 or count == 1 for value, count in zip(values, rows, strict=True))
    assert rows.sum() == len(sizes) and marks[-1] == 77
    assert flags.tolist() == [0] * (len(values) - 1) + [1]
    assert carried[:, 0].tolist() == meta[:, 0].tolist()
    assert marks[:-1].tolist() == [int(carried[record == r][-1, 1]) for r in range(len(values) - 1)]
    parts = [block.buffer[a:b] for a, b in zip(begins, stops, strict=True)]
    assert np.concatenate([np.empty(0, np.uint8), *parts]).tobytes() == buffer.tobytes()


def test_rows_larger_than_a_block_cross_stages_in_any_steps() -> None:
    rows = pl.DataFrame({"k": range(8), "text": ["x" * size for size in (1, 600_000, 3, 300_000, 300_000, 1, 0, 9)],
                         "at": range(8)})  # fmt: skip
    sized = (
        sp.source("event", contract=EVENT)
        | sp.key_by("k")
        | sp.with_columns(n=pl.col("text").str.len_bytes().cast(pl.Int64))
    )
    topology = sp.Topology("t", sinks={"o": sized | sp.select("k", "n")})
    whole = drive(topology, event=rows, contracts=(EVENT,))
    cut = drive(topology, event=rows, contracts=(EVENT,), steps=iter([8, 8, 1, 1, 2, 1, *[1] * 100]))
    assert whole["o"]["n"].to_list() == cut["o"]["n"].to_list() == [1, 600_000, 3, 300_000, 300_000, 1, 0, 9]
    assert dict(whole.sums) == dict(cut.sums)
