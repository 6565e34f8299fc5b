"""Tests on windows: Kolmogorov-Smirnov, PSI, chi-square, Wasserstein, with thresholds that know how much was seen.

Fixed thresholds ("PSI above 0.1") alarm by sample size: on clean data nearly always at 100 rows, never at 1,000. Here
a window alarms where its figure would be exceeded by chance once in `run_length` rows, over all columns: the chance is
window / run_length, split over columns. KS and chi-square have their distributions (SciPy); PSI is chi-square times
(1/n + 1/m); the distance of Wasserstein is compared with those of random splits of both samples put together, by a
generator whose seed is the window's number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamproc.batch import C1, Batch, Meta
from streamproc.contracts.model import Schema
from streamproc.drifting.alarms import ALARM, absorb_all, alarm_batch, picture, place
from streamproc.drifting.columns import ranked, require_columns
from streamproc.operator import Output, StepTime, StreamType

Floats = npt.NDArray[np.float64]
TESTS: Final = ("ks", "psi", "chi2", "wasserstein")
_BINS: Final = 10
_SPLITS: Final = 200
_LARGEST: Final = 1e100


@dataclass(slots=True)
class WindowState:
    """Reference, the window that fills, how full both are, and the offset at which the window began."""

    reference: Floats
    window: Floats
    known: int
    filled: int
    first_offset: int
    windows: int
    texts: list[list[str]]


@dataclass(frozen=True, slots=True)
class WindowTest:
    """Compares windows with the first rows, see `drift`."""

    columns: tuple[str, ...]
    test: str
    window: int
    reference: int
    run_length: int
    seed: int

    @property
    def verb(self) -> str:
        return "drift"

    def schema(self, *inputs: StreamType) -> StreamType:
        """Alarms.  Raises UnknownColumn, TypeMismatch."""
        require_columns(inputs[0].schema, self.columns)
        return StreamType(ALARM)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (frozenset(self.columns),)

    def open(self, *inputs: StreamType) -> WindowState:
        k = len(self.columns)
        return WindowState(
            np.zeros((k, self.reference)), np.zeros((k, self.window)), 0, 0, 0, 0, [[] for _ in self.columns]
        )

    def process(self, state: WindowState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[WindowState, Output]:
        (batch,) = inputs
        values = np.empty((len(self.columns), len(batch)))
        for j, name in enumerate(self.columns):
            values[j] = ranked(batch.frame[name], state.texts[j])
        alarms, at, row = [], [], 0
        while row < len(batch):
            if state.known < self.reference:
                taken = min(self.reference - state.known, len(batch) - row)
                state.reference[:, state.known : state.known + taken] = values[:, row : row + taken]
                state.known += taken
            else:
                if not state.filled:
                    state.first_offset = int(batch.meta[row, C1])
                taken = min(self.window - state.filled, len(batch) - row)
                state.window[:, state.filled : state.filled + taken] = values[:, row : row + taken]
                state.filled += taken
                if state.filled == self.window:
                    alarm = self._judged(state, batch.meta, row + taken - 1)
                    if alarm is not None:
                        alarms.append(alarm)
                        at.append(row + taken - 1)
            row += taken
        absorb_all(batch.meta, time)
        return state, Output(alarm_batch(alarms, at, batch.meta, time))

    def _judged(self, state: WindowState, meta: Meta, row: int) -> dict[str, Any] | None:
        """The alarm of a full window, which is emptied, or None."""
        state.windows += 1
        state.filled = 0
        alpha = min(0.5, self.window / self.run_length / len(self.columns))
        found = [
            figure(self.test, state.reference[j], state.window[j], alpha, seed=self.seed + state.windows)
            for j in range(len(self.columns))
        ]
        order = sorted(range(len(found)), key=lambda j: -found[j][0] / max(found[j][1], 1e-300))
        over = [j for j in order if found[j][0] > found[j][1]]
        if not over:
            return None
        first = over[0]
        partition, offset = place(meta, row)
        edges = _edges(state.reference[first], 16)
        alarm = {
            "detector": self.test, "columns": [self.columns[j] for j in over], "statistic": found[first][0],
            "evidence": found[first][0], "threshold": found[first][1], "run_length": self.run_length,
            "promise": "holds if rows are independent: it was not measured", "autocorrelation": None,
            "rows": self.reference + state.windows * self.window, "partition": partition,
            "first_offset": state.first_offset, "last_offset": offset,
            "picture": picture(
                self.columns[first], _binned(state.reference[first], edges), _binned(state.window[first], edges)
            ),
        }  # fmt: skip
        state.known = 0  # the new state is the reference from here on
        return alarm


def figure(test: str, reference: Floats, window: Floats, alpha: float, *, seed: int) -> tuple[float, float]:
    """A test's figure for two samples, and what it exceeds by chance with probability alpha; NaN counts as a value.

    >>> same = np.arange(100.0)
    >>> value, threshold = figure("ks", same, same, 0.01, seed=0)
    >>> value, round(threshold, 2)
    (0.0, 0.23)
    """
    from scipy import stats

    a = np.where(np.isnan(reference), -1e300, reference)
    b = np.where(np.isnan(window), -1e300, window)
    n, m = a.size, b.size
    if test == "ks":
        statistic = float(stats.ks_2samp(a, b, method="asymp").statistic)
        # Ties make the distance smaller than the distribution says, so the threshold errs towards silence.
        return statistic, float(stats.kstwobign.isf(alpha) * np.sqrt((n + m) / (n * m)))
    if test in ("psi", "chi2"):
        edges = _edges(a, _BINS)
        before, after = _binned(a, edges), _binned(b, edges)
        there = before + after > 0
        before, after = before[there].astype(np.float64), after[there].astype(np.float64)
        degrees = max(before.size - 1, 1)
        if test == "chi2":
            if before.size < 2:
                return 0.0, float(stats.chi2.isf(alpha, 1))
            statistic = float(stats.chi2_contingency(np.stack((before, after)), correction=False).statistic)
            return statistic, float(stats.chi2.isf(alpha, degrees))
        p, q = (before + 0.5) / (n + 0.5 * before.size), (after + 0.5) / (m + 0.5 * before.size)
        return float(((p - q) * np.log(p / q)).sum()), float(stats.chi2.isf(alpha, degrees) * (1.0 / n + 1.0 / m))
    a, b = _measurable(reference), _measurable(window)
    n = a.size
    if min(n, b.size) < 10:
        return 0.0, float("inf")
    pooled = np.concatenate((a, b))
    statistic = _wasserstein(a, b)
    random = np.random.Generator(np.random.PCG64(seed))
    splits = np.empty(_SPLITS)
    for i in range(_SPLITS):
        mixed = random.permutation(pooled)
        splits[i] = _wasserstein(mixed[:n], mixed[n:])
    # Beyond what splits can show, the tail is that of a normal with their mean and spread, widened by a quarter.
    spread = float(stats.norm.isf(alpha)) * float(splits.std()) * 1.25
    return statistic, float(splits.mean()) + spread


def _measurable(values: Floats) -> Floats:
    """Values between which there is a distance."""
    return values[np.abs(values) < _LARGEST]


def _wasserstein(a: Floats, b: Floats) -> float:
    from scipy import stats

    return float(stats.wasserstein_distance(a, b))


def _edges(values: Floats, bins: int) -> Floats:
    finite = values[np.isfinite(values) & (values > -1e300)]
    if not finite.size:
        return np.zeros(1)
    edges: Floats = np.unique(np.quantile(finite, np.arange(1, bins) / bins, method="lower"))
    return edges


def _binned(values: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    """Counts of nulls, then of each bin."""
    there = np.where(np.isnan(values), -1e300, values)
    bins = np.where(there <= -1e300, 0, 1 + np.searchsorted(edges, there, side="left"))
    return np.bincount(bins, minlength=edges.size + 2).astype(np.int64)
