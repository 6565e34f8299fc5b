"""Exchange rates by the moment of their publication.

A rate counts from when it was published, not from the midnight of its day: "the rate of the day" would look ahead. The
European Central Bank publishes its reference rates at 16:00 in Frankfurt; an amount of 15:59 gets the rate of the
working day before, this year and in every replay.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from streamproc.errors import DefinitionError
from streamproc.operators.harmonising.currencies import MINOR_DIGITS, require_currency
from streamproc.operators.harmonising.instants import to_utc
from streamproc.ports import Int64s

SCALE: Final = 8
"""Digits after the point that a rate keeps; the ECB quotes five significant ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Quotes:
    """What one currency was worth: units of it for one unit of the base, times 10**8, by moment of publication."""

    published: Int64s
    days: Int64s
    worth: Int64s


@dataclass(frozen=True, slots=True, eq=False)
class RateTable:
    """Rates of many currencies against one, under a name that stands in the ids of rates."""

    name: str
    base: str
    quotes: Mapping[str, Quotes]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """How amounts in minor units of one currency become those of another: times n, by d, from each publication on.

    ids  of the rates: "ecb/2026-10-30/USD-EUR"
    """

    published: Int64s
    days: Int64s
    n: Int64s
    d: Int64s
    ids: pl.Series


def rate_table(
    frame: pl.DataFrame, *, name: str, base: str = "EUR", published: str = "16:00", zone: str = "Europe/Berlin"
) -> RateTable:
    """A table of rates from rows of (date, currency, rate): so many units of the currency for one of the base.

    frame      `date` a Date, `currency` a code of ISO 4217, `rate` text, Decimal or Float64; other codes are left out
    published  when the rates of a date came out, local time of the zone

    Raises DefinitionError for columns of other types, rates that are not above zero, and a date twice.
    """
    require_currency(base, f"rate table '{name}'")
    if not {"date", "currency", "rate"} <= set(frame.columns) or frame.schema["date"] != pl.Date:
        raise DefinitionError(
            f"rate table '{name}' has columns {', '.join(frame.columns)}",
            hint="it needs date (Date), currency and rate",
        )
    clock = pl.Series([published]).str.to_time("%H:%M")
    rows = frame.select(
        "date",
        "currency",
        worth=(pl.col("rate").cast(pl.Decimal(38, SCALE)) * 10**SCALE).cast(pl.Int64),
    ).filter(pl.col("currency").is_in(list(MINOR_DIGITS)))
    if rows.height and (rows["worth"].null_count() or int(str(rows["worth"].min())) <= 0):
        raise DefinitionError(f"rate table '{name}' holds a rate that is not above zero", hint="leave such rows out")
    rows = rows.sort("currency", "date")
    if rows.select("currency", "date").is_duplicated().any():
        raise DefinitionError(f"rate table '{name}' holds two rates of a currency and day", hint="keep one of them")
    days = rows["date"].to_physical().to_numpy().astype(np.int64)
    moments = rows["date"].dt.combine(clock[0], time_unit="us")
    instants, _ = to_utc(moments, zone, gap="later", fold="earlier")
    times = instants.to_physical().to_numpy()
    worth = rows["worth"].to_numpy()
    quotes = {}
    codes = rows["currency"].to_numpy()
    for code in rows["currency"].unique(maintain_order=True).to_list():
        mine = np.flatnonzero(codes == code)
        quotes[code] = Quotes(times[mine].copy(), days[mine].copy(), worth[mine].copy())
    return RateTable(name, base, quotes)


def ecb_rates(data: bytes) -> RateTable:
    """The ECB's reference rates from its history file, `eurofxref-hist.zip` or the CSV in it, given as bytes.

    >>> table = ecb_rates(b"Date,USD,JPY,\\n2026-10-30,1.1652,N/A,\\n")
    >>> table.base, sorted(table.quotes)
    ('EUR', ['USD'])
    """
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            data = packed.read(packed.namelist()[0])
    wide = pl.read_csv(io.BytesIO(data), infer_schema=False, null_values=["N/A", ""], truncate_ragged_lines=True)
    wide = wide.rename({column: column.strip() for column in wide.columns})
    codes = [column for column in wide.columns if column in MINOR_DIGITS]
    if "Date" not in wide.columns or not codes:
        raise DefinitionError("this is not the ECB's history of rates", hint="eurofxref-hist.zip has a column Date")
    long = wide.select("Date", *codes).unpivot(codes, index="Date", variable_name="currency", value_name="rate")
    long = long.with_columns(pl.col("rate").str.strip_chars()).drop_nulls()
    return rate_table(long.select("currency", "rate", date=pl.col("Date").str.to_date("%Y-%m-%d")), name="ecb")


def pair(table: RateTable, source: str, target: str) -> Pair | None:
    """How minor units of `source` become those of `target`; None where the table does not know one of them."""
    sides = [table.quotes.get(code) for code in (source, target) if code != table.base]
    if any(side is None for side in sides):
        return None
    known = [side for side in sides if side is not None]
    published = known[0].published
    for side in known[1:]:
        published = np.intersect1d(published, side.published)

    def worth(code: str) -> Int64s:
        if code == table.base:
            return np.full(published.size, 10**SCALE, np.int64)
        quotes = table.quotes[code]
        return quotes.worth[np.searchsorted(quotes.published, published)]

    first = known[0]
    days = first.days[np.searchsorted(first.published, published)]
    n, d = fraction(worth(target), worth(source), source, target)
    dates = pl.Series(days.astype(np.int32)).cast(pl.Date).dt.to_string("%Y-%m-%d")
    return Pair(published, days, n, d, f"{table.name}/" + dates + f"/{source}-{target}")


def fraction(above: Int64s, below: Int64s, source: str, target: str) -> tuple[Int64s, Int64s]:
    """above / below as n / d between minor units of two currencies, in lowest terms."""
    digits = MINOR_DIGITS[target] - MINOR_DIGITS[source]
    common = np.gcd(above, below)
    common[common == 0] = 1
    # Rates have 13 digits at most, minor units 4: the products stay below 2**63.
    return above // common * 10 ** max(digits, 0), below // common * 10 ** max(-digits, 0)
