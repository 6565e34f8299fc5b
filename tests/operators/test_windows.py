"""Tumbling and sliding windows keep the laws, and equal a window at a time in Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_aggregates import Row, naive
from timed_streams import STREAM, Ran, Stream, bits, cuts, run, same, streams

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, DUE, EVENT_TIME, LATE, RANK, ROW, WATERMARK
from streamproc.errors import DefinitionError, TypeMismatch, UnknownColumn
from streamproc.operators import aggregates as of
from streamproc.operators.sessions import Sessions, session
from streamproc.operators.windows import Windows, sliding, tumbling
from streamproc.state import export_state, import_state

LAWS = settings(max_examples=60, deadline=None)
SECOND = 1_000_000
ALL: dict[str, of.Aggregate] = {
    "n": of.count(),
    "nx": of.count("x"),
    "total_x": of.total("x"),
    "total_i": of.total("i"),
    "total_d": of.total("d"),
    "mean_x": of.mean("x"),
    "mean_i": of.mean("i"),
    "mean_d": of.mean("d"),
    "var_x": of.var("x"),
    "var_i": of.var("i"),
    "min_x": of.min("x"),
    "max_x": of.max("x"),
    "max_i": of.max("i"),
    "first_x": of.first("x"),
    "last_i": of.last("i"),
    "min_s": of.min("s"),
    "max_s": of.max("s"),
    "min_d": of.min("d"),
    "max_d": of.max("d"),
    "first_s": of.first("s"),
    "last_d": of.last("d"),
    "distinct_x": of.distinct("x"),
    "distinct_s": of.distinct("s"),
    "distinct_d": of.distinct("d"),
    "top_x": of.top_k("x", 2),
    "top_s": of.top_k("s", 2),
    "top_i": of.top_k("i", 3),
}


NAMES = sorted(ALL)


EITHER = st.sampled_from(["close", "update"])


def operators(emit: Any = EITHER) -> st.SearchStrategy[Any]:
    """Window operators of every verb, with up to five aggregates."""
    some = st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True).map(lambda ns: {n: ALL[n] for n in ns})
    spans = st.sampled_from(["1s", "4s", "10s", "7s", "1m"])
    pairs = st.sampled_from([("10s", "5s"), ("10s", "4s"), ("6s", "1s")])
    return st.one_of(
        st.builds(
            lambda s, e, o, a: tumbling(s, emit=e, offset=o, **a).operator,
            spans,
            emit,
            st.sampled_from(["0s", "3s"]),
            some,
        ),
        st.builds(lambda pair, e, a: sliding(pair[0], every=pair[1], emit=e, **a).operator, pairs, emit, some),
        st.builds(lambda g, e, a: session(g, emit=e, **a).operator, st.sampled_from(["1s", "3s", "10s"]), emit, some),
    )


# ── the twin: one row at a time ──────────────────────────────────────────────────────────────────────────────────────


def _rows(stream: Stream) -> list[Row]:
    rows = []
    for i, cells in enumerate(stream.batch.frame.iter_rows(named=True)):
        meta = stream.batch.meta[i]
        reached = int(meta[WATERMARK]) if meta[ROW] & 1 else int(meta[DUE]) - 1
        place = tuple(int(meta[at]) for at in (EVENT_TIME, C0, C1, C2, C3))
        rows.append({**cells, "place": place, "t": int(meta[EVENT_TIME]), "reached": reached, "index": i,
                     "late": bool(meta[LATE]), "key": cells["k"].encode()})  # fmt: skip
    return rows


def twin(operator: Windows | Sessions, stream: Stream) -> tuple[list[tuple[Any, ...]], list[int]]:
    """(result rows, in order; indices of late rows), with windows as lists of rows."""
    opened: list[dict[str, Any]] = []
    results: list[tuple[Any, ...]] = []
    late: list[int] = []
    rows = _rows(stream)

    def show(window: dict[str, Any], position: tuple[int, int, int], revision: int) -> None:
        values = [naive(aggregate, window["rows"]) for _, aggregate in operator.aggregates]
        results.append(
            (window["name"], window["start"], window["end"], *values, *([revision] if revision else []), position)
        )

    def close(until: int) -> None:
        for window in sorted((w for w in opened if w["end"] <= until), key=lambda w: (w["end"], w["key"])):
            if operator.emit == "close":
                show(window, (2 * int(np.searchsorted(stream.watermarks, window["end"])), window["end"], 5), 0)
            opened.remove(window)

    def fitting(row: Row) -> list[dict[str, Any]]:
        if isinstance(operator, Sessions):
            found = [
                w
                for w in opened
                if w["key"] == row["key"] and w["start"] < row["t"] + operator.gap_us and row["t"] < w["end"]
            ]
            end = max([row["t"] + operator.gap_us, *[w["end"] for w in found]])
            if end <= row["reached"]:
                return []
            for window in found:
                opened.remove(window)
            merged = [r for window in found for r in window["rows"]]
            start = min([row["t"], *[w["start"] for w in found]])
            opened.append({"key": row["key"], "name": row["k"], "start": start, "end": end, "rows": merged})
            return [opened[-1]]
        found = []
        start = (row["t"] - operator.offset_us) // operator.every_us * operator.every_us + operator.offset_us
        while start + operator.span_us > row["t"]:
            if start + operator.span_us > row["reached"]:
                mine = [w for w in opened if w["key"] == row["key"] and w["start"] == start]
                if not mine:
                    mine = [
                        {
                            "key": row["key"],
                            "name": row["k"],
                            "start": start,
                            "end": start + operator.span_us,
                            "rows": [],
                        }
                    ]
                    opened.extend(mine)
                found = mine + found
            start -= operator.every_us
        return found

    for row in rows:
        close(row["reached"])
        windows = [] if row["late"] else fitting(row)
        if not windows:
            late.append(row["index"])
        for window in windows:
            window["rows"].append(row)
            if operator.emit == "update":
                meta = stream.batch.meta[row["index"]]
                show(window, (int(meta[ROW]), int(meta[DUE]), int(meta[RANK])), len(window["rows"]))
    if stream.watermarks.size:
        close(int(stream.watermarks[-1]))
    return results, late


def shown(ran: Ran) -> list[tuple[Any, ...]]:
    """Results in the form of the twin's."""
    frame = ran.rows.frame.with_columns(pl.col("window_start", "window_end").to_physical())
    meta = ran.rows.meta
    return [(*row, tuple(int(v) for v in meta[i, [ROW, DUE, RANK]])) for i, row in enumerate(frame.iter_rows())]


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@LAWS
@given(operators(), streams())
def test_windows_equal_their_twin(operator: Any, stream: Stream) -> None:
    ran = run(operator, stream)
    expected, late = twin(operator, stream)
    assert [tuple(map(repr, row)) for row in shown(ran)] == [tuple(map(repr, row)) for row in expected]
    assert ([] if ran.late is None else ran.late.meta[:, ACCOUNT].tolist()) == late
    assert sorted([*ran.absorbed.tolist(), *late]) == list(range(len(stream.batch)))
    if operator.emit == "close":
        ends = ran.rows.frame["window_end"].to_physical().to_numpy()
        assert (ran.rows.meta[:, [EVENT_TIME, WATERMARK, DUE]] == ends[:, None]).all()
        assert (np.diff(ends) >= 0).all()
        assert (ran.rows.meta[:, ACCOUNT] == -1).all()


@LAWS
@given(operators(), streams(), cuts())
def test_a_cut_does_not_show(operator: Any, stream: Stream, places: list[int]) -> None:
    same(run(operator, stream), run(operator, stream, places))


@LAWS
@given(operators(), streams(), cuts())
def test_a_snapshot_between_any_two_batches_changes_nothing(operator: Any, stream: Stream, places: list[int]) -> None:
    def restored(state: Any) -> Any:
        arrays = {name: array.copy() for name, array in export_state(state).items()}
        again = import_state(operator.open(STREAM), arrays)
        assert {name: array.tobytes() for name, array in export_state(again).items()} == {
            name: array.tobytes() for name, array in arrays.items()
        }
        return again

    same(run(operator, stream), run(operator, stream, places, through=restored))


@LAWS
@given(operators(), streams(close=False))
def test_keys_do_not_meet(operator: Any, stream: Stream) -> None:
    together = shown(run(operator, stream))
    for key in stream.batch.frame["k"].unique().to_list():
        alone = Stream(stream.batch.filter((stream.batch.frame["k"] == key).to_numpy()), stream.watermarks)
        assert [tuple(map(repr, row)) for row in shown(run(operator, alone))] == [
            tuple(map(repr, row)) for row in together if row[0] == key
        ]


@LAWS
@given(operators(), streams())
def test_the_promised_schema_is_the_schema_given(operator: Any, stream: Stream) -> None:
    promised = operator.schema(STREAM)
    ran = run(operator, stream)
    assert ran.rows.frame.schema == promised.schema.polars()
    for column in promised.schema:
        assert column.nullable or not ran.rows.frame[column.name].null_count()
    empty = Stream(stream.batch.take(np.empty(0, np.int64)), stream.watermarks)
    nothing = run(operator, empty)
    assert not len(nothing.rows) and nothing.rows.frame.schema == promised.schema.polars()


@LAWS
@given(operators(), streams())
def test_closed_windows_leave_nothing_behind(operator: Any, stream: Stream) -> None:
    state = run(operator, stream).state
    if isinstance(operator, Sessions):
        assert not state.table.keys.live and state.table.counters[0] == state.table.counters[1]
    else:
        assert not state.panes.keys.live and not state.panes.table.live and not state.panes.ends.size


@LAWS
@given(operators(st.just("close")), streams(), st.randoms(use_true_random=False))
def test_the_order_of_rows_in_time_does_not_matter(operator: Any, stream: Stream, random: Any) -> None:
    """With nothing late and time standing still, windows hold sets of rows."""
    meta = stream.batch.meta.copy()
    meta[:, WATERMARK], meta[:, LATE], meta[:, DUE], meta[:, RANK] = -(2**62), 0, 0, 0
    meta[:, ROW] = 2 * np.arange(len(meta)) + 1
    marks = np.full(len(meta) + 1, -(2**62))
    marks[-1] = 2**62
    order = list(range(len(meta)))
    random.shuffle(order)
    still = Stream(type(stream.batch)(stream.batch.frame, meta, stream.batch.keys), marks)
    moved = still.batch.take(np.array(order, np.int64))
    moved.meta[:, ROW] = 2 * np.arange(len(meta)) + 1
    assert bits(run(operator, still).rows.frame) == bits(run(operator, Stream(moved, marks)).rows.frame)


# ── examples ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_row_closes_a_hundred_thousand_windows_by_end_then_key() -> None:
    n = 100_000
    from timed_streams import random_stream

    stream = random_stream(1, rows=n, keys=8)
    meta = stream.batch.meta.copy()
    meta[:, EVENT_TIME] = np.arange(n)[::-1] * SECOND
    meta[:, WATERMARK], meta[:, LATE] = -(2**62), 0
    meta[:, ROW], meta[:, DUE], meta[:, RANK] = 2 * np.arange(n) + 1, 0, 0
    marks = np.append(np.full(n, -(2**62)), 2**62)
    ran = run(
        tumbling("1s", n=of.count()).operator,
        Stream(type(stream.batch)(stream.batch.frame, meta, stream.batch.keys), marks),
    )
    assert ran.rows.frame["window_start"].to_physical().to_list() == [i * SECOND for i in range(n)]
    assert (ran.rows.meta[:, ROW] == 2 * n).all()


def test_a_row_on_the_boundary_belongs_to_the_later_window_and_a_tie_is_never_late() -> None:
    operator = tumbling("10s", n=of.count()).operator
    frame = pl.DataFrame({"k": ["a", "a", "a"], "x": [1.0, 2.0, 3.0], "i": [1, 2, 3], "s": ["", "", ""]})
    from streamproc.batch import WIDTH, Batch
    from streamproc.keys import keys_of

    meta = np.zeros((3, WIDTH), np.int64)
    meta[:, EVENT_TIME] = np.array([9_999_999, 10_000_000, 9_999_999])
    meta[:, WATERMARK] = np.array([9_999_999, 10_000_000, 10_000_000])
    meta[:, ROW] = [1, 3, 5]
    ran = run(operator, Stream(Batch(frame, meta, keys_of(frame, ["k"])), meta[:, WATERMARK].copy()))
    assert ran.rows.frame["n"].to_list() == [1]
    assert ran.rows.meta[0, ROW] == 2, "released before the row that moved time"
    assert ran.late is not None and ran.late.frame["x"].to_list() == [3.0]


def test_what_cannot_be_planned_is_said_at_once() -> None:
    with pytest.raises(UnknownColumn, match="amont"):
        tumbling("1h", spend=of.total("amont")).operator.schema(STREAM)
    with pytest.raises(TypeMismatch, match=r"total\('s'\) takes numbers"):
        tumbling("1h", spend=of.total("s")).operator.schema(STREAM)
    with pytest.raises(DefinitionError, match="needs a keyed stream"):
        tumbling("1h", n=of.count()).operator.schema(type(STREAM)(STREAM.schema))
    with pytest.raises(DefinitionError, match="leave rows in no window"):
        sliding("1h", every="2h", n=of.count())
    with pytest.raises(DefinitionError, match="no aggregate"):
        tumbling("1h")
    with pytest.raises(DefinitionError, match="two columns are named 'k'"):
        tumbling("1h", k=of.count()).operator.schema(STREAM)
