"""Columns grow without losing rows, and a large one without being copied."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.columns import grow, next_rows


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=6).map(sorted), st.sampled_from([0, -1, 7]))
def test_old_rows_stay_and_new_rows_hold_the_fill(sizes: list[int], fill: int) -> None:
    column, expected = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for step, size in enumerate(sizes):
        column = grow(column, size, fill=fill)
        expected = np.concatenate([expected, np.full(size - expected.size, fill)])
        column[::1000] = step
        expected[::1000] = step
        assert column.dtype == np.int64 and type(column) is np.ndarray and column.flags.c_contiguous
        assert np.array_equal(column, expected)


def test_a_large_column_grows_where_it_stands() -> None:
    column = grow(np.arange(10), 200_000, fill=-1)
    longer = grow(column, 1_000_000, fill=-1)
    assert np.shares_memory(column, longer)
    assert longer[:10].tolist() == list(range(10)) and (longer[10:] == -1).all()


def test_a_part_of_a_large_column_is_not_taken_for_its_beginning() -> None:
    column = grow(np.arange(10), 300_000)
    part = grow(column[5:150_000], 200_000, fill=3)
    assert not np.shares_memory(part, column)
    assert part[:5].tolist() == [5, 6, 7, 8, 9] and part[-1] == 3


def test_rows_of_several_numbers_grow_too() -> None:
    column = grow(np.ones((2, 3)), 100_000, fill=0)
    assert column.shape == (100_000, 3) and column[:3].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(("rows", "needed"), [(0, 1), (64, 65), (1 << 20, (1 << 20) + 1), (64, 10**7), (5, 3)])
def test_the_next_size_is_enough_and_a_step_beyond_it_is_bounded(rows: int, needed: int) -> None:
    size = next_rows(rows, needed)
    assert size >= max(needed, rows)
    assert size - max(needed, rows) <= max(rows, needed, 1 << 16, 64)


def test_a_column_cut_short_grows_with_zeros_over_what_it_once_held() -> None:
    column = grow(np.zeros(0, np.int64), 1 << 18)
    column[:] = 7
    again = grow(column[:10], 1 << 19)
    assert not again[10:].any()
