"""`as_of` gives each row the newest row of another stream at its own event time."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_port_streams import Row, TestStream, cuts_of, drive, make_stream, stream_types, timed_streams

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn
from streamproc.graph import Stream
from streamproc.operator import Operator, StreamType
from streamproc.operators.as_of import AsOf, as_of

AGES = st.sampled_from([None, 0, 3, 20])


def joined(max_age: int | None = None, **more: Any) -> Operator:
    other = Stream(AsOf(None, "_right", None, "as_of"))
    return as_of(other, max_age=None if max_age is None else f"{max_age}us", **more).operator


def naive_as_of(
    stream: TestStream, max_age: int | None, *, in_order: bool = False
) -> tuple[list[tuple[Any, ...]], list[list[int]], list[int]]:
    """Row at a time over all right rows ever: output rows, late accounts per port, absorbed accounts."""
    rights: list[Row] = []
    out: list[tuple[Any, ...]] = []
    late: list[list[int]] = [[], []]
    absorbed: list[int] = []
    rows = (
        sorted(stream.rows, key=lambda r: (r.at, r.time, -r.port))
        if in_order
        else sorted(stream.rows, key=lambda r: (r.position, r.port))
    )
    for row in rows:
        if row.late or row.time < row.watermark:
            late[row.port].append(row.account)
        elif row.port == 1:
            rights.append(row)
            absorbed.append(row.account)
        else:
            known = [(r.time, i, r) for i, r in enumerate(rights) if r.key == row.key and r.time <= row.time]
            best = max(known)[2] if known else None
            age = None if best is None else row.time - best.time
            horizon = None if max_age is None else 2 * max_age
            if best is None or (horizon is not None and age > horizon):
                right, status, age = (None, None), "MISSING", None
            elif max_age is not None and age > max_age:
                right, status = (None, None), "EXPIRED"
            else:
                right, status = (best.value, None if best.value is None else f"n{best.account}"), "MATCHED"
            out.append((row.account, (row.key, row.value, *right, status, age)))
    return out, late, sorted(absorbed)


@settings(max_examples=60, deadline=None)
@given(st.data(), timed_streams(ports=2, max_rows=45), AGES)
def test_in_order_of_arrival_as_of_equals_its_twin_that_forgets_nothing(
    data: st.DataObject, stream: TestStream, max_age: int | None
) -> None:
    result = drive(joined(max_age), stream, data.draw(cuts_of(stream)), resume=data.draw(st.booleans()))
    out, late, absorbed = naive_as_of(stream, max_age)
    assert [(m[5], row) for m, _, row in result.rows] == out
    assert [[m[5] for m, _, _ in port] for port in result.late] == late
    assert result.sorted_fates() == ([], [], absorbed)


@settings(max_examples=60, deadline=None)
@given(st.data(), timed_streams(ports=2, max_rows=45, in_order=True), AGES)
def test_below_ordered_every_right_row_up_to_the_left_one_counts(
    data: st.DataObject, stream: TestStream, max_age: int | None
) -> None:
    result = drive(joined(max_age), stream, data.draw(cuts_of(stream)), resume=data.draw(st.booleans()), ordered=True)
    out, _, absorbed = naive_as_of(stream, max_age, in_order=True)
    assert [(m[5], row) for m, _, row in result.rows] == out
    assert result.sorted_fates() == ([], [], absorbed)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1), AGES)
def test_ordered_inputs_wait_until_the_watermark_has_passed_them(
    data: st.DataObject, seed: int, max_age: int | None
) -> None:
    """Both inputs come in order of event time as input rows, as from a topic, with a watermark that lags behind."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.integers(0, 4, 40))
    marks = np.maximum.accumulate(np.maximum(0, times - random.integers(0, 8, 40)))
    rows = tuple(
        Row(
            int(random.integers(2)),
            i,
            int(t),
            "ab"[int(random.integers(2))],
            int(random.integers(4)),
            account=i,
            watermark=int(w),
        )
        for i, (t, w) in enumerate(zip(times, marks, strict=True))
    )
    stream = TestStream(rows, tuple(int(w) for w in marks), 2)
    result = drive(joined(max_age), stream, data.draw(cuts_of(stream)), resume=data.draw(st.booleans()), ordered=True)
    passed = [row for row in rows if row.time < marks[-1]]
    again = TestStream(tuple(Row(r.port, 0, r.time, r.key, r.value, account=r.account) for r in passed), (0,), 2)
    assert [(m[5], row) for m, _, row in result.rows] == naive_as_of(again, max_age, in_order=True)[0]
    for meta, _, _ in result.rows:
        assert meta[0] == meta[1] == meta[3] and marks[meta[2] // 2] > meta[0] and marks[meta[2] // 2 - 1] <= meta[0]
    held, released, _ = result.sorted_fates()
    for account in released:
        held.remove(account)
    assert held == [row.account for row in rows if row.time >= marks[-1]]


@settings(max_examples=30, deadline=None)
@given(st.data(), timed_streams(ports=2), AGES)
def test_cut_and_resume_change_nothing(data: st.DataObject, stream: TestStream, max_age: int | None) -> None:
    whole = drive(joined(max_age), stream, [])
    for resume in (False, True):
        cut = drive(joined(max_age), stream, data.draw(cuts_of(stream)), resume=resume)
        assert (cut.rows, cut.late, sorted(cut.absorbed)) == (whole.rows, whole.late, sorted(whole.absorbed))


@settings(max_examples=25, deadline=None)
@given(timed_streams(ports=2, max_rows=45), AGES)
def test_rows_of_other_keys_change_nothing(stream: TestStream, max_age: int | None) -> None:
    together = drive(joined(max_age), stream, range(0, 99, 7))
    for key in ("a", "b", None):
        alone = TestStream(tuple(r for r in stream.rows if r.key == key), stream.watermarks, 2)
        assert drive(joined(max_age), alone, [5, 30]).rows == [row for row in together.rows if row[2][0] == key]


@pytest.mark.parametrize("max_age", [None, 100])
def test_state_holds_one_row_a_key_once_time_has_passed(max_age: int | None) -> None:
    stream = make_stream(np.random.default_rng(3), 5000, lateness=20, spread=4, ports=2)
    operator = joined(max_age)
    types = stream_types(2)
    whole, sizes = drive(operator, stream, []), []
    state = operator.open(*types)

    class Watched(AsOf):
        def open(self, *inputs: StreamType) -> Any:
            return state

        def process(self, state: Any, inputs: Any, time: Any) -> Any:
            out = AsOf.process(self, state, inputs, time)
            sizes.append((state.rows.live, state.rows.used, int(state.runs.used[0])))
            return out

    again = drive(Watched(max_age, "_right", None, "as_of"), stream, range(0, 5000, 61))
    assert again.rows == whole.rows
    assert max(sizes) < (120, 2500, 2000)


def test_columns_that_both_sides_have_get_the_suffix_and_the_key_stands_once() -> None:
    names = joined(suffix="_rate").schema(*stream_types(2)).schema.names
    assert names == ("key", "value", "value_rate", "note", "as_of_status", "as_of_age")
    assert joined(columns=("note",), name="fx").schema(*stream_types(2)).schema.names == (
        "key", "value", "note", "fx_status", "fx_age")  # fmt: skip


def test_a_pruned_join_keeps_the_names_of_its_columns() -> None:
    left, right = stream_types(2)
    ours, theirs = joined().reads(frozenset({"value_right", "as_of_status"}), left.schema, right.schema)
    assert (ours, theirs) == (frozenset({"value"}), frozenset({"value"}))
    ours, theirs = joined().reads(frozenset({"value", "as_of_age"}), left.schema, right.schema)
    assert (ours, theirs) == (frozenset({"value"}), frozenset())


def test_a_join_needs_keys_of_the_same_types() -> None:
    left, right = stream_types(2)
    with pytest.raises(DefinitionError, match="keyed"):
        joined().schema(left, StreamType(right.schema))
    with pytest.raises(TypeMismatch, match=r"key \(text\) with value \(integer\)"):
        joined().schema(left, StreamType(right.schema, ("value",)))
    with pytest.raises(UnknownColumn, match="rate"):
        joined(columns=("rate",)).schema(left, right)
    with pytest.raises(DuplicateName, match="as_of_age"):
        joined().schema(left, StreamType(Schema((*right.schema, Field("as_of_age", pl.Int64()))), ("key",)))


def test_only_the_status_may_be_asked_for() -> None:
    left = StreamType(
        Schema((Field("key", pl.String(), nullable=True), Field("value", pl.Int64(), nullable=True))), ("key",)
    )
    operator = joined(columns=())
    assert operator.schema(left, stream_types(2)[1]).schema.names == ("key", "value", "as_of_status", "as_of_age")
    rows = (Row(1, 0, 5, "a", 1, account=0), Row(0, 1, 7, "a", 2, account=1))
    result = drive(operator, TestStream(rows, (0, 0), 2), [1])
    assert [row for _, _, row in result.rows] == [("a", 2, "MATCHED", 2)]


@pytest.mark.parametrize("order", [(10, 21), (21, 10)])
def test_a_right_row_is_kept_until_the_watermark_reaches_the_next_one(order: tuple[int, int]) -> None:
    rows = (Row(1, 0, order[0], "a", order[0], account=0), Row(1, 1, order[1], "a", order[1], account=1),
            Row(0, 2, 50, "z", 0, account=2, watermark=20), Row(0, 3, 20, "a", 0, account=3, watermark=20),
            Row(0, 4, 21, "a", 0, account=4, watermark=21))  # fmt: skip
    result = drive(joined(), TestStream(rows, (0, 0, 20, 20, 21), 2), [1, 2, 3, 4])
    assert [(m[5], row[2]) for m, _, row in result.rows] == [(2, None), (3, 10), (4, 21)]


def test_a_right_row_is_remembered_as_expired_until_twice_its_age() -> None:
    rows = (Row(1, 0, 10, "a", 7, account=0), Row(0, 1, 15, "a", 0, account=1, watermark=15),
            Row(0, 2, 20, "a", 0, account=2, watermark=20), Row(0, 3, 20, "a", 0, account=3, watermark=20),
            Row(0, 4, 21, "a", 0, account=4, watermark=21))  # fmt: skip
    result = drive(joined(5), TestStream(rows, (0, 15, 20, 20, 21), 2), [1, 2, 3, 4])
    assert [(row[2], *row[4:]) for _, _, row in result.rows] == [
        (7, "MATCHED", 5), (None, "EXPIRED", 10), (None, "EXPIRED", 10), (None, "MISSING", None)]  # fmt: skip
