"""What streamproc is measured with beside its rivals gives what the naive answers say."""

from __future__ import annotations

from functools import cache

import polars as pl
import pytest

from benchmarks.rivals.measuring import Sample, figures
from benchmarks.rivals.workloads import (
    BIDDERS,
    LOOKED,
    WORKLOADS,
    Sums,
    answer,
    bids,
    last_bids,
    last_profiles,
    profiles,
    topology,
)
from streamproc.testing import drive

BIDS = 12_000
BURSTS_MS = BIDS // 100 * 30_000 + BIDS


@cache
def stream() -> pl.DataFrame:
    """Bids of few bidders, in bursts half a minute apart: spans end, rows are out of order, moments are shared."""
    burst = pl.int_range(pl.len()) // 100 * pl.duration(seconds=30)
    return pl.concat(list(bids(BIDS))).with_columns(pl.col("bidder") % 40, at=pl.col("at") + burst)


@cache
def given(name: str) -> pl.DataFrame:
    frames = {"bids": pl.concat([stream(), last_bids(BURSTS_MS)])}
    if name == "join":
        frames["profiles"] = pl.concat([profiles(), last_profiles(BURSTS_MS)])
    ran = drive(topology(name, "rival", "bids", "profiles", "out"), frames, partitions=4)
    assert ran.late.height == ran.dead_letters.height == 0
    return ran["out"].filter(pl.col("bidder") < BIDDERS)


@pytest.mark.parametrize("name", [*WORKLOADS, "look-back ordered"])
def test_a_workload_gives_what_the_naive_answer_says(name: str) -> None:
    expected = answer(name.removesuffix(" ordered"), stream(), "time" if name.endswith("ordered") else "arrival")
    found, columns = given(name), expected.columns
    assert expected.height > 1_000
    assert found.select(columns).sort(columns).equals(expected.sort(columns))


def test_the_sums_tell_the_three_orders_of_look_back_apart() -> None:
    sums = {order: Sums.of(answer("look-back", stream(), order), LOOKED) for order in ("arrival", "time", "range")}
    assert sums["arrival"] == Sums.of(given("look-back"), LOOKED)
    assert sums["time"] == Sums.of(given("look-back ordered"), LOOKED)
    assert len({each.digest for each in sums.values()}) == 3


def test_one_changed_row_changes_the_sums_and_the_order_of_rows_does_not() -> None:
    rows = given("look-back")
    whole = Sums.of(rows, LOOKED)
    assert Sums.of(rows[:500], LOOKED) + Sums.of(rows[500:], LOOKED) == whole
    assert Sums.of(rows.reverse(), LOOKED) == whole
    swapped = rows.with_columns(bids_60s=pl.col("bids_60s").shift(1).fill_null(0))
    assert Sums.of(swapped, LOOKED).digest != whole.digest


def test_figures_are_of_what_lies_between_a_quarter_and_99_percent_of_the_output() -> None:
    samples = [
        Sample(at, cpu, written)
        for at, cpu, written in ((0.0, 5.0, 0), (10.0, 20.0, 250), (17.4, 21.48, 990), (30.0, 40.0, 1_000))
    ]
    found = figures(samples, 2_000)
    assert found["records_per_second"] == pytest.approx(200)
    assert found["cpu_s_per_million"] == pytest.approx(1_000)
    assert found["cold_cpu_s_per_million"] == pytest.approx(20_000)
