"""False alarms come no more often than stated; where that cannot be promised, the alarm says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from river import drift
from scipy import stats
from streams import DEPENDENT, INDEPENDENT, autoregressive, watched

import streamproc as sp
from streamproc.contracts.model import Field, Schema
from streamproc.drifting.evidence import BINS, CELLS, WAGERS, WEIGHTS, _phi, no_evidence, wagers, watch
from streamproc.errors import DefinitionError, TypeMismatch, UnknownColumn
from streamproc.operator import StreamType
from streamproc.operators.two_samples import figure

STREAMS, ROWS, RUN_LENGTH = 200, 5_000, 500


def alarms_of(
    make: Any, *, serial: str, streams: int = STREAMS, rows: int = ROWS, run_length: int = RUN_LENGTH,
    warm: int = 400, **more: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """Alarms over clean streams, those that still promise, and what was budgeted."""
    found = promised = 0
    for seed in range(streams):
        step = sp.drift("c0", run_length=run_length, warm=warm, serial=serial, seed=seed, **more)
        alarms, _ = watched(step, make(np.random.default_rng(seed), rows))
        found += alarms.height
        promised += int((alarms["promise"] == "holds").sum())
    return found, promised, streams * rows // run_length


@pytest.mark.parametrize("name", INDEPENDENT)
def test_on_200_clean_streams_false_alarms_stay_within_the_stated_budget(name: str) -> None:
    found, promised, budget = alarms_of(INDEPENDENT[name], serial="raw")
    low, high = stats.chi2.ppf(0.025, 2 * max(found, 1)) / 2, stats.chi2.ppf(0.975, 2 * (found + 1)) / 2
    rows = STREAMS * ROWS
    print(
        f"{name}: {found} alarms, budget {budget}; run length {rows / max(found, 1):,.0f} "
        f"(95 %: {rows / high:,.0f} to {rows / low:,.0f}), stated {RUN_LENGTH}"
    )
    assert found <= budget
    assert promised >= 0.97 * found


@pytest.mark.parametrize("name", DEPENDENT)
def test_where_rows_depend_on_each_other_the_promise_is_withdrawn(name: str) -> None:
    found, promised, budget = alarms_of(DEPENDENT[name], serial="raw", streams=10, rows=40_000, run_length=4_000)
    assert found > 2 * budget and promised <= 0.02 * found


@pytest.mark.parametrize("name", ["AR(1) of .5", "AR(1) of .9"])
def test_whitened_or_thinned_the_promise_holds_again(name: str) -> None:
    for serial in ("whiten", "thin"):
        found, promised, budget = alarms_of(DEPENDENT[name], serial=serial)
        assert found <= budget
        assert serial == "thin" or promised >= 0.9 * found


@pytest.mark.parametrize("name", ["normal", "AR(1) of .5", "AR(1) of .9"])
def test_grids_of_25_rows_whiten_by_what_earlier_ones_knew(name: str) -> None:
    """An alarm begins a new level, not a new dependence: of it the grids before know more than one alone."""
    make = (INDEPENDENT | DEPENDENT)[name]
    found, promised, budget = alarms_of(make, serial="whiten", streams=60, warm=50)
    assert found <= budget
    assert name == "AR(1) of .5" or promised >= 0.85 * found


def test_phi_is_that_of_the_process_though_each_grid_takes_its_own_mean_away() -> None:
    for phi in (0.0, 0.5, 0.9):
        told = []
        for seed in range(40):
            grids = np.zeros(4)
            for part in range(60):
                level = 100.0 * part
                told.append(_phi(level + autoregressive(np.random.default_rng((seed, part)), 25, phi), grids))
        late = np.array(told).reshape(40, 60)[:, 20:]
        assert abs(late.mean() - phi) < 0.05
        assert phi or (late == 0.0).mean() > 0.98


def test_a_reference_that_grows_no_more_keeps_the_promise_from_2000_rows_on_and_below_that_gives_none() -> None:
    for reference, keeps in ((2_000, True), (100, False)):
        found, promised, budget = alarms_of(
            INDEPENDENT["normal"], serial="raw", rows=20_000, run_length=4_000, reference=reference
        )
        print(f"reference of {reference}: {found} alarms, {promised} promise; budget {budget}")
        assert (found <= budget) is keeps
        assert promised >= 0.97 * found if keeps else promised == 0


def test_a_wager_is_worth_one_where_nothing_changes() -> None:
    table = wagers()
    assert table.shape == (CELLS, 12) and (table > 0).all()
    assert np.abs(table.mean(axis=0) - 1.0).max() < 1e-12
    assert WEIGHTS.shape == (WAGERS,) and (WEIGHTS > 0).all() and abs(WEIGHTS.sum() - 1.0) < 1e-12


def test_ranks_are_uniform_and_independent_of_the_rank_before() -> None:
    for make in INDEPENDENT.values():
        values = make(np.random.default_rng(5), 6_000)[None, :]
        seen = no_evidence(1, 500)
        ranks = []
        for row in range(values.shape[1]):
            watch(
                values, np.zeros(6_000, np.int64), row, row + 1, 1000, 2**62, 0, 1e300, 0, wagers(), seen.counts,
                seen.first, seen.edges, seen.counted, seen.fortunes, seen.serial, seen.recent, seen.parts,
                seen.shares, seen.rise,
            )  # fmt: skip
            ranks.append(seen.serial[0, 0])
        p = np.array(ranks[600:]) / 1.7320508075688772 / 2 + 0.5
        assert stats.kstest(p, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 0.05
        assert seen.counted[0, : BINS + 1].sum() == seen.counted[0, -1] == 5_500


@pytest.mark.parametrize(("shift", "most"), [(1.0, 30), (0.5, 75), (0.25, 200)])
def test_a_shift_is_found_soon(shift: float, most: int) -> None:
    delays = []
    for seed in range(40):
        x = np.random.default_rng(seed).normal(size=6_000)
        x[2_000:] += shift
        alarms, _ = watched(sp.drift("c0", run_length=10_000, warm=500, seed=seed), x)
        after = [offset for offset in alarms["last_offset"].to_list() if offset >= 2_000]
        delays.append(after[0] - 2_000 if after else 4_000)
    print(f"shift {shift}: median delay {np.median(delays)}")
    assert np.median(delays) <= most


def test_small_shifts_are_found_sooner_than_by_adwin_which_speaks_as_often_where_nothing_changes() -> None:
    # At 500 rows between false alarms; ADWIN's loosest setting, .99, is the nearest that it comes.
    ours, rivals = [], []
    for seed in range(100):
        x = np.random.default_rng(5_000 + seed).normal(size=3_000)
        x[2_000:] += 0.25
        alarms, _ = watched(sp.drift("c0", run_length=RUN_LENGTH, warm=50, seed=seed), x)
        theirs, _ = watched(sp.drift("c0", test=drift.ADWIN(delta=0.99)), x)
        for delays, told in ((ours, alarms), (rivals, theirs)):
            delays.append(min((at - 2_000 for at in told["last_offset"].to_list() if at >= 2_000), default=1_000))
    print(f"ours {np.median(ours)}, ADWIN {np.median(rivals)}")
    assert np.median(ours) < np.median(rivals) < 130


def test_an_alarm_names_the_columns_that_moved_and_where() -> None:
    random = np.random.default_rng(7)
    x = random.normal(size=(6_000, 20))
    x[3_000:, [4, 11, 17]] += 1.5
    alarms, _ = watched(sp.drift(*[f"c{i}" for i in range(20)], run_length=100_000), x)
    alarm = alarms.row(0, named=True)
    assert set(alarm["columns"]) <= {"c4", "c11", "c17"} and len(alarm["columns"]) >= 2
    assert 2_900 <= alarm["first_offset"] < alarm["last_offset"] <= 3_050
    assert alarm["evidence"] >= alarm["threshold"] == alarm["run_length"] == 100_000
    assert alarm["columns"][0] in alarm["picture"] and "before" in alarm["picture"]


def test_more_nulls_and_more_spread_are_drift_too() -> None:
    random = np.random.default_rng(17)
    for column in (0, 1):
        x = random.normal(size=(6_000, 4))
        x[3_000:, 0] = np.where(random.random(3_000) < 0.3 * (column == 0), np.nan, x[3_000:, 0])
        x[3_000:, 1] *= 2.0 if column == 1 else 1.0
        alarms, _ = watched(sp.drift("c0", "c1", "c2", "c3", run_length=100_000), x)
        assert alarms["columns"].to_list()[0] == [f"c{column}"]
        assert 2_950 <= alarms["first_offset"][0] < alarms["last_offset"][0] <= 3_150


def test_texts_are_watched_too() -> None:
    random = np.random.default_rng(8)
    before, after = random.choice(["a", "b", "c"], 4_000, p=[0.6, 0.3, 0.1]), random.choice(["a", "b", "d"], 2_000)
    frame = pl.DataFrame({"s": np.concatenate((before, after)), "x": random.normal(size=6_000)})
    alarms, report = watched(sp.drift("s", "x", run_length=50_000, report=1_000), frame)
    assert alarms["columns"].to_list()[0] == ["s"]
    assert 3_900 <= alarms["first_offset"][0] < alarms["last_offset"][0] < 4_200
    assert report is not None and report.filter(pl.col("column") == "x")["promise"].unique().to_list() == ["holds"]
    assert report.filter(pl.col("column") == "s")["rows"][:3].to_list() == [1000, 2000, 3000]


def test_a_text_that_comes_no_more_is_drift() -> None:
    random = np.random.default_rng(13)
    before = random.choice(["a", "b", "c", "d"], 4_000, p=[0.3, 0.3, 0.1, 0.3])
    after = random.choice(["a", "b", "d"], 3_000)
    alarms, _ = watched(sp.drift("s", run_length=50_000), pl.DataFrame({"s": np.concatenate((before, after))}))
    assert alarms.height and 4_000 < alarms["last_offset"][0] < 4_800


@pytest.mark.parametrize("test", ["ks", "psi", "chi2", "wasserstein"])
def test_windows_of_any_size_keep_their_calibrated_threshold(test: str) -> None:
    random, over = np.random.default_rng(9), []
    for n, m in ((1_000, 100), (300, 300)):
        for _ in range(15 if test == "wasserstein" else 60):
            value, threshold = figure(test, random.normal(size=n), random.normal(size=m), 0.02, seed=1)
            over.append(value > threshold)
        moved, threshold = figure(test, random.normal(size=n), random.normal(size=m) + 1.0, 0.001, seed=1)
        assert moved > threshold
    # 120 looks at 2 %: 2.4 expected; 9 would come by chance once in 1,000 times.
    assert sum(over) <= 8


def test_a_fixed_threshold_of_psi_would_alarm_by_the_size_of_the_window() -> None:
    random = np.random.default_rng(10)
    small = [figure("psi", random.normal(size=2_000), random.normal(size=100), 0.01, seed=0) for _ in range(50)]
    large = [figure("psi", random.normal(size=2_000), random.normal(size=2_000), 0.01, seed=0) for _ in range(50)]
    assert np.mean([value > 0.1 for value, _ in small]) > 0.2 and max(value for value, _ in large) < 0.1
    assert small[0][1] > 5 * large[0][1]


@pytest.mark.parametrize("detector", [drift.ADWIN(), drift.PageHinkley(), drift.KSWIN(seed=1)])
def test_rivers_detectors_speak_where_river_does(detector: Any) -> None:
    x = np.random.default_rng(11).normal(size=3_000)
    x[1_500:] += 2.0
    alarms, _ = watched(sp.drift("c0", test=detector), x, sizes=170)
    expected, one = [], detector.clone()
    for row, value in enumerate(x.tolist()):
        one.update(value)
        if one.drift_detected:
            expected.append(row)
            one = detector.clone()
    assert alarms["last_offset"].to_list() == expected and expected
    assert set(alarms["promise"]) == {"none: this detector states no run length"}


def test_mistakes_are_told() -> None:
    with pytest.raises(DefinitionError, match="no seed"):
        sp.drift("x", test=drift.KSWIN())
    with pytest.raises(DefinitionError, match="no test 'kolmogorov'"):
        sp.drift("x", test="kolmogorov")
    with pytest.raises(DefinitionError, match="no column"):
        sp.drift()
    with pytest.raises(DefinitionError, match="run_length=1"):
        sp.drift("x", run_length=1)
    with pytest.raises(UnknownColumn):
        sp.drift("y").operator.schema(StreamType(Schema((Field("x", pl.Float64()),))))
    with pytest.raises(TypeMismatch):
        sp.drift("x").operator.schema(StreamType(Schema((Field("x", pl.List(pl.Int64())),))))


def test_correlation_is_measured_as_it_is() -> None:
    for rho in (0.0, 0.3, 0.6):
        _, report = watched(
            sp.drift("c0", run_length=10**9, report=20_000), autoregressive(np.random.default_rng(12), 20_000, rho)
        )
        assert report is not None
        assert abs(report["autocorrelation"][0] - rho) < 0.06
        assert report["promise"][0].startswith("holds" if rho == 0 else "withdrawn")
