"""The ladder of one field: which rung a value was converted on, and what becomes of one that no rung takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.ports import Int64s

STATUS: Final = pl.Enum(["CAST", "OTHER", "MISSING", "NULL", "DEFAULT"])
"""CAST: the first declared form fitted.  OTHER: a further declared form did.  MISSING: there was no value.
NULL: no form fitted, and null stands for it.  DEFAULT: no form fitted, and the declared default stands for it."""
CAST, OTHER, MISSING, NULL, DEFAULT, FAILED = range(6)
"""FAILED is not yet a status: the field's policy makes NULL or DEFAULT of it, or a dead letter."""

Otherwise = Literal["quarantine", "null"]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Converted:
    """What a field's columns became, n rows.

    columns  the value first, then what is written beside it
    rungs    uint8[n]: CAST, OTHER, MISSING or FAILED
    causes   uint8[n]: for a FAILED row, which of the field's `causes` it is
    """

    columns: tuple[pl.Series, ...]
    rungs: Codes
    causes: Codes


Converter = Callable[[pl.DataFrame, Int64s], Converted]
"""Column code of one field: the frame and the event time of each row in, the field's columns out."""


class Canonical(Protocol):
    """A type that a field can be brought to, with the policies for it: a frozen value.

    causes  why a value may fit no form, each a few words: reasons of dead letters
    """

    causes: tuple[str, ...]
    otherwise: Otherwise
    default: Any

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that it needs, the value's own first."""
        ...

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions whose version decides what comes out."""
        ...

    def fields(self, name: str, schema: Schema) -> tuple[Field, ...]:
        """The columns that it gives, the value's own first; raises DefinitionError for what cannot work."""
        ...

    def converter(self, types: Mapping[str, pl.DataType]) -> Converter:
        """The column code for columns of these types: everything that can be decided before rows come is."""
        ...


def rungs_of(value: pl.Series, given: pl.Series) -> Codes:
    """CAST where there is a value, MISSING where none was given, FAILED elsewhere."""
    rungs = np.zeros(len(value), np.uint8)
    lacking = value.is_null()
    if lacking.any():
        lost = lacking.to_numpy()
        rungs[lost] = FAILED
        absent = given.is_null()
        if absent.any():
            rungs[absent.to_numpy()] = MISSING
    return rungs


def no_causes(rows: int) -> Codes:
    """All failures are of the first cause."""
    return np.zeros(rows, np.uint8)


def column_of(schema: Schema, name: str, field: str) -> Field:
    """The column that a field reads; raises UnknownColumn."""
    if name not in schema:
        raise UnknownColumn(f"field '{field}' reads '{name}'", hint=did_you_mean(name, schema.names))
    return schema[name]


def require_type(column: Field, fits: bool, field: str, *, needs: str) -> None:
    """Raises TypeMismatch where a column has another type than the field can read."""
    if not fits:
        raise TypeMismatch(
            f"field '{field}' reads '{column.name}', a {column.dtype}", hint=f"it takes {needs}; cast the column first"
        )


def require_policy(otherwise: str, default: object, what: str) -> None:
    """Raises DefinitionError for an unknown policy, or two of them."""
    if otherwise not in ("quarantine", "null"):
        raise DefinitionError(
            f"{what}: otherwise={otherwise!r}", hint="otherwise='quarantine', otherwise='null', or default=value"
        )
    if default is not None and otherwise == "null":
        raise DefinitionError(f"{what}: null or a default stands for what fits no form, not both")
