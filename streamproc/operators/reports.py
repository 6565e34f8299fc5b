"""What an operator says beside its rows: reports that stand where the row or the moment stands that brought a label."""

from __future__ import annotations

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, LATE, Batch, Meta
from streamproc.contracts.model import Schema
from streamproc.hashing import mix64
from streamproc.operator import StepTime
from streamproc.operators.event_order import as_released
from streamproc.operators.pending import Events


class Side:
    """Reports of one kind as they fall due."""

    def __init__(self, schema: Schema, width: int) -> None:
        self.schema = schema.polars()
        self.frames, self.metas = [schema.empty()], [np.empty((0, width), np.int64)]

    def add(self, frame: pl.DataFrame, meta: Meta) -> None:
        """A report, with the meta of its rows."""
        self.frames.append(frame)
        self.metas.append(meta)

    @property
    def batch(self) -> Batch:
        return Batch(pl.concat(self.frames), np.concatenate(self.metas))


def report_meta(events: Events, event: int, merged: Meta, time: StepTime, number: int, rows: int) -> Meta:
    """The meta of a report: where the row stands that brought the label, or time if it did.

    number  of the report in the task: its coordinate
    """
    cause = int(events.causes[event])
    if cause >= 0:
        one = merged[cause : cause + 1].copy()
    else:
        due = events.moments[event : event + 1]
        one = as_released(np.zeros((1, merged.shape[1]), np.int64), due, time)
    meta = np.repeat(one, rows, axis=0)
    meta[:, ACCOUNT], meta[:, LATE] = -1, 0
    meta[:, C0], meta[:, C1], meta[:, C2], meta[:, C3] = time.rank << 32, number, 0, np.arange(rows)
    return meta


def beside(meta: Meta, time: StepTime) -> Meta:
    """The meta of rows that stand beside others, one for one, and are no source rows."""
    made = np.array(meta, np.int64, order="C")
    of = (np.ascontiguousarray(meta[:, c]) for c in (C0, C1, C2, C3))
    made[:, C1] = mix64(np.full(len(meta), time.rank), *of).view(np.int64)
    made[:, C0], made[:, C2], made[:, C3] = time.rank << 32, 0, 0
    made[:, ACCOUNT], made[:, LATE] = -1, 0
    return made
