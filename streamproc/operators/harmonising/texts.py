"""Texts of one form: Unicode, case, white space, letters of other scripts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.operators.harmonising.distinct import Remembered, encoded, gathered
from streamproc.operators.harmonising.ladder import (
    FAILED,
    Converted,
    Converter,
    Otherwise,
    column_of,
    no_causes,
    require_policy,
    require_type,
    rungs_of,
)
from streamproc.ports import Int64s

Form = Literal["NFC", "NFKC", "NFD", "NFKD"]
Case = Literal["keep", "lower", "upper", "title"]
Space = Literal["collapse", "strip", "keep"]


@dataclass(frozen=True, slots=True)
class Text:
    """Text of one form, see `canonical.text`."""

    column: str
    form: Form = "NFKC"
    case: Case = "keep"
    space: Space = "collapse"
    ascii: bool = False
    pattern: str = ""
    otherwise: Otherwise = "quarantine"
    default: Any = None
    causes: ClassVar[tuple[str, ...]] = ("not of the declared pattern",)

    def __post_init__(self) -> None:
        require_policy(self.otherwise, self.default, "a text")
        known = self.form in ("NFC", "NFKC", "NFD", "NFKD") and self.space in ("collapse", "strip", "keep")
        if not known or self.case not in ("keep", "lower", "upper", "title"):
            raise DefinitionError(
                f"a text with form={self.form!r}, case={self.case!r}, space={self.space!r}",
                hint="form: NFC, NFKC, NFD, NFKD; case: keep, lower, upper, title; space: collapse, strip, keep",
            )
        if self.pattern:
            try:
                pl.Series(["a"]).str.contains(self.pattern)
            except pl.exceptions.PolarsError as error:
                raise DefinitionError(f"'{self.pattern}' is no regular expression: {error}") from None

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("polars", "anyascii") if self.ascii else ("polars",)

    def fields(self, name: str, schema: Schema) -> tuple[Field, ...]:
        """One text column."""
        column = column_of(schema, self.column, name)
        require_type(column, isinstance(column.dtype, pl.String | pl.Enum | pl.Categorical), name, needs="text")
        if self.ascii:
            transliteration()
        return (Field(name, pl.String(), True, doc=f"{self.column} in one form"),)

    def converter(self, types: Mapping[str, pl.DataType]) -> Converter:
        def convert(frame: pl.DataFrame, times: Int64s) -> Converted:
            given = frame.get_column(self.column)
            values, codes = encoded(given if given.dtype == pl.String else given.cast(pl.String))
            made = self.of(values)
            fits = made.str.contains(f"^(?:{self.pattern})$") if self.pattern else None
            # What nothing is left of was not there: a null, and not a text that fits no form.
            made = made.set(made == "", None) if len(made) else made
            value = gathered(made, codes)
            rungs = rungs_of(value, value)
            if fits is not None:
                wrong = gathered(~fits & made.is_not_null(), codes).fill_null(False).to_numpy()
                rungs[wrong] = FAILED
                value = value.set(pl.Series(wrong), None) if wrong.any() else value
            return Converted((value,), rungs, no_causes(len(given)))

        return convert

    def of(self, values: pl.Series) -> pl.Series:
        """The texts in the declared form."""
        made = values.str.normalize(self.form)
        if self.ascii:
            made = pl.Series(transliteration().of(made.to_list()), dtype=pl.String)
        if self.space != "keep":
            made = made.str.strip_chars()
        if self.space == "collapse":
            made = made.str.replace_all(r"\s+", " ")
        match self.case:
            case "lower":
                made = made.str.to_lowercase()
            case "upper":
                made = made.str.to_uppercase()
            case "title":
                made = made.str.to_titlecase()
        return made


@functools.lru_cache(maxsize=1)
def transliteration() -> Remembered:
    """Text in ASCII letters; raises DefinitionError where the library is not installed."""
    try:
        from anyascii import anyascii
    except ImportError:
        raise DefinitionError(
            "letters of other scripts are transliterated by anyascii, which is not installed",
            hint="pip install 'streamproc[harmonise]'",
        ) from None
    return Remembered(anyascii)
