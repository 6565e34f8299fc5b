"""Evidence that a number has lately been above zero on average, which may be looked at after every one of them.

For gains g >= -1 the product of 1 + tilt * g, tilt < 1, is a bet on them. Divided by the product of 1 + tilt * mean, of
each gain's mean given all that was known before, it is worth 1 on average; and that product is at most exp(tilt * sum
of means). So where means do not add up to more than zero the bet is worth at most 1 on average. It asks nothing else:
gains may depend on each other in any way, and their means may move. Six tilts are held at once, since the best one is
about mean over mean square.

What was better for long and is worse now, or the other way round, must be seen soon: so a bet is begun anew at every
32nd gain, with a part of the stake. Parts add up to 1 over all bets ever (1 / (1 + log2 n) is what is left before the
n-th), so the sum of all bets reaches 1 / error with a chance of at most `error`, ever (Ville), unless there is a span
up to now over which the means do add up to more than zero. The price of not knowing where that span begins is the
logarithm of its part. Source: Waudby-Smith & Ramdas 2024 (betting); Choe & Ramdas 2024 (comparing forecasters); Shin,
Ramdas & Rinaldo 2024 (restarts).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.kernels import kernel

Floats = npt.NDArray[np.float64]

TILTS: Final = np.array([1 / 32, 1 / 12, 1 / 5, 2 / 5, 2 / 3, 9 / 10])
BEGINS: Final = 32
"""A bet begins at the first of so many gains."""
HELD: Final = 100.0
"""Evidence counts up to so many times what is wanted, so that what was shown long ago is soon forgotten."""


@kernel
def part_at(n: int) -> float:
    """The part of the stake that is laid at the n-th gain, n from 1 on: nothing where no bet begins.

    >>> laid = sum(part_at(n) for n in range(1, 32 * 1023 + 1))
    >>> round(laid + 1 / (1 + 10), 12)  # the rest is for bets from the 1024th on
    1.0
    """
    if (n - 1) % BEGINS > 0:
        return 0.0
    number = float((n - 1) // BEGINS + 1)
    return 1.0 / (1.0 + math.log2(number)) - 1.0 / (1.0 + math.log2(number + 1.0))


@kernel
def take(bets: Floats, part: float, gain: float, wanted: float) -> None:
    """One more gain.

    bets  float64[tilts]: what all bets are worth by tilt, changed; part: `part_at` its number
    """
    for k in range(TILTS.size):
        bets[k] = min((bets[k] + part) * (1.0 + TILTS[k] * gain), HELD * wanted)


@kernel
def evidence(bets: Floats) -> float:
    """All tilts together: what is compared with 1 / error."""
    total = 0.0
    for k in range(TILTS.size):
        total += bets[k]
    return total / TILTS.size
