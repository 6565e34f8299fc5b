"""Counts, per window of event time and rule, rows and those that break it; each partition for itself."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import EVENT_TIME, LATE, Batch, Meta
from streamproc.contracts.model import Field, Schema
from streamproc.event_time import MIN_TIME
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.keys import key_kinds, keys_of
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.evaluation import in_columns
from streamproc.operators.expressions import check_predicate, expression_columns
from streamproc.operators.quality.rule import Rule
from streamproc.operators.released import released_meta, released_up_to
from streamproc.ports import Bytes, Int64s
from streamproc.state import KeyTable, grow

COUNTS = Schema((Field("rule", pl.String()), Field("rows", pl.Int64()), Field("broken", pl.Int64())))
_END = "\x00window"
_NO_BYTES: Final = np.empty(0, np.uint8)
_BITS: Final = np.array([byte.bit_count() for byte in range(256)])


@dataclass(slots=True)
class Seen:
    """What a rule of duplicates has met: (window, values) to slots, and the end of the window of each slot."""

    table: KeyTable
    ends: Int64s


@dataclass(slots=True)
class Tally:
    """Open windows, ascending.

    ends    int64[w]
    counts  int64[w, 1 + rules]: rows, and per rule those that break it
    """

    ends: Int64s
    counts: npt.NDArray[np.int64]
    seen: list[Seen]


@dataclass(frozen=True, slots=True)
class RuleTally:
    """Counts rows that break rules; gives one row per window and rule when the window is over.

    It only looks on: the fates of rows are decided elsewhere, and late rows are left out.
    """

    declared: tuple[tuple[str, Rule], ...]
    span_us: int
    verb: str = "rule_tally"

    def schema(self, *inputs: StreamType) -> StreamType:
        """(rule, rows, broken).  Raises as the rules' expressions and columns do."""
        (stream,) = inputs
        for name, rule in self.declared:
            if rule.expression is not None:
                check_predicate(rule.expression, stream.schema, f"rules: {name}")
            if rule.kind == "duplicates":
                key_kinds(stream.schema, rule.columns)
        return StreamType(COUNTS)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """The columns of the rules."""
        tests = [rule.expression for _, rule in self.declared if rule.expression is not None]
        read = frozenset(column for test in tests for column in expression_columns(test))
        return (read | {column for _, rule in self.declared for column in rule.columns},)

    def open(self, *inputs: StreamType) -> Tally:
        none = np.empty(0, np.int64)
        seen = [Seen(KeyTable(), none.copy()) for _, rule in self.declared if rule.kind == "duplicates"]
        return Tally(none, np.empty((0, 1 + len(self.declared)), np.int64), seen)

    def process(self, state: Tally, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Tally, Output]:
        """Cost per row: a Polars expression per rule, a key look-up per rule of duplicates."""
        (batch,) = inputs
        batch, ends = in_open_windows(batch, self.span_us)
        if len(batch):
            self._add(state, batch, ends)
        return state, Output(self._release(state, time))

    def _add(self, state: Tally, batch: Batch, ends: Int64s) -> None:
        # Windows of a batch are few and lie close together: they are numbered from the first one.
        first, last = int(ends.min()), int(ends.max())
        number = (ends - first) // self.span_us
        width = (last - first) // self.span_us + 1
        if width > 4 * ends.size + 16:
            windows, number = np.unique(ends, return_inverse=True)
        else:
            windows = first + np.arange(width) * self.span_us
        tests = [rule.expression is not None for _, rule in self.declared]
        counts = np.zeros((windows.size, 1 + len(tests)), np.int64)
        counts[:, 0] = np.bincount(number, minlength=windows.size)
        counts[:, 1 + np.flatnonzero(tests)] = counts[:, :1] - _kept(batch.frame, self.declared, number, windows.size)
        duplicated = iter(state.seen)
        for place, (_, rule) in enumerate(self.declared, 1):
            if rule.kind == "duplicates":
                again = _repeated(next(duplicated), batch.frame, rule.columns, ends)
                counts[:, place] = np.bincount(number[again], minlength=windows.size)
        filled = counts[:, 0] > 0
        every = np.concatenate([state.ends, windows[filled]])
        merged, where = np.unique(every, return_inverse=True)
        summed = np.zeros((merged.size, counts.shape[1]), np.int64)
        np.add.at(summed, where, np.concatenate([state.counts, counts[filled]]))
        state.ends, state.counts = merged, summed

    def _release(self, state: Tally, time: StepTime) -> Batch:
        end = MIN_TIME if time.end is None else time.end
        due = int(np.searchsorted(state.ends, end, side="right"))
        names = [name for name, _ in self.declared]
        order = sorted(range(len(names)), key=lambda place: names[place].encode())
        moments = np.repeat(state.ends[:due], len(names))
        rules = pl.Series("rule", [names[place] for place in order] * due, dtype=pl.String)
        frame = pl.DataFrame(
            {
                "rule": rules,
                "rows": np.repeat(state.counts[:due, 0], len(names)),
                "broken": state.counts[:due, 1:][:, order].ravel(),
            },
            schema=COUNTS.polars(),
        )
        keys = keys_of(frame, ("rule",))
        made = Batch(frame, released_meta(moments, time, keys.hashes, moments - self.span_us))
        if due:
            state.ends, state.counts = state.ends[due:].copy(), state.counts[due:].copy()
            for seen in state.seen:
                over = seen.table.slots()
                over = over[seen.ends[over] <= end]
                if over.size:
                    seen.table.release(over)
        return made


def in_open_windows(batch: Batch, span_us: int) -> tuple[Batch, Int64s]:
    """The rows whose windows are still open, and the ends of these windows."""
    ends = window_ends(batch.meta, span_us)
    late = (batch.meta[:, LATE] > 0) | (ends <= released_up_to(batch.meta))
    return (batch.filter(~late), ends[~late]) if late.any() else (batch, ends)


def window_ends(meta: Meta, span: int) -> Int64s:
    """The end of each row's window, from multiples of the span since 1970."""
    ends: Int64s = (np.floor_divide(meta[:, EVENT_TIME], span) + 1) * span
    return ends


@functools.lru_cache(maxsize=64)
def _tests(declared: tuple[tuple[str, Rule], ...]) -> tuple[pl.Expr, ...]:
    """The tests of single rows, under numbers."""
    tests = [rule.expression for _, rule in declared]
    return tuple(test.alias(str(number)) for number, test in enumerate(tests) if test is not None)


def _kept(
    frame: pl.DataFrame, declared: tuple[tuple[str, Rule], ...], number: Int64s, windows: int
) -> npt.NDArray[np.int64]:
    """int64[windows, tests]: rows of each window that keep each test; null does not.

    number  the window of each row.  Where rows stand in the order of their windows, counting is a population count.
    """
    tests = _tests(declared)
    if not tests:
        return np.zeros((windows, 0), np.int64)
    if windows == 1 and frame.height > 1:
        sums = in_columns(lambda part: part.select(test.sum() for test in tests), frame)
        return np.array([sums.row(0)], np.int64)
    made = in_columns(lambda part: part.select(tests), frame)
    if made.height != frame.height:  # Tests of constants alone give one row.
        made = made[[0] * frame.height]
    if (number[1:] < number[:-1]).any():
        order = np.argsort(number, kind="stable")
        made, number = made[order], number[order]
    bounds = np.searchsorted(number, np.arange(windows + 1))
    counts = np.empty((windows, made.width), np.int64)
    for place, column in enumerate(made.get_columns()):
        array: Any = column.rechunk().to_arrow()
        valid, bits = (_NO_BYTES if one is None else np.frombuffer(one, np.uint8) for one in array.buffers())
        _ones(frozen(bits), frozen(valid), array.offset, bounds, counts, place)
    return counts


@kernel
def _ones(bits: Bytes, valid: Bytes, offset: int, bounds: Int64s, counts: Int64s, place: int) -> None:
    """Writes to a column how many bits are set between each bound and the next; `valid` is empty where none is null."""
    for window in range(bounds.size - 1):
        begin, end = bounds[window] + offset, bounds[window + 1] + offset
        total = 0
        for at in range(begin >> 3, (end + 7) >> 3 if end > begin else begin >> 3):
            byte = np.int64(bits[at])
            if valid.size:
                byte &= np.int64(valid[at])
            if at == begin >> 3:
                byte &= 255 << (begin & 7)
            if at == end >> 3:
                byte &= (1 << (end & 7)) - 1
            total += _BITS[byte]
        counts[window, place] = total


def _repeated(seen: Seen, frame: pl.DataFrame, columns: tuple[str, ...], ends: Int64s) -> npt.NDArray[np.bool_]:
    """The rows whose values an earlier row of their window has."""
    keyed = frame.select(columns).with_columns(pl.Series(_END, ends))
    slots, fresh = seen.table.intern_marked(keys_of(keyed, (_END, *columns)))
    seen.ends = grow(seen.ends, seen.table.capacity)
    seen.ends[slots] = ends
    repeated: npt.NDArray[np.bool_] = ~fresh.astype(np.bool_)
    return repeated
