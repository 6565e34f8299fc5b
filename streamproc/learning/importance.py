"""`importance`: what each input of a model is worth beside what it costs, and which ones would do within a budget.

What an input is worth is how much larger the loss becomes where the model is told, in the place of its value, the one
that another row had: permutation importance, one row at a time (iPFI: Fumagalli, Muschalik, Hüllermeier & Hammer 2023).
A part of the rows is asked about, each as it is scored, with the model as it is then; the difference is taken when the
label is known. Which rows, and whose value takes the place, is decided by hashes of the rows' coordinates: a replay
asks the same.

Nothing is dropped here. A proposal says which inputs to keep; `sp.race` of the model with all of them and of one with
those shows what it is worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, did_you_mean

IMPORTANCE: Final = Schema((
    Field("labels", pl.Int64()), Field("learner", pl.String()), Field("input", pl.String()), Field("n", pl.Int64()),
    *(Field(name, pl.Float64(), nullable=True) for name in ("importance", "low", "high", "recent", "cost_us")),
    Field("keep", pl.Boolean()), Field("reason", pl.String()),
))  # fmt: skip
"""Columns of the side "importance", a row for each input at each report.

n           rows asked about whose labels are known
importance  the mean difference of squared errors, 1 at most, over all of them; low, high: its bounds, for all inputs at
            all moments at once; recent: the mean in which older rows count ever less
keep        the proposal, and why
"""
_SETS: Final = 2048
"""So many sets of inputs are weighed against each other; of more, every second one."""


@dataclass(frozen=True, slots=True)
class Importance:
    """How inputs are judged, see `importance`.

    costs_us   by input, () where none are declared; budget_us: infinite where there is none
    """

    share: float
    memory: int
    error: float
    negligible: float
    costs_us: tuple[tuple[str, float], ...]
    budget_us: float
    largest: float
    seed: int


def importance(
    *,
    costs_us: Mapping[str, float] | None = None,
    budget_us: float | None = None,
    negligible: float = 0.001,
    share: float = 0.1,
    memory: int = 10_000,
    error: float = 0.05,
    largest: float | None = None,
    seed: int = 0,
) -> Importance:
    """What inputs are worth: `sp.learn(..., importance=sp.importance())`, told on the side "importance" at each report.

    costs_us    microseconds that each input costs a row, from the feature to the model, as
                `streamproc.testing.input_costs` measures them: steps read no clock
    budget_us   what all inputs together may cost: a subset within it is proposed
    negligible  an input that is shown to be worth less is proposed to go: mean squared error (of chances, or of
                `largest`)
    share       of the rows, asked about: each costs a question to the model for each input
    memory      rows asked about that count as recent; older ones ever less
    error       the chance that any bound of any input of a model is ever wrong
    largest     for regressors: the error from which on the loss is 1
    seed        another one asks about other rows

    Inputs that say the same share what they are worth, and a model that would learn anew without one of them may be as
    good: so a proposal is tried by `sp.race` before it is taken, and never taken here.

    Raises DefinitionError.

    >>> importance(costs_us={"amount": 0.2, "spend_1h": 2.5}, budget_us=1.0).budget_us
    1.0
    """
    if not 0.0 < share <= 1.0 or not 0.0 < error < 1.0 or memory < 1 or not 0.0 <= negligible < 1.0:
        raise DefinitionError(
            "importance: share and error are parts of 1, memory counts rows, negligible is a loss",
            hint="share=0.1, error=0.05, memory=10_000, negligible=0.001",
        )
    if budget_us is not None and (costs_us is None or not budget_us > 0.0):
        raise DefinitionError(
            "importance has a budget and does not know what inputs cost",
            hint="costs_us={'amount': 0.2, ...}, measured once and written down, and budget_us= above 0",
        )
    for name, cost in (costs_us or {}).items():
        if not 0.0 <= cost < math.inf:
            raise DefinitionError(f"importance: '{name}' costs {cost}", hint="microseconds a row")
    if largest is not None and not 0.0 < largest < math.inf:
        raise DefinitionError(f"importance: largest={largest}", hint="an error above 0")
    costs = tuple((name, float(cost)) for name, cost in (costs_us or {}).items())
    budget = math.inf if budget_us is None else float(budget_us)
    return Importance(
        float(share), memory, float(error), float(negligible), costs, budget, 0.0 if largest is None else largest, seed
    )


def checked(rules: Importance, inputs: tuple[str, ...], kind: str, largest: float) -> None:
    """Raises DefinitionError where rules do not fit the learner.

    largest  of its race, 0 where there is none
    """
    if kind == "anomaly":
        raise DefinitionError("importance: a detector of anomalies has no loss", hint="use it with labels")
    if (kind == "number") != (rules.largest > 0.0):
        said = "does not know the largest error" if kind == "number" else "of chances has no largest error to choose"
        raise DefinitionError(f"importance {said}", hint="largest=100.0 for regressors, nothing for classifiers")
    if largest > 0.0 and kind == "number" and largest != rules.largest:
        raise DefinitionError(
            f"the race has largest={largest:g}, importance has {rules.largest:g}", hint="give both the same"
        )
    costs = [name for name, _ in rules.costs_us]
    for name in costs:
        if name not in inputs:
            raise DefinitionError(f"importance: the model has no input '{name}'", hint=did_you_mean(name, inputs))
    for name in inputs if costs else ():
        if name not in costs:
            raise DefinitionError(f"importance does not know what '{name}' costs", hint="microseconds in costs_us=")


def proposal(
    worths: Sequence[tuple[float, float]], bounds: Sequence[tuple[float, float]], costs: Sequence[float],
    budget: float, negligible: float,
) -> list[tuple[bool, str]]:  # fmt: skip
    """For each input whether to keep it, and why not.

    worths  the mean over all rows, and the recent one; what an input is worth is the larger
    costs   empty where none are declared

    As long as no input is shown to be worth anything all are kept. Then those go that are shown to be negligible, and
    of the others those stay that together are worth most within the budget; of two such sets the cheaper one.

    >>> proposal([(0.3, 0.3), (0.2, 0.2), (0.2, 0.2)], [(0.1, 0.5)] * 3, [6.0, 4.0, 5.0], 9.0, 0.001)
    [(False, 'it does not fit into 9 us'), (True, ''), (True, '')]
    """
    if all(low <= 0.0 for low, _ in bounds):
        return [(True, "no input is shown to be worth anything yet")] * len(worths)
    small = [high < negligible for _, high in bounds]
    kept = [not one for one in small]
    if costs and sum(cost for cost, stays in zip(costs, kept, strict=True) if stays) > budget:
        wanted = [i for i, stays in enumerate(kept) if stays]
        chosen = _knapsack([max(*worths[i], 0.0) for i in wanted], [costs[i] / budget for i in wanted])
        kept = [i in wanted and bool(chosen >> wanted.index(i) & 1) for i in range(len(kept))]
    little, much = f"shown to be worth less than {negligible:g}", f"it does not fit into {budget:g} us"
    reasons = [
        "" if stays else little if gone else much
        for stays, gone in zip(kept, small, strict=True)
    ]
    return list(zip(kept, reasons, strict=True))


def _knapsack(worths: list[float], parts: list[float]) -> int:
    """Which of the things, that take these parts of 1, are worth most together; a bit for each.

    Sets that cost more than another and are worth no more are left out as they grow (Nemhauser & Ullmann 1969).
    """
    sets = [(0.0, 0.0, 0)]
    for i, (worth, part) in enumerate(zip(worths, parts, strict=True)):
        grown = [(cost + part, value + worth, one | 1 << i) for cost, value, one in sets if cost + part <= 1.0 + 1e-9]
        best, kept = -1.0, []
        for one in sorted(sets + grown, key=lambda each: (each[0], -each[1], each[2])):
            if one[1] > best:
                best = one[1]
                kept.append(one)
        sets = kept if len(kept) <= _SETS else [*kept[-1::-2]][::-1]
    return sets[-1][2]
