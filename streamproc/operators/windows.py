"""Windows aligned to the epoch: `tumbling` and `sliding`.

A window is half open, [start, start + span), and closes when the watermark reaches its end. Results are released at
that moment, by (end, key bytes), as rows whose event time is the end. A row whose windows are all closed is late: it
goes to the late stream with all its columns.

Cutting does not show, because a row never meets a window that should have closed before it: the row's own watermark
says which are closed, and a closed window takes no row any more. So a whole batch is added at once, then all that is
due by the end of the step is released at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import ACCOUNT, EVENT_TIME, LATE, Batch, Keys, Meta
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.event_time import MIN_TIME, Span, span_text, span_us
from streamproc.graph import Step
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.accumulators import Accumulator, Counts, counts
from streamproc.operators.aggregate_plan import AggregatePlan, plan_aggregates
from streamproc.operators.aggregates import UNBOUNDED, Aggregate
from streamproc.operators.inputs import Inputs
from streamproc.operators.key_columns import key_columns
from streamproc.operators.panes import Panes
from streamproc.operators.released import released_before, released_meta, updated_meta
from streamproc.ports import Int64s

Emit = Literal["close", "update"]
MOMENT: Final = pl.Datetime("us", "UTC")


@kernel
def _open_windows(
    meta: Meta, span: int, every: int, offset: int
) -> tuple[Int64s, Int64s, npt.NDArray[np.bool_]]:
    """Starts of the earliest window of each row that is open for it and of its latest one, and whether the row is late.

    Rows that follow each other mostly fall into the same windows, so a division is only made where they do not.
    """
    n = meta.shape[0]
    first, last, late = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.bool_)
    lower = upper = MIN_TIME
    for row in range(n):
        moment = meta[row, EVENT_TIME]
        over = max(moment, released_before(meta, row)) - span
        if not upper <= moment < upper + every:
            upper = (moment - offset) // every * every + offset
        if not lower - every <= over < lower:
            lower = ((over - offset) // every + 1) * every + offset
        first[row], last[row] = lower, upper
        late[row] = meta[row, LATE] > 0 or lower > upper
    return first, last, late


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What the plan knows of a window step: the key's columns, and the aggregates bound to the input."""

    key: tuple[Field, ...]
    aggregates: AggregatePlan

    @property
    def fields(self) -> tuple[Field, ...]:
        """The columns of a result."""
        made = (Field("window_start", MOMENT), Field("window_end", MOMENT))
        return (*self.key, *made, *self.aggregates.fields)

    def frame(self, keys: Keys, starts: Int64s, ends: Int64s, values: list[pl.Series]) -> pl.DataFrame:
        """Results as a frame of `fields`."""
        return pl.DataFrame(
            [
                *key_columns(keys, self.key),
                pl.Series("window_start", starts).cast(MOMENT),
                pl.Series("window_end", ends).cast(MOMENT),
                *values,
            ]
        )


@dataclass(frozen=True, slots=True)
class InputShape:
    """What a state keeps of its input's type, so that a step can be planned again from the state alone.

    columns  a frame without rows: the key's columns and those under the aggregates
    key      names of the key's columns
    """

    columns: pl.DataFrame
    key: tuple[str, ...]

    def plan(self, aggregates: tuple[tuple[str, Aggregate], ...], step: str) -> WindowPlan:
        """The plan over these columns; what governs a column (unit, origins) is not in it."""
        return _planned(tuple(self.columns.schema.items()), self.key, aggregates, step)


def input_shape(stream: StreamType, aggregates: tuple[tuple[str, Aggregate], ...], step: str) -> InputShape:
    """The shape of a stream as these aggregates see it; raises as `plan_windows`."""
    plan_windows(stream, dict(aggregates), step)
    key = stream.require_key(step)
    names = dict.fromkeys((*key, *(aggregate.column for _, aggregate in aggregates if aggregate.column)))
    return InputShape(pl.DataFrame(schema={name: stream.schema[name].dtype for name in names}), key)


def refuse_estimates(aggregates: tuple[tuple[str, Aggregate], ...], step: str) -> None:
    """Raises DefinitionError for aggregates that have no value per row."""
    for name, aggregate in aggregates:
        if aggregate.bound != UNBOUNDED:
            raise DefinitionError(
                f"step '{step}': {name}={aggregate} is estimated when a window closes",
                hint="count exactly, or emit='close'",
            )


@lru_cache(maxsize=256)
def _planned(
    columns: tuple[tuple[str, pl.DataType], ...],
    key: tuple[str, ...],
    aggregates: tuple[tuple[str, Aggregate], ...],
    step: str,
) -> WindowPlan:
    schema = Schema(tuple(Field(name, dtype, True) for name, dtype in columns))
    return plan_windows(StreamType(schema, key), dict(aggregates), step)


def plan_windows(stream: StreamType, aggregates: Mapping[str, Aggregate], step: str) -> WindowPlan:
    """The plan of a window step; raises DefinitionError where the stream has no key or an aggregate does not fit."""
    key = tuple(stream.schema[name] for name in stream.require_key(step))
    return WindowPlan(key, plan_aggregates(aggregates, stream.schema, step=step))


@dataclass(slots=True)
class WindowState:
    """Open windows and what they hold.

    revisions  int64[panes]  how many rows a pane took in; only kept where each of them is emitted
    """

    shape: InputShape
    panes: Panes
    parts: tuple[Accumulator, ...]
    revisions: Counts


@dataclass(frozen=True, slots=True)
class Windows:
    """The operator of `tumbling` and `sliding`.

    span_us, every_us, offset_us  windows [offset + k * every, offset + k * every + span)
    emit                          "close": a row per window when it is over; "update": a row per input row and window
    """

    verb: str
    span_us: int
    every_us: int
    offset_us: int
    emit: Emit
    aggregates: tuple[tuple[str, Aggregate], ...]

    def schema(self, *inputs: StreamType) -> StreamType:
        """Key columns, window_start, window_end, the aggregates, and revision where updates are emitted."""
        fields = plan_windows(inputs[0], dict(self.aggregates), self.verb).fields
        if self.emit == "update":
            refuse_estimates(self.aggregates, self.verb)
            fields = (*fields, Field("revision", pl.Int64(), doc="1 for the window's first row, then counted up"))
        return StreamType(Schema(fields), inputs[0].keyed_by, ordered=self.emit == "close")

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """The columns under the aggregates; those of the key are read back from the key."""
        return (frozenset(aggregate.column for _, aggregate in self.aggregates if aggregate.column),)

    def open(self, *inputs: StreamType) -> WindowState:
        """No window yet."""
        shape = input_shape(inputs[0], self.aggregates, self.verb)
        parts = shape.plan(self.aggregates, self.verb).aggregates.open()
        return WindowState(shape, Panes(), parts, counts())

    def process(self, state: WindowState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[WindowState, Output]:
        """Adds the rows, then releases what is due by the end of the step."""
        batch, late, first, last = self._live(inputs[0])
        updates = self._add(state, batch, first, last, time) if len(batch) else None
        released = self._release(state, time)
        if self.emit == "close":
            return state, Output(released, late)
        return state, Output(updates if updates is not None else self._no_updates(released), late)

    def _live(self, batch: Batch) -> tuple[Batch, Batch | None, Int64s, Int64s]:
        """The rows that still have an open window, the others, and the earliest and latest such window of each row."""
        first, last, late = _open_windows(frozen(batch.meta), self.span_us, self.every_us, self.offset_us)
        if not late.any():
            return batch, None, first, last
        return batch.filter(~late), batch.filter(late), first[~late], last[~late]

    def _add(self, state: WindowState, batch: Batch, first: Int64s, last: Int64s, time: StepTime) -> Batch | None:
        assert batch.keys is not None  # the plan lets only keyed streams in
        plan = state.shape.plan(self.aggregates, self.verb)
        rows: Int64s | None = None
        starts = first
        if self.every_us < self.span_us:
            number = (last - first) // self.every_us + 1
            rows = np.repeat(np.arange(number.size), number)
            ordinal = np.arange(rows.size) - np.repeat(np.cumsum(number) - number, number)
            starts = first[rows] + ordinal * self.every_us
        panes = state.panes.locate(batch.keys, rows, starts, self.span_us)
        capacity = state.panes.table.capacity
        for part in state.parts:
            part.grow(capacity)
        values = Inputs(batch, rows)
        time.fates.absorb(batch.meta[:, ACCOUNT])
        if self.emit == "close":
            plan.aggregates.add(state.parts, panes, values)
            return None
        state.revisions.grow(capacity)
        columns = plan.aggregates.add_each(state.parts, panes, values)
        (revisions,) = state.revisions.add_each(panes, *values.form("valid", ""))
        keys = batch.keys if rows is None else batch.keys.take(rows)
        meta = batch.meta if rows is None else batch.meta[rows]
        ends = starts + self.span_us
        frame = plan.frame(keys, starts, ends, [*columns, pl.Series("revision", revisions)])
        made = updated_meta(meta, ends, time, key_hashes=keys.hashes, starts=starts, revisions=revisions)
        return Batch(frame, made, keys)

    def _release(self, state: WindowState, time: StepTime) -> Batch:
        plan = state.shape.plan(self.aggregates, self.verb)
        panes = np.empty(0, np.int64) if time.end is None else state.panes.due(time.end)
        slots, starts = state.panes.table.pairs(panes)
        keys = state.panes.keys.key_bytes(slots)
        ends = starts + self.span_us
        read = panes if self.emit == "close" else panes[:0]
        values = plan.aggregates.read(state.parts, read)
        if self.emit == "update":
            keys, starts, ends = keys.take(read), starts[:0], ends[:0]
        made = Batch(plan.frame(keys, starts, ends, values), released_meta(ends, time, keys.hashes, starts), keys)
        if panes.size and time.end is not None:
            for part in (*state.parts, *([state.revisions] if self.emit == "update" else [])):
                part.clear(panes)
            state.panes.close(time.end, panes)
        return made

    def _no_updates(self, nothing: Batch) -> Batch:
        return nothing.with_frame(nothing.frame.with_columns(pl.Series("revision", [], dtype=pl.Int64)))


def _windows(
    verb: str, span: Span, every: Span, offset: Span, emit: Emit, aggregates: Mapping[str, Aggregate]
) -> Windows:
    span_length, every_length = span_us(span), span_us(every)
    if not 0 < every_length <= span_length:
        raise DefinitionError(
            f"{verb}: windows of {span_text(span_length)} every {span_text(every_length)} leave rows in no window",
            hint="spans are above zero, and `every` is at most the span",
        )
    if emit not in ("close", "update"):
        raise DefinitionError(f"{verb}: emit={emit!r}", hint="emit='close' or emit='update'")
    if not aggregates:
        raise DefinitionError(f"{verb}: no aggregate", hint="give at least one, for example orders=sp.count()")
    return Windows(verb, span_length, every_length, span_us(offset) % every_length, emit, tuple(aggregates.items()))


def tumbling(span: Span, *, emit: Emit = "close", offset: Span = "0s", name: str = "", **aggregates: Aggregate) -> Step:
    """Windows of one length that follow each other; each row falls into one.

    Needs a keyed stream. Output: the key's columns, window_start, window_end (Datetime, UTC), one column per aggregate;
    with emit="update" a row for every input row as the window stands after it, and `revision`, counted from 1.
    Windows begin at `offset` after the epoch (1970-01-01 UTC) and every `span` from there, before it too.
    Raises DefinitionError for an empty span or no aggregate. Cost: one table probe a row, plus the aggregates.

    >>> from streamproc.operators.aggregates import count, total
    >>> tumbling("1h", orders=count(), spend=total("amount")).operator.verb
    'tumbling'
    """
    return Step(_windows("tumbling", span, span, offset, emit, aggregates), (), name)


def sliding(
    span: Span, *, every: Span, emit: Emit = "close", offset: Span = "0s", name: str = "", **aggregates: Aggregate
) -> Step:
    """Windows of one length that begin every so often and overlap; each row falls into span / every of them.

    As `tumbling` otherwise. Cost: as if each row came span / every times.

    >>> from streamproc.operators.aggregates import count
    >>> sliding("1h", every="5m", orders=count()).operator.every_us
    300000000
    """
    return Step(_windows("sliding", span, every, offset, emit, aggregates), (), name)
