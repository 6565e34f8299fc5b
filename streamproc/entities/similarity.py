"""How alike two texts are, as kernels over bytes: no string object is ever made.

Texts are UTF-8; they are compared by code points, which ASCII texts are already. Texts longer than `LONGEST` code
points are compared by their beginnings.

    jaro_winkler   Jaro similarity with a bonus of 0.1 for each of up to 4 equal first letters, where Jaro's is above
                   0.7 (Winkler 1990); in [0, 1]
    edit_distance  insertions, deletions, substitutions (Levenshtein) and, if asked for, swaps of neighbours
                   (Damerau-Levenshtein, unrestricted)
    jaccard        shared items of all items, for texts that hold sorted distinct items apart by one byte 1F
    kilometres     great-circle distance on a sphere of 6,371.0088 km
"""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.hashing import frozen
from streamproc.kernels import kernel, tight
from streamproc.ports import Bytes, Int64s

LONGEST: Final = 256
"""Code points of a text that are looked at."""
ROOM: Final = 4 * LONGEST + 8
"""Words of scratch that `jaro_winkler` needs."""
TABLE: Final = (LONGEST + 1) * (LONGEST + 1)
"""Words of scratch that `edit_distance` needs."""
_EARTH_KM: Final = 6371.0088

Words = npt.NDArray[np.int32]


@tight
def code_points(buffer: Bytes, start: int, length: int, out: Words, at_word: int) -> int:
    """Writes a text's code points to `out[at_word:]`; gives how many."""
    n = 0
    at = start
    end = start + length
    while at < end and n < LONGEST:
        first = np.int32(buffer[at])
        if first < 0x80:
            out[at_word + n] = first
            at += 1
        elif first < 0xE0:
            out[at_word + n] = ((first & 0x1F) << 6) | (np.int32(buffer[at + 1]) & 0x3F)
            at += 2
        elif first < 0xF0:
            middle = np.int32(buffer[at + 1]) & 0x3F
            out[at_word + n] = ((first & 0x0F) << 12) | (middle << 6) | (np.int32(buffer[at + 2]) & 0x3F)
            at += 3
        else:
            high = ((first & 0x07) << 18) | ((np.int32(buffer[at + 1]) & 0x3F) << 12)
            out[at_word + n] = high | ((np.int32(buffer[at + 2]) & 0x3F) << 6) | (np.int32(buffer[at + 3]) & 0x3F)
            at += 4
        n += 1
    return n


@tight
def jaro_winkler(words: Words, m: int, n: int) -> float:
    """Similarity of words[0:m] and words[LONGEST:LONGEST + n]; the rest of `words` is scratch."""
    if m == 0 or n == 0:
        return 1.0 if m == n else 0.0
    reach = max(max(m, n) // 2 - 1, 0)
    left, right, of_left, of_right = 0, LONGEST, 2 * LONGEST, 3 * LONGEST
    for j in range(n):
        words[of_right + j] = 0
    common = 0
    for i in range(m):
        words[of_left + i] = 0
        for j in range(max(0, i - reach), min(n, i + reach + 1)):
            if words[of_right + j] == 0 and words[left + i] == words[right + j]:
                words[of_left + i] = 1
                words[of_right + j] = 1
                common += 1
                break
    if common == 0:
        return 0.0
    swaps = 0
    j = 0
    for i in range(m):
        if words[of_left + i] == 1:
            while words[of_right + j] == 0:
                j += 1
            if words[left + i] != words[right + j]:
                swaps += 1
            j += 1
    jaro = (common / m + common / n + (common - swaps // 2) / common) / 3.0
    if jaro <= 0.7:
        return jaro
    prefix = 0
    while prefix < 4 and prefix < m and prefix < n and words[left + prefix] == words[right + prefix]:
        prefix += 1
    return jaro + 0.1 * prefix * (1.0 - jaro)


@tight
def edit_distance(words: Words, m: int, n: int, rows: Words, most: int, swaps: bool) -> int:
    """Edits from words[0:m] to words[LONGEST:LONGEST + n]; `most` + 1 where it takes more than `most`.

    rows   scratch of at least (m + 1) * (n + 1) words
    swaps  whether exchanging two neighbours is one edit
    """
    if abs(m - n) > most:
        return most + 1
    # What both begin or end with costs nothing.
    while m > 0 and n > 0 and words[m - 1] == words[LONGEST + n - 1]:
        m -= 1
        n -= 1
    left, right = 0, LONGEST
    while m > 0 and n > 0 and words[left] == words[right]:
        left, right, m, n = left + 1, right + 1, m - 1, n - 1
    if m == 0 or n == 0:
        return m + n
    width = n + 1
    for j in range(n + 1):
        rows[j] = j
    before = 0
    for i in range(1, m + 1):
        row = i * width
        rows[row] = i
        a = words[left + i - 1]
        least = i
        matched = 0  # the last column before j of this row where the letters agree
        for j in range(1, n + 1):
            b = words[right + j - 1]
            cost = 0 if a == b else 1
            best = min(rows[row - width + j - 1] + cost, rows[row - width + j] + 1, rows[row + j - 1] + 1)
            if swaps and matched > 0:
                # The last row before this one whose letter is b: found by looking back, since texts are short.
                k = i - 1
                while k > 0 and words[left + k - 1] != b:
                    k -= 1
                if k > 0:
                    best = min(best, rows[(k - 1) * width + matched - 1] + (i - k - 1) + 1 + (j - matched - 1))
            if a == b:
                matched = j
            rows[row + j] = best
            least = min(least, best)
        # A swap reaches back over one row: two rows in a row beyond the limit cannot come back below it.
        if least > most and before > most + 1:
            return most + 1
        before = least
    return min(rows[m * width + n], most + 1)


@tight
def jaccard(buffer: Bytes, start: int, length: int, other: int, other_length: int) -> float:
    """Shared items of all items of two texts of sorted items, apart by a byte 1F; 0 where both are empty."""
    a, b, end_a, end_b = start, other, start + length, other + other_length
    shared, total = 0, 0
    while a < end_a or b < end_b:
        i, j = a, b
        while i < end_a and buffer[i] != 0x1F:
            i += 1
        while j < end_b and buffer[j] != 0x1F:
            j += 1
        order = 0
        if a >= end_a:
            order = 1
        elif b >= end_b:
            order = -1
        else:
            k = 0
            while order == 0 and (a + k < i or b + k < j):
                if a + k >= i:
                    order = -1
                elif b + k >= j:
                    order = 1
                elif buffer[a + k] != buffer[b + k]:
                    order = -1 if buffer[a + k] < buffer[b + k] else 1
                k += 1
        total += 1
        if order == 0:
            shared += 1
        if order <= 0:
            a = i + 1
        if order >= 0:
            b = j + 1
    return shared / total if total else 0.0


@tight
def kilometres(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """Great-circle distance of two places in degrees."""
    up, across = math.radians(other_latitude - latitude), math.radians(other_longitude - longitude)
    h = math.sin(up / 2) ** 2
    h += math.cos(math.radians(latitude)) * math.cos(math.radians(other_latitude)) * math.sin(across / 2) ** 2
    return 2.0 * _EARTH_KM * math.asin(min(1.0, math.sqrt(h)))


@kernel
def _all_measures(
    buffer: Bytes, starts: Int64s, ends: Int64s, other_starts: Int64s, other_ends: Int64s, out: npt.NDArray[np.float64]
) -> None:
    words = np.empty(ROOM, np.int32)
    rows = np.empty(TABLE, np.int32)
    for i in range(starts.size):
        m = code_points(buffer, starts[i], ends[i] - starts[i], words, 0)
        n = code_points(buffer, other_starts[i], other_ends[i] - other_starts[i], words, LONGEST)
        out[i, 0] = jaro_winkler(words, m, n)
        out[i, 1] = edit_distance(words, m, n, rows, 2 * LONGEST, True)
        out[i, 2] = edit_distance(words, m, n, rows, 2 * LONGEST, False)
        out[i, 3] = edit_distance(words, m, n, rows, 2, True)
        out[i, 4] = jaccard(buffer, starts[i], ends[i] - starts[i], other_starts[i], other_ends[i] - other_starts[i])


def measures(left: list[str], right: list[str]) -> npt.NDArray[np.float64]:
    """Jaro-Winkler, Damerau-Levenshtein, Levenshtein, Damerau-Levenshtein up to 3, Jaccard of pairs; float64[n, 5].

    >>> measures(["martha", "ca"], ["marhta", "abc"]).round(4).tolist()
    [[0.9611, 1.0, 2.0, 1.0, 0.0], [0.0, 2.0, 3.0, 2.0, 0.0]]
    """
    texts = [text.encode() for text in (*left, *right)]
    bounds = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=bounds[1:])
    out = np.empty((len(left), 5))
    n = len(left)
    buffer = np.frombuffer(b"".join(texts) or b"\0", np.uint8)
    starts, ends = bounds[:-1], bounds[1:]
    _all_measures(frozen(buffer), frozen(starts[:n]), frozen(ends[:n]), frozen(starts[n:]), frozen(ends[n:]), out)
    return out
