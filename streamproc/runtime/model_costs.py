"""`model_costs`: what models cost a row, measured once and written down, because steps read no clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from streamproc.batch import C1, ROW, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import InputError
from streamproc.graph import Step
from streamproc.learning.learn import learn
from streamproc.operator import StepTime, StreamType


def model_costs(
    models: Mapping[str, Any], rows: pl.DataFrame, /, *, inputs: tuple[str, ...], label: str, every: int = 1
) -> dict[str, float]:
    """Microseconds that each model takes a row, for `costs_us=` of `sp.race`: asked twice and learned once, in a step.

    models  by name, as `sp.race` takes them; they learn nothing from this
    rows    some thousand rows with their inputs and labels: trees and forests cost more the more they have learned
    every   as of `sp.learn`

    CPU time of the second half of the rows, the first one warms up.  Raises InputError below 20 rows.

    >>> from river import linear_model
    >>> rows = pl.DataFrame({"x": [1.0, 2.0] * 20, "y": [True, False] * 20})
    >>> list(model_costs({"linear": linear_model.LogisticRegression()}, rows, inputs=("x",), label="y"))
    ['linear']
    """
    if rows.height < 20:
        raise InputError(f"{rows.height} rows do not show what a model costs", hint="some thousand, as they will come")
    return {name: _cost(learn(model, inputs=inputs, label=label, into="_score", every=every), rows)
            for name, model in models.items()}  # fmt: skip


def _cost(step: Step, rows: pl.DataFrame) -> float:
    operator, half = step.operator, rows.height // 2
    fields = tuple(Field(name, dtype, nullable=True) for name, dtype in rows.schema.items())
    state = operator.open(StreamType(Schema(fields)))
    began = 0.0
    for number, part in enumerate((rows[:half], rows[half:])):
        meta = np.zeros((part.height, WIDTH), np.int64)
        meta[:, ROW], meta[:, C1] = 2 * np.arange(part.height) + 1, number * half + np.arange(part.height)
        began = time.process_time()
        state, _ = operator.process(state, (Batch(part, meta),), StepTime(np.zeros(part.height, np.int64), 1))
    return 1e6 * (time.process_time() - began) / (rows.height - half)
