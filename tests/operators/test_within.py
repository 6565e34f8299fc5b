"""`within` pairs rows of two streams that have one key and lie close in time."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_port_streams import (
    RANK_UNDER_TEST,
    Row,
    TestStream,
    cuts_of,
    drive,
    hash_of,
    make_stream,
    stream_types,
    timed_streams,
)

from streamproc.batch import ACCOUNT, C0, EVENT_TIME, ROW, WATERMARK
from streamproc.errors import DefinitionError
from streamproc.graph import Stream
from streamproc.operator import Operator, StreamType
from streamproc.operators.within import Within, within

How = Literal["inner", "left"]
SPANS = st.tuples(st.sampled_from([0, 1, 6, 40]), st.sampled_from([0, 2, 5, 40]))
HOWS: st.SearchStrategy[How] = st.sampled_from(["inner", "left"])


def pairing(spans: tuple[int, int], how: How = "inner") -> Operator:
    other = Stream(Within(0, 0, "_right", "inner"))
    return within(other, before=f"{spans[0]}us", after=f"{spans[1]}us", how=how).operator


def key_bytes(row: Row) -> bytes:
    return b"\xff" if row.key is None else row.key.encode()


def naive_within(stream: TestStream, spans: tuple[int, int], how: How, *, in_order: bool = False) -> dict[str, Any]:
    """Row at a time over all rows ever: (position, event time, account, coordinate, key, row) of all that comes out."""
    before, after = spans
    came: list[Row] = []
    out: list[tuple[Any, ...]] = []
    late: list[list[int]] = [[], []]
    matched: set[int] = set()
    order = (lambda r: (r.at, r.time, -r.port)) if in_order else (lambda r: (r.position, r.port))
    for row in sorted(stream.rows, key=order):
        if row.late or row.time < row.watermark:
            late[row.port].append(row.account)
            continue
        partners = []
        for i, other in enumerate(came):
            left, right = (row, other) if row.port == 0 else (other, row)
            if (
                other.port != row.port
                and other.key == row.key
                and left.time - before <= right.time <= left.time + after
            ):
                partners.append((other.time, i, left, right))
        position = (2 * row.at, row.time, RANK_UNDER_TEST) if in_order else row.position
        for _, _, left, right in sorted(partners, key=lambda p: p[:2]):
            matched |= {left.account, right.account}
            cells = (left.key, left.value, right.value, None if right.value is None else f"n{right.account}")
            name = (RANK_UNDER_TEST << 32, hash_of(left), hash_of(right), 0)
            out.append((position, max(left.time, right.time), row.account, name, key_bytes(row), cells))
        came.append(row)
    waiting, alone = [], []
    for row in came:
        if row.account in matched:
            continue
        due = row.time + (after if row.port == 0 else before)
        at = next((i for i, w in enumerate(stream.watermarks) if w > due), None)
        if at is None:
            waiting.append(row.account)
        elif row.port == 0 and how == "left":
            name = (RANK_UNDER_TEST << 32, hash_of(row), 0, 0)
            sort_key = (due, key_bytes(row), *(c for c in coordinate_of(row)))
            alone.append((sort_key, ((2 * at, due, RANK_UNDER_TEST), due, row.account, name, key_bytes(row),
                                     (row.key, row.value, None, None))))  # fmt: skip
    out += [row for _, row in sorted(alone)]
    out.sort(key=lambda o: o[0])
    return {"rows": out, "late": late, "waiting": sorted(waiting), "absorbed": sorted(matched)}


def coordinate_of(row: Row) -> tuple[int, ...]:
    from two_port_streams import coordinate

    return coordinate(row)


def seen(result: Any) -> dict[str, Any]:
    held, released, absorbed = result.sorted_fates()
    for account in released:
        held.remove(account)
    return {
        "rows": [
            (m[ROW : ROW + 3], m[EVENT_TIME], m[ACCOUNT], m[C0 : C0 + 4], key, row) for m, key, row in result.rows
        ],
        "late": [[m[ACCOUNT] for m, _, _ in port] for port in result.late],
        "waiting": held,
        "absorbed": absorbed,
    }


@settings(max_examples=60, deadline=None)
@given(st.data(), timed_streams(ports=2, max_rows=45), SPANS, HOWS)
def test_in_order_of_arrival_within_equals_its_twin_that_forgets_nothing(
    data: st.DataObject, stream: TestStream, spans: tuple[int, int], how: How
) -> None:
    result = drive(pairing(spans, how), stream, data.draw(cuts_of(stream)), resume=data.draw(st.booleans()))
    assert seen(result) == naive_within(stream, spans, how)


@settings(max_examples=60, deadline=None)
@given(st.data(), timed_streams(ports=2, max_rows=45, in_order=True), SPANS, HOWS)
def test_below_ordered_pairs_come_in_order_of_event_time(
    data: st.DataObject, stream: TestStream, spans: tuple[int, int], how: How
) -> None:
    result = drive(
        pairing(spans, how), stream, data.draw(cuts_of(stream)), resume=data.draw(st.booleans()), ordered=True
    )
    assert seen(result) == naive_within(stream, spans, how, in_order=True)
    times = [m[EVENT_TIME] for m, _, _ in result.rows]
    assert times == sorted(times)


@settings(max_examples=30, deadline=None)
@given(st.data(), timed_streams(ports=2), SPANS, HOWS)
def test_cut_and_resume_change_nothing(
    data: st.DataObject, stream: TestStream, spans: tuple[int, int], how: How
) -> None:
    whole = drive(pairing(spans, how), stream, [])
    for resume in (False, True):
        cut = drive(pairing(spans, how), stream, data.draw(cuts_of(stream)), resume=resume)
        assert (cut.rows, cut.late, seen(cut)) == (whole.rows, whole.late, seen(whole))


@settings(max_examples=25, deadline=None)
@given(timed_streams(ports=2), SPANS, HOWS)
def test_rows_of_other_keys_change_nothing(stream: TestStream, spans: tuple[int, int], how: How) -> None:
    together = drive(pairing(spans, how), stream, range(0, 99, 7))
    for key in ("a", "b", None):
        alone = TestStream(tuple(r for r in stream.rows if r.key == key), stream.watermarks, 2)
        assert drive(pairing(spans, how), alone, [5, 30]).rows == [row for row in together.rows if row[2][0] == key]


@settings(max_examples=25, deadline=None)
@given(timed_streams(ports=2), SPANS)
def test_nothing_that_comes_out_is_behind_its_watermark(stream: TestStream, spans: tuple[int, int]) -> None:
    for meta, _, _ in drive(pairing(spans, "left"), stream, []).rows:
        assert meta[EVENT_TIME] >= meta[WATERMARK]


def test_state_is_bounded_by_the_span_and_not_by_the_stream() -> None:
    stream = make_stream(np.random.default_rng(11), 5000, lateness=5, spread=6, ports=2)
    stream = TestStream((*stream.rows[:-1],), stream.watermarks, 2)
    operator = pairing((10, 10), "left")
    whole = drive(operator, stream, [])
    state = operator.open(*stream_types(2))
    sizes = []

    class Watched(Within):
        def open(self, *inputs: StreamType) -> Any:
            return state

        def process(self, state: Any, inputs: Any, time: Any) -> Any:
            out = Within.process(self, state, inputs, time)
            sizes.append((state.left.rows.live, state.left.rows.used, int(state.right.runs.used[0]), state.table.used))
            return out

    again = drive(Watched(10, 10, "_right", "left"), stream, range(0, 5000, 61))
    assert again.rows == whole.rows
    assert max(s[0] for s in sizes) < 150
    assert max(s[1] for s in sizes) < 2500
    assert max(s[2] for s in sizes) < 2000
    assert max(s[3] for s in sizes) <= 5


def test_a_hot_key_makes_every_pair() -> None:
    """One key, one moment: as many pairs as there are combinations, over several cuts."""
    rows = tuple(Row(i % 2, i, 7, "a", i, account=i, watermark=0) for i in range(300))
    result = drive(pairing((0, 0)), TestStream(rows, (0,) * 300, 2), [10, 200])
    assert len(result.rows) == 150 * 150


def test_both_ends_of_the_span_are_inside() -> None:
    times = [(0, 100), (1, 90), (1, 105), (1, 89), (1, 106)]
    rows = tuple(Row(port, i, t, "a", i, account=i, watermark=0) for i, (port, t) in enumerate(times))
    result = drive(pairing((10, 5)), TestStream(rows, (0,) * 5, 2), [])
    assert [m[ACCOUNT] for m, _, _ in result.rows] == [1, 2]


def test_a_left_row_without_a_partner_goes_on_once_none_can_come() -> None:
    rows = (Row(0, 0, 10, "a", 1, account=0), Row(1, 1, 15, "b", 1, account=1, watermark=15),
            Row(1, 2, 16, "b", 1, account=2, watermark=16))  # fmt: skip
    result = drive(pairing((0, 5), "left"), TestStream(rows, (10, 15, 16), 2), [1, 2])
    ((meta, key, row),) = result.rows
    assert (meta[ROW], meta[EVENT_TIME], meta[WATERMARK], key, row) == (4, 15, 15, b"a", ("a", 1, None, None))


def test_right_columns_are_nullable_only_where_rows_go_alone() -> None:
    left, right = stream_types(2)
    assert pairing((0, 0)).schema(left, right).schema.names == ("key", "value", "value_right", "note")
    assert all(column.nullable for column in pairing((0, 0), "left").schema(left, right).schema.fields[2:])


def test_an_unknown_join_is_refused() -> None:
    with pytest.raises(DefinitionError, match="outer"):
        within(Stream(Within(0, 0, "_right", "inner")), how="outer")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="suffix"):
        within(Stream(Within(0, 0, "_right", "inner")), suffix="")


def test_partners_of_one_moment_stand_in_order_of_arrival() -> None:
    rows = (Row(1, 0, 5, "a", 1, account=0), Row(1, 1, 5, "a", 2, account=1), Row(0, 2, 5, "a", 0, account=2))
    result = drive(pairing((0, 0)), TestStream(rows, (0, 0, 0), 2), [1])
    assert [row[2] for _, _, row in result.rows] == [1, 2]
