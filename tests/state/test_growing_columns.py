"""Columns grow without losing rows, and a large one without being copied."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.columns import grow, next_rows, ready_a_page


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


def test_making_pages_ready_changes_no_row() -> None:
    columns = [np.zeros(0, np.int64) for _ in range(5)]
    rows = 0
    while rows < 1_500_000:
        rows = next_rows(rows, rows + 1)
        for i, column in enumerate(columns):
            held = column.size
            columns[i] = column = grow(column, rows)
            assert not column[held:].any()
            column[held:] = np.arange(held, rows) * (i + 1)
        ready_a_page()
    for i, column in enumerate(columns):
        assert np.array_equal(column, np.arange(rows) * (i + 1))


def test_the_pages_of_the_next_step_are_ready_before_its_rows_are_written() -> None:
    rows, column = 1 << 19, grow(np.zeros(0, np.int64), 1 << 19)
    column[:] = 1
    faults = 0
    while rows < 1 << 23:
        for _ in range(8):
            ready_a_page()
        held, rows = rows, next_rows(rows, rows + 1)
        column = grow(column, rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        column[held:] = 1
        faults += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    # 60 MB are written, 30 pages of 2 MiB or 15,360 of 4 KiB; where memory is in pieces, not all large ones are had.
    assert faults < 25


_FEW_ROWS = """
import resource
import numpy as np
from streamproc.columns import grow, ready_a_page
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before, columns = resident(), [np.zeros((0, 11), np.int32) for _ in range(24)]
for rows in (4_096, 8_192, 16_384, 32_768):
    columns = [grow(column, rows, fill=-1) for column in columns]
    for _ in range(100):
        ready_a_page()
written = sum(column.nbytes for column in columns)
print((resident() - before) / written)
"""


def test_a_column_of_few_rows_takes_little_more_than_they_do() -> None:
    told = subprocess.run([sys.executable, "-c", _FEW_ROWS], check=True, capture_output=True, text=True)
    # Pages of 2 MiB made ready for rows that may never come were as much again, and more.
    assert float(told.stdout) < 1.7


_LITTLE_MEMORY = """
import resource
import numpy as np
from streamproc.columns import grow
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 29), size + (1 << 29)))
column = grow(np.arange(10), 100_000, fill=-1)
longer = grow(column, 1_000_000)
assert not np.shares_memory(column, longer), "it was meant to be refused"
assert longer[:10].tolist() == list(range(10)) and (longer[10:100_000] == -1).all() and not longer[100_000:].any()
"""


def test_where_the_system_refuses_a_reservation_the_column_is_copied() -> None:
    subprocess.run([sys.executable, "-c", _LITTLE_MEMORY], check=True)
