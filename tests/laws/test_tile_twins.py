"""Features over tiles equal a scan over what came before, bit for bit, whatever the stream does to time."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rows import recorded, run, types
from test_feature_twins import COVERED, WHERE, equal, wish

import streamproc as sp
from streamproc.batch import C0, EVENT_TIME, ROW, WATERMARK, WIDTH, Batch
from streamproc.errors import DefinitionError, StreamprocError, TypeMismatch
from streamproc.keys import keys_of
from streamproc.operator import StepTime
from streamproc.operators.aggregates import Aggregate
from streamproc.testing.naive_features import Wish

laws = settings(max_examples=150, deadline=None)
seeds = st.integers(0, 2**40)
cuts = st.lists(st.integers(0, 45), max_size=5)

TILED: dict[str, tuple[Aggregate, Wish]] = {
    "rows": (sp.count(), Wish("count")),
    "with_n": (sp.count("n"), Wish("count", "n")),
    "sum_n": (sp.total("n"), Wish("total", "n", zero=0)),
    "sum_x": (sp.total("x"), Wish("total", "x")),
    "mean_x": (sp.mean("x"), Wish("mean", "x")),
    "var_x": (sp.var("x"), Wish("var", "x")),
    "min_x": (sp.min("x"), Wish("min", "x")),
    "max_n": (sp.max("n"), Wish("max", "n")),
    "min_s": (sp.min("s"), Wish("min", "s")),
    "first_n": (sp.first("n"), Wish("first", "n")),
    "last_s": (sp.last("s"), Wish("last", "s")),
    "middle": (sp.quantile("x", 0.5, error=0.01), Wish("quantile", "x", amount=0.5, error=0.01, bound=2_048)),
    "high": (sp.quantile("n", 0.9, error=0.3, intervals=2), Wish("quantile", "n", amount=0.9, error=0.3, bound=2)),
    "kinds": (sp.distinct("s", exact=8), Wish("distinct", "s", bound=8)),
}  # fmt: skip
names = st.lists(st.sampled_from(sorted(TILED)), min_size=1, max_size=4, unique=True)
tilings = st.sampled_from([(1, 1), (6, 2), (7, 3), (12, 5), (40, 7), (40, 40)])


def tiled(chosen: list[str], span: int, hop: int) -> dict[str, tuple[Aggregate, Wish]]:
    """Every second one looks back further."""
    return {
        name: (TILED[name][0].over(f"{span + 5 * (i % 2)}us", hop=f"{hop}us"),
               wish(TILED[name][1], span_us=span + 5 * (i % 2), hop_us=hop))
        for i, name in enumerate(chosen)
    }  # fmt: skip


@laws
@given(seeds, cuts, names, tilings, st.booleans())
def test_every_feature_over_tiles_equals_a_scan_from_the_cut_before_its_span(
    seed: int, pieces: list[int], chosen: list[str], tiling: tuple[int, int], mixed: bool
) -> None:
    pairs = tiled(chosen, *tiling)
    if mixed:
        pairs["exact"] = sp.total("x").over("6us"), Wish("total", "x", span_us=6)
    equal(recorded(seed), pieces, pairs)


@laws
@given(seeds, cuts, names, tilings, st.sampled_from(sorted(WHERE)), st.sampled_from(["null", "carry"]))
def test_conditions_coverage_and_what_is_carried_hold_over_tiles_too(
    seed: int, pieces: list[int], chosen: list[str], tiling: tuple[int, int], condition: str, absent: str
) -> None:
    predicate, naive = WHERE[condition]
    bounds = COVERED.bounds[0], COVERED.bounds[1], COVERED.gaps_us
    pairs = {}
    for name, (one, wanted) in tiled(chosen, *tiling).items():
        one, wanted = one.where(predicate), wish(wanted, where=naive, covered=bounds)
        if absent == "carry" and name not in ("min_s", "last_s"):
            one, wanted = one.carry("6us"), wish(wanted, absent="carry", other=6)
        pairs[name] = one, wanted
    equal(recorded(seed), pieces, pairs, coverage=COVERED)


@laws
@given(seeds, cuts, st.sampled_from([1, 3, 9]))
def test_extremes_of_text_and_sketches_without_a_begin_are_as_exact_as_the_rest(
    seed: int, pieces: list[int], span: int
) -> None:
    equal(recorded(seed), pieces, {
        "least": (sp.min("s").over(f"{span}us"), Wish("min", "s", span_us=span)),
        "most": (sp.max("s").over("7us"), Wish("max", "s", span_us=7)),
        "first_ever": (sp.min("s").ever(), Wish("min", "s")),
        "kinds": (sp.distinct("n", exact=30).ever(), Wish("distinct", "n", bound=30)),
        "middle": (sp.quantile("x", 0.25, error=0.05).ever(), wish(TILED["middle"][1], amount=0.25, error=0.05)),
    })  # fmt: skip


@laws
@given(seeds, cuts, names, st.sampled_from([(3, 3), (9, 3), (4, 1)]), st.sampled_from([0, 1, 2, 6]))
def test_at_the_bound_a_window_that_lost_a_tile_is_not_covered(
    seed: int, pieces: list[int], chosen: list[str], tiling: tuple[int, int], more: int
) -> None:
    bound = (tiling[0] + 5) // tiling[1] + 2 + more
    equal(recorded(seed), pieces, tiled(chosen, *tiling), events_per_key=bound, at_bound="not_covered")


@laws
@given(seeds, cuts, tilings)
def test_a_count_over_tiles_lies_between_those_of_its_span_and_of_a_hop_more(
    seed: int, pieces: list[int], tiling: tuple[int, int]
) -> None:
    span, hop = tiling
    step = sp.features(
        least=sp.count().over(f"{span}us"), about=sp.count().over(f"{span}us", hop=f"{hop}us"),
        most=sp.count().over(f"{span + hop}us"),
    )  # fmt: skip
    for row in run(step.operator, recorded(seed), pieces)[0]:
        assert row.values["least"] <= row.values["about"] <= row.values["most"]


def days(rows: int) -> Batch:
    """One key for a year, in order of event time."""
    times = np.sort(np.random.default_rng(2).integers(0, 365 * 86_400 * 10**6, rows))
    meta = np.zeros((rows, WIDTH), np.int64)
    meta[:, EVENT_TIME], meta[:, WATERMARK], meta[:, ROW], meta[:, C0] = times, times, 2 * np.arange(rows) + 1, 0
    meta[:, C0 + 1] = np.arange(rows)
    frame = pl.DataFrame({"k": ["a"] * rows, "n": np.arange(rows), "x": times / 1e6, "s": ["v"] * rows})
    return Batch(frame, meta, keys_of(frame, ["k"]))


def test_a_key_holds_as_many_tiles_as_its_window_and_no_event_behind_the_watermark() -> None:
    step = sp.features(
        m=sp.mean("x").over("30d", hop="1d"), kinds=sp.distinct("n", exact=50).over("30d", hop="1d"),
        q=sp.quantile("x", 0.5, error=0.01).over("30d", hop="1d"),
    )  # fmt: skip
    operator: Any = step.operator
    state = operator.open(*types())
    batch = days(20_000)
    for first in range(0, len(batch), 1_000):
        piece = batch.filter((np.arange(len(batch)) >= first) & (np.arange(len(batch)) < first + 1_000))
        state, _ = operator.process(state, (piece,), StepTime(piece.meta[:, EVENT_TIME].copy(), 6))
        tiles = state.tiles[0]
        # A tile, and the slot of it and all front tiles after it; then the back.
        assert tiles.nodes.shape[0] - int(tiles.height[0]) <= 2 * 32 + 2
    assert state.lookback.keys.live == 0
    state, _ = operator.process(state, (batch.filter(np.zeros(len(batch), np.bool_)),),
                                StepTime(np.array([500 * 86_400 * 10**6]), 6))  # fmt: skip
    assert state.tiles[0].keys.live == 0
    assert int(state.tiles[0].height[0]) == state.tiles[0].nodes.shape[0]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (sp.top_k("s", 3).over("30d", hop="1h"), "needs all values"),
        (sp.distinct("s").over("30d", hop="1h"), "exact=1_000"),
        (sp.quantile("x", 0.5).over("30d", hop="1h"), "error=0.01"),
        (sp.ewma("x", "1h").over("30d", hop="1h"), "cannot be made of tiles"),
        (sp.time_since_last().over("30d", hop="1h"), r"\.ever\(\)"),
        (sp.quantile("x", 0.5, error=0.1).over("30d"), "can be exact"),
        (sp.distinct("s", exact=4).over("30d"), "can be exact"),
        (sp.count().over("365d", hop="1s"), "raise events_per_key"),
        (sp.min("nothing").over("30d"), "nothing"),
        (sp.quantile("s", 0.5, error=0.1).ever(), "takes numbers"),
    ],
)
def test_what_cannot_be_bounded_is_refused_with_a_way_out(made: Aggregate, told: str) -> None:
    with pytest.raises(StreamprocError, match=told) as raised:
        sp.features(out=made).operator.schema(*types())
    assert isinstance(raised.value, DefinitionError | TypeMismatch | StreamprocError)


def test_a_hop_longer_than_the_span_is_refused() -> None:
    with pytest.raises(DefinitionError, match="cannot hop"):
        sp.count().over("1h", hop="2h")
