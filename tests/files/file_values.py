"""Random contracts of every column type, and frames that fit them."""

from __future__ import annotations

import datetime as dt
from decimal import Context, Decimal
from typing import Any

import polars as pl
from hypothesis import strategies as st

from streamproc.contracts.derive import contract_of
from streamproc.contracts.model import Contract, Field, Schema

ENUM = pl.Enum(["red", "green", 'ü,"x"'])
LEAVES: tuple[pl.DataType, ...] = (
    pl.Boolean(), pl.Int32(), pl.Int64(), pl.Float32(), pl.Float64(), pl.String(), pl.Binary(), ENUM, pl.Date(),
    pl.Time(), pl.Decimal(12, 3), pl.Decimal(38, 0), pl.Datetime("ms", "UTC"), pl.Datetime("us", "UTC"),
    pl.Datetime("ns", "UTC"), pl.Datetime("us"), pl.Datetime("ms"),
)  # fmt: skip
_LETTERS = st.sampled_from("ab,\"\n\r\t\\ '{}[]:é€😀\ufeff\x00\x7f")
_TEXT = st.text(alphabet=st.one_of(_LETTERS, st.characters(codec="utf-8")), max_size=8)
_ZERO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC).replace(tzinfo=None)


def dtypes(depth: int = 2) -> st.SearchStrategy[pl.DataType]:
    """Column types: leaves, and lists, maps and records of them."""
    leaf = st.sampled_from(LEAVES)
    if not depth:
        return leaf
    inner = dtypes(depth - 1)
    struct = st.lists(inner, min_size=1, max_size=3).map(
        lambda kinds: pl.Struct({f"m{place}": kind for place, kind in enumerate(kinds)})
    )
    mapped = inner.map(lambda kind: pl.List(pl.Struct({"key": pl.String(), "value": kind})))
    return st.one_of(leaf, leaf, leaf, inner.map(pl.List), struct, mapped)


def values(dtype: Any, *, nullable: bool = True) -> st.SearchStrategy[Any]:
    """Python values of a type."""
    found = _values(dtype() if isinstance(dtype, type) else dtype)
    return st.one_of(st.none(), found) if nullable else found


def _values(dtype: pl.DataType) -> st.SearchStrategy[Any]:
    if isinstance(dtype, pl.List):
        inner: Any = dtype.inner
        if isinstance(inner, pl.Struct) and [field.name for field in inner.fields] == ["key", "value"]:
            item = values(inner.fields[1].dtype)
            return st.dictionaries(_TEXT, item, max_size=3).map(
                lambda found: [{"key": key, "value": value} for key, value in found.items()]
            )
        return st.lists(values(inner), max_size=3)
    if isinstance(dtype, pl.Struct):
        return st.fixed_dictionaries({field.name: values(field.dtype) for field in dtype.fields})
    if isinstance(dtype, pl.Datetime):
        near = {"min_value": _ZERO.replace(year=1700), "max_value": _ZERO.replace(year=2200)}
        moments = st.datetimes(**near) if dtype.time_unit == "ns" else st.datetimes()
        if dtype.time_unit == "ms":
            moments = moments.map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000))
        return moments.map(lambda moment: moment.replace(tzinfo=dt.UTC)) if dtype.time_zone else moments
    if isinstance(dtype, pl.Decimal):
        scale = dtype.scale
        most = 10**dtype.precision - 1
        return st.integers(-most, most).map(lambda digits: _decimal(digits, scale))
    if isinstance(dtype, pl.Float32 | pl.Float64):
        return st.floats(width=32 if isinstance(dtype, pl.Float32) else 64)
    plain: dict[type[pl.DataType], st.SearchStrategy[Any]] = {
        pl.Boolean: st.booleans(),
        pl.Int32: st.integers(-(2**31), 2**31 - 1),
        pl.Int64: st.integers(-(2**63), 2**63 - 1),
        pl.String: _TEXT,
        pl.Binary: st.binary(max_size=6),
        pl.Enum: st.sampled_from(ENUM.categories.to_list()),
        pl.Date: st.dates(),
        pl.Time: st.times(),
    }
    return plain[type(dtype)]


def _decimal(digits: int, scale: int) -> Any:
    return Decimal(digits).scaleb(-scale, context=Context(prec=50))


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    """A contract of one to four columns."""
    kinds = draw(st.lists(dtypes(), min_size=1, max_size=4))
    fields = [Field(f"c{place}", kind, nullable=draw(st.booleans())) for place, kind in enumerate(kinds)]
    return contract_of("sample", Schema(tuple(fields)))


@st.composite
def filled(draw: st.DrawFn) -> tuple[Contract, pl.DataFrame]:
    """A contract and a frame of up to eight of its rows."""
    contract = draw(contracts())
    rows = draw(st.integers(0, 8))
    columns = [
        pl.Series(
            field.name,
            draw(st.lists(values(field.dtype, nullable=field.nullable), min_size=rows, max_size=rows)),
            dtype=field.dtype,
        )
        for field in contract.schema
    ]
    return contract, pl.DataFrame(columns)
