"""Typed columns of Parquet and Avro files to the columns of a contract."""

from __future__ import annotations

import polars as pl

from connectors.files.from_text import from_text
from connectors.files.moments import EPOCHS, epochs
from connectors.files.to_text import text_of

_US_PER_NS_LIMIT = 9_223_372_036_000_000


def from_typed(values: pl.Series, dtype: pl.DataType, *, form: str = "", zone: str = "UTC") -> pl.Series | None:
    """The column as `dtype`, null where a value does not fit; None where the one type never becomes the other.

    Whole floats become integers, integers and decimals floats, numbers decimals if no digit is lost; moments change
    their unit (finer digits are cut off), local ones are placed in `zone`; text is read as in text files.

    >>> from_typed(pl.Series([1.0, 1.5]), pl.Int64()).to_list()
    [1, None]
    """
    have = values.dtype
    if have == dtype:
        return values
    if isinstance(have, pl.Null):
        return values.cast(dtype)
    if isinstance(have, pl.String | pl.Categorical | pl.Enum):
        return from_text(values.cast(pl.String), dtype, form=form, zone=zone)
    if isinstance(dtype, pl.Datetime):
        return _moments(values, dtype, form=form, zone=zone)
    if isinstance(have, pl.List | pl.Struct) and isinstance(dtype, pl.List | pl.Struct):
        return from_text(values.to_frame().select(text_of(values.name, have)).to_series(), dtype, zone=zone)
    if isinstance(have, pl.Boolean) or not have.is_numeric():
        return None
    if isinstance(dtype, pl.String):
        return values.cast(pl.String) if have.is_integer() or isinstance(have, pl.Decimal) else None
    if isinstance(dtype, pl.Decimal):
        return from_text(values.cast(pl.String), dtype)
    if dtype.is_float():
        return values.cast(dtype)
    if not dtype.is_integer():
        return None
    if isinstance(have, pl.Decimal):
        return from_text(values.cast(pl.String), dtype)
    if have.is_float():
        whole = pl.col(values.name)
        frame = values.to_frame().select(pl.when(whole.is_finite() & (whole == whole.floor())).then(whole))
        return frame.to_series().cast(dtype, strict=False)
    return values.cast(dtype, strict=False)


def _moments(values: pl.Series, dtype: pl.Datetime, *, form: str, zone: str) -> pl.Series | None:
    have = values.dtype
    if have.is_integer() and form in EPOCHS:
        return epochs(values.cast(pl.Int64, strict=False), dtype.time_unit, form).cast(dtype)
    if isinstance(have, pl.Date):
        values, have = values.cast(pl.Datetime("us")), pl.Datetime("us")
    if not isinstance(have, pl.Datetime) or (have.time_zone is not None and dtype.time_zone is None):
        return None
    name = values.name
    if dtype.time_unit == "ns" and have.time_unit != "ns":  # Polars lets nanoseconds wrap around
        us = pl.col(name).dt.epoch("us")
        values = values.to_frame().select(pl.when(us.abs() <= _US_PER_NS_LIMIT).then(pl.col(name))).to_series()
    values = values.dt.cast_time_unit(dtype.time_unit)
    if dtype.time_zone is None:
        return values
    if have.time_zone is None:
        values = values.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return values.dt.convert_time_zone("UTC")
