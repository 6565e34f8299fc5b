"""Event time: int64 microseconds since 1970-01-01 UTC, and spans of it.

Nothing in here reads a clock: time enters the engine as data.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from streamproc.errors import InputError

MIN_TIME: Final = -(2**62)
"""Before every event: the watermark of an input that has shown no row yet."""
MAX_TIME: Final = 2**62
"""After every event: the watermark of an input that has ended and was closed."""

_UNITS: Final = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_SPAN: Final = re.compile(r"(\d+)(us|ms|s|m|h|d|w)")

Span = str | timedelta
"""A length of time as a person writes it: "250ms", "90s", "10m", "1h30m", "7d", "2w", or a timedelta."""


def span_us(span: Span) -> int:
    """Microseconds of a span.  A day is 24 h: spans are lengths, not calendar steps.

    Raises InputError for anything that is not a sequence of number and unit (us, ms, s, m, h, d, w), or is negative.

    >>> span_us("1h30m"), span_us("250ms"), span_us(timedelta(days=1))
    (5400000000, 250000, 86400000000)
    """
    if isinstance(span, timedelta):
        us = span // timedelta(microseconds=1)
    else:
        parts = _SPAN.findall(span)
        if not parts or "".join(number + unit for number, unit in parts) != span:
            raise InputError(
                f"'{span}' is not a span of time", hint="write for example '250ms', '10m', '1h30m' or '7d'"
            )
        us = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if not 0 <= us < MAX_TIME:
        raise InputError(f"the span {span!r} is out of range", hint="spans are positive and below 146,000 years")
    return us


def span_text(us: int) -> str:
    """The shortest spelling of a span.

    >>> span_text(5_400_000_000), span_text(0)
    ('1h30m', '0s')
    """
    if us == 0:
        return "0s"
    parts = []
    for unit in ("w", "d", "h", "m", "s", "ms", "us"):
        number, us = divmod(us, _UNITS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts)


def instant_us(text: str) -> int:
    """Microseconds since 1970 UTC of an ISO 8601 date or time; without a zone it is taken as UTC.

    >>> instant_us("2011-01-04T10:00:00Z"), instant_us("1970-01-02")
    (1294135200000000, 86400000000)
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"'{text}' is not a moment", hint="write it as 2026-11-01 or 2026-11-01T09:30:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def instant_text(us: int) -> str:
    """ISO 8601 of an instant, in UTC; the two ends of time have names.

    >>> instant_text(1294135200000000), instant_text(MIN_TIME)
    ('2011-01-04T10:00:00Z', 'the beginning')
    """
    if us <= MIN_TIME:
        return "the beginning"
    if us >= MAX_TIME:
        return "the end"
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    except OverflowError:
        return f"{us} us"
    return moment.isoformat().replace("+00:00", "Z")
