"""A race as it runs: losses of all models, evidence for each challenger, and the gate that segments keep.

Everything moves at a label, in the order in which labels became known, so a race is a function of the recorded input.
At each label the loss of every model is known, for all of them have scored the row; the gain of a challenger is the
champion's loss less its own. Evidence that gains are above zero makes it *ready*, if it lost less within the race's
memory too: many streams have moods, in which a model that is poor otherwise is truly better for a time. With a gate
there are, for each challenger and segment, two more sums of evidence, over the labels of that segment: that it is worse
there by more than delta (*hurt*), and that it is not (*clear*). A ready challenger becomes champion where every segment
that was met is clear; one that is hurt holds it; one that cannot say yet holds it until patience is over.

A new champion begins its reign with no evidence for or against anyone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.columns import grow, next_rows
from streamproc.kernels import kernel
from streamproc.learning.e_process import TILTS, evidence, part_at, take
from streamproc.learning.evaluation import BINS, SUMS, judge, place_score
from streamproc.operators.pending import LEARN, PREDICT
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]

CHAMPION: Final = 0
REIGN: Final = 1
"""Labels since the champion is one."""
LABELS: Final = 2
TOLD: Final = 3
CHANGES: Final = 4
"""Reports of the race so far."""

NOTHING: Final = 0
READY: Final = 1
HELD: Final = 2
WAITS: Final = 3
"""What may happen at a label: a challenger is to be champion; a segment that is hurt, or cannot say, holds one."""
_NEVER_MET: Final = -1


@dataclass(slots=True)
class RaceState:
    """Of k models; segments grow as they come.

    numbers   int64[5]: champion, labels of its reign, labels, reports, changes of champion
    runs      bool[k]: who is still in the race
    known     float64[2]: sum and number of labels: a model that says nothing is taken to say the mean
    losses    float64[k, 3]: sums over all labels, since the budget was looked at, and within memory
    sums      float64[k, 5], bins int64[k, 2, 1000]: as of `Evaluation`
    failed    int64[k]: rows that were not learned
    bets  float64[k, tilts]: evidence of each challenger
    by_segment  float64[segments, k, 5]: as `sums`
    ages      int64[segments]: labels in this reign, -1 for a segment that was never met
    clear, hurt  float64[segments, k, tilts]
    waited    int64[k]: labels at which segments that could not say held a challenger
    told      int64[k]: what was said of it in this reign
    bytes     int64[k]: of the snapshots at the last look, -1 where they were not measured
    """

    numbers: Int64s
    runs: npt.NDArray[np.bool_]
    known: Floats
    losses: Floats
    sums: Floats
    bins: Int64s
    failed: Int64s
    bets: Floats
    by_segment: Floats
    ages: Int64s
    clear: Floats
    hurt: Floats
    waited: Int64s
    told: Int64s
    bytes: Int64s

    def make_room(self, segments: int, *, gated: bool) -> None:
        """Makes sure that so many segments have a row."""
        rows = next_rows(self.ages.size, segments) if segments else 0
        self.by_segment = grow(self.by_segment, rows)
        self.ages = grow(self.ages, rows, fill=_NEVER_MET)
        if gated:
            self.clear, self.hurt = grow(self.clear, rows), grow(self.hurt, rows)

    @property
    def champion(self) -> int:
        return int(self.numbers[CHAMPION])

    @property
    def labels(self) -> int:
        return int(self.numbers[LABELS])

    def crown(self, model: int) -> None:
        """This model is the champion, and nothing is known against it."""
        self.numbers[CHAMPION], self.numbers[REIGN] = model, 0
        self.numbers[CHANGES] += 1
        for array in (self.bets, self.clear, self.hurt, self.waited, self.told):
            array[...] = 0
        self.ages[self.ages > 0] = 0

    def segments_met(self) -> list[int]:
        """Segments of which a row was scored."""
        return [int(segment) for segment in np.flatnonzero(self.ages >= 0)]


def no_race(models: int, *, binary: bool) -> RaceState:
    """The first model is the champion, and nothing was said."""
    tilts = TILTS.size
    return RaceState(
        np.zeros(5, np.int64), np.ones(models, np.bool_), np.zeros(2), np.zeros((models, 3)), np.zeros((models, SUMS)),
        np.zeros((models, 2, BINS if binary else 0), np.int64), np.zeros(models, np.int64), np.zeros((models, tilts)),
        np.zeros((0, models, SUMS)), np.zeros(0, np.int64), np.zeros((0, models, tilts)), np.zeros((0, models, tilts)),
        np.zeros(models, np.int64), np.zeros(models, np.int64), np.full(models, -1, np.int64),
    )  # fmt: skip


@kernel
def gate(ages: Int64s, clear: Floats, hurt: Floats, model: int, wanted: float, wanted_of_harm: float) -> int:
    """0 where every segment that was met is clear; -1 - s for the first that is hurt; else 1 + s for the first that
    cannot say.
    """
    unsure = 0
    for s in range(clear.shape[0]):
        if ages[s] < 0:
            continue
        if evidence(hurt[s, model]) >= wanted_of_harm:
            return -1 - s
        if unsure == 0 and evidence(clear[s, model]) < wanted:
            unsure = 1 + s
    return unsure


@kernel
def race_until(
    start: int, learned: int, kinds: Int64s, lefts: Int64s, places: Int64s, labels: Floats, scores: Floats,
    zero: Floats, kept: Floats, base: int, segment_at: int, binary: bool, largest: float, delta: float, wanted: float,
    wanted_of_harm: float, reign: int, memory: int, patience: int, numbers: Int64s, runs: npt.NDArray[np.bool_],
    known: Floats, losses: Floats, sums: Floats, bins: Int64s, bets: Floats, by_segment: Floats, ages: Int64s,
    clear: Floats, hurt: Floats, waited: Int64s, told: Int64s, left_score: Floats, left_zero: Floats, left_by: Int64s,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Goes through events from `start` until so many labels are known, or something happens.

    scores  float64[k, rows], zero float64[k, events]: what each model says, at once and just before it learns
    base    the first column of `kept` for the models' scores; segment_at: that of the row's segment
    left_*  per row, event and row: what leaves: the champion's score, its answer at delay zero, and its number

    Gives the event after the last one, what happened at it, the model to which, and the segment that did it.
    """
    models = runs.size
    e = start
    while e < kinds.size and learned > 0:
        place, champion = places[e], numbers[CHAMPION]
        if kinds[e] == PREDICT:
            row = lefts[e]
            mean = known[0] / known[1] if known[1] > 0.0 else (0.5 if binary else 0.0)
            for m in range(models):
                score = scores[m, row]
                kept[place, base + m] = mean if np.isnan(score) else score
            left_score[row], left_by[row] = scores[champion, row], champion
            if not np.isnan(kept[place, segment_at]):
                met = int(kept[place, segment_at])
                ages[met] = max(ages[met], 0)
        elif kinds[e] == LEARN:
            label, segment = labels[e], kept[place, segment_at]
            left_zero[e] = zero[champion, e]
            numbers[LABELS] += 1
            numbers[REIGN] += 1
            known[0] += label
            known[1] += 1.0
            at = -1 if np.isnan(segment) else int(segment)
            of_champion = _loss(kept[place, base + champion], label, largest)
            part = part_at(numbers[REIGN])
            part_there = 0.0
            if at >= 0:
                ages[at] += 1
                part_there = part_at(ages[at])
            for m in range(models):
                if not runs[m]:
                    continue
                score = kept[place, base + m]
                loss = _loss(score, label, largest)
                losses[m, 0] += loss
                losses[m, 1] += loss
                losses[m, 2] += loss - losses[m, 2] / memory
                judge(sums[m], score, label, binary)
                if binary:
                    place_score(bins[m], score, label)
                if at >= 0:
                    judge(by_segment[at, m], score, label, binary)
                if m != champion:
                    gain = of_champion - loss
                    take(bets[m], part, gain, wanted)
                    if delta >= 0.0 and at >= 0:
                        take(clear[at, m], part_there, delta + gain, wanted)
                        # Gains must not fall below -1: a harm that is less than delta by 1 + delta does not.
                        take(hurt[at, m], part_there, (-gain - delta) / (1.0 + delta), wanted_of_harm)
            learned -= 1
            # The first champion was chosen by nobody: it needs no time, but to meet the segments that hold others.
            if numbers[REIGN] >= reign or (numbers[CHANGES] == 0 and delta < 0.0):
                what, model, segment_of = _happens(
                    numbers[CHAMPION], delta, wanted, wanted_of_harm, patience, runs, losses, bets, ages, clear,
                    hurt, waited, told,
                )  # fmt: skip
                if what != NOTHING:
                    return e + 1, what, model, segment_of
        e += 1
    return e, NOTHING, -1, -1


@kernel
def _loss(score: float, label: float, largest: float) -> float:
    apart = (score - label) / largest
    return min(apart * apart, 1.0)


@kernel
def _happens(
    champion: int, delta: float, wanted: float, wanted_of_harm: float, patience: int, runs: npt.NDArray[np.bool_],
    losses: Floats, bets: Floats, ages: Int64s, clear: Floats, hurt: Floats, waited: Int64s, told: Int64s,
) -> tuple[int, int, int]:  # fmt: skip
    """Who is ready, and what holds those who are."""
    best, most = -1, 0.0
    held, holder, how = -1, -1, NOTHING
    for m in range(runs.size):
        shown = evidence(bets[m])
        if m == champion or not runs[m] or shown < wanted or losses[m, 2] >= losses[champion, 2]:
            continue
        found = gate(ages, clear, hurt, m, wanted, wanted_of_harm) if delta >= 0.0 else 0
        if found > 0:
            waited[m] += 1
            if waited[m] > patience:
                found = 0
        if found == 0:
            if shown > most:
                best, most = m, shown
        elif how == NOTHING and told[m] < (1 if found > 0 else 2):
            held, holder, how = m, abs(found) - 1, WAITS if found > 0 else HELD
    if best >= 0:
        return READY, best, -1
    if held >= 0:
        told[held] = 1 if how == WAITS else 2
    return how, held, holder
