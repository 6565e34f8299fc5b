"""The operators of floor six keep the laws too."""

from __future__ import annotations

import pytest
from learning_laws import LEARNING_LAWS

from streamproc.testing import check_operator


@pytest.mark.parametrize("case", sorted(LEARNING_LAWS))
def test_the_operator_keeps_its_laws(case: str) -> None:
    step, inputs, without = LEARNING_LAWS[case]
    long = case.endswith("by blocks") or case.startswith("drift")
    assert check_operator(step, *inputs, seeds=20, rows=90 if long else 20, unit="1s", without=without) == 20


@pytest.mark.long
@pytest.mark.parametrize("case", sorted(LEARNING_LAWS))
def test_the_operator_keeps_its_laws_on_longer_streams(case: str) -> None:
    step, inputs, without = LEARNING_LAWS[case]
    check_operator(step, *inputs, seeds=range(1_000, 1_300), rows=120, unit="1s", without=without)
