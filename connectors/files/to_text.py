"""Columns to text, in the forms that `from_text` reads back without loss: for CSV and JSON Lines."""

from __future__ import annotations

import json
from typing import Any, Final

import polars as pl

_DIGITS: Final = {"ms": 3, "us": 6, "ns": 9}


def text_of(name: str, dtype: pl.DataType) -> pl.Expr:
    """A column as plain text, for CSV: null stays null."""
    if isinstance(dtype, pl.List | pl.Struct):
        column = pl.col(name)
        return pl.when(column.is_not_null()).then(_json(column, dtype)).alias(name)
    return _plain(pl.col(name), dtype).alias(name)


def json_of(name: str, dtype: pl.DataType) -> pl.Expr:
    """A column as the text of JSON values: null becomes `null`."""
    return _json(pl.col(name), dtype).alias(name)


def _plain(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        zone = "" if dtype.time_zone is None else "Z"
        utc = value if dtype.time_zone in (None, "UTC") else value.dt.convert_time_zone("UTC")
        return utc.dt.to_string(f"%Y-%m-%dT%H:%M:%S%.{_DIGITS[dtype.time_unit]}f{zone}")
    if isinstance(dtype, pl.Time):
        return value.dt.to_string("%H:%M:%S%.9f")
    if isinstance(dtype, pl.Date):
        return value.dt.to_string("%Y-%m-%d")
    if isinstance(dtype, pl.Binary):
        return value.bin.encode("base64")
    return value.cast(pl.String)


def _json(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Null):
        return pl.lit("null") if value.meta.root_names() else value.cast(pl.String).fill_null("null")
    if isinstance(dtype, pl.List):
        inner = _typed(dtype.inner)
        items = value.list.eval(_json(pl.element(), inner)).list.join(",")
        array = pl.concat_str(pl.lit("["), items, pl.lit("]"))
        return pl.when(value.is_not_null()).then(array).otherwise(pl.lit("null"))
    if isinstance(dtype, pl.Struct):
        parts: list[pl.Expr] = [pl.lit("{")]
        for place, field in enumerate(dtype.fields):
            parts.append(pl.lit(("," if place else "") + quoted(field.name) + ":"))
            parts.append(_json(value.struct.field(field.name), _typed(field.dtype)))
        object_text = pl.concat_str(*parts, pl.lit("}"))
        return pl.when(value.is_not_null()).then(object_text).otherwise(pl.lit("null"))
    plain = _plain(value, dtype)
    if dtype.is_float():
        finite = pl.when(value.is_finite()).then(plain).otherwise(pl.concat_str(pl.lit('"'), plain, pl.lit('"')))
        return finite.fill_null("null")
    if dtype.is_numeric() or isinstance(dtype, pl.Boolean):
        return plain.fill_null("null")
    # Polars escapes text as JSON only inside a struct: `{"v":...}` without its wrapping.
    return pl.struct(plain.alias("v")).struct.json_encode().str.slice(5).str.head(-1)


def quoted(name: str) -> str:
    """A name as JSON text."""
    return json.dumps(name, ensure_ascii=False)


def _typed(dtype: Any) -> pl.DataType:
    typed: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return typed
