"""The weight of a pair of records, as a kernel."""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from streamproc.entities.interning import Interned, Values
from streamproc.entities.linkage_model import Floats
from streamproc.entities.program import MISSING, Program
from streamproc.entities.signatures import Signatures, highest_jaro_winkler, length_of, shared_at_most
from streamproc.entities.similarity import (
    LONGEST,
    ROOM,
    TABLE,
    Words,
    code_points,
    edit_distance,
    jaccard,
    jaro_winkler,
    kilometres,
)
from streamproc.hashing import UInt64s
from streamproc.kernels import kernel, tight
from streamproc.ports import Bytes, Int64s

HOPELESS: Final = -1.0e9
"""What `pair_weight` gives where a pair cannot reach what was asked for."""
_LOW: Final = 0xFFFFFFFF
_ROUNDING: Final = 1e-6


class Scorer(NamedTuple):
    """What kernels need to weigh a pair: the program, the values, and scratch.

    key_records, arena  of the table of values: where the text of a value lies
    word_starts         int64[values, 2]: where the words of a value begin, and how many they are
    """

    columns: Int64s
    measures: Int64s
    limits: Floats
    weights: Floats
    frequencies: Bytes
    reach: Floats
    key_records: Int64s
    arena: Bytes
    numbers: Floats
    rarity: Floats
    word_starts: Int64s
    words: UInt64s
    word_weights: Floats
    scratch: Words
    table: Words
    prior: Floats
    signatures: Signatures
    gains: Floats


_SCRATCH: Final = np.empty(ROOM, np.int32)
_TABLE: Final = np.empty(TABLE, np.int32)


def scorer(program: Program, kept: Interned) -> Scorer:
    """The kernels' view of a program and of the values as they are now."""
    words = kept.words
    return Scorer(
        program.columns, program.measures, program.limits, program.weights, program.frequencies, program.reach,
        kept.table.arrays.records, kept.table.arrays.arena, kept.numbers, kept.rarity, words.starts, words.hashes,
        words.weights, _SCRATCH, _TABLE, np.array([program.prior]), kept.signatures,
        np.empty(program.columns.size),
    )  # fmt: skip


@tight
def cosine(starts: Int64s, words: UInt64s, weights: Floats, a: int, b: int) -> float:
    """The cosine of the weighted words of two values; words stand in order of their hashes, weights have length 1."""
    i, j = starts[a, 0], starts[b, 0]
    end_i, end_j = i + starts[a, 1], j + starts[b, 1]
    total = 0.0
    while i < end_i and j < end_j:
        if words[i] == words[j]:
            total += weights[i] * weights[j]
            i += 1
            j += 1
        elif words[i] < words[j]:
            i += 1
        else:
            j += 1
    return total


@tight
def level_of(use: Scorer, c: int, va: int, vb: int) -> int:
    """The level on which two different values stand in comparison c; the number of levels if none holds."""
    measures, limits, records, arena, numbers = use.measures, use.limits, use.key_records, use.arena, use.numbers
    scratch = use.scratch
    start, other = records[va, 0], records[vb, 0]
    # Behind the letter that names the column.
    length, other_length = (records[va, 1] & _LOW) - 2, (records[vb, 1] & _LOW) - 2
    start += 1
    other += 1
    m, n = -1, -1
    similar, k = -1.0, 0
    shared = shared_at_most(use.signatures, va, vb)
    longer = max(length_of(use.signatures, va), length_of(use.signatures, vb))
    while k < measures.shape[1] and measures[c, k] >= 0:
        measure, limit = measures[c, k], limits[c, k]
        if 2 <= measure <= 3 and shared >= 0 and longer - shared > limit:
            k += 1
            continue
        if 1 <= measure <= 3 and m < 0:
            m = code_points(arena, start, length, scratch, 0)
            n = code_points(arena, other, other_length, scratch, LONGEST)
        if measure == 1:
            if similar < 0:
                similar = jaro_winkler(scratch, m, n)
            if similar >= limit:
                return k
        elif 2 <= measure <= 3:
            if edit_distance(scratch, m, n, use.table, int(limit), measure == 2) <= limit:
                return k
        elif measure == 4:
            if abs(numbers[va, 0] - numbers[vb, 0]) <= limit:
                return k
        elif measure == 5:
            most = max(abs(numbers[va, 0]), abs(numbers[vb, 0]))
            if abs(numbers[va, 0] - numbers[vb, 0]) <= limit * most:
                return k
        elif measure == 6:
            if kilometres(numbers[va, 0], numbers[va, 1], numbers[vb, 0], numbers[vb, 1]) <= limit:
                return k
        elif measure == 7:
            if jaccard(arena, start, length, other, other_length) >= limit:
                return k
        elif measure == 8 and cosine(use.word_starts, use.words, use.word_weights, va, vb) >= limit:
            return k
        k += 1
    return k


@tight
def pair_weight(use: Scorer, values: Values, a: int, b: int, least: float) -> float:
    """The weight of two records in bits, prior included; HOPELESS if it cannot reach `least`.

    What differs is first bounded from above without reading it, which settles most pairs of a block; then read, one
    comparison after the other, as long as there is hope.
    """
    columns, weights, gains, signatures = use.columns, use.weights, use.gains, use.signatures
    highest, unread = use.prior[0], 0
    for c in range(columns.size):
        va, vb = values[a, columns[c]], values[b, columns[c]]
        if va < 0 or vb < 0:
            continue
        if va == vb:
            highest += weights[c, 0] + (use.rarity[va] if use.frequencies[c] != 0 else 0.0)
            continue
        shared = shared_at_most(signatures, va, vb)
        longer = max(length_of(signatures, va), length_of(signatures, vb))
        k, best, alike, reads = 0, HOPELESS, -1.0, False
        while k < use.measures.shape[1] and use.measures[c, k] >= 0:
            measure = use.measures[c, k]
            holds = measure != 0
            if shared >= 0 and holds and measure <= 3:
                if measure > 1:
                    holds = longer - shared <= use.limits[c, k]
                else:
                    if alike < 0.0:
                        alike = highest_jaro_winkler(signatures, va, vb, shared)
                    holds = alike >= use.limits[c, k]
            if holds:
                best = max(best, weights[c, k])
                reads = True
            k += 1
        best = max(best, weights[c, k])
        gains[c] = best
        highest += best
        if reads:
            unread |= 1 << c
    # Sums of floats are rounded: only what is below by more than that is hopeless.
    if highest < least - _ROUNDING:
        return HOPELESS
    total = use.prior[0]
    for c in range(columns.size):
        va, vb = values[a, columns[c]], values[b, columns[c]]
        if va < 0 or vb < 0:
            continue
        if va == vb:
            total += weights[c, 0]
            if use.frequencies[c] != 0:
                total += use.rarity[va]
            continue
        gain = gains[c]
        if unread & (1 << c) != 0:
            gain = weights[c, level_of(use, c, va, vb)]
            highest += gain - gains[c]
            if highest < least - _ROUNDING:
                return HOPELESS
        total += gain
    return total if total >= least else HOPELESS


@tight
def pattern_of(use: Scorer, values: Values, a: int, b: int) -> int:
    """The levels of all comparisons of two records, four bits each, the first one lowest."""
    pattern = 0
    for c in range(use.columns.size):
        va, vb = values[a, use.columns[c]], values[b, use.columns[c]]
        level = MISSING
        if va >= 0 and vb >= 0:
            level = 0 if va == vb else level_of(use, c, va, vb)
        pattern |= level << (4 * c)
    return pattern


@kernel
def patterns(use: Scorer, values: Values, left: Int64s, right: Int64s) -> Int64s:
    """The pattern of each pair of rows."""
    out = np.empty(left.size, np.int64)
    for i in range(left.size):
        out[i] = pattern_of(use, values, left[i], right[i])
    return out


@kernel
def pair_weights(use: Scorer, values: Values, left: Int64s, right: Int64s) -> Floats:
    """The weight of each pair of rows."""
    out = np.empty(left.size, np.float64)
    for i in range(left.size):
        out[i] = pair_weight(use, values, left[i], right[i], -1.0e12)
    return out


def levels(pattern: Int64s, comparisons: int) -> npt.NDArray[np.int64]:
    """Patterns taken apart: int64[pairs, comparisons]."""
    return (pattern[:, None] >> (4 * np.arange(comparisons))) & 15
