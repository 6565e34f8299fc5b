"""A user's own operator is called at the right moments, however rows come in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_port_streams import RANK_UNDER_TEST, TestStream, batch_of, cuts_of, drive, stream_types, timed_streams

from streamproc.batch import ACCOUNT, C3, DUE, EVENT_TIME, RANK, ROW, WATERMARK
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, TypeMismatch
from streamproc.operator import StepTime, StreamType
from streamproc.operators.custom import custom

WAIT = 7


class Silence:
    """Says which key has been silent for WAIT."""

    shortest_wait_us = WAIT

    def schema(self, rows: Schema) -> Schema:
        return Schema((rows["key"], Field("seen", pl.Int64())))

    def open(self) -> dict[str, int]:
        return {}

    def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], None]:
        for key, time in zip(rows["key"], rows["_event_time"], strict=True):
            text = "null" if key is None else "=" + key
            state[text] = max(time, state.get(text, time))
        return state, None

    def next_due(self, state: dict[str, int]) -> int | None:
        return min(state.values()) + WAIT if state else None

    def advance(self, state: dict[str, int], moment: int) -> tuple[dict[str, int], pl.DataFrame]:
        silent = sorted(key for key, seen in state.items() if seen + WAIT <= moment)
        keys = [None if key == "null" else key[1:] for key in silent]
        seen = [state.pop(key) for key in silent]
        return state, pl.DataFrame({"key": keys, "seen": seen}, schema={"key": pl.String, "seen": pl.Int64})


class OneByOne(Silence):
    """The same without the promise."""

    shortest_wait_us = 0


class Impatient(Silence):
    """Asks at once, also for moments that are gone."""

    shortest_wait_us = 0

    def next_due(self, state: dict[str, int]) -> int | None:
        return min(state.values()) - 3 if state else None

    def advance(self, state: dict[str, int], moment: int) -> tuple[dict[str, int], pl.DataFrame]:
        keys = sorted(key for key, seen in state.items() if seen - 3 <= moment)
        seen = [state.pop(key) for key in keys]
        return state, pl.DataFrame({"key": keys, "seen": seen}, schema={"key": pl.String, "seen": pl.Int64})


class Numbered:
    """Gives each row as often as its value says, with a running number."""

    def schema(self, rows: Schema) -> Schema:
        return rows.with_fields([Field("number", pl.Int64())])

    def open(self) -> dict[str, int]:
        return {"next": 0}

    def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], pl.DataFrame]:
        times = rows["value"].fill_null(0).to_numpy()
        parents = np.repeat(np.arange(rows.height), times)
        numbers = state["next"] + np.arange(parents.size)
        state["next"] += parents.size
        made = rows[parents].drop("_event_time").with_columns(
            number=pl.Series(numbers, dtype=pl.Int64), _row=pl.Series(parents, dtype=pl.Int64)
        )  # fmt: skip
        return state, made


def naive_silence(stream: TestStream) -> list[tuple[tuple[int, int, int], str | None, int]]:
    """Row at a time, from the words of the protocol: time first, then the row."""
    seen: dict[str | None, int] = {}
    out: list[tuple[tuple[int, int, int], str | None, int]] = []

    def release(until: int) -> None:
        for due in sorted({time + WAIT for time in seen.values() if time + WAIT <= until}):
            at = next(i for i, watermark in enumerate(stream.watermarks) if watermark >= due)
            silent = [key for key, time in seen.items() if time + WAIT == due]
            for key in sorted(silent, key=lambda k: "null" if k is None else "=" + k):
                out.append(((2 * at, due, RANK_UNDER_TEST), key, seen.pop(key)))

    for row in stream.rows:
        release(row.time - 1 if row.released else row.watermark)
        if not row.late and row.time >= row.watermark:
            seen[row.key] = max(row.time, seen.get(row.key, row.time))
    if stream.watermarks:
        release(stream.watermarks[-1])
    return out


@settings(max_examples=120, deadline=None)
@given(st.data(), timed_streams())
def test_an_inactivity_detector_equals_its_twin_however_it_is_cut(data: st.DataObject, stream: TestStream) -> None:
    expected = naive_silence(stream)
    for operator in (Silence(), OneByOne()):
        result = drive(custom(operator, key=("key",)).operator, stream, data.draw(cuts_of(stream)))
        assert [(meta[ROW : RANK + 1], *row) for meta, _, row in result.rows] == expected
        for meta, key, row in result.rows:
            assert meta[EVENT_TIME] == meta[WATERMARK] == meta[DUE] == row[1] + WAIT
            assert meta[ACCOUNT] == -1 and key == (b"\xff" if row[0] is None else row[0].encode())
        late = [row.account for row in stream.rows if row.late or row.time < row.watermark]
        assert [meta[ACCOUNT] for meta, _, _ in result.late[0]] == late
        assert sorted(result.absorbed) == sorted({row.account for row in stream.rows} - set(late))


@settings(max_examples=60, deadline=None)
@given(st.data(), timed_streams())
def test_what_a_row_asks_for_in_its_own_past_stands_behind_it(data: st.DataObject, stream: TestStream) -> None:
    operator = custom(Impatient()).operator
    assert drive(operator, stream, data.draw(cuts_of(stream))).rows == drive(operator, stream, []).rows


@settings(max_examples=60, deadline=None)
@given(st.data(), timed_streams())
def test_rows_made_from_a_row_keep_its_position(data: st.DataObject, stream: TestStream) -> None:
    operator = custom(Numbered(), key=("key",)).operator
    result = drive(operator, stream, data.draw(cuts_of(stream)))
    expected = [row.account for row in stream.rows for _ in range(row.value or 0)]
    assert [meta[ACCOUNT] for meta, _, _ in result.rows] == expected
    assert [row[2] for _, _, row in result.rows] == list(range(len(expected)))
    assert result.rows == drive(operator, stream, []).rows
    assert len({meta for meta, _, _ in result.rows}) == len(expected)


def test_a_row_for_each_row_needs_no_row_column() -> None:
    class Passing(Numbered):
        def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], pl.DataFrame]:
            made = rows.select("value", "key").with_columns(number=pl.lit(None))
            return state, made

    (stream,) = stream_types(1)
    operator = custom(Passing()).operator
    rows = [r for r in make_rows() if r.port == 0]
    batch = batch_of(rows, 0, first=0, keyed=True)
    _, output = operator.process(operator.open(stream), (batch,), StepTime(np.array([50, 60], np.int64), 7))
    assert (output.rows.meta == batch.meta).all() and output.rows.meta[:, C3].tolist() == batch.meta[:, C3].tolist()
    assert output.rows.frame.columns == ["key", "value", "number"]
    assert output.rows.frame.schema["number"] == pl.Int64()


def make_rows() -> list[Any]:
    from two_port_streams import Row

    return [Row(0, 0, 51, "a", 1, watermark=50), Row(0, 1, 61, "b", 2, watermark=60, account=1)]


def test_a_tick_stands_behind_all_rows_and_carries_the_clock() -> None:
    class Ticking(Silence):
        def tick(self, state: dict[str, int], now: int) -> tuple[dict[str, int], pl.DataFrame]:
            return state, pl.DataFrame({"key": ["tick"], "seen": [now]})

    (stream,) = stream_types(1)
    operator = custom(Ticking()).operator
    batch = batch_of([], 0, first=0, keyed=True)
    time = StepTime(np.array([50, 60], np.int64), 7, clock=1_000)
    _, output = operator.process(operator.open(stream), (batch,), time)
    assert output.rows.frame.rows() == [("tick", 1_000)]
    assert output.rows.meta[0, [EVENT_TIME, ROW, DUE, RANK]].tolist() == [1_000, 4, 1_000, 7]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"process": lambda self, state, rows: state}, "process gave dict; return"),
        ({"process": lambda self, state, rows: (state, rows.head(1))}, "gave 1 rows for 2; name the row of each"),
        ({"process": lambda self, state, rows: (state, rows.select("key"))}, "gave columns .'key'., promised are"),
        (
            {"process": lambda self, state, rows: (state, rows.select("key", "value", number=pl.lit("x")))},
            "gave 'number' as String, promised is Int64",
        ),
        (
            {"process": lambda self, state, rows: (state, rows.with_columns(number=pl.lit(1), _row=pl.lit(5)))},
            "'_row' must rise and name rows of its input, 0 to 1",
        ),
    ],
)
def test_what_an_operator_gives_is_checked(change: dict[str, Any], text: str) -> None:
    (stream,) = stream_types(1)
    operator = custom(type("Odd", (Numbered,), change)()).operator
    batch = batch_of(make_rows(), 0, first=0, keyed=True)
    with pytest.raises(DefinitionError, match=text):
        operator.process(operator.open(stream), (batch,), StepTime(np.array([50, 60], np.int64), 7))


def test_an_operator_that_stays_due_is_stopped() -> None:
    class Stuck(Silence):
        def advance(self, state: dict[str, int], moment: int) -> tuple[dict[str, int], None]:  # type: ignore[override]
            return state, None

    (stream,) = stream_types(1)
    operator = custom(Stuck()).operator
    batch = batch_of(make_rows(), 0, first=0, keyed=True)
    with pytest.raises(DefinitionError, match="still gives 58 after advance to 58"):
        operator.process(operator.open(stream), (batch,), StepTime(np.array([50, 60], np.int64), 7))


def test_what_cannot_be_an_operator_is_said_at_once() -> None:
    with pytest.raises(DefinitionError, match="object has no method 'schema'"):
        custom(object())  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="only one of 'next_due' and 'advance'"):
        custom(type("Half", (Numbered,), {"advance": lambda self, state, moment: (state, None)})())
    (stream,) = stream_types(1)
    with pytest.raises(TypeMismatch, match="is the key, and its input's key is None"):
        custom(Numbered(), key=("key",)).operator.schema(StreamType(stream.schema))
    with pytest.raises(TypeMismatch, match="other types than the key"):
        custom(Numbered(), key=("value",)).operator.schema(stream)
    with pytest.raises(DefinitionError, match="a column named '_row'"):
        custom(Numbered()).operator.schema(StreamType(Schema((Field("_row", pl.Int64()),))))
    with pytest.raises(TypeMismatch, match="gives NoneType, not columns"):
        custom(type("Blank", (Numbered,), {"schema": lambda self, rows: None})()).operator.schema(stream)
