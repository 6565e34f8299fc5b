"""What inputs add to a score of a model that has no sum of its own: Shapley values, estimated by permutations.

A row of the background is turned into the row in question, one input after the other in some order; what an input adds
is how much the score moved when its turn came. The mean over orders and background rows is its Shapley value
(Strumbelj & Kononenko 2014). Whatever the orders, the steps of one walk add up to the difference of its ends: so base
and terms add up to the score exactly, and what is estimated is only how it is shared out. Every order is walked back as
well, which makes the estimate more exact than as many orders drawn one by one (Mitchell et al. 2022).

Orders follow from hashes of their number: the same row is explained the same way every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from streamproc.hashing import mix64
from streamproc.learning.contributions import Contributions, Term, ranked

PERMUTATIONS = 256
"""Orders that are walked; half of them are the others backwards."""


def permuted_contributions(
    ask: Callable[[list[float]], float], names: Sequence[str], row: list[float], background: Sequence[list[float]], *,
    shown: Sequence[object], permutations: int = PERMUTATIONS,
) -> Contributions | None:  # fmt: skip
    """The terms of what a model says of a row, against rows of a background.

    ask         what the model says of a row of inputs, NaN for one that is missing
    background  rows that lend their values, in turn; a row without any value stands in where there is none
    shown       how the row's values are told

    None where the model has no word for a row on the way. Each term has a standard error.
    Cost (inputs + 1) * permutations questions.

    >>> found = permuted_contributions(lambda r: 2 * r[0] + r[1], ("a", "b"), [1.0, 5.0], [[0.0, 0.0]], shown=(1, 5))
    >>> [(term.name, term.adds) for term in found.terms], found.total
    ([('b', 5.0), ('a', 2.0)], 7.0)
    """
    k, pairs = len(names), max(permutations // 2, 1)
    lenders = list(background) or [[math.nan] * k]
    moved, bases = np.zeros((pairs, k)), np.zeros(pairs)
    for pair in range(pairs):
        lender = lenders[pair % len(lenders)]
        order = np.argsort(mix64(np.full(k, pair), np.arange(k)), kind="stable").tolist()
        for one in (order, order[::-1]):
            now = list(lender)
            before = bases[pair] = ask(now)
            for j in one:
                now[j] = row[j]
                after = ask(now)
                moved[pair, j] += (after - before) / 2.0
                before = after
    if np.isnan(moved).any() or np.isnan(bases).any():
        return None
    adds = [math.fsum(column) / pairs for column in moved.T.tolist()]
    spread = moved.std(axis=0, ddof=1) / math.sqrt(pairs) if pairs > 1 else np.full(k, math.nan)
    base = math.fsum(bases.tolist()) / pairs
    terms = [
        Term(name, one, value, None, float(error))
        for name, one, value, error in zip(names, adds, shown, spread.tolist(), strict=True)
    ]
    return Contributions(
        "permutation", "score", base, ranked(terms), math.fsum((base, *adds)), 2 * pairs,
        min(len(background), pairs),
    )  # fmt: skip
