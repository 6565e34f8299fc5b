"""Quantities: numbers in one unit, from numbers and texts in units of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, TypeMismatch
from streamproc.operators.harmonising.distinct import encoded
from streamproc.operators.harmonising.ladder import (
    FAILED,
    MISSING,
    OTHER,
    Converted,
    Converter,
    Otherwise,
    column_of,
    require_policy,
    require_type,
)
from streamproc.operators.harmonising.numerals import Numerals, numbers_of
from streamproc.operators.harmonising.units import Conversion, conversion
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]
_FORM, _FINITE, _UNIT = range(3)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number in one unit, see `canonical.quantity`."""

    column: str
    to: str
    unit: str = ""
    unit_column: str = ""
    units: tuple[tuple[str, str], ...] = ()
    numerals: tuple[Numerals, ...] = (Numerals(),)
    otherwise: Otherwise = "quarantine"
    default: Any = None
    causes: ClassVar[tuple[str, ...]] = ("no number of a declared form", "not a finite number", "an undeclared unit")

    def __post_init__(self) -> None:
        require_policy(self.otherwise, self.default, f"a quantity in '{self.to}'")
        if bool(self.unit) == bool(self.unit_column):
            raise DefinitionError(
                f"a quantity in '{self.to}' needs the unit of what it reads",
                hint="unit='[lb_av]' for all rows, or unit_column='column' with units=('kg', '[lb_av]')",
            )
        if bool(self.unit_column) != bool(self.units):
            raise DefinitionError(
                f"a quantity in '{self.to}' whose unit stands in a column names the units that may stand there",
                hint="units=('kg', '[lb_av]'), or units={'lbs': '[lb_av]'} for words of the source's own",
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column, self.unit_column) if self.unit_column else (self.column,)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("pint", "ucumvert")

    def fields(self, name: str, schema: Schema) -> tuple[Field, ...]:
        """One column with the unit `to`; raises DefinitionError for units that UCUM lacks or that do not fit."""
        column = column_of(schema, self.column, name)
        require_type(
            column, column.dtype.is_numeric() or isinstance(column.dtype, pl.String), name, needs="numbers or text"
        )
        if self.unit_column:
            units = column_of(schema, self.unit_column, name)
            require_type(units, isinstance(units.dtype, pl.String), name, needs="text as unit")
        if column.unit and self.unit and column.unit != self.unit:
            raise TypeMismatch(
                f"field '{name}' reads '{self.column}' as '{self.unit}', and its contract says '{column.unit}'",
                hint="leave the unit as the contract has it, or change the contract",
            )
        self._conversions()
        return (Field(name, pl.Float64(), unit=self.to, doc=f"{self.column} in {self.to}"),)

    def _conversions(self) -> dict[str, Conversion]:
        if self.unit:
            return {"": conversion(self.unit, self.to)}
        return {word: conversion(code, self.to) for word, code in self.units}

    def converter(self, types: Mapping[str, pl.DataType]) -> Converter:
        conversions = self._conversions()
        whole = conversions.get("") if self.unit else None

        def convert(frame: pl.DataFrame, times: Int64s) -> Converted:
            given = frame.get_column(self.column)
            numbers, rungs = numbers_of(given, self.numerals)
            values = numbers.to_numpy()
            causes = np.zeros(len(given), np.uint8)
            if whole is not None:
                made = _affine(values, whole.factor, whole.offset)
            else:
                words, codes = encoded(frame.get_column(self.unit_column))
                known = [conversions.get(word) for word in words.to_list()]
                factors = np.array([c.factor if c else np.nan for c in known] + [np.nan])
                offsets = np.array([c.offset if c else np.nan for c in known] + [np.nan])
                made = _affine(values, factors[codes], offsets[codes])
                strange = np.isnan(factors)[codes] & (rungs != MISSING) & (rungs != FAILED)
                rungs[strange], causes[strange] = FAILED, _UNIT
            endless = ~np.isfinite(made) & (rungs <= OTHER)
            rungs[endless], causes[endless] = FAILED, _FINITE
            value = pl.Series(made)
            gone = rungs > OTHER
            return Converted((value.set(pl.Series(gone), None) if gone.any() else value,), rungs, causes)

        return convert


def _affine(values: Floats, factor: float | Floats, offset: float | Floats) -> Floats:
    """Beyond the largest double stands infinity, which is refused as a value later."""
    with np.errstate(over="ignore", invalid="ignore"):
        made: Floats = values * factor + offset
    return made
