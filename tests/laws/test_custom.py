"""A user's own operator is called at the right moments, however rows come in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rows import RANK_HERE, recorded, run, types

from streamproc.batch import C3, DUE, EVENT_TIME, RANK, ROW, WATERMARK, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, TypeMismatch
from streamproc.keys import keys_of
from streamproc.operator import StepTime, StreamType
from streamproc.operators.custom import custom
from streamproc.testing.naive import Row, play

WAIT = 7


class Silence:
    """Says which key has been silent for WAIT."""

    shortest_wait_us = WAIT

    def schema(self, rows: Schema) -> Schema:
        return Schema((rows["k"], Field("seen", pl.Int64())))

    def open(self) -> dict[str, int]:
        return {}

    def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], None]:
        for key, time in zip(rows["k"], rows["_event_time"], strict=True):
            text = "null" if key is None else "=" + key
            state[text] = max(time, state.get(text, time))
        return state, None

    def next_due(self, state: dict[str, int]) -> int | None:
        return min(state.values()) + WAIT if state else None

    def advance(self, state: dict[str, int], moment: int) -> tuple[dict[str, int], pl.DataFrame]:
        silent = sorted(key for key, seen in state.items() if seen + WAIT <= moment)
        keys = [None if key == "null" else key[1:] for key in silent]
        seen = [state.pop(key) for key in silent]
        return state, pl.DataFrame({"k": keys, "seen": seen}, schema={"k": pl.String, "seen": pl.Int64})


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
        return state, pl.DataFrame({"k": keys, "seen": seen}, schema={"k": pl.String, "seen": pl.Int64})


class Numbered:
    """Gives each row as often as its value says, with a running number."""

    def schema(self, rows: Schema) -> Schema:
        return rows.with_fields([Field("number", pl.Int64())])

    def open(self) -> dict[str, int]:
        return {"next": 0}

    def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], pl.DataFrame]:
        times = rows["n"].fill_null(0).clip(0).to_numpy()
        parents = np.repeat(np.arange(rows.height), times)
        numbers = state["next"] + np.arange(parents.size)
        state["next"] += parents.size
        made = rows[parents].drop("_event_time").with_columns(
            number=pl.Series(numbers, dtype=pl.Int64), _row=pl.Series(parents, dtype=pl.Int64)
        )  # fmt: skip
        return state, made


class NaiveSilence:
    """The same row by row, from the words of the protocol."""

    strict = False

    def __init__(self) -> None:
        self.seen: dict[bytes, Row] = {}

    def due(self) -> int | None:
        return min((row.event_time + WAIT for row in self.seen.values()), default=None)

    def release(self, due: int, at: int, rank: int) -> list[Row]:
        silent = [row for row in self.seen.values() if row.event_time + WAIT == due]
        silent.sort(key=lambda row: "null" if row.values["k"] is None else "=" + row.values["k"])
        for row in silent:
            del self.seen[row.key]
        values = [{"k": row.values["k"], "seen": row.event_time} for row in silent]
        return [
            Row(value, due, due, (2 * at, due, rank), key=row.key) for value, row in zip(values, silent, strict=True)
        ]

    def take(self, row: Row) -> list[Row] | None:
        if not row.in_time:
            return None
        if row.key not in self.seen or self.seen[row.key].event_time <= row.event_time:
            self.seen[row.key] = row
        return []


def shown(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [(dict(row.values), row.event_time, row.watermark, row.position, row.key) for row in rows]


seeds = st.integers(0, 2**40)
cuts = st.lists(st.integers(0, 45), max_size=5)


@settings(max_examples=200, deadline=None)
@given(seeds, cuts)
def test_an_inactivity_detector_equals_its_twin_however_it_is_cut(seed: int, pieces: list[int]) -> None:
    stream = recorded(seed)
    expected, expected_late = play(NaiveSilence(), stream.rows, stream.watermarks, RANK_HERE)
    for operator in (Silence(), OneByOne()):
        made, late = run(custom(operator, key=("k",)).operator, stream, pieces)
        assert shown(made) == shown(expected)
        assert [row.position for row in late] == [row.position for row in expected_late]


@settings(max_examples=80, deadline=None)
@given(seeds, cuts)
def test_what_a_row_asks_for_in_its_own_past_stands_behind_it(seed: int, pieces: list[int]) -> None:
    for in_order in (False, True):
        stream = recorded(seed, in_order=in_order)
        whole, _ = run(custom(Impatient()).operator, stream, [])
        assert shown(run(custom(Impatient()).operator, stream, pieces)[0]) == shown(whole)
        assert [row.position for row in whole] == sorted(row.position for row in whole)


@settings(max_examples=100, deadline=None)
@given(seeds, cuts)
def test_rows_made_from_a_row_keep_its_position(seed: int, pieces: list[int]) -> None:
    stream = recorded(seed)
    made, late = run(custom(Numbered(), key=("k",)).operator, stream, pieces)
    parents = [row for row in stream.rows for _ in range(max(0, row.values["n"] or 0))]
    assert [(row.position, row.event_time, row.key) for row in made] == [
        (row.position, row.event_time, row.key) for row in parents
    ]
    assert [row.values["number"] for row in made] == list(range(len(parents)))
    assert len({(row.position, row.coordinate) for row in made}) == len(made) and not late


def two_rows() -> Batch:
    frame = pl.DataFrame({"k": ["a", "b"], "n": [1, 2], "x": [0.5, None], "s": ["u", None]})
    meta = np.zeros((2, WIDTH), np.int64)
    meta[:, EVENT_TIME], meta[:, WATERMARK], meta[:, ROW], meta[:, C3] = [51, 61], [50, 60], [1, 3], [0, 4]
    return Batch(frame, meta, keys_of(frame, ["k"]))


def test_a_row_for_each_row_needs_no_row_column() -> None:
    class Passing(Numbered):
        def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], pl.DataFrame]:
            made = rows.select("s", "x", "n", "k").with_columns(number=pl.lit(None))
            return state, made

    (stream,) = types()
    operator = custom(Passing()).operator
    batch = two_rows()
    _, output = operator.process(operator.open(stream), (batch,), StepTime(np.array([50, 60], np.int64), 7))
    assert (output.rows.meta == batch.meta).all() and output.rows.meta[:, C3].tolist() == batch.meta[:, C3].tolist()
    assert output.rows.frame.columns == ["k", "n", "x", "s", "number"]
    assert output.rows.frame.schema["number"] == pl.Int64()


def test_a_tick_stands_behind_all_rows_and_carries_the_clock() -> None:
    class Ticking(Silence):
        def tick(self, state: dict[str, int], now: int) -> tuple[dict[str, int], pl.DataFrame]:
            return state, pl.DataFrame({"k": ["tick"], "seen": [now]})

    (stream,) = types()
    operator = custom(Ticking()).operator
    batch = two_rows().take(np.arange(0))
    time = StepTime(np.array([50, 60], np.int64), 7, clock=1_000)
    _, output = operator.process(operator.open(stream), (batch,), time)
    assert output.rows.frame.rows() == [("tick", 1_000)]
    assert output.rows.meta[0, [EVENT_TIME, ROW, DUE, RANK]].tolist() == [1_000, 4, 1_000, 7]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"process": lambda self, state, rows: state}, "process gave dict; return"),
        ({"process": lambda self, state, rows: (state, rows.head(1))}, "gave 1 rows for 2; name the row of each"),
        ({"process": lambda self, state, rows: (state, rows.select("k"))}, "gave columns .'k'., promised are"),
        (
            {"process": lambda self, state, rows: (state, rows.select("k", "n", "x", "s", number=pl.lit("x")))},
            "gave 'number' as String, promised is Int64",
        ),
        (
            {"process": lambda self, state, rows: (state, rows.with_columns(number=pl.lit(1), _row=pl.lit(5)))},
            "'_row' must rise and name rows of its input, 0 to 1",
        ),
    ],
)
def test_what_an_operator_gives_is_checked(change: dict[str, Any], text: str) -> None:
    (stream,) = types()
    operator = custom(type("Odd", (Numbered,), change)()).operator
    batch = two_rows()
    with pytest.raises(DefinitionError, match=text):
        operator.process(operator.open(stream), (batch,), StepTime(np.array([50, 60], np.int64), 7))


def test_an_operator_that_stays_due_is_stopped() -> None:
    class Stuck(Silence):
        def advance(self, state: dict[str, int], moment: int) -> tuple[dict[str, int], None]:  # type: ignore[override]
            return state, None

    (stream,) = types()
    operator = custom(Stuck()).operator
    batch = two_rows()
    with pytest.raises(DefinitionError, match="still gives 58 after advance to 58"):
        operator.process(operator.open(stream), (batch,), StepTime(np.array([50, 60], np.int64), 7))


def test_what_cannot_be_an_operator_is_said_at_once() -> None:
    with pytest.raises(DefinitionError, match="object has no method 'schema'"):
        custom(object())  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="only one of 'next_due' and 'advance'"):
        custom(type("Half", (Numbered,), {"advance": lambda self, state, moment: (state, None)})())
    (stream,) = types()
    with pytest.raises(TypeMismatch, match="is the key, and its input's key is None"):
        custom(Numbered(), key=("k",)).operator.schema(StreamType(stream.schema))
    with pytest.raises(TypeMismatch, match="other types than the key"):
        custom(Numbered(), key=("n",)).operator.schema(stream)
    with pytest.raises(DefinitionError, match="a column named '_row'"):
        custom(Numbered()).operator.schema(StreamType(Schema((Field("_row", pl.Int64()),))))
    with pytest.raises(TypeMismatch, match="gives NoneType, not columns"):
        custom(type("Blank", (Numbered,), {"schema": lambda self, rows: None})()).operator.schema(stream)
