"""Hypothesis strategies for streams: rows of any contract, late rows, hot keys, ties, cuts, crashes.

Needs hypothesis (`pip install "streamproc[test]"`); nothing else of `streamproc.testing` does. Everything is
drawn through a seed, so a failing example shrinks to few rows and is reproduced by its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from hypothesis import strategies as st

from streamproc.contracts.model import Contract, Schema
from streamproc.operator import StreamType
from streamproc.testing.random_rows import random_frame
from streamproc.testing.trials import Trial, random_trial


@dataclass(frozen=True, slots=True)
class Timeline:
    """Event times in order of arrival: µs, int64[n], and how far the most belated lies behind the running maximum."""

    times: np.ndarray[tuple[int], np.dtype[np.int64]]
    disorder_us: int


def rows(contract: Contract | Schema, *, max_rows: int = 40, wild: bool = True) -> st.SearchStrategy[pl.DataFrame]:
    """Rows of a contract, with hot keys and the awkward values of each type.

    wild  floats may be NaN, infinite or near overflow
    """
    schema = contract.schema if isinstance(contract, Contract) else contract
    return st.builds(
        lambda seed, n: random_frame(np.random.default_rng(seed), schema, n, wild=wild),
        st.integers(0, 2**32 - 1),
        st.integers(0, max_rows),
    )


def timelines(
    *, max_rows: int = 40, unit_us: int = 1_000_000, max_disorder: int = 10, ties: bool = True
) -> st.SearchStrategy[Timeline]:
    """Event times that mostly rise: with ties (unless `ties` is off), and belated by up to `max_disorder` units."""

    def made(seed: int, n: int, disorder: int) -> Timeline:
        random = np.random.default_rng(seed)
        steps = random.integers(0 if ties else 1, 4, n)
        times = (np.cumsum(steps) - random.integers(0, disorder + 1, n) * (random.random(n) < 0.4)) * unit_us
        behind = np.maximum.accumulate(times) - times if n else times
        return Timeline(times, int(behind.max(initial=0)))

    return st.builds(made, st.integers(0, 2**32 - 1), st.integers(0, max_rows), st.integers(0, max_disorder))


def event_rows(
    contract: Contract, *, max_rows: int = 40, unit_us: int = 1_000_000, max_disorder: int = 10
) -> st.SearchStrategy[pl.DataFrame]:
    """Rows of a contract in order of arrival, their event time on a random timeline; some lie behind others."""
    dtype = contract.schema[contract.event_time].dtype

    def made(seed: int, timeline: Timeline) -> pl.DataFrame:
        frame = random_frame(np.random.default_rng(seed), contract.schema, timeline.times.size)
        moments = pl.Series(contract.event_time, timeline.times)
        if dtype.is_temporal():
            moments = moments.cast(pl.Datetime("us", "UTC")).cast(dtype)
        return frame.with_columns(moments.cast(dtype))

    lines = timelines(max_rows=max_rows, unit_us=unit_us, max_disorder=max_disorder)
    return st.builds(made, st.integers(0, 2**32 - 1), lines)


def trials(*types: StreamType, max_rows: int = 40, unit_us: int | None = None) -> st.SearchStrategy[Trial]:
    """Input of one operator: see `random_trial`."""
    return st.builds(lambda seed: random_trial(seed, types, rows=max_rows, unit_us=unit_us), st.integers(0, 2**32 - 1))


def cuts(*, rows: int = 60, most: int = 8) -> st.SearchStrategy[list[int]]:
    """Where a stream is cut into steps; twice at one place makes a step without rows."""
    return st.lists(st.integers(0, rows), max_size=most).map(sorted)


def crashes(*, most: int = 5) -> st.SearchStrategy[list[int]]:
    """After how many commits each of several workers dies; the one after the last goes on to the end."""
    return st.lists(st.integers(1, 4), max_size=most)
