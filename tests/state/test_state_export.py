"""State becomes arrays and comes back equal, goes on equal, and foreign state is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pytest
from byte_columns import SHORT_KEYS, keys_from, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.batch import WIDTH, Batch, Raw
from streamproc.blocks import array_of, blocks_of
from streamproc.errors import CorruptSnapshot, ForeignFingerprint, StateError
from streamproc.state import IntTable, KeyTable, export_state, grow, import_state, state_keys


@dataclass(frozen=True, slots=True)
class Part:
    total: np.ndarray
    mean: float = 0.0


@dataclass(slots=True)
class Counts:
    keys: KeyTable = field(default_factory=KeyTable)
    pairs: IntTable = field(default_factory=IntTable)
    count: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    parts: tuple[Part, ...] = ()
    waiting: Batch | None = None
    frame: pl.DataFrame = field(default_factory=pl.DataFrame)
    note: str = ""
    blob: bytes = b""
    big: int = 0
    done: bool = False


@dataclass(slots=True)
class Other:
    count: np.ndarray


def bytes_of(state: Any) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in export_state(state).items()}


def count_keys(state: Counts, keys: list[bytes]) -> list[int]:
    """A small keyed operator: the running count per key, and forgets a key at its third row."""
    slots, fresh = state.keys.intern_marked(keys_from(keys))
    state.count = grow(state.count, state.keys.capacity)
    state.count[slots[fresh]] = 0
    out = []
    for slot in slots:
        state.count[slot] += 1
        out.append(int(state.count[slot]))
    full = np.unique(slots[state.count[slots] >= 3])
    state.keys.release(full[state.keys.order(full)])
    state.pairs.intern(slots, state.count[slots])
    return out


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(SHORT_KEYS, max_size=60), min_size=2, max_size=6), st.integers(0, 5))
def test_a_restored_state_goes_on_as_the_saved_one_byte_by_byte(batches: list[list[bytes]], cut: int) -> None:
    straight = Counts()
    resumed = Counts()
    for number, batch in enumerate(batches):
        if number == cut % len(batches):
            resumed = import_state(Counts(), {n: a.copy() for n, a in export_state(resumed).items()})
        assert count_keys(resumed, batch) == count_keys(straight, batch)
    assert bytes_of(resumed) == bytes_of(straight)


def test_every_kind_of_value_comes_back() -> None:
    state = Counts(
        parts=(Part(np.array([[1.5, np.nan]]), float("-inf")), Part(np.zeros(0, np.bool_), -0.0)),
        frame=pl.DataFrame({"a": ["x", None], "e": pl.Series(["u", "v"], dtype=pl.Enum(["v", "u"]))}),
        note="ünï", blob=b"\x00\xff", big=-(2**100), done=True,
    )  # fmt: skip
    back = import_state(Counts(), export_state(state))
    assert bytes_of(back) == bytes_of(state)
    assert back.frame.equals(state.frame) and back.frame.schema == state.frame.schema
    assert (back.note, back.blob, back.big, back.done) == ("ünï", b"\x00\xff", -(2**100), True)
    assert back.parts[0].mean == -np.inf
    assert str(back.parts[1].mean) == "-0.0"
    back.count = grow(back.count, 3)
    back.parts[0].total[0, 0] = 9


def test_waiting_rows_are_stored_without_the_buffer_that_they_came_in() -> None:
    keys = keys_from([b"k%d" % n for n in range(1000)])
    raw = Raw(keys.buffer, keys.starts, keys.ends, np.full(1000, -1), np.full(1000, -1))
    rows = Batch(pl.DataFrame({"n": range(1000)}), np.zeros((1000, WIDTH), np.int64), keys, raw)
    taken = rows.take(np.array([700, 3]))
    stored = export_state(Counts(waiting=taken))
    assert stored["waiting.keys.buffer"].tobytes() == b"k700k3"
    back = import_state(Counts(), stored).waiting
    assert texts(back.keys) == [b"k700", b"k3"]
    assert back.raw.key_starts.tolist() == [-1, -1]
    assert back.frame["n"].to_list() == [700, 3]


def test_the_bytes_of_a_frame_do_not_depend_on_the_rows_it_once_had() -> None:
    long = pl.DataFrame({"s": [f"a text that is not short {n}" for n in range(100)]})
    filtered = pl.concat([long[:3], long[50:52]], rechunk=False)
    fresh = pl.DataFrame({"s": filtered["s"].to_list()})
    assert bytes_of(filtered) == bytes_of(fresh)


def test_state_is_addressable_by_key_without_the_operator() -> None:
    state = Counts()
    count_keys(state, [b"x", b"y", b"z", b"y", b"y"])
    stored = export_state(state)
    slots, keys = state_keys(stored)["keys"]
    assert dict(zip(texts(keys), stored["count"][slots].tolist(), strict=True)) == {b"x": 1, b"z": 1}


def test_foreign_state_is_refused_with_the_path() -> None:
    stored = export_state(Counts(parts=(Part(np.zeros(1)),)))
    with pytest.raises(ForeignFingerprint, match="does not fit at '': it holds a Counts"):
        import_state(Other(np.zeros(1)), stored)
    del stored["parts.0.total"]
    with pytest.raises(ForeignFingerprint, match=r"'parts\.0\.total': the array is missing; resume with the version"):
        import_state(Counts(), stored)
    with pytest.raises(ForeignFingerprint, match="no description"):
        import_state(Counts(), {})


def test_arrays_of_another_type_or_width_are_refused_and_any_number_of_rows_is_taken() -> None:
    """Kernels check no bounds: a row that is narrower than they think would be read past its end."""
    empty = Other(np.zeros((0, 10)))
    assert import_state(empty, export_state(Other(np.ones((7, 10))))).count.shape == (7, 10)
    for narrow, told in ((np.ones((7, 6)), r"float64\[rows, 6\] instead of float64\[rows, 10\]"),
                         (np.ones((7, 10), np.int64), "int64"), (np.ones(7), r"float64\[rows\] instead")):  # fmt: skip
        with pytest.raises(ForeignFingerprint, match=f"at 'count': it is {told}"):
            import_state(empty, export_state(Other(narrow)))
    both = Counts(parts=(Part(np.ones((2, 3))),))
    with pytest.raises(ForeignFingerprint, match=r"at 'parts\.0\.total'"):
        import_state(Counts(parts=(Part(np.zeros((0, 4))),)), export_state(both))


def test_what_cannot_be_stored_is_refused_with_the_path() -> None:
    with pytest.raises(StateError, match="holds a set at 'note'"):
        export_state(Counts(note={1}))  # type: ignore[arg-type]
    with pytest.raises(StateError, match="array of Python objects at '1'"):
        export_state((1, np.array([None])))


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=70), st.integers(1, 20))
def test_blocks_make_the_array_again(data: bytes, size: int) -> None:
    array = np.frombuffer(data, np.uint8)
    blocks = blocks_of(array, size=size)
    assert all(len(piece) == size for _, piece in blocks[:-1])
    assert array_of("|u1", array.shape, [piece for _, piece in blocks]).tobytes() == data


def test_a_change_of_one_row_changes_one_block() -> None:
    array = np.arange(100_000)
    before = [name for name, _ in blocks_of(array)]
    array[50_000] = -1
    after = [name for name, _ in blocks_of(array)]
    assert len(before) == 13
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_blocks_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(CorruptSnapshot, match="has 8 bytes instead of 16"):
        array_of("<i8", (2,), [bytes(8)])
