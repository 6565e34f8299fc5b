"""`splits`: training and test rows of which neither knows what it could not have known, nor whom it has met before.

A row looks back over its features, from its moment less `lookback`, and its label looks ahead, until it was known. Rows
near each other therefore share events, and a model that is tested on a row whose neighbour it has learned is told part
of the answer: on labels that are pure noise, cross-validation by chance finds something. So rows are cut into blocks by
time. Before a test block only rows are learned whose label was known by its first moment, less an embargo; behind it
only rows whose features begin where its last label was known. An entity is on one side alone. Sources: López de Prado
2018 (purging, embargo); Grzenda, Gomes & Bifet 2020 (labels that come late).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.errors import InputError, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import Span, span_us
from streamproc.hashing import mix64
from streamproc.keys import keys_of
from streamproc.ports import Int64s
from streamproc.runtime.training_set import AVAILABLE

TRAIN: Final = ""
REASONS: Final = (
    TRAIN, "tested", "its label was never known", "its label was not known yet", "within the embargo",
    "its features overlap a tested label", "its entity is on the other side", "later than the test",
)  # fmt: skip
"""Why a row is not learned; the first of these that is so counts."""
_LEARNED, _TESTED, _NO_LABEL, _NOT_KNOWN, _EMBARGO, _OVERLAP, _ENTITY, _LATER = range(8)


@dataclass(frozen=True, slots=True)
class Split:
    """One test and what may be learned for it.

    train, test   int64: numbers of rows, rising: `rows[split.train]`
    start, until  the moments between which the test lies, µs since 1970 UTC; `until` is not in it
    """

    train: Int64s
    test: Int64s
    start: int
    until: int


@dataclass(frozen=True, slots=True)
class Splits:
    """All tests of a training set, one after the other: an iterable of `Split`.

    fates  a row for each row of the training set and each test: fold, row, role ("train", "test" or "dropped"), reason
    """

    parts: tuple[Split, ...]
    fates: pl.DataFrame

    def __iter__(self) -> Iterator[Split]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def report(self) -> pl.DataFrame:
        """How many rows went where, and why: fold, role, reason, rows."""
        counts = self.fates.group_by("fold", "role", "reason", maintain_order=True).len("rows")
        return counts.sort("fold", "role", "reason", descending=[False, True, False])


def splits(
    rows: pl.DataFrame,
    /,
    *,
    at: str,
    known: str = AVAILABLE,
    folds: int = 5,
    train: Literal["before", "around"] = "before",
    embargo: Span = "0s",
    lookback: Span = "0s",
    entity: str | tuple[str, ...] = (),
) -> Splits:
    """Cuts a training set into tests by time, each with the rows that may be learned for it.

    rows      as `streamproc.runtime.training_set.training_set` or the command `training-set` gives them, in any order
    at        the column of the moment at which a row is scored
    known     the column of the moment at which its label was known; a row without one is on no side
    folds     tests, of about as many rows each; rows of one moment stay together
    train     "before": what is older than the test, as a stream learns; the first part of folds + 1 is no test.
              "around": also what is later: more to learn, and no longer what a stream could have learned
    embargo   a label must have been known so long before the test begins, and features behind the test begin so long
              after its last label was known
    lookback  how far features look back; needed for "around" alone
    entity    columns of the entity, the resolved one where there is one: entities are dealt to as many hands as there
              are folds by a hash of their key; a test has its own hand's rows, and training the others'

    Raises UnknownColumn, TypeMismatch where times are no moments, InputError where nothing is left of a side.
    Cost: O(folds * rows).

    >>> from datetime import datetime, timedelta, timezone
    >>> start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    >>> at = [start + timedelta(days=day) for day in range(12)]
    >>> rows = pl.DataFrame({"at": at, "known": [moment + timedelta(days=2) for moment in at]})
    >>> [(one.train.tolist(), one.test.tolist()) for one in splits(rows, at="at", known="known", folds=2)]
    [([0, 1, 2], [4, 5, 6, 7]), ([0, 1, 2, 3, 4, 5, 6], [8, 9, 10, 11])]
    """
    if folds < 1 or (train == "around" and folds < 2):
        raise InputError(f"splits: folds={folds}", hint="one test at least, two where rows behind it are learned")
    groups = (entity,) if isinstance(entity, str) else tuple(entity)
    if groups and folds < 2:
        raise InputError("splits: one fold cannot hold entities apart", hint="folds=5")
    for name in (at, known, *groups):
        if name not in rows.columns:
            raise UnknownColumn(f"the training set has no column '{name}'", hint=did_you_mean(name, rows.columns))
    moments, labels = (_moments(rows, name) for name in (at, known))
    if rows[at].null_count():
        raise InputError(f"splits: '{at}' is null in {rows[at].null_count()} rows", hint="leave those rows out")
    hands = _hands(rows, groups, folds) if groups else None
    there = rows[known].is_not_null().to_numpy()
    edges = _edges(moments, folds + (train == "before"))
    parts, fates = [], []
    for fold in range(folds):
        cut = fold + (train == "before")
        why = _why(
            moments, labels, there, int(edges[cut]), int(edges[cut + 1]), train == "around", span_us(embargo),
            span_us(lookback), None if hands is None else hands == fold,
        )  # fmt: skip
        learned, tested = np.flatnonzero(why == _LEARNED), np.flatnonzero(why == _TESTED)
        for side, numbers in (("learn", learned), ("test", tested)):
            if not numbers.size:
                raise InputError(
                    f"splits: test {fold + 1} of {folds} has nothing to {side}",
                    hint="fewer folds, a shorter embargo or lookback, or labels that are known sooner",
                )
        parts.append(Split(learned, tested, int(edges[cut]), int(edges[cut + 1])))
        fates.append(_fates(fold, why))
    return Splits(tuple(parts), pl.concat(fates))


def _moments(rows: pl.DataFrame, name: str) -> Int64s:
    if not isinstance(rows.schema[name], pl.Datetime):
        raise TypeMismatch(f"'{name}' of the training set is {rows.schema[name]}", hint="it has to be a moment")
    return rows[name].dt.epoch("us").fill_null(0).to_numpy().astype(np.int64)


def _hands(rows: pl.DataFrame, groups: tuple[str, ...], folds: int) -> Int64s:
    """Who holds each row's entity, by a hash of its key."""
    return (mix64(keys_of(rows, groups).hashes) % np.uint64(folds)).astype(np.int64)


def _edges(moments: Int64s, blocks: int) -> Int64s:
    """int64[blocks + 1]: moments at which blocks of about as many rows begin; the last one is behind all."""
    ranked = np.sort(moments)
    first = [int(ranked[(n * ranked.size) // blocks]) for n in range(1, blocks)] if ranked.size else [0] * (blocks - 1)
    low, high = (int(ranked[0]), int(ranked[-1]) + 1) if ranked.size else (0, 0)
    return np.array([low, *first, high], np.int64)


def _why(
    moments: Int64s, labels: Int64s, there: npt.NDArray[np.bool_], start: int, until: int, around: bool, embargo: int,
    lookback: int, held: npt.NDArray[np.bool_] | None,
) -> Int64s:  # fmt: skip
    """For each row the number of the reason for which it is not learned.

    held  whether the row's entity is the test's; None where entities are not asked
    """
    inside = (moments >= start) & (moments < until)
    tested = inside & there & (True if held is None else held)
    before, behind = moments < start, moments >= until
    last = int(labels[tested].max()) if tested.any() else until
    why = np.full(moments.size, _LEARNED, np.int64)
    # From the last reason to the first: the first one that is so counts.
    if not around:
        why[behind] = _LATER
    if held is not None:
        why[(before | (behind & around)) & held] = _ENTITY
        why[inside & ~held] = _ENTITY
    if around:
        why[behind & (moments - lookback < last + embargo)] = _EMBARGO
        why[behind & (moments - lookback < last)] = _OVERLAP
    why[before & (labels + embargo > start)] = _EMBARGO
    why[before & (labels > start)] = _NOT_KNOWN
    why[~there] = _NO_LABEL
    why[tested] = _TESTED
    return why


def _fates(fold: int, why: Int64s) -> pl.DataFrame:
    role = pl.Series(["train", "test", *["dropped"] * 6]).gather(why)
    reason = pl.Series(["", "", *REASONS[2:]]).gather(why)
    return pl.DataFrame({"fold": pl.Series(np.full(why.size, fold), dtype=pl.Int64), "row": np.arange(why.size),
                         "role": role, "reason": reason})  # fmt: skip
