"""Exact sums equal fractions, whatever the floats and whatever the order."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from naive_aggregates import float_total

from streamproc.operators.exact import ExactSums, exact_sums
from streamproc.operators.moments import variances

LAWS = settings(max_examples=200, deadline=None)
ANY = st.lists(st.floats(), max_size=30)
FINITE = st.lists(
    st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(
            [1e308, -1e308, 5e-324, 1.0, 2.0**-53, -(2.0**-53), 2.0**-106, 2.0**53, 1e16, -1e16, 0.1, -0.0]
        ),
    ),
    max_size=30,
)


def _add(sums: ExactSums, slot: int, values: list[float]) -> None:
    sums.grow(slot + 1)
    sums.add(np.full(len(values), slot), np.array(values, np.float64), np.ones(len(values), np.uint8))


def _rounded(sums: ExactSums, slot: int = 0) -> float:
    return float(sums.rounded(np.array([slot]))[0])


def _equal(a: float, b: float) -> bool:
    return repr(a) == repr(b)


@LAWS
@given(ANY)
def test_a_sum_is_the_exact_sum_rounded_once(values: list[float]) -> None:
    sums = exact_sums(1)
    _add(sums, 0, values)
    assert _equal(_rounded(sums), float_total(values))


@LAWS
@given(FINITE)
def test_a_sum_is_exact_before_it_is_rounded(values: list[float]) -> None:
    sums = exact_sums(1)
    _add(sums, 0, values)
    assert sums.exactly(0) == sum(map(Fraction, values), Fraction(0))
    try:
        expected = math.fsum(values)
    except OverflowError:  # fsum gives up where an intermediate sum is too large
        return
    assert _rounded(sums) == expected


@LAWS
@given(FINITE)
@example([1e16, 1.246645677330594e16, 3.486724150000552e16, 2.0**-53, 3.507535949692444e16])
def test_squares_are_exact(values: list[float]) -> None:
    sums = exact_sums(1)
    sums.add_squares(np.zeros(len(values), np.int64), np.array(values), np.ones(len(values), np.uint8))
    assert sums.exactly(0) == sum((Fraction(v) ** 2 for v in values), Fraction(0))


@LAWS
@given(ANY, ANY, ANY)
def test_merging_in_any_tree_gives_the_sum_of_all(a: list[float], b: list[float], c: list[float]) -> None:
    sums = exact_sums(4)
    for slot, values in enumerate((a, b, c)):
        _add(sums, slot, values)
    sums.merge(np.array([3, 2, 3]), np.array([1, 0, 2]))
    assert _equal(_rounded(sums, 3), float_total([*a, *b, *c]))


@LAWS
@given(ANY)
def test_each_prefix_is_read_as_if_it_were_all(values: list[float]) -> None:
    sums = exact_sums(1)
    read = sums.add_each(np.zeros(len(values), np.int64), np.array(values, np.float64), np.ones(len(values), np.uint8))
    for end, value in enumerate(read.tolist(), 1):
        assert _equal(value, float_total(values[:end]))


@LAWS
@given(ANY)
def test_a_cleared_slot_is_zero_and_gives_its_room_back(values: list[float]) -> None:
    sums = exact_sums(1)
    _add(sums, 0, values)
    sums.clear(np.array([0]))
    assert _equal(_rounded(sums), 0.0)
    assert sums.free_count[0] == sums.free.size


@LAWS
@given(FINITE)
def test_a_variance_neither_cancels_nor_depends_on_order(values: list[float]) -> None:
    read = []
    for some in (values, values[::-1]):
        parts = variances()
        parts.grow(1)
        parts.add(np.zeros(len(some), np.int64), np.array(some, np.float64), np.ones(len(some), np.uint8))
        read.append(float(parts.read(np.array([0]))[0][0]))
    assert _equal(*read)
    n = len(values)
    if n > 1:
        exact = [Fraction(value) for value in values]
        numerator = n * sum(v * v for v in exact) - sum(exact) ** 2
        if numerator < Fraction(2) ** 1023:
            assert read[0] == float(numerator) / (float(n) * float(n - 1))


def test_a_million_additions_of_a_tenth_lose_nothing() -> None:
    sums = exact_sums(1)
    _add(sums, 0, [0.1] * 1_000_000)
    assert _rounded(sums) == math.fsum([0.1] * 1_000_000)


def test_wide_sums_are_carried_before_their_limbs_overflow() -> None:
    sums = exact_sums(1)
    _add(sums, 0, [1e300, 1.0])
    sums.special[:, 3] = (1 << 29) - 1
    _add(sums, 0, [1.0, -1e300])
    assert _rounded(sums) == 2.0
