"""No test row is told its answer: not by a neighbour in time, not by a label that came later, not by its own entity."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.errors import InputError, TypeMismatch, UnknownColumn

DAY = 86_400_000_000


def frame(at: Any, known: Any, **more: Any) -> pl.DataFrame:
    times = {"at": pl.Series(at, dtype=pl.Int64), "_label_available_at": pl.Series(known, dtype=pl.Int64)}
    return pl.DataFrame(times | more).with_columns(pl.col(*times).cast(pl.Datetime("us", "UTC")))


# ── the twin ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def naive(
    rows: list[tuple[int, int | None, Any]], start: int, until: int, around: bool, embargo: int, lookback: int,
    mine: set[Any] | None,
) -> list[str]:  # fmt: skip
    """What becomes of each row at one test, told by a person who looks at the rows one by one."""
    tests = [one for one in rows if start <= one[0] < until and one[1] is not None and (mine is None or one[2] in mine)]
    said = []
    for row in rows:
        at, known, entity = row
        if row in tests:
            said.append("test")
        elif known is None:
            said.append("its label was never known")
        elif at < start and known > start:
            said.append("its label was not known yet")
        elif at < start and known > start - embargo:
            said.append("within the embargo")
        elif at >= until and around and any(at - lookback < test[1] for test in tests):
            said.append("its features overlap a tested label")
        elif at >= until and around and any(at - lookback - embargo < test[1] for test in tests):
            said.append("within the embargo")
        elif at >= until and not around:
            said.append("later than the test")
        elif mine is not None and ((entity in mine) != (start <= at < until)):
            said.append("its entity is on the other side")
        else:
            said.append("train")
    return said


@pytest.mark.parametrize("seed", range(24))
def test_splits_equal_a_twin_that_looks_at_each_row(seed: int) -> None:
    random = np.random.default_rng(seed)
    n, around, grouped = 300, bool(seed % 2), seed % 3 == 0
    at = random.integers(0, 200, n)
    known = [None if random.random() < 0.05 else int(t + random.integers(0, 15)) for t in at]
    entity = random.integers(0, 12, n)
    embargo, lookback = int(random.integers(0, 6)), int(random.integers(0, 12))
    given = frame(at, known, who=entity)
    done = sp.splits(
        given, at="at", folds=4, train="around" if around else "before", embargo=f"{embargo}us",
        lookback=f"{lookback}us", entity="who" if grouped else (),
    )  # fmt: skip
    rows = list(zip(at.tolist(), known, entity.tolist(), strict=True))
    hands: list[set[Any]] = []
    for fold, one in enumerate(done):
        mine = {entity[i] for i in one.test} if grouped else None
        if mine is not None:  # a hand's entities without a row in this block are in its other fates
            gone = done.fates.filter((pl.col("fold") == fold) & (pl.col("reason") == "its entity is on the other side"))
            mine |= {entity[i] for i in gone["row"] if not one.start <= at[i] < one.until}
            hands.append(mine)
        expected = naive(rows, one.start, one.until, around, embargo, lookback, mine)
        told = done.fates.filter(pl.col("fold") == fold)
        said = [role if role != "dropped" else reason for role, reason in told.select("role", "reason").iter_rows()]
        assert said == expected
        assert one.train.tolist() == [i for i, what in enumerate(expected) if what == "train"]
        assert one.test.tolist() == [i for i, what in enumerate(expected) if what == "test"]
    assert not any(a & b for i, a in enumerate(hands) for b in hands[:i])
    tested = np.concatenate([one.test for one in done])
    assert len(set(tested.tolist())) == tested.size
    assert done.report["rows"].sum() == 4 * n  # every row has one fate at each test


# ── what it is for ───────────────────────────────────────────────────────────────────────────────────────────────────


def neighbours(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, k: int = 5) -> float:
    """AUC of the mean label of the k nearest rows that were learned."""
    apart = ((x[test][:, None] - x[train][None]) ** 2).sum(axis=2)
    near = np.argpartition(apart, k, axis=1)[:, :k]
    said, true = y[train][near].mean(axis=1), y[test]
    if true.all() or not true.any():
        return 0.5
    above = said[true][:, None] - said[~true][None]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def by_chance(n: int, folds: int, random: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    hand = random.permutation(n) % folds
    return [(np.flatnonzero(hand != fold), np.flatnonzero(hand == fold)) for fold in range(folds)]


WINDOW, AHEAD = 30, 30


def noise(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray, pl.DataFrame]:
    """Steps that nothing foretells: features are sums of the last ones, the label is which way others go next.

    (Were features sums of the very steps that labels are made of, rows of one test would tell of each other's labels,
    and a rank within the test would be biased by that in any split.)
    """
    random = np.random.default_rng(seed)
    steps = random.normal(size=(n + WINDOW + AHEAD, 5))
    sums = np.concatenate((np.zeros((1, 5)), np.cumsum(steps, axis=0)))
    now = WINDOW + np.arange(n)
    x = sums[now, :4] - sums[now - WINDOW, :4]
    y = sums[now + AHEAD, 4] > sums[now, 4]
    return x, y, frame(np.arange(n), np.arange(n) + AHEAD)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)


def test_on_noise_chance_finds_something_and_splits_find_nothing() -> None:
    naive_ones, before, around, unpurged = [], [], [], []
    for seed in range(100):
        x, y, rows = noise(seed)
        random = np.random.default_rng(1_000 + seed)
        naive_ones.append(float(np.mean([neighbours(x, y, *one) for one in by_chance(len(y), 5, random)])))
        for kept, train in ((before, "before"), (around, "around")):
            done = sp.splits(rows, at="at", train=train, lookback=f"{WINDOW}us")
            kept.append(float(np.mean([neighbours(x, y, one.train, one.test) for one in done])))
        unpurged.append(float(np.mean([
            neighbours(x, y, np.setdiff1d(np.arange(len(y)), one.test), one.test) for one in done
        ])))  # fmt: skip
    mean, error = mean_and_error(naive_ones)
    assert mean - 5 * error > 0.8
    for kept in (before, around):
        mean, error = mean_and_error(kept)
        assert error < 0.012 and abs(mean - 0.5) <= 1.96 * error
    mean, error = mean_and_error(unpurged)
    assert mean - 1.96 * error > 0.5  # blocks alone do not do


def test_what_only_tells_entities_apart_is_found_by_chance_and_not_where_they_are_held_apart() -> None:
    by_time, grouped = [], []
    for seed in range(100):
        random = np.random.default_rng(seed)
        who = random.integers(0, 40, 400)
        x, y = random.normal(size=(40, 2))[who] + 0.01 * random.normal(size=(400, 2)), (random.random(40) < 0.5)[who]
        rows = frame(np.arange(400), np.arange(400) + 1, who=who)
        for kept, entity in ((by_time, ()), (grouped, "who")):
            done = sp.splits(rows, at="at", entity=entity)
            kept.append(float(np.mean([neighbours(x, y, one.train, one.test) for one in done])))
            for one in done if entity else ():
                assert not set(who[one.train]) & set(who[one.test])
    mean, error = mean_and_error(by_time)
    assert mean > 0.9
    mean, error = mean_and_error(grouped)
    assert error < 0.03 and abs(mean - 0.5) <= 1.96 * error


def test_a_label_that_was_known_later_is_never_learned() -> None:
    """A label known the moment the test begins is; the order of rows does not count."""
    at = np.arange(100) * DAY
    known = at + 10 * DAY
    order = np.random.default_rng(1).permutation(100)
    done = sp.splits(frame(at[order], known[order]), at="at", folds=4, embargo="2d")
    for one in done:
        assert max(known[order][one.train]) == one.start - 2 * DAY
        assert min(at[order][one.test]) == one.start and max(at[order][one.test]) < one.until
    assert datetime.fromtimestamp(done.parts[0].start / 1e6, UTC).day == 21


def test_mistakes_are_told() -> None:
    rows = frame([1, 2, 3, 4], [2, 3, 4, 5], who=["a"] * 4)
    for error, told, more in (
        (UnknownColumn, "no column 'aa'", {"at": "aa"}), (UnknownColumn, "no column 'wo'", {"entity": "wo"}),
        (TypeMismatch, "'who' of the training set", {"at": "who"}), (InputError, "folds=0", {"folds": 0}),
        (InputError, "nothing to learn", {"embargo": "1d"}), (InputError, "folds=1", {"folds": 1, "train": "around"}),
        (InputError, "cannot hold entities apart", {"folds": 1, "entity": "who"}),
        (InputError, "nothing to", {"entity": "who", "folds": 2}),
    ):  # fmt: skip
        with pytest.raises(error, match=told):
            sp.splits(rows, **{"at": "at", **more})
    with pytest.raises(InputError, match="'at' is null in 1 rows"):
        sp.splits(frame([1, None], [2, 3]), at="at", folds=1)
