"""Chances that mean what they say: a learner's scores corrected by what became of earlier ones, per source.

Online Platt scaling: the logit of a score times a slope, plus an intercept, both shared by all sources, plus an
intercept of the source, shrunk towards zero by as much as its labels leave open. Every label moves them by a Newton
step of logistic regression in which older labels count ever less: about 1,000 are remembered for what is shared, 300 of
its own for each source, whose usual share of trues is what changes. A label is used with the score that its row was
given, before the model had learned it.

What is said is a mixture of the corrected and the plain score, weighted by how likely either made the source's labels
so far. So the log loss of what is said is never worse than that of the plain scores by more than ln 2 over all labels
of a source, and 1/5000 a label, the price of being able to change one's mind; delayed labels come on top of that.
Source: Platt 1999; Gupta and Ramdas 2023 (online Platt scaling); Herbster and Warmuth 1998 (fixed share).
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
from streamproc.operators.pending import LEARN, PREDICT
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]

CALIBRATION: Final = Schema((
    Field("labels", pl.Int64()), Field("contender", pl.String()), Field("segment", pl.String(), nullable=True),
    Field("n", pl.Int64()), Field("log_loss", pl.Float64()), Field("brier", pl.Float64()), Field("ece", pl.Float64()),
    Field("bin_n", pl.List(pl.Int64())), Field("bin_score", pl.List(pl.Float64())),
    Field("bin_true", pl.List(pl.Float64())),
))  # fmt: skip
"""Columns of the reports, over all labels so far. Bins are tenths of the chance: their rows, and the means of what was
said and of what was true there, 0 in an empty one. `ece` is their mean distance, weighted by rows."""
CONTENDERS: Final = ("model", "calibrated")
GIVEN: Final = 2
"""Columns kept of each row that waits: the plain score, and what was said."""
_BINS: Final = 10
_SLOPE, _INTERCEPT, _H00, _H01, _H11 = 0, 1, 2, 3, 4
_OWN, _WEIGHT, _TRUST = 0, 1, 2
_N, _LOG, _SQUARE = 0, 1, 2
_KEEP: Final = 1.0 - 1.0 / 1000.0
_KEEP_OWN: Final = 1.0 - 1.0 / 300.0
_PRIOR: Final = 5.0
"""What the slope of one and the intercepts of zero weigh, in units of a sure label's information."""
_SWITCH: Final = 1.0 / 5000.0
_LEAST: Final = 1e-6


@dataclass(slots=True)
class Calibration:
    """What was learned of scores, and how good they were.

    shared  float64[5]: slope, intercept, and the information on them
    groups  float64[groups, 3]: per source, the one of no name first, its intercept, the information on it, and how much
            more likely than the plain scores its corrected ones are (log odds)
    sums    float64[groups, 2, 3]: per source and contender rows, log loss, squared error
    bins    float64[groups, 2, 10, 3]: rows, what was said and what was true
    """

    shared: Floats
    groups: Floats
    sums: Floats
    bins: Floats

    def make_room(self, segments: int) -> None:
        """Makes sure that so many segments have a row."""
        groups = next_rows(self.groups.shape[0], 1 + segments)
        self.groups, self.sums, self.bins = (grow(part, groups) for part in (self.groups, self.sums, self.bins))

    def report(self, labels: int, segments: list[str]) -> pl.DataFrame:
        """What scores were worth before and after, together and for each segment."""
        known = [(None, slice(None))] + [
            (name, slice(1 + code, 2 + code)) for code, name in enumerate(segments) if self.sums[1 + code, 0, _N] > 0
        ]
        rows = [
            (labels, contender, name, *_worth(self.sums[of, c].sum(axis=0), self.bins[of, c].sum(axis=0)))
            for name, of in known
            for c, contender in enumerate(CONTENDERS)
        ]
        return pl.DataFrame(rows, CALIBRATION.polars(), orient="row")


def no_calibration() -> Calibration:
    """Scores are taken as they are."""
    return Calibration(
        np.array([1.0, 0.0, _PRIOR, 0.0, _PRIOR]), np.zeros((1, 3)), np.zeros((1, 2, 3)), np.zeros((1, 2, _BINS, 3))
    )


def _worth(sums: Floats, bins: Floats) -> tuple[int, float, float, float, list[int], list[float], list[float]]:
    n = max(float(sums[_N]), 1.0)
    rows = np.maximum(bins[:, 0], 1.0)
    said, true = bins[:, 1] / rows, bins[:, 2] / rows
    error = float((bins[:, 0] * np.abs(said - true)).sum() / n)
    return (
        int(sums[_N]), float(sums[_LOG] / n), float(sums[_SQUARE] / n), error,
        bins[:, 0].astype(np.int64).tolist(), said.tolist(), true.tolist(),
    )  # fmt: skip


@kernel
def _logit(score: float) -> float:
    inside = min(max(score, _LEAST), 1.0 - _LEAST)
    return math.log(inside / (1.0 - inside))


@kernel
def _chance(logit: float) -> float:
    bounded = min(max(logit, -35.0), 35.0)
    return 1.0 / (1.0 + math.exp(-bounded))


@kernel
def _loss(said: float, label: float) -> float:
    return -math.log(max(said if label != 0.0 else 1.0 - said, _LEAST))


@kernel
def _learn(shared: Floats, group: Floats, score: float, label: float) -> None:
    """One label: the mixture's odds, then a Newton step with all that is remembered."""
    logit = _logit(score)
    corrected = _chance(shared[_SLOPE] * logit + shared[_INTERCEPT] + group[_OWN])
    odds = min(max(group[_TRUST] + _loss(score, label) - _loss(corrected, label), -35.0), 35.0)
    trust = _chance(odds)
    trust = trust * (1.0 - _SWITCH) + (1.0 - trust) * _SWITCH
    group[_TRUST] = math.log(trust / (1.0 - trust))
    wrong, sure = corrected - label, max(corrected * (1.0 - corrected), 1e-4)
    group[_WEIGHT] = _KEEP_OWN * group[_WEIGHT] + sure
    group[_OWN] -= (wrong + (1.0 - _KEEP_OWN) * _PRIOR * group[_OWN]) / (group[_WEIGHT] + _PRIOR)
    # What is forgotten is replaced by the prior, so the slope stays known where scores do not vary.
    back = (1.0 - _KEEP) * _PRIOR
    h00 = _KEEP * shared[_H00] + sure * logit * logit + back
    h01 = _KEEP * shared[_H01] + sure * logit
    h11 = _KEEP * shared[_H11] + sure + back
    down = wrong * logit + back * (shared[_SLOPE] - 1.0)
    across = wrong + back * shared[_INTERCEPT]
    area = h00 * h11 - h01 * h01
    shared[_SLOPE] = max(shared[_SLOPE] - (h11 * down - h01 * across) / area, 0.01)
    shared[_INTERCEPT] -= (h00 * across - h01 * down) / area
    shared[_H00], shared[_H01], shared[_H11] = h00, h01, h11


@kernel
def _note(sums: Floats, bins: Floats, said: float, label: float) -> None:
    sums[_N] += 1.0
    sums[_LOG] += _loss(said, label)
    sums[_SQUARE] += (said - label) ** 2
    at = min(max(int(said * _BINS), 0), _BINS - 1)
    bins[at, 0] += 1.0
    bins[at, 1] += said
    bins[at, 2] += label


@kernel
def calibrate(
    start: int, stop: int, kinds: Int64s, lefts: Int64s, places: Int64s, labels: Floats, scores: Floats, kept: Floats,
    segment_at: int, shared: Floats, groups: Floats, sums: Floats, bins: Floats, said: Floats,
) -> None:  # fmt: skip
    """Goes through events in order: rows are told their chance, and labels are learned.

    segment_at  the column of `kept` with the number of the row's segment; what was given stands behind it
    said        per row of the batch, out
    """
    for e in range(start, stop):
        place = places[e]
        segment = kept[place, segment_at]
        group = 0 if np.isnan(segment) else 1 + int(segment)
        if kinds[e] == PREDICT:
            score = scores[lefts[e]]
            chance = score
            if not np.isnan(score):
                corrected = _chance(shared[_SLOPE] * _logit(score) + shared[_INTERCEPT] + groups[group, _OWN])
                trust = _chance(groups[group, _TRUST])
                chance = trust * corrected + (1.0 - trust) * score
            kept[place, segment_at + 1], kept[place, segment_at + 2] = score, chance
            said[lefts[e]] = chance
        elif kinds[e] == LEARN:
            score, label = kept[place, segment_at + 1], labels[e]
            if not np.isnan(score) and not np.isnan(label):
                _note(sums[group, 0], bins[group, 0], score, label)
                _note(sums[group, 1], bins[group, 1], kept[place, segment_at + 2], label)
                _learn(shared, groups[group], score, label)
