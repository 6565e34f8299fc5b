"""Streams on which nothing happens, and a driver of one drift step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.signal import lfilter

from streamproc.batch import C1, ROW, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.graph import Step
from streamproc.operator import StepTime, StreamType

Floats = npt.NDArray[np.float64]
Make = Callable[[np.random.Generator, int], Floats]


def autoregressive(random: np.random.Generator, n: int, rho: float) -> Floats:
    """A stationary AR(1) of variance 1."""
    noise = random.normal(size=n + 500) * np.sqrt(1 - rho * rho)
    return np.asarray(lfilter([1.0], [1.0, -rho], noise)[500:])


def seasonal(random: np.random.Generator, n: int) -> Floats:
    """A daily season at one row every five minutes, and noise."""
    return np.asarray(np.sin(np.arange(n) * 2 * np.pi / 288) + 0.3 * random.normal(size=n))


INDEPENDENT: dict[str, Make] = {
    "normal": lambda random, n: random.normal(size=n),
    "heavy tails": lambda random, n: random.standard_cauchy(n),
    "counts": lambda random, n: random.poisson(1.5, n).astype(np.float64),
    "rare events": lambda random, n: (random.random(n) < 0.1).astype(np.float64),
}
DEPENDENT: dict[str, Make] = {
    "AR(1) of .5": lambda random, n: autoregressive(random, n, 0.5),
    "AR(1) of .9": lambda random, n: autoregressive(random, n, 0.9),
    "season": seasonal,
}


def watched(step: Step, frame: pl.DataFrame | Floats, sizes: int = 0) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Alarms and report of a stream of frames of `sizes` rows (all at once if 0)."""
    if not isinstance(frame, pl.DataFrame):
        columns = frame if frame.ndim == 2 else frame[:, None]
        frame = pl.DataFrame(columns, [f"c{i}" for i in range(columns.shape[1])], orient="row")
    schema = Schema(tuple(Field(name, dtype, nullable=True) for name, dtype in frame.schema.items()))
    state = step.operator.open(StreamType(schema))
    alarms, reports = [], []
    for start in range(0, frame.height, sizes or frame.height):
        part = frame[start : start + (sizes or frame.height)]
        meta = np.zeros((part.height, WIDTH), np.int64)
        meta[:, ROW] = 2 * np.arange(part.height) + 1
        meta[:, C1] = start + np.arange(part.height)
        time = StepTime(np.zeros(part.height, np.int64), 1)
        state, output = step.operator.process(state, (Batch(part, meta),), time)
        alarms.append(output.rows.frame)
        reports += [side.frame for _, side in output.sides]
    return pl.concat(alarms), pl.concat(reports) if reports else None
