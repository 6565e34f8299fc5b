"""Phone numbers and e-mail addresses, by the libraries that know them; nothing is looked up anywhere."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.operators.harmonising.distinct import SEPARATOR, Remembered, by_value, joined
from streamproc.operators.harmonising.ladder import (
    Converted,
    Converter,
    Otherwise,
    column_of,
    require_policy,
    require_type,
)
from streamproc.ports import Int64s

Made = tuple[str | None, ...] | int
"""What a function of one value gives: texts, or the number of the cause why none."""


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone number as E.164, see `canonical.phone`."""

    column: str
    region: str
    region_column: str
    otherwise: Otherwise = "quarantine"
    default: Any = None
    causes: ClassVar[tuple[str, ...]] = ("no phone number", "no valid phone number of its region")
    suffixes: ClassVar[tuple[str, ...]] = ("_extension",)

    def __post_init__(self) -> None:
        require_policy(self.otherwise, self.default, "a phone number")
        if self.region and self.region_column:
            raise DefinitionError("a phone number has one region for all rows, or a column of regions, not both")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column, self.region_column) if self.region_column else (self.column,)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("phonenumbers",)

    def fields(self, name: str, schema: Schema) -> tuple[Field, ...]:
        """The number and its extension."""
        for column in self.reads:
            found = column_of(schema, column, name)
            require_type(found, isinstance(found.dtype, pl.String), name, needs="text")
        regions = _phones().region_codes
        if self.region and self.region not in regions:
            raise DefinitionError(f"field '{name}': no region '{self.region}'", hint="two letters of ISO 3166: 'DE'")
        return (
            Field(name, pl.String(), doc=f"{self.column} as E.164"),
            Field(f"{name}_extension", pl.String(), doc="behind the number"),
        )

    def converter(self, types: Mapping[str, pl.DataType]) -> Converter:
        remembered = _phones().of_region(self.region)

        def convert(frame: pl.DataFrame, times: Int64s) -> Converted:
            columns, rungs, causes = by_value(joined(frame.select(self.reads).get_columns()), remembered, 2)
            return Converted(tuple(columns), rungs, causes)

        return convert


class _Phones:
    """The library, and what it said of numbers, per default region."""

    def __init__(self) -> None:
        try:
            import phonenumbers
        except ImportError:
            raise DefinitionError(
                "phone numbers are read by phonenumbers, which is not installed",
                hint="pip install 'streamproc[harmonise]'",
            ) from None
        self.library = phonenumbers
        self.region_codes = frozenset(phonenumbers.SUPPORTED_REGIONS)
        self._by_region: dict[str, Remembered] = {}

    def of_region(self, region: str) -> Remembered:
        """The function of keys, by the region of numbers without a country code."""
        if region not in self._by_region:
            self._by_region[region] = Remembered(functools.partial(self._made, region))
        return self._by_region[region]

    def _made(self, region: str, key: str) -> Made:
        text, _, own = key.partition(SEPARATOR)
        try:
            number = self.library.parse(text, own.strip().upper() or region or None)
        except self.library.NumberParseException:
            return 0
        if not self.library.is_valid_number(number):
            return 1
        return self.library.format_number(number, self.library.PhoneNumberFormat.E164), number.extension or None


@functools.lru_cache(maxsize=1)
def _phones() -> _Phones:
    return _Phones()


@dataclass(frozen=True, slots=True)
class EmailAddress:
    """An e-mail address, see `canonical.email`."""

    column: str
    local: Literal["keep", "lower"]
    otherwise: Otherwise = "quarantine"
    default: Any = None
    causes: ClassVar[tuple[str, ...]] = ("no e-mail address",)

    def __post_init__(self) -> None:
        require_policy(self.otherwise, self.default, "an e-mail address")
        if self.local not in ("keep", "lower"):
            raise DefinitionError(f"an e-mail address with local={self.local!r}", hint="local='keep' or local='lower'")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("email-validator", "idna")

    def fields(self, name: str, schema: Schema) -> tuple[Field, ...]:
        """The address."""
        column = column_of(schema, self.column, name)
        require_type(column, isinstance(column.dtype, pl.String), name, needs="text")
        _addresses(self.local)
        return (Field(name, pl.String(), doc=f"{self.column} as an e-mail address"),)

    def converter(self, types: Mapping[str, pl.DataType]) -> Converter:
        remembered = _addresses(self.local)

        def convert(frame: pl.DataFrame, times: Int64s) -> Converted:
            columns, rungs, causes = by_value(frame.get_column(self.column), remembered, 1)
            return Converted(tuple(columns), rungs, causes)

        return convert


@functools.lru_cache(maxsize=2)
def _addresses(local: str) -> Remembered:
    try:
        from email_validator import EmailNotValidError, validate_email
    except ImportError:
        raise DefinitionError(
            "e-mail addresses are read by email-validator, which is not installed",
            hint="pip install 'streamproc[harmonise]'",
        ) from None

    def made(text: str) -> Made:
        try:
            found = validate_email(text.strip(), check_deliverability=False, test_environment=True)
        except EmailNotValidError:
            return 0
        name = found.local_part.lower() if local == "lower" else found.local_part
        return (f"{name}@{found.domain}",)

    return Remembered(made)
