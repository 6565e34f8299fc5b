"""Text to dates and times: ISO 8601 by itself, any other form as declared."""

from __future__ import annotations

from typing import Final

import polars as pl

EPOCHS: Final = {"epoch_s": 1_000_000_000, "epoch_ms": 1_000_000, "epoch_us": 1_000, "epoch_ns": 1}
"""Declared forms for numbers since 1970 UTC, with their length in nanoseconds."""
_NS: Final = {"ms": 1_000_000, "us": 1_000, "ns": 1}
_UTC_FORMS: Final = ("%Y-%m-%dT%H:%M:%S%.fZ", "%Y-%m-%d %H:%M:%S%.fZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d %H:%M:%S%.f UTC")
_ZONED_FORMS: Final = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
_LOCAL_FORMS: Final = (
    "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d",
)  # fmt: skip
_NS_LIMIT: Final = 9_223_372_036_000_000  # µs that nanoseconds can hold


def moments(text: pl.Series, dtype: pl.Datetime, *, form: str, zone: str) -> pl.Series:
    """Moments of a text column, null where the text is none.

    form   "" for ISO 8601, an `epoch_*` name, or a pattern as Polars and chrono write it
    zone   where text without a zone is local; of an hour that comes twice the first one counts, a skipped one is null
    A column without a zone (`local-timestamp`) takes wall-clock text as it is, and no text with a zone.
    Digits finer than the type's unit are cut off.
    """
    zoned = dtype.time_zone is not None
    if form in EPOCHS:
        numbers = epochs(text.str.strip_chars().cast(pl.Int64, strict=False), dtype.time_unit, form)
        return numbers.cast(dtype)
    forms: tuple[tuple[str, str], ...]
    if form:
        forms = ((form, "in the text" if any(mark in form for mark in ("%z", "%#z", "%:z", "%+")) else zone),)
    else:
        forms = tuple((pattern, zone) for pattern in _LOCAL_FORMS)
        if zoned:
            utc = tuple((pattern, "UTC") for pattern in _UTC_FORMS)
            forms = (utc[0], *forms, *utc[1:], *((pattern, "in the text") for pattern in _ZONED_FORMS))
    stripped = text.str.strip_chars()
    # Most files keep to one form: what the first text has is tried first, and then usually nothing is left to try.
    first = stripped.drop_nulls().head(1)
    best = next((known for known in forms if not _parsed(first, known[0], known[1], dtype).null_count()), forms[0])
    forms = (best, *(known for known in forms if known != best))
    found = pl.Series(text.name, [], dtype=dtype).extend_constant(None, len(text))
    for place, (pattern, where) in enumerate(forms):
        if place and found.null_count() == text.null_count():
            break
        parsed = _parsed(stripped, pattern, where, dtype)
        found = found.fill_null(parsed) if place else parsed
    return found


def _parsed(text: pl.Series, pattern: str, place: str, dtype: pl.Datetime) -> pl.Series:
    # By way of microseconds, because Polars lets nanoseconds wrap around outside of 1678 to 2261.
    local = text.str.to_datetime(pattern, time_unit=dtype.time_unit, strict=False)
    if dtype.time_unit == "ns":
        coarse = text.str.to_datetime(pattern, time_unit="us", strict=False)
        outside = coarse.to_physical().abs() > _NS_LIMIT
        local = pl.select(pl.when(~outside).then(local)).to_series()
    if dtype.time_zone is None:
        return local if place != "in the text" else local.dt.replace_time_zone(None)
    if place == "in the text":
        return local.dt.convert_time_zone("UTC")
    placed = local.dt.replace_time_zone(place, ambiguous="earliest", non_existent="null")
    return placed.dt.convert_time_zone("UTC")


def epochs(numbers: pl.Series, unit: str, form: str) -> pl.Series:
    """Int64 in the unit ("ms", "us", "ns") of numbers in an `epoch_*` form; null where 64 bits do not hold it.

    >>> epochs(pl.Series([1, -1]), "us", "epoch_s").to_list()
    [1000000, -1000000]
    """
    have, want = EPOCHS[form], _NS[unit]
    if have >= want:
        factor = have // want
        most = (2**63 - 1) // factor
        frame = numbers.rename("n").to_frame()
        return frame.select(pl.when(pl.col("n").is_between(-most, most)).then(pl.col("n") * factor)).to_series()
    return numbers // (want // have)


def dates(text: pl.Series, form: str) -> pl.Series:
    """Dates of a text column, null where the text is none."""
    return text.str.strip_chars().str.to_date(form or "%Y-%m-%d", strict=False)


def times_of_day(text: pl.Series, form: str) -> pl.Series:
    """Times of day of a text column, null where the text is none."""
    stripped = text.str.strip_chars()
    found = stripped.str.to_time(form or "%H:%M:%S%.f", strict=False)
    return found if form else found.fill_null(stripped.str.to_time("%H:%M", strict=False))
