"""Which columns of a record are kept, and how each becomes a text that can be interned.

Every distinct (column, form) is kept once: a surname that is compared, is part of a block and survives into the golden
record as it was written has the forms "text" (trimmed, lower case), "text[:3]" and "raw".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl

from streamproc.contracts.model import Schema
from streamproc.entities.comparisons import Block, Comparison
from streamproc.errors import TypeMismatch, UnknownColumn, did_you_mean
from streamproc.ports import Int64s

WORD_PATTERN = r"[\p{L}\p{N}]+"


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """One column in one form.

    form     "text", "date", "number", "place", "set", "words", or "raw": the value as it came
    letters  of text: only so many of the first ones; 0 is all
    other    of a place: the column of longitudes
    """

    column: str
    form: str
    letters: int = 0
    other: str = ""

    def text(self, dtype: pl.DataType) -> pl.Expr:
        """The value as text, null where it is missing: equal values are equal texts."""
        value = pl.col(self.column)
        match self.form:
            case "raw":
                if isinstance(dtype, (pl.Date, pl.Datetime, pl.Duration, pl.Time, pl.Boolean)):
                    return value.to_physical().cast(pl.Int64).cast(pl.String)
                if dtype.is_float():
                    return pl.col(self.bits).cast(pl.String)
                return value.cast(pl.String)
            case "number" | "place":
                bits = pl.col(self.bits).cast(pl.String)
                return bits if self.form == "number" else bits + "," + pl.col(self.other_bits).cast(pl.String)
            case "set":
                items = value.list.drop_nulls().list.unique().list.sort().list.join("\x1f")
                return pl.when(value.list.len() > 0).then(items)
            case "words":
                words = value.cast(pl.String).str.to_lowercase().str.extract_all(WORD_PATTERN).list.unique().list.sort()
                return pl.when(words.list.len() > 0).then(words.list.join(" "))
            case "date" if isinstance(dtype, (pl.Date, pl.Datetime)):
                return value.dt.to_string("%Y%m%d")
        text = value.cast(pl.String).str.strip_chars().str.to_lowercase()
        if self.form == "date":
            text = text.str.replace_all("-", "", literal=True)
        if self.letters:
            text = text.str.head(self.letters)
        return pl.when(text != "").then(text)

    @property
    def bits(self) -> str:
        """A helper column: the bits of a float, because texts of floats differ between versions of libraries."""
        return f"\0bits {self.column}"

    @property
    def other_bits(self) -> str:
        """The same of the longitude."""
        return f"\0bits {self.other}"

    @property
    def numeric(self) -> bool:
        """Whether values have numbers beside their texts."""
        return self.form in ("number", "place", "date")

    def numbers(self, frame: pl.DataFrame) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
        """The numbers behind the values: a number, days since 1970, or latitude and longitude; NaN for none."""
        if self.form == "date":
            column = frame[self.column]
            if not isinstance(column.dtype, (pl.Date, pl.Datetime)):
                column = column.cast(pl.String).str.strip_chars().str.replace_all("-", "", literal=True)
                column = column.str.to_date("%Y%m%d", strict=False)
            return [column.cast(pl.Date).cast(pl.Int32).cast(pl.Float64).to_numpy()]
        columns = [self.column, self.other] if self.form == "place" else [self.column]
        return [frame[name].cast(pl.Float64).to_numpy() for name in columns]


def with_bits(frame: pl.DataFrame, stored: Iterable[StoredColumn]) -> pl.DataFrame:
    """The frame with the helper columns of its floats; NaN becomes null, -0.0 becomes 0.0."""
    made: dict[str, pl.Series] = {}
    for one in stored:
        wanted = [one.column, one.other] if one.form == "place" else [one.column]
        if one.form in ("number", "place") or (one.form == "raw" and frame.schema[one.column].is_float()):
            for name in wanted:
                floats = frame[name].cast(pl.Float64)
                values = floats.to_numpy() + 0.0
                bits = pl.Series(f"\0bits {name}", values.view(np.int64))
                missing = floats.is_null() | floats.is_nan().fill_null(True)
                made[bits.name] = bits.zip_with(~missing, pl.Series([None], dtype=pl.Int64))
    return frame.with_columns(**made) if made else frame


def raw_values(texts: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Values of a column out of the texts of its raw form."""
    if isinstance(dtype, pl.String):
        return texts
    if dtype.is_float():
        bits = texts.cast(pl.Int64)
        floats = pl.Series(bits.name, bits.fill_null(0).to_numpy().view(np.float64))
        return floats.zip_with(bits.is_not_null(), pl.Series([None], dtype=pl.Float64)).cast(dtype)
    if isinstance(dtype, (pl.Date, pl.Datetime, pl.Duration, pl.Time, pl.Boolean)):
        numbers = texts.cast(pl.Int64)
        return numbers.cast(pl.Int32).cast(dtype) if isinstance(dtype, pl.Date) else numbers.cast(dtype)
    return texts.cast(dtype)


def check_column(schema: Schema, stored: StoredColumn, step: str = "resolve") -> None:
    """Raises UnknownColumn, or TypeMismatch for a column that cannot be read in this form."""
    for name in (stored.column, *([stored.other] if stored.form == "place" else [])):
        if name not in schema:
            raise UnknownColumn(f"step '{step}' reads '{name}'", hint=did_you_mean(name, schema.names))
    dtype = schema[stored.column].dtype
    if stored.form == "set" and dtype != pl.List(pl.String):
        raise TypeMismatch(f"step '{step}' compares '{stored.column}' as a set, and it is {dtype}", hint="List(String)")
    if stored.form in ("number", "place") and not dtype.is_numeric():
        raise TypeMismatch(
            f"step '{step}' compares '{stored.column}' as a {stored.form}, and it is {dtype}", hint="cast it before"
        )
    if stored.form != "set" and (dtype.is_nested() or isinstance(dtype, (pl.Binary, pl.Object))):
        raise TypeMismatch(f"step '{step}' cannot keep '{stored.column}', a {dtype}", hint="make it text before")


def stored_columns(
    comparisons: Iterable[Comparison], blocks: Iterable[Block], raw: Iterable[str] = ()
) -> tuple[StoredColumn, ...]:
    """All that must be kept of a record, each once, in order of first mention."""
    wanted: dict[StoredColumn, None] = {}
    for one in comparisons:
        wanted[StoredColumn(one.column, one.form, 0, one.other)] = None
    for two in blocks:
        if two.words:
            wanted[StoredColumn(two.words, "words")] = None
        for column, letters in two.parts:
            wanted[part_column(column, letters)] = None
    for name in raw:
        wanted[StoredColumn(name, "raw")] = None
    return tuple(wanted)


def part_column(column: str, letters: int) -> StoredColumn:
    """Where a part of a block is kept."""
    return StoredColumn(column, "text", letters)


def texts_of(frame: pl.DataFrame, stored: tuple[StoredColumn, ...]) -> pl.Series:
    """The texts of all stored columns, one column after the other, each behind a letter that names its column."""
    ready, schema = with_bits(frame, stored), frame.schema
    columns = ready.select(_texts(stored, tuple(schema[one.column] for one in stored)))
    return pl.concat(columns.get_columns()) if columns.width else pl.Series([], dtype=pl.String)


@lru_cache(maxsize=256)
def _texts(stored: tuple[StoredColumn, ...], dtypes: tuple[pl.DataType, ...]) -> list[pl.Expr]:
    """Made once: of a batch of one row, making them is most of the work."""
    return [
        (pl.lit(chr(1 + number)) + one.text(dtype)).alias(f"{number}")
        for number, (one, dtype) in enumerate(zip(stored, dtypes, strict=True))
    ]


def places(stored: tuple[StoredColumn, ...], rows: int) -> Int64s:
    """For each text of `texts_of`, the number of its column."""
    return np.repeat(np.arange(len(stored), dtype=np.int64), rows)
