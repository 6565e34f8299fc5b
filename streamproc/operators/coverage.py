"""Coverage: the time in which a source is known to have told everything. What lies outside is unknown, not zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamproc.errors import DefinitionError
from streamproc.event_time import MAX_TIME, MIN_TIME, instant_us
from streamproc.ports import Int64s


@dataclass(frozen=True, slots=True)
class Coverage:
    """When a source was there: from `since`, up to `until`, but for the gaps, all as ISO 8601 (UTC without a zone).

    Intervals are [from, to). None stands for the begin and the end of time.
    Raises DefinitionError for one that ends before it begins.

    >>> Coverage(since="2011-03-01", gaps=(("2011-04-01", "2011-04-02"),)).since
    '2011-03-01'
    """

    since: str | None = None
    until: str | None = None
    gaps: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for begin, end in (self.bounds, *self.gaps_us):
            if begin >= end:
                raise DefinitionError(
                    "a coverage ends before it begins", hint="give (from, to) with from before to, as ISO 8601"
                )

    @property
    def bounds(self) -> tuple[int, int]:
        """First moment covered, first moment after, in µs."""
        since = MIN_TIME if self.since is None else instant_us(self.since)
        return since, MAX_TIME if self.until is None else instant_us(self.until)

    @property
    def gaps_us(self) -> tuple[tuple[int, int], ...]:
        """The gaps, in µs."""
        return tuple((instant_us(begin), instant_us(end)) for begin, end in self.gaps)

    def misses(self, times: Int64s, span_us: int | Int64s | None) -> npt.NDArray[np.bool_]:
        """For rows at these times, whether some moment of (t - span, t] is not covered.

        span_us  one for all or one a row; None for a window that begins with the coverage

        >>> Coverage(since="1970-01-01").misses(np.array([0, 10, 11]), 11).tolist()
        [True, False, False]
        """
        since, until = self.bounds
        first = np.full(times.size, since, np.int64) if span_us is None else times - span_us + 1
        missed = (first < since) | (times < since) | (times >= until)
        for begin, end in self.gaps_us:
            missed |= (begin <= times) & (first < end)
        return missed
