"""Columns as numbers that can be ranked: what every test of drift reads."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.contracts.model import Schema
from streamproc.errors import TypeMismatch, UnknownColumn, did_you_mean

Floats = npt.NDArray[np.float64]
_TEXTS = (pl.String, pl.Categorical, pl.Enum)
_MOST_TEXTS = 1000


def require_columns(schema: Schema, columns: tuple[str, ...], step: str = "drift") -> None:
    """Raises UnknownColumn, TypeMismatch for columns that are neither numbers nor texts."""
    for name in columns:
        if name not in schema:
            raise UnknownColumn(f"step '{step}' watches '{name}'", hint=did_you_mean(name, schema.names))
        dtype = schema[name].dtype
        if not (dtype.is_numeric() or dtype.is_temporal() or isinstance(dtype, (pl.Boolean, *_TEXTS))):
            raise TypeMismatch(f"step '{step}' watches '{name}', which is {dtype}", hint="watch numbers and texts")


def ranked(column: pl.Series, texts: list[str]) -> Floats:
    """A column as numbers, NaN for null (and NaN); infinities are numbers.

    texts  of a column of texts those met so far, which is their order; new ones are added, the thousandth stands for
           all others
    """
    if not isinstance(column.dtype, _TEXTS):
        values = column.to_physical() if column.dtype.is_temporal() else column
        return values.cast(pl.Float64).fill_null(math.nan).to_numpy()
    values = column.cast(pl.String)
    numbers = {text: float(i) for i, text in enumerate(texts)}
    for text in values.drop_nulls().unique(maintain_order=True).to_list():
        if text not in numbers and len(texts) < _MOST_TEXTS:
            numbers[text] = float(len(texts))
            texts.append(text)
    if not numbers:
        return np.full(len(column), math.nan)
    found = values.replace_strict(list(numbers), list(numbers.values()), default=float(_MOST_TEXTS))
    found = found.cast(pl.Float64)
    return pl.select(pl.when(values.is_null()).then(None).otherwise(found)).to_series().fill_null(math.nan).to_numpy()
