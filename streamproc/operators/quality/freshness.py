"""Tells when the rows of a partition have stopped coming, by the journal's clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, C0, C2, DUE, EVENT_TIME, RANK, ROW, WATERMARK, WIDTH, Batch
from streamproc.contracts.model import Schema
from streamproc.event_time import MIN_TIME
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.quality.alerts import ALERT, CLEARED, ONGOING, RAISED, STATUS


@dataclass(slots=True)
class Newest:
    """The newest event time met, since when it is too old (or the least number), and when that was last told."""

    at: int = MIN_TIME
    since: int = MIN_TIME
    told: int = MIN_TIME
    passed: int = MIN_TIME


@dataclass(frozen=True, slots=True)
class Freshness:
    """Gives an alert when the newest row is older than `within_us` by the clock, and one when rows come again."""

    rule: str
    within_us: int
    remind_us: int
    verb: str = "freshness"
    clocked: bool = True

    def schema(self, *inputs: StreamType) -> StreamType:
        """The columns of alerts."""
        return StreamType(ALERT)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """Nothing but event time."""
        return (frozenset(),)

    def open(self, *inputs: StreamType) -> Newest:
        return Newest()

    def process(self, state: Newest, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Newest, Output]:
        """Alerts come of ticks alone, behind all rows of the step."""
        (batch,) = inputs
        if len(batch):
            state.at = max(state.at, int(batch.event_time.max()))
        if time.end is not None:
            state.passed = time.end
        alert = None if time.clock is None or state.at == MIN_TIME else self._told(state, time.clock)
        frame = pl.DataFrame(
            [] if alert is None else [alert],
            schema={name: pl.UInt8 if name == "status" else dtype for name, dtype in _PLAIN.items()},
            orient="row",
        )
        meta = np.zeros((frame.height, WIDTH), np.int64)
        if time.clock is not None:
            meta[:, EVENT_TIME] = meta[:, DUE] = meta[:, C2] = time.clock
            meta[:, WATERMARK] = state.passed
        meta[:, ROW], meta[:, RANK] = 2 * time.watermarks.size, time.rank
        meta[:, ACCOUNT], meta[:, C0] = -1, time.rank << 32
        made = frame.with_columns(pl.col("status").cat.to(STATUS)).cast(ALERT.polars())
        return state, Output(Batch(made, meta))

    def _told(self, state: Newest, now: int) -> tuple[object, ...] | None:
        age = now - state.at
        raised = state.since != MIN_TIME
        if age <= self.within_us:
            if not raised:
                return None
            since, state.since = state.since, MIN_TIME
            return (self.rule, CLEARED, since, state.at, now, 1, 0, 0, age / 1e6)
        if raised and now - state.told < self.remind_us:
            return None
        if not raised:
            state.since = state.at
        state.told = now
        return (self.rule, ONGOING if raised else RAISED, state.since, state.at, now, 1, 0, 0, age / 1e6)


_PLAIN = {name: pl.Int64() if isinstance(dtype, pl.Datetime) else dtype for name, dtype in ALERT.polars().items()}
