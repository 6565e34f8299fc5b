"""Whether a feature is computed at each row, or when somebody reads it: costs that are counted, and a change of ways.

**Units.** One is what a row costs a feature in a block that is computed as it comes. A call of the operator has a fixed
part, `CALL` a feature. A kept row that is taken in again, for what a later one sees, costs `RETAKEN` a feature; an
aggregate that scans its window costs `SCANNED` for each event of it, for each row that is read. So a block of n rows
costs a precomputed feature CALL + n, and a read of a key with h rows in reach costs one on demand CALL + RETAKEN h,
unless it was read since the key's last row: then both ways look it up. Nothing is timed: the same rows and reads, in
the same order, give the same costs and the same choices. `python -m benchmarks.features --serving` measures the units;
a change is charged with ten calls where it costs one or two, for the sake of patience.

**When to change.** As one rents skis until the rent would have bought them: each feature notes by how much the way that
it goes has cost more than the other one since the difference was least (its *regret*, never below zero). It wants to
change once its regret pays for its own change: a plan and a pass made anew (`CHANGE`), and catching up with all kept
rows. Those that want to change do so together, once their regrets pay for the common pass to be made anew: for those
that change and those that stay in it. Where both ways cost the same, the regret wanders, a call up or down at a time,
and takes some (CHANGE / CALL)^2 steps to get there: that is the hysteresis.

**Bound.** With changes as they are charged, features that are read alike cost at most three times what the best changes
in hindsight would have cost, and a constant: 2n - 1 for n = 2 states, which no deterministic rule betters (Borodin,
Linial and Saks, An optimal on-line algorithm for metrical task systems, 1992). So beside the best way that never
changes it is three times too, and as changes are cheaper than charged, little more than twice. A feature that goes
alone waits until it would have paid for all others in the pass too. Where phases are long beside a change, the cost
goes to that of the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CALL: Final = 1_500.0
RETAKEN: Final = 0.25
SCANNED: Final = 1.25
CHANGE: Final = 15_000.0
PRECOMPUTED: Final = "precomputed"
ON_DEMAND: Final = "on demand"


@dataclass(slots=True)
class Account:
    """What the features of a part cost.

    features     how many they are
    scans        the share of its key's kept rows that each row which is read scans, over all of them
    way          how they are computed now
    precomputed, on_demand  what they would have cost had they gone one way only
    spent        what they did cost, changes included
    changes      how often they changed
    regret       by how much more the way they go has cost than the other one, since that was least
    """

    features: int
    scans: float
    way: str = ON_DEMAND
    precomputed: float = 0.0
    on_demand: float = 0.0
    spent: float = 0.0
    changes: int = 0
    regret: float = 0.0

    def wrote(self, rows: int, seen: int) -> None:
        """A block came; `seen` are the kept rows of their keys, over all rows."""
        cost = self.features * (CALL + rows) + SCANNED * self.scans * seen
        self.precomputed += cost
        self._lived(cost, self.way == PRECOMPUTED)

    def read(self, held: int) -> None:
        """Keys with so many kept rows were read in one call, for the first time since their newest row."""
        cost = self.features * CALL + self._retaken(held)
        self.on_demand += cost
        self._lived(cost, self.way == ON_DEMAND)

    def change_cost(self, kept: int, partitions: int) -> float:
        """What it costs to be in a pass that is made anew, and catches up with all kept rows."""
        return self.features * (CHANGE + partitions * CALL) + self._retaken(kept)

    def change(self) -> None:
        """Goes the other way from now on."""
        self.way = ON_DEMAND if self.way == PRECOMPUTED else PRECOMPUTED
        self.changes += 1
        self.regret = 0.0

    def _retaken(self, rows: int) -> float:
        return (self.features * RETAKEN + SCANNED * self.scans) * rows

    def _lived(self, cost: float, paid: bool) -> None:
        if paid:
            self.spent += cost
        self.regret = max(0.0, self.regret + (cost if paid else -cost))


def changing(accounts: Sequence[Account], kept: int, partitions: int) -> list[int]:
    """Places of those that change now."""
    costs = [one.change_cost(kept, partitions) for one in accounts]
    wanting = [place for place, one in enumerate(accounts) if one.regret >= costs[place]]
    if not wanting:
        return []
    passing = {place for place, one in enumerate(accounts) if one.way == PRECOMPUTED} | set(wanting)
    regrets = sum(accounts[place].regret for place in wanting)
    return wanting if regrets >= sum(costs[place] for place in sorted(passing)) else []
