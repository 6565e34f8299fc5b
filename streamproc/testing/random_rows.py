"""Random rows of any schema: small ranges of values so that keys meet, and the awkward values of each type."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.contracts.model import Schema
from streamproc.errors import InputError

_TEXTS: Final = ("hot", "", "a", "ab", "ä", "zz", "é\u0301", "long text that is shared", "b" * 40, "0")
_FINITE: Final = (0.1, -0.1, 1e16, -1e16, 1.0, 0.0, -0.0, 3.5, 1e-300, 5e-324)
_WILD: Final = (*_FINITE, float("nan"), float("inf"), float("-inf"), 1e308, -1e308)
_NULLS: Final = 0.1


def random_frame(random: np.random.Generator, schema: Schema, rows: int, *, wild: bool = True) -> pl.DataFrame:
    """Rows of a schema; the first values of each type are frequent, so there are hot keys.

    wild  floats may be NaN, infinite or near overflow

    Raises InputError for a type that it cannot make: pass sample rows instead.

    >>> from streamproc.contracts.model import Field
    >>> random_frame(np.random.default_rng(1), Schema((Field("k", pl.String()),)), 3).shape
    (3, 1)
    """
    columns = []
    for column in schema:
        values = _values(column.dtype, wild)
        # The last value of the pool is null.
        known = len(values) - 1
        weights = 1.0 / np.arange(1, known + 1) ** random.choice((0.0, 1.0, 2.0))
        chosen = random.choice(known, rows, p=weights / weights.sum())
        if column.nullable:
            chosen = np.where(random.random(rows) < _NULLS, known, chosen)
        columns.append(values.gather(chosen).alias(column.name))
    return pl.DataFrame(columns) if columns else pl.DataFrame(height=rows)


@lru_cache(maxsize=256)
def _values(dtype: pl.DataType, wild: bool) -> pl.Series:
    return pl.Series("", [*_pool(dtype, wild), None], dtype=dtype)


def _pool(dtype: pl.DataType, wild: bool) -> list[Any]:
    """The values that a type is drawn from."""
    if isinstance(dtype, pl.Decimal):
        return [Decimal(n).scaleb(-(dtype.scale or 0)) for n in (0, 1, -1, 5, 99, -99)]
    if isinstance(dtype, pl.Enum):
        return dtype.categories.to_list()
    if isinstance(dtype, pl.List):
        inner = _pool(dtype.inner, wild)  # type: ignore[arg-type]  # Polars types `inner` as a class or an instance
        return [inner[:2], [], inner[1:2], inner[::-1], inner[:1] * 3]
    if isinstance(dtype, pl.Struct):
        pools = {part.name: _pool(part.dtype, wild) for part in dtype.fields}  # type: ignore[arg-type]  # as above
        return [{name: values[i % len(values)] for name, values in pools.items()} for i in range(7)]
    if isinstance(dtype, pl.Datetime):
        zone = UTC if dtype.time_zone else None
        return [datetime(1970, 1, 1, tzinfo=zone) + timedelta(seconds=s) for s in (0, 1, -1, 1_700_000_000, 86_400)]
    if dtype.is_unsigned_integer():
        return [1, 0, 2, 3, 4, 200]
    if dtype.is_integer():
        return [1, 0, -1, 2, 3, -5, 100]
    if dtype.is_float():
        return list(_WILD if wild else _FINITE)
    simple: dict[pl.DataType, list[Any]] = {
        pl.Boolean(): [True, False],
        pl.String(): list(_TEXTS),
        pl.Binary(): [text.encode() for text in _TEXTS] + [b"\x00", b"\xff"],
        pl.Date(): [date(1970, 1, 1) + timedelta(days=n) for n in (0, 1, -1, 19_000)],
        pl.Time(): [time(0), time(23, 59, 59, 999_999), time(12)],
    }
    if dtype in simple:
        return simple[dtype]
    if isinstance(dtype, pl.Duration):
        return [timedelta(microseconds=n) for n in (0, 1, -1, 10**9)]
    raise InputError(f"there are no random values of type {dtype}", hint="pass samples=[frame] with rows to draw from")
