"""Rows that time releases: where they stand among the rows of a step, and what is over when a row goes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, DUE, EVENT_TIME, LATE, RANK, ROW, WATERMARK, WIDTH, Meta
from streamproc.kernels import inlined
from streamproc.operator import StepTime
from streamproc.ports import Int64s


@inlined
def released_before(meta: Meta, row: int) -> int:
    """What `released_up_to` says of one row, for kernels."""
    if meta[row, ROW] & 1:
        return int(meta[row, WATERMARK])
    return int(meta[row, DUE]) - 1


def released_up_to(meta: Meta) -> Int64s:
    """For each row, the moment up to which (itself included) operators have released when the row goes; int64[n].

    Before an input row that is its watermark; before a row that time released upstream, anything due earlier than it.
    Never decreases along a batch, since rows stand in position order.
    """
    return np.where(meta[:, ROW] & 1, meta[:, WATERMARK], meta[:, DUE] - 1)


def released_meta(due: Int64s, time: StepTime, key_hashes: npt.NDArray[np.uint64], starts: Int64s) -> Meta:
    """The meta rows of window results that are due at these moments (ascending, none beyond the end of the step)."""
    meta = np.zeros((due.size, WIDTH), np.int64)
    meta[:, EVENT_TIME] = meta[:, WATERMARK] = meta[:, DUE] = due
    meta[:, ROW] = 2 * np.searchsorted(time.watermarks, due)
    meta[:, RANK] = time.rank
    meta[:, ACCOUNT] = -1
    coordinates(meta, time, key_hashes, starts, np.zeros(due.size, np.int64))
    return meta


def updated_meta(
    meta: Meta, ends: Int64s, time: StepTime, *, key_hashes: npt.NDArray[np.uint64], starts: Int64s, revisions: Int64s
) -> Meta:
    """The meta rows of updates: the position and watermark of the input row, the event time of the window's end."""
    made = meta.copy()
    made[:, EVENT_TIME] = ends
    made[:, ACCOUNT] = -1
    made[:, LATE] = 0
    coordinates(made, time, key_hashes, starts, revisions)
    return made


def coordinates(
    meta: Meta, time: StepTime, key_hashes: npt.NDArray[np.uint64], starts: Int64s, revisions: Int64s
) -> None:
    """Writes the coordinate of a window result: operator, key, window start, revision."""
    meta[:, C0] = time.rank << 32
    meta[:, C1] = key_hashes.view(np.int64)
    meta[:, C2] = starts
    meta[:, C3] = revisions
