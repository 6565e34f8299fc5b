"""Features as a person computes them: for each row a scan over everything that came before, with fractions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from streamproc.testing.naive import Row
from streamproc.testing.naive_aggregates import aggregate, total

_LARGEST = 1.7976931348623157e308


@dataclass(frozen=True, slots=True)
class Wish:
    """One feature.

    span_us  None: all rows so far
    hop_us   with one the window begins at the multiple of it at or before t - span
    where    which rows count
    amount   share of a quantile, half-life of an average in µs
    error    of a quantile: 0 for an exact one
    bound    how many different values are counted exactly, how many intervals a quantile has; -1 for all
    absent   "null", "default" or "carry"; `default` or the age in µs is `other`
    covered  (first moment, first moment after, gaps), in µs, or None
    """

    kind: str
    column: str = ""
    span_us: int | None = None
    where: Callable[[Mapping[str, Any]], bool | None] = lambda values: True
    amount: float = 0.0
    k: int = 0
    zero: Any = 0.0
    absent: str = "null"
    other: Any = None
    covered: tuple[int, int, tuple[tuple[int, int], ...]] | None = None
    hop_us: int = 0
    error: float = 0.0
    bound: int = -1

    def begin(self, t: int) -> float:
        """Where the window of a row at t begins, itself outside."""
        if self.span_us is None:
            return -math.inf
        begin = t - self.span_us
        return begin - begin % self.hop_us if self.hop_us else begin


@dataclass(slots=True)
class Features:
    """Each row in time with its features: value, status, age.

    max_lag_us      how far the watermark may lie behind a row
    events_per_key  with the longest finite span: how many rows of a key are known at most
    """

    wished: Mapping[str, Wish]
    max_lag_us: int | None = None
    events_per_key: int | None = None
    gone: list[Row] = field(default_factory=list)
    kept: dict[bytes, list[Row]] = field(default_factory=dict)
    dropped: dict[tuple[bytes, Any], int] = field(default_factory=dict)
    tiled: dict[tuple[bytes, Any], tuple[set[int], list[int]]] = field(default_factory=dict)
    carried: dict[tuple[str, bytes], list[tuple[int, Any]]] = field(default_factory=dict)
    strict: bool = False

    def due(self) -> int | None:
        """Never: nothing waits."""
        return None

    def release(self, due: int, at: int, rank: int) -> list[Row]:
        """Nothing."""
        return []

    def take(self, row: Row) -> list[Row] | None:
        """The row with its features."""
        if not row.in_time:
            return None
        self.gone.append(row)
        self._bound(row)
        values = dict(row.values)
        for name, wish in self.wished.items():
            value, status, age = self._feature(name, wish, row)
            values |= {name: value, f"{name}_status": status, f"{name}_age": age}
        return [replace(row, values=values)]

    def _bound(self, row: Row) -> None:
        """Keeps the newest rows of the key: those that a row in time may still see, and not more than the bound."""
        if self.events_per_key is None:
            return
        for span, hop in {(one.span_us or 0, one.hop_us) for one in self.wished.values() if one.hop_us}:
            self._bound_tiles(row, span, hop)
        spans = [wish.span_us for wish in self.wished.values() if wish.span_us is not None and not wish.hop_us]
        kept = [*self.kept.get(row.key, []), row]
        kept.sort(key=lambda one: one.event_time)  # stable: rows of one moment stay in order of arrival
        kept = [one for one in kept if one.event_time > row.watermark - max(spans, default=1)]
        while len(kept) > self.events_per_key:
            oldest = kept.pop(0)
            place = (row.key, 0)
            self.dropped[place] = max(oldest.event_time, self.dropped.get(place, oldest.event_time))
        self.kept[row.key] = kept

    def _bound_tiles(self, row: Row, span: int, hop: int) -> None:
        """As `_bound`: tiles of what lies at or before the watermark, and moments of what waits behind it."""
        assert self.events_per_key is not None  # asked before
        place = (row.key, (span, hop))
        tiles, waiting = self.tiled.setdefault(place, (set(), []))
        waiting.append(row.event_time)
        tiles |= {(t - 1) // hop for t in waiting if t <= row.watermark}
        waiting[:] = sorted(t for t in waiting if t > row.watermark)
        tiles -= {tile for tile in tiles if tile < (row.watermark - span) // hop}
        while len(tiles) + len(waiting) > self.events_per_key:
            oldest = min(tiles) * hop + 1 if tiles else waiting[0]
            (tiles.remove(min(tiles)) if tiles else waiting.pop(0))
            self.dropped[place] = max(oldest, self.dropped.get(place, oldest))

    def _feature(self, name: str, wish: Wish, row: Row) -> tuple[Any, str, int | None]:
        since = wish.begin(row.event_time)
        rows = [
            other
            for other in self.gone
            if other.key == row.key
            and since < other.event_time <= row.event_time
            and wish.where(other.values) is True
            and (not wish.column or _counts(other.values[wish.column]))
        ]
        ages = [row.event_time - other.event_time for other in rows]
        age = min(ages) if ages else None
        value = compute(wish, rows, row)
        status = "MISSING" if value is None else "VALUE"
        if self.max_lag_us is not None and row.event_time - row.watermark > self.max_lag_us:
            status = "SOURCE_LATE"
        if self._uncovered(wish, row):
            status = "NOT_COVERED"
        if status != "VALUE":
            value = None
        if status not in ("VALUE", "MISSING"):
            age = None
        if wish.absent == "carry":
            value, status, age = self._carry((name, row.key), wish.other, row.event_time, value, status, age)
        if wish.absent == "default" and value is None:
            value = wish.other
        return value, status, age

    def _uncovered(self, wish: Wish, row: Row) -> bool:
        t = row.event_time
        dropped = self.dropped.get((row.key, wish.hop_us and (wish.span_us, wish.hop_us)))
        if dropped is not None and dropped > (t if wish.span_us is None else wish.begin(t)):
            return True
        if wish.covered is None:
            return False
        since, until, gaps = wish.covered
        first = since if wish.span_us is None else int(wish.begin(t)) + 1
        moments = range(first, t + 1) if t - first < 500 else range(t - 500, t + 1)
        outside = any(m < since or m >= until or any(a <= m < b for a, b in gaps) for m in moments)
        return outside or t < since

    def _carry(
        self, place: tuple[str, bytes], max_age: int, t: int, value: Any, status: str, age: int | None
    ) -> tuple[Any, str, int | None]:
        known = self.carried.setdefault(place, [])
        if status == "VALUE":
            known.append((t - (age or 0), value))
            return value, status, age
        newest = max((moment for moment, _ in known), default=None)
        if newest is None or not 0 <= t - newest <= 2 * max_age:
            return value, status, age
        last = [held for moment, held in known if moment == newest][-1]
        return (last, "VALUE", t - newest) if t - newest <= max_age else (None, "EXPIRED", t - newest)


def _counts(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def compute(wish: Wish, rows: list[Row], row: Row) -> Any:
    """The value of a feature over the rows that it sees; `row` is the last of them, or would be."""
    if wish.kind == "time_since_last":
        before = [row.event_time - other.event_time for other in rows if other is not row]
        return min(before) if before else None
    if wish.kind == "quantile" and wish.error:
        return sketched_quantile([float(other.values[wish.column]) for other in rows], wish)
    if (
        wish.kind == "distinct"
        and wish.bound >= 0
        and len({repr(row.values[wish.column]) for row in rows}) > wish.bound
    ):
        raise ValueError("this many values are estimated")
    if wish.kind in ("quantile", "ewma", "trend"):
        pairs = [(other.event_time, float(other.values[wish.column])) for other in rows]
        return _finite({"quantile": _quantile, "ewma": _ewma, "trend": _trend}[wish.kind](pairs, wish.amount))
    return _finite(aggregate(wish.kind, wish.column, rows, k=wish.k, zero=wish.zero))


def _finite(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else math.copysign(_LARGEST, value)


def _quantile(pairs: list[tuple[int, float]], share: float) -> float | None:
    # -0.0 stands below 0.0.
    values = sorted((x for _, x in pairs), key=lambda x: (x, math.copysign(1.0, x)))
    if not values:
        return None
    place = share * (len(values) - 1)
    below = int(place)
    low, high, rest = values[below], values[min(below + 1, len(values) - 1)], place - below
    return (low if rest == 0 or low == high else low * (1.0 - rest) + high * rest) + 0.0


def sketched_quantile(values: list[float], wish: Wish) -> float | None:
    """A quantile of values that are told apart by intervals only: of 2^-bits of a power of two, or twice that, …"""
    if not values:
        return None
    bits = next(bits for bits in range(52) if 0.5 ** (bits + 1) <= wish.error)
    codes, level = [_interval(value, bits) for value in values], 0
    while len(set(codes)) > wish.bound:
        codes, level = [code // 2 for code in codes], level + 1
    codes.sort()
    place = wish.amount * (len(codes) - 1)
    below = int(place)
    rest = place - below
    low, high = (_middle(code, bits, level) for code in (codes[below], codes[min(below + 1, len(codes) - 1)]))
    return (low if rest == 0 or low == high else low * (1.0 - rest) + high * rest) + 0.0


def _interval(value: float, bits: int) -> int:
    """Which interval a float lies in, counted from zero; those of negative ones from -1 down."""
    if value == 0:
        return 0
    mantissa, exponent = math.frexp(abs(value))
    if exponent + 1022 > 0:
        code = (exponent + 1022 << bits) + int((2 * mantissa - 1) * 2**bits)
    else:
        code = int(math.ldexp(abs(value), 1022 + bits))  # below the smallest normal float: equal widths
    return code if value > 0 else -code - 1


def _middle(code: int, bits: int, level: int) -> float:
    """Half way from the first float of an interval to its last."""
    if code < 0:
        return 0.0 - _middle(-code - 1, bits, level)
    ends = [_first_of(end << level, bits) for end in (code, code + 1)]
    value = ends[0] * 0.5 + math.nextafter(ends[1], 0.0) * 0.5
    return 0.0 if value < 2.0**-1022 else value


def _first_of(code: int, bits: int) -> float:
    exponent, part = divmod(code, 2**bits)
    if exponent == 0:
        return math.ldexp(part, -1022 - bits)
    try:
        return math.ldexp(1 + part / 2**bits, exponent - 1023)
    except OverflowError:
        return math.inf


def half_to_the(share: float) -> float:
    """2 to the power of -share by the series of the exponential, from its last term."""
    terms = [(-math.log(2.0)) ** i / math.factorial(i) for i in range(19)]
    value = terms.pop()
    while terms:
        value = value * share + terms.pop()
    return value


def _ewma(pairs: list[tuple[int, float]], half_life: float) -> float | None:
    if not pairs:
        return None
    newest = max(t for t, _ in pairs)
    weights = []
    for t, _ in pairs:
        halvings, rest = divmod(newest - t, int(half_life))
        weights.append(0.0 if halvings > 1000 else math.ldexp(half_to_the(rest / half_life), -halvings))
    return total([w * x for w, (_, x) in zip(weights, pairs, strict=True)]) / total(weights)


def _trend(pairs: list[tuple[int, float]], _: float) -> float | None:
    if len(pairs) < 2:
        return None
    newest = max(t for t, _ in pairs)
    seconds = [(t - newest) / 1e6 for t, _ in pairs]
    time, level = total(seconds) / len(pairs), total([x for _, x in pairs]) / len(pairs)
    spread = total([(d - time) * (d - time) for d in seconds])
    if spread <= 0:
        return None
    return total([(d - time) * (x - level) for d, (_, x) in zip(seconds, pairs, strict=True)]) / spread + 0.0
