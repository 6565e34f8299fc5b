"""Look-back windows: each row with aggregates over the rows of its key in the span before it.

This is the inside of `features`: it computes; what stands where there is no value is said there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

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
from streamproc.operators.accumulators import Reading
from streamproc.operators.aggregates import NO_SPAN, Aggregate, Finish, bind_aggregate
from streamproc.operators.deadlines import NEVER, blocks_of, set_deadlines, take_due
from streamproc.operators.event_lists import drop_keys, look_back
from streamproc.operators.event_records import (
    BEFORE_ROW,
    BOUND,
    COORDINATE,
    EDGE_BASE,
    EVER,
    EXTREME_BASE,
    FIRST,
    LAST,
    NEWEST,
    PLACE,
    SPANS,
    TIME,
    UP_TO_ROW,
    VALID,
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
from streamproc.operators.value_table import ValueTable
from streamproc.operators.values import Flags
from streamproc.operators.wide_sums import LIMBS
from streamproc.operators.window_scans import (
    DISTINCT,
    EWMA,
    QUANTILE,
    TOP_K,
    TOP_K_OF_TEXT,
    TREND,
    Room,
    scan_sums,
    scan_words,
)
from streamproc.ports import Int64s
from streamproc.state import KeyTable

_VALUES_AT_MOST: Final = 62
"""Each value has a bit in a word that says whether it is null."""
EVENTS_AT_MOST: Final = 1_000_000
"""Events that a key keeps, where nothing else is said."""
_SCANS: Final = {"quantile": QUANTILE, "ewma": EWMA, "trend": TREND}
TEXT: Final = "text"
"""The form of values that are interned."""

T = TypeVar("T")
Reader = Callable[[Results, ValueTable], Reading]


@dataclass(frozen=True, slots=True)
class LookbackPlan:
    """What a look-back computes, as the kernel takes it, and how its results become columns.

    values   (form, column, word) of each value that an event keeps
    placed   whether events keep their coordinate
    columns  per aggregate: its field, how to take its reading from the results, how that becomes a column
    newest   per aggregate, the place in `wants.edges` of the event time of the newest row that counts, -1 without
    """

    wants: Wants
    values: tuple[tuple[str, str, int], ...]
    placed: bool
    columns: tuple[tuple[Field, Reader, Finish], ...]
    newest: tuple[int, ...] = ()

    @property
    def event_words(self) -> int:
        """Words of an event."""
        extremes: int = self.wants.extremes.shape[0]
        return int(self.wants.words[1]) + 2 * extremes

    @property
    def key_words(self) -> int:
        """Words of a key."""
        return int(self.wants.words[7]) + BOUND

    @property
    def scan_words(self) -> int:
        """Words of all scans' results."""
        scans = self.wants.scans
        return int(scans[-1, 3]) + scan_words(int(scans[-1, 2]), int(scans[-1, 4])) if scans.size else 0

    @property
    def longest(self) -> int | None:
        """The longest span, or None where a window has no begin: then nothing of a key may be forgotten."""
        longest = int(self.wants.spans.max())
        return None if longest >= EVER else longest

    def texts(self) -> list[int]:
        """Values that are codes of interned text."""
        return [place for place, (form, _, _) in enumerate(self.values) if form == TEXT]


class _Wanted:
    """Collects what the aggregates of a look-back need, each thing once."""

    __slots__ = ("amounts", "counts", "edges", "extremes", "scans", "spans", "sums", "values", "variances", "wides")

    def __init__(self) -> None:
        self.spans: list[int] = []
        self.values: list[tuple[str, str, int]] = []
        self.counts: list[tuple[int, ...]] = []
        self.sums: list[tuple[int, ...]] = []
        self.wides: list[tuple[int, ...]] = []
        self.extremes: list[tuple[int, ...]] = []
        self.edges: list[tuple[int, ...]] = []
        self.variances: list[tuple[int, ...]] = []
        self.scans: list[tuple[int, ...]] = []
        self.amounts: list[float] = []

    def value(self, form: str, column: str, word: int = 0) -> int:
        return _place(self.values, (form, column, word))

    def reader(self, kind: str, form: str, column: str, aggregate: Aggregate) -> Reader:
        """How the reading of one aggregate is taken from the kernel's results."""
        span = _place(self.spans, aggregate.span_us)
        text = form in ("keys", "placed keys")
        if kind == "count":
            c = _place(self.counts, (span, self.value("valid", column) if column else -1))
            return lambda out, _: (out.counts[:, c].copy(),)
        if kind in ("min", "max"):
            m = _place(self.extremes, (span, self.value("codes", column), -1 if kind == "min" else 0))
            return lambda out, _: (out.extremes[:, m].copy(), out.has[:, m].copy())
        if kind in ("first", "last"):
            value = self.value(TEXT if text else "codes", column)
            return self._edge(span, value, FIRST if kind == "first" else LAST, text=text)
        if kind == "time_since_last":
            return self._edge(span, self.value("valid", column) if column else -1, BEFORE_ROW, text=False)
        if kind in _SCANS:
            form = "codes of floats" if kind == "quantile" else "floats"
            return self._floats(self._scan(span, self.value(form, column), _SCANS[kind], amount=aggregate.amount))
        if kind.startswith("tally"):
            value = self.value(TEXT if text else "labels", column)
            if not aggregate.k:
                at = self._scan(span, value, DISTINCT)
                return lambda out, _: (out.scans[:, at].copy(),)
            return _top_k(self._scan(span, value, TOP_K_OF_TEXT if text else TOP_K, k=aggregate.k), aggregate.k, text)
        if kind == "total" and form == "wide":
            low, high = self.value("wide", column), self.value("wide", column, 1)
            c, w = _place(self.counts, (span, low)), _place(self.wides, (span, low, high))
            return lambda out, _: (out.wides[:, 2 * w].copy(), out.wides[:, 2 * w + 1].copy(), out.counts[:, c].copy())
        value = self.value("floats", column)
        c, f = _place(self.counts, (span, value)), _place(self.sums, (span, value, 0))
        if kind == "total":
            return lambda out, _: (out.sums[:, f].copy(), out.counts[:, c].copy())
        v = _place(self.variances, (f, _place(self.sums, (span, value, 1)), c))
        return lambda out, _: (out.variances[:, v].copy(), out.counts[:, c].copy())

    def newest(self, column: str, span_us: int) -> int:
        """The place of the event time of the newest row with a value in the column."""
        known = [place for place, (_, name, _) in enumerate(self.values) if name == column]
        value = (known[0] if known else self.value("valid", column)) if column else -1
        return _place(self.edges, (_place(self.spans, span_us), value, UP_TO_ROW))

    def _edge(self, span: int, value: int, mode: int, *, text: bool) -> Reader:
        e = _place(self.edges, (span, value, mode))

        def read(out: Results, texts: ValueTable) -> Reading:
            codes, has = out.edges[:, e].copy(), out.has[:, out.extremes.shape[1] + e].copy()
            return _spelled(texts, codes, has) if text else (codes, has)

        return read

    def _scan(self, span: int, value: int, kind: int, *, k: int = 0, amount: float = 0.0) -> int:
        """The first word of a scan's result."""
        for (known_span, known_value, known_kind, at, known_k), known in zip(self.scans, self.amounts, strict=True):
            if (known_span, known_value, known_kind, known_k, known) == (span, value, kind, k, amount):
                return at
        at = self.scans[-1][3] + scan_words(self.scans[-1][2], self.scans[-1][4]) if self.scans else 0
        self.scans.append((span, value, kind, at, k))
        self.amounts.append(amount)
        return at

    def _floats(self, at: int) -> Reader:
        return lambda out, _: (out.scans[:, at].copy().view(np.float64), out.scans[:, at + 1].copy())

    def wants(self, events_at_most: int) -> Wants:
        placed = COORDINATE if self.placed else 0
        first_extreme = PLACE + placed + len(self.values)
        key_counts = SPANS + len(self.spans) + 2 * len(self.extremes)
        wides = key_counts + len(self.counts)
        bases = wides + 2 * len(self.wides)
        edge_bases = bases + EXTREME_BASE * len(self.extremes)
        words = [
            PLACE + placed, first_extreme, SPANS + len(self.spans), key_counts, wides, bases, edge_bases,
            edge_bases + EDGE_BASE * len(self.edges), events_at_most,
        ]  # fmt: skip
        return Wants(
            frozen(np.array(self.spans, np.int64)), _table(self.counts, 2), _table(self.sums, 3),
            _table(self.wides, 3), _table(self.extremes, 3), _table(self.edges, 3), _table(self.variances, 3),
            _table(self.scans, 5), frozen(np.array(words, np.int64)), frozen(np.array(self.amounts, np.float64)),
        )  # fmt: skip

    @property
    def placed(self) -> bool:
        """Whether events keep their coordinate: first and last go by it."""
        return any(mode <= LAST for _, _, mode in self.edges)


def _top_k(at: int, k: int, text: bool) -> Reader:
    def read(out: Results, texts: ValueTable) -> Reading:
        found = out.scans[:, at].copy()
        inside = (np.arange(k) < found[:, None]).reshape(-1)
        pairs = np.ascontiguousarray(out.scans[:, at + 1 : at + 1 + 2 * k]).reshape(-1, 2)[inside]
        codes, counts = pairs[:, 0].copy(), pairs[:, 1].copy()
        if not text:
            return found, codes, counts
        return found, counts, *_spelled(texts, codes, np.ones(codes.size, np.uint8))

    return read


def _spelled(texts: ValueTable, codes: Int64s, has: Flags) -> Reading:
    """Codes as their bytes: (buffer, starts, ends, present)."""
    some = np.flatnonzero(has)
    keys = texts.keys.key_bytes(codes[some])
    starts, ends = np.zeros(codes.size, np.int64), np.zeros(codes.size, np.int64)
    starts[some], ends[some] = keys.starts, keys.ends
    return keys.buffer, starts, ends, has


def _place(known: list[T], thing: T) -> int:
    if thing not in known:
        known.append(thing)
    return known.index(thing)


def _table(rows: list[tuple[int, ...]], width: int) -> Int64s:
    return frozen(np.array(rows, np.int64).reshape(-1, width))


def plan_lookback(
    aggregates: Mapping[str, Aggregate],
    schema: Schema,
    *,
    step: str,
    events_at_most: int = EVENTS_AT_MOST,
    aged: Collection[str] = (),
) -> LookbackPlan:
    """The plan of a look-back; raises DefinitionError for an aggregate without a span, or one that cannot look back.

    aged  aggregates whose newest row is wanted too
    """
    wanted = _Wanted()
    columns, newest = [], []
    for name, aggregate in aggregates.items():
        if aggregate.span_us == NO_SPAN:
            raise DefinitionError(
                f"step '{step}': {name}={aggregate} has no span", hint=f"write for example {aggregate}.over('1h')"
            )
        field, part, finish = bind_aggregate(aggregate, schema, step=step)
        if part.kind == "registers" or (part.kind in ("min", "max") and part.form == "keys"):
            raise DefinitionError(
                f"step '{step}': {aggregate} cannot look back row by row",
                hint="compute it in a window, for example tumbling",
            )
        if aggregate.span_us >= EVER and (part.kind in _SCANS or part.kind.startswith("tally")):
            raise DefinitionError(
                f"step '{step}': {name}={aggregate} needs the events themselves, and would keep all there ever were",
                hint=f"give it a span: {aggregate}.over('30d')",
            )
        columns.append((field.renamed(name), wanted.reader(part.kind, part.form, part.column, aggregate), finish))
        newest.append(wanted.newest(aggregate.column, aggregate.span_us) if name in aged else -1)
    if len(wanted.values) > _VALUES_AT_MOST:
        raise DefinitionError(
            f"step '{step}' aggregates {len(wanted.values)} columns",
            hint=f"use several steps of at most {_VALUES_AT_MOST}",
        )
    return LookbackPlan(
        wanted.wants(events_at_most), tuple(wanted.values), wanted.placed, tuple(columns), tuple(newest)
    )


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
    state: LookbackState, plan: LookbackPlan, batch: Batch, *, step: str, keep_us: int = 0
) -> tuple[Results, Int64s]:
    """Takes the rows in one by one, and gives what each sees, and the slots of their keys.

    keep_us  how long a key's slot is needed after its newest row, where that is longer than the longest span
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
    out = Results(
        np.zeros((n, wants.counts.shape[0]), np.int64), np.zeros((n, wants.sums.shape[0])),
        np.zeros((n, 2 * wants.wides.shape[0]), np.int64), np.zeros((n, wants.extremes.shape[0]), np.int64),
        np.zeros((n, wants.edges.shape[0]), np.int64), np.zeros((n, wants.variances.shape[0])),
        np.zeros((n, wants.extremes.shape[0] + wants.edges.shape[0]), np.uint8),
        np.zeros((n, plan.scan_words), np.int64), np.full(n, MIN_TIME, np.int64), *scratch(), saved,
        room_for_walks(wants.spans.size),
    )  # fmt: skip
    texts = state.texts.keys.arrays
    room = Room(
        np.empty(state.events.shape[0] if wants.scans.size else 0, np.int64), scan_sums(), frozen(texts.arena),
        frozen(texts.records),
    )  # fmt: skip
    at = 0
    while (at := look_back(wants, _store(state), state.sums.arrays(), rows, out, room, at)) < n:
        if at < 0:
            raise StreamprocError(f"step '{step}': a total exceeds 128 bits", hint="aggregate it as Float64")
        state.sums.grow_pool()
    if n and plan.longest is not None:
        newest = state.events[state.key_words[slots, NEWEST], TIME]
        set_deadlines(state.deadlines, state.minima, slots, newest + max(plan.longest, keep_us))
    return out, slots


def forget(state: LookbackState, plan: LookbackPlan, end: int | None) -> Int64s:
    """Frees what no row in time can look back on, once the watermark is at `end`; gives the slots of the keys."""
    due = take_due(state.deadlines, state.minima, state.keys.used, end + 1) if end is not None else _NONE
    if due.size:
        drop_keys(plan.wants, _store(state), state.sums.arrays(), due)
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
