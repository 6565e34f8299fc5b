"""Rows of a file in the form of a contract, beside those that are not in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from connectors.files.binding import Source
from streamproc.contracts.model import Contract
from streamproc.ports import Int64s

BAD_ROWS: Final = pl.Schema({"line": pl.Int64(), "reason": pl.String(), "raw": pl.Binary()})
"""Of each bad row: its line (text) or row number (Parquet, Avro) from 1, why it is bad, and what stands there."""
FramePiece = tuple[int, pl.DataFrame, list[tuple[int, str, bytes]]]
"""Of a typed file: how many rows come before, some rows, and the bad rows behind them (number, reason, raw)."""
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class FileRows:
    """One piece of a file, in its order.  Every record is either a row of `frame` or of `bad`.

    frame  the contract's columns and types
    lines  int64[n]  the line or row number of each row of the frame, from 1
    bad    `BAD_ROWS`
    """

    frame: pl.DataFrame
    lines: Int64s
    bad: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Converted:
    """One field: what the file has, what became of it, and a note where that is wrong already."""

    source: Source
    raw: pl.Series
    values: pl.Series
    wrong: pl.Series | None = None


def judge(contract: Contract, fields: Sequence[Converted]) -> tuple[Int64s, list[tuple[int, str]]]:
    """The rows that are good, and (row, reason) of the others; the first field that fails gives the reason."""
    rows = len(fields[0].values) if fields else 0
    verdict = np.full(rows, -1, np.int64)
    for place, field in enumerate(fields):
        null = field.values.is_null()
        failed = null & field.raw.is_not_null() if field.source.field.nullable else null
        if isinstance(field.source.field.dtype, pl.Null):
            failed = field.raw.is_not_null()
        if field.wrong is not None:
            failed = failed | field.wrong
        if failed.any():
            hits = failed.to_numpy() & (verdict < 0)
            verdict[hits] = place
    bad = np.flatnonzero(verdict >= 0)
    reasons = [(int(row), _reason(contract, fields[int(verdict[row])], int(row))) for row in bad]
    return np.flatnonzero(verdict < 0), reasons


def _reason(contract: Contract, field: Converted, row: int) -> str:
    raw = field.raw[row]
    if raw is None:
        return f"column '{field.source.label}' has no value, and '{contract}' wants one"
    text = str(raw)
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return f"column '{field.source.label}': '{shown}' is not {_kind(field.source)}"


def _kind(source: Source) -> str:
    dtype = source.field.dtype
    if isinstance(dtype, pl.Enum):
        return f"one of {', '.join(dtype.categories.head(10))}"
    if isinstance(dtype, pl.Datetime | pl.Date | pl.Time):
        like = f" like {source.form}" if source.form else ""
        what = {"Datetime": "a moment", "Date": "a date", "Time": "a time of day"}[type(dtype).__name__]
        return what + like
    if isinstance(dtype, pl.Binary):
        return "base64"
    if isinstance(dtype, pl.Decimal):
        return f"a value of the type Decimal({dtype.precision}, {dtype.scale})"
    if isinstance(dtype, pl.List | pl.Struct):
        return f"JSON of the type {dtype}"
    return f"a value of the type {dtype}"


def bad_frame(rows: Sequence[tuple[int, str, bytes]]) -> pl.DataFrame:
    """Bad rows as a frame: (line, reason, raw)."""
    return pl.DataFrame(list(rows), schema=BAD_ROWS, orient="row")
