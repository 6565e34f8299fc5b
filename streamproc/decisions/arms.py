"""What a bandit knows of its arms, and with which chances it draws them.

A reward in [0, 1] counts as so much of a success, so what is believed of an arm's mean is a Beta distribution (Agrawal
& Goyal 2012). Thompson sampling draws each arm with the chance that it is the best; that chance is computed here once
for many rows and then drawn from, and not, as usual, a mean drawn for each arm and the largest taken: so the
propensity that is written down is exactly the one by which the arm was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.kernels import kernel
from streamproc.operators.mean_bounds import mean_bounds
from streamproc.operators.pending import LEARN, PREDICT
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]
Policy = Literal["thompson", "greedy"]

ARMS: Final = Schema((
    Field("rewards", pl.Int64()), Field("arm", pl.String()), Field("n", pl.Int64()), Field("propensity", pl.Float64()),
    *(Field(name, pl.Float64(), nullable=True) for name in ("mean", "value", "low", "high")),
    Field("given_up", pl.Int64()),
))  # fmt: skip
"""Columns of the side "arms", a row for each arm at each report.

n           rewards known of rows that got the arm; propensity: the chance with which it is drawn now
mean        of those rewards, which is biased: an arm that began badly is drawn less, and stays so
value       what the mean reward would be if every row got the arm: each reward over its propensity, without bias;
            low, high: its bounds, for all arms at all moments at once (95 %)
given_up    rows whose horizon ended without a reward
"""
SURE: Final = 0.05
_NODES: Final = 64
_REWARDS, _GIVEN_UP = 0, 1
_N, _SUM, _VALUE, _VARIATION = 0, 1, 2, 3


@dataclass(slots=True)
class Arms:
    """Of k arms.

    beliefs    float64[k, 2]: successes and failures that are remembered
    shares     float64[k]: the chance with which each is drawn
    figures    float64[k, 4]: rewards and their sum; the value, and its variation
    numbers    int64[2]: rewards known, rows given up
    """

    beliefs: Floats
    shares: Floats
    figures: Floats
    numbers: Int64s

    @property
    def rewards(self) -> int:
        """Rewards known so far."""
        return int(self.numbers[_REWARDS])

    def report(self, names: tuple[str, ...], *, least: float, largest: float, error: float = SURE) -> pl.DataFrame:
        """What each arm is worth now, in units of the reward; `error` is that of all bounds at all moments."""
        rows = []
        for k, (name, figures) in enumerate(zip(names, self.figures.tolist(), strict=True)):
            low, high = mean_bounds(
                figures[_VALUE], self.rewards, figures[_VARIATION], width=1.0 / least, error=error / len(names)
            )
            mean = largest * figures[_SUM] / figures[_N] if figures[_N] else None
            worth = (largest * figures[_VALUE], largest * max(low, 0.0), largest * min(high, 1.0))
            drawn = int(figures[_N]), float(self.shares[k])
            rows.append((self.rewards, name, *drawn, mean, *worth, int(self.numbers[_GIVEN_UP])))
        return pl.DataFrame(rows, ARMS.polars(), orient="row")


def no_rewards(arms: int) -> Arms:
    """Nothing is known: all arms are drawn alike."""
    return Arms(np.zeros((arms, 2)), np.full(arms, 1.0 / arms), np.zeros((arms, 4)), np.zeros(2, np.int64))


def drawn_shares(beliefs: Floats, policy: Policy, least: float) -> Floats:
    """The chances with which arms are drawn from now on; each has `least`, together they make 1.

    Thompson's chance that an arm is the best is a mean over 64 quantiles of what is believed of it.

    >>> drawn_shares(np.array([[9.0, 1.0], [1.0, 9.0]]), "greedy", 0.1).tolist()
    [0.9, 0.1]
    """
    from scipy.special import betainc, betaincinv

    a, b = beliefs[:, 0] + 1.0, beliefs[:, 1] + 1.0
    best = np.zeros(a.size)
    if policy == "greedy":
        best[int(np.argmax(a / (a + b)))] = 1.0
    else:
        at = (np.arange(_NODES) + 0.5) / _NODES
        for i in range(a.size):
            means = betaincinv(a[i], b[i], at)
            below = [betainc(a[j], b[j], means) for j in range(a.size) if j != i]
            best[i] = np.prod(below, axis=0).mean()
        best /= best.sum()
    return np.asarray((1.0 - a.size * least) * best + least)


@kernel
def play(
    start: int, wait: int, kinds: Int64s, lefts: Int64s, places: Int64s, rewards: Floats, uniform: Floats, keep: float,
    kept: Floats, beliefs: Floats, shares: Floats, figures: Floats, numbers: Int64s, arms: Int64s, chances: Floats,
) -> int:  # fmt: skip
    """Goes through events until `wait` more rewards are known; gives the event after the last one.

    rewards  of an event, in [0, 1]; uniform: of a row, a number in [0, 1); keep: what is remembered at each reward
    kept     float64[places, 2]: arm and propensity of rows that wait
    arms, chances  of the batch's rows, out; an arm that is there already (not -1) stands, with its chance
    """
    e = start
    while e < kinds.size and wait > 0:
        place = places[e]
        if kinds[e] == PREDICT:
            arm, upper = arms[lefts[e]], shares[0]
            if arm >= 0:
                shares[arm] = chances[lefts[e]]
            else:
                arm = 0
                while arm < shares.size - 1 and uniform[lefts[e]] >= upper:
                    arm += 1
                    upper += shares[arm]
            kept[place, 0], kept[place, 1] = arm, shares[arm]
            arms[lefts[e]], chances[lefts[e]] = arm, shares[arm]
        elif kinds[e] == LEARN:
            arm, reward = int(kept[place, 0]), rewards[e]
            numbers[_REWARDS] += 1
            n = float(numbers[_REWARDS])
            for k in range(shares.size):
                beliefs[k, 0] *= keep
                beliefs[k, 1] *= keep
                off = (reward / kept[place, 1] if k == arm else 0.0) - figures[k, _VALUE]
                figures[k, _VARIATION] += off * off
                figures[k, _VALUE] += off / n
            beliefs[arm, 0] += reward
            beliefs[arm, 1] += 1.0 - reward
            figures[arm, _N] += 1.0
            figures[arm, _SUM] += reward
            wait -= 1
        else:
            numbers[_GIVEN_UP] += 1
        e += 1
    return e
