"""Counts, per window of event time, rows whose column is distributed otherwise than the first rows; each partition for
itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Schema
from streamproc.event_time import MIN_TIME
from streamproc.keys import keys_of
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.quality.tally import COUNTS, in_open_windows
from streamproc.operators.ranked_columns import ranked, require_columns
from streamproc.operators.released import released_meta
from streamproc.operators.two_samples import figure
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]

@dataclass(slots=True)
class Waiting:
    """The first rows, sorted, and those of open windows in the order in which they came: window's end and value."""

    reference: Floats
    ends: Int64s
    values: Floats
    texts: list[str]


@dataclass(frozen=True, slots=True)
class DriftTally:
    """Gives a count for each window that is over: all of its rows are broken where the window drifted.

    The windows that come first, until they have `reference` rows, are what later ones are compared with. A window
    drifts where its figure would be exceeded by chance once in `run_length` rows; one of fewer than `at_least` rows
    is not judged.
    """

    rule: str
    column: str
    test: str
    reference: int
    run_length: int
    at_least: int
    span_us: int
    verb: str = "rule_drift"

    def schema(self, *inputs: StreamType) -> StreamType:
        """(rule, rows, broken).  Raises UnknownColumn, TypeMismatch."""
        require_columns(inputs[0].schema, (self.column,), f"rules: {self.rule}")
        return StreamType(COUNTS)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """The column."""
        return (frozenset((self.column,)),)

    def open(self, *inputs: StreamType) -> Waiting:
        return Waiting(np.empty(0), np.empty(0, np.int64), np.empty(0), [])

    def process(self, state: Waiting, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Waiting, Output]:
        """Cost: a copy of the column's values, and of a window that is over a sort."""
        (batch,) = inputs
        batch, ends = in_open_windows(batch, self.span_us)
        if len(batch):
            state.ends = np.concatenate([state.ends, ends])
            state.values = np.concatenate([state.values, ranked(batch.frame[self.column], state.texts)])
        return state, Output(self._release(state, time))

    def _release(self, state: Waiting, time: StepTime) -> Batch:
        end = MIN_TIME if time.end is None else time.end
        due = np.unique(state.ends[state.ends <= end])
        judged = [self._judged(state, state.values[state.ends == one]) for one in due]
        counts = np.array(judged, np.int64).reshape(-1, 2)
        if due.size:
            left = state.ends > end
            state.ends, state.values = state.ends[left], state.values[left]
        frame = pl.DataFrame(
            {"rule": [self.rule] * due.size, "rows": counts[:, 0], "broken": counts[:, 1]}, schema=COUNTS.polars()
        )
        keys = keys_of(frame, ("rule",))
        return Batch(frame, released_meta(due, time, keys.hashes, due - self.span_us))

    def _judged(self, state: Waiting, values: Floats) -> tuple[int, int]:
        """Rows of a window that is over, and how many of them are broken."""
        if state.reference.size < self.reference:
            state.reference = np.sort(np.concatenate([state.reference, values]))
            return values.size, 0
        if values.size < self.at_least:
            return values.size, 0
        alpha = min(0.5, values.size / self.run_length)
        measured, threshold = figure(self.test, state.reference, np.sort(values), alpha, seed=values.size)
        return values.size, values.size if measured > threshold else 0
