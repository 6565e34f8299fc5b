"""kill -9 of a working process at any moment: no row's effect is lost or doubled, and the rest of the run is the same.

The default run kills ten times; STREAMPROC_KILLS=200 pytest tests/chaos -m long kills 200 times, half of them on each
topology, and STREAMPROC_SEED chooses other moments.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from killing import survive

KILLS = int(os.environ.get("STREAMPROC_KILLS", "200"))
SEED = int(os.environ.get("STREAMPROC_SEED", "1"))


def test_5_kills_of_the_only_task_leave_the_same_payloads_in_the_same_order(tmp_path: Path) -> None:
    assert survive(tmp_path, "narrow", 5, SEED, partitions=(1, 1))["kills"] == 5


def test_5_kills_of_six_stages_with_several_partitions_leave_the_same_rows(tmp_path: Path) -> None:
    assert survive(tmp_path, "wide", 5, SEED, partitions=(3, 2))["kills"] == 5


def test_5_kills_of_a_resolve_leave_the_same_ids_and_events_in_the_same_order(tmp_path: Path) -> None:
    assert survive(tmp_path, "entities", 5, SEED, partitions=(1, 1))["kills"] == 5


def test_kills_of_a_learner_lose_no_label_and_learn_none_twice(tmp_path: Path) -> None:
    seen = survive(tmp_path, "learned", 3, SEED, partitions=(1, 1))
    assert seen["kills"] == 3 and seen["labels"] > 1_000


def test_nor_do_kills_while_labels_wait_for_rows_that_are_yet_to_come(tmp_path: Path) -> None:
    seen = survive(tmp_path, "answered", 6, SEED, partitions=(1, 1))
    assert seen["kills"] == 6 and seen["while labels waited"] > 4 and seen["labels"] > 800, seen


@pytest.mark.long
@pytest.mark.parametrize(
    ("topology", "partitions"),
    [("narrow", (1, 1)), ("wide", (3, 2)), ("entities", (1, 1)), ("learned", (1, 1)), ("answered", (1, 1))],
)
def test_many_kills_lose_and_double_nothing(tmp_path: Path, topology: str, partitions: tuple[int, int]) -> None:
    seen = survive(tmp_path, topology, KILLS // 2, SEED, partitions=partitions)
    print(f"seed {SEED}, {topology}: {seen}")
    assert seen["kills"] == KILLS // 2
    assert seen["while restoring"] > KILLS // 40
