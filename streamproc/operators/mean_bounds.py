"""Bounds of a running mean that hold at every moment at once, and are narrow where values vary little.

An empirical Bernstein bound: deviations of values from what was expected of them are summed, and the sum of their
squares, each from the running mean before it, says how far it may have gone. It asks only that values lie within a
known width; they may depend on each other and their means may move: what is bounded is the mean of the means that each
value had, given those before it. Source: Howard, Ramdas, McAuliffe & Sekhon 2021, theorem 4 with the stitched boundary
of theorem 1 (eta = 2, s = 1.4, m = 1).
"""

from __future__ import annotations

import math
from typing import Final

_ZETA: Final = 3.1055
"""The sum of 1 / k ** 1.4."""
_K1: Final = (2.0**0.25 + 2.0**-0.25) / math.sqrt(2.0)
_K2: Final = (math.sqrt(2.0) + 1.0) / 2.0


def mean_bounds(mean: float, n: float, variation: float, *, width: float, error: float) -> tuple[float, float]:
    """Between what the mean of n values lies, at every n at once, with chance 1 - error.

    variation  the sum of squared differences of each value from the mean of those before it, 0 before the first
    width      of the interval in which every value lies; 0 must lie in it too

    >>> low, high = mean_bounds(0.02, 10_000.0, 100.0, width=2.0, error=0.05)
    >>> round(low, 4), round(high, 4)
    (0.0144, 0.0256)
    >>> mean_bounds(0.0, 0.0, 0.0, width=1.0, error=0.05)
    (-inf, inf)
    """
    if n <= 0:
        return -math.inf, math.inf
    v = max(variation / (width * width), 1.0)
    ell = 1.4 * math.log(math.log2(v) + 1.0) + math.log(_ZETA * 2.0 / error)
    radius = width * (_K1 * math.sqrt(v * ell) + _K2 * ell) / n
    return mean - radius, mean + radius
