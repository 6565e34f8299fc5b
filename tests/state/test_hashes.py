"""Hashes are the published functions, and digests tell what they promise to tell."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from byte_columns import column
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.hashing import (  # fmt: skip
    NULL_HASH,
    chain,
    content_id,
    hash_bytes,
    mix64,
    partitions_of,
    record_digests,
    record_hashes,
    row_hashes,
    sum128,
)

ROWS = st.lists(st.binary(max_size=130), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("text", "seed", "expected"),
    [
        (b"", 0, 0x93228A4DE0EEC5A2),
        (b"a", 1, 0xC5BAC3DB178713C4),
        (b"abc", 2, 0xA97F2F7B1D9B3314),
        (b"message digest", 3, 0x786D1F1DF3801DF4),
        (b"abcdefghijklmnopqrstuvwxyz", 4, 0xDCA5A8138AD37C87),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 5, 0xB9E734F117CFAF70),
        (b"1234567890" * 8, 6, 0x6CC5EAB49A92D617),
    ],
)
def test_key_hashes_are_wyhash_by_its_own_test_vectors(text: bytes, seed: int, expected: int) -> None:
    assert int(hash_bytes(*column([text]), seed=seed)[0]) == expected


@pytest.mark.parametrize(
    ("text", "java"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_partitions_are_those_of_kafkas_default_partitioner(text: bytes, java: int) -> None:
    for count in (1, 7, 12, 2**31):
        assert partitions_of(*column([text]), count).tolist() == [(java & 0x7FFFFFFF) % count]


def test_a_null_key_has_no_partition_and_a_hash_of_its_own() -> None:
    buffer, null = np.empty(0, np.uint8), np.array([-1])
    assert partitions_of(buffer, null, null, 6).tolist() == [-1]
    assert hash_bytes(buffer, null, null).tolist() == [int(NULL_HASH)]


@settings(deadline=None, max_examples=100)
@given(ROWS, st.integers(0, 2**64 - 1))
def test_the_low_half_of_a_row_hash_is_xxh64(rows: list[bytes], seed: int) -> None:
    low = row_hashes(*column(rows), seed=seed)[:, 1]
    assert low.tolist() == [xxhash.xxh64_intdigest(row, seed) for row in rows]


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_a_hash_depends_on_the_bytes_of_its_range_alone(rows: list[bytes]) -> None:
    together = hash_bytes(*column(rows))
    assert together.tolist() == [int(hash_bytes(*column([row]))[0]) for row in rows]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(*[st.integers(0, 2**64 - 1)] * 2), max_size=9))
def test_a_sum_of_hashes_is_modulo_two_to_128_and_has_no_order(pairs: list[tuple[int, int]]) -> None:
    total = sum((high << 64) + low for high, low in pairs) % 2**128
    for order in (pairs, sorted(pairs)):
        array = np.array(order, np.uint64).reshape(-1, 2)
        assert sum128(array) == divmod(total, 2**64)
        half = len(order) // 2
        assert sum128(array[half:], start=sum128(array[:half])) == divmod(total, 2**64)


def test_record_digests_tell_null_from_empty_and_key_from_value() -> None:
    buffer = np.frombuffer(b"ab", np.uint8)
    key_starts, key_ends = np.array([-1, 0, 0, 1, 0]), np.array([-1, 0, 1, 2, 1])
    starts, ends = np.array([0, 0, 1, 0, -1]), np.array([1, 1, 2, 1, -1])
    digests = record_digests(record_hashes(buffer, key_starts, key_ends, starts, ends))
    assert digests.dtype == np.uint32
    assert len(set(digests.tolist())) == 5


def test_mixed_columns_depend_on_their_order_and_on_every_column() -> None:
    a, b = np.arange(1000), np.arange(1000, 2000)[::-1].copy()
    assert np.unique(np.concatenate([mix64(a), mix64(b), mix64(a, b), mix64(a, b, a), mix64(a, b, b)])).size == 5000
    assert (mix64(a, b) == mix64(b, a)).sum() == 0


def test_a_chain_covers_the_bounds_of_its_parts_and_what_came_before() -> None:
    assert len({chain(b""), chain(b"", b""), chain(b"", b"ab"), chain(b"", b"a", b"b"), chain(chain(b""), b"ab")}) == 5
    assert chain(b"x", np.array([1, 2], np.int64)) == chain(b"x", np.array([1, 2], np.int64).tobytes())


def test_a_content_id_is_xxh3_128() -> None:
    assert content_id(b"abc") == "06b05ab6733a618578af5f94892f3950"
