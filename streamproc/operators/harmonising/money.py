"""Money: whole minor units of one currency, converted by the rate that was public at the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, TypeMismatch
from streamproc.hashing import frozen
from streamproc.operators.harmonising.currencies import MINOR_DIGITS, require_currency
from streamproc.operators.harmonising.distinct import encoded, gathered
from streamproc.operators.harmonising.ladder import (
    CAST,
    FAILED,
    MISSING,
    OTHER,
    Codes,
    Converted,
    Converter,
    Otherwise,
    column_of,
    require_policy,
    require_type,
)
from streamproc.operators.harmonising.numerals import Numerals
from streamproc.operators.harmonising.rates import SCALE, Pair, RateTable, fraction, pair
from streamproc.operators.harmonising.scaling import scaled
from streamproc.ports import Int64s

_DIGITS: Final = 10
_EXACT: Final = pl.Decimal(38, _DIGITS)
_FORM, _CURRENCY, _RATE, _RANGE = range(4)
_NO_TIME: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class RateColumns:
    """Where an as-of join left the rate of each row: units of the row's currency for one of the target's.

    id, published  columns of the rate's id (text) and of the moment when it was published
    """

    rate: str
    id: str
    published: str


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units, see `canonical.money`."""

    column: str
    to: str
    currency: str
    currency_column: str
    minor: bool
    numerals: tuple[Numerals, ...]
    rates: RateTable | RateColumns | None
    at: str
    max_age_us: int
    otherwise: Otherwise = "quarantine"
    default: Any = None
    causes: ClassVar[tuple[str, ...]] = (
        "no amount of a declared form", "no currency of ISO 4217", "no rate published in time",
        "an amount out of range",
    )  # fmt: skip

    def __post_init__(self) -> None:
        require_policy(self.otherwise, self.default, "money")
        for code in (self.to, self.currency):
            if code:
                require_currency(code, "money")
        if bool(self.currency) == bool(self.currency_column):
            raise DefinitionError(
                "money needs the currency of what it reads",
                hint="currency='GBP' for all rows, or currency_column='column'",
            )
        if not self.to and self.rates is not None:
            raise DefinitionError("money with rates, and no currency to convert to", hint="to='EUR'")
        if self.to and self.rates is None and self.currency != self.to:
            raise DefinitionError(
                f"money to '{self.to}' without rates", hint="rates=sp.canonical.ecb_rates(data), or leave `to` out"
            )

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Names of the columns beside the value, behind the field's own."""
        return ("_currency",) if not self.to else ("_rate_id", "_rate_date") if self.rates is not None else ()

    @property
    def reads(self) -> tuple[str, ...]:
        found = [self.column, self.currency_column, self.at]
        if isinstance(self.rates, RateColumns):
            found += [self.rates.rate, self.rates.id, self.rates.published]
        return tuple(name for name in found if name)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("polars",)

    def fields(self, name: str, schema: Schema) -> tuple[Field, ...]:
        """Minor units; with a target currency also id and day of the rate, without one the currency."""
        column = column_of(schema, self.column, name)
        dtype = column.dtype
        require_type(column, dtype.is_numeric() or isinstance(dtype, pl.String), name, needs="numbers or text")
        if self.minor and not dtype.is_integer():
            raise TypeMismatch(
                f"field '{name}' reads minor units from '{self.column}', a {dtype}",
                hint="minor units are whole numbers",
            )
        for other in (self.currency_column,):
            if other:
                codes = column_of(schema, other, name)
                require_type(codes, isinstance(codes.dtype, pl.String), name, needs="codes of currencies as text")
        if column.unit and self.currency and column.unit != self.currency:
            raise TypeMismatch(
                f"field '{name}' reads '{self.column}' as {self.currency}, and its contract says {column.unit}",
                hint="leave the currency as the contract has it, or change the contract",
            )
        for moment in (self.at, self.rates.published if isinstance(self.rates, RateColumns) else ""):
            if moment:
                times = column_of(schema, moment, name)
                zoned = isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is not None
                require_type(times, zoned, name, needs="instants as moments")
        if isinstance(self.rates, RateColumns):
            rate = column_of(schema, self.rates.rate, name)
            require_type(rate, rate.dtype.is_numeric(), name, needs="numbers as rates")
            column_of(schema, self.rates.id, name)
        beside = {
            "_currency": Field(f"{name}_currency", pl.String(), doc="ISO 4217"),
            "_rate_id": Field(f"{name}_rate_id", pl.String(), doc="which rate, null where none was needed"),
            "_rate_date": Field(f"{name}_rate_date", pl.Date(), doc="the day of the rate"),
        }
        value = Field(
            name, pl.Int64(), unit=self.to, doc=f"{self.column} in minor units of {self.to or 'its currency'}"
        )
        return (value, *(beside[suffix] for suffix in self.suffixes))

    def converter(self, types: Mapping[str, pl.DataType]) -> Converter:
        known = sorted(MINOR_DIGITS)
        place_of = {code: place for place, code in enumerate(known)}
        # One more at the end: no currency.
        digits = np.array([*(MINOR_DIGITS[code] for code in known), 0], np.int64)
        table = self.rates if isinstance(self.rates, RateTable) else None
        pairs = {code: pair(table, code, self.to) for code in known if code != self.to} if table is not None else {}

        def convert(frame: pl.DataFrame, times: Int64s) -> Converted:
            given = frame.get_column(self.column)
            if self.currency:
                places = np.full(len(given), place_of[self.currency], np.int64)
            else:
                words, codes = encoded(frame.get_column(self.currency_column))
                found = [place_of.get(word.strip().upper(), -1) for word in words.to_list()]
                places = np.array([*found, -1], np.int64)[codes]
            amounts, rungs, causes = self._minor_units(given, digits[places])
            bad = (places < 0) & (rungs <= OTHER)
            rungs[bad], causes[bad] = FAILED, _CURRENCY
            if not self.to:
                names = gathered(pl.Series(known), np.where(rungs <= OTHER, places, -1))
                return Converted((_kept(amounts, rungs), names), rungs, causes)
            if self.rates is None:
                return Converted((_kept(amounts, rungs),), rungs, causes)
            at = _moments(frame.get_column(self.at)) if self.at else times
            if isinstance(self.rates, RateColumns):
                ids, days = self._by_columns(self.rates, frame, known, places, at, amounts, rungs, causes)
            else:
                ids, days = self._by_table(known, pairs, places, at, amounts, rungs, causes)
            return Converted((_kept(amounts, rungs), ids, days), rungs, causes)

        return convert

    def _minor_units(self, given: pl.Series, digits: Int64s) -> tuple[Int64s, Codes, Codes]:
        """Amounts in minor units of their own currency, rounded half to even where they have more digits."""
        rungs = np.full(len(given), FAILED, np.uint8)
        rungs[given.is_null().to_numpy()] = MISSING
        causes = np.zeros(len(given), np.uint8)
        amounts = np.zeros(len(given), np.int64)
        if given.dtype.is_integer():
            whole = given.cast(pl.Int64, strict=False).fill_null(0).to_numpy()
            ten = 10 ** (np.zeros_like(digits) if self.minor else digits)
            amounts, fits = scaled(frozen(whole), ten, np.ones_like(ten))
            fits &= rungs != MISSING
            rungs[fits] = CAST
            causes[rungs == FAILED] = _RANGE
            return amounts, rungs, causes
        texts = isinstance(given.dtype, pl.String)
        for place, form in enumerate(self.numerals if texts else self.numerals[:1]):
            left = np.flatnonzero(rungs == FAILED)
            if not left.size:
                break
            part = given if left.size == len(given) else given.gather(left)
            exact = (form.plain(part) if texts else part).cast(_EXACT, strict=False)
            counts = exact.to_physical().cast(pl.Int64, strict=False)
            good = counts.is_not_null().to_numpy()
            rows = left[good]
            tenth = 10 ** (_DIGITS - digits[rows])
            amounts[rows], _ = scaled(frozen(counts.drop_nulls().to_numpy()), np.ones_like(tenth), tenth)
            rungs[rows] = OTHER if place else CAST
            self._large(exact, left, digits, amounts, rungs, causes, CAST if not place else OTHER)
        return amounts, rungs, causes

    def _large(
        self, exact: pl.Series, left: Int64s, digits: Int64s, amounts: Int64s, rungs: Codes, causes: Codes, rung: int
    ) -> None:
        """Amounts beyond 900 million, whose count of the tenth digit needs more than 64 bits: few, so one by one."""
        counts = exact.to_physical()
        beyond = np.flatnonzero((rungs[left] == FAILED) & counts.is_not_null().to_numpy())
        for at in beyond.tolist():
            row = int(left[at])
            per = 10 ** (_DIGITS - int(digits[row]))
            quotient, rest = divmod(int(counts[at]), per)
            quotient += int(2 * rest > per or (2 * rest == per and quotient % 2 == 1))
            if -(2**63) < quotient < 2**63:
                amounts[row], rungs[row] = quotient, rung
            else:
                causes[row] = _RANGE

    def _by_table(
        self, known: list[str], pairs: Mapping[str, Pair | None], places: Int64s, at: Int64s, amounts: Int64s,
        rungs: Codes, causes: Codes,
    ) -> tuple[pl.Series, pl.Series]:  # fmt: skip
        """Converts in place by the newest rate that was public; gives ids and days of the rates."""
        rows, ids, days = [], [], []
        for place in np.unique(places[(rungs <= OTHER) & (places >= 0)]).tolist():
            if known[place] == self.to:
                continue
            mine = np.flatnonzero((places == place) & (rungs <= OTHER))
            quotes = pairs[known[place]]
            index = np.full(mine.size, -1, np.int64)
            if quotes is not None and quotes.published.size:
                index = np.searchsorted(quotes.published, at[mine], side="right") - 1
                index[at[mine] - quotes.published[index] > self.max_age_us] = -1
            lost = mine[index < 0]
            rungs[lost], causes[lost] = FAILED, _RATE
            mine, index = mine[index >= 0], index[index >= 0]
            if quotes is None or not mine.size:
                continue
            made, fits = scaled(frozen(amounts[mine]), quotes.n[index], quotes.d[index])
            amounts[mine] = made
            rungs[mine[~fits]], causes[mine[~fits]] = FAILED, _RANGE
            rows.append(mine[fits])
            ids.append(quotes.ids.gather(index[fits]))
            days.append(quotes.days[index[fits]])
        return _spread(rows, ids, days, places.size)

    def _by_columns(
        self, columns: RateColumns, frame: pl.DataFrame, known: list[str], places: Int64s, at: Int64s,
        amounts: Int64s, rungs: Codes, causes: Codes,
    ) -> tuple[pl.Series, pl.Series]:  # fmt: skip
        """Converts in place by the rate of each row."""
        worth = frame.get_column(columns.rate).cast(pl.Decimal(38, SCALE), strict=False).to_physical()
        below = worth.cast(pl.Int64, strict=False).fill_null(0).to_numpy()
        published = _moments(frame.get_column(columns.published))
        age = at - published
        usable = (below > 0) & (below < 10**14) & (published != _NO_TIME) & (age >= 0) & (age <= self.max_age_us)
        ids = frame.get_column(columns.id).cast(pl.String)
        one = np.full(places.size, 10**SCALE, np.int64)
        rows = []
        for place in np.unique(places[(rungs <= OTHER) & (places >= 0)]).tolist():
            if known[place] == self.to:
                continue
            mine = np.flatnonzero((places == place) & (rungs <= OTHER))
            lost = mine[~usable[mine]]
            rungs[lost], causes[lost] = FAILED, _RATE
            mine = mine[usable[mine]]
            n, d = fraction(one[mine], below[mine], known[place], self.to)
            made, fits = scaled(frozen(amounts[mine]), n, d)
            amounts[mine] = made
            rungs[mine[~fits]], causes[mine[~fits]] = FAILED, _RANGE
            rows.append(mine[fits])
        kept = np.concatenate([np.empty(0, np.int64), *rows])
        days = np.floor_divide(published[kept], 86_400_000_000)
        return _spread([kept], [ids.gather(kept)], [days], places.size)


def _kept(amounts: Int64s, rungs: Codes) -> pl.Series:
    gone = rungs > OTHER
    value = pl.Series(amounts)
    return value.set(pl.Series(gone), None) if gone.any() else value


def _moments(column: pl.Series) -> Int64s:
    """Instants as µs; the least number where there is none."""
    counts: Int64s = column.cast(pl.Datetime("us", "UTC")).to_physical().fill_null(_NO_TIME).to_numpy()
    return counts


def _spread(rows: list[Int64s], ids: list[pl.Series], days: list[Int64s], height: int) -> tuple[pl.Series, pl.Series]:
    """Ids and days at their rows, null elsewhere."""
    codes = np.full(height, -1, np.int64)
    placed = np.concatenate([np.empty(0, np.int64), *rows])
    codes[placed] = np.arange(placed.size)
    texts = pl.concat([pl.Series([], dtype=pl.String), *ids])
    dates = pl.Series(np.concatenate([np.empty(0, np.int64), *days]).astype(np.int32)).cast(pl.Date)
    return gathered(texts, codes), gathered(dates, codes)
