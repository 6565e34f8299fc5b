"""A learner at one row: which model was asked, as it stood then, what it was told, and what it said."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from streamproc.learning.contributions import Contributions, exact_contributions
from streamproc.learning.kept_model import KeptModel, steps_of
from streamproc.learning.learn_state import LearnState
from streamproc.learning.learning_step import Learner
from streamproc.learning.operator import Learn, Walk
from streamproc.learning.permuted import permuted_contributions
from streamproc.learning.standing import ALONE
from streamproc.operators.pending import PREDICT

BACKGROUND = 64
"""Rows that an estimate borrows values from: the last ones that the learner scored before the row in question."""


@dataclass(slots=True)
class Lenders:
    """The last rows that a learner scored, oldest first."""

    rows: list[list[float]] = field(default_factory=list)

    def see(self, walk: Walk, until: int | None = None) -> None:
        """Takes the rows that a step scores, or those before one of its events."""
        asked = walk.events.lefts[:until][walk.events.kinds[:until] == PREDICT]
        self.rows = [*self.rows, *walk.told[asked[-BACKGROUND:]].tolist()][-BACKGROUND:]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a learner said of one row.

    model       its name in a race; "model" where there is one; made_of: its parts, as River calls them
    score       None where it could not say anything; calibrated: the score as a chance, None where it is not corrected
    labels      that were known when it was asked
    told        what it was told of the row: inputs that are there and that it knows
    parts       what each input adds to the score, None where there is none
    """

    model: str
    made_of: str
    score: float | None
    calibrated: float | None
    labels: int
    told: dict[str, object]
    parts: Contributions | None


def asked_of(step: Learn, state: LearnState, walk: Walk, row: int, lenders: Lenders) -> Asked:
    """What a learner said of one row of a step, and why.  The step goes on to its end, as it would unasked.

    row  of `walk.rows`
    """
    events, found = walk.events, []
    at = int(np.flatnonzero((events.kinds == PREDICT) & (events.lefts == row))[0])
    lenders.see(walk, at)
    walk.go(at + 1, lambda: found.append(_asked(step, state, walk, row, lenders)))
    return found[0]


def _asked(step: Learn, state: LearnState, walk: Walk, row: int, lenders: Lenders) -> Asked:
    """The same, at the moment when the row was scored.  Models are asked again as copies: asking may change one."""
    who, score = int(walk.left.by[row]), float(walk.left.scores[row])
    model = state.models[who]
    name = ALONE if step.race is None else step.race.names[who]
    if model is None:  # it left the race at this very row
        return Asked(name, "", None, None, state.evaluation.labels, {}, None)
    model = KeptModel.unpacked(model.packed())
    learner = Learner(model, step.inputs, tuple(state.categories[:-1]), state.block.again())
    values = walk.told[row].tolist()
    told = learner.example(values)
    parts = None
    if not math.isnan(score):
        asked = model.asked()
        parts = exact_contributions(model, told) or permuted_contributions(
            lambda other: asked(learner.example(other)), step.inputs, values, lenders.rows,
            shown=[told.get(one) for one in step.inputs],
        )  # fmt: skip
    said = float(walk.said[row])
    calibrated = said if step.calibrated and not math.isnan(said) else None
    return Asked(
        name, " | ".join(type(part).__name__ for part in steps_of(model.model)), None if math.isnan(score) else score,
        calibrated, state.evaluation.labels, told, parts,
    )  # fmt: skip
