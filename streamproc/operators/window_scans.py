"""Aggregates of a look-back that are computed from a scan of the window, for each row: nothing is kept beside events.

    quantile  the share-quantile of the values, between neighbours linearly (type 7 of Hyndman and Fan)
    ewma      sum of w x / sum of w, w = 2^-(age / half-life), both sums exactly rounded; ages count from the newest
              event with a value, which changes nothing, as all weights shrink alike, and keeps the newest weight at 1
    trend     slope of the least-squares line of the values over event time, per second: sum of (d - D)(x - X) over sum
              of (d - D)^2, d seconds from the newest event with a value, D and X the means; every sum exactly rounded
    distinct  how many different values
    top_k     the k most frequent values with their counts, ties by value

Powers of one half are made of multiplications and additions alone, in a fixed order: the mathematics library of the
machine has no say in any bit. Sums are exact, so no result depends on the order of events at one moment.

Cost: O(events of the window) for each row, for quantile, distinct and top_k O(n log n).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from streamproc.kernels import inlined, tight
from streamproc.operators.event_records import BEFORE, TIME, VALID, Table, Wants
from streamproc.operators.exact import PARTS, SumArrays, add_exact, clear_exact, rounded_sum
from streamproc.operators.value_table import values_ordered
from streamproc.operators.wide_sums import LIMBS
from streamproc.ports import Bytes, Int64s

QUANTILE: Final = 0
EWMA: Final = 1
TREND: Final = 2
DISTINCT: Final = 3
TOP_K: Final = 4
TOP_K_OF_TEXT: Final = 5

_SERIES: Final = np.array([(-math.log(2.0)) ** i / math.factorial(i) for i in range(19)])
"""Of 2^-f, f in [0, 1): the terms beyond are below half a unit in the last place."""
_REST: Final = np.int64(2**63 - 1)


class Room(NamedTuple):
    """Room in which scans work, and what codes of text stand for.

    codes    int64[*], one for each event that there may be
    sums     four exact sums with a row of the pool each
    arena, records  bytes of interned values, see `KeyArrays`
    """

    codes: Int64s
    sums: SumArrays
    arena: Bytes
    records: Int64s


def scan_words(kind: int, k: int) -> int:
    """Words of a scan's result: a float's bits and whether there is one, a count, or a number and k (code, count)."""
    if kind in (QUANTILE, EWMA, TREND):
        return 2
    return 1 if kind == DISTINCT else 1 + 2 * k


def scan_sums() -> SumArrays:
    """The four sums of a `Room`."""
    return SumArrays(
        np.zeros((4, PARTS + 1)), np.zeros((4, LIMBS), np.int64), np.zeros((4, 4), np.int64),
        np.arange(3, -1, -1), np.full(1, 4, np.int64),
    )  # fmt: skip


@inlined
def half_to_the(share: float) -> float:
    """2 to the power of -share, share in [0, 1)."""
    value = _SERIES[18]
    for i in range(17, -1, -1):
        value = value * share + _SERIES[i]
    return float(value)


@inlined
def weight(age: int, half_life: float) -> float:
    """2 to the power of -(age / half-life), both in µs."""
    length = np.int64(half_life)
    halvings = age // length
    if halvings > 1000:
        return 0.0
    value = half_to_the(np.float64(age - halvings * length) / np.float64(length))
    return float(value * np.int64((1023 - halvings) << 52).view(np.float64))


@tight
def _sift(codes: Int64s, top: int, end: int) -> None:
    value = codes[top]
    child = 2 * top + 1
    while child < end:
        if child + 1 < end and codes[child + 1] > codes[child]:
            child += 1
        if codes[child] <= value:
            break
        codes[top] = codes[child]
        top, child = child, 2 * child + 1
    codes[top] = value


@tight
def sort_codes(codes: Int64s, n: int) -> None:
    """Sorts the first n codes, ascending, in place: by insertion where they are few, else as a heap."""
    if n <= 24:
        for i in range(1, n):
            value, at = codes[i], i
            while at > 0 and codes[at - 1] > value:
                codes[at] = codes[at - 1]
                at -= 1
            codes[at] = value
        return
    for top in range(n // 2 - 1, -1, -1):
        _sift(codes, top, n)
    for end in range(n - 1, 0, -1):
        codes[0], codes[end] = codes[end], codes[0]
        _sift(codes, 0, end)


@inlined
def _as_float(code: np.int64) -> float:
    return float(np.int64(code ^ _REST if code < 0 else code).view(np.float64))


@tight
def _gathered(events: Table, event: int, since: int, value: int, word: int, codes: Int64s) -> int:
    n = 0
    while event >= 0 and events[event, TIME] > since:
        if (events[event, VALID] >> value) & 1:
            codes[n] = events[event, word]
            n += 1
        event = events[event, BEFORE]
    return n


@tight
def _quantile(codes: Int64s, n: int, share: float, out: Int64s) -> None:
    out[0], out[1] = 0, n > 0
    if n == 0:
        return
    sort_codes(codes, n)
    place = share * np.float64(n - 1)
    below = int(place)
    low, high = _as_float(codes[below]), _as_float(codes[below + 1] if below + 1 < n else codes[below])
    rest = place - np.float64(below)
    # Where neighbours are equal (or the place is one of them) nothing is computed: infinities stay what they are.
    value = low if rest == 0.0 or low == high else low * (1.0 - rest) + high * rest
    out[0] = np.float64(value + 0.0).view(np.int64)


@tight
def _average(
    events: Table, event: int, since: int, value: int, word: int, half_life: float, sums: SumArrays, out: Int64s
) -> None:
    newest, some = np.int64(0), False
    while event >= 0 and events[event, TIME] > since:
        if (events[event, VALID] >> value) & 1:
            if not some:
                newest, some = events[event, TIME], True
            w = weight(newest - events[event, TIME], half_life)
            add_exact(sums, 0, w * np.int64(events[event, word]).view(np.float64), 1)
            add_exact(sums, 1, w, 1)
        event = events[event, BEFORE]
    out[0], out[1] = 0, some
    if some:
        out[0] = np.float64(rounded_sum(sums, 0) / rounded_sum(sums, 1)).view(np.int64)
    clear_exact(sums, 0)
    clear_exact(sums, 1)


@tight
def _trend(events: Table, event: int, since: int, value: int, word: int, sums: SumArrays, out: Int64s) -> None:
    first, newest, n = event, np.int64(0), 0
    while event >= 0 and events[event, TIME] > since:
        if (events[event, VALID] >> value) & 1:
            if n == 0:
                newest = events[event, TIME]
            add_exact(sums, 0, np.float64(events[event, TIME] - newest) / 1e6, 1)
            add_exact(sums, 1, np.int64(events[event, word]).view(np.float64), 1)
            n += 1
        event = events[event, BEFORE]
    out[0], out[1] = 0, 0
    if n > 1:
        time, level = rounded_sum(sums, 0) / np.float64(n), rounded_sum(sums, 1) / np.float64(n)
        event = first
        while event >= 0 and events[event, TIME] > since:
            if (events[event, VALID] >> value) & 1:
                away = np.float64(events[event, TIME] - newest) / 1e6 - time
                add_exact(sums, 2, away * (np.int64(events[event, word]).view(np.float64) - level), 1)
                add_exact(sums, 3, away * away, 1)
            event = events[event, BEFORE]
        spread = rounded_sum(sums, 3)
        if spread > 0.0:
            out[0], out[1] = np.float64(rounded_sum(sums, 2) / spread + 0.0).view(np.int64), 1
    for i in range(4):
        clear_exact(sums, i)


@tight
def _runs(codes: Int64s, n: int) -> int:
    """Of sorted codes: how many different ones."""
    found = 0
    for i in range(n):
        if i == 0 or codes[i] != codes[i - 1]:
            found += 1
    return found


@inlined
def _better(room: Room, code: int, count: int, other: int, other_count: int, text: bool) -> bool:
    if count != other_count:
        return bool(count > other_count)
    return bool(values_ordered(room.arena, room.records, code, other) if text else code < other)


@tight
def _most_frequent(room: Room, n: int, k: int, text: bool, out: Int64s) -> None:
    codes, found, i = room.codes, 0, 0
    while i < n:
        j = i
        while j < n and codes[j] == codes[i]:
            j += 1
        code, count = codes[i], j - i
        if found < k or _better(room, code, count, out[2 * found - 1], out[2 * found], text):
            at = found if found < k else k - 1
            while at > 0 and _better(room, code, count, out[2 * at - 1], out[2 * at], text):
                out[2 * at + 1], out[2 * at + 2] = out[2 * at - 1], out[2 * at]
                at -= 1
            out[2 * at + 1], out[2 * at + 2] = code, count
            found = min(found + 1, k)
        i = j
    out[0] = found


@tight
def scan(wants: Wants, events: Table, event: int, since: int, s: int, room: Room, out: Int64s) -> None:
    """Writes the words of scan s for the window (since, t] that ends with `event`, for kernels."""
    scans = wants.scans
    value, kind, at, k = int(scans[s, 1]), scans[s, 2], scans[s, 3], int(scans[s, 4])
    word, amount, words = int(wants.words[0]) + value, wants.amounts[s], out[at:]
    if kind == EWMA:
        _average(events, event, since, value, word, amount, room.sums, words)
    elif kind == TREND:
        _trend(events, event, since, value, word, room.sums, words)
    else:
        n = _gathered(events, event, since, value, word, room.codes)
        if kind == QUANTILE:
            _quantile(room.codes, n, amount, words)
        else:
            sort_codes(room.codes, n)
            if kind == DISTINCT:
                words[0] = _runs(room.codes, n)
            else:
                _most_frequent(room, n, k, kind == TOP_K_OF_TEXT, words)
