"""An approximate count depends on what was seen, not on the order, and agrees with DataSketches and the truth."""

from __future__ import annotations

import numpy as np
import pytest
from timed_streams import STREAM

from streamproc.errors import DefinitionError
from streamproc.hashing import frozen, mix64
from streamproc.operators.aggregates import approx_distinct, distinct
from streamproc.operators.hyperloglog import Registers
from streamproc.operators.tallies import Tallies
from streamproc.operators.windows import tumbling


def _registers(values: np.ndarray[tuple[int], np.dtype[np.int64]], slots: int) -> Registers:
    made = Registers(Tallies(0, largest=True))
    made.grow(slots + 1)
    made.add(np.arange(values.size) % slots, frozen(mix64(values)), frozen(np.ones(values.size, np.uint8)))
    return made


@pytest.mark.parametrize("n", [1, 10, 1_000, 50_000])
def test_the_estimate_is_within_four_standard_errors_and_ignores_order_and_repeats(n: int) -> None:
    values = np.random.default_rng(n).permutation(n).astype(np.int64)
    (once,) = _registers(values, 1).read(np.array([0]))
    (again,) = _registers(np.concatenate([values[::-1], values]), 1).read(np.array([0]))
    assert once[0] == again[0]
    assert abs(once[0] - n) <= 4 * 0.01625 * n


def test_merged_parts_give_the_estimate_of_the_whole() -> None:
    values = np.arange(30_000, dtype=np.int64)
    parts = _registers(values, 3)
    parts.merge(np.array([3, 3, 3]), np.array([0, 1, 2]))
    assert parts.read(np.array([3]))[0][0] == _registers(values, 1).read(np.array([0]))[0][0]


def test_an_estimate_for_every_row_is_refused_at_plan_time() -> None:
    assert tumbling("1h", users=approx_distinct("s")).operator.schema(STREAM).schema["users"].dtype.is_integer()
    with pytest.raises(DefinitionError, match="estimated when a window closes"):
        tumbling("1h", emit="update", users=approx_distinct("s")).operator.schema(STREAM)
    tumbling("1h", emit="update", users=distinct("s")).operator.schema(STREAM)
