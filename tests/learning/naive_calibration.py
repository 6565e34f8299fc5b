"""Online Platt scaling as a person does it: one row, one label, plain Python and NumPy's linear algebra."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

MEMORY, OWN_MEMORY, PRIOR, SWITCH = 1000, 300, 5.0, 1 / 5000


def chance(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -35.0), 35.0)))


def logit(score: float) -> float:
    inside = min(max(score, 1e-6), 1 - 1e-6)
    return math.log(inside / (1 - inside))


def likelihood(said: float, label: bool) -> float:
    return max(said if label else 1 - said, 1e-6)


@dataclass(slots=True)
class Source:
    intercept: float = 0.0
    information: float = 0.0
    odds: float = 0.0


@dataclass(slots=True)
class NaiveCalibration:
    """Slope and intercept with the information on them, and each source by name."""

    weights: np.ndarray = field(default_factory=lambda: np.array([1.0, 0.0]))
    information: np.ndarray = field(default_factory=lambda: PRIOR * np.eye(2))
    sources: dict[str | None, Source] = field(default_factory=dict)

    def corrected(self, score: float, source: str | None) -> float:
        own = self.sources.setdefault(source, Source()).intercept
        return chance(self.weights[0] * logit(score) + self.weights[1] + own)

    def say(self, score: float, source: str | None) -> float:
        corrected = self.corrected(score, source)
        trust = chance(self.sources[source].odds)
        return trust * corrected + (1 - trust) * score

    def learn(self, score: float, source: str | None, label: bool) -> None:
        corrected = self.corrected(score, source)
        mine = self.sources[source]
        odds = mine.odds + math.log(likelihood(corrected, label) / likelihood(score, label))
        trust = chance(odds) * (1 - SWITCH) + (1 - chance(odds)) * SWITCH
        mine.odds = math.log(trust / (1 - trust))
        x, wrong = np.array([logit(score), 1.0]), corrected - label
        sure, forgotten = max(corrected * (1 - corrected), 1e-4), PRIOR / MEMORY
        mine.information = (1 - 1 / OWN_MEMORY) * mine.information + sure
        mine.intercept -= (wrong + PRIOR / OWN_MEMORY * mine.intercept) / (mine.information + PRIOR)
        self.information = (1 - 1 / MEMORY) * self.information + sure * np.outer(x, x) + forgotten * np.eye(2)
        gradient = wrong * x + forgotten * (self.weights - np.array([1.0, 0.0]))
        self.weights = self.weights - np.linalg.solve(self.information, gradient)
        self.weights[0] = max(self.weights[0], 0.01)
