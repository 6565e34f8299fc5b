"""Sorting byte ranges as bytes: eight bytes at a time, and only what still ties goes on to the next eight."""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Final

import numpy as np

from streamproc.hashing import Bytes, Int64s, UInt64s, frozen, load64, swap64
from streamproc.kernels import tight

_SMALL: Final = 24


@tight
def key_prefix(buffer: Bytes, start: int, end: int) -> np.uint64:
    """The first eight bytes of a range as a big-endian number, zeros where it is shorter, for kernels."""
    if end - start >= 8:
        return swap64(load64(buffer, start))
    value = np.uint64(0)
    for at in range(start, end):
        value = (value << np.uint64(8)) | np.uint64(buffer[at])
    if end > start:
        value <<= np.uint64(8 * (8 - (end - start)))
    return value


@tight
def key_prefixes(buffer: Bytes, starts: Int64s, ends: Int64s, out: Int64s) -> None:
    """`key_prefix` of each range, as int64 bits."""
    for i in range(starts.size):
        out[i] = np.int64(key_prefix(buffer, starts[i], ends[i]))


@tight
def _before(buffer: Bytes, a: int, a_end: int, b: int, b_end: int) -> bool:
    while a < a_end and b < b_end:
        if buffer[a] != buffer[b]:
            return buffer[a] < buffer[b]
        a += 1
        b += 1
    return a == a_end and b < b_end


@tight
def _insertion(buffer: Bytes, starts: Int64s, ends: Int64s, order: Int64s, low: int, high: int, depth: int) -> None:
    for i in range(low + 1, high):
        row = order[i]
        at = i
        while at > low and _before(
            buffer, starts[row] + depth, ends[row], starts[order[at - 1]] + depth, ends[order[at - 1]]
        ):
            order[at] = order[at - 1]
            at -= 1
        order[at] = row


@tight
def _radix(words: UInt64s, order: Int64s, words2: UInt64s, order2: Int64s, low: int, high: int, counts: Int64s) -> None:
    """Sorts order[low:high] by words[low:high], stable, bytes that are equal everywhere left out."""
    for byte in range(8):
        shift = np.uint64(8 * byte)
        for value in range(256):
            counts[value] = 0
        for i in range(low, high):
            counts[np.int64((words[i] >> shift) & np.uint64(0xFF))] += 1
        if counts[np.int64((words[low] >> shift) & np.uint64(0xFF))] == high - low:
            continue
        at = low
        for value in range(256):
            count = counts[value]
            counts[value] = at
            at += count
        for i in range(low, high):
            value = np.int64((words[i] >> shift) & np.uint64(0xFF))
            words2[counts[value]] = words[i]
            order2[counts[value]] = order[i]
            counts[value] += 1
        for i in range(low, high):
            words[i] = words2[i]
            order[i] = order2[i]


@tight
def _ended_first(starts: Int64s, ends: Int64s, order: Int64s, order2: Int64s, low: int, high: int, depth: int) -> int:
    """Of rows with equal words, those that end within the word come first, by length; gives where the others begin."""
    at = low
    for length in range(9):
        for i in range(low, high):
            left = ends[order[i]] - starts[order[i]] - depth
            if left == length:
                order2[at] = order[i]
                at += 1
    middle = at
    for i in range(low, high):
        if ends[order[i]] - starts[order[i]] - depth > 8:
            order2[at] = order[i]
            at += 1
    for i in range(low, high):
        order[i] = order2[i]
    return middle


@tight
def _sort(
    buffer: Bytes, starts: Int64s, ends: Int64s, order: Int64s, order2: Int64s, words: UInt64s, words2: UInt64s,
    todo: Int64s, counts: Int64s,
) -> None:  # fmt: skip
    todo[0, 0], todo[0, 1], todo[0, 2] = 0, order.size, 0
    pending = 1
    while pending:
        pending -= 1
        low, high, depth = todo[pending, 0], todo[pending, 1], todo[pending, 2]
        if high - low <= _SMALL:
            _insertion(buffer, starts, ends, order, low, high, depth)
            continue
        for i in range(low, high):
            words[i] = key_prefix(buffer, starts[order[i]] + depth, ends[order[i]])
        _radix(words, order, words2, order2, low, high, counts)
        begin = low
        while begin < high:
            end = begin + 1
            while end < high and words[end] == words[begin]:
                end += 1
            if end - begin > 1:
                middle = _ended_first(starts, ends, order, order2, begin, end, depth)
                if end - middle > 1:
                    todo[pending, 0], todo[pending, 1], todo[pending, 2] = middle, end, depth + 8
                    pending += 1
            begin = end


def sort_keys(buffer: Bytes, starts: Int64s, ends: Int64s) -> Int64s:
    """The permutation that sorts byte ranges, a shorter one before its extensions; equal ones keep their order.

    >>> sort_keys(np.frombuffer(b"baab", np.uint8), np.array([0, 1, 1]), np.array([1, 3, 2]))
    array([2, 1, 0])
    """
    n = starts.size
    order = np.arange(n, dtype=np.int64)
    if n > 1:
        # Ranges that wait are disjoint and have two rows at least, so half of n is enough for the stack.
        _sort(
            frozen(buffer), frozen(starts), frozen(ends), order, np.empty(n, np.int64), np.empty(n, np.uint64),
            np.empty(n, np.uint64), np.empty((n // 2 + 1, 3), np.int64), np.empty(256, np.int64),
        )  # fmt: skip
    return order
