"""`dedupe` lets the first row of each id through."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_port_streams import Row, TestStream, cuts_of, drive, make_stream, stream_types, timed_streams

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, TypeMismatch, UnknownColumn
from streamproc.operator import StreamType
from streamproc.operators.dedupe import dedupe

WITHIN = st.sampled_from([0, 1, 4, 30, 1000])


def naive_dedupe(stream: TestStream, columns: tuple[str, ...], within: int) -> tuple[list[int], list[int]]:
    """Row at a time, and nothing is ever forgotten: accounts that go through, and those that come too late."""
    through: list[Row] = []
    late: list[int] = []
    for row in stream.rows:
        if row.late or row.time < row.watermark:
            late.append(row.account)
        elif not any(
            all(getattr(row, c) == getattr(other, c) for c in columns) and abs(row.time - other.time) <= within
            for other in through
        ):
            through.append(row)
    return [row.account for row in through], late


@settings(max_examples=60, deadline=None)
@given(st.data(), timed_streams(max_rows=45), WITHIN, st.sampled_from([("key",), ("value",), ("key", "value")]))
def test_dedupe_equals_its_twin_that_forgets_nothing(
    data: st.DataObject, stream: TestStream, within: int, columns: tuple[str, ...]
) -> None:
    operator = dedupe(*columns, within=f"{within}us").operator
    result = drive(operator, stream, data.draw(cuts_of(stream)), resume=data.draw(st.booleans()))
    through, late = naive_dedupe(stream, columns, within)
    assert [m[5] for m, _, _ in result.rows] == through
    assert [m[5] for m, _, _ in result.late[0]] == late
    assert result.sorted_fates() == ([], [], [])


@settings(max_examples=30, deadline=None)
@given(st.data(), timed_streams(), WITHIN)
def test_cut_and_resume_change_nothing(data: st.DataObject, stream: TestStream, within: int) -> None:
    operator = dedupe("key", within=f"{within}us").operator
    whole = drive(operator, stream, [])
    for resume in (False, True):
        cut = drive(operator, stream, data.draw(cuts_of(stream)), resume=resume)
        assert (cut.rows, cut.late) == (whole.rows, whole.late)


@settings(max_examples=25, deadline=None)
@given(timed_streams(max_rows=45), WITHIN)
def test_rows_of_other_ids_change_nothing(stream: TestStream, within: int) -> None:
    operator = dedupe("key", within=f"{within}us").operator
    together = drive(operator, stream, range(0, 99, 7))
    for key in ("a", "b", None):
        alone = TestStream(tuple(r for r in stream.rows if r.key == key), stream.watermarks)
        assert drive(operator, alone, [5, 30]).rows == [row for row in together.rows if row[2][0] == key]


def test_memory_is_bounded_by_the_span_and_not_by_the_stream() -> None:
    stream = make_stream(np.random.default_rng(5), 5000, lateness=5, spread=20)
    operator = dedupe("value", within="50us").operator
    (kind,) = stream_types(1)
    state: Any = operator.open(kind)
    rows = tuple(
        Row(0, r.at, r.time, r.key, r.account, r.late, r.released, r.account, r.watermark) for r in stream.rows
    )
    states = []

    class Watched:
        verb, schema, reads = operator.verb, operator.schema, operator.reads

        def open(self, *inputs: StreamType) -> Any:
            return state

        def process(self, state: Any, inputs: Any, time: Any) -> Any:
            out = operator.process(state, inputs, time)
            states.append((int(state.counts[1]), state.table.used))
            return out

    drive(Watched(), TestStream(rows, stream.watermarks), range(0, 5000, 50))
    assert max(states) < (200, 200)


def test_a_repetition_does_not_prolong_the_memory() -> None:
    times = [0, 8, 11, 12]
    rows = tuple(Row(0, i, t, "a", 0, account=i, watermark=0) for i, t in enumerate(times))
    result = drive(dedupe("key", within="10us").operator, TestStream(rows, (0, 0, 0, 0)), [])
    assert [m[5] for m, _, _ in result.rows] == [0, 2]


def test_both_ends_of_the_span_are_inside() -> None:
    times = [20, 10, 30, 9, 31]
    rows = tuple(Row(0, i, t, "a", 0, account=i, watermark=0) for i, t in enumerate(times))
    result = drive(dedupe("key", within="10us").operator, TestStream(rows, (0,) * 5), [2])
    assert [m[5] for m, _, _ in result.rows] == [0, 3, 4]


def test_null_is_an_id_like_any_other() -> None:
    rows = tuple(Row(0, i, i, None, 0, account=i, watermark=0) for i in range(3))
    assert len(drive(dedupe("key").operator, TestStream(rows, (0, 0, 0)), []).rows) == 1


def test_ids_need_columns_that_exist_and_can_be_compared() -> None:
    with pytest.raises(DefinitionError, match="columns of the id"):
        dedupe()
    with pytest.raises(UnknownColumn, match="kye"):
        dedupe("kye").operator.schema(*stream_types(1))
    with pytest.raises(TypeMismatch, match="x"):
        dedupe("x").operator.schema(StreamType(Schema((Field("x", pl.Float64()),))))
    with pytest.raises(DefinitionError, match="per"):
        dedupe("x", per="task")  # type: ignore[arg-type]
