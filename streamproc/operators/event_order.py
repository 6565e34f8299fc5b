"""Rows wait until time has passed them, and go on in order of event time.

This is what `ordered` does, and how a join below two ordered streams gets its rows in one merged order.
A row goes when the stage's watermark is strictly above its event time: from then on no row with that event time or an
earlier one can come, so all ties are there. It goes as a row that time released: position (2i, event time, rank) with
i the first input row at which the watermark is above, and its own event time as watermark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, DUE, EVENT_TIME, RANK, ROW, WATERMARK, Batch, Meta, concat
from streamproc.event_time import MIN_TIME
from streamproc.operator import Fates, StepTime
from streamproc.operators.row_store import RowStore
from streamproc.ports import Int64s

_COORDINATE: Final = (C0, C1, C2, C3)


def pass_in_order(store: RowStore, batch: Batch, time: StepTime, *, by: Sequence[str] | None) -> Batch:
    """Takes the rows that came (none of them late) and gives those that time has passed, in order of event time.

    by  columns that order rows of one event time before their coordinate does; None keeps them in order of arrival.
    Rows that stay go to the store and are held.  Rows that come and go in one step are not copied through it.
    Cost O(k log k) for k rows that go, and see `deadlines` for finding them.
    """
    end = MIN_TIME if time.end is None else time.end
    due = store.take_due(end)
    moments = np.ascontiguousarray(batch.event_time)
    goes = moments < end
    if not goes.all():
        stays = batch.filter(~goes)
        hold(time.fates, stays.meta)
        store.append(stays, moments[~goes])
    source = Batch(batch.frame, batch.meta, batch.keys)
    chosen = np.flatnonzero(goes)
    if due.size:
        waited = store.batch(due)
        release(time.fates, waited.meta)
        store.remove(due)
        store.compact()
        source = concat([waited, source]) if len(batch) else waited
        chosen = np.concatenate((np.arange(due.size), chosen + due.size))
    order = chosen[_order(source, chosen, by)]
    passed = source if order.size == len(source) and _is_ascending(order) else source.take(order)
    return Batch(passed.frame, as_released(passed.meta, passed.meta[:, EVENT_TIME], time), passed.keys)


def as_released(meta: Meta, due: Int64s, time: StepTime) -> Meta:
    """The rows' meta once time has released them: position, event time and watermark are those of the moment `due`.

    The first input row at which the watermark is strictly above `due` is the one before which they stand.
    """
    released = np.array(meta, np.int64, order="C")
    released[:, ROW] = 2 * np.searchsorted(time.watermarks, due, side="right")
    released[:, DUE] = due
    released[:, EVENT_TIME] = due
    released[:, WATERMARK] = due
    released[:, RANK] = time.rank
    return released


def hold(fates: Fates, meta: Meta) -> None:
    """Notes that the source rows behind these rows wait."""
    fates.hold(_accounts(meta))


def release(fates: Fates, meta: Meta) -> None:
    """Notes that the source rows behind these rows wait no longer."""
    fates.release(_accounts(meta))


def absorb(fates: Fates, meta: Meta) -> None:
    """Notes that the source rows behind these rows have done their work."""
    fates.absorb(_accounts(meta))


def _accounts(meta: Meta) -> Int64s:
    accounts: Int64s = meta[:, ACCOUNT]
    return accounts[accounts >= 0]


def _is_ascending(values: npt.NDArray[np.int64]) -> bool:
    return bool(np.all(values[1:] >= values[:-1]))


def _order(source: Batch, chosen: Int64s, by: Sequence[str] | None) -> Int64s:
    """The order of the chosen rows by event time, `by`, coordinate; rows equal in all that stay as they came."""
    moments = np.ascontiguousarray(source.meta[chosen, EVENT_TIME])
    order = np.arange(moments.size) if _is_ascending(moments) else np.argsort(moments, kind="stable")
    if by is None or moments.size < 2:
        return order
    sorted_moments = moments[order]
    tie = sorted_moments[1:] == sorted_moments[:-1]
    if not tie.any():
        return order
    # Only rows that share their event time with a neighbour need the costly comparison.
    tied = np.flatnonzero(np.concatenate(([False], tie)) | np.concatenate((tie, [False])))
    rows = chosen[order[tied]]
    columns = [pl.Series("moment", sorted_moments[tied])]
    if by:
        columns += [column.alias(f"by{i}") for i, column in enumerate(source.frame.select(by)[rows].get_columns())]
    columns += [pl.Series(f"c{i}", source.meta[rows, c]) for i, c in enumerate(_COORDINATE)]
    ties = pl.DataFrame(columns)
    inner = ties.select(pl.arg_sort_by(ties.columns, nulls_last=False, maintain_order=True)).to_series().to_numpy()
    order[tied] = order[tied][inner]
    return order
