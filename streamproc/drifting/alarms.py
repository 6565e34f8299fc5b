"""What a test of drift says: one form for all of them, so that one topic holds the alarms of a topology."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, LATE, Batch, Meta
from streamproc.contracts.model import Field, Schema
from streamproc.operator import StepTime
from streamproc.ports import Int64s

ALARM: Final = Schema((
    Field("detector", pl.String()), Field("columns", pl.List(pl.String())), Field("statistic", pl.Float64()),
    Field("evidence", pl.Float64()), Field("threshold", pl.Float64()), Field("run_length", pl.Int64(), nullable=True),
    Field("promise", pl.String()), Field("autocorrelation", pl.Float64(), nullable=True), Field("rows", pl.Int64()),
    Field("partition", pl.Int64()), Field("first_offset", pl.Int64()), Field("last_offset", pl.Int64()),
    Field("picture", pl.String()),
))  # fmt: skip
"""Columns of an alarm.

detector     which test spoke
columns      whom it blames, strongest first
statistic    the test's own figure; evidence: how it is compared with threshold (both in the detector's measure)
run_length   the mean number of rows to a false alarm that is promised; null where nothing is
promise      "holds", or why the promise is withdrawn
rows         rows since the test began anew
first_offset, last_offset  the offsets (of the source's partition) between which the change lies, as far as is known
picture      distribution before and after, of the first column blamed
"""

_BARS: Final = "▁▂▃▄▅▆▇█"


def spark(counts: npt.NDArray[Any], cells: int = 16) -> str:
    """A distribution as a row of bars.

    >>> spark(np.array([0, 1, 4, 2]))
    '▁▃█▅'
    """
    values = np.asarray(counts, np.float64)
    if values.size > cells:
        edges = np.linspace(0, values.size, cells + 1).astype(np.int64)
        values = np.array([values[a:b].sum() for a, b in pairwise(edges.tolist())])
    top = values.max(initial=0.0)
    if top <= 0:
        return _BARS[0] * values.size
    return "".join(_BARS[min(7, round(7 * value / top))] for value in values.tolist())


def picture(name: str, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> str:
    """Before and after of one column, side by side."""
    return f"{name}: {spark(before)} before, {spark(after)} after"


def alarm_batch(rows: Sequence[dict[str, Any]], at: Sequence[int], meta: Meta, time: StepTime) -> Batch:
    """Alarms as rows of their own, each standing where the input row `at` does."""
    frame = pl.DataFrame(list(rows), ALARM.polars(), orient="row")
    return Batch(frame, at_rows(meta, np.asarray(at, np.int64), time))


def at_rows(meta: Meta, at: Int64s, time: StepTime) -> Meta:
    """The meta of rows that stand where input rows do, and are no source rows."""
    made = np.ascontiguousarray(meta[at])
    made[:, C2], made[:, C3] = made[:, C1], np.arange(at.size) - np.searchsorted(at, at, side="left")
    made[:, C1] = made[:, C0]
    made[:, C0] = time.rank << 32
    made[:, ACCOUNT], made[:, LATE] = -1, 0
    return made


def place(meta: Meta, row: int) -> tuple[int, int]:
    """Partition and offset of the source row behind a row, as its coordinate has it."""
    return int(meta[row, C0]) & 0xFFFFFFFF, int(meta[row, C1])


def absorb_all(meta: Meta, time: StepTime) -> None:
    """Every row did its work in the test's state."""
    time.fates.absorb(np.ascontiguousarray(meta[meta[:, ACCOUNT] >= 0, ACCOUNT]))
