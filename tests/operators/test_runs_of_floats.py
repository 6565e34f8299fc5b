"""A run of floats added over integers equals the sum of its fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.operators.event_records import BEFORE, PLACE, TIME, VALID
from streamproc.operators.exact import exact_sums
from streamproc.operators.runs_of_floats import add_run

ALIKE = st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-6)
ANY = st.floats(allow_nan=False, allow_infinity=False)
EDGES = st.sampled_from([0.0, -0.0, 5e-324, 2.0**-31, 2.0**31, 2.0**32, -(2.0**31), 1.0, -1.0, 2.0**899, 2.0**-900])


def added(values: list[float], sign: int, valid: list[bool]) -> Fraction | float:
    """The exact sum of a chain of events with these values, of which one beyond the end must not count."""
    events = np.zeros((len(values) + 1, PLACE + 1), np.int64)
    events[:, BEFORE] = np.arange(len(values) + 1) - 1
    events[:, TIME] = np.arange(len(values) + 1)
    events[1:, VALID] = valid
    events[0, VALID] = 1
    events[:, PLACE] = np.array([1e300, *values]).view(np.int64)
    sums = exact_sums(1)
    sums.grow_pool()
    add_run(events, len(values), 0, 0, PLACE, sums.arrays(), 0, sign)
    return sums.exactly(0)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(ALIKE | ANY | EDGES, st.booleans()), max_size=40), st.sampled_from([1, -1]))
def test_a_run_adds_up_without_error(rows: list[tuple[float, bool]], sign: int) -> None:
    expected = sign * sum((Fraction(x) for x, counts in rows if counts), Fraction(0))
    assert added([x for x, _ in rows], sign, [counts for _, counts in rows]) == expected


def test_a_long_run_of_the_largest_terms_adds_up() -> None:
    values = [1.0] + [math.nextafter(2.0**32, 0.0)] * 10_000
    assert added(values, -1, [True] * len(values)) == -sum(map(Fraction, values))


def test_what_is_not_finite_decides() -> None:
    assert added([1.0, math.inf], 1, [True, True]) == math.inf
    assert math.isnan(added([1.0, math.nan], 1, [True, True]))
