"""Rows of one stream that wait for rows of another: who comes when, and what happens then."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamproc.batch import ROW, WATERMARK, Batch, Meta
from streamproc.operator import StepTime
from streamproc.operators.key_runs import merge_by_position
from streamproc.operators.pending import Events, Pending, run_pending
from streamproc.ports import Int64s

_NEVER = -(2**62)


def meet(
    pending: Pending, left: Batch, right: Batch, values: npt.NDArray[np.float64], *, time: StepTime, passed: int,
    horizon: int, negative: float, in_order: int = 0,
) -> tuple[Events, Meta]:  # fmt: skip
    """Lets both sides of a step come in their order; gives what happens, and the meta of all rows, the left first.

    values    what each row of the right says, NaN for nothing
    passed    the end of time of the step before
    negative  what silence says, see `run_pending`
    """
    assert left.keys is not None and right.keys is not None, "the plan gives both sides a key"
    left_slots, right_slots = pending.table.intern(left.keys), pending.table.intern(right.keys)
    slots = max(int(left_slots.max(initial=-1)), int(right_slots.max(initial=-1))) + 1
    pending.make_room(slots, len(left), len(right))
    order = merge_by_position(_positions(left.meta), _positions(right.meta), in_order)
    merged = np.concatenate((left.meta, right.meta))
    before = np.concatenate((np.array([passed], np.int64), time.watermarks))[merged[order, ROW] // 2]
    events = run_pending(
        pending, order, np.maximum(merged[order, WATERMARK], before),
        last_limit=_NEVER if time.end is None else time.end,
        left_slots=left_slots, left_times=np.ascontiguousarray(left.event_time),
        right_slots=right_slots, right_times=np.ascontiguousarray(right.event_time),
        right_values=values, horizon=horizon, negative=negative,
    )  # fmt: skip
    return events, merged


def _positions(meta: Meta) -> Int64s:
    return np.ascontiguousarray(meta[:, ROW : ROW + 3])
