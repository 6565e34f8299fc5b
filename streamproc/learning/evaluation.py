"""What a learner is worth, measured on every row before it is learned, beside what costs nothing.

Two delays: "label" judges the score that was given, with what the model knew then; "zero" asks the model again just
before it learns the row, as if labels came at once. Benchmarks with immediate labels are of the second kind, and
flatter; what a decision gets is the first.

Four contenders: the model; "no_change", the last label that was known; "prior", the mean of the labels known; and
"last_score", the score of the row before. Log loss is natural, clipped at 1e-15; AUC counts ties half and is exact to
1/1000 of a score; kappa-temporal is accuracy above No-Change's (Žliobaitė et al. 2015), which a stream that repeats
itself cannot fake. `low` and `high` hold the mean squared error (of chances) at all moments at once, with 95 %:
Robbins' normal mixture for values in [0, 1] (Howard et al. 2021), so that one may look as often as one likes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.columns import grow, next_rows
from streamproc.contracts.model import Field, Schema
from streamproc.kernels import kernel
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]

CONTENDERS: Final = ("model", "no_change", "prior", "last_score")
DELAYS: Final = ("label", "zero")
REMEMBERED: Final = 5
"""Columns kept of each row beside its inputs: score, no_change, prior, last_score, segment."""

_N, _LOG, _SQUARE, _ABSOLUTE, _RIGHT = 0, 1, 2, 3, 4
_LABELS, _COUNT, _LAST_LABEL, _LAST_SCORE, _GIVEN_UP, _FAILED = 0, 1, 2, 3, 4, 5
BINS: Final = 1000
"""A score's place: thousandths."""
SUMS: Final = 5
"""n, log loss, squared, absolute error, right answers."""
_SURE: Final = 0.05
_LOG_LOSS_LEAST: Final = 1e-15

METRICS: Final = Schema((
    Field("labels", pl.Int64()), Field("delay", pl.String()), Field("contender", pl.String()),
    Field("segment", pl.String(), nullable=True), Field("n", pl.Int64()),
    *(Field(name, pl.Float64(), nullable=True) for name in (
        "log_loss", "brier", "auc", "accuracy", "kappa_temporal", "mae", "rmse", "low", "high")),
    Field("given_up", pl.Int64()), Field("failed", pl.Int64()),
))  # fmt: skip
"""Columns of the metrics.  All figures are over all labels so far; subtract two rows to have a span."""


@dataclass(slots=True)
class Evaluation:
    """Sums over the labels known so far.

    known     float64[6]: sum and number of labels, last label, last score, rows given up, rows that were not learned
    sums      float64[2, 4, 5]: per delay and contender: n, log loss, squared, absolute error, right answers
    bins      int64[2, 4, 2, 1000]: per delay, contender and label, scores by thousandths; empty for numbers
    segments  float64[segments, 5]: as `sums`, of the model at the label's delay
    """

    known: Floats
    sums: Floats
    bins: Int64s
    segments: Floats

    def make_room(self, segments: int) -> None:
        """Makes sure that so many segments have a row."""
        if segments:
            self.segments = grow(self.segments, next_rows(self.segments.shape[0], segments))

    @property
    def labels(self) -> int:
        """Labels known so far."""
        return int(self.known[_COUNT])

    def fail(self, rows: int) -> None:
        """So many rows made the model raise while it learned them."""
        self.known[_FAILED] += rows

    def report(self, segments: list[str], *, binary: bool) -> pl.DataFrame:
        """The metrics now: a row per delay and contender, then one per segment."""
        rows: list[tuple[object, ...]] = []
        no_change = [self.sums[d, 1, _RIGHT] / max(self.sums[d, 1, _N], 1) for d in range(2)]
        for d, delay in enumerate(DELAYS):
            for c, contender in enumerate(CONTENDERS):
                judged = worth(self.sums[d, c], no_change[d], self.bins[d, c], binary=binary, chance=c != 1)
                rows.append((self.labels, delay, contender, None, *judged, *self._lost))
        for code, name in enumerate(segments):
            if self.segments[code, _N] > 0:
                judged = worth(self.segments[code], None, None, binary=binary)
                rows.append((self.labels, "label", "model", name, *judged, *self._lost))
        return pl.DataFrame(rows, METRICS.polars(), orient="row")

    @property
    def no_change_right(self) -> float:
        """How often No-Change was right at the label's delay."""
        return float(self.sums[0, 1, _RIGHT] / max(self.sums[0, 1, _N], 1))

    @property
    def given_up(self) -> int:
        """Rows whose horizon ended without a label."""
        return int(self.known[_GIVEN_UP])

    @property
    def _lost(self) -> tuple[int, int]:
        return self.given_up, int(self.known[_FAILED])


def no_evaluation(*, binary: bool) -> Evaluation:
    """Nothing is known yet."""
    known = np.array([0.0, 0.0, math.nan, math.nan, 0.0, 0.0])
    bins = np.zeros((2, 4, 2, BINS if binary else 0), np.int64)
    return Evaluation(known, np.zeros((2, 4, 5)), bins, np.zeros((0, 5)))


def mean_squared_errors(sums: Floats) -> Floats:
    """float64[2, 4]: of `Evaluation.sums`, per delay and contender; NaN where nothing was judged."""
    judged = np.where(sums[:, :, _N] > 0, sums[:, :, _N], math.nan)
    return np.asarray(sums[:, :, _SQUARE] / judged)


def confidence(mean: float, n: float, *, alpha: float = _SURE, best_at: float = 1000.0) -> tuple[float, float]:
    """Bounds of the mean of n values in [0, 1] that hold at every n at once with chance 1 - alpha.

    best_at  the n at which they are narrowest
    Robbins' mixture for half-unit sub-Gaussian sums (Howard et al. 2021, eq. 14): valid for any dependence in which
    each value's mean given the past is what is averaged.

    >>> low, high = confidence(0.2, 1000.0)
    >>> round(low, 3), round(high, 3)
    (0.149, 0.251)
    """
    rho2 = 1.0 / best_at * (2.0 * math.log(1.0 / alpha) + math.log(1.0 + 2.0 * math.log(1.0 / alpha)))
    v = n * rho2 + 1.0
    radius = 0.5 * math.sqrt(2.0 * v / (n * n * rho2) * math.log(math.sqrt(v) / alpha))
    return max(0.0, mean - radius), min(1.0, mean + radius)


def worth(
    sums: Floats, no_change: float | None, bins: Int64s | None, *, binary: bool, chance: bool = True
) -> tuple[int, *tuple[float | None, ...]]:
    """The columns of `METRICS` from n to high, of one contender's sums.

    no_change  how often No-Change was right, if kappa is asked for; bins: int64[2, 1000], if the AUC is
    chance     whether its scores are chances, which have a log loss
    """
    n = float(sums[_N])
    if n == 0:
        return (0, *[None] * 9)
    mae, mean_square = float(sums[_ABSOLUTE] / n), float(sums[_SQUARE] / n)
    if not binary:
        return (int(n), None, None, None, None, None, mae, math.sqrt(mean_square), None, None)
    accuracy = float(sums[_RIGHT] / n)
    kappa = None if no_change is None or no_change >= 1.0 else (accuracy - no_change) / (1.0 - no_change)
    low, high = confidence(mean_square, n)
    auc = None if bins is None else _auc(bins)
    log_loss = float(sums[_LOG] / n) if chance else None
    return (int(n), log_loss, mean_square, auc, accuracy, kappa, mae, math.sqrt(mean_square), low, high)


def _auc(bins: Int64s) -> float | None:
    negatives, positives = bins[0].astype(np.float64), bins[1].astype(np.float64)
    if not negatives.sum() or not positives.sum():
        return None
    below = np.concatenate(([0.0], np.cumsum(negatives)[:-1]))
    return float((positives * (below + 0.5 * negatives)).sum() / (negatives.sum() * positives.sum()))


@kernel
def judge(sums: Floats, score: float, label: float, binary: bool) -> None:
    """Adds one score, whose label is known, to its contender's sums."""
    sums[_N] += 1.0
    error = score - label
    sums[_SQUARE] += error * error
    sums[_ABSOLUTE] += abs(error)
    if binary:
        chance = score if label != 0.0 else 1.0 - score
        sums[_LOG] -= math.log(min(max(chance, _LOG_LOSS_LEAST), 1.0))
        sums[_RIGHT] += 1.0 if (score >= 0.5) == (label != 0.0) else 0.0


@kernel
def place_score(bins: Int64s, score: float, label: float) -> None:
    """Counts one score in the bins from which the AUC is read."""
    at = min(max(int(score * BINS), 0), BINS - 1)
    bins[1 if label != 0.0 else 0, at] += 1


@kernel
def judge_until(
    start: int, learned: int, kinds: Int64s, lefts: Int64s, places: Int64s, labels: Floats, scores: Floats,
    zero: Floats, kept: Floats, base: int, known: Floats, sums: Floats, bins: Int64s, segments: Floats, binary: bool,
) -> int:  # fmt: skip
    """Goes through events from `start` until so many labels are known; gives the event after the last one.

    scores  per row of the batch; zero: per event, the answer at delay zero; base: first remembered column of `kept`
    """
    e = start
    while e < kinds.size and learned > 0:
        place = places[e]
        prior = known[_LABELS] / known[_COUNT] if known[_COUNT] > 0 else (0.5 if binary else 0.0)
        no_change = prior if np.isnan(known[_LAST_LABEL]) else known[_LAST_LABEL]
        last_score = prior if np.isnan(known[_LAST_SCORE]) else known[_LAST_SCORE]
        if kinds[e] == 0:
            score = scores[lefts[e]]
            kept[place, base] = prior if np.isnan(score) else score
            kept[place, base + 1] = no_change
            kept[place, base + 2] = prior
            kept[place, base + 3] = last_score
            if not np.isnan(score):
                known[_LAST_SCORE] = score
        elif kinds[e] == 1:
            label = labels[e]
            if not np.isnan(label):
                again = prior if np.isnan(zero[e]) else zero[e]
                for c in range(4):
                    given = kept[place, base + c]
                    at_once = again if c == 0 else (no_change if c == 1 else (prior if c == 2 else last_score))
                    judge(sums[0, c], given, label, binary)
                    judge(sums[1, c], at_once, label, binary)
                    if binary:
                        place_score(bins[0, c], given, label)
                        place_score(bins[1, c], at_once, label)
                segment = kept[place, base + 4]
                if not np.isnan(segment):
                    judge(segments[int(segment)], kept[place, base], label, binary)
                known[_LABELS] += label
                known[_COUNT] += 1.0
                known[_LAST_LABEL] = label
                learned -= 1
        else:
            known[_GIVEN_UP] += 1.0
        e += 1
    return e
