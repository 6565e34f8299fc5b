"""The splitters against independent ones, and against any place where a chunk may end."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.files.cells import GOOD, Cells
from connectors.files.text_pieces import csv_pieces, json_pieces

CELL = st.text(alphabet=st.sampled_from('ab,;"\n\r \té€😀'), max_size=6)
MESSY = st.text(alphabet=st.sampled_from('ab,"\n\r'), max_size=40)
JSON_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip


def split_csv_text(text: bytes, *, rows: int = 100, limit: int = 1000, chunk: int = 1 << 20) -> list[Cells]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(text)
        return list(csv_pieces(path, zipped=False, separator=",", rows=rows, limit=limit, chunk=chunk))


def split_json_text(
    text: bytes, names: list[str], *, rows: int = 100, limit: int = 1000, chunk: int = 1 << 20
) -> list[Cells]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.jsonl"
        path.write_bytes(text)
        return list(json_pieces(path, names, zipped=False, rows=rows, limit=limit, chunk=chunk))


def everything(pieces: list[Cells]) -> list[tuple[Any, ...]]:
    """Each record: line, verdict, raw bytes, and the texts of its cells if it is good."""
    found: list[tuple[Any, ...]] = []
    for cells in pieces:
        for row in range(len(cells)):
            good = cells.verdicts[row] == GOOD
            columns = range(cells.kinds.shape[0]) if good else ()
            texts = tuple(cells.text(column, np.array([row]))[0] for column in columns)
            found.append((int(cells.lines[row]), int(cells.verdicts[row]), cells.raw(row), texts))
    return found


@settings(deadline=None, max_examples=150)
@given(table=st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=6), ends=st.sampled_from(["\n", "\r\n"]))
def test_csv_is_split_as_pythons_csv_module_does(table: list[list[str]], ends: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator=ends, quoting=csv.QUOTE_ALL).writerows([["x", "y"], *table])
    found = everything(split_csv_text(out.getvalue().encode()))
    assert [list(texts) for _, _, _, texts in found] == table


@settings(deadline=None, max_examples=150)
@given(text=MESSY, rows=st.integers(1, 3), chunk=st.integers(1, 9), limit=st.integers(2, 30))
@example(text='""\ra', rows=1, chunk=1, limit=2)
def test_where_a_chunk_ends_changes_no_record_of_csv(text: str, rows: int, chunk: int, limit: int) -> None:
    whole = split_csv_text(b"x,y\n" + text.encode(), limit=limit)
    cut = split_csv_text(b"x,y\n" + text.encode(), rows=rows, limit=limit, chunk=chunk)
    assert everything(cut) == everything(whole)


@settings(deadline=None, max_examples=150)
@given(text=MESSY, rows=st.integers(1, 3), chunk=st.integers(1, 9), limit=st.integers(2, 30))
def test_where_a_chunk_ends_changes_no_record_of_json_lines(text: str, rows: int, chunk: int, limit: int) -> None:
    lines = b"{}" + text.replace(",", '{"a":1}').replace("b", '{"a":"').encode()
    whole = split_json_text(lines, ["a"], limit=limit)
    assert everything(split_json_text(lines, ["a"], rows=rows, limit=limit, chunk=chunk)) == everything(whole)


@settings(deadline=None, max_examples=200)
@given(text=MESSY)
def test_every_byte_of_a_messy_csv_is_in_some_record(text: str) -> None:
    found = everything(split_csv_text(b"x,y\n" + text.encode()))
    kept = b"".join(raw for _, _, raw, _ in found).replace(b"\r", b"").replace(b"\n", b"")
    assert kept == text.encode().replace(b"\r", b"").replace(b"\n", b"")


def strict_object(line: str) -> dict[str, Any] | None:
    """What the standard library makes of a line, without its liberties."""

    def refuse(text: str) -> Any:
        raise ValueError(text)

    try:
        value = json.loads(line, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@settings(deadline=None, max_examples=200)
@given(
    value=st.dictionaries(st.sampled_from(["a", "ö", "c"]), JSON_VALUES, max_size=3), ascii_only=st.booleans(),
    gap=st.sampled_from(["", " ", "\t"]),
)  # fmt: skip
def test_json_objects_are_taken_apart_as_pythons_json_module_does(
    value: dict[str, Any], ascii_only: bool, gap: str
) -> None:
    line = json.dumps(value, ensure_ascii=ascii_only, separators=(gap + "," + gap, gap + ":" + gap))
    (found,) = everything(split_json_text(f"{gap}{line}{gap}\n".encode(), ["a", "ö"], limit=100_000))
    assert found[1] == GOOD
    for name, text in zip(["a", "ö"], found[3], strict=True):
        expected = value.get(name)
        if expected is None or isinstance(expected, str):
            assert text == expected
        else:
            assert json.loads(text) == expected


@settings(deadline=None, max_examples=150)
@given(
    line=st.one_of(
        st.dictionaries(st.sampled_from("ab"), st.integers(-9, 9) | st.text(max_size=2) | st.booleans(), max_size=2)
        .map(json.dumps)
        .flatmap(
            lambda text: st.tuples(
                st.just(text), st.integers(0, len(text)), st.sampled_from([*'"\\{}:,0-.eu', "\\ud83d", ""])
            )
        )
        .map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]),
        st.text(alphabet=st.sampled_from('{}[]":,\\ 01.eE+-tfn'), max_size=12),
        st.text(alphabet=st.sampled_from('{}[]",:0'), max_size=10).map('{{"a":{}}}'.format),
    )
)
def test_a_line_is_good_json_exactly_if_the_standard_library_says_so(line: str) -> None:
    found = everything(split_json_text(line.encode() + b"\n", ["zz"]))
    if not line.strip(" \t\r"):
        assert found == []
    else:
        assert (found[0][1] == GOOD) == (strict_object(line) is not None)
