"""Few rows, read value by value, give the texts, dates and values that the expressions give."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.entities.comparisons import block, compare
from streamproc.entities.few_rows import FEW, days_of_few, texts_of_few
from streamproc.entities.interning import intern_frame, interned, texts
from streamproc.entities.linkage_model import LinkageModel
from streamproc.entities.program import program_of
from streamproc.entities.stored_columns import StoredColumn, stored_columns, texts_of

plain = st.text(st.characters(max_codepoint=127), max_size=9)
dates = st.dates().map(lambda day: day.strftime("%Y%m%d")) | st.sampled_from(
    ["2020-02-30", " 2021-03-04", "00001231", "2020 1 1", "202011", "1999-1-1", "", "-", "20201301", "99991231"]
)
STORED = (
    StoredColumn("name", "text"), StoredColumn("name", "text", 3), StoredColumn("name", "raw"),
    StoredColumn("name", "words"), StoredColumn("born", "date"), StoredColumn("born", "text", 4),
)  # fmt: skip
frames = st.lists(st.tuples(st.none() | plain, st.none() | dates | plain), min_size=1, max_size=6).map(
    lambda rows: pl.DataFrame(rows, schema={"name": pl.String, "born": pl.String}, orient="row")
)


@given(frames)
def test_texts_are_those_of_the_expressions(frame: pl.DataFrame) -> None:
    assert texts_of_few(frame, STORED) == texts_of(frame, STORED).to_list()


@given(st.lists(st.none() | dates | plain, min_size=1, max_size=6))
def test_days_are_those_of_the_expressions(values: list[str | None]) -> None:
    days = days_of_few(values)
    if days is not None:
        frame = pl.DataFrame({"born": values}, schema={"born": pl.String})
        np.testing.assert_array_equal(days, StoredColumn("born", "date").numbers(frame)[0])


def test_what_is_not_certain_is_left_to_the_expressions() -> None:
    assert texts_of_few(pl.DataFrame({"name": ["İpek"]}), STORED[:1]) is None
    assert texts_of_few(pl.DataFrame({"name": [1]}), STORED[:1]) is None
    assert texts_of_few(pl.DataFrame({"name": ["a"] * (FEW + 1)}), STORED[:1]) is None
    assert days_of_few(["2020 1 1"]) is None


@settings(deadline=None)
@given(frames)
def test_values_do_not_depend_on_how_many_rows_came_together(frame: pl.DataFrame) -> None:
    """The same rows among many, where the expressions read them, and by themselves."""
    compared = (compare("name", "name"), compare("born", "date"))
    even = tuple((1 / (len(one.levels) + 1),) * (len(one.levels) + 1) for one in compared)
    model = LinkageModel(compared, (block("born"), block("name[:2]")), 0.01, even, even)
    stored = stored_columns(model.comparisons, model.blocks)
    program = program_of(model, stored)
    few, many = interned(), interned()
    alone = intern_frame(few, frame, stored, model, program)
    among = intern_frame(many, pl.concat([frame] * (FEW + 1)), stored, model, program)[: frame.height]
    assert texts(few, alone.astype(np.int64).ravel()).to_list() == texts(many, among.astype(np.int64).ravel()).to_list()
    known = alone.ravel() >= 0
    one, other = alone.ravel()[known], among.ravel()[known]
    np.testing.assert_array_equal(few.numbers[one], many.numbers[other])
    np.testing.assert_array_equal(few.signatures[one], many.signatures[other])
