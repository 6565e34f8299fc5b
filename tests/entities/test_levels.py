"""Levels of places, dates, sets and words hold where a plain reading of docs/entities.md says so, on any values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import polars as pl
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from streamproc.entities.block_keys import block_keys
from streamproc.entities.comparisons import RARE_WORDS, block, compare
from streamproc.entities.explanation import explain_match
from streamproc.entities.linkage_model import LinkageModel
from streamproc.entities.training import frequencies_of

COMPARED = (
    compare("latitude", "place", longitude="longitude"), compare("born", "date"), compare("tags", "set"),
    compare("title", "words"), compare("price", "number", limits=(0.5, 10)),
)  # fmt: skip
TITLES = ["a red chair", "the red chair", "oak table", "table of oak", "a b c d e f", "lamp", "the lamp of the hall"]
WORDS = sorted({word for title in TITLES for word in title.split()} | {"neu", "élan"})
RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def shares() -> dict[str, float]:
    """Of each word the share of titles that have it."""
    return {word: sum(word in title.split() for title in TITLES) / len(TITLES) for word in WORDS}


def model() -> LinkageModel:
    even = tuple((1 / (len(one.levels) + 1),) * (len(one.levels) + 1) for one in COMPARED)
    every = pl.Series("t", [word for title in TITLES for word in sorted(set(title.split()))])
    known = {"title": frequencies_of(every, len(TITLES))}
    return LinkageModel(COMPARED, (block("title"),), 0.01, even, even, {}, known, len(TITLES))


def kilometres(a: tuple[float, float], b: tuple[float, float]) -> float:
    """By the angle between two vectors, which is not how the kernel goes about it."""

    def vector(place: tuple[float, float]) -> tuple[float, float, float]:
        up, across = math.radians(place[0]), math.radians(place[1])
        return math.cos(up) * math.cos(across), math.cos(up) * math.sin(across), math.sin(up)

    left, right = vector(a), vector(b)
    x, y, z = (left[i] * right[j] - left[j] * right[i] for i, j in ((1, 2), (2, 0), (0, 1)))
    return 6371.0088 * math.atan2(math.sqrt(x * x + y * y + z * z), sum(map(math.prod, zip(left, right, strict=True))))


def cosine(a: str, b: str) -> float:
    """Of the words of two titles, each weighed by how few titles have it; a word that none has counts as in one."""
    known = shares()
    left, right = set(a.split()), set(b.split())
    weight = {w: max(-math.log(known.get(w) or 1 / len(TITLES)), 1e-3) for w in left | right}
    length = math.sqrt(sum(weight[w] ** 2 for w in left)) * math.sqrt(sum(weight[w] ** 2 for w in right))
    return sum(weight[w] ** 2 for w in left & right) / length


def level(column: str, a: dict[str, Any], b: dict[str, Any]) -> str:
    """The level on which a column of two records stands, as explain_match names it."""
    one = next(one for one in COMPARED if one.column == column)
    pair: Sequence[Any] = [row[column] for row in (a, b)]
    if column == "latitude":
        pair = [None if None in (row["latitude"], row["longitude"]) else (row["latitude"], row["longitude"])
                for row in (a, b)]  # fmt: skip
    if column == "tags":
        pair = [None if not value else frozenset(value) for value in pair]
    if column == "title":
        pair = [None if not (value or "").split() else " ".join(sorted(set(value.split()))) for value in pair]
    if column == "born":
        pair = [value and value.strftime("%Y%m%d") for value in pair]
    if None in pair:
        return "missing"
    x, y = pair
    if x == y:
        return "equal"
    measured: dict[str, Callable[[], float]] = {
        "kilometres": lambda: kilometres(x, y), "cosine": lambda: cosine(x, y),
        "jaccard": lambda: len(x & y) / len(x | y),
        "difference": lambda: abs((a["born"] - b["born"]).days) if column == "born" else abs(x - y),
        "damerau_levenshtein": lambda: edits(x, y),
    }  # fmt: skip
    for this in one.levels[1:]:
        value = float(measured[this.measure]())
        # Of a value that is the limit but for its last digits nobody can say on which side it falls.
        assume(this.measure not in ("kilometres", "cosine") or abs(value - this.limit) > 1e-7)
        if value >= this.limit if this.measure in ("jaccard", "cosine") else value <= this.limit:
            return str(this)
    return "different"


def edits(x: str, y: str) -> float:
    from rapidfuzz.distance import DamerauLevenshtein

    return DamerauLevenshtein.distance(x, y)


near = st.floats(-0.3, 0.3) | st.floats(-180, 180)
rows = st.fixed_dictionaries({
    "latitude": st.none() | st.floats(-0.2, 0.2) | st.floats(-90, 90) | st.sampled_from([0.0, 90.0, 52.5, 52.5001]),
    "longitude": st.none() | near | st.sampled_from([0.0, 13.4, 13.4001, -180.0, 180.0]),
    "born": st.none() | st.dates(date(1990, 1, 1), date(1993, 12, 31)) | st.dates(date(1900, 1, 1), date(2050, 1, 1)),
    "tags": st.none() | st.lists(st.sampled_from("abcdef"), max_size=6),
    "title": st.none() | st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join) | st.sampled_from(TITLES),
    "price": st.none() | st.integers(-30, 30).map(float) | st.floats(-12, 12),
})  # fmt: skip
TYPES = {
    "latitude": pl.Float64, "longitude": pl.Float64, "born": pl.Date, "tags": pl.List(pl.String), "title": pl.String,
    "price": pl.Float64,
}  # fmt: skip
MODEL = model()


@RELAXED
@given(rows, rows)
def test_every_level_is_the_one_that_a_plain_reading_gives(a: dict[str, Any], b: dict[str, Any]) -> None:
    expected = {one.column: level(one.column, a, b) for one in COMPARED}
    told = explain_match(MODEL, pl.DataFrame([a, b], schema=TYPES), names=("a", "b"))
    assert {bar.column: bar.level for bar in told.bars} == expected


RARER = ["lamp", "oak", "chair", "table", "red", "of", "the", "a", "in", "on"]
"""Each word is in half as many titles as the next one."""


def naive_blocks(title: str) -> set[str]:
    return set(sorted(set(title.split()), key=RARER.index)[:RARE_WORDS])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from(RARER), max_size=10).map(" ".join), min_size=2, max_size=12))
def test_titles_are_in_the_blocks_of_their_rarest_words_and_in_no_others(titles: list[str]) -> None:
    counted = pl.Series("t", [word for n, word in enumerate(RARER) for _ in range(2**n)])
    even = ((0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2),)
    known = {"title": frequencies_of(counted, 2 ** len(RARER))}
    rare = LinkageModel((compare("title", "words"),), (block("rare(title)"),), 0.01, even, even, {}, known, 10**6)
    keys = block_keys(pl.DataFrame({"title": titles}), rare)
    mine = [{int(key) for key in row if key >= 0} for row in keys]
    assert [len(one) for one in mine] == [len(naive_blocks(title)) for title in titles]
    for a, b in itertools.combinations(range(len(titles)), 2):
        assert len(mine[a] & mine[b]) == len(naive_blocks(titles[a]) & naive_blocks(titles[b]))
