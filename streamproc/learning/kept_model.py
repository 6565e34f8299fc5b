"""A River model in the state of a task: how it is asked, how it learns, and what it is told.

A model is told of a row by a dictionary of its inputs. Values that would poison it (null, NaN, infinite, too large to
be squared) and categories that it has not learned are left out of that dictionary: River's models take an absent input
as unknown. A row that still makes the model raise gives no score, or is not learned, and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.errors import DefinitionError
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.models.snapshot import read_snapshot, write_snapshot
from streamproc.models.version import SavedModel
from streamproc.state import Packed

Floats = npt.NDArray[np.float64]
Kind = Literal["binary", "number", "anomaly"]

RAISED: Final = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError)
"""What a model raises at a row that it cannot take; anything else stops the step."""
LARGEST: Final = 1e150
"""Numbers from here on count as infinite: their squares overflow."""
BY_MANY_FROM: Final = 32
"""Below so many rows a block is learned row by row: frames cost more than they save."""


class KeptModel(Packed):
    """The model of one task."""

    def __init__(self, model: Any, snapshot: bytes | None = None) -> None:
        self.model = model
        self.kind = kind_of(model)
        self.by_many = by_many(model)
        self._snapshot = snapshot
        self.last_bytes = len(snapshot or b"")

    def packed(self) -> bytes:
        if self._snapshot is None:
            self._snapshot = write_snapshot(self.model)
        self.last_bytes = len(self._snapshot)
        return self._snapshot

    @classmethod
    def unpacked(cls, data: bytes) -> KeptModel:
        return cls(read_snapshot(data), data)

    def use(self) -> KeptModel:
        """The model for a step's work.  Asking changes some models too (a scaler notes inputs that it had not seen)."""
        self._snapshot = None
        return self

    def score(self, example: dict[str, Any]) -> float:
        """What the model says of one row: the chance of True, the number, or how strange it is; NaN if it cannot."""
        return self.asked()(example)

    def learn(self, example: dict[str, Any], label: float) -> bool:
        """Lets the model learn one row; gives whether it did."""
        return self.taught()(example, label)

    def asked(self) -> Callable[[dict[str, Any]], float]:
        """`score` for many rows, one after the other."""
        scalers, last = _walk(self.model)
        scaled = [scaler.transform_one for scaler in scalers]
        binary, predict = self.kind == "binary", last.score_one if self.kind == "anomaly" else last.predict_one
        proba = last.predict_proba_one if binary else predict

        def ask(example: dict[str, Any]) -> float:
            try:
                for transform in scaled:
                    example = transform(example)
                said = proba(example)
                if binary:
                    return float(said[True]) if True in said else (0.0 if said else math.nan)
                return math.nan if said is None else float(said)
            except NotImplementedError:  # a classifier without chances: it is sure of what it says
                said = predict(example)
                return math.nan if said is None else float(said is True)
            except RAISED:
                return math.nan

        return ask

    def taught(self) -> Callable[[dict[str, Any], float], bool]:
        """`learn` for many rows, one after the other."""
        scalers, last = _walk(self.model)
        scaled = [(scaler.learn_one, scaler.transform_one) for scaler in scalers]
        binary, labelled, learn = self.kind == "binary", self.kind != "anomaly", last.learn_one

        def teach(example: dict[str, Any], label: float) -> bool:
            try:
                for take, transform in scaled:
                    take(example)
                    example = transform(example)
                if labelled:
                    learn(example, label != 0 if binary else label)
                else:
                    learn(example)
            except RAISED:
                return False
            return True

        return teach

    def score_many(self, rows: Floats, names: tuple[str, ...]) -> Floats:
        """`score` for rows without missing values, of a model that `by_many` allows; each row's bits are its own."""
        steps, scaled = steps_of(self.model), rows
        for step in steps[:-1]:
            scaled = _scaled(step, scaled, names)
        weights = steps[-1].weights
        weight = np.array([weights.get(name, 0.0) for name in names], np.float64)
        return _linear(frozen(scaled), weight, float(steps[-1].intercept), self.kind == "binary")

    def learn_many(self, rows: Floats, names: tuple[str, ...], labels: Floats) -> None:
        """Lets the model learn a block at once, as River's `learn_many` does."""
        given = pl.Series("label", labels != 0 if self.kind == "binary" else labels)
        self.model.learn_many(_frame(rows, names), given)


def plain_model(model: Any) -> Any:
    """River's own object of what an author gives as a model."""
    return model.model if isinstance(model, SavedModel) else model


def kind_of(model: Any) -> Kind:
    """What a model says: a chance, a number, or a strangeness.  Raises DefinitionError for other models."""
    from river import base

    last = steps_of(plain_model(model))[-1]
    while hasattr(last, "classifier") or hasattr(last, "regressor"):
        last = getattr(last, "classifier", None) or last.regressor
    if hasattr(last, "score_one") and not isinstance(last, base.Classifier | base.Regressor):
        return "anomaly"
    if isinstance(last, base.Classifier):
        return "binary"
    if isinstance(last, base.Regressor):
        return "number"
    raise DefinitionError(
        f"a {type(last).__name__} gives no score",
        hint="end the model in a classifier, a regressor or an anomaly detector of River",
    )


def by_many(model: Any) -> bool:
    """Whether a model learns blocks: a linear one, behind scalers, all of which River lets learn many rows at once."""
    from river import linear_model, preprocessing

    steps = steps_of(model)
    scalers = preprocessing.StandardScaler | preprocessing.MinMaxScaler | preprocessing.MaxAbsScaler
    linear = isinstance(steps[-1], linear_model.LogisticRegression | linear_model.LinearRegression)
    able = all(hasattr(step, "transform_many") and hasattr(step, "learn_many") for step in steps[:-1])
    return linear and able and all(isinstance(step, scalers) for step in steps[:-1])


def steps_of(model: Any) -> list[Any]:
    """The parts of a pipeline, or the model alone."""
    steps = getattr(model, "steps", None)
    return list(steps.values()) if isinstance(steps, dict) else [model]


def _walk(model: Any) -> tuple[list[Any], Any]:
    """The scalers of a pipeline and what stands behind them, to be called as River's pipeline does; else the model.

    A pipeline looks at each call what its steps are and what they take: a fifth of what so small a model costs.
    """
    from river import preprocessing

    *scalers, last = steps_of(model)
    kinds = preprocessing.StandardScaler | preprocessing.MinMaxScaler | preprocessing.MaxAbsScaler
    return (scalers, last) if all(isinstance(scaler, kinds) for scaler in scalers) else ([], model)


def _frame(rows: Floats, names: tuple[str, ...]) -> pl.DataFrame:
    return pl.DataFrame([pl.Series(name, np.ascontiguousarray(rows[:, i])) for i, name in enumerate(names)])


def _scaled(scaler: Any, rows: Floats, names: tuple[str, ...]) -> Floats:
    """What a scaler of River makes of rows; of the one that is used most without a frame between."""
    from river.preprocessing import StandardScaler

    if type(scaler) is StandardScaler and scaler.window_size is None:
        means = np.array([scaler.means[name] for name in names])
        spreads = np.array([scaler.vars[name] ** 0.5 if scaler.with_std else 0.0 for name in names])
        scaled: Floats = (rows - means) / np.where(spreads > 0.0, spreads, 1.0)
        return scaled
    return np.ascontiguousarray(scaler.transform_many(_frame(rows, names)).select(names).to_numpy(), np.float64)


@kernel
def _linear(rows: Floats, weights: Floats, intercept: float, as_chance: bool) -> Floats:
    """A linear model's answer, each row summed in one order: a product of matrices depends on how many rows it has."""
    out = np.empty(rows.shape[0], np.float64)
    for i in range(rows.shape[0]):
        z = 0.0
        for j in range(rows.shape[1]):
            z += rows[i, j] * weights[j]
        z += intercept
        if as_chance:
            z = 1.0 / (1.0 + math.exp(-z)) if z >= 0.0 else math.exp(z) / (1.0 + math.exp(z))
        out[i] = z
    return out


@dataclass(slots=True)
class Categories:
    """The texts of one input: their numbers by order of arrival, and which of them the model has learned.

    No more than `most` are told apart; further ones count as unknown.
    """

    names: list[str]
    learned: list[bool]
    most: int

    def again(self) -> Categories:
        """The same texts for another model to learn."""
        return Categories(self.names, list(self.learned), self.most)

    def codes(self, column: pl.Series, numbers: dict[str, int]) -> Floats:
        """The number of each text, NaN for null and for texts beyond the limit."""
        texts = column.cast(pl.String)
        for text in texts.drop_nulls().unique(maintain_order=True).to_list():
            if text not in numbers and len(self.names) < self.most:
                numbers[text] = len(self.names)
                self.names.append(text)
                self.learned.append(False)
        if not numbers:
            return np.full(len(column), math.nan)
        found = texts.replace_strict(list(numbers), [float(n) for n in numbers.values()], default=None)
        return found.cast(pl.Float64).fill_null(math.nan).to_numpy()


def numbers_of(column: pl.Series) -> Floats:
    """A column as numbers, NaN where it is null, NaN, infinite, or too large for a model to square."""
    values = column.cast(pl.Float64).fill_null(math.nan).to_numpy()
    return np.where(np.abs(values) < LARGEST, values, math.nan)
