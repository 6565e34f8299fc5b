"""Steps over columns: rows stay who they are, and results do not depend on how rows come in batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.batch import C0, C3, EVENT_TIME, LATE, RANK, ROW, WATERMARK, WIDTH, Batch, Raw, concat
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, NotElementWise, TypeMismatch, UnknownColumn
from streamproc.graph import Step, source
from streamproc.keys import keys_of
from streamproc.operator import Operator, StepTime, StreamType
from streamproc.operators.columns import drop, rename, select, where, with_columns
from streamproc.operators.explode import explode
from streamproc.operators.key_by import key_by
from streamproc.operators.stateless import stateless
from streamproc.operators.union import union

ROWS = Schema(
    (
        Field("id", pl.String()),
        Field("a", pl.Int64(), nullable=True, unit="EUR", origins=frozenset({"payment.a"})),
        Field("x", pl.Float64(), nullable=True),
        Field("items", pl.List(pl.Int64()), nullable=True),
        Field("who", pl.String(), pii="direct", origins=frozenset({"payment.who"})),
    )
)
KEYED = StreamType(ROWS, ("id",), ordered=True, placed_by=("id",))
TIME = StepTime(np.array([10, 20], np.int64), rank=3)

rows = st.lists(
    st.tuples(
        st.sampled_from(["p", "q", ""]),
        st.none() | st.integers(-5, 5),
        st.none() | st.sampled_from([0.1, 3.0, float("nan"), float("inf"), 1e300, 7.0]),
        st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3),
        st.sampled_from(["ann", "bob"]),
    ),
    max_size=12,
)


def batch_of(values: list[tuple[Any, ...]], schema: Schema = ROWS, *, first: int = 0, step: int = 1) -> Batch:
    """Rows at input rows first, first + step, ..., each with meta, key and payload of its own."""
    frame = pl.DataFrame(values, schema=schema.polars(), orient="row")
    n = frame.height
    meta = np.zeros((n, WIDTH), np.int64)
    order = np.arange(n) * step + first
    meta[:, EVENT_TIME], meta[:, WATERMARK] = 100 + order, 50 + order
    meta[:, ROW], meta[:, C0 + 1] = 2 * order + 1, order
    bounds = np.arange(n, dtype=np.int64)
    raw = Raw(np.zeros(n, np.uint8), bounds, bounds + 1, bounds * 0 - 1, bounds * 0)
    return Batch(frame, meta, keys_of(frame, ["id"]), raw)


def run(step: Step | Operator, *inputs: Batch) -> Batch:
    operator = step.operator if isinstance(step, Step) else step
    state, output = operator.process(None, inputs, TIME)
    assert state is None and output.late is None
    assert output.rows.frame.height == len(output.rows)
    return output.rows


def same(left: Batch, right: Batch) -> None:
    assert left.frame.equals(right.frame), (left.frame, right.frame)
    assert left.frame.schema == right.frame.schema
    assert (left.meta == right.meta).all() and left.meta.shape == right.meta.shape
    assert (left.keys is None) == (right.keys is None)
    if left.keys is not None and right.keys is not None:
        assert [left.keys.get(i) for i in range(len(left))] == [right.keys.get(i) for i in range(len(right))]


def third(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"third": frame["x"] / 3, "sign": np.sign(frame["a"].fill_null(0).to_numpy())})


STEPS: dict[str, Callable[[], Step]] = {
    "where": lambda: where(pl.col("a") / 3 > 0.3, pl.col("x").is_not_null()),
    "where literal": lambda: where(pl.lit(True)),
    "with_columns": lambda: with_columns(q=pl.col("x") / 3, a=pl.col("a") * 2, one=pl.lit(1)),
    "select": lambda: select("who", "a", (pl.col("x") * 2).alias("b"), c=pl.lit("k")),
    "rename": lambda: rename(a="x", x="a"),
    "drop": lambda: drop("a", "items"),
    "explode": lambda: explode("items"),
    "key_by": lambda: key_by("who", "a"),
    "key_by nothing": key_by,
    "stateless": lambda: stateless(third, reads=("x", "a")),
}


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=40, deadline=None)
@given(rows, st.lists(st.integers(0, 12), max_size=4))
def test_cutting_rows_into_other_batches_changes_no_output_row(name: str, values: list[Any], cuts: list[int]) -> None:
    step = STEPS[name]()
    batch = batch_of(values)
    promised = step.operator.schema(KEYED).schema.polars()
    edges = sorted({0, len(batch), *(cut for cut in cuts if cut <= len(batch))})
    whole = run(step, batch)
    assert whole.frame.schema == promised
    parts = [run(step, batch.take(np.arange(a, b))) for a, b in itertools.pairwise(edges)]
    parts.append(run(step, batch.take(np.arange(0, 0))))
    assert parts[-1].frame.schema == promised and len(parts[-1]) == 0
    same(concat(parts), whole)
    same(batch, batch_of(values))


@pytest.mark.parametrize("name", [name for name in STEPS if not name.startswith("key_by")])
@settings(max_examples=25, deadline=None)
@given(rows)
def test_a_step_needs_no_column_but_those_it_says(name: str, values: list[Any]) -> None:
    """Lineage: with only the columns that it reads for one column needed further down, that column is the same."""
    step = STEPS[name]()
    batch = batch_of(values)
    whole = run(step, batch)
    for needed in whole.frame.columns:
        (read,) = step.operator.reads(frozenset([needed]), ROWS)
        frame = batch.frame.select([name for name in batch.frame.columns if name in read])
        less = Batch(frame, batch.meta, batch.keys, batch.raw)
        if less.frame.width:
            assert run(step, less).frame[needed].equals(whole.frame[needed])


@settings(max_examples=100, deadline=None)
@given(rows)
def test_where_and_with_columns_equal_their_row_at_a_time_twins(values: list[Any]) -> None:
    batch = batch_of(values)
    kept = run(where(pl.col("a") > 0), batch)
    twin = [100 + i for i, row in enumerate(values) if row[1] is not None and row[1] > 0]
    assert kept.meta[:, EVENT_TIME].tolist() == twin
    assert kept.raw is not None and kept.raw.starts.tolist() == (kept.meta[:, EVENT_TIME] - 100).tolist()
    made = run(with_columns(total=pl.col("a") * 2 + pl.col("items").list.len()), batch)
    expected = [None if a is None or items is None else a * 2 + len(items) for _, a, _, items, _ in values]
    assert made.frame["total"].to_list() == expected
    assert (made.meta == batch.meta).all() and made.raw is None


def test_where_promises_presence_for_what_it_checks() -> None:
    stream = where(pl.col("a").is_not_null(), pl.col("x") > 0).operator.schema(KEYED)
    assert [field.nullable for field in stream.schema] == [False, False, False, True, False]
    assert stream.keyed_by == ("id",) and stream.ordered


def test_where_needs_true_or_false() -> None:
    with pytest.raises(TypeMismatch, match="'where' needs true or false"):
        where(pl.col("a") + 1).operator.schema(KEYED)
    with pytest.raises(DefinitionError, match="no predicate"):
        where()
    with pytest.raises(NotElementWise, match="step 'where'"):
        where(pl.col("a") > pl.col("a").mean()).operator.schema(KEYED)


def test_a_key_column_that_goes_or_changes_ends_the_key() -> None:
    def keyed(step: Step) -> tuple[Any, Any]:
        stream = step.operator.schema(KEYED)
        return stream.keyed_by, stream.placed_by

    kept, gone, moved = (("id",), ("id",)), (None, None), (("card",), ("card",))
    assert keyed(with_columns(q=pl.col("a"))) == kept
    assert keyed(with_columns(id=pl.col("who"))) == gone
    assert keyed(select("a")) == gone
    assert keyed(select("id", "a")) == kept
    assert keyed(select(id=pl.col("who"))) == gone
    assert keyed(rename(id="card")) == moved
    assert keyed(drop("id")) == gone
    assert keyed(explode("items")) == kept
    assert keyed(stateless(third, reads=("x", "a"))) == kept
    assert keyed(key_by("id")) == kept
    assert keyed(key_by("a")) == (("a",), None)
    assert keyed(key_by()) == ((), None)


def test_tags_follow_a_column_wherever_it_goes() -> None:
    made = with_columns(z=pl.col("who") + "!", a2=pl.col("a") + 1).operator.schema(KEYED).schema
    assert made["z"].pii == "direct" and made["z"].origins == {"payment.who"}
    assert made["a2"].unit == "EUR"
    assert rename(who="name").operator.schema(KEYED).schema["name"].pii == "direct"
    assert stateless(third, reads=("x", "a")).operator.schema(KEYED).schema["third"].origins == {"payment.a"}
    everything = stateless(lambda frame: frame.select(n=pl.col("a"))).operator.schema(KEYED)
    assert everything.schema["n"].pii == "direct" and everything.keyed_by is None


@pytest.mark.parametrize(
    ("step", "error", "text"),
    [
        (lambda: select("amont"), UnknownColumn, "step 'select' reads 'amont'"),
        (lambda: drop("b"), UnknownColumn, "step 'drop' reads 'b'"),
        (lambda: drop(*ROWS.names), DefinitionError, "leaves no column"),
        (lambda: rename(b="c"), UnknownColumn, "step 'rename' reads 'b'"),
        (lambda: rename(a="x"), DuplicateName, "two columns named 'x'"),
        (lambda: rename(a="z", x="z"), DuplicateName, "makes column 'z' twice"),
        (lambda: select("a", a=pl.col("x")), DuplicateName, "makes column 'a' twice"),
        (lambda: with_columns(pl.col("a"), a=pl.col("x")), DuplicateName, "makes column 'a' twice"),
        (lambda: with_columns("a"), DefinitionError, "got str, not a Polars expression"),
        (lambda: with_columns(z=3), DefinitionError, "got int, not a Polars expression"),
        (with_columns, DefinitionError, "has no column"),
        (lambda: select(pl.all()), DefinitionError, "name"),
        (lambda: explode("a"), TypeMismatch, "needs a list, and 'a' is Int64"),
        (lambda: explode("b"), UnknownColumn, "step 'explode' reads 'b'"),
        (lambda: key_by("b"), UnknownColumn, "step 'key_by' reads 'b'"),
        (lambda: key_by("x"), TypeMismatch, "step 'key_by'.*Float64"),
        (lambda: key_by("items"), TypeMismatch, "step 'key_by'"),
        (lambda: key_by("a", "a"), DuplicateName, "twice"),
        (lambda: key_by(pl.col("a")), TypeMismatch, "not the name of a column"),
        (union, DefinitionError, "no other stream"),
        (lambda: stateless(third, reads=("b",)), UnknownColumn, "step 'stateless' reads 'b'"),
        (lambda: stateless(lambda frame: frame.head(1)), DefinitionError, "gave 1 rows for 37"),
        (lambda: stateless(lambda frame: frame.select(pl.col("a").cum_sum())), NotElementWise, "cut into other frames"),
        (lambda: stateless(lambda frame: 1 / 0), DefinitionError, "fails on a frame without rows: ZeroDivisionError"),
        (lambda: stateless(lambda frame: None), DefinitionError, "gives NoneType, not a Polars frame"),
        (lambda: stateless(lambda f: f.select(pl.col("id").cast(pl.Int64))), DefinitionError, "fails on awkward rows"),
        (
            lambda: stateless(lambda f: pl.DataFrame({"n": [1.5] * f.height}), reads=["a"]),
            TypeMismatch,
            "gave 'n' as Float64, not Null",
        ),
        (lambda: stateless(third, reads=("x", "a"), schema=ROWS), TypeMismatch, "declared are id: String"),
    ],
)
def test_what_cannot_work_is_said_at_plan_time(step: Callable[[], Step], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        step().operator.schema(KEYED)


def test_explode_keeps_position_and_gives_each_item_a_coordinate_in_order() -> None:
    values = [("p", 1, [7, None], "ann"), ("q", 2, [], "bob"), ("r", 3, None, ""), ("s", 4, [9], "")]
    batch = batch_of([(id, a, None, items, who) for id, a, items, who in values])
    items = run(explode("items"), batch)
    assert items.frame.rows() == [("p", 1, None, 7, "ann"), ("p", 1, None, None, "ann"), ("s", 4, None, 9, "")]
    assert items.meta[:, ROW].tolist() == [1, 1, 7]
    assert items.meta[:, C3].tolist() == [1, 2, 1]
    assert items.keys is not None and [items.keys.get(i) for i in range(3)] == [b"p", b"p", b"s"]
    assert items.raw is None
    field = explode("items").operator.schema(KEYED).schema["items"]
    assert field.dtype == pl.Int64() and field.nullable


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=4), max_size=4))
def test_items_of_items_have_distinct_coordinates_in_order(values: list[list[list[int]]]) -> None:
    nested = Schema((Field("id", pl.String()), Field("items", pl.List(pl.List(pl.Int64())))))
    batch = batch_of([("p", value) for value in values], nested)
    once = run(explode("items"), batch)
    twice = run(explode("items"), once)
    assert twice.frame["items"].to_list() == [n for value in values for inner in value for n in inner]
    coordinates = [tuple(row) for row in twice.meta[:, C0 : C3 + 1].tolist()]
    assert len(set(coordinates)) == len(coordinates)
    assert coordinates == sorted(coordinates)


def test_coordinates_stay_distinct_where_they_no_longer_fit() -> None:
    batch = batch_of([("p", 1, None, [1, 2, 3], "ann")] * 3)
    deep = batch.meta.copy()
    deep[:, C3] = [1 << 30, 5, -1]
    coordinates = run(explode("items"), Batch(batch.frame, deep)).meta[:, C0 : C3 + 1].tolist()
    assert len({tuple(row) for row in coordinates}) == 9
    assert all(row[3] > 0 for row in coordinates)


@settings(max_examples=60, deadline=None)
@given(rows, rows, st.integers(0, 12))
def test_union_merges_by_position_then_port_however_it_is_cut(left: list[Any], right: list[Any], cut: int) -> None:
    step = union(source("b", contract="payment.v1"))
    a, b = batch_of(left, step=2), batch_of(right, step=3)
    other = Batch(b.frame.select(reversed(b.frame.columns)), b.meta, b.keys, b.raw)
    whole = run(step, a, other)
    marks = [(row, port) for port, batch in ((0, a), (1, b)) for row in batch.meta[:, ROW].tolist()]
    assert whole.meta[:, ROW].tolist() == [row for row, _ in sorted(marks)]
    assert whole.frame.columns == list(ROWS.names)
    parts = []
    for low, high in ((-1, 2 * cut), (2 * cut, 10**6)):
        pieces = [x.filter((x.meta[:, ROW] > low) & (x.meta[:, ROW] <= high)) for x in (a, other)]
        parts.append(run(step, *pieces))
    same(concat(parts), whole)


def test_union_needs_the_same_columns_and_says_which_differ() -> None:
    operator = union(source("b", contract="payment.v1")).operator

    def plus(*fields: Field) -> StreamType:
        return StreamType(ROWS.with_fields(fields), ("id",))

    joined = operator.schema(KEYED, plus(Field("who", pl.String(), nullable=True, origins=frozenset({"till.who"}))))
    assert joined.schema["who"].nullable and joined.schema["who"].pii == "direct"
    assert joined.schema["who"].origins == {"payment.who", "till.who"}
    assert joined.keyed_by == ("id",) and not joined.ordered and joined.placed_by is None
    assert operator.schema(KEYED, StreamType(ROWS, ("a",))).keyed_by is None
    for other, text in (
        (plus(Field("a", pl.Float64(), unit="EUR")), "stream 2 has 'a' as Float64, the first as Int64"),
        (plus(Field("a", pl.Int64(), unit="USD")), "stream 2 has 'a' in USD, the first in EUR"),
        (plus(Field("z", pl.Int64())), "has a column 'z' that the first has not"),
        (StreamType(Schema(ROWS.fields[1:])), "has no column 'id'"),
    ):
        with pytest.raises(TypeMismatch, match=text):
            operator.schema(KEYED, other)


def test_key_by_gives_the_bytes_of_the_columns_and_leaves_the_rows() -> None:
    batch = batch_of([("p", 1, None, None, "ann"), ("q", None, None, None, "bob")])
    one = run(key_by("who"), batch)
    assert one.keys is not None and [one.keys.get(i) for i in range(2)] == [b"ann", b"bob"]
    assert one.frame is batch.frame and one.raw is batch.raw
    none = key_by().operator.process(None, (Batch(pl.DataFrame(), batch.meta),), TIME)[1].rows
    assert none.keys is not None and [none.keys.get(i) for i in range(2)] == [b"", b""]


def test_late_marks_and_ranks_travel_through_every_step() -> None:
    batch = batch_of([("p", 1, 1.0, [1], "ann"), ("q", 2, 2.0, [2], "bob")])
    batch.meta[1, LATE], batch.meta[1, RANK] = 1, 9
    for name, make in STEPS.items():
        made = run(make(), batch)
        assert made.meta[-1, LATE] == 1 and made.meta[-1, RANK] == 9, name
