"""Numbers as people write them: a decimal mark, and perhaps one between thousands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from streamproc.errors import DefinitionError
from streamproc.operators.harmonising.ladder import CAST, FAILED, MISSING, OTHER, Codes

_PLAIN: Final = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"


@dataclass(frozen=True, slots=True)
class Numerals:
    """How numbers are written: "1,234.5" has decimal="." and thousands=","."""

    decimal: str = "."
    thousands: str = ""

    def __post_init__(self) -> None:
        if self.decimal not in (".", ",") or self.thousands not in ("", ".", ",", " ", "'"):
            raise DefinitionError(
                f"numbers with decimal={self.decimal!r} and thousands={self.thousands!r}",
                hint="decimal is '.' or ','; thousands is '', '.', ',', ' ' or \"'\"",
            )
        if self.decimal == self.thousands:
            raise DefinitionError(f"'{self.decimal}' cannot be both the decimal mark and the one between thousands")

    def plain(self, texts: pl.Series) -> pl.Series:
        """The texts as a computer writes numbers, null where they are none of this form.

        A mark between thousands must stand before three digits, everywhere or nowhere: "1,23" is no number.
        """
        texts = texts.str.strip_chars()
        if self.thousands:
            mark, point = _escaped(self.thousands), _escaped(self.decimal)
            grouped = rf"^[+-]?(\d{{1,3}}({mark}\d{{3}})+|\d+)({point}\d*)?$"
            fits = texts.str.contains(grouped)
            texts = _where(fits, texts.str.replace_all(self.thousands, "", literal=True))
        if self.decimal != ".":
            texts = _where(~texts.str.contains(".", literal=True), texts)
            texts = texts.str.replace(self.decimal, ".", literal=True)
        return _where(texts.str.contains(_PLAIN), texts)


def _escaped(mark: str) -> str:
    return "\\." if mark == "." else mark


def _where(fits: pl.Series, texts: pl.Series) -> pl.Series:
    bad = ~fits.fill_null(False)
    return texts.set(bad, None) if bad.any() else texts


def numbers_of(given: pl.Series, forms: Sequence[Numerals]) -> tuple[pl.Series, Codes]:
    """Numbers as Float64, 0 where there is none, and the rung of each row.

    given  numbers, or texts in one of the declared forms
    """
    if not isinstance(given.dtype, pl.String):
        rungs = np.zeros(len(given), np.uint8)
        if given.null_count():
            rungs[given.is_null().to_numpy()] = MISSING
        return given.cast(pl.Float64).fill_null(0.0), rungs
    rungs = np.full(len(given), FAILED, np.uint8)
    rungs[given.is_null().to_numpy()] = MISSING
    numbers = np.zeros(len(given))
    for place, form in enumerate(forms):
        left = np.flatnonzero(rungs == FAILED)
        if not left.size:
            break
        texts = given if left.size == len(given) else given.gather(left)
        found = form.plain(texts).cast(pl.Float64, strict=False)
        good = found.is_not_null().to_numpy()
        numbers[left[good]] = found.drop_nulls().to_numpy()
        rungs[left[good]] = OTHER if place else CAST
    return pl.Series(numbers), rungs
