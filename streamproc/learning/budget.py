"""Who leaves a race that costs more than it may.

It is looked at every `measure` labels, after exactly that label, so that snapshots have the same bytes however the
stream was cut. Bytes are hard: they are kept at once. Microseconds are kept within a few looks: half of the models may
leave at each, those with the largest loss since the last one, so that the better a model is the more labels it gets to
show it (successive halving: Karnin, Koren & Somekh 2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamproc.learning.race import RaceRules
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leaving:
    """A model that leaves, and why."""

    model: int
    reason: str


def leaving(
    rules: RaceRules, champion: int, runs: npt.NDArray[np.bool_], losses: Floats, sizes: Int64s
) -> tuple[int, list[Leaving]]:
    """The champion afterwards, and who leaves, in this order.

    losses  float64[k]: since the last look; sizes: int64[k], bytes of each snapshot, -1 where it is not measured

    The champion leaves only where it alone takes more than the budget and another does not: then the one with the
    least loss follows it. Of two equal losses the model named later counts as the larger.
    """
    here = [int(m) for m in np.flatnonzero(runs)]
    began, gone = len(here), []

    def go(model: int, reason: str) -> None:
        here.remove(model)
        gone.append(Leaving(model, reason))

    def worst() -> int:
        return max((m for m in here if m != champion), key=lambda m: (losses[m], m))

    too_large = [m for m in here if sizes[m] > rules.budget_bytes]
    if champion in too_large and len(too_large) < len(here):
        champion = min((m for m in here if m not in too_large), key=lambda m: (losses[m], m))
    for model in too_large:
        if model != champion:
            go(model, f"its snapshot takes {sizes[model]} bytes, the budget is {rules.budget_bytes:.0f}")
    while len(here) > 1 and sum(int(sizes[m]) for m in here) > rules.budget_bytes:
        taken = sum(int(sizes[m]) for m in here)
        go(worst(), f"snapshots take {taken} bytes, the budget is {rules.budget_bytes:.0f}; it lost most")
    for _ in range(began // 2):
        cost = sum(rules.costs_us[m] for m in here) if rules.costs_us else 0.0
        if len(here) > 1 and cost > rules.budget_us:
            go(worst(), f"a row costs {cost:g} us, the budget is {rules.budget_us:g}; it lost most")
    return champion, gone
