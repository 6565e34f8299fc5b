"""Counts of lags in buckets: quantiles in constant memory, the same whatever the order of what was added."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from streamproc.ports import Int64s

_EXACT = 256
_STEPS = 128


@dataclass(slots=True)
class Lags:
    """Lags in µs by bucket: exact below 256, then 128 buckets for each doubling.

    A quantile is never below the true one, and at most 1/128 of it above. Lags below zero count as zero: a record
    cannot come before it happens, so that is a clock that is wrong, and the engine's business where it is far wrong.
    """

    counts: dict[int, int] = field(default_factory=dict)
    rows: int = 0
    most: int = 0

    def add(self, lags: Int64s) -> None:
        """Adds lags.  O(n log n)."""
        if not lags.size:
            return
        lags = np.maximum(lags, 0)
        self.rows += lags.size
        self.most = max(self.most, int(lags.max()))
        buckets, counts = np.unique(_buckets(lags), return_counts=True)
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def quantile(self, share: float) -> int:
        """The least lag that `share` of the rows do not exceed, in µs; 0 without rows.

        >>> lags = Lags()
        >>> lags.add(np.arange(1, 101))
        >>> lags.quantile(0.5), lags.quantile(0.99), lags.quantile(1.0)
        (50, 99, 100)
        """
        rank, passed = math.ceil(share * self.rows), 0
        for bucket in sorted(self.counts):
            passed += self.counts[bucket]
            if passed >= rank:
                return min(_upper(bucket), self.most)
        return 0


def _buckets(lags: Int64s) -> Int64s:
    # The eight leading bits and their place; a float's own, so that nothing is left to a logarithm.
    share, power = np.frexp(lags.astype(np.float64))
    leading = (share * 2 * _STEPS).astype(np.int64) - _STEPS
    return np.where(lags < _EXACT, lags, _EXACT + (power.astype(np.int64) - 9) * _STEPS + leading)


def _upper(bucket: int) -> int:
    if bucket < _EXACT:
        return bucket
    power, leading = divmod(bucket - _EXACT, _STEPS)
    return ((leading + _STEPS + 1) << (power + 1)) - 1
