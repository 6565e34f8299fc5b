"""Look-back windows: each row with aggregates over the rows of its key in the span before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeVar

import numpy as np
import polars as pl

from streamproc.batch import C0, C1, C2, C3, EVENT_TIME, WATERMARK, Batch
from streamproc.columns import grow, next_rows
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, StreamprocError
from streamproc.graph import Step
from streamproc.hashing import frozen
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.accumulators import Reading
from streamproc.operators.aggregates import NO_SPAN, Aggregate, Finish, plan_aggregates
from streamproc.operators.deadlines import NEVER, blocks_of, set_deadlines, take_due
from streamproc.operators.event_lists import drop_keys, look_back
from streamproc.operators.event_records import (
    COORDINATE,
    NEWEST,
    PLACE,
    SPANS,
    TIME,
    Results,
    Rows,
    Saved,
    Store,
    Wants,
    room_for_walks,
)
from streamproc.operators.exact import PARTS, ExactSums, exact_sums
from streamproc.operators.inputs import Inputs
from streamproc.operators.lateness import split_late
from streamproc.operators.moments import scratch
from streamproc.operators.wide_sums import LIMBS
from streamproc.ports import Int64s
from streamproc.state import KeyTable

_VALUES_AT_MOST: Final = 62
"""Each value has a bit in a word that says whether it is null."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LookbackPlan:
    """What a look-back computes, as the kernel takes it, and how its results become columns.

    values   (form, column, word) of each value that an event keeps
    placed   whether events keep their coordinate
    columns  per aggregate: its field, how to take its reading from the results, how that becomes a column
    """

    wants: Wants
    values: tuple[tuple[str, str, int], ...]
    placed: bool
    columns: tuple[tuple[Field, Callable[[Results], Reading], Finish], ...]

    @property
    def event_words(self) -> int:
        """Words of an event."""
        extremes: int = self.wants.extremes.shape[0]
        return int(self.wants.words[1]) + 2 * extremes

    @property
    def key_words(self) -> int:
        """Words of a key."""
        wides: int = self.wants.wides.shape[0]
        return int(self.wants.words[4]) + 2 * wides


class _Wanted:
    """Collects what the aggregates of a look-back need, each thing once."""

    __slots__ = ("counts", "edges", "extremes", "spans", "sums", "values", "variances", "wides")

    def __init__(self) -> None:
        self.spans: list[int] = []
        self.values: list[tuple[str, str, int]] = []
        self.counts: list[tuple[int, ...]] = []
        self.sums: list[tuple[int, ...]] = []
        self.wides: list[tuple[int, ...]] = []
        self.extremes: list[tuple[int, ...]] = []
        self.edges: list[tuple[int, ...]] = []
        self.variances: list[tuple[int, ...]] = []

    def value(self, form: str, column: str, word: int = 0) -> int:
        return _place(self.values, (form, column, word))

    def reader(self, kind: str, form: str, column: str, span_us: int) -> Callable[[Results], Reading]:
        """How the reading of one aggregate is taken from the kernel's results."""
        span = _place(self.spans, span_us)
        if kind == "count":
            c = _place(self.counts, (span, self.value("valid", column) if column else -1))
            return lambda out: (out.counts[:, c].copy(),)
        if kind in ("min", "max"):
            m = _place(self.extremes, (span, self.value("codes", column), -1 if kind == "min" else 0))
            return lambda out: (out.extremes[:, m].copy(), out.has[:, m].copy())
        if kind in ("first", "last"):
            e = _place(self.edges, (span, self.value("codes", column), int(kind == "last")))
            return lambda out: (out.edges[:, e].copy(), out.has[:, out.extremes.shape[1] + e].copy())
        if kind == "total" and form == "wide":
            low, high = self.value("wide", column), self.value("wide", column, 1)
            c, w = _place(self.counts, (span, low)), _place(self.wides, (span, low, high))
            return lambda out: (out.wides[:, 2 * w].copy(), out.wides[:, 2 * w + 1].copy(), out.counts[:, c].copy())
        value = self.value("floats", column)
        c, f = _place(self.counts, (span, value)), _place(self.sums, (span, value, 0))
        if kind == "total":
            return lambda out: (out.sums[:, f].copy(), out.counts[:, c].copy())
        v = _place(self.variances, (f, _place(self.sums, (span, value, 1)), c))
        return lambda out: (out.variances[:, v].copy(), out.counts[:, c].copy())

    def wants(self) -> Wants:
        placed = COORDINATE if self.edges else 0
        first_extreme = PLACE + placed + len(self.values)
        key_counts = SPANS + len(self.spans) + 2 * len(self.extremes)
        words = [PLACE + placed, first_extreme, SPANS + len(self.spans), key_counts, key_counts + len(self.counts)]
        return Wants(
            frozen(np.array(self.spans, np.int64)), _table(self.counts, 2), _table(self.sums, 3),
            _table(self.wides, 3), _table(self.extremes, 3), _table(self.edges, 3), _table(self.variances, 3),
            frozen(np.array(words, np.int64)),
        )  # fmt: skip


def _place(known: list[T], thing: T) -> int:
    if thing not in known:
        known.append(thing)
    return known.index(thing)


def _table(rows: list[tuple[int, ...]], width: int) -> Int64s:
    return frozen(np.array(rows, np.int64).reshape(-1, width))


def plan_lookback(aggregates: Mapping[str, Aggregate], schema: Schema, *, step: str) -> LookbackPlan:
    """The plan of a look-back; raises DefinitionError for an aggregate without a span, or one that cannot look back."""
    wanted = _Wanted()
    columns = []
    for name, aggregate in aggregates.items():
        plan = plan_aggregates({name: aggregate}, schema, step=step)
        if aggregate.span_us == NO_SPAN:
            raise DefinitionError(
                f"step '{step}': {name}={aggregate} has no span", hint=f"write for example {aggregate}.over('1h')"
            )
        part, computed = plan.parts[0], plan.computed[0]
        known = part.kind in ("count", "total", "var", "min", "max", "first", "last")
        if not known or part.form in ("keys", "placed keys"):
            raise DefinitionError(
                f"step '{step}': {aggregate} cannot look back row by row",
                hint="compute it in a window, for example tumbling",
            )
        reader = wanted.reader(part.kind, part.form, part.column, aggregate.span_us)
        columns.append((computed.field, reader, computed.finish))
    if len(wanted.values) > _VALUES_AT_MOST:
        raise DefinitionError(
            f"step '{step}' aggregates {len(wanted.values)} columns",
            hint=f"use several steps of at most {_VALUES_AT_MOST}",
        )
    return LookbackPlan(wanted.wants(), tuple(wanted.values), bool(wanted.edges), tuple(columns))


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
    key_words, events, free, counters  see `event_lists.Store`
    sums       exact sums, those of key slot k at k * (sums per key)
    deadlines, minima  when a key's last event can go, see `deadlines`
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
        plan = self._plan(columns)
        none = np.zeros(0, np.int64)
        return LookbackState(
            columns, KeyTable(), np.zeros((0, plan.key_words), np.int64), np.zeros((0, plan.event_words), np.int64),
            none, np.zeros(2, np.int64), exact_sums(), none.copy(), none.copy(),
        )  # fmt: skip

    def _plan(self, columns: pl.DataFrame) -> LookbackPlan:
        return _planned(tuple(columns.schema.items()), self.aggregates, self.verb)

    def process(self, state: LookbackState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[LookbackState, Output]:
        """Gives each row in time its aggregates; late rows go to the late stream."""
        batch, late = split_late(inputs[0])
        plan = self._plan(state.columns)
        values = self._take_in(state, plan, batch)
        if time.end is not None:
            due = take_due(state.deadlines, state.minima, state.keys.used, time.end + 1)
            if due.size:
                drop_keys(plan.wants, _store(state), state.sums.arrays(), due)
                state.keys.release(due)
        return state, Output(batch.with_frame(batch.frame.with_columns(values)), late)

    def _take_in(self, state: LookbackState, plan: LookbackPlan, batch: Batch) -> list[pl.Series]:
        assert batch.keys is not None  # the plan lets only keyed streams in
        wants, n = plan.wants, len(batch)
        slots = state.keys.intern(batch.keys)
        _make_room(state, plan, n)
        meta = batch.meta
        valid, words = _event_values(plan, batch)
        rows = Rows(slots, meta[:, EVENT_TIME].copy(), meta[:, WATERMARK].copy(), valid, words)
        sums = wants.sums.shape[0]
        saved = Saved(
            np.empty(plan.key_words, np.int64), np.empty((sums, PARTS + 1)),
            np.empty((sums, LIMBS), np.int64), np.empty((sums, 4), np.int64),
        )  # fmt: skip
        out = Results(
            np.zeros((n, wants.counts.shape[0]), np.int64), np.zeros((n, wants.sums.shape[0])),
            np.zeros((n, 2 * wants.wides.shape[0]), np.int64), np.zeros((n, wants.extremes.shape[0]), np.int64),
            np.zeros((n, wants.edges.shape[0]), np.int64), np.zeros((n, wants.variances.shape[0])),
            np.zeros((n, wants.extremes.shape[0] + wants.edges.shape[0]), np.uint8), *scratch(), saved,
            room_for_walks(wants.spans.size),
        )  # fmt: skip
        at = 0
        while (at := look_back(wants, _store(state), state.sums.arrays(), rows, out, at)) < n:
            if at < 0:
                raise StreamprocError(f"step '{self.verb}': a total exceeds 128 bits", hint="aggregate it as Float64")
            state.sums.grow_pool()
        if n:
            newest = state.events[state.key_words[slots, NEWEST], TIME]
            set_deadlines(state.deadlines, state.minima, slots, newest + int(wants.spans.max()))
        return [finish(field.name, read(out)) for field, read, finish in plan.columns]


def _store(state: LookbackState) -> Store:
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


def _event_values(plan: LookbackPlan, batch: Batch) -> tuple[Int64s, Int64s]:
    """Per row, which values are not null, as bits, and the words that an event keeps."""
    inputs = Inputs(batch)
    valid = np.zeros(len(batch), np.int64)
    words = np.empty((len(batch), len(plan.values) + (COORDINATE if plan.placed else 0)), np.int64)
    at = 0
    if plan.placed:
        words[:, :COORDINATE] = batch.meta[:, [C0, C1, C2, C3]]
        at = COORDINATE
    for bit, (form, column, word) in enumerate(plan.values):
        arrays = inputs.form(form, column)
        valid |= arrays[-1].astype(np.int64) << bit
        words[:, at + bit] = arrays[word].view(np.int64) if arrays[word].dtype.itemsize == 8 else arrays[word]
    return valid, words


def lookback(*, name: str = "", **aggregates: Aggregate) -> Step:
    """Each row, with aggregates over the rows of its key in the last span before it, itself included.

    For a row at event time t, `total("amount").over("1h")` covers the rows of its key with event time in (t - 1h, t]
    that came before it, so nothing that arrives later changes what was said. Aggregates may have different spans.
    Needs a keyed stream; late rows go to the late stream. Rows keep their order, position and coordinate.
    Takes count, total, mean, var, min, max, first and last.
    Cost: one event kept per row for the longest span; a row in order costs O(1), one out of order as much as the
    disorder around it (extremes: the window's length).
    Raises DefinitionError without an aggregate, or for one without `.over(span)`.

    >>> from streamproc.operators.aggregates import count, total
    >>> lookback(orders_1h=count().over("1h"), spend_7d=total("amount").over("7d")).operator.verb
    'lookback'
    """
    if not aggregates:
        raise DefinitionError("lookback: no aggregate", hint="give at least one, for example sp.count().over('1h')")
    return Step(Lookback("lookback", tuple(aggregates.items())), (), name)
