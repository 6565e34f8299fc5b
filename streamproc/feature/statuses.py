"""The status of each value, and what stands where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.event_time import MIN_TIME
from streamproc.kernels import kernel
from streamproc.operators.aggregates import Absent
from streamproc.operators.values import Flags, codes_of, from_codes, valid_of
from streamproc.ports import Int64s

STATUS: Final = pl.Enum(["VALUE", "MISSING", "EXPIRED", "SOURCE_LATE", "NOT_COVERED"])
"""VALUE: it is known.  MISSING: the window is covered and holds nothing of which it could be made.  EXPIRED: the value
that is carried on is too old.  SOURCE_LATE: the sources lag behind the row.  NOT_COVERED: a part of the window lies
where a source was not there, or was dropped for want of room."""
VALUE, MISSING, EXPIRED, SOURCE_LATE, NOT_COVERED = range(5)
"""From good to bad: what is derived from several has the worst of theirs."""
_NAMES: Final = pl.Series(STATUS.categories.to_list(), dtype=STATUS)
_LARGEST: Final = np.finfo(np.float64).max

Statuses = npt.NDArray[np.uint8]


@dataclass(slots=True)
class Valued:
    """A feature of each row of a batch.

    column  the values, null where there is none
    status  uint8[n], places in STATUS
    age     µs since the newest row that counts, where `aged`
    """

    column: pl.Series
    status: Statuses
    age: Int64s
    aged: npt.NDArray[np.bool_]

    def blank(self, mask: npt.NDArray[np.bool_], status: int) -> None:
        """Takes the values away where the mask holds, and says why."""
        if mask.any():
            self.status[mask] = status
            self.column = nulled(self.column, mask)
            self.aged = self.aged & ~mask

    def columns(self, name: str, *, status: bool, indicator: bool) -> list[pl.Series]:
        """The columns that a row gets."""
        made = [self.column.alias(name)]
        if indicator:
            made.append(pl.Series(f"{name}_known", self.status == VALUE))
        if status:
            made.append(_NAMES[self.status].alias(f"{name}_status"))
            made.append(nulled(pl.Series(f"{name}_age", self.age), ~self.aged))
        return made


def valued(column: pl.Series, age: Int64s | None, aged: Flags | None) -> Valued:
    """A feature as it was computed: what is null is MISSING.

    A float beyond the range of floats stands at its end, so that no infinity comes out; NaN is MISSING.
    """
    if column.dtype.is_float() and not column.is_finite().all():
        exact = column.fill_null(0.0).to_numpy()
        unknown = np.isnan(exact) | column.is_null().to_numpy()
        column = nulled(pl.Series(column.name, np.clip(np.where(unknown, 0.0, exact), -_LARGEST, _LARGEST)), unknown)
    status = (1 - valid_of(column)).astype(np.uint8)
    none = np.zeros(len(column), np.int64)
    return Valued(column, status, none if age is None else age, none != 0 if aged is None else aged != 0)


def nulled(column: pl.Series, mask: npt.NDArray[np.bool_]) -> pl.Series:
    """The column, null where the mask holds."""
    if not mask.any():
        return column
    return pl.select(pl.when(pl.Series(~mask)).then(column).alias(column.name)).to_series()


def filled(feature: Valued, absent: Absent) -> None:
    """Puts the default where there is no value; the status stays."""
    if absent.kind in ("default", "indicator") and feature.column.null_count():
        column = feature.column
        fill = pl.lit(absent.value, column.dtype)
        feature.column = pl.select(pl.coalesce(column, fill).alias(column.name)).to_series()


@dataclass(slots=True)
class Carried:
    """The last value of each key, for `carry`.

    codes  int64[slots]: the value; moments int64[slots]: when its newest row was, MIN_TIME for none
    """

    codes: Int64s
    moments: Int64s

    def carry(self, feature: Valued, slots: Int64s, times: Int64s, max_age_us: int) -> None:
        """Row by row: a value is remembered; where there is none the remembered one stands, if it is young enough.

        Of two values the one with the newer row behind it is remembered, and a row sees none from after its own moment.
        Older than twice the age it is MISSING, as if it had never been, so that state is bounded.
        """
        codes = np.array(codes_of(feature.column))
        has, age, aged = np.array(valid_of(feature.column)), feature.age.copy(), feature.aged.astype(np.uint8)
        _carry(self.codes, self.moments, slots, times, codes, has, feature.status, age, aged, max_age_us)
        feature.column = from_codes(feature.column.name, codes, has, feature.column.dtype)
        feature.age, feature.aged = age, aged != 0


@kernel
def _carry(
    held: Int64s, moments: Int64s, slots: Int64s, times: Int64s, codes: Int64s, has: Flags, status: Statuses,
    age: Int64s, aged: Flags, max_age: int,
) -> None:  # fmt: skip
    for i in range(slots.size):
        slot, t = slots[i], times[i]
        if status[i] == VALUE:
            moment = t - (age[i] if aged[i] else 0)
            if moment >= moments[slot]:
                held[slot], moments[slot] = codes[i], moment
            continue
        since = t - moments[slot]
        if moments[slot] == MIN_TIME or since < 0 or since > 2 * max_age:
            continue
        age[i], aged[i] = since, 1
        if since <= max_age:
            status[i], codes[i], has[i] = VALUE, held[slot], 1
        else:
            status[i] = EXPIRED
