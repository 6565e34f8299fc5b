"""Text columns to the columns of a contract; what cannot be converted becomes null and is told from a real null.

integers        digits, a sign; "17.0" too, as spreadsheets write whole numbers
floats          also NaN, inf, Infinity
decimals        digits and a point, no more places than the type has
booleans        true, false, 1, 0 in any case
dates, times    ISO 8601, or the form that is declared (`moments`)
bytes           base64
enums           one of the symbols
arrays, maps, records, unions   JSON; of a union the object {"branch": value}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from connectors.files.moments import dates, moments, times_of_day

_MAP_KEYS: Final = ["key", "value"]


def from_text(text: pl.Series, dtype: pl.DataType, *, form: str = "", zone: str = "UTC") -> pl.Series:
    """The text column as `dtype`; null where the text is null or cannot be converted.

    >>> from_text(pl.Series(["1", " 2.0", "x", None]), pl.Int32()).to_list()
    [1, 2, None, None]
    """
    if isinstance(dtype, pl.String):
        return text
    if isinstance(dtype, pl.Null):
        return pl.Series(text.name, [None] * len(text), dtype=pl.Null)
    if isinstance(dtype, pl.List | pl.Struct):
        return _from_json(text, dtype, zone)
    if isinstance(dtype, pl.Datetime):
        return moments(text, dtype, form=form, zone=zone)
    if isinstance(dtype, pl.Date):
        return dates(text, form)
    if isinstance(dtype, pl.Time):
        return times_of_day(text, form)
    if isinstance(dtype, pl.Binary):
        return text.str.decode("base64", strict=False)
    if isinstance(dtype, pl.Enum):
        return text.cast(dtype, strict=False)
    stripped = text.str.strip_chars()
    if isinstance(dtype, pl.Boolean):
        return stripped.str.to_lowercase().replace_strict(
            {"true": True, "1": True, "false": False, "0": False}, default=None, return_dtype=pl.Boolean
        )
    if isinstance(dtype, pl.Decimal):
        exact = stripped.str.contains(r"^[+-]?(\d+\.?\d*|\.\d+)$")
        cut = stripped.str.contains(rf"\.\d{{{dtype.scale}}}\d*[1-9]")
        fits = pl.select(pl.when(exact & ~cut).then(stripped)).to_series()
        return fits.cast(dtype, strict=False).rename(text.name)
    numbers = stripped.cast(dtype, strict=False)
    if dtype.is_integer() and numbers.null_count() > text.null_count():
        whole = stripped.str.replace(r"^([+-]?\d+)\.0+$", "$1")
        numbers = numbers.fill_null(whole.cast(dtype, strict=False))
    return numbers


class _Number(str):
    """The text of a JSON number: no digit is lost on its way into a decimal or a 64-bit integer."""

    __slots__ = ()


class _Nested:
    """Values of one nested column, taken apart level by level; rows with a value of another type are marked."""

    __slots__ = ("bad", "zone")

    def __init__(self, zone: str) -> None:
        self.zone = zone
        self.bad: set[int] = set()

    def column(self, values: Sequence[Any], rows: Sequence[int], dtype: pl.DataType) -> pl.Series:
        """A column of JSON values, each belonging to the row with the same place in `rows`."""
        if isinstance(dtype, pl.List):
            return self._list(values, rows, dtype)
        if isinstance(dtype, pl.Struct):
            return self._struct(values, rows, dtype)
        texts: list[str | None] = []
        for value, row in zip(values, rows, strict=True):
            if value is None or isinstance(value, str):
                texts.append(value)
            elif isinstance(value, bool):
                texts.append("true" if value else "false")
            else:
                self.bad.add(row)
                texts.append(None)
        text = pl.Series(texts, dtype=pl.String)
        found = from_text(text, dtype, zone=self.zone)
        for place in (text.is_not_null() & found.is_null()).arg_true():
            self.bad.add(rows[place])
        return found

    def _list(self, values: Sequence[Any], rows: Sequence[int], dtype: pl.List) -> pl.Series:
        inner = _typed(dtype.inner)
        is_map = isinstance(inner, pl.Struct) and [field.name for field in inner.fields] == _MAP_KEYS
        items: list[Any] = []
        owners: list[int] = []
        present: list[bool] = []
        for place, (value, row) in enumerate(zip(values, rows, strict=True)):
            if is_map and isinstance(value, dict):
                value = [{"key": key, "value": item} for key, item in value.items()]
            present.append(isinstance(value, list))
            if isinstance(value, list):
                items.extend(value)
                owners.extend([place] * len(value))
            elif value is not None:
                self.bad.add(row)
        child = self.column(items, [rows[owner] for owner in owners], inner)
        grouped = pl.DataFrame({"row": pl.Series(owners, dtype=pl.Int64), "item": child})
        lists = grouped.group_by("row", maintain_order=True).agg("item")
        numbers, there = pl.Series(range(len(values)), dtype=pl.Int64), pl.Series(present, dtype=pl.Boolean)
        frame = pl.DataFrame({"row": numbers, "present": there})
        joined = frame.join(lists, on="row", how="left", maintain_order="left")
        empty = pl.lit(pl.Series([[]], dtype=dtype)).first()
        filled = pl.when(pl.col("present")).then(pl.coalesce("item", empty))
        return joined.select(filled.alias("item")).to_series()

    def _struct(self, values: Sequence[Any], rows: Sequence[int], dtype: pl.Struct) -> pl.Series:
        names = {field.name for field in dtype.fields}
        present = []
        for value, row in zip(values, rows, strict=True):
            present.append(isinstance(value, dict))
            if value is not None and not (isinstance(value, dict) and value.keys() <= names):
                self.bad.add(row)
        members = {
            field.name: self.column(
                [value.get(field.name) if isinstance(value, dict) else None for value in values],
                rows,
                _typed(field.dtype),
            )
            for field in dtype.fields
        }
        there = pl.Series(present, dtype=pl.Boolean)
        if not members:
            return pl.Series([{} if here else None for here in present], dtype=dtype)
        frame = pl.DataFrame(members)
        return frame.select(pl.when(there).then(pl.struct(list(members)))).to_series()


def _typed(dtype: Any) -> pl.DataType:
    """An instance of a type that may be given as a class."""
    typed: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return typed


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _from_json(text: pl.Series, dtype: pl.DataType, zone: str) -> pl.Series:
    decode = json.JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_Number, object_pairs_hook=_unique)
    nested = _Nested(zone)
    values: list[Any] = []
    for row, cell in enumerate(text):
        try:
            values.append(None if cell is None else decode.decode(cell))
        except (ValueError, RecursionError):
            values.append(None)
            nested.bad.add(row)
    for row, value in enumerate(values):
        if value is None and text[row] is not None:
            nested.bad.add(row)
    found = nested.column(values, range(len(values)), dtype)
    if not nested.bad:
        return found.rename(text.name)
    good = pl.Series([row not in nested.bad for row in range(len(values))], dtype=pl.Boolean)
    return pl.select(pl.when(good).then(found)).to_series().rename(text.name)
