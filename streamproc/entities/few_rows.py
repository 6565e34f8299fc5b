"""The texts of few rows, value by value in Python.

A Polars expression costs some 60 µs to plan and run, whatever the number of rows, so that of a batch of one record the
planning is most of the work. Here such rows are read as Python values. What is not certain to become the same text as
the expressions of `stored_columns` make (letters beyond ASCII, columns that are not text) is left to these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import Keys
from streamproc.entities.linkage_model import Floats
from streamproc.entities.stored_columns import StoredColumn
from streamproc.hashing import hash_bytes

FEW: Final = 32
"""Up to so many rows; from some hundred rows on the expressions are quicker."""
_BLANK: Final = "\t\n\x0b\x0c\r "
_WORD: Final = re.compile("[a-z0-9]+")
_DAY: Final = re.compile(r"[0-9]{8}")
_DAYS_BEFORE_1970: Final = date(1970, 1, 1).toordinal()
_READ: Final = frozenset(("text", "date", "raw", "words"))


def texts_of_few(frame: pl.DataFrame, stored: tuple[StoredColumn, ...]) -> list[str | None] | None:
    """As `texts_of`, or None where the expressions must say.

    >>> texts_of_few(pl.DataFrame({"name": [" Ann ", None]}), (StoredColumn("name", "text", 2),))
    ['\\x01an', None]
    """
    if frame.height > FEW or len(stored) > 126:
        return None
    columns: dict[str, list[str | None]] = {}
    out: list[str | None] = []
    for number, one in enumerate(stored):
        if one.form not in _READ:
            return None
        values = columns.get(one.column)
        if values is None:
            column = frame.get_column(one.column)
            if column.dtype != pl.String:
                return None
            values = columns[one.column] = column.to_list()
            if not all(value is None or value.isascii() for value in values):
                return None
        mark = chr(1 + number)
        out += [None if (text := _text(one, value)) is None else mark + text for value in values]
    return out


def keys_of_few(texts: Sequence[str]) -> Keys:
    """As `keys_of` of a column of text without nulls.

    >>> keys_of_few(["ab", "é"]).get(1) == "é".encode()
    True
    """
    raw = [text.encode() for text in texts]
    bounds = np.zeros(len(raw) + 1, np.int64)
    at = 0
    for place, one in enumerate(raw, 1):
        at += len(one)
        bounds[place] = at
    buffer, starts, ends = np.frombuffer(b"".join(raw), np.uint8), bounds[:-1], bounds[1:]
    return Keys(buffer, starts, ends, hash_bytes(buffer, starts, ends))


def _text(one: StoredColumn, value: str | None) -> str | None:
    if value is None or one.form == "raw":
        return value
    if one.form == "words":
        return " ".join(sorted(set(_WORD.findall(value.lower())))) or None
    text = value.strip(_BLANK).lower()
    if one.form == "date":
        text = text.replace("-", "")
    if one.letters:
        text = text[: one.letters]
    return text or None


def days_of_few(values: Sequence[str | None]) -> Floats | None:
    """Days since 1970 of dates as text, NaN where there is none, or None where the expressions must say.

    >>> days_of_few([" 1970-01-02", "19990231", None])
    array([ 1., nan, nan])
    """
    out = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if value is None:
            continue
        text = value.strip(_BLANK).replace("-", "")
        if not _DAY.fullmatch(text) or text.startswith("0000"):
            return None
        try:
            out[row] = date(int(text[:4]), int(text[4:6]), int(text[6:])).toordinal() - _DAYS_BEFORE_1970
        except ValueError:
            continue
    return out
