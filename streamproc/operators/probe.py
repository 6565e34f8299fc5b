"""A small frame of awkward values for any schema: the last net under expressions and user functions at plan time."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import polars as pl

from streamproc.contracts.model import Schema

PROBE_ROWS: Final = 37
_STRINGS: Final = ("", "a", "b", "Ab c", "ß→é", "2026-01-02", "12", "x,y;z", "(", "0f", " pad ", "a" * 40)
_FLOATS: Final = (0.0, 1.5, -2.25, 3.0, 1e300, -0.0, 1e-300, float("nan"), float("inf"), float("-inf"), 100.0)
_DAY_US: Final = 86_400_000_000
# The last three, read as local times, do not exist in Europe, are there twice in Europe, and twice in America.
_INSTANTS: Final = (
    *(0, 1, _DAY_US - 1, 1_700_000_000_000_000, -_DAY_US, 4_102_444_800_000_000),
    *(1_711_852_200_000_000, 1_729_996_200_000_000, 1_730_597_400_000_000),
)
_PER_US: Final = {"ms": (1, 1_000), "us": (1, 1), "ns": (1_000, 1)}


def probe_frame(schema: Schema, rows: int = PROBE_ROWS) -> pl.DataFrame:
    """Rows that are as awkward as the schema allows: ends of the ranges, NaN, empty strings, nulls where declared.

    Always the same for the same schema. Values repeat, so that what looks at other rows shows.

    >>> from streamproc.contracts.model import Field
    >>> probe_frame(Schema((Field("a", pl.Int8()),)), rows=4)["a"].to_list()
    [0, 1, -1, 2]
    """
    columns = []
    for place, column in enumerate(schema):
        values = _values(column.dtype)
        if column.nullable or not values:
            values = [*values, None]
        # Strides that differ between columns bring different values together in one row; coprime ones leave none out.
        strides = [stride for stride in range(1, len(values) + 1) if math.gcd(stride, len(values)) == 1]
        stride = strides[place % len(strides)]
        picked = [values[(row * stride + row // len(values)) % len(values)] for row in range(rows)]
        columns.append(_series(column.name, picked, column.dtype))
    return pl.DataFrame(columns) if columns else pl.DataFrame()


def differs_when_cut(compute: Callable[[pl.DataFrame], pl.DataFrame], frame: pl.DataFrame) -> bool:
    """Whether a function of frames gives something else for the frame cut into pieces than for the whole."""
    whole = compute(frame)
    for size in (1, 5):
        pieces = [compute(frame[start : start + size]) for start in range(0, frame.height, size)]
        if not pl.concat(pieces).equals(whole):
            return True
    return False


def _series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.Datetime | pl.Duration | pl.Time):
        return pl.Series(name, values, pl.Int64).cast(dtype)
    return pl.Series(name, values, dtype, strict=False)


def _values(dtype: pl.DataType) -> list[Any]:
    if isinstance(dtype, pl.List):
        inner = _cells(dtype.inner)
        return [inner[:1], [], inner[:3], inner[::-1][:2]] if inner else [[]]
    if isinstance(dtype, pl.Array):
        inner = _cells(dtype.inner)
        return [[inner[(start + at) % len(inner)] for at in range(dtype.size)] for start in (0, 1)] if inner else []
    if isinstance(dtype, pl.Struct):
        members = {member.name: _cells(member.dtype) for member in dtype.fields}
        return [
            {name: cells[row % len(cells)] if cells else None for name, cells in members.items()} for row in range(5)
        ]
    if isinstance(dtype, pl.Decimal):
        unit = Decimal(1).scaleb(-dtype.scale)
        return [number * unit for number in (0, 1, -1, 99, 7, -5)]
    if isinstance(dtype, pl.Enum):
        return list(dtype.categories)
    if isinstance(dtype, pl.Datetime | pl.Duration):
        times, divided = _PER_US[dtype.time_unit or "us"]
        return [instant * times // divided for instant in _INSTANTS]
    if isinstance(dtype, pl.Time):
        return [0, 1_000, 86_399_999_999_000, 43_200_000_000_000]
    if dtype.is_integer():
        low, high = _limits(dtype)
        return [number for number in (0, 1, -1, 2, 7, 100) if low <= number <= high] + [high, low]
    if dtype.is_float():
        return list(_FLOATS)
    plain: dict[str, list[Any]] = {
        "Boolean": [True, False],
        "String": list(_STRINGS),
        "Categorical": list(_STRINGS),
        "Binary": [text.encode() for text in _STRINGS] + [b"\xff\x00"],
        "Date": [datetime.date(1970, 1, 1) + datetime.timedelta(days=days) for days in (0, 1, 20_000, -1, 30_000)],
    }
    return plain.get(str(dtype.base_type()), [])


def _cells(dtype: Any) -> list[Any]:
    """Values of a nested type as Python objects, so that they can stand in lists and structs."""
    made = dtype() if isinstance(dtype, type) else dtype
    values = _values(made)
    return _series("", values, made).to_list() if values else []


def _limits(dtype: pl.DataType) -> tuple[int, int]:
    text = str(dtype)
    bits = int(text.removeprefix("U").removeprefix("Int"))
    return (0, 2**bits - 1) if text.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
