"""A learner as a person does it: rows in a list, labels in a list, River called row by row."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from streamproc.testing.naive import Row


@dataclass(slots=True)
class NaiveLearner:
    """Scores rows of port 0, learns them when a row of port 1 is their label or silence is.

    silence   the label is True for an event, False once the horizon is over; else the column `label` is the label
    """

    model: Any
    inputs: tuple[str, ...]
    into: str
    horizon_us: int
    every: int = 1
    label: str = ""
    silence: bool = False
    waiting: list[tuple[Row, float | None]] = field(default_factory=list)
    labels: list[Row] = field(default_factory=list)
    block: list[tuple[dict[str, float], bool]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    strict: bool = True

    def due(self) -> int | None:
        """The earliest end of a horizon."""
        return min((row.event_time + self.horizon_us for row, _ in self.waiting), default=None)

    def release(self, due: int, at: int, rank: int) -> list[Row]:
        """Rows whose horizon is over: in order of arrival."""
        over = [one for one in self.waiting if one[0].event_time + self.horizon_us == due]
        self.waiting = [one for one in self.waiting if one not in over]
        for row, score in over:
            if self.silence:
                self.learn(row, score, False)
        return []

    def take(self, row: Row) -> list[Row] | None:
        """Scores a row, or lets a label find its rows."""
        if not row.in_time:
            return None
        if row.port == 1:
            known = True if self.silence else row.values[self.label]
            if known is None:
                return []
            for one in [one for one in self.waiting if self.belongs(one[0], row)]:
                self.waiting.remove(one)
                self.learn(*one, known)
            self.labels.append(row)
            return []
        score = self.model.predict_proba_one(self.told(row.values))[True]
        early = next((label for label in self.labels if self.belongs(row, label)), None)
        if early is None:
            self.waiting.append((row, score))
        else:
            self.learn(row, score, True if self.silence else early.values[self.label])
        return [replace(row, values={**row.values, self.into: score})]

    def belongs(self, row: Row, label: Row) -> bool:
        """Whether a label is one for a row."""
        behind = label.event_time - row.event_time
        return row.key == label.key and 0 <= behind <= self.horizon_us

    def told(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Only values that are numbers, and small enough to be squared."""
        told = {name: values[name] for name in self.inputs if values[name] is not None}
        return {name: float(value) for name, value in told.items() if math.isfinite(value) and abs(value) < 1e150}

    def learn(self, row: Row, score: float | None, label: bool) -> None:
        """Judges the score, and lets the model learn once there are enough rows."""
        assert score is not None
        self.losses.append((score - label) ** 2)
        self.block.append((self.told(row.values), label))
        if len(self.block) == self.every:
            for told, known in self.block:
                self.model.learn_one(told, known)
            self.block = []


def fresh(model: Any) -> Any:
    """The model again, having learned nothing of what the other learned."""
    return copy.deepcopy(model)
