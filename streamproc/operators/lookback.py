"""Look-back windows: each row with aggregates over the rows of its key in the span before it.

This is the inside of `features`: it computes; what stands where there is no value is said there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.batch import C0, C1, C2, C3, EVENT_TIME, WATERMARK, Batch, Keys
from streamproc.columns import grow, next_rows
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, StreamprocError
from streamproc.event_time import MIN_TIME
from streamproc.graph import Step
from streamproc.hashing import frozen
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.aggregates import Aggregate
from streamproc.operators.deadlines import NEVER, blocks_of, set_deadlines, take_due
from streamproc.operators.event_lists import drop_keys, look_back
from streamproc.operators.event_records import (
    COORDINATE,
    EDGE_BASE,
    LAST,
    NEWEST,
    TIME,
    VALID,
    Results,
    Rows,
    Saved,
    Store,
    room_for_walks,
)
from streamproc.operators.exact import PARTS, ExactSums, exact_sums
from streamproc.operators.inputs import Inputs
from streamproc.operators.lateness import split_late
from streamproc.operators.lookback_plan import TEXT, LookbackPlan, plan_lookback
from streamproc.operators.moments import scratch
from streamproc.operators.value_table import ValueTable
from streamproc.operators.wide_sums import LIMBS
from streamproc.operators.window_scans import (
    Room,
    scan_sums,
)
from streamproc.ports import Int64s
from streamproc.state import KeyTable


@lru_cache(maxsize=256)
def _planned(
    columns: tuple[tuple[str, pl.DataType], ...], aggregates: tuple[tuple[str, Aggregate], ...], step: str
) -> LookbackPlan:
    schema = Schema(tuple(Field(name, dtype, True) for name, dtype in columns))
    return plan_lookback(dict(aggregates), schema, step=step)


@dataclass(slots=True)
class LookbackState:
    """Events that a later row may still look back on.

    columns    a frame without rows: the columns under the aggregates
    keys       the keys that have events
    key_words, events, free, counters  see `event_records.Store`
    sums       exact sums, those of key slot k at k * (sums per key)
    deadlines, minima  when a key's last event can go, see `deadlines`
    texts      texts that events hold
    """

    columns: pl.DataFrame
    keys: KeyTable
    key_words: Int64s
    events: Int64s
    free: Int64s
    counters: Int64s
    sums: ExactSums
    deadlines: Int64s
    minima: Int64s
    texts: ValueTable


def open_lookback(plan: LookbackPlan, columns: pl.DataFrame) -> LookbackState:
    """No event yet."""
    none = np.zeros(0, np.int64)
    return LookbackState(
        columns, KeyTable(), np.zeros((0, plan.key_words), np.int64), np.zeros((0, plan.event_words), np.int64),
        none, np.zeros(2, np.int64), exact_sums(), none.copy(), none.copy(), ValueTable(),
    )  # fmt: skip


def take_in(
    state: LookbackState, plan: LookbackPlan, batch: Batch, *, step: str, keep_us: int = 0, unread: int = 0
) -> tuple[Results, Int64s]:
    """Takes the rows in one by one, and gives what each sees, and the slots of their keys.

    keep_us  how long a key's slot is needed after its newest row, where that is longer than the longest span
    unread   so many rows at the beginning nobody asks about: the results are those of the rows after them
    """
    assert batch.keys is not None  # the plan lets only keyed streams in
    wants, n = plan.wants, len(batch)
    slots = state.keys.intern(batch.keys)
    _make_room(state, plan, n)
    meta = batch.meta
    valid, words = _event_values(state, plan, batch)
    rows = Rows(slots, meta[:, EVENT_TIME].copy(), meta[:, WATERMARK].copy(), valid, words)
    sums = wants.sums.shape[0]
    saved = Saved(
        np.empty(plan.key_words, np.int64), np.empty((sums, PARTS + 1)),
        np.empty((sums, LIMBS), np.int64), np.empty((sums, 4), np.int64),
    )  # fmt: skip
    read = n - unread
    out = Results(
        np.zeros((read, wants.counts.shape[0]), np.int64), np.zeros((read, wants.sums.shape[0])),
        np.zeros((read, 2 * wants.wides.shape[0]), np.int64), np.zeros((read, wants.extremes.shape[0]), np.int64),
        np.zeros((read, wants.edges.shape[0]), np.int64), np.zeros((read, wants.variances.shape[0])),
        np.zeros((read, wants.extremes.shape[0] + wants.edges.shape[0]), np.uint8),
        np.zeros((read, plan.scan_words), np.int64), np.full(read, MIN_TIME, np.int64), *scratch(), saved,
        room_for_walks(wants.spans.size),
    )  # fmt: skip
    texts = state.texts.keys.arrays
    heavy = wants.scans.size or wants.variances.size
    room = None if not heavy else Room(
        np.empty(state.events.shape[0] if wants.scans.size else 0, np.int64), scan_sums(), frozen(texts.arena),
        frozen(texts.records),
    )  # fmt: skip
    at = 0
    while (at := look_back(wants, store_of(state), state.sums.arrays(), rows, out, room, at)) < n:
        if at < 0:
            raise StreamprocError(f"step '{step}': a total exceeds 128 bits", hint="aggregate it as Float64")
        state.sums.grow_pool()
    if n and plan.longest is not None:
        newest = state.events[state.key_words[slots, NEWEST], TIME]
        set_deadlines(state.deadlines, state.minima, slots, newest + max(plan.longest, keep_us))
    return out, slots[unread:]


def forget(state: LookbackState, plan: LookbackPlan, end: int | None) -> Int64s:
    """Frees what no row in time can look back on, once the watermark is at `end`; gives the slots of the keys."""
    due = take_due(state.deadlines, state.minima, state.keys.used, end + 1) if end is not None else _NONE
    if due.size:
        drop_keys(plan.wants, store_of(state), state.sums.arrays(), due)
        state.keys.release(due)
    return due


_NONE: Final = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Lookback:
    """The operator of `lookback`."""

    verb: str
    aggregates: tuple[tuple[str, Aggregate], ...]

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns, then one per aggregate."""
        stream = inputs[0]
        stream.require_key(self.verb)
        plan = plan_lookback(dict(self.aggregates), stream.schema, step=self.verb)
        for name, _ in self.aggregates:
            if name in stream.schema:
                raise DuplicateName(
                    f"step '{self.verb}': the input already has a column '{name}'", hint="choose another name"
                )
        return replace(stream, schema=Schema((*stream.schema.fields, *(field for field, _, _ in plan.columns))))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and the columns under the aggregates."""
        under = [aggregate.column for _, aggregate in self.aggregates if aggregate.column]
        return (passes_through(needed, under, [name for name, _ in self.aggregates]),)

    def open(self, *inputs: StreamType) -> LookbackState:
        """No event yet."""
        names = dict.fromkeys(aggregate.column for _, aggregate in self.aggregates if aggregate.column)
        columns = pl.DataFrame(schema={name: inputs[0].schema[name].dtype for name in names})
        return open_lookback(self._plan(columns), columns)

    def _plan(self, columns: pl.DataFrame) -> LookbackPlan:
        return _planned(tuple(columns.schema.items()), self.aggregates, self.verb)

    def process(self, state: LookbackState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[LookbackState, Output]:
        """Gives each row in time its aggregates; late rows go to the late stream."""
        batch, late = split_late(inputs[0])
        plan = self._plan(state.columns)
        out, _ = take_in(state, plan, batch, step=self.verb)
        values = [finish(field.name, read(out, state.texts)) for field, read, finish in plan.columns]
        forget(state, plan, time.end)
        return state, Output(batch.with_frame(batch.frame.with_columns(values)), late)


def store_of(state: LookbackState) -> Store:
    """The events and keys of a state, as kernels take them."""
    return Store(state.events, state.key_words, state.free, state.counters)


def _make_room(state: LookbackState, plan: LookbackPlan, rows: int) -> None:
    capacity, old = state.keys.capacity, state.key_words.shape[0]
    if capacity > old:
        state.key_words = grow(state.key_words, capacity)
        state.key_words[old:, : plan.wants.words[3]] = -1
        state.sums.grow(capacity * plan.wants.sums.shape[0])
        state.deadlines = grow(state.deadlines, capacity, fill=NEVER)
        state.minima = grow(state.minima, blocks_of(capacity), fill=NEVER)
    need = int(state.counters[1]) + max(0, rows - int(state.counters[0]))
    if need > state.free.size:
        room = next_rows(state.free.size, need)
        state.events, state.free = grow(state.events, room), grow(state.free, room)


def _event_values(state: LookbackState, plan: LookbackPlan, batch: Batch) -> tuple[Int64s, Int64s]:
    """Per row, which values are not null, as bits, and the words that an event keeps."""
    inputs = Inputs(batch)
    if plan.texts() and state.texts.crowded():
        state.texts.sweep(_texts_held(state, plan))
    valid = np.zeros(len(batch), np.int64)
    words = np.empty((len(batch), len(plan.values) + (COORDINATE if plan.placed else 0)), np.int64)
    at = 0
    if plan.placed:
        words[:, :COORDINATE] = batch.meta[:, [C0, C1, C2, C3]]
        at = COORDINATE
    for bit, (form, column, word) in enumerate(plan.values):
        if form == TEXT:
            buffer, starts, ends, hashes, flags = inputs.form("keys", column)
            codes: Any = state.texts.keys.intern(Keys(buffer, starts, ends, hashes))
        else:
            arrays = inputs.form(form, column)
            codes, flags = arrays[word], arrays[-1]
        valid |= flags.astype(np.int64) << bit
        words[:, at + bit] = codes.view(np.int64) if codes.dtype.itemsize == 8 else codes
    return valid, words


def _texts_held(state: LookbackState, plan: LookbackPlan) -> Int64s:
    """Codes of the texts of all events, and of the memories of first and last."""
    used = np.ones(int(state.counters[1]), np.bool_)
    used[state.free[: int(state.counters[0])]] = False
    events = np.flatnonzero(used)
    held = []
    for value in plan.texts():
        some = events[(state.events[events, VALID] >> value) & 1 == 1]
        held.append(state.events[some, int(plan.wants.words[0]) + value])
        for e, (_, known, mode) in enumerate(plan.wants.edges):
            if known == value and mode <= LAST:
                base = int(plan.wants.words[6]) + EDGE_BASE * e
                remembered = np.flatnonzero(state.key_words[:, base])
                held.append(state.key_words[remembered, base + EDGE_BASE - 1])
    return np.concatenate(held)


def lookback(*, name: str = "", **aggregates: Aggregate) -> Step:
    """Each row with aggregates over the rows of its key in the last span before it: what `features` rests on.

    Without its filters, statuses and sources; a NaN counts as a value here.
    Raises DefinitionError without an aggregate, or for one without `.over(span)`.

    >>> from streamproc.operators.aggregates import count, total
    >>> lookback(orders_1h=count().over("1h"), spend_7d=total("amount").over("7d")).operator.verb
    'lookback'
    """
    if not aggregates:
        raise DefinitionError("lookback: no aggregate", hint="give at least one, for example sp.count().over('1h')")
    return Step(Lookback("lookback", tuple(aggregates.items())), (), name)
