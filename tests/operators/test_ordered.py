"""`ordered` lets rows go in order of event time, however they came."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_port_streams import (
    RANK_UNDER_TEST,
    Row,
    TestStream,
    batch_of,
    coordinate,
    cuts_of,
    drive,
    step_of,
    stream_types,
    timed_streams,
)

from streamproc.batch import ACCOUNT, DUE, EVENT_TIME, LATE, RANK, ROW, WATERMARK, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import TypeMismatch, UnknownColumn
from streamproc.operator import StepTime, StreamType
from streamproc.operators.ordered import ordered

BY = st.sampled_from([(), ("value",), ("key", "value")])


def nulls_first(value: Any) -> tuple[bool, Any]:
    return (value is not None, value if value is not None else 0)


def sort_key(row: Row, by: tuple[str, ...]) -> tuple[Any, ...]:
    cells = {"key": None if row.key is None else row.key.encode(), "value": row.value}
    return (row.time, *(nulls_first(cells[name]) for name in by), coordinate(row))


def naive_ordered(stream: TestStream, by: tuple[str, ...]) -> tuple[list[tuple[Any, ...]], list[int], list[int]]:
    """Row at a time: what goes (event time, position, row), the accounts of late rows, and of those that still wait."""
    waiting: list[Row] = []
    gone: list[tuple[Any, ...]] = []
    late: list[int] = []
    rows = list(stream.rows)
    for at, watermark in enumerate(stream.watermarks):
        waiting += [r for r in rows if r.at == at and r.released]
        due = sorted((r for r in waiting if r.time < watermark), key=lambda r: sort_key(r, by))
        waiting = [r for r in waiting if r.time >= watermark]
        gone += [(2 * at, r.time, r.account, r.key, r.value) for r in due]
        for row in [r for r in rows if r.at == at and not r.released]:
            if row.late or row.time < row.watermark:
                late.append(row.account)
            else:
                waiting.append(row)
    return gone, late, sorted(r.account for r in waiting)


@settings(max_examples=60, deadline=None)
@given(st.data(), timed_streams(), BY)
def test_ordered_equals_its_row_at_a_time_twin_under_any_cut(
    data: st.DataObject, stream: TestStream, by: tuple[str, ...]
) -> None:
    result = drive(ordered(by).operator, stream, data.draw(cuts_of(stream)), resume=data.draw(st.booleans()))
    gone, late, waiting = naive_ordered(stream, by)
    assert [(m[ROW], m[EVENT_TIME], m[5], row[0], row[1]) for m, _, row in result.rows] == gone
    assert [m[5] for m, _, _ in result.late[0]] == late
    held, released, absorbed = result.sorted_fates()
    for account in released:
        held.remove(account)
    assert (held, absorbed) == (waiting, [])


@settings(max_examples=30, deadline=None)
@given(st.data(), timed_streams(), BY)
def test_cut_and_resume_change_nothing(data: st.DataObject, stream: TestStream, by: tuple[str, ...]) -> None:
    operator = ordered(by).operator
    whole = drive(operator, stream, [])
    for resume in (False, True):
        cut = drive(operator, stream, data.draw(cuts_of(stream)), resume=resume)
        assert (cut.rows, cut.late) == (whole.rows, whole.late)


@settings(max_examples=30, deadline=None)
@given(timed_streams())
def test_released_rows_carry_their_own_event_time_and_the_operators_rank(stream: TestStream) -> None:
    result = drive(ordered("value").operator, stream, range(0, 99, 3))
    for meta, _, _ in result.rows:
        assert meta[WATERMARK] == meta[DUE] == meta[EVENT_TIME]
        assert (meta[RANK], meta[LATE], meta[ROW] % 2) == (RANK_UNDER_TEST, 0, 0)
        at = meta[ROW] // 2
        assert stream.watermarks[at] > meta[EVENT_TIME]
        assert at == 0 or stream.watermarks[at - 1] <= meta[EVENT_TIME]


@settings(max_examples=25, deadline=None)
@given(timed_streams())
def test_keys_stay_with_their_rows_and_unkeyed_streams_stay_unkeyed(stream: TestStream) -> None:
    keyed = drive(ordered().operator, stream, range(0, 99, 4))
    for _, key, row in keyed.rows:
        assert key == (b"\xff" if row[0] is None else row[0].encode())
    unkeyed = drive(ordered().operator, stream, range(0, 99, 4), keyed=False)
    assert [(m, None, row) for m, _, row in keyed.rows] == unkeyed.rows


def test_many_waiting_rows_survive_compaction() -> None:
    """Thousands wait and go in another order than they came, while the store closes its holes."""
    n = 6000
    order = [(i * 7919) % 500 + (i // 500) * 500 for i in range(n)]
    marks, high = [], 0
    for t in order:
        high = max(high, t)
        marks.append(high - 600)
    rows = tuple(
        Row(0, i, t, "ab"[t % 2], t, account=i, watermark=w) for i, (t, w) in enumerate(zip(order, marks, strict=True))
    )
    stream = TestStream(rows, tuple(marks))
    result = drive(ordered().operator, stream, range(0, n, 97), resume=False)
    assert [row[1] for _, _, row in result.rows] == sorted(t for t in order if t < marks[-1])
    assert all(key == b"ab"[t % 2 : t % 2 + 1] for _, key, (_, t) in result.rows)


def test_ties_stand_in_order_of_by_nulls_first_then_of_coordinate() -> None:
    values = [3, None, 1, 3]
    rows = tuple(Row(0, i, 10, "a", v, account=i, watermark=0) for i, v in enumerate(values))
    last = Row(0, 4, 11, "a", 9, account=4, watermark=11)
    result = drive(ordered("value").operator, TestStream((*rows, last), (0, 0, 0, 0, 11)), [])
    threes = sorted([rows[0], rows[3]], key=coordinate)
    assert [m[5] for m, _, _ in result.rows] == [1, 2, *(r.account for r in threes)]


def test_a_row_at_the_watermark_waits_because_ties_may_still_come() -> None:
    row = Row(0, 0, 10, "a", 1, watermark=10)
    assert drive(ordered().operator, TestStream((row,), (10,)), []).rows == []


def test_the_stream_below_is_ordered() -> None:
    (stream,) = stream_types(1)
    assert ordered("value").operator.schema(stream).ordered


@pytest.mark.parametrize("dtype", [pl.Float64(), pl.Categorical(), pl.List(pl.Int64()), pl.Struct({"a": pl.Int64()})])
def test_columns_without_a_total_order_are_refused(dtype: pl.DataType) -> None:
    with pytest.raises(TypeMismatch, match="'x'"):
        ordered("x").operator.schema(StreamType(Schema((Field("x", dtype),))))


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(UnknownColumn, match="vlaue"):
        ordered("vlaue").operator.schema(*stream_types(1))


def test_an_empty_step_gives_an_empty_batch() -> None:
    result = drive(ordered().operator, TestStream((), ()), [])
    assert result.rows == []


def test_a_stream_without_columns_is_ordered_too() -> None:
    """Where only the number of rows counts further down, the plan leaves no column."""
    operator = ordered().operator
    state = operator.open(StreamType(Schema(())))
    meta = np.zeros((3, WIDTH), np.int64)
    meta[:, EVENT_TIME], meta[:, ROW], meta[:, ACCOUNT] = [5, 3, 9], [1, 3, 5], [0, 1, 2]
    steps = [(meta[:2], [0, 0]), (meta[2:], [9])]
    rows = []
    for part, marks in steps:
        batch = Batch(pl.DataFrame(height=len(part)), np.ascontiguousarray(part))
        state, output = operator.process(state, (batch,), StepTime(np.array(marks, np.int64), RANK_UNDER_TEST))
        rows += output.rows.meta[:, ACCOUNT].tolist()
    assert rows == [1, 0]


@pytest.mark.parametrize("watermarks", [[], [50]])
def test_a_step_without_rows_gives_only_what_time_releases(watermarks: list[int]) -> None:
    operator = ordered().operator
    state = operator.open(*stream_types(1))
    one = TestStream((Row(0, 0, 10, "a", 1, account=0, watermark=0),), (0,))
    state, _ = operator.process(state, (batch_of(one, 0, keyed=True),), StepTime(np.array([0], np.int64), 7))
    none = step_of(batch_of(one, 0, keyed=True), 5, 6)
    _, output = operator.process(state, (none,), StepTime(np.array(watermarks, np.int64), 7))
    assert output.rows.frame["value"].to_list() == [1] * len(watermarks)
