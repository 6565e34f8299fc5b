"""Every feature equals a scan over everything that came before, bit for bit, on streams that make time hard."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rows import RANK_HERE, Recorded, recorded, run, types
from test_twins import comparable

import streamproc as sp
from streamproc.batch import EVENT_TIME, ROW, WATERMARK, WIDTH, Batch
from streamproc.errors import StreamprocError
from streamproc.feature.together import Together
from streamproc.keys import keys_of
from streamproc.operator import StepTime
from streamproc.operators.aggregates import Aggregate
from streamproc.testing.naive import play
from streamproc.testing.naive_features import Features, Wish

laws = settings(max_examples=150, deadline=None)
seeds = st.integers(0, 2**40)
cuts = st.lists(st.integers(0, 45), max_size=5)

ALL: dict[str, tuple[Aggregate, Wish]] = {
    "rows": (sp.count(), Wish("count")),
    "with_n": (sp.count("n"), Wish("count", "n")),
    "sum_n": (sp.total("n"), Wish("total", "n", zero=0)),
    "sum_x": (sp.total("x"), Wish("total", "x")),
    "mean_x": (sp.mean("x"), Wish("mean", "x")),
    "mean_n": (sp.mean("n"), Wish("mean", "n")),
    "var_x": (sp.var("x"), Wish("var", "x")),
    "min_x": (sp.min("x"), Wish("min", "x")),
    "max_x": (sp.max("x"), Wish("max", "x")),
    "max_n": (sp.max("n"), Wish("max", "n")),
    "first_n": (sp.first("n"), Wish("first", "n")),
    "first_s": (sp.first("s"), Wish("first", "s")),
    "last_x": (sp.last("x"), Wish("last", "x")),
    "last_s": (sp.last("s"), Wish("last", "s")),
    "since": (sp.time_since_last(), Wish("time_since_last")),
    "since_n": (sp.time_since_last("n"), Wish("time_since_last", "n")),
}
"""What spans without a begin have too."""
SCANS: dict[str, tuple[Aggregate, Wish]] = {
    "kinds_s": (sp.distinct("s"), Wish("distinct", "s")),
    "kinds_x": (sp.distinct("x"), Wish("distinct", "x")),
    "often_n": (sp.top_k("n", 2), Wish("top_k", "n", k=2)),
    "often_s": (sp.top_k("s", 3), Wish("top_k", "s", k=3)),
    "median": (sp.quantile("x", 0.5), Wish("quantile", "x", amount=0.5)),
    "high": (sp.quantile("n", 0.9), Wish("quantile", "n", amount=0.9)),
    "least": (sp.quantile("x", 0.0), Wish("quantile", "x", amount=0.0)),
    "average": (sp.ewma("x", "3us"), Wish("ewma", "x", amount=3.0)),
    "average_n": (sp.ewma("n", "40us"), Wish("ewma", "n", amount=40.0)),
    "trend_n": (sp.trend("n"), Wish("trend", "n")),
    "trend_x": (sp.trend("x"), Wish("trend", "x")),
}
BOTH = {**ALL, **SCANS}
FLOATS = (
    "sum_x", "mean_x", "mean_n", "var_x", "min_x", "max_x", "last_x", "median", "high", "least", "average", "trend_n",
)  # fmt: skip
"""Of these an absent value can be any number."""
WHERE: dict[str, tuple[pl.Expr, Callable[[Mapping[str, Any]], bool | None]]] = {
    "positive": (pl.col("n") > 0, lambda values: None if values["n"] is None else values["n"] > 0),
    "u": (pl.col("s") == "u", lambda values: None if values["s"] is None else values["s"] == "u"),
}
COVERED = sp.Coverage(
    since="1970-01-01T00:00:00.000010Z", until="1970-01-01T00:00:00.000090Z",
    gaps=(("1970-01-01T00:00:00.000030Z", "1970-01-01T00:00:00.000032Z"),),
)  # fmt: skip


@st.composite
def coverages(draw: st.DrawFn) -> sp.Coverage:
    """A source that comes and goes where rows are: a begin and an end, or none, and up to three gaps at random."""

    def moment(us: int) -> str:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat()

    since, until = draw(st.none() | st.integers(-60, 40)), draw(st.none() | st.integers(41, 200))
    starts = draw(st.lists(st.tuples(st.integers(-60, 150), st.integers(1, 12)), max_size=3))
    return sp.Coverage(
        since=None if since is None else moment(since), until=None if until is None else moment(until),
        gaps=tuple((moment(begin), moment(begin + length)) for begin, length in starts),
    )  # fmt: skip


names = st.lists(st.sampled_from(sorted(BOTH)), min_size=1, max_size=4, unique=True)


def wish(one: Wish, **more: Any) -> Wish:
    return Wish(**{**{name: getattr(one, name) for name in Wish.__slots__}, **more})


def equal(stream: Recorded, pieces: list[int], pairs: dict[str, tuple[Aggregate, Wish]], **more: Any) -> None:
    step = sp.features(**{name: one for name, (one, _) in pairs.items()}, status=True, **more)
    max_lag = more.get("max_lag")
    twin = Features(
        {name: wanted for name, (_, wanted) in pairs.items()},
        max_lag_us=None if max_lag is None else int(max_lag[:-2]),
        events_per_key=more.get("events_per_key"),
    )
    made, late = run(step.operator, stream, pieces)
    expected, expected_late = play(twin, stream.rows, stream.watermarks, RANK_HERE)
    assert comparable(made) == comparable(expected)
    assert comparable(late) == comparable(expected_late)


def spans(chosen: list[str], span: int) -> dict[str, tuple[Aggregate, Wish]]:
    """Every second one looks back further."""
    return {
        name: (BOTH[name][0].over(f"{span + 5 * (i % 2)}us"), wish(BOTH[name][1], span_us=span + 5 * (i % 2)))
        for i, name in enumerate(chosen)
    }


@laws
@given(seeds, cuts, names, st.sampled_from([1, 3, 6, 40]))
def test_every_feature_equals_a_scan_of_what_came_before(
    seed: int, pieces: list[int], chosen: list[str], span: int
) -> None:
    equal(recorded(seed), pieces, spans(chosen, span))


@laws
@given(seeds, cuts, names, st.sampled_from([3, 12]), st.sampled_from(sorted(WHERE)))
def test_only_rows_under_the_condition_count(
    seed: int, pieces: list[int], chosen: list[str], span: int, condition: str
) -> None:
    predicate, naive = WHERE[condition]
    pairs = {
        name: (one.where(predicate), wish(wanted, where=naive)) if i % 2 == 0 else (one, wanted)
        for i, (name, (one, wanted)) in enumerate(spans(chosen, span).items())
    }
    equal(recorded(seed), pieces, pairs)


@laws
@given(seeds, cuts, st.lists(st.sampled_from(sorted(ALL)), min_size=1, max_size=4, unique=True), st.booleans())
def test_windows_without_a_begin_see_all_that_came(
    seed: int, pieces: list[int], chosen: list[str], mixed: bool
) -> None:
    pairs = {name: (ALL[name][0].ever(), ALL[name][1]) for name in chosen}
    if mixed:
        pairs |= {f"{name}_7": (ALL[name][0].over("7us"), wish(ALL[name][1], span_us=7)) for name in chosen[:2]}
    equal(recorded(seed), pieces, pairs)


@laws
@given(seeds, cuts, names, st.sampled_from([1, 4, 12]), st.sampled_from(["null", "default", "carry"]), coverages())
def test_what_is_not_covered_is_never_a_value(
    seed: int, pieces: list[int], chosen: list[str], span: int, absent: str, covered: sp.Coverage
) -> None:
    bounds = covered.bounds[0], covered.bounds[1], covered.gaps_us
    pairs = {}
    for name, (one, wanted) in spans(chosen, span).items():
        if name in ("kinds_s", "often_s", "often_n", "first_s", "last_s") or absent == "null":
            pairs[name] = one, wish(wanted, covered=bounds)
        elif absent == "default":
            value = 7.0 if (name.endswith("x") and not name.startswith("kinds")) or name in (
                "median", "high", "least", "average", "average_n", "trend_n", "mean_n") else 7  # fmt: skip
            pairs[name] = one.default(value), wish(wanted, covered=bounds, absent="default", other=value)
        else:
            pairs[name] = one.carry("6us"), wish(wanted, covered=bounds, absent="carry", other=6)
    equal(recorded(seed), pieces, pairs, coverage=covered)


@laws
@given(seeds, cuts, names, st.sampled_from([1, 4, 12]), coverages())
def test_gaps_at_random_never_give_zero_or_nan_and_the_indicator_tells_them_apart(
    seed: int, pieces: list[int], chosen: list[str], span: int, covered: sp.Coverage
) -> None:
    """Moment by moment: nothing here knows how the step asks its coverage."""
    made = {name: BOTH[name][0].over(f"{span}us") for name in chosen}
    told = {f"{name}_or": one.indicator(-7.5) for name, one in made.items() if name in FLOATS}
    rows, _ = run(sp.features(**made, **told, coverage=covered, status=True).operator, recorded(seed), pieces)
    for row in rows:
        moments = range(row.event_time - span + 1, row.event_time + 1)
        unknown = any(
            not covered.bounds[0] <= t < covered.bounds[1] or any(a <= t < b for a, b in covered.gaps_us)
            for t in moments
        )
        for name in made:
            value, status = row.values[name], row.values[f"{name}_status"]
            assert (status == "NOT_COVERED") == unknown
            assert value is None if status != "VALUE" else value is not None
            assert not isinstance(value, float) or math.isfinite(value)
            if f"{name}_or" in told:
                assert row.values[f"{name}_or_known"] == (status == "VALUE")
                assert row.values[f"{name}_or"] == (-7.5 if value is None else value)


@laws
@given(seeds, cuts, names, st.sampled_from([0, 2, 6]))
def test_a_source_that_lags_is_said(seed: int, pieces: list[int], chosen: list[str], lag: int) -> None:
    equal(recorded(seed), pieces, spans(chosen, 9), max_lag=f"{lag}us")


@laws
@given(seeds, cuts, names, st.sampled_from([1, 2, 5]), st.sampled_from([4, 30]), st.booleans())
def test_at_the_bound_a_window_that_lost_rows_is_not_covered(
    seed: int, pieces: list[int], chosen: list[str], bound: int, span: int, ever: bool
) -> None:
    pairs = spans(chosen, span)
    if ever:
        pairs["all"] = sp.total("n").ever(), Wish("total", "n", zero=0)
        pairs["last"] = sp.last("x").ever(), Wish("last", "x")
    equal(recorded(seed), pieces, pairs, events_per_key=bound, at_bound="not_covered")


@pytest.mark.parametrize("hop", [None, "3us"])
def test_at_the_bound_the_task_stops_and_says_what_to_do_and_one_below_it_goes_on(hop: str | None) -> None:
    """Twelve rows of a key, all within the window and after the watermark: each is one that the key has to keep."""
    frame = pl.DataFrame({"k": ["a"] * 12, "n": [1] * 12, "x": [1.0] * 12, "s": [""] * 12})
    meta = np.zeros((12, WIDTH), np.int64)
    meta[:, EVENT_TIME] = np.arange(1, 13)
    meta[:, ROW] = 2 * np.arange(12) + 1
    batch = Batch(frame, meta, keys_of(frame, ["k"]))

    def counted(bound: int) -> list[int]:
        step = sp.features(made=sp.count().over("12us", hop=hop), events_per_key=bound).operator
        _, output = step.process(step.open(*types()), (batch,), StepTime(meta[:, WATERMARK].copy(), 1))
        return output.rows.frame["made"].to_list()

    assert counted(12) == list(range(1, 13))
    with pytest.raises(StreamprocError, match="a key has more than 11 events in its window") as stopped:
        counted(11)
    assert "raise events_per_key" in str(stopped.value.hint) and "at_bound='not_covered'" in str(stopped.value.hint)


def test_together_is_all_rows_in_order_with_the_name_of_their_source() -> None:
    for seed in range(100):
        stream = recorded(seed, ports=2)
        columns = ("k", "n", "x", "s", "note")
        expected = [
            replace(row, values={**{name: row.values.get(name) for name in columns}, "source": "ab"[row.port]}, port=0)
            for row in sorted(stream.rows, key=lambda row: (row.position, row.port))
        ]
        made, late = run(Together(("a", "b")), stream, [7, 20])
        assert comparable(made) == comparable(expected) and not late


def test_no_feature_gives_nan_or_an_infinity() -> None:
    for seed in range(200):
        stream = recorded(seed)
        made, _ = run(sp.features(**{name: one.over("9us") for name, (one, _) in BOTH.items()}).operator, stream, [])
        for row in made:
            floats = [value for name, value in row.values.items() if isinstance(value, float) and name not in ("x",)]
            assert np.isfinite(floats).all()
