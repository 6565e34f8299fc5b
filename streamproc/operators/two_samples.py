"""Are two samples of one distribution? Kolmogorov-Smirnov, PSI, chi-square, Wasserstein, by thresholds that know n.

KS and chi-square have their distributions (SciPy); PSI is chi-square times (1/n + 1/m); the distance of Wasserstein is
compared with those of random splits of both samples put together, by a generator whose seed is given.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
TESTS: Final = ("ks", "psi", "chi2", "wasserstein")
_BINS: Final = 10
_SPLITS: Final = 200
_LARGEST: Final = 1e100


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
        edges = edges_of(a, _BINS)
        before, after = binned(a, edges), binned(b, edges)
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


def edges_of(values: Floats, bins: int) -> Floats:
    """Inner edges of bins that hold equally many of the finite values."""
    finite = values[np.isfinite(values) & (values > -1e300)]
    if not finite.size:
        return np.zeros(1)
    edges: Floats = np.unique(np.quantile(finite, np.arange(1, bins) / bins, method="lower"))
    return edges


def binned(values: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    """Counts of nulls, then of each bin."""
    there = np.where(np.isnan(values), -1e300, values)
    bins = np.where(there <= -1e300, 0, 1 + np.searchsorted(edges, there, side="left"))
    return np.bincount(bins, minlength=edges.size + 2).astype(np.int64)
