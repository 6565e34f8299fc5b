"""The canonical types of `harmonise`, as a person writes them: `sp.canonical.instant("placed", zone="Europe/Berlin")`.

Each takes the column that it reads. All take a ladder's last rungs: `default` (a value of the canonical type that
stands for what fits no form) or `otherwise="null"`; without either such a row is a dead letter. Null stays null, as
MISSING.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamproc.operators.harmonising.instants import Fold, Gap, Instant
from streamproc.operators.harmonising.ladder import Otherwise
from streamproc.operators.harmonising.numerals import Numerals
from streamproc.operators.harmonising.quantities import Quantity
from streamproc.operators.harmonising.texts import Case, Form, Space, Text


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
