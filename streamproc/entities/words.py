"""Words of text values with their tf-idf weights, for the cosine of two titles and for blocks of rare words.

A value's words stand in order of their hashes; weights are log(1 / share of records that have the word), scaled so that
their squares add up to one. Values that are gone leave holes, which are closed when they are more than half.
"""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from streamproc.columns import grow, next_rows
from streamproc.entities.linkage_model import Floats, Frequencies
from streamproc.hashing import UInt64s, hash_bytes
from streamproc.kernels import kernel
from streamproc.ports import Bytes, Int64s


@dataclass(slots=True)
class ValueWords:
    """Per value, `starts` (int64[values, 2]: begin and count) into hashes and weights; `used` of these are taken.

    No rows at all where no column is read as words.
    """

    starts: Int64s
    hashes: UInt64s
    weights: Floats
    used: int = 0


def value_words() -> ValueWords:
    """No words."""
    return ValueWords(np.zeros((0, 2), np.int64), np.zeros(0, np.uint64), np.zeros(0))


@kernel
def _bounds(buffer: Bytes, starts: Int64s, ends: Int64s, counts: Int64s) -> tuple[Int64s, Int64s]:
    total = 0
    for i in range(starts.size):
        n = 1 if ends[i] > starts[i] else 0
        for at in range(starts[i], ends[i]):
            if buffer[at] == 0x20:
                n += 1
        counts[i] = n
        total += n
    begins, stops = np.empty(total, np.int64), np.empty(total, np.int64)
    w = 0
    for i in range(starts.size):
        if counts[i] == 0:
            continue
        begins[w] = starts[i]
        for at in range(starts[i], ends[i]):
            if buffer[at] == 0x20:
                stops[w] = at
                w += 1
                begins[w] = at + 1
        stops[w] = ends[i]
        w += 1
    return begins, stops


def word_hashes(buffer: Bytes, starts: Int64s, ends: Int64s) -> tuple[UInt64s, Int64s]:
    """Hashes of the words of texts (apart by one blank), text after text, and how many words each text has."""
    counts = np.zeros(starts.size, np.int64)
    begins, stops = _bounds(np.ascontiguousarray(buffer), starts.copy(), ends.copy(), counts)
    return hash_bytes(buffer, begins, stops), counts


def add_words(
    kept: ValueWords, slots: Int64s, buffer: Bytes, starts: Int64s, ends: Int64s, shares: Frequencies | None,
    unseen: float,
) -> None:  # fmt: skip
    """Takes in the words of new values; `kept.starts` has a row for each slot already."""
    hashes, counts = word_hashes(buffer, starts, ends)
    owners = np.repeat(np.arange(slots.size), counts)
    share = np.full(hashes.size, unseen) if shares is None else shares.of(hashes, unseen)
    # A word that every record has still says a little: it must not vanish from texts that have no other.
    weights = np.maximum(-np.log(np.minimum(share, 1.0)), 1e-3)
    order = np.lexsort((hashes, owners))
    hashes, weights = hashes[order], weights[order]
    norms = np.sqrt(np.bincount(owners, weights**2, slots.size))
    weights /= norms[owners]
    at = kept.used + np.cumsum(counts) - counts
    kept.used += hashes.size
    capacity = next_rows(kept.hashes.size, kept.used)
    kept.hashes, kept.weights = grow(kept.hashes, capacity), grow(kept.weights, capacity)
    kept.hashes[kept.used - hashes.size : kept.used] = hashes
    kept.weights[kept.used - hashes.size : kept.used] = weights
    kept.starts[slots, 0], kept.starts[slots, 1] = at, counts


def forget_words(kept: ValueWords, slots: Int64s) -> None:
    """Values that are gone have no words any more."""
    if not kept.starts.size:
        return
    kept.starts[slots, 1] = 0
    live = int(kept.starts[:, 1].sum())
    if kept.used > 1024 and live < kept.used // 2:
        owners = np.flatnonzero(kept.starts[:, 1])
        counts = kept.starts[owners, 1]
        begins = np.cumsum(counts) - counts
        take = np.arange(live) + np.repeat(kept.starts[owners, 0] - begins, counts)
        kept.hashes[:live], kept.weights[:live] = kept.hashes[take], kept.weights[take]
        kept.starts[owners, 0] = begins
        kept.used = live


@kernel
def _rarest(starts: Int64s, hashes: UInt64s, weights: Floats, values: Int64s, out: UInt64s, there: Bytes) -> None:
    for i in range(values.size):
        if values[i] < 0:
            continue
        begin, count = starts[values[i], 0], starts[values[i], 1]
        for k in range(min(count, out.shape[1])):
            best = -1
            for w in range(begin, begin + count):
                taken = False
                for earlier in range(k):
                    if out[i, earlier] == hashes[w]:
                        taken = True
                if not taken and (best < 0 or weights[w] > weights[best]):
                    best = w
            out[i, k] = hashes[best]
            there[i, k] = 1


def rarest(kept: ValueWords, values: Int64s, most: int) -> tuple[UInt64s, Bytes]:
    """For each value its rarest words, at most so many: hashes and flags, [values, most]."""
    out, there = np.zeros((values.size, most), np.uint64), np.zeros((values.size, most), np.uint8)
    if kept.used:
        _rarest(kept.starts, kept.hashes, kept.weights, np.ascontiguousarray(values), out, there)
    return out, there


def idf(share: float) -> float:
    """The weight of a word before scaling, for messages and twins."""
    return max(-math.log(min(share, 1.0)), 1e-3)
