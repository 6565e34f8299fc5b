"""Similarities equal those of rapidfuzz, on any text."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import DamerauLevenshtein, JaroWinkler, Levenshtein

from streamproc.entities.similarity import measures

texts = st.text(alphabet="abcé狗🐕", max_size=12) | st.text(max_size=20)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_similarities_of_texts_equal_those_of_rapidfuzz(pairs: list[tuple[str, str]]) -> None:
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    made = measures(left, right)
    expected = [
        (JaroWinkler.similarity(a, b), DamerauLevenshtein.distance(a, b), Levenshtein.distance(a, b)) for a, b in pairs
    ]
    assert np.allclose(made[:, :3], np.array(expected), atol=1e-12)
    assert (made[:, 3] == np.minimum(made[:, 1], 3)).all()


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.text(alphabet="abc", min_size=1, max_size=3)), st.sets(st.text(alphabet="abc", min_size=1, max_size=3))
)
def test_the_overlap_of_sets_is_jaccards(a: set[str], b: set[str]) -> None:
    made = measures(["\x1f".join(sorted(a))], ["\x1f".join(sorted(b))])[0, 4]
    assert made == (len(a & b) / len(a | b) if a | b else 0.0)
