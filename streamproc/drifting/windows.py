"""Tests on windows: Kolmogorov-Smirnov, PSI, chi-square, Wasserstein, with thresholds that know how much was seen.

Fixed thresholds ("PSI above 0.1") alarm by sample size: on clean data nearly always at 100 rows, never at 1,000. Here
a window alarms where its figure would be exceeded by chance once in `run_length` rows, over all columns: the chance is
window / run_length, split over columns; a window's number is its seed. The tests are in `operators.two_samples`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamproc.batch import C1, Batch, Meta
from streamproc.contracts.model import Schema
from streamproc.drifting.alarms import ALARM, absorb_all, alarm_batch, picture, place
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.ranked_columns import ranked, require_columns
from streamproc.operators.two_samples import binned, edges_of, figure

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class WindowState:
    """Reference, the window that fills, how full both are, and the offset at which the window began."""

    reference: Floats
    window: Floats
    known: int
    filled: int
    first_offset: int
    windows: int
    texts: list[list[str]]


@dataclass(frozen=True, slots=True)
class WindowTest:
    """Compares windows with the first rows, see `drift`."""

    columns: tuple[str, ...]
    test: str
    window: int
    reference: int
    run_length: int
    seed: int

    @property
    def verb(self) -> str:
        return "drift"

    def schema(self, *inputs: StreamType) -> StreamType:
        """Alarms.  Raises UnknownColumn, TypeMismatch."""
        require_columns(inputs[0].schema, self.columns)
        return StreamType(ALARM)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (frozenset(self.columns),)

    def open(self, *inputs: StreamType) -> WindowState:
        k = len(self.columns)
        return WindowState(
            np.zeros((k, self.reference)), np.zeros((k, self.window)), 0, 0, 0, 0, [[] for _ in self.columns]
        )

    def process(self, state: WindowState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[WindowState, Output]:
        (batch,) = inputs
        values = np.empty((len(self.columns), len(batch)))
        for j, name in enumerate(self.columns):
            values[j] = ranked(batch.frame[name], state.texts[j])
        alarms, at, row = [], [], 0
        while row < len(batch):
            if state.known < self.reference:
                taken = min(self.reference - state.known, len(batch) - row)
                state.reference[:, state.known : state.known + taken] = values[:, row : row + taken]
                state.known += taken
            else:
                if not state.filled:
                    state.first_offset = int(batch.meta[row, C1])
                taken = min(self.window - state.filled, len(batch) - row)
                state.window[:, state.filled : state.filled + taken] = values[:, row : row + taken]
                state.filled += taken
                if state.filled == self.window:
                    alarm = self._judged(state, batch.meta, row + taken - 1)
                    if alarm is not None:
                        alarms.append(alarm)
                        at.append(row + taken - 1)
            row += taken
        absorb_all(batch.meta, time)
        return state, Output(alarm_batch(alarms, at, batch.meta, time))

    def _judged(self, state: WindowState, meta: Meta, row: int) -> dict[str, Any] | None:
        """The alarm of a full window, which is emptied, or None."""
        state.windows += 1
        state.filled = 0
        alpha = min(0.5, self.window / self.run_length / len(self.columns))
        found = [
            figure(self.test, state.reference[j], state.window[j], alpha, seed=self.seed + state.windows)
            for j in range(len(self.columns))
        ]
        order = sorted(range(len(found)), key=lambda j: -found[j][0] / max(found[j][1], 1e-300))
        over = [j for j in order if found[j][0] > found[j][1]]
        if not over:
            return None
        first = over[0]
        partition, offset = place(meta, row)
        edges = edges_of(state.reference[first], 16)
        alarm = {
            "detector": self.test, "columns": [self.columns[j] for j in over], "statistic": found[first][0],
            "evidence": found[first][0], "threshold": found[first][1], "run_length": self.run_length,
            "promise": "holds if rows are independent: it was not measured", "autocorrelation": None,
            "rows": self.reference + state.windows * self.window, "partition": partition,
            "first_offset": state.first_offset, "last_offset": offset,
            "picture": picture(
                self.columns[first], binned(state.reference[first], edges), binned(state.window[first], edges)
            ),
        }  # fmt: skip
        state.known = 0  # the new state is the reference from here on
        return alarm
