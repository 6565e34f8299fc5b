"""Bounds on how alike texts can be hold for every pair of texts, and tell most pairs of real names apart."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.entities.signatures import WORDS, bounds, sign
from streamproc.entities.similarity import LONGEST, measures

letters = "abcABC019 -éßжÿ漢😀"
texts = st.text(letters, max_size=12) | st.text(max_size=20) | st.text("a", max_size=300)


def bounds_of(left: list[str], right: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Highest Jaro-Winkler and least edit distance of pairs."""
    encoded = [text.encode() for text in (*left, *right)]
    starts = np.cumsum([0, *map(len, encoded)])
    n = len(left)
    signatures = np.zeros((2 * n, WORDS), np.uint64)
    buffer = np.frombuffer(b"".join(encoded) + b"\0", np.uint8)
    sign(buffer, starts[:-1].copy(), starts[1:].copy(), np.arange(2 * n), np.empty(LONGEST, np.int32), signatures)
    out = np.empty((n, 2))
    bounds(signatures, np.arange(n), np.arange(n, 2 * n), out)
    return out


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=40))
def test_no_pair_is_more_alike_than_its_signatures_say(pairs: list[tuple[str, str]]) -> None:
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    told, true = bounds_of(left, right), measures(left, right)
    assert (told[:, 0] >= true[:, 0]).all()
    assert (told[:, 1] <= true[:, 1]).all(), "Damerau-Levenshtein"
    assert (told[:, 1] <= true[:, 2]).all(), "Levenshtein"


def test_what_is_made_of_other_letters_is_told_apart_without_being_read() -> None:
    told = bounds_of(["martha", "20310", "smith"], ["oliver", "98765", "smyth"])
    assert told[0, 0] < 0.7
    assert told[1, 1] == 5
    assert told[2, 0] > 0.88
    assert told[2, 1] == 1


def test_of_a_text_with_a_letter_too_often_nothing_is_said() -> None:
    assert bounds_of(["a" * 8, "ab" * 64], ["a" * 8, "ab" * 64]).tolist() == [[2.0, -1.0], [2.0, -1.0]]
