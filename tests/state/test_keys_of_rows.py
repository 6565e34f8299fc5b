"""Keys of rows: the promised bytes, and no two different keys with the same ones."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import polars as pl
import pytest
from byte_columns import texts
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.contracts.model import Field, Schema
from streamproc.errors import TypeMismatch, UnknownColumn
from streamproc.hashing import hash_bytes
from streamproc.keys import NULL_KEY, key_kinds, keys_of

TEXTS = st.one_of(st.none(), st.text(max_size=6))
INTEGERS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
BINARIES = st.one_of(st.none(), st.binary(max_size=3), st.integers(0, 9).map(lambda n: b"\xff" * n))


def naive_key(*parts: str | int | bytes | None) -> bytes:
    """The rule of the protocol, a row at a time."""
    encoded: list[bytes | None] = []
    for part in parts:
        if isinstance(part, int):
            encoded.append(part.to_bytes(8, "big", signed=True))
        else:
            encoded.append(part.encode() if isinstance(part, str) else part)
    if len(encoded) == 1:
        return NULL_KEY if encoded[0] is None else encoded[0]
    return b"".join(b"\xff" * 4 if part is None else len(part).to_bytes(4, "big") + part for part in encoded)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(TEXTS, INTEGERS, BINARIES), max_size=20), st.integers(0, 5))
def test_keys_have_the_bytes_of_the_rule(rows: list[tuple[str | None, int | None, bytes | None]], skip: int) -> None:
    frame = pl.DataFrame(rows, schema={"t": pl.String, "i": pl.Int64, "b": pl.Binary}, orient="row")[skip:]
    rows = rows[skip:]
    assert texts(keys_of(frame, ["t"])) == [naive_key(t) for t, _, _ in rows]
    assert texts(keys_of(frame, ["i"])) == [naive_key(i) for _, i, _ in rows]
    assert texts(keys_of(frame, ["b", "t", "i"])) == [naive_key(b, t, i) for t, i, b in rows]
    assert texts(keys_of(frame, [])) == [b""] * frame.height


@settings(deadline=None, max_examples=100)
@given(st.lists(BINARIES, max_size=20))
def test_binary_keys_are_equal_exactly_where_the_values_are_null_included(values: list[bytes | None]) -> None:
    keys = texts(keys_of(pl.DataFrame({"b": values}, schema={"b": pl.Binary}), ["b"]))
    for value, key in zip(values, keys, strict=True):
        assert [other == key for other in keys] == [other == value for other in values]
        assert key == value or value is None or not value.strip(b"\xff")


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXTS, max_size=20), st.integers(0, 20))
def test_keys_do_not_depend_on_chunks_or_slices(values: list[str | None], cut: int) -> None:
    frame = pl.DataFrame({"t": values}, schema={"t": pl.String})
    chunked = pl.concat([frame[:cut], frame[cut:]], rechunk=False)
    whole = keys_of(frame, ["t"])
    assert texts(keys_of(chunked, ["t"])) == texts(whole)
    assert texts(keys_of(frame[cut:], ["t"])) == texts(whole)[cut:]
    assert whole.hashes.tolist() == hash_bytes(whole.buffer, whole.starts, whole.ends).tolist()


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (pl.Int8(), -2, (-2).to_bytes(8, "big", signed=True)),
        (pl.UInt32(), 2**32 - 1, (2**32 - 1).to_bytes(8, "big")),
        (pl.UInt64(), 2**64 - 1, b"\xff" * 8),
        (pl.Boolean(), True, (1).to_bytes(8, "big")),
        (pl.Date(), date(1970, 1, 3), (2).to_bytes(8, "big")),
        (pl.Datetime("us", "UTC"), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), (10**6).to_bytes(8, "big")),
        (pl.Datetime("ms"), datetime.fromisoformat("1970-01-01T00:00:01"), (10**6).to_bytes(8, "big")),
        (pl.Duration("ms"), timedelta(milliseconds=-1), (-1000).to_bytes(8, "big", signed=True)),
        (pl.Time(), time(0, 0, 1), (10**9).to_bytes(8, "big")),
        (pl.Decimal(10, 2), Decimal("-1.10"), (-110).to_bytes(16, "big", signed=True)),
        (pl.Enum(["b", "a"]), "a", b"a"),
        (pl.Categorical(), "é", "é".encode()),
    ],
)
def test_each_type_has_its_bytes(dtype: pl.DataType, value: object, expected: bytes) -> None:
    keys = keys_of(pl.DataFrame({"k": [value, None]}, schema={"k": dtype}), ["k"])
    assert texts(keys) == [expected, NULL_KEY]


@pytest.mark.parametrize("dtype", [pl.Float64(), pl.Float32(), pl.Datetime("ns"), pl.List(pl.Int64()), pl.Int128()])
def test_what_cannot_be_a_key_is_refused_by_name_at_plan_time_and_by_the_rows(dtype: pl.DataType) -> None:
    with pytest.raises(TypeMismatch, match=r"column 'price' .* cannot be a key; "):
        key_kinds(Schema((Field("price", dtype),)), ["price"])
    with pytest.raises(TypeMismatch, match="'price'"):
        keys_of(pl.DataFrame(schema={"price": dtype}), ["price"])


def test_kinds_tell_streams_that_share_keys_from_those_that_do_not() -> None:
    fields = (Field("a", pl.Int8()), Field("b", pl.UInt64()), Field("c", pl.Enum(["x"])), Field("d", pl.Decimal(9, 3)))
    assert key_kinds(Schema(fields), ["a", "b", "c", "d"]) == ("integer", "integer", "text", "decimal(3)")
    with pytest.raises(UnknownColumn, match="'e'"):
        key_kinds(Schema(fields), ["e"])
