"""How the events of a look-back lie in memory: the words of an event and of a key, and what its kernels take and give.

An event is one record of int64 words, so that a look at it costs one or two cache lines; its floats stand there as
their bits. A key has a record of int64 words too, and its exact sums in an `ExactSums` beside it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from streamproc.ports import Int64s

TIME: Final = 0
BEFORE: Final = 1
AFTER: Final = 2
VALID: Final = 3
PLACE: Final = 4
"""Words of an event; after PLACE the four of its coordinate, then its values, then two links per extreme."""
COORDINATE: Final = 4

OLDEST: Final = 0
NEWEST: Final = 1
SPANS: Final = 2
"""Words of a key; then the oldest event of each window, front and back of each extreme, counts, wide totals, what
extremes and edges without a span remember of events that are no longer kept, and the words of the key's bound."""

EVER: Final = 2**61
"""The span of a window without a begin, in µs: what was added to it is never taken out."""

EXTREME_BASE: Final = 2
"""Words of an extreme's memory: whether there is one, its code (turned as the extreme is)."""
EDGE_BASE: Final = 7
"""Words of an edge's memory: whether there is one, event time, coordinate, value."""

HELD: Final = 0
FORGOT: Final = 1
COVERED: Final = 2
BOUND: Final = 3
"""Words of a key's bound: events kept; whether one was dropped for want of room, and the event time of the newest."""

FIRST: Final = 0
LAST: Final = 1
BEFORE_ROW: Final = 2
UP_TO_ROW: Final = 3
"""What an edge gives: the first or last value, or how long ago the last event with a value was: without the row itself,
or with it."""

Table = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


class Wants(NamedTuple):
    """What to compute, as tables of small numbers; `span` counts the spans, `value` the value words.

    spans     int64[s]
    counts    (span, value or -1 for rows)
    sums      (span, value, 1 for squares), of float64 values
    wides     (span, value word with the low half, with the high half)
    extremes  (span, value, flip: -1 for the smallest)
    edges     (span, value or -1 for rows, FIRST, LAST, BEFORE_ROW or UP_TO_ROW)
    variances (sum of values, sum of squares, count)
    scans     (span, value, kind, first word of the result, how many of top_k), see `window_scans`
    words     int64[9]: an event's first value and first extreme; a key's first extreme, count, wide total, extreme's
              memory, edge's memory and bound; how many events a key keeps at most
    amounts   float64[scans]: the share of a quantile, the half-life of a moving average in µs
    """

    spans: Int64s
    counts: Table
    sums: Table
    wides: Table
    extremes: Table
    edges: Table
    variances: Table
    scans: Table
    words: Int64s
    amounts: Float64s


class Store(NamedTuple):
    """The events and keys of a state.

    events   int64[*, event words]
    keys     int64[key slots, key words]
    free     int64[*]  stack of free events
    counters int64[2]  its height; events ever used
    """

    events: Table
    keys: Table
    free: Int64s
    counters: Int64s


class Rows(NamedTuple):
    """Input: key slot, event time, time reached before the row, valid bits, words (coordinate if wanted, values)."""

    keys: Int64s
    times: Int64s
    reached: Int64s
    valid: Int64s
    words: Table


class Saved(NamedTuple):
    """Room for what a key's windows hold, while they are moved to a row out of order: its words, and its sums."""

    words: Int64s
    parts: Float64s
    limbs: Table
    special: Table


class Results(NamedTuple):
    """Output, a row for each of the last input rows (as a rule all of them) and a column per want.

    `has` flags extremes, then edges; the last fields are scratch.

    scans    words of all scans, see `window_scans`
    covered  event time of the newest event of the key that was dropped for want of room, MIN_TIME if none was
    """

    counts: Table
    sums: Float64s
    wides: Table
    extremes: Table
    edges: Table
    variances: Float64s
    has: npt.NDArray[np.uint8]
    scans: Table
    covered: Int64s
    parts: Float64s
    limbs: Int64s
    saved: Saved
    walks: Table


TOGETHER: Final = 24
"""Rows whose events are fetched at once."""


def room_for_walks(spans: int) -> Table:
    """Scratch for the walks of a group of rows: (event, moment) each, one to the row and one for each span."""
    return np.empty((TOGETHER * (1 + spans), 2), np.int64)
