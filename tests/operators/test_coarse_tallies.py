"""What is too much to be kept is made coarser: the same whatever the order, within the error that is stated."""

from __future__ import annotations

import struct

import datasketches
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timed_streams import STREAM

from streamproc.errors import DefinitionError
from streamproc.hashing import frozen, mix64
from streamproc.operators.aggregate_plan import plan_aggregates
from streamproc.operators.aggregates import Aggregate, distinct, quantile
from streamproc.operators.coarse_tallies import BLOCK, LEVEL, SIZE, START, CoarseTallies, coarse_set, coarse_values
from streamproc.operators.hyperloglog import REGISTERS, VALUE_BITS
from streamproc.operators.values import codes_of, labels_of
from streamproc.operators.windows import tumbling
from streamproc.testing.naive_features import Wish, sketched_quantile

Held = list[list[tuple[int, int]]]


def held(tallies: CoarseTallies, slots: int) -> Held:
    """What slots hold: (code, number) of each, and the level."""
    runs, codes, numbers = tallies.read(np.arange(slots))
    return [
        [(int(run[LEVEL]), int(run[SIZE]))]
        + [(int(codes[i]), int(numbers[i]) if numbers.size else 0) for i in range(run[START], run[START] + run[SIZE])]
        for run in runs
    ]


def filled(
    tallies: CoarseTallies, slots: list[int], values: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> CoarseTallies:
    tallies.grow(max(slots, default=0) + 4)
    made = mix64(values) if tallies.shape[0] else codes_of(pl.Series(values.astype(np.float64) / 8))
    tallies.add(np.array(slots, np.int64), frozen(made), frozen(np.ones(values.size, np.uint8)))
    return tallies


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-40, 400), st.integers(0, 4)), max_size=60), st.randoms(), st.booleans(),
       st.integers(2, 7))  # fmt: skip
def test_a_run_depends_on_what_was_seen_and_not_on_order_parts_or_what_was_there_before(
    seen: list[tuple[int, int]], chance: object, counted: bool, bound: int
) -> None:
    values = np.array([value for value, _ in seen], np.int64)
    whole = filled(coarse_values(3, bound) if counted else coarse_set(bound), [0] * values.size, values)
    shuffled = list(range(values.size))
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis gives a Random
    parts = coarse_values(3, bound) if counted else coarse_set(bound)
    filled(parts, [0] * 5, np.arange(5))
    parts.clear(np.array([0]))
    filled(parts, [seen[i][1] for i in shuffled], values[shuffled])
    parts.grow(9)
    order = [0, 1, 2, 3, 4]
    chance.shuffle(order)  # type: ignore[attr-defined]
    parts.merge(np.full(5, 8), np.array(order))
    assert held(parts, 9)[8] == held(whole, 1)[0]
    again = [i for i in shuffled if seen[i][1] == 3]
    assert held(parts, 9)[3] == held(filled(coarse_values(3, bound) if counted else coarse_set(bound),
                                            [0] * len(again), values[again]), 1)[0]  # fmt: skip


def test_no_run_is_longer_than_its_bound_and_blocks_are_used_again() -> None:
    chance = np.random.default_rng(4)
    for tallies, most in ((coarse_values(6, 32), 32), (coarse_set(100), REGISTERS)):
        tallies.grow(2)
        reached = 0
        for _ in range(40):
            filled(tallies, [0] * 500, chance.integers(-(2**40), 2**40, 500))
            assert tallies.runs[0, SIZE] <= most
            reached = reached or tallies.codes.size
            tallies.clear(np.array([0]))
        assert tallies.codes.size == reached
        assert not tallies.runs[:, BLOCK].any()


def of_column(aggregate: Aggregate, values: pl.Series) -> object:
    """An aggregate over a whole column, by way of ten parts."""
    from streamproc.batch import WIDTH, Batch
    from streamproc.contracts.model import Field, Schema
    from streamproc.operators.inputs import Inputs

    plan = plan_aggregates({"out": aggregate}, Schema((Field("x", values.dtype, True),)), step="t")
    state = plan.open()
    for part in state:
        part.grow(11)
    batch = Batch(values.alias("x").to_frame(), np.zeros((len(values), WIDTH), np.int64), None)
    plan.add(state, np.arange(len(values)) % 10, Inputs(batch))
    for part in state:
        part.merge(np.full(10, 10), np.arange(10))
    return plan.read(state, np.array([10]))[0][0]


@pytest.mark.parametrize("error", [0.25, 0.01, 1e-4])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999, 1.0])
def test_a_quantile_is_within_its_error_of_the_exact_one(error: float, share: float) -> None:
    chance = np.random.default_rng(round(share * 1000))
    for values in (chance.lognormal(3, 1, 4_001), -chance.lognormal(3, 1, 1_000), np.arange(1.0, 30.0),
                   np.array([7.25]), np.zeros(9)):  # fmt: skip
        exact = float(np.quantile(values, share))
        found = of_column(quantile("x", share, error=error, intervals=200_000), pl.Series(values))
        assert isinstance(found, float)
        assert abs(found - exact) <= error * abs(exact) * (1 + 1e-12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(allow_nan=True) | st.floats(-9, 9), min_size=1, max_size=40), st.floats(0, 1),
       st.sampled_from([0.4, 0.1, 0.01]), st.integers(2, 30))  # fmt: skip
def test_a_quantile_equals_its_twin_whatever_floats_come_and_however_few_intervals_there_are(
    values: list[float], share: float, error: float, intervals: int
) -> None:
    finite = [value for value in values if abs(value) < float("inf")]
    wish = Wish("quantile", amount=share, error=error, bound=intervals)
    made = of_column(quantile("x", share, error=error, intervals=intervals), pl.Series(values, dtype=pl.Float64))
    assert repr(made) == repr(sketched_quantile(finite, wish))


@pytest.mark.parametrize("exact", [0, 300])
@pytest.mark.parametrize("n", [0, 1, 10, 299, 300, 301, 1_000, 50_000])
def test_a_count_is_exact_up_to_its_bound_and_then_within_four_standard_errors(n: int, exact: int) -> None:
    values = pl.Series(np.random.default_rng(n).permutation(n).astype(np.int64))
    found = of_column(distinct("x", exact=exact), pl.concat([values, values.reverse()]))
    assert isinstance(found, int)
    if n <= exact:
        assert found == n
    else:
        assert found > exact
        assert abs(found - n) <= max(4 * 0.01625 * n, 1)


def datasketches_estimate(entries: list[int]) -> float:
    """What Apache DataSketches says of the same registers, given as one image in its published format."""
    image = np.zeros(REGISTERS, np.uint8)
    for entry in entries:
        image[entry >> VALUE_BITS] = entry & ((1 << VALUE_BITS) - 1)
    weights = np.ldexp(1.0, -image.astype(np.int64))
    small = image < 32
    head = bytes([10, 1, 7, 12, 0, 16, 0, 10]) + struct.pack(
        "<dddii", 0.0, float(weights[small].sum()), float(weights[~small].sum()), REGISTERS - len(entries), 0
    )
    return float(datasketches.hll_sketch.deserialize(head + image.tobytes()).get_estimate())


@pytest.mark.parametrize("n", [1, 100, 3_000, 20_000, 1_000_000])
def test_the_estimate_of_registers_agrees_with_datasketches(n: int) -> None:
    tallies = filled(coarse_set(0), [0] * n, np.arange(n))
    entries = [code for code, _ in held(tallies, 1)[0][1:]]
    found = of_column(distinct("x", exact=0), pl.Series(np.arange(n)))
    assert isinstance(found, int)
    # Two estimators of the same registers, each unbiased: they differ by less than a third of a standard error.
    assert abs(found - datasketches_estimate(entries)) <= max(0.005 * n, 1)


def test_values_that_are_equal_count_once() -> None:
    assert of_column(distinct("x", exact=9), pl.Series([0.0, -0.0, float("nan"), -float("nan"), 1.0, None])) == 3
    assert of_column(distinct("x", exact=9), pl.Series(["a", "é", "a", None, ""])) == 3
    assert labels_of(pl.Series([-0.0]))[0] == 0


def test_an_estimate_for_every_row_is_refused_at_plan_time() -> None:
    some = distinct("s", exact=10)
    assert tumbling("1h", users=some).operator.schema(STREAM).schema["users"].dtype.is_integer()
    with pytest.raises(DefinitionError, match="estimated when a window closes"):
        tumbling("1h", emit="update", users=some).operator.schema(STREAM)
    tumbling("1h", emit="update", users=distinct("s")).operator.schema(STREAM)


def test_bounds_that_make_no_sense_are_refused() -> None:
    for mistake in (
        lambda: distinct("s", exact=-1), lambda: quantile("x", 0.5, error=0.0), lambda: quantile("x", 0.5, error=0.6),
        lambda: quantile("x", 0.5, error=0.01, intervals=1), lambda: distinct("s", exact=10**9),
    ):  # fmt: skip
        with pytest.raises(DefinitionError):
            mistake()
