"""Rows that come too late for an operator with state."""

from __future__ import annotations

from streamproc.batch import EVENT_TIME, LATE, WATERMARK, Batch


def split_late(batch: Batch) -> tuple[Batch, Batch | None]:
    """The rows that are in time, and those that are not (None where there are none).

    Too late is a row that its source marked so, and a row behind the watermark that held when it came: state that it
    would need may be gone already. A tie with the watermark is in time.
    """
    meta = batch.meta
    late = (meta[:, LATE] != 0) | (meta[:, EVENT_TIME] < meta[:, WATERMARK])
    if not late.any():
        return batch, None
    return batch.filter(~late), batch.filter(late)
