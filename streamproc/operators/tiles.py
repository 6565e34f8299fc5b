"""Look-backs whose older part is kept as tiles: what `.over(span, hop=...)` rests on, and whatever merges.

`tile_moves` decides which tiles and events make a window; here accumulators hold them, a slot each, and carry the
merges out: all rows of a piece are added to slots of their own, then all merges happen in order, then results are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import EVENT_TIME, WATERMARK, Batch
from streamproc.columns import grow, next_rows
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.event_time import MIN_TIME
from streamproc.operators.accumulators import Accumulator, extremes
from streamproc.operators.aggregate_parts import Finish, Part, bind_aggregate
from streamproc.operators.aggregates import UNBOUNDED, Aggregate
from streamproc.operators.deadlines import NEVER, blocks_of, set_deadlines, take_due
from streamproc.operators.event_records import EVER
from streamproc.operators.inputs import Inputs
from streamproc.operators.tile_moves import (
    AT,
    HELD,
    KEY_WORDS,
    LAST_WAITING,
    LINKS,
    NEWEST,
    NODE_WORDS,
    Arriving,
    Script,
    Tiles,
    Tiling,
    drop_tiles,
    move_tiles,
)
from streamproc.operators.values import Flags
from streamproc.ports import Int64s
from streamproc.state import KeyTable

_PIECE: Final = 8_192
"""Rows whose results are held at once."""
_PIECE_OF_RUNS: Final = 512
"""The same where a result may be thousands of codes."""
_MOMENT: Final = 1
"""The hop of tiles that are exact."""
_UNTILED: Final = {
    "top_k": "it needs all values there are",
    "ewma": "its weights change with every row",
    "trend": "it is centred on the row",
    "time_since_last": "it leaves out the row itself",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What rows see: a column, and µs since the newest row behind it where that is wanted."""

    column: pl.Series
    age: Int64s | None = None
    aged: Flags | None = None

    def since(self, row: int) -> Seen:
        """What the rows from this one on see."""
        if not row or self.age is None or self.aged is None:
            return Seen(self.column[row:], self.age, self.aged)
        return Seen(self.column[row:], self.age[row:], self.aged[row:])


@dataclass(frozen=True, slots=True, eq=False)
class TilePlan:
    """Aggregates over windows of one span and hop.

    columns  by name: the output column, the part that it reads, how a reading becomes the column, and the part that
             knows its newest row, or -1
    """

    tiling: Tiling
    parts: tuple[Part, ...]
    columns: Mapping[str, tuple[Field, int, Finish, int]]

    @property
    def piece(self) -> int:
        """Rows that are taken in at once."""
        return _PIECE_OF_RUNS if any(part.kind.startswith(("set", "values")) for part in self.parts) else _PIECE

    def begins(self, times: Int64s) -> Int64s:
        """Where the windows of rows at these times begin; a window without a begin reaches as far as its row."""
        if self.tiling.hop >= EVER:
            return times
        begins: Int64s = (times - self.tiling.span) // self.tiling.hop * self.tiling.hop
        return begins


def tiling_of(aggregate: Aggregate, schema: Schema, *, step: str) -> tuple[int, int] | None:
    """Span and hop of an aggregate that is computed from tiles; None for one computed from events.

    Text has no place in the queues of the exact look-back: its extremes get a tile for each moment, which is as exact.
    Raises DefinitionError for an aggregate that does not merge, or could not be bounded.
    """
    sketch = aggregate.bound != UNBOUNDED
    if aggregate.hop_us:
        why = _UNTILED.get(aggregate.kind)
        if aggregate.kind in ("distinct", "quantile") and not sketch:
            why = "it needs all values there are"
        if why is not None:
            bounded = {"distinct": "exact=1_000", "quantile": "error=0.01"}.get(aggregate.kind)
            raise DefinitionError(
                f"step '{step}': {aggregate} cannot be made of tiles: {why}",
                hint=f"bound it: {aggregate.kind}(..., {bounded})" if bounded else "leave the hop out, or use .ever()",
            )
        return aggregate.span_us, aggregate.hop_us
    if sketch and 0 <= aggregate.span_us < EVER:
        raise DefinitionError(
            f"step '{step}': {aggregate} over events that are kept anyway can be exact",
            hint=f"give it tiles, .over('30d', hop='1h'), or leave {'error' if aggregate.error else 'exact'} out",
        )
    text = aggregate.kind in ("min", "max") and bind_aggregate(aggregate, schema, step=step)[1].form == "keys"
    if text or (sketch and aggregate.span_us >= EVER):
        return (EVER, EVER) if aggregate.span_us >= EVER else (aggregate.span_us, _MOMENT)
    return None


def plan_tiles(
    aggregates: Mapping[str, Aggregate], schema: Schema, span_us: int, hop_us: int, *, step: str, at_most: int,
    aged: set[str],
) -> TilePlan:  # fmt: skip
    """The plan of aggregates over one span and hop; raises DefinitionError where a key may not hold its tiles.

    aged  names of those whose newest row is wanted
    """
    if _MOMENT < hop_us < EVER and span_us // hop_us + 2 > at_most:
        raise DefinitionError(
            f"step '{step}': a window has up to {span_us // hop_us + 2:,} tiles, and a key keeps {at_most:,}",
            hint="raise events_per_key, or make the hop longer",
        )
    parts: list[Part] = []
    columns = {}
    for name, aggregate in aggregates.items():
        field, part, finish = bind_aggregate(aggregate, schema, step=step)
        newest = -1
        if name in aged:
            newest = _place(parts, Part("newest", aggregate.column, "moments", lambda: extremes(smallest=False)))
        columns[name] = (field.renamed(name), _place(parts, part), finish, newest)
    return TilePlan(Tiling(span_us, hop_us, at_most), tuple(parts), columns)


def _place(parts: list[Part], part: Part) -> int:
    if part not in parts:
        parts.append(part)
    return parts.index(part)


@dataclass(slots=True)
class TileState:
    """Tiles and waiting events, see `tile_moves`; `free` has `height` slots.

    parts  accumulators by slot
    deadlines, minima  when a key can go, see `deadlines`
    """

    keys: KeyTable
    key_words: Int64s
    nodes: Int64s
    free: Int64s
    height: Int64s
    parts: tuple[Accumulator, ...]
    deadlines: Int64s
    minima: Int64s


def open_tiles(plan: TilePlan) -> TileState:
    """No event yet."""
    none = np.zeros(0, np.int64)
    return TileState(
        KeyTable(), np.zeros((0, KEY_WORDS), np.int64), np.zeros((0, NODE_WORDS), np.int64), none,
        np.zeros(1, np.int64), tuple(part.make() for part in plan.parts), none.copy(), none.copy(),
    )  # fmt: skip


def see_tiles(state: TileState, plan: TilePlan, batch: Batch) -> tuple[dict[str, Seen], Int64s]:
    """Takes the rows in one by one, and gives what each sees, by name.

    Beside it, per row, the moment before which its window must not begin if it is to miss nothing of what was dropped
    for want of room; MIN_TIME where nothing was.
    """
    assert batch.keys is not None  # the plan lets only keyed streams in
    slots = state.keys.intern(batch.keys)
    _room_for_keys(state)
    covered = np.full(len(batch), MIN_TIME, np.int64)
    pieces = [
        _see_piece(state, plan, batch, slots, covered, slice(first, first + plan.piece))
        for first in range(0, max(len(batch), 1), plan.piece)
    ]
    if len(batch) and plan.tiling.hop < EVER:
        waiting, tile = state.key_words[slots, LAST_WAITING], state.key_words[slots, NEWEST]
        newest = np.where(waiting >= 0, state.nodes[waiting, AT], (state.nodes[tile, AT] + 1) * plan.tiling.hop)
        gone = newest + plan.tiling.span + plan.tiling.hop
        set_deadlines(state.deadlines, state.minima, slots, gone)
    if len(pieces) == 1:
        return pieces[0], covered
    return {name: _joined([piece[name] for piece in pieces]) for name in plan.columns}, covered


def _joined(parts: list[Seen]) -> Seen:
    column = pl.concat([part.column for part in parts])
    ages = [part.age for part in parts if part.age is not None]
    aged = [part.aged for part in parts if part.aged is not None]
    return Seen(column, np.concatenate(ages) if ages else None, np.concatenate(aged) if aged else None)


def _see_piece(
    state: TileState, plan: TilePlan, batch: Batch, slots: Int64s, covered: Int64s, rows: slice
) -> dict[str, Seen]:
    meta = batch.meta[rows]
    n = meta.shape[0]
    own, result = _take(state, n), _take(state, n)
    inputs = Inputs(Batch(batch.frame[rows] if batch.frame.width else batch.frame, meta, None))
    for part, accumulator in zip(plan.parts, state.parts, strict=True):
        accumulator.add(own, *inputs.form(part.form, part.column))
    times = meta[:, EVENT_TIME].copy()
    arriving = Arriving(slots[rows], times, meta[:, WATERMARK].copy(), own, result)
    script = _script(4 * n + 64)
    at = 0
    while True:
        tiles = Tiles(state.key_words, state.nodes, state.free, state.height)
        at = move_tiles(plan.tiling, tiles, arriving, script, covered[rows], at)
        _carry_out(state, script)
        if at == n:
            break
        most = 8 * int(state.key_words[arriving.keys[at], HELD]) + 24
        script = _script(max(most, script.into.size))
        _room_for_slots(state, most)
    readings = [accumulator.read(result) for accumulator in state.parts]
    seen = {}
    for name, (_, place, finish, newest) in plan.columns.items():
        column = finish(name, readings[place])
        seen[name] = Seen(column)
        if newest >= 0:
            moments, has = readings[newest]
            seen[name] = Seen(column, np.where(has != 0, times - moments, 0), has)
    _free(state, result)
    return seen


def forget_tiles(state: TileState, end: int | None) -> None:
    """Frees keys that no row in time can look back on, once the watermark is at `end`."""
    if end is None:
        return
    due = take_due(state.deadlines, state.minima, state.keys.used, end + 1)
    at = 0
    while at < due.size:
        script = _script(64 + 2 * int(state.key_words[due[at], HELD]))
        tiles = Tiles(state.key_words, state.nodes, state.free, state.height)
        at = drop_tiles(tiles, script, due, at)
        _carry_out(state, script)
    if due.size:
        state.keys.release(due)


def _script(size: int) -> Script:
    into, source, dead = (np.empty(size, np.int64) for _ in range(3))
    return Script(into, source, dead, np.zeros(2, np.int64))


def _carry_out(state: TileState, script: Script) -> None:
    merges, dead = int(script.length[0]), script.dead[: int(script.length[1])]
    for accumulator in state.parts:
        accumulator.merge(script.into[:merges], script.source[:merges])
    _free(state, dead)
    script.length[:] = 0


def _free(state: TileState, slots: Int64s) -> None:
    for accumulator in state.parts:
        accumulator.clear(slots)
    height = int(state.height[0])
    state.free[height : height + slots.size] = slots
    state.height[0] += slots.size


def _take(state: TileState, n: int) -> Int64s:
    """n free slots."""
    _room_for_slots(state, n)
    height = int(state.height[0])
    state.height[0] -= n
    return state.free[height - n : height].copy()


def _room_for_keys(state: TileState) -> None:
    capacity, old = state.keys.capacity, state.key_words.shape[0]
    if capacity > old:
        state.key_words = grow(state.key_words, capacity)
        state.key_words[old:, :LINKS] = -1
        state.deadlines = grow(state.deadlines, capacity, fill=NEVER)
        state.minima = grow(state.minima, blocks_of(capacity), fill=NEVER)


def _room_for_slots(state: TileState, wanted: int) -> None:
    height, old = int(state.height[0]), state.nodes.shape[0]
    if height >= wanted:
        return
    new = next_rows(old, old + wanted - height)
    state.nodes, state.free = grow(state.nodes, new), grow(state.free, new)
    # Lowest on top of the stack: which slot is given is then the same on every run.
    state.free[height : height + new - old] = np.arange(new - 1, old - 1, -1)
    state.height[0] += new - old
    for accumulator in state.parts:
        accumulator.grow(new)
