"""The ledger: one fate for every unit that a task ever read.

Units are numbered by the task (their *account*). A step settles the fates of its own units and of those that an
operator released; what some operator still holds stays in the ledger until its last copy has gone. The best fate over a
unit's paths counts: emitted > held > late > dead-lettered; what has none of them was filtered (PROTOCOL 4.4). A unit
that left one path as a dead letter is counted as one although another path filtered it: it stands in that topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.ports import Int64s

DEAD: Final = 0
FILTERED: Final = 1
LATE: Final = 2
EMITTED: Final = 4
FATES: Final = {"emitted": EMITTED, "filtered": FILTERED, "late": LATE, "dead_lettered": DEAD}
_UNSETTLED: Final = -1
_CODES: Final = 5


@kernel
def _note(accounts: Int64s, first: int, code: int, fates: Int64s) -> bool:
    """Enters a fate for the step's own units, the best one; whether there are accounts of earlier steps."""
    earlier = False
    for row in range(accounts.size):
        own = accounts[row] - first
        if own >= 0:
            if code == DEAD or code > fates[own]:
                fates[own] = code
        elif accounts[row] >= 0:
            earlier = True
    return earlier


@kernel
def _count(inputs: Int64s, fates: Int64s, counted: npt.NDArray[np.bool_], out: Int64s) -> None:
    for row in range(inputs.size):
        if counted[row]:
            out[inputs[row], fates[row]] += 1


def _none() -> Int64s:
    return np.empty(0, np.int64)


@dataclass(slots=True)
class Ledger:
    """Counts of settled units by (input, fate), and the units that are still held.

    counts    int64[inputs, 5]  settled units by fate code (code 3 is unused: held units are the rows below)
    accounts  int64[h] ascending: units of which an operator holds copies; with their input, number of copies, and the
              best fate that another path already gave them (-1: none)
    """

    counts: Int64s
    next_account: int = 0
    accounts: Int64s = field(default_factory=_none)
    inputs: Int64s = field(default_factory=_none)
    copies: Int64s = field(default_factory=_none)
    best: Int64s = field(default_factory=_none)

    def summary(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """Per input name: in, emitted, held, filtered, late, dead_lettered; always in = the sum of the others."""
        out: dict[str, dict[str, int]] = {}
        for number, name in enumerate(names):
            mine = self.inputs == number
            waiting = int((mine & (self.best < EMITTED)).sum())
            row = {"in": 0, "emitted": int(self.counts[number, EMITTED]) + int(mine.sum()) - waiting, "held": waiting}
            row.update({fate: int(self.counts[number, code]) for fate, code in FATES.items() if fate != "emitted"})
            row["in"] = sum(row.values())
            before = out.get(name)
            out[name] = row if before is None else {fate: before[fate] + row[fate] for fate in row}
        return out


@dataclass(slots=True)
class StepFates:
    """What a step learned about its units; `settle` enters it in the ledger."""

    first: int
    inputs: Int64s
    kinds: Int64s
    input_count: int
    emitted: list[Int64s] = field(default_factory=list)
    late: list[Int64s] = field(default_factory=list)
    dead: list[Int64s] = field(default_factory=list)

    def settle(self, ledger: Ledger, held: Sequence[Int64s], released: Sequence[Int64s]) -> Ledger:
        """The ledger after the step.

        Units whose kind is a mark (2) carry no row and are not counted. Cost O(units + held units).
        """
        n = self.inputs.size
        fates = np.full(n, FILTERED, np.int64)
        touched: list[tuple[Int64s, int]] = []
        for code, lists in ((DEAD, self.dead), (LATE, self.late), (EMITTED, self.emitted)):
            for accounts in lists:
                if _note(frozen(accounts), self.first, code, fates):
                    touched.append((accounts[(accounts >= 0) & (accounts < self.first)], code))
        counted = self.kinds != 2
        if not held and not released and not touched and not ledger.accounts.size:
            return replace(ledger, counts=ledger.counts + self._tally(fates, counted), next_account=self.first + n)
        return self._settle_held(ledger, held, released, fates, counted, touched)

    def _tally(self, fates: Int64s, counted: npt.NDArray[np.bool_]) -> Int64s:
        """Units by (input, fate)."""
        out = np.zeros((self.input_count, _CODES), np.int64)
        _count(self.inputs, fates, counted, out)
        return out

    def _settle_held(
        self,
        ledger: Ledger,
        held: Sequence[Int64s],
        released: Sequence[Int64s],
        fates: Int64s,
        counted: npt.NDArray[np.bool_],
        touched: list[tuple[Int64s, int]],
    ) -> Ledger:
        holds = np.concatenate([_none(), *held])
        frees = np.concatenate([_none(), *released])
        new = np.unique(holds[holds >= self.first])
        accounts = np.concatenate([ledger.accounts, new])
        inputs = np.concatenate([ledger.inputs, self.inputs[new - self.first]])
        copies = np.concatenate([ledger.copies, np.zeros(new.size, np.int64)])
        best = np.concatenate([ledger.best, np.full(new.size, _UNSETTLED, np.int64)])
        np.add.at(copies, np.searchsorted(accounts, holds), 1)
        np.subtract.at(copies, np.searchsorted(accounts, frees), 1)
        for old, code in touched:
            np.maximum.at(best, np.searchsorted(accounts, old), code)
        own = fates[new - self.first]
        # No path says that it filters: a unit that is held has only what its other paths said, dead letters included.
        best[accounts.size - new.size :] = np.maximum(
            best[accounts.size - new.size :], np.where(own == FILTERED, _UNSETTLED, own)
        )
        direct = counted.copy()
        direct[new - self.first] = False
        counts = ledger.counts + self._tally(fates, direct)
        gone = copies <= 0
        settled = np.where(best[gone] == _UNSETTLED, FILTERED, best[gone])
        np.add.at(counts, (inputs[gone], settled), 1)
        stay = ~gone
        return Ledger(counts, self.first + self.inputs.size, accounts[stay], inputs[stay], copies[stay], best[stay])
