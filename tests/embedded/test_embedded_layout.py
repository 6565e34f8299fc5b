"""What is stored reads back as it was, in pieces of bounded size, viewing the decompressed bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.embedded.layout import (
    BLOCK_BYTES,
    BLOCK_RECORDS,
    Columns,
    block_from,
    decode,
    encode,
    joined,
    pieces,
)
from streamproc.errors import LogError
from streamproc.ports import Block, HeaderColumn, TopicPartition, block_of

cells = st.none() | st.binary(max_size=6)
instants = st.integers(-(2**63), 2**63 - 1)
names = st.sampled_from(["h", "sp", "名前"])


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """Blocks of Python values, with or without timestamps."""
    values = draw(st.lists(cells, max_size=12))
    n = len(values)
    return block_of(
        "t", 3, values, keys=draw(st.none() | st.lists(cells, min_size=n, max_size=n)),
        timestamps=draw(st.none() | st.lists(instants, min_size=n, max_size=n)),
        headers=draw(st.none() | st.lists(st.dictionaries(names, st.binary(max_size=4)), min_size=n, max_size=n)),
    )  # fmt: skip


@st.composite
def scattered_blocks(draw: st.DrawFn) -> Block:
    """Blocks whose bounds lie anywhere in the buffer."""
    buffer = np.frombuffer(draw(st.binary(max_size=20)), np.uint8)
    n = draw(st.integers(0, 8))
    spans = st.tuples(st.integers(0, buffer.size), st.integers(0, buffer.size)).map(sorted) | st.just([-1, -1])

    def column() -> tuple[np.ndarray, np.ndarray]:
        bounds = np.array(draw(st.lists(spans, min_size=n, max_size=n)), np.int64).reshape(n, 2)
        return np.ascontiguousarray(bounds[:, 0]), np.ascontiguousarray(bounds[:, 1])

    none = np.empty(0, np.int64)
    headers = tuple(HeaderColumn(name, *column()) for name in draw(st.lists(names, max_size=2)))
    return Block("t", 3, none, none, buffer, *column(), *column(), headers)


def told(block: Block) -> list[tuple[object, ...]]:
    """All that a block says, as Python values."""

    def cell(starts: np.ndarray, ends: np.ndarray, row: int) -> bytes | None:
        return None if starts[row] < 0 else block.buffer[starts[row] : ends[row]].tobytes()

    return [
        (block.value(row), block.key(row), *sorted(
            (header.name, cell(header.starts, header.ends, row)) for header in block.headers if header.starts[row] >= 0
        ))
        for row in range(len(block))
    ]  # fmt: skip


def stored(block: Block, *, base: int = 40) -> Block:
    return block_from(TopicPartition("t", 3), [columns(block, base=base)])


def columns(block: Block, *, base: int = 40) -> Columns:
    encoded = encode(block)
    return decode(encoded.payload, encoded.raw_bytes, base=base, append_time=99)


@settings(deadline=None, max_examples=200)
@given(blocks() | scattered_blocks())
def test_a_stored_block_says_what_was_appended(block: Block) -> None:
    read = stored(block)
    assert told(read) == told(block)
    assert read.offsets.tolist() == list(range(40, 40 + len(block)))
    assert read.timestamps.tolist() == (block.timestamps.tolist() or [99] * len(block))


@settings(deadline=None, max_examples=100)
@given(st.lists(blocks() | scattered_blocks(), min_size=1, max_size=4))
def test_joined_blocks_say_what_each_of_them_says(parts: list[Block]) -> None:
    rows = [row for part in parts for row in told(part)]
    assert told(joined(parts)) == rows
    assert joined(parts).timestamps.tolist() == [time for part in parts for time in part.timestamps.tolist()]


@settings(deadline=None, max_examples=100)
@given(st.lists(blocks() | scattered_blocks(), min_size=1, max_size=5))
def test_stored_blocks_read_together_say_what_each_of_them_says(parts: list[Block]) -> None:
    names = [header.name for header in parts[0].headers]
    alike = [part for part in parts if [header.name for header in part.headers] == names]
    read = block_from(TopicPartition("t", 3), [columns(part, base=100 * i) for i, part in enumerate(alike)])
    assert told(read) == [row for part in alike for row in told(part)]
    assert read.offsets.tolist() == [100 * i + row for i, part in enumerate(alike) for row in range(len(part))]


@settings(deadline=None, max_examples=100)
@given(st.sets(st.integers(0, 2**40), min_size=1, max_size=20), st.integers(0, 2**40))
def test_offsets_with_gaps_are_kept(chosen: set[int], base: int) -> None:
    offsets = np.array(sorted(chosen), np.int64) + base
    whole = block_of("t", 3, [b"x"] * offsets.size)
    block = Block(
        "t", 3, offsets, whole.timestamps, whole.buffer,
        whole.value_starts, whole.value_ends, whole.key_starts, whole.key_ends,
    )  # fmt: skip
    encoded = encode(block, base=base)
    read = decode(encoded.payload, encoded.raw_bytes, base=base, append_time=0)
    assert read.offsets.tolist() == offsets.tolist()


def test_a_block_without_records_is_stored() -> None:
    assert len(stored(block_of("t", 3, []))) == 0


def test_large_blocks_are_cut_by_bytes_and_by_records() -> None:
    by_bytes = [len(piece) for piece in pieces(block_of("t", 0, [b"x" * 100_000] * 25))]
    assert by_bytes == [10, 10, 5]
    by_records = [len(piece) for piece in pieces(block_of("t", 0, [b""] * (2 * BLOCK_RECORDS + 1)))]
    assert by_records == [BLOCK_RECORDS, BLOCK_RECORDS, 1]


def test_a_record_larger_than_a_block_is_stored_alone() -> None:
    values = [b"a", b"x" * (BLOCK_BYTES + 1), b"b", b"c"]
    assert [len(piece) for piece in pieces(block_of("t", 0, values))] == [1, 1, 2]


def test_equal_lengths_cost_no_bytes_each() -> None:
    assert encode(block_of("t", 0, [b"12345678"] * 1000)).raw_bytes < 8 * 1000 + 50


def test_contiguous_values_are_views_of_one_buffer() -> None:
    read = stored(block_of("t", 3, [b"ab", b"cde"], keys=[b"k", None]))
    assert read.buffer.base is not None
    assert not read.buffer.flags.writeable
    assert read.value_starts.tolist() == [0, 2]


def test_columns_of_other_lengths_are_refused() -> None:
    block, short = block_of("t", 0, [b"a", b"b"]), block_of("t", 0, [b"a"])
    wrong = Block(
        "t", 0, block.offsets, block.timestamps, block.buffer,
        block.value_starts, block.value_ends, short.key_starts, short.key_ends,
    )  # fmt: skip
    with pytest.raises(LogError, match="differ in length"):
        encode(wrong)
    stamped = block_of("t", 0, [b"a", b"b"], timestamps=[1, 2]).slice(0, 2)
    uneven = Block(
        "t", 0, stamped.offsets, stamped.timestamps[:1], stamped.buffer,
        stamped.value_starts, stamped.value_ends, stamped.key_starts, stamped.key_ends,
    )  # fmt: skip
    with pytest.raises(LogError, match="1 timestamps"):
        encode(uneven)
