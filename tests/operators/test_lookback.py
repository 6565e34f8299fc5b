"""Look-backs keep the laws, and equal a scan of everything that came before."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_aggregates import naive
from timed_streams import RANK_HERE, STREAM, Ran, Stream, cuts, random_stream, run, same, streams

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, EVENT_TIME, LATE, ROW, WATERMARK
from streamproc.errors import DefinitionError, DuplicateName
from streamproc.event_time import span_us
from streamproc.operator import StepTime
from streamproc.operators import aggregates as of
from streamproc.operators.lookback import Lookback, lookback
from streamproc.state import export_state, import_state

LAWS = settings(max_examples=60, deadline=None)
POOL: list[of.Aggregate] = [
    of.count(), of.count("x"), of.total("x"), of.total("i"), of.total("d"), of.mean("x"), of.mean("i"), of.mean("d"),
    of.var("x"), of.var("i"), of.min("x"), of.max("x"), of.min("i"), of.max("i"), of.first("x"), of.last("x"),
    of.last("i"),
]  # fmt: skip


def operators() -> st.SearchStrategy[Any]:
    """Look-backs of up to five aggregates over several spans."""
    one = st.builds(
        lambda a, span: a.over(span), st.sampled_from(POOL), st.sampled_from(["1us", "2s", "5s", "20s", "1m"])
    )
    return st.lists(one, min_size=1, max_size=5).map(
        lambda some: lookback(**{f"a{i}": a for i, a in enumerate(some)}).operator
    )


def twin(operator: Lookback, stream: Stream) -> tuple[list[tuple[Any, ...]], list[int]]:
    """(aggregates of each row in time, indices of late rows)."""
    seen: list[dict[str, Any]] = []
    results, late = [], []
    for i, cells in enumerate(stream.batch.frame.iter_rows(named=True)):
        meta = stream.batch.meta[i]
        t = int(meta[EVENT_TIME])
        if meta[LATE] or t < meta[WATERMARK]:
            late.append(i)
            continue
        seen.append({**cells, "t": t, "place": tuple(int(meta[at]) for at in (EVENT_TIME, C0, C1, C2, C3))})
        values = []
        for _, aggregate in operator.aggregates:
            rows = [row for row in seen if row["k"] == cells["k"] and t - aggregate.span_us < row["t"] <= t]
            values.append(naive(aggregate, rows))
        results.append((*cells.values(), *values))
    return results, late


@LAWS
@given(operators(), streams())
def test_a_lookback_equals_its_twin(operator: Any, stream: Stream) -> None:
    ran = run(operator, stream)
    expected, late = twin(operator, stream)
    assert [tuple(map(repr, row)) for row in ran.rows.frame.iter_rows()] == [tuple(map(repr, row)) for row in expected]
    assert ([] if ran.late is None else ran.late.meta[:, ACCOUNT].tolist()) == late
    kept = np.setdiff1d(np.arange(len(stream.batch)), late)
    assert (ran.rows.meta == stream.batch.meta[kept]).all(), "a row keeps its place, fate and coordinate"
    promised = operator.schema(STREAM)
    assert ran.rows.frame.schema == promised.schema.polars()
    for column in promised.schema:
        assert column.nullable or not ran.rows.frame[column.name].null_count()


@LAWS
@given(operators(), streams(), cuts())
def test_neither_a_cut_nor_a_snapshot_shows(operator: Any, stream: Stream, places: list[int]) -> None:
    def restored(state: Any) -> Any:
        return import_state(operator.open(STREAM), {name: array.copy() for name, array in export_state(state).items()})

    whole = run(operator, stream)
    same(whole, run(operator, stream, places))
    same(whole, run(operator, stream, places, through=restored))


@LAWS
@given(operators(), streams())
def test_keys_do_not_meet(operator: Any, stream: Stream) -> None:
    together = [tuple(map(repr, row)) for row in run(operator, stream).rows.frame.iter_rows()]
    for key in stream.batch.frame["k"].unique().to_list():
        alone = Stream(stream.batch.filter((stream.batch.frame["k"] == key).to_numpy()), stream.watermarks)
        mine = [tuple(map(repr, row)) for row in run(operator, alone).rows.frame.iter_rows()]
        assert mine == [row for row in together if row[0] == repr(key)]


@LAWS
@given(operators(), streams())
def test_at_the_end_of_time_nothing_is_kept(operator: Any, stream: Stream) -> None:
    state = run(operator, stream).state
    assert not state.keys.live
    assert state.counters[0] == state.counters[1]
    assert state.sums.free_count[0] == state.sums.free.size


def _busy(rows: int, disorder: int) -> Stream:
    """One key, a row a second, each up to `disorder` seconds out of place."""
    stream = random_stream(5, rows=rows, keys=1)
    meta = stream.batch.meta.copy()
    times = np.arange(rows) - np.random.default_rng(3).integers(0, disorder + 1, rows)
    meta[:, EVENT_TIME] = times * 1_000_000
    meta[:, WATERMARK] = (np.maximum.accumulate(times) - disorder) * 1_000_000
    meta[:, LATE], meta[:, ROW] = 0, 2 * np.arange(rows) + 1
    meta[:, 3:5] = 0
    return Stream(type(stream.batch)(stream.batch.frame, meta, stream.batch.keys), meta[:, WATERMARK].copy())


def test_long_windows_out_of_order_equal_their_twin() -> None:
    operator: Any = lookback(**{f"a{i}": a.over("5m") for i, a in enumerate(POOL)}).operator
    stream = _busy(900, 40)
    ran = run(operator, stream, [100, 500])
    expected, late = twin(operator, stream)
    assert not late
    assert [tuple(map(repr, row)) for row in ran.rows.frame.iter_rows()] == [tuple(map(repr, row)) for row in expected]


def test_only_the_longest_span_and_the_lateness_are_kept() -> None:
    operator = lookback(n=of.count().over("10s"), s=of.total("x").over("1m")).operator
    stream = _busy(5_000, 20)
    state = operator.open(STREAM)
    state, _ = operator.process(state, (stream.batch,), StepTime(stream.watermarks, RANK_HERE))
    assert state.counters[1] - state.counters[0] <= 60 + 2 * 20 + 1
    assert span_us("1m") == operator.aggregates[1][1].span_us


def test_a_span_ends_just_before_its_own_length() -> None:
    frame = pl.DataFrame({"k": ["a"] * 3, "x": [1.0, 2.0, 4.0], "i": [0] * 3, "s": [""] * 3}).with_columns(
        d=pl.lit(None, pl.Decimal(20, 2))
    )
    stream = random_stream(1, rows=3, keys=1)
    meta = stream.batch.meta.copy()
    meta[:, EVENT_TIME], meta[:, WATERMARK], meta[:, LATE] = np.array([0, 10, 20]) * 1_000_000, 0, 0
    meta[:, ROW], meta[:, 3:5] = [1, 3, 5], 0
    ran: Ran = run(
        lookback(s=of.total("x").over("10s"), l=of.total("x").over("10s1us")).operator,
        Stream(type(stream.batch)(frame, meta, stream.batch.keys), np.zeros(3, np.int64)),
    )
    assert ran.rows.frame["s"].to_list() == [1.0, 2.0, 4.0]
    assert ran.rows.frame["l"].to_list() == [1.0, 3.0, 6.0]


def test_what_cannot_look_back_is_said_at_once() -> None:
    with pytest.raises(DefinitionError, match=r"n=count\(\) has no span; write for example count\(\)\.over\('1h'\)"):
        lookback(n=of.count()).operator.open(STREAM)
    with pytest.raises(DefinitionError, match="holds no row"):
        of.count().over("0s")
    with pytest.raises(DuplicateName, match="already has a column 'x'"):
        lookback(x=of.count().over("1h")).operator.schema(STREAM)
    with pytest.raises(DefinitionError, match="no aggregate"):
        lookback()
