"""Rows that come too late for an operator with state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamproc.batch import EVENT_TIME, LATE, WATERMARK, Batch


def split_late(batch: Batch) -> tuple[Batch, Batch | None]:
    """The rows that are in time, and those that are not (None where there are none).

    Too late is a row that its source marked so, and a row behind the watermark that held when it came: state that it
    would need may be gone already. A tie with the watermark is in time.
    """
    meta = batch.meta
    return _split(batch, (meta[:, LATE] > 0) | (meta[:, EVENT_TIME] < meta[:, WATERMARK]))


def split_late_labels(batch: Batch) -> tuple[Batch, Batch | None]:
    """The same of labels: feedback is outside the watermark, and a row that still waits can take it at any time."""
    meta = batch.meta
    behind = (meta[:, LATE] == 0) & (meta[:, EVENT_TIME] < meta[:, WATERMARK])
    return _split(batch, (meta[:, LATE] > 0) | behind)


def _split(batch: Batch, late: npt.NDArray[np.bool_]) -> tuple[Batch, Batch | None]:
    if not late.any():
        return batch, None
    return batch.filter(~late), batch.filter(late)
