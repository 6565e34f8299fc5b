"""Law 8: each operator equals the row-at-a-time version that was written from the protocol's words alone.

The operator runs over the stream in random pieces, the twin row by row over the whole: so laws 1 and 2 are in it too.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rows import RANK_HERE, SCHEMAS, Recorded, recorded, run

from streamproc.event_time import instant_us
from streamproc.graph import Step, source
from streamproc.operators.aggregates import (
    count,
    distinct,
    first,
    last,
    mean,
    top_k,
    total,
    var,
)
from streamproc.operators.aggregates import max as maximum
from streamproc.operators.aggregates import min as minimum
from streamproc.operators.as_of import as_of
from streamproc.operators.columns import where, with_columns
from streamproc.operators.coverage import Coverage
from streamproc.operators.dedupe import dedupe
from streamproc.operators.join import join
from streamproc.operators.lookback import lookback
from streamproc.operators.ordered import ordered
from streamproc.operators.sessions import session
from streamproc.operators.windows import sliding, tumbling
from streamproc.operators.within import within
from streamproc.testing import naive
from streamproc.testing.naive import Row, Twin, play
from streamproc.testing.naive_joins import AsOf, Join, Within
from streamproc.testing.naive_windows import Lookback, Wanted, Windows

seeds = st.integers(0, 2**40)
cuts = st.lists(st.integers(0, 45), max_size=5)
laws = settings(max_examples=200, deadline=None)
OTHER = source("right", contract="right.v1")

AGGREGATES = {
    "rows": (count(), Wanted("count")),
    "with_n": (count("n"), Wanted("count", "n")),
    "sum_n": (total("n"), Wanted("total", "n", zero=0)),
    "sum_x": (total("x"), Wanted("total", "x")),
    "mean_x": (mean("x"), Wanted("mean", "x")),
    "mean_n": (mean("n"), Wanted("mean", "n")),
    "var_x": (var("x"), Wanted("var", "x")),
    "var_n": (var("n"), Wanted("var", "n")),
    "min_x": (minimum("x"), Wanted("min", "x")),
    "max_x": (maximum("x"), Wanted("max", "x")),
    "min_n": (minimum("n"), Wanted("min", "n")),
    "max_n": (maximum("n"), Wanted("max", "n")),
    "first_n": (first("n"), Wanted("first", "n")),
    "kinds_s": (distinct("s"), Wanted("distinct", "s")),
    "kinds_x": (distinct("x"), Wanted("distinct", "x")),
    "often": (top_k("n", 2), Wanted("top_k", "n", k=2)),
    "last_x": (last("x"), Wanted("last", "x")),
}
LOOKING_BACK = sorted(name for name in AGGREGATES if not name.startswith(("kinds", "often")))
some = st.sets(st.sampled_from(sorted(AGGREGATES)), min_size=1, max_size=4)


def operators(names: set[str]) -> dict[str, Any]:
    return {name: AGGREGATES[name][0] for name in sorted(names)}


def wanted(names: set[str]) -> dict[str, Wanted]:
    return {name: AGGREGATES[name][1] for name in sorted(names)}


def cell(value: Any) -> Any:
    """A value that compares: NaN equals itself, moments are µs, -0.0 is not 0.0."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value.hex()
    if isinstance(value, datetime):
        return instant_us(value.isoformat())
    return value


def comparable(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [
        ({name: cell(value) for name, value in row.values.items()}, row.event_time, row.watermark, row.position)
        for row in rows
    ]


def equal(step: Step, twin: Twin, stream: Recorded, pieces: list[int]) -> None:
    made, late = run(step.operator, stream, pieces)
    expected, expected_late = play(twin, stream.rows, stream.watermarks, RANK_HERE)
    assert comparable(made) == comparable(expected)
    assert comparable(late) == comparable(expected_late)


@laws
@given(seeds, cuts)
def test_where_and_with_columns_equal_their_twins(seed: int, pieces: list[int]) -> None:
    stream = recorded(seed)
    made, late = run(where((pl.col("n") > 0) | (pl.col("s") == "u")).operator, stream, pieces)

    def predicate(values: Any) -> bool | None:
        known = [None if values["n"] is None else values["n"] > 0, None if values["s"] is None else values["s"] == "u"]
        return True if True in known else None if None in known else False

    assert comparable(made) == comparable(naive.where(stream.rows, predicate)) and not late
    made, late = run(with_columns(n=pl.col("n") * 2, z=pl.col("x").is_null()).operator, stream, pieces)
    twin = naive.with_columns(
        stream.rows,
        n=lambda values: None if values["n"] is None else values["n"] * 2,
        z=lambda values: values["x"] is None,
    )
    assert comparable(made) == comparable(twin) and not late


@laws
@given(seeds, cuts, st.sampled_from([(), ("n",), ("s", "n")]))
def test_ordered_equals_its_twin(seed: int, pieces: list[int], by: tuple[str, ...]) -> None:
    equal(ordered(by), naive.Ordered(by), recorded(seed), pieces)


@laws
@given(seeds, cuts, st.sampled_from([("k",), ("n",), ("k", "s")]), st.sampled_from([0, 3, 30]))
def test_dedupe_equals_its_twin(seed: int, pieces: list[int], columns: tuple[str, ...], span: int) -> None:
    step = dedupe(*columns, within=f"{span}us", per="partition")
    equal(step, naive.Dedupe(columns, span), recorded(seed), pieces)


@laws
@given(st.sampled_from(["close", "update"]), seeds, cuts, some, st.sampled_from([1, 5, 16]), st.integers(0, 4))
def test_tumbling_windows_equal_their_twin(
    emit: Any, seed: int, pieces: list[int], names: set[str], span: int, offset: int
) -> None:
    step = tumbling(f"{span}us", emit=emit, offset=f"{offset}us", **operators(names))
    twin = Windows(("k",), wanted(names), span, span, offset, updates=emit == "update")
    equal(step, twin, recorded(seed), pieces)


@laws
@given(st.sampled_from(["close", "update"]), seeds, cuts, some, st.sampled_from([(4, 2), (12, 4), (10, 5)]))
def test_sliding_windows_equal_their_twin(
    emit: Any, seed: int, pieces: list[int], names: set[str], shape: tuple[int, int]
) -> None:
    span, every = shape
    step = sliding(f"{span}us", every=f"{every}us", emit=emit, **operators(names))
    equal(step, Windows(("k",), wanted(names), span, every, updates=emit == "update"), recorded(seed), pieces)


@laws
@given(st.sampled_from(["close", "update"]), seeds, cuts, some, st.sampled_from([1, 4, 15]))
def test_sessions_equal_their_twin(emit: Any, seed: int, pieces: list[int], names: set[str], gap: int) -> None:
    step = session(f"{gap}us", emit=emit, **operators(names))
    equal(step, Windows(("k",), wanted(names), gap_us=gap, updates=emit == "update"), recorded(seed), pieces)


@laws
@given(seeds, cuts, st.sets(st.sampled_from(LOOKING_BACK), min_size=1, max_size=4), st.sampled_from([1, 3, 6, 40]))
def test_lookback_equals_its_twin(seed: int, pieces: list[int], names: set[str], span: int) -> None:
    # Every second aggregate looks back further.
    spans = {name: span + 5 * (place % 2) for place, name in enumerate(sorted(names))}
    step = lookback(**{name: AGGREGATES[name][0].over(f"{spans[name]}us") for name in sorted(names)})
    twin = Lookback({name: (AGGREGATES[name][1], spans[name]) for name in sorted(names)})
    equal(step, twin, recorded(seed), pieces)


@laws
@given(st.booleans(), seeds, cuts, st.sampled_from([None, 0, 6]))
def test_as_of_equals_its_twin(in_order: bool, seed: int, pieces: list[int], age: int | None) -> None:
    step = as_of(OTHER, max_age=None if age is None else f"{age}us", name="rate")
    twin = AsOf({"n": "n_right", "note": "note"}, age, "rate", in_order)
    equal(step, twin, recorded(seed, ports=2, in_order=in_order), pieces)


@laws
@given(st.booleans(), st.booleans(), seeds, cuts, st.sampled_from([None, 0, 6]), st.sampled_from([None, 0, 9, 40]))
def test_as_of_a_table_equals_its_twin(
    in_order: bool, deletes: bool, seed: int, pieces: list[int], age: int | None, gap: int | None
) -> None:
    coverage = covered = None
    if gap is not None:
        begin, end = ("1970-01-01T00:00:00.000005Z", f"1970-01-01T00:00:00.{5 + gap:06d}Z")
        coverage = Coverage(since="1969-12-31T23:59:59.999970Z", gaps=((begin, end),) if gap else ())
        covered = ((-30, 5), (5 + gap, 2**61))
    step = as_of(OTHER, max_age=None if age is None else f"{age}us", name="rate", coverage=coverage)
    columns = {"n": "n_right", "note": "note"}
    twin = AsOf(columns, age, "rate", in_order, "gone" if deletes else "", covered)
    equal(step, twin, recorded(seed, ports=2, in_order=in_order, deletes=deletes), pieces)


@laws
@given(st.sampled_from(["inner", "left", "full"]), st.booleans(), st.booleans(), seeds, cuts)
def test_join_equals_its_twin(how: Any, in_order: bool, deletes: bool, seed: int, pieces: list[int]) -> None:
    columns, right = {name: name for name in "nxs"}, {"n": "n_right", "note": "note"}
    twin = Join(("k",), columns, right, how, ("gone", "gone") if deletes else ("", ""), in_order)
    equal(join(OTHER, how=how), twin, recorded(seed, ports=2, in_order=in_order, deletes=deletes), pieces)


@laws
@given(st.sampled_from(["inner", "left"]), st.booleans(), seeds, cuts, st.sampled_from([(0, 0), (3, 5), (20, 0)]))
def test_within_equals_its_twin(how: Any, in_order: bool, seed: int, pieces: list[int], span: tuple[int, int]) -> None:
    before, after = span
    step = within(OTHER, before=f"{before}us", after=f"{after}us", how=how)
    twin = Within({"n": "n_right", "note": "note"}, before, after, how == "left", in_order)
    equal(step, twin, recorded(seed, ports=2, in_order=in_order), pieces)


def test_the_streams_hold_everything_that_makes_time_hard() -> None:
    streams = [recorded(seed) for seed in range(60)]
    rows = [row for stream in streams for row in stream.rows]
    assert any(row.late for row in rows) and any(row.released for row in rows)
    assert any(not row.late and row.event_time < row.watermark for row in rows)
    assert any(not stream.rows for stream in streams)
    assert {len(batch.frame.columns) for batch in recorded(1, ports=2).ports} == {
        len(schema.fields) for schema in SCHEMAS
    }
