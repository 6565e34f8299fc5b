"""Live equals replay, whatever the cuts, restarts and checkpoints; below `ordered` event time alone decides."""

from __future__ import annotations

import pytest
from payments import ORDERED, PAYMENT, payments, simple, topology

from streamproc.contracts.registry import MemoryRegistry
from streamproc.runtime.replay import recorded_sums, replay_as_recorded
from streamproc.testing import drive
from streamproc.testing.topology_checks import check_topology


@pytest.mark.parametrize("seed", range(4))
def test_a_topology_keeps_its_promises_on_one_and_four_partitions(seed: int) -> None:
    check_topology(
        topology(), {"payments": payments(seed)}, contracts=(PAYMENT,), partitions=(1, 4), seeds=1, ordered=ORDERED
    )


def test_a_replay_as_recorded_gives_the_recorded_digests_on_many_inputs() -> None:
    registry = MemoryRegistry((PAYMENT,))
    for seed in range(120):
        sizes = (1 + (seed * 7 + i * 5) % 23 for i in range(1_000))
        ran = drive(simple(), payments=payments(seed, 40), registry=registry, steps=sizes)
        assert replay_as_recorded(ran.binding, ran.log).sums == recorded_sums(ran.binding, ran.log)


@pytest.mark.long
def test_a_replay_as_recorded_gives_the_recorded_digests_on_a_thousand_inputs() -> None:
    registry = MemoryRegistry((PAYMENT,))
    for seed in range(1_000, 2_000):
        sizes = (1 + (seed * 7 + i * 5) % 23 for i in range(1_000))
        ran = drive(topology(), payments=payments(seed, 60), registry=registry, partitions=1 + seed % 3, steps=sizes)
        assert replay_as_recorded(ran.binding, ran.log).sums == recorded_sums(ran.binding, ran.log)


def test_late_rows_are_set_aside_and_counted_whatever_the_cut() -> None:
    frame = payments(7, 80, disorder=20)
    runs = [
        drive(simple(), payments=frame, contracts=(PAYMENT,), steps=(size for _ in range(10_000)))
        for size in (1, 9, 1_000)
    ]
    fates = [run.fates("payments") for run in runs]
    assert fates[0] == fates[1] == fates[2]
    assert fates[0]["late"] > 0 and fates[0]["in"] == frame.height
    assert len({run.sums["one.late"] for run in runs}) == 1
