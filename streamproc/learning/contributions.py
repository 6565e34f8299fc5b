"""Why a model said what it said of one row: what each input adds to the score, and the terms add up to it.

A linear model is its own explanation: weight times value, and the intercept, make the log-odds. A tree's is its path:
each branch changes what the tree would say by the difference between the node below and the node above, and that goes
to the column that the branch asked. For any other model there is no such sum to read off; `permuted` estimates one.

What is read off is checked before it is given: terms that do not add up to what the model itself says are not told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from streamproc.learning.kept_model import RAISED, KeptModel, steps_of
from streamproc.learning.tree_paths import tree_terms

Example = dict[str, Any]
Way = Literal["linear", "tree", "permutation"]
Scale = Literal["log-odds", "score"]

INTERCEPT: Final = "(intercept)"
LEAF: Final = "(inside the leaf)"
SLACK: Final = 1e-9
"""How far the terms may be from what the model says: rounding, and nothing else."""


@dataclass(frozen=True, slots=True)
class Term:
    """What one input adds.

    name    of the input, or of what the model's own transformers made of inputs
    value   as the model's last part saw it, None where it did not
    weight  of a linear model
    error   standard error of an estimate, None where the term is exact
    """

    name: str
    adds: float
    value: Any = None
    weight: float | None = None
    error: float | None = None


@dataclass(frozen=True, slots=True)
class Contributions:
    """The terms of a score, the largest first.

    base          what the model says of nobody in particular: 0 for a linear model, of which the intercept is a term;
                  the root of a tree; the mean over the background of an estimate
    total         base and all terms: the log-odds, or the score itself
    permutations, background  of an estimate: orders that were tried, and rows that lent their values; else 0
    """

    way: Way
    scale: Scale
    base: float
    terms: tuple[Term, ...]
    total: float
    permutations: int = 0
    background: int = 0

    @property
    def exact(self) -> bool:
        """Whether the terms are the model's own and no estimate."""
        return self.way != "permutation"


def exact_contributions(model: KeptModel, example: Example) -> Contributions | None:
    """The terms of a linear model or a tree, alone or behind transformers; None for any other model.

    model    may note inputs that it has not seen before: give it a copy
    example  what the model is told of the row

    Adds up to what the model says within 1e-9.  Cost O(inputs), or O(depth) of a tree.

    >>> from river.linear_model import LinearRegression
    >>> found = exact_contributions(KeptModel(LinearRegression(intercept_init=2.0)), {"x": 3.0})
    >>> found.total, [term.name for term in found.terms]
    (2.0, ['(intercept)', 'x'])
    """
    said = model.score(example)
    if math.isnan(said):
        return None
    *transformers, last = steps_of(model.model)
    seen = example
    try:
        for one in transformers:
            seen = one.transform_one(seen)
        found = _linear(last, seen) or _tree(last, seen)
    except RAISED:
        return None
    if found is None:
        return None
    reached = _chance(found.total) if found.scale == "log-odds" else found.total
    return found if abs(reached - said) <= SLACK * max(1.0, abs(said)) else None


def ranked(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Terms by what they add, the largest first, equal ones by name."""
    return tuple(sorted(terms, key=lambda term: (-abs(term.adds), term.name)))


def _linear(last: Any, seen: Example) -> Contributions | None:
    from river import linear_model as linear

    as_chance = isinstance(last, linear.LogisticRegression | linear.PAClassifier)
    if not as_chance and not isinstance(last, linear.LinearRegression | linear.PARegressor):
        return None
    weights, intercept = dict(last.weights), float(last.intercept)
    terms = [Term(INTERCEPT, intercept)]
    for name, value in seen.items():
        weight = float(weights.get(name, 0.0))
        terms.append(Term(str(name), weight * float(value), value, weight))
    total = math.fsum(term.adds for term in terms)
    return Contributions("linear", "log-odds" if as_chance else "score", 0.0, ranked(terms), total)


def _tree(last: Any, seen: Example) -> Contributions | None:
    found = tree_terms(last, seen)
    if found is None:
        return None
    base, by_column, leaf = found
    terms = [Term(str(name), adds, seen.get(name)) for name, adds in by_column.items()]
    if leaf:
        terms.append(Term(LEAF, leaf))
    return Contributions(
        "tree", "score", base, ranked(terms), math.fsum((base, *(term.adds for term in terms)))
    )  # fmt: skip


def _chance(log_odds: float) -> float:
    if log_odds >= 0.0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    return math.exp(log_odds) / (1.0 + math.exp(log_odds))


