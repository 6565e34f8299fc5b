"""What a look-back computes: aggregates as the small tables of numbers that its kernel takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.hashing import frozen
from streamproc.operators.accumulators import Reading
from streamproc.operators.aggregate_parts import Finish, bind_aggregate
from streamproc.operators.aggregates import NO_SPAN, Aggregate
from streamproc.operators.event_records import (
    BEFORE_ROW,
    BOUND,
    COORDINATE,
    EDGE_BASE,
    EVER,
    EXTREME_BASE,
    FIRST,
    LAST,
    PLACE,
    SPANS,
    UP_TO_ROW,
    Results,
    Wants,
)
from streamproc.operators.value_table import ValueTable
from streamproc.operators.values import Flags
from streamproc.operators.window_scans import (
    DISTINCT,
    EWMA,
    QUANTILE,
    TOP_K,
    TOP_K_OF_TEXT,
    TREND,
    scan_words,
)
from streamproc.ports import Int64s

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
        longest = int(self.wants.spans.max(initial=0))
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
