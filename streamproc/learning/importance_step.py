"""Importance as it is measured: which rows are asked about and with whose values, and what came of it.

Of the rows asked about the last 256 are remembered. Each input of the next one takes the value that one of them had,
which a hash of its coordinates and the input chooses. Both are known before any model is asked, so a whole batch is
prepared at once; models are asked where they score the row, and what they said is kept with the row until its label
comes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import C0, C1, C2, C3, Meta
from streamproc.hashing import mix64
from streamproc.kernels import kernel
from streamproc.learning.importance import IMPORTANCE, Importance, proposal
from streamproc.operators.mean_bounds import mean_bounds
from streamproc.operators.pending import LEARN, PREDICT, Events
from streamproc.operators.reports import Side
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]

DONORS: Final = 256
"""Rows whose values may take a place."""
_N, _MEAN, _VARIATION, _RECENT = 0, 1, 2, 3


@dataclass(slots=True)
class ImportanceState:
    """What was asked, and what came of it.

    ring     float64[256, inputs]: inputs of the last rows asked about, the row numbered s at s % 256
    asked    int64[1]: rows asked about so far
    sums     float64[models, inputs, 4]: rows, mean difference of losses, its variation, the recent mean
    """

    ring: Floats
    asked: Int64s
    sums: Floats


def no_importance(models: int, inputs: int) -> ImportanceState:
    """Nothing was asked."""
    return ImportanceState(np.zeros((DONORS, inputs)), np.zeros(1, np.int64), np.zeros((models, inputs, 4)))


@dataclass(frozen=True, slots=True)
class Questions:
    """What is to be asked about the rows of a batch.

    number  int64[rows]: the question about the row, -1 for none
    told    float64[questions, inputs]: the values that take the place of the row's own
    said    float64[questions, inputs], out: what one model says with each of them, NaN where it was not asked
    """

    number: Int64s
    told: Floats
    said: Floats


def questions(rules: Importance, state: ImportanceState, meta: Meta, inputs: Floats, lefts: Int64s) -> Questions:
    """Chooses the rows that are asked about and the values that they are told; later ones may be told theirs.

    lefts  rows in the order in which they are scored
    """
    coordinates = [np.ascontiguousarray(meta[lefts, c]) for c in (C0, C1, C2, C3)]
    hashes = mix64(np.full(lefts.size, rules.seed, np.int64), *coordinates)
    chosen = np.flatnonzero((hashes >> np.uint64(11)).astype(np.float64) / 2.0**53 < rules.share)
    rows, k, before = lefts[chosen], inputs.shape[1], int(state.asked[0])
    there = min(before, DONORS)
    known = np.concatenate((state.ring[np.arange(before - there, before) % DONORS], inputs[rows]))
    behind = there + np.arange(rows.size)  # places in `known`: those of the rows themselves
    choice = np.minimum(behind, DONORS)[:, None]
    own = np.repeat(hashes[chosen], k)
    drawn = mix64(own, np.tile(np.arange(k, dtype=np.int64), rows.size)).reshape(rows.size, k)
    back = 1 + (drawn % np.maximum(choice, 1).astype(np.uint64)).astype(np.int64)
    told = np.where(choice > 0, known[np.maximum(behind[:, None] - back, 0), np.arange(k)], inputs[rows])
    state.asked[0] = before + rows.size
    kept = np.arange(max(before, before + rows.size - DONORS), before + rows.size)
    state.ring[kept % DONORS] = inputs[rows[kept - before]]
    number = np.full(inputs.shape[0], -1, np.int64)
    number[rows] = np.arange(rows.size)
    return Questions(number, told, np.full(told.shape, math.nan))


@kernel
def _weigh(
    start: int, stop: int, kinds: Int64s, places: Int64s, labels: Floats, kept: Floats, own: int, said: int,
    largest: float, memory: float, sums: Floats,
) -> None:  # fmt: skip
    for e in range(start, stop):
        if kinds[e] != LEARN or np.isnan(labels[e]):
            continue
        place, apart = places[e], (kept[places[e], own] - labels[e]) / largest
        loss = min(apart * apart, 1.0)
        for j in range(sums.shape[0]):
            answer = kept[place, said + j]
            if np.isnan(answer):
                continue
            other = (answer - labels[e]) / largest
            more = min(other * other, 1.0) - loss
            one = sums[j]
            off = more - one[_MEAN]
            one[_N] += 1.0
            one[_VARIATION] += off * off
            one[_MEAN] += off / one[_N]
            one[_RECENT] += (more - one[_RECENT]) / min(one[_N], memory)


@dataclass(slots=True)
class ImportanceStep:
    """Importance during one step.

    learners  of the models; own, said: the first column of `kept` with their scores, and with their answers
    """

    rules: Importance
    state: ImportanceState
    inputs: tuple[str, ...]
    learners: tuple[str, ...]
    own: int
    said: int
    questions: Questions
    side: Side

    def put(self) -> Questions:
        """What one model is to be asked."""
        return replace(self.questions, said=np.full(self.questions.told.shape, math.nan))

    def keep(self, events: Events, answers: Sequence[Questions | None], kept: Floats) -> None:
        """Keeps what models said of rows until their labels come; None for a model that has left."""
        asked = events.kinds == PREDICT
        places, number = events.places[asked], self.questions.number[events.lefts[asked]]
        k, there = len(self.inputs), number >= 0
        for m, one in enumerate(answers):
            columns = slice(self.said + m * k, self.said + (m + 1) * k)
            kept[places, columns] = math.nan
            if one is not None:
                kept[places[there], columns] = one.said[number[there]]

    def weigh(self, events: Events, start: int, stop: int, kept: Floats) -> None:
        """Takes what became of answers whose labels are known."""
        k = len(self.inputs)
        for m, sums in enumerate(self.state.sums):
            _weigh(
                start, stop, events.kinds, events.places, events.labels, kept, self.own + m, self.said + m * k,
                self.rules.largest if self.rules.largest > 0.0 else 1.0, float(self.rules.memory), sums,
            )  # fmt: skip

    def report(self, labels: int) -> pl.DataFrame:
        """What each input of each model is worth now, and what is proposed."""
        costs, rows = dict(self.rules.costs_us), []
        priced = [costs[name] for name in self.inputs] if costs else []
        error = self.rules.error / len(self.inputs)
        for learner, sums in zip(self.learners, self.state.sums.tolist(), strict=True):
            bounds = [mean_bounds(one[_MEAN], one[_N], one[_VARIATION], width=2.0, error=error) for one in sums]
            worths = [(one[_MEAN], one[_RECENT]) for one in sums]
            told = proposal(worths, bounds, priced, self.rules.budget_us, self.rules.negligible)
            for j, name in enumerate(self.inputs):
                n = int(sums[j][_N])
                figures = (worths[j][0], *bounds[j], worths[j][1]) if n else (None,) * 4
                rows.append((labels, learner, name, n, *figures, costs.get(name), *told[j]))
        return pl.DataFrame(rows, IMPORTANCE.polars(), orient="row")
