"""One step of a learner: rows are scored and learned in the order in which they came and their labels became known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamproc.learning.importance_step import Questions
from streamproc.learning.kept_model import BY_MANY_FROM, Categories, KeptModel
from streamproc.operators.pending import LEARN, PREDICT, Events
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]
_AT_ONCE = 512
"""Rows that are Python's numbers at once: more of them leave the processor's cache, which costs a tenth."""


@dataclass(slots=True)
class Block:
    """Rows whose labels are known, until there are enough of them to learn: inputs, then the label."""

    rows: Floats
    count: int = 0

    def again(self) -> Block:
        """The same rows for another model to learn."""
        return Block(self.rows.copy(), self.count)


@dataclass(slots=True)
class Learner:
    """What `run` works with: inputs' names, and per input its categories or None for a number.

    questions  what else it is asked of rows that it scores, where importance is measured
    failed  rows that made the model raise while it learned them
    """

    model: KeptModel
    names: tuple[str, ...]
    categories: tuple[Categories | None, ...]
    block: Block
    questions: Questions | None = None
    failed: int = 0

    @property
    def every(self) -> int:
        """Rows in a block."""
        return int(self.block.rows.shape[0])

    def run(self, events: Events, inputs: Floats, kept: Floats) -> tuple[Floats, Floats]:
        """Scores per row of the batch, and per LEARN event what the model says just before it learns that row.

        inputs  float64[rows, k]: NaN where a value is missing, the number of a category
        kept    float64[places, >= k]: inputs of the rows that wait, those of this batch included
        """
        self.model.use()
        if self.model.by_many and self.every >= BY_MANY_FROM and not any(self.categories):
            return self._by_blocks(events, inputs, kept)
        return self._by_row(events, inputs, kept)

    # ── row by row ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _by_row(self, events: Events, inputs: Floats, kept: Floats) -> tuple[Floats, Floats]:
        k = len(self.names)
        learned = kept[events.places[events.kinds == LEARN], :k]
        plain = not any(self.categories) and not np.isnan(inputs).any() and not np.isnan(learned).any()
        if plain and self.every == 1 and self.questions is None:
            return self._by_plain_row(events, inputs, learned)
        scores = [math.nan] * inputs.shape[0]
        zero = [math.nan] * events.kinds.size
        rows, waited = inputs.tolist(), iter(learned.tolist())
        names, model, every = self.names, self.model, self.every
        learn, score = model.taught(), model.asked()
        last, untouched = -1, False  # the row that was scored last, and whether the model has stood still since
        places, lefts = events.places.tolist(), events.lefts.tolist()
        for e, (kind, left, label) in enumerate(zip(events.kinds.tolist(), lefts, events.labels.tolist(), strict=True)):
            if kind == PREDICT:
                row = rows[left]
                scores[left] = score(dict(zip(names, row)) if plain else self.example(row))  # noqa: B905 (1 µs a row)
                if self.questions is not None and self.questions.number[left] >= 0:
                    self._ask(self.questions, left, row, scores[left])
                last, untouched = e, True
            elif kind == LEARN:
                row = next(waited)
                if every == 1 and not plain:
                    told = self.example(row)
                    zero[e] = score(told)
                    self.remember(row)
                    told = self.example(row)
                else:
                    told = dict(zip(names, row)) if plain else self.example(row)  # noqa: B905
                    same = untouched and places[e] == places[last]
                    zero[e] = scores[lefts[last]] if same else score(told)
                if every == 1:
                    untouched = False
                    if not learn(told, label):
                        self.failed += 1
                else:
                    untouched = untouched and self.block.count + 1 < every
                    self._add(row, label)
        return np.array(scores), np.array(zero)

    def _by_plain_row(self, events: Events, inputs: Floats, learned: Floats) -> tuple[Floats, Floats]:
        """The same for rows that the model is told of as they are, and learns at once."""
        scores, zero = np.full(inputs.shape[0], math.nan), np.full(events.kinds.size, math.nan)
        ask, teach, names = self.model.asked(), self.model.taught(), self.names
        scored, known = events.kinds == PREDICT, events.kinds == LEARN
        rows = np.zeros((events.kinds.size, len(names)))
        rows[scored], rows[known] = inputs[events.lefts[scored]], learned
        told: dict[str, Any] = {}
        asked, answer = -1, math.nan  # the place of the row that was scored since the model has learned, and its score
        for start in range(0, events.kinds.size, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            columns = (events.kinds[part], events.places[part], events.labels[part], rows[part])
            answers = []
            for kind, place, label, row in zip(*(column.tolist() for column in columns), strict=True):
                if kind == PREDICT:
                    told = dict(zip(names, row))  # noqa: B905 (1 µs a row)
                    asked, answer = place, ask(told)
                elif kind == LEARN:
                    if asked != place:
                        told = dict(zip(names, row))  # noqa: B905
                        answer = ask(told)
                    asked = -1
                    self.failed += not teach(told, label)
                answers.append(answer)
            zero[part] = answers
        scores[events.lefts[scored]] = zero[scored]
        zero[~known] = math.nan
        return scores, zero

    def _ask(self, questions: Questions, left: int, row: list[float], given: float) -> None:
        """Asks of a row again, each time with another row's value in the place of one input.

        given  what the model says of the row itself, which is its answer where the values are the same
        """
        question = int(questions.number[left])
        if math.isnan(given):
            return
        for j, (value, own) in enumerate(zip(questions.told[question].tolist(), row, strict=True)):
            same = value == own or (math.isnan(value) and math.isnan(own))
            other = given if same else self.model.score(self.example([*row[:j], value, *row[j + 1 :]]))
            questions.said[question, j] = other

    def example(self, row: list[float]) -> dict[str, Any]:
        """What the model is told of a row: values that are there, categories that it has learned."""
        told: dict[str, Any] = {}
        for name, value, category in zip(self.names, row, self.categories, strict=True):
            if math.isnan(value):
                continue
            if category is None:
                told[name] = value
            elif category.learned[int(value)]:
                told[name] = category.names[int(value)]
        return told

    def remember(self, row: list[float]) -> None:
        """From now on the categories of this row are known to the model."""
        for value, category in zip(row, self.categories, strict=True):
            if category is not None and not math.isnan(value):
                category.learned[int(value)] = True

    def _add(self, row: list[float], label: float) -> None:
        block = self.block
        block.rows[block.count, :-1] = row
        block.rows[block.count, -1] = label
        block.count += 1
        if block.count == self.every:
            self._learn_block()

    # ── block by block ───────────────────────────────────────────────────────────────────────────────────────────────

    def _by_blocks(self, events: Events, inputs: Floats, kept: Floats) -> tuple[Floats, Floats]:
        """As row by row, but between two blocks the model stands still: all that is asked of it is asked at once."""
        k = len(self.names)
        scores = np.full(inputs.shape[0], math.nan)
        zero = np.full(events.kinds.size, math.nan)
        learns = np.flatnonzero(events.kinds == LEARN)
        ends = learns[self.every - self.block.count - 1 :: self.every] + 1
        start = 0
        for stop in [*ends.tolist(), events.kinds.size]:
            kinds = events.kinds[start:stop]
            asked = start + np.flatnonzero(kinds == PREDICT)
            known = start + np.flatnonzero(kinds == LEARN)
            learned = kept[events.places[known], :k]
            answers = self._answers(np.concatenate((inputs[events.lefts[asked]], learned)))
            scores[events.lefts[asked]] = answers[: asked.size]
            zero[known] = answers[asked.size :]
            if self.questions is not None:
                self._ask_many(self.questions, events.lefts[asked], inputs, scores)
            block = self.block
            block.rows[block.count : block.count + known.size, :-1] = learned
            block.rows[block.count : block.count + known.size, -1] = events.labels[known]
            block.count += known.size
            if block.count == self.every:
                self._learn_block()
            start = stop
        return scores, zero

    def _ask_many(self, questions: Questions, lefts: Int64s, inputs: Floats, scores: Floats) -> None:
        """As `_ask`, of many rows at once."""
        rows = lefts[(questions.number[lefts] >= 0) & ~np.isnan(scores[lefts])]
        number, k = questions.number[rows], inputs.shape[1]
        changed = np.repeat(inputs[rows], k, axis=0).reshape(rows.size, k, k)
        each = np.arange(k)
        changed[:, each, each] = questions.told[number]
        questions.said[number] = self._answers(changed.reshape(-1, k)).reshape(rows.size, k)

    def _answers(self, rows: Floats) -> Floats:
        missing = np.isnan(rows).any(axis=1)
        if not rows.shape[0] or not missing.any():
            return self.model.score_many(rows, self.names) if rows.shape[0] else np.empty(0)
        answers = np.empty(rows.shape[0])
        whole = np.flatnonzero(~missing)
        if whole.size:
            answers[whole] = self.model.score_many(rows[whole], self.names)
        for i in np.flatnonzero(missing).tolist():
            answers[i] = self.model.score(self.example(rows[i].tolist()))
        return answers

    def _learn_block(self) -> None:
        """Rows without gaps are learned at once where the model can, then the others one by one."""
        block = self.block
        rows, labels = block.rows[: block.count, :-1], block.rows[: block.count, -1]
        many = self.model.by_many and self.every >= BY_MANY_FROM and not any(self.categories)
        missing = np.isnan(rows).any(axis=1) if many else np.ones(block.count, np.bool_)
        whole = np.flatnonzero(~missing)
        if whole.size:
            self.model.learn_many(rows[whole], self.names, labels[whole])
        for i in np.flatnonzero(missing).tolist():
            row = rows[i].tolist()
            self.remember(row)
            self.failed += not self.model.learn(self.example(row), float(labels[i]))
        block.count = 0
        block.rows[:] = 0.0


def in_row_events(labels: Floats, *, unlabelled: bool) -> Events:
    """Events where each row brings its own label: it is scored, then learned if the label is there.

    unlabelled  rows are learned without any label (a detector of anomalies)
    """
    rows = np.arange(labels.size, dtype=np.int64)
    learned = np.ones(labels.size, np.bool_) if unlabelled else ~np.isnan(labels)
    at: Int64s = np.repeat(rows, 1 + learned)
    second = np.zeros(at.size, np.bool_)
    second[1:] = at[1:] == at[:-1]
    kinds = np.where(second, LEARN, PREDICT).astype(np.int64)
    moments = np.zeros(at.size, np.int64)
    return Events(kinds, np.where(second, -1, at), at, at, moments, np.where(second, labels[at], math.nan))
