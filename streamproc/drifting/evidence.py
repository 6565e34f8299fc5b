"""The evidence against "nothing has changed", which may be looked at after every row.

**Ranks.** The first rows of a column choose a grid of bins and nothing else. From then on each value's bin is ranked
among the bins of all values since, ties broken by a number drawn from the row's place: the conformal p-value, uniform
and independent of the past for *any* distribution as long as rows are exchangeable (Vovk 2003). A null has a bin of its
own, below all others. With a frozen reference the ranks are among its rows only, nearly as good from 2,000 rows on.

**Bets.** Each p is bet on by thirteen wagers that are worth 1 on average where p is uniform. Twelve are normal tilts
of p's quantile, eight for a shift and four for a change of spread; each cell of p holds its wager's exact average. The
last one bets that p goes on to fall where the last 256 did, in sixteenths: it sees what has no direction, such as a
text that comes no more. Fortunes, started anew at every row, add up (Shiryaev-Roberts): R = (1 + R) * wager.
Wagers have weights. That of a small shift has a large one: a weight e times smaller costs the wager of a quarter of a
standard deviation 30 rows more, and the one of a whole standard deviation two.

**The promise.** The mean of R over wagers, by their weights, and over columns grows by at most 1 a row while nothing
changes, whatever the dependence between columns. So an alarm at R >= `run_length` comes on average no earlier than
every `run_length` rows (Shin, Ramdas & Rinaldo 2024, "E-detectors"). It rests on rows that are exchangeable in time;
the lag-one correlation of ranks, measured beside, says whether they are.

**Blame.** R of a column over rows watched is an e-value; e-BH (Wang & Ramdas 2022) at 5 % takes those that stand out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.kernels import kernel
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]
Small = npt.NDArray[np.int16]

BINS: Final = 64
CELLS: Final = 1024
FIXED: Final = 12
WAGERS: Final = 13
PARTS: Final = 16
_PRIOR: Final = 2.0
_GRIDS: Final = 6
_KEPT: Final = 0.9
RECENT: Final = 256
_EIGHTS: Final = 72
_ALL: Final = 81
_SHIFTS: Final = (0.2, 0.45, 0.8, 1.3)
_SPREADS: Final = (0.5, 0.75, 1.5, 2.5)
_OF_SHIFTS: Final = (3.0, 1.5, 0.7, 0.5)


def _weights() -> Floats:
    relative = np.array((*_OF_SHIFTS, *_OF_SHIFTS, *(1.0 for _ in _SPREADS), 1.0))
    shares: Floats = relative / relative.sum()
    shares.setflags(write=False)
    return shares


WEIGHTS: Final = _weights()
"""float64[wagers]: how much each counts; their sum is 1, or the promise does not hold."""

ROWS: Final = 0
"""Rows since the test began anew."""
SERIAL: Final = 1
"""Rows ever."""
SINCE: Final = 2
"""The last row before the evidence began to rise, and its offset."""
SINCE_OFFSET: Final = 3
WATCHED: Final = 4
"""Rows that were ranked."""
STRIDE: Final = 5
"""Every how many rows one is ranked."""
SKIPPED: Final = 6


@cache
def wagers() -> Floats:
    """float64[cells of p, 12]: what each fixed wager pays, averaged over the cell; every column has mean 1.

    >>> bool(np.allclose(wagers().mean(axis=0), 1.0, atol=1e-12)), bool((wagers() > 0).all())
    (True, True)
    """
    from scipy.special import ndtr, ndtri

    z = ndtri(np.linspace(0.0, 1.0, CELLS + 1))
    columns = []
    for shift in (*_SHIFTS, *(-s for s in _SHIFTS)):
        columns.append(np.diff(ndtr(z - shift)) * CELLS)
    for spread in _SPREADS:
        columns.append(np.diff(ndtr(z / spread)) * CELLS)
    table = np.stack(columns, axis=1)
    return np.ascontiguousarray(table / table.mean(axis=0))


@dataclass(slots=True)
class Evidence:
    """What a test remembers of its columns.

    counts   int64[8]: see the constants
    first    float64[columns, grid rows]: values from which grids are made
    edges    float64[columns, bins]: rising, +inf behind the last; NaN in the first place where there is no grid yet
    counted  int64[columns, 82]: values counted by bin; then by eights of bins; then all of them
    fortunes float64[columns, wagers]: R
    serial   float64[columns, 10]: last rank, sum of products of neighbouring ranks, -, their number; last value, phi;
             of the grids so far products of neighbours, squares, values, and how many grids (`_phi`)
    recent   int16[columns, 256]: the bins of the last rows that were ranked
    parts    int16[columns, 256]: the sixteenths in which the last ranks fell; `shares` counts them
    rise     float64[2]: evidence at the last row, and the log of its rise since SINCE
    """

    counts: Int64s
    first: Floats
    edges: Floats
    counted: Int64s
    fortunes: Floats
    serial: Floats
    recent: Small
    parts: Small
    shares: Floats
    rise: Floats

    def restart(self) -> None:
        """Begins anew, with a new reference."""
        serial, grids = int(self.counts[SERIAL]), self.serial[:, _GRIDS:].copy()
        for array in (
            self.counts,
            self.first,
            self.edges,
            self.counted,
            self.fortunes,
            self.serial,
            self.recent,
            self.parts,
            self.shares,
            self.rise,
        ):
            array[...] = 0
        self.counts[SERIAL], self.counts[STRIDE] = serial, 1
        self.serial[:, 0] = self.serial[:, 4] = math.nan
        self.serial[:, _GRIDS:] = grids

    def by_column(self) -> Floats:
        """The evidence against each column."""
        return np.asarray((self.fortunes * WEIGHTS).sum(axis=1))

    def correlations(self) -> Floats:
        """Lag-one correlation of each column's ranks, 0 where nothing is known."""
        n = np.maximum(self.serial[:, 3], 1.0)
        return np.asarray(self.serial[:, 1] / n)

    def before(self, column: int) -> Int64s:
        """The reference's counts by bin."""
        return np.asarray(self.counted[column, : BINS + 1])

    def after(self, column: int) -> Int64s:
        """Counts by bin of the last rows, those since the evidence rose."""
        rows = int(min(RECENT, self.counts[WATCHED], max(self.counts[ROWS] - self.counts[SINCE], 16)))
        last = (int(self.counts[WATCHED]) - 1 - np.arange(rows)) % RECENT
        return np.bincount(self.recent[column, last], minlength=BINS + 1).astype(np.int64)


def no_evidence(columns: int, grid_rows: int) -> Evidence:
    """Nothing was seen."""
    made = Evidence(
        np.zeros(8, np.int64), np.zeros((columns, grid_rows)), np.zeros((columns, BINS)),
        np.zeros((columns, _ALL + 1), np.int64), np.zeros((columns, WAGERS)), np.zeros((columns, _GRIDS + 4)),
        np.zeros((columns, RECENT), np.int16), np.zeros((columns, RECENT), np.int16),
        np.zeros((columns, PARTS)), np.zeros(2),
    )  # fmt: skip
    made.restart()
    return made


def blamed(evidence: Floats, watched: int, alpha: float = 0.05) -> list[int]:
    """The columns that stand out, strongest first: e-BH at level alpha; the strongest alone where none does.

    >>> blamed(np.array([1e6, 3.0, 2e5]), watched=1000)
    [0, 2]
    """
    order = np.argsort(-evidence, kind="stable")
    values = evidence[order] / max(watched, 1)
    wanted = evidence.size / (alpha * np.arange(1, evidence.size + 1))
    passed = np.flatnonzero(values >= wanted)
    return [int(column) for column in order[: int(passed[-1]) + 1 if passed.size else 1]]


@kernel
def watch(
    values: Floats, offsets: Int64s, start: int, stop: int, warm: int, frozen_rows: int, serial_mode: int,
    run_length: float, seed: int, table: Floats, counts: Int64s, first: Floats, edges: Floats, counted: Int64s,
    fortunes: Floats, serial: Floats, recent: Small, parts: Small,
    shares: Floats, rise: Floats,
) -> int:  # fmt: skip
    """Takes rows from `start` up to `stop` until one raises the alarm; gives that row, or `stop`.

    values       float64[columns, rows], NaN for null
    frozen_rows  rows of the reference after which it grows no more
    serial_mode  0 raw, 1 whitened by the last value, 2 thinned
    """
    columns = values.shape[0]
    totals = np.empty(WAGERS, np.float64)
    grid_rows = first.shape[1]
    for i in range(start, stop):
        number = counts[ROWS]
        counts[ROWS] += 1
        counts[SERIAL] += 1
        if number < grid_rows:
            for j in range(columns):
                first[j, number] = values[j, i]
            if number == grid_rows - 1:
                widest = 0.0
                for j in range(columns):
                    phi = _phi(first[j], serial[j, _GRIDS:]) if serial_mode > 0 else 0.0
                    widest = max(widest, abs(phi))
                    serial[j, 5] = phi if serial_mode == 1 else 0.0
                    serial[j, 4] = first[j, grid_rows - 1]
                    _grid(first[j], serial[j, 5], edges[j])
                if serial_mode == 2 and widest > 0.05:
                    counts[STRIDE] = min(200, math.ceil(math.log(0.05) / math.log(min(widest, 0.985))))
            continue
        if counts[STRIDE] > 1:
            counts[SKIPPED] += 1
            if counts[SKIPPED] < counts[STRIDE]:
                continue
            counts[SKIPPED] = 0
        watched = counts[WATCHED]
        counts[WATCHED] += 1
        bets = watched >= warm - grid_rows
        for k in range(WAGERS):
            totals[k] = 0.0
        for j in range(columns):
            value = values[j, i]
            if serial[j, 5] != 0.0:
                residual = value - serial[j, 5] * serial[j, 4]
                serial[j, 4] = value
                value = residual
            b = _bin(edges[j], value)
            recent[j, watched % RECENT] = b
            known = counted[j]
            lower, n = 0, known[_ALL]
            for eight in range(_EIGHTS, _EIGHTS + (b >> 3)):
                lower += known[eight]
            for bb in range(b & ~7, b):
                lower += known[bb]
            p = (lower + _uniform(counts[SERIAL], j, seed) * (known[b] + 1)) / (n + 1)
            if n < frozen_rows:
                known[b] += 1
                known[_EIGHTS + (b >> 3)] += 1
                known[_ALL] += 1
            w = 1.7320508075688772 * (2.0 * p - 1.0)
            if not np.isnan(serial[j, 0]):
                serial[j, 1] += w * serial[j, 0]
                serial[j, 3] += 1.0
            serial[j, 0] = w
            if bets:
                wins, owned = table[min(int(p * CELLS), CELLS - 1)], fortunes[j]
                for k in range(FIXED):
                    fortune = (1.0 + owned[k]) * wins[k]
                    owned[k] = fortune
                    totals[k] += fortune
                part = min(int(p * PARTS), PARTS - 1)
                held = min(RECENT, watched - (warm - grid_rows))
                fortune = 1.0 + owned[FIXED]
                fortune *= PARTS * (shares[j, part] + _PRIOR) / (held + PARTS * _PRIOR)
                owned[FIXED] = fortune
                totals[FIXED] += fortune
                at = watched % RECENT
                if held == RECENT:
                    shares[j, parts[j, at]] -= 1.0
                parts[j, at] = part
                shares[j, part] += 1.0
        total = 0.0
        for k in range(WAGERS):
            total += WEIGHTS[k] * totals[k]
        total /= columns
        # Where the rise began that leads to an alarm: there the sum of what rows added to it was last below zero.
        if bets:
            rise[1] += math.log(total / (1.0 + rise[0]))
        rise[0] = total
        if rise[1] <= 0.0:
            rise[1] = 0.0
            counts[SINCE] = counts[ROWS]
            counts[SINCE_OFFSET] = offsets[i]
        if total >= run_length:
            return i
    return stop


@kernel
def _phi(values: Floats, grids: Floats) -> float:
    """Lag-one regression of a column on itself, kept below 1; pairs with a null are left out.

    grids  float64[4]: sums over the grids so far, each of which counts a tenth less than the next; this one is added

    An alarm begins a new level, and no new dependence: the few rows of one grid say little of that, so earlier ones
    count too. Each grid has its own mean, which makes phi too small by
    (1 + 3 phi) / rows (Kendall 1954; Marriott & Pope 1954): that is put back.
    """
    mean = n = 0.0
    for i in range(values.size):
        if not np.isnan(values[i]):
            mean += values[i]
            n += 1.0
    products = squares = 0.0
    if n >= 3.0:
        mean /= n
        for i in range(1, values.size):
            if not np.isnan(values[i]) and not np.isnan(values[i - 1]):
                products += (values[i] - mean) * (values[i - 1] - mean)
                squares += (values[i - 1] - mean) ** 2
        grids[0] = _KEPT * grids[0] + products
        grids[1] = _KEPT * grids[1] + squares
        grids[2] = _KEPT * grids[2] + n
        grids[3] = _KEPT * grids[3] + 1.0
    if grids[1] <= 0.0:
        return 0.0
    phi, rows = grids[0] / grids[1], grids[2] / grids[3]
    # What chance alone makes of so many rows is no correlation: taking it out would only break ties.
    if abs(phi) < 3.0 / math.sqrt(grids[2]):
        return 0.0
    return float(min(0.999, max(-0.999, (phi + 1.0 / rows) / (1.0 - 3.0 / max(rows, 6.0)))))


@kernel
def _grid(values: Floats, phi: float, edges: Floats) -> None:
    """Up to 63 edges at quantiles of the values, or of what is left of each when phi times the one before is taken."""
    kept = np.empty(values.size, np.float64)
    n = 0
    for i in range(1 if phi != 0.0 else 0, values.size):
        value = values[i] - phi * values[i - 1] if phi != 0.0 else values[i]
        if not np.isnan(value):
            kept[n] = value
            n += 1
    for k in range(edges.size):
        edges[k] = np.inf
    if n == 0:
        return
    ordered = np.sort(kept[:n])
    m = 0
    for k in range(edges.size - 1):
        value = ordered[min(n - 1, (k + 1) * n // edges.size)]
        if m == 0 or value > edges[m - 1]:
            edges[m] = value
            m += 1


@kernel
def _bin(edges: Floats, value: float) -> int:
    """0 for null; else 1 + the number of edges below the value."""
    if np.isnan(value):
        return 0
    # The last edge is infinite, so six halvings of 64 find the place without a branch.
    place = 0
    step = edges.size >> 1
    while step > 0:
        place += step * (edges[place + step - 1] < value)
        step >>= 1
    return place + 1


@kernel
def _uniform(serial: int, column: int, seed: int) -> float:
    """A number in [0, 1) that the row's place decides (splitmix64)."""
    x = np.uint64(serial) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(column) * np.uint64(0xD1B54A32D192ED03)
    x += np.uint64(seed) * np.uint64(0x2545F4914F6CDD1D)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return float(x >> np.uint64(11)) * (1.0 / 9007199254740992.0)
