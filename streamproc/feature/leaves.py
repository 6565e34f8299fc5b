"""Features of entities whose leaves come and go: the rows of each entity, by leaf, and the look-back over all of them.

Below `follow` a row belongs to a leaf, and a leaf to an entity for as long as it stays there. The rows of each entity
are kept, each with its leaf and the number of the stay. Rows that arrive are put to those of the entity, at the time at
which they happened; a leaf that leaves takes the rows of its stay along. Then the entity's look-back is made anew from
the rows that it has: so it is what it would be had they always been these, and nothing counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import C0, C1, C2, C3, DUE, EVENT_TIME, LATE, RANK, ROW, WATERMARK, Batch
from streamproc.contracts.model import Schema
from streamproc.errors import DefinitionError
from streamproc.event_time import MIN_TIME, span_text
from streamproc.operators.aggregates import EVER_US, Aggregate
from streamproc.operators.event_lists import drop_keys
from streamproc.operators.follow import ARRIVES, EPOCH, HAPPENED, HAPPENS, LEAF, LEAVES, STEP, kept_us
from streamproc.operators.lookback import LookbackState, store_of, take_in
from streamproc.operators.lookback_plan import LookbackPlan
from streamproc.operators.row_store import RowStore, row_store
from streamproc.operators.value_table import ValueTable, value_keys
from streamproc.ports import Int64s

OWN: Final = (STEP, EPOCH, HAPPENED)
"""Columns that `follow` makes for features alone."""
_LEAF: Final = ROW
_EPOCH: Final = DUE
"""Where a kept row notes its leaf and its stay: it has no position any more."""


@dataclass(slots=True)
class Leaves:
    """Rows by entity and leaf.

    entities, leaves  their ids, by code: kept rows have the entity's as owner
    rows              the columns under the look-back; the event time is when they happened
    """

    entities: ValueTable
    leaves: ValueTable
    rows: RowStore


def check_followed(
    step: str,
    schema: Schema,
    aggregates: tuple[tuple[str, Aggregate], ...],
    tiled: Sequence[str],
    *,
    ordered: bool,
    at_bound: str,
) -> None:
    """Raises DefinitionError for what cannot follow leaves: it would be lost, or counted twice, where one moves."""
    if not ordered:
        raise DefinitionError(
            f"step '{step}' follows leaves, and its rows are in no order",
            hint="key by the entity right behind sp.follow, where the order is kept",
        )
    keep = kept_us(schema[HAPPENED].unit)
    for name, one in aggregates:
        if one.span_us >= EVER_US:
            raise DefinitionError(
                f"step '{step}': {name} has no begin, and what a leaf added to it cannot be handed over",
                hint="give it a span: .over('365d')",
            )
        if one.span_us > keep:
            raise DefinitionError(
                f"step '{step}': {name} looks back {span_text(one.span_us)}, and sp.follow keeps rows of a leaf for "
                f"{span_text(keep)}",
                hint=f"sp.follow(..., keep='{span_text(one.span_us)}')",
            )
        if one.absent.kind == "carry":
            raise DefinitionError(
                f"step '{step}': {name} carries a value on, which cannot be taken from an entity again",
                hint="use .default(...) or .indicator(...)",
            )
    if tiled:
        raise DefinitionError(
            f"step '{step}': {tiled[0]} is made of tiles, and what a leaf added to them cannot be handed over",
            hint="leave the hop out; the least and greatest text of a window are made of tiles too",
        )
    if at_bound != "stop":
        raise DefinitionError(
            f"step '{step}' follows leaves: rows that it dropped could not be handed over", hint="at_bound='stop'"
        )


def no_leaves(columns: pl.Schema) -> Leaves:
    """No rows, of these columns under the look-back."""
    return Leaves(ValueTable(), ValueTable(), row_store(columns, keyed=True))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive rows of a batch: what happened to leaves from `begin` on, rows from `moved` on, up to `end`."""

    begin: int
    moved: int
    end: int


def stretches(batch: Batch, *, by_moment: bool) -> list[Stretch]:
    """The batch cut before each run of moves (`by_moment`: of one moment each); one stretch at least."""
    happens = batch.frame.get_column(STEP).to_physical().to_numpy() == HAPPENS
    new = np.append(True, happens)[:-1]
    if by_moment:
        new = new | (np.diff(batch.event_time, prepend=MIN_TIME) != 0)
    begins = np.flatnonzero(~happens & new)
    cuts = [0, *begins[begins > 0].tolist(), happens.size]
    return [
        Stretch(begin, begin + int((~happens[begin:end]).sum()), end)
        for begin, end in pairwise(cuts)
    ]  # fmt: skip


def taken(frame: pl.DataFrame, rows: Int64s) -> pl.DataFrame:
    """These rows of the columns under the look-back, of which there may be none."""
    return frame[rows] if frame.width else frame


def keep_rows(state: Leaves, batch: Batch, under: pl.DataFrame, longest: int) -> None:
    """Notes rows that happened or arrived; `under` are their columns under the look-back."""
    if not len(batch):
        return
    assert batch.keys is not None  # features need a key
    if state.entities.crowded() or state.leaves.crowded():
        alive = np.flatnonzero(state.rows.alive[: state.rows.used])
        state.entities.sweep(np.unique(state.rows.owners[alive]))
        state.leaves.sweep(np.unique(state.rows.meta[alive, _LEAF]))
    happened = batch.frame.get_column(HAPPENED).to_numpy()
    meta = np.zeros_like(batch.meta)
    meta[:, [C0, C1, C2, C3]] = batch.meta[:, [C0, C1, C2, C3]]
    meta[:, EVENT_TIME] = happened
    meta[:, _LEAF] = state.leaves.keys.intern(value_keys(batch.frame.get_column(LEAF)))
    meta[:, _EPOCH] = batch.frame.get_column(EPOCH).to_numpy()
    owners = state.entities.keys.intern(batch.keys)
    state.rows.append(Batch(under, meta, batch.keys), happened + longest, owners=owners)


def move(
    state: Leaves, lookback: LookbackState, plan: LookbackPlan, batch: Batch, under: pl.DataFrame, *, step: str
) -> None:
    """Applies moves, in their order, and makes the look-back of every entity that they touch anew.

    Cost: one pass over the owners of all rows that are kept, and the rows of the entities touched.
    """
    if not len(batch):
        return
    assert batch.keys is not None and plan.longest is not None  # features need a key, and followed ones a span
    steps = batch.frame.get_column(STEP).to_physical().to_numpy()
    arrives = np.flatnonzero(steps == ARRIVES)
    keep_rows(state, batch.take(arrives), taken(under, arrives), plan.longest)
    leaves = batch.take(np.flatnonzero(steps == LEAVES))
    if len(leaves):
        _take_away(state, leaves)
    touched = np.unique(state.entities.keys.intern(batch.keys))
    used = state.rows.used
    again = np.flatnonzero(np.isin(state.rows.owners[:used], touched) & (state.rows.alive[:used] == 1))
    slots = lookback.keys.find(state.entities.keys.key_bytes(touched))
    drop_keys(plan.wants, store_of(lookback), lookback.sums.arrays(), slots[slots >= 0])
    meta = state.rows.meta[again]
    order = np.lexsort((meta[:, C3], meta[:, C2], meta[:, C1], meta[:, C0], meta[:, EVENT_TIME]))
    rows = state.rows.batch(again[order])
    meta = rows.meta.copy()
    meta[:, [ROW, DUE, RANK, LATE]] = 0
    meta[:, WATERMARK] = MIN_TIME
    take_in(lookback, plan, Batch(rows.frame, meta, rows.keys), step=step, unread=len(rows))


def of_touched(state: Leaves, moves: Batch, longest: int) -> tuple[Int64s, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """The last move of each entity, in their order, and which of these entities has no row left in its longest span.

    The moves are of one moment, and were applied. Rows that are older are left out whether they are kept still or not:
    when they are dropped depends on how the stream was cut.
    """
    assert moves.keys is not None  # features need a key
    codes = state.entities.keys.intern(moves.keys)
    touched, behind = np.unique(codes[::-1], return_index=True)
    last = codes.size - 1 - behind
    used = state.rows.used
    counts = (state.rows.alive[:used] == 1) & (state.rows.meta[:used, EVENT_TIME] > moves.event_time[0] - longest)
    gone = ~np.isin(touched, state.rows.owners[:used][counts])
    order = np.argsort(last)
    return last[order], gone[order]


def _take_away(state: Leaves, leaves: Batch) -> None:
    """Removes the rows of the stays that ended."""
    assert leaves.keys is not None
    ended = np.stack((
        state.entities.keys.intern(leaves.keys),
        state.leaves.keys.intern(value_keys(leaves.frame.get_column(LEAF))),
        leaves.frame.get_column(EPOCH).to_numpy(),
    ), axis=1)  # fmt: skip
    rows = np.flatnonzero(state.rows.alive[: state.rows.used])
    of_rows = np.stack((state.rows.owners[rows], state.rows.meta[rows, _LEAF], state.rows.meta[rows, _EPOCH]), axis=1)
    gone = _are_in(of_rows, ended)
    state.rows.remove(rows[gone])


def _are_in(rows: Int64s, wanted: Int64s) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which rows of a matrix are rows of another."""
    kind = np.dtype([(str(column), np.int64) for column in range(rows.shape[1])])
    flat, others = (np.ascontiguousarray(part).view(kind).reshape(-1) for part in (rows, wanted))
    return np.isin(flat, others)


def forget_rows(state: Leaves, end: int | None) -> None:
    """Drops rows on which nobody can look back any more."""
    due = state.rows.take_due(MIN_TIME if end is None else end)
    if due.size:
        state.rows.remove(due)
        state.rows.compact()
