"""`outcomes`: whether an event of a row's entity comes within a span after the row, where entities merge and split.

It is made in two stages. The first is keyed by entity and holds, of each entity, the rows that wait and the events that
count, both by leaf as `follow` tells of them. It says each time that a row *meets* an event: when the event happens, or
when a link brings the two into one entity. But it cannot say this once only, nor say that nothing came: where a row's
leaf goes on to another entity, perhaps in another task, nobody there knows what was said here. So what is pending never
moves. It waits in the second stage, keyed by the row's own id, which no merge changes; that stage takes the first
meeting, or says at the horizon that there was none. It is made of steps that are there: `within`, `dedupe`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, RANK, ROW, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName
from streamproc.event_time import MIN_TIME, Span, span_text, span_us
from streamproc.graph import Step, Stream
from streamproc.hashing import mix64
from streamproc.keys import key_kinds
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.columns import Where, drop, with_columns
from streamproc.operators.deadlines import NEVER
from streamproc.operators.dedupe import dedupe
from streamproc.operators.event_order import absorb, as_released, pass_in_order
from streamproc.operators.follow import (
    EPOCH,
    HAPPENED,
    LEAF,
    LEAVES,
    STEP,
    STEPS,
    is_followed,
    kept_us,
    require_own_id,
)
from streamproc.operators.join_columns import only_columns, require_same_key
from streamproc.operators.key_by import key_by
from streamproc.operators.key_runs import merge_by_position
from streamproc.operators.lateness import split_late
from streamproc.operators.meetings import (
    LEAF_CODE,
    NUMBER,
    OWNER,
    Meetings,
    forget,
    meet,
    no_meetings,
)
from streamproc.operators.ordered import ordered
from streamproc.operators.row_store import RowStore, row_store
from streamproc.operators.value_table import ValueTable, value_keys
from streamproc.operators.within import within as pairs_within
from streamproc.ports import Int64s
from streamproc.state import KeyTable

_OWN: Final = (LEAF, STEP, EPOCH, HAPPENED)
_MOMENT: Final = pl.Datetime("us", "UTC")


@dataclass(slots=True)
class OutcomesState:
    """What waits and what counts, by entity.

    entities, leaves  their ids, by slot and code
    rows              ids of the rows that wait
    """

    entities: KeyTable
    leaves: ValueTable
    meetings: Meetings
    rows: RowStore
    row_waits: RowStore
    event_waits: RowStore


@dataclass(frozen=True, slots=True, eq=False)
class Happened(Where):
    """The rows of a followed stream that happened, without those that only move."""

    verb: str = "outcomes"

    def schema(self, *inputs: StreamType) -> StreamType:
        _require_followed(self.verb, inputs[0], "rows")
        return Where.schema(self, *inputs)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Says when rows of an entity have an event of that entity behind them, see `outcomes`.

    A row's id, and the moment at which it met the event; the same row may be told again where its leaf moves on.
    """

    on: tuple[str, ...]
    within_us: int
    into: str

    @property
    def at(self) -> str:
        return f"{self.into}_at"

    @property
    def verb(self) -> str:
        return "outcomes"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The columns of the id, and the moment.

        Raises DefinitionError for streams that no `follow` tells of, or that are not in order, UnknownColumn.
        """
        rows, events = inputs
        require_same_key(self.verb, rows, events)
        for stream, whose in ((rows, "rows"), (events, "events")):
            _require_followed(self.verb, stream, whose)
            if not stream.ordered:
                raise DefinitionError(
                    f"step '{self.verb}' follows leaves, and its {whose} are in no order",
                    hint="key by the entity right behind sp.follow, where the order is kept",
                )
            keep = kept_us(stream.schema[HAPPENED].unit)
            if keep <= self.within_us:
                raise DefinitionError(
                    f"step '{self.verb}' waits {span_text(self.within_us)}, and sp.follow keeps its {whose} for "
                    f"{span_text(keep)}: at the horizon they could not be handed over any more",
                    hint="keep them longer than that: sp.follow(..., keep=...)",
                )
        key_kinds(rows.schema, self.on)
        require_own_id(self.verb, rows.schema, self.on, "knows rows")
        for name in (self.into, self.at):
            if name in rows.schema:
                raise DuplicateName(f"step '{self.verb}' makes '{name}', which is there", hint="choose another into=")
        fields = (*(rows.schema[name] for name in self.on), Field(self.at, _MOMENT))
        return StreamType(Schema(fields), ordered=True)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return frozenset((*self.on, *_OWN)), frozenset(_OWN)

    def open(self, *inputs: StreamType) -> OutcomesState:
        rows, events = inputs
        ids = pl.Schema({name: rows.schema[name].dtype for name in self.on})
        return OutcomesState(
            KeyTable(), ValueTable(), no_meetings(), row_store(ids, keyed=False),
            row_store(rows.schema.polars(), keyed=True), row_store(events.schema.polars(), keyed=True),
        )  # fmt: skip

    def process(self, state: OutcomesState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[OutcomesState, Output]:
        """Cost O(1) a row that happens; a row that arrives or leaves costs a walk through those of its entity."""
        (rows, late), (events, late_events) = split_late(inputs[0]), split_late(inputs[1])
        rows = pass_in_order(state.row_waits, rows, time, by=None)
        events = pass_in_order(state.event_waits, events, time, by=None)
        absorb(time.fates, rows.meta)
        absorb(time.fates, events.meta)
        made = self._met(state, rows, events, time)
        return state, Output(made, late, late_others=() if late_events is None else (late_events,))

    def _met(self, state: OutcomesState, rows: Batch, events: Batch, time: StepTime) -> Batch:
        store, meetings = state.rows, state.meetings
        if state.leaves.crowded():
            state.leaves.sweep(np.unique(meetings.places[meetings.taken(), LEAF_CODE]))
        stay = np.flatnonzero(rows.frame.get_column(STEP).to_physical().to_numpy() != LEAVES)
        staying = rows.take(stay)
        ids = Batch(only_columns(staying.frame, store.old.columns), staying.meta)
        numbers = np.full(len(rows), -1, np.int64)
        numbers[stay] = store.append(ids, np.full(stay.size, NEVER))
        told = np.concatenate((
            _told(state, rows, numbers, 0), _told(state, events, np.full(len(events), -1, np.int64), 1)
        ))  # fmt: skip
        slots = told[:, OWNER]
        meetings.make_room(1 + int(slots.max(initial=-1)), len(told))
        order = merge_by_position(_positions(rows), _positions(events), 0)
        met, gone = meet(meetings, told, order, self.within_us)
        made = self._frame_of(store, met, time)
        due, emptied = forget(meetings, MIN_TIME if time.end is None else time.end)
        store.remove(np.concatenate((gone, due)))
        renumbered = store.compact()
        if renumbered is not None:
            waiting = meetings.taken(waiting=True)
            meetings.places[waiting, NUMBER] = renumbered[meetings.places[waiting, NUMBER]]
        seen = np.unique(np.concatenate((slots, emptied)))
        state.entities.release(seen[(meetings.heads[seen, :2] == 0).all(axis=1)])
        return made

    def _frame_of(self, store: RowStore, met: Int64s, time: StepTime) -> Batch:
        """A row for each meeting: it stands where time has come to the moment, under a coordinate of its own."""
        numbers, moments = np.ascontiguousarray(met[:, 0]), np.ascontiguousarray(met[:, 1])
        meta = as_released(np.zeros((len(met), WIDTH), np.int64), moments, time)
        of = (np.ascontiguousarray(store.meta[numbers, c]) for c in (C0, C1, C2, C3))
        _own_coordinates(meta, time.rank, mix64(*of).view(np.int64), moments)
        moment = pl.Series(self.at, moments).cast(_MOMENT)
        return Batch(pl.DataFrame([*store.frame(numbers).get_columns(), moment]), meta)


def outcomes(
    rows: Stream, events: Stream, *, within: Span, on: str | tuple[str, ...], into: str, name: str = ""
) -> Stream:
    """What became of each row: whether its entity, which may merge and split, has an event in the span behind it.

    A row of t is true at the first moment m in (t, t + within] at which, with all links up to m and those of m itself,
    its leaf belongs to the entity of a leaf that has an event in (t, m]; it is false at t + within if there is none.

    rows    as `sp.follow` gives them, keyed by the entity, in order
    events  the same, perhaps of another `follow`
    within  the horizon; `follow` must keep the rows of both sides longer than that
    on      the columns that name a row, each row by its own: they key what comes out. Not the entity, which changes
    into    the column that says true or false; `<into>_at` is the moment at which that was known

    So a row waits for the events of whoever it belongs to: a merge brings it those of the other entity, also those that
    came between the row and the merge, and a split takes away those to come. An event of the row's own moment is none
    of its outcome, one at the horizon is. A row is told once, with the columns that it had and the entity of its own
    moment; what was told stays, whatever splits later. That nothing came is told by the watermark alone, once it is
    above the horizon; event time from there on is the moment of `<into>_at`. Late rows go to `.late`.

    For a model: `sp.learn(..., labels=outcomes, on="order_id", label="returned", horizon=within)`; so for `sp.bandit`
    and `sp.abstain`. What waits for a label there waits under its own id, which no merge changes.

    Memory: by entity 180 bytes and the id for a row that waits, 72 for an event, each for `within`, and the ids of
    entities and leaves; by id the row's columns that are read further down, until the horizon, and the id for `within`
    more.
    Raises DefinitionError.

    >>> told = outcomes(Stream(None), Stream(None), within="14d", on="order_id", into="returned")
    >>> told.origin.verb, told.inputs[0].origin.verb
    ('drop', 'with_columns')
    """
    ids = (on,) if isinstance(on, str) else tuple(on)
    span = span_us(within)
    for stream in (rows, events):
        if not isinstance(stream, Stream):
            raise DefinitionError(
                f"sp.outcomes takes two streams, not {type(stream).__name__}",
                hint="sp.outcomes(orders, returns, within='14d', on='order_id', into='returned')",
            )
    if span <= 0:
        raise DefinitionError(f"'outcomes' waits {within}", hint="spans are above zero")
    if not ids:
        raise DefinitionError("'outcomes' needs the columns that name a row", hint="on='order_id'")

    def called(part: str) -> str:
        return f"{name}_{part}" if name else ""

    telling = Outcomes(ids, span, into)
    at = telling.at
    met = (
        rows
        | Step(telling, (events,), name)
        | key_by(*ids, name=called("met"))
        | ordered(*ids, name=called("met_in_order"))
    )
    horizon = (pl.col(HAPPENED) + span).cast(_MOMENT)
    return (
        rows
        | Step(Happened((pl.col(STEP) == pl.lit("row", STEPS),)), name=called("happened"))
        | drop(STEP, EPOCH, name=called("waiting"))
        | key_by(*ids, name=called("by_id"))
        | ordered(*ids, name=called("in_order"))
        | pairs_within(met, before="0s", after=within, how="left", name=called("met_or_not"))
        | dedupe(*ids, within=within, name=called("once"))
        | with_columns(
            name=called("told"), **{into: pl.col(at).is_not_null(), at: pl.coalesce(pl.col(at), horizon)}
        )
        | drop(HAPPENED, name=called("of_rows"))
    )  # fmt: skip


def _require_followed(step: str, stream: StreamType, whose: str) -> None:
    if not is_followed(stream.schema):
        raise DefinitionError(
            f"step '{step}' follows entities, and its {whose} do not say where leaves come and go",
            hint="sp.follow(links, keep=...) | sp.key_by('entity') before it, on both sides; where nothing merges: "
            "labels=sp.outcome(events, within=...)",
        )


def _told(state: OutcomesState, batch: Batch, numbers: Int64s, kind: int) -> Int64s:
    """What a batch tells, as `meet` takes it."""
    assert batch.keys is not None, "the plan gives both sides a key"
    frame = batch.frame
    return np.stack((
        state.entities.intern(batch.keys), state.leaves.keys.intern(value_keys(frame.get_column(LEAF))),
        frame.get_column(EPOCH).to_numpy(), frame.get_column(HAPPENED).to_numpy(), numbers,
        np.full(len(batch), kind, np.int64), frame.get_column(STEP).to_physical().to_numpy().astype(np.int64),
        np.ascontiguousarray(batch.event_time),
    ), axis=1)  # fmt: skip


def _own_coordinates(meta: Int64s, rank: int, of_row: Int64s, moments: Int64s) -> None:
    meta[:, C0], meta[:, C1], meta[:, C2], meta[:, C3] = rank << 32, of_row, moments, 0
    meta[:, ACCOUNT] = -1


def _positions(batch: Batch) -> Int64s:
    return np.ascontiguousarray(batch.meta[:, ROW : RANK + 1])
