"""`within`: pairs of rows of two streams that have one key and lie close in time.

Both sides keep their rows in runs per key, by event time. A row that comes takes all rows of the other side in its span
and then waits itself. How long is known beforehand: a left row at t has no partner to come once the watermark is above
t + after, a right one once it is above t + before. That is the row's deadline, so forgetting never changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from streamproc.batch import (
    C0,
    C1,
    C2,
    C3,
    EVENT_TIME,
    RANK,
    ROW,
    Batch,
    Meta,
    concat,
    concat_keys,
    position_order,
)
from streamproc.contracts.model import Schema
from streamproc.errors import DefinitionError
from streamproc.event_time import MIN_TIME, Span, span_us
from streamproc.graph import Step, Stream
from streamproc.hashing import mix64
from streamproc.kernels import kernel
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.event_order import absorb, as_released, hold, pass_in_order, release
from streamproc.operators.join_columns import (
    only_columns,
    output_name,
    reads_of,
    require_same_key,
    require_suffix,
    right_columns,
)
from streamproc.operators.key_runs import (
    LENGTH,
    NUMBER,
    KeyRuns,
    first_at_or_after,
    insert,
    is_full,
    key_runs,
    make_place,
    merge_by_position,
)
from streamproc.operators.lateness import split_late
from streamproc.operators.row_store import RowStore, row_store
from streamproc.ports import Bytes, Int64s
from streamproc.row_loops import copy, copy_rows
from streamproc.state import KeyTable


@dataclass(slots=True)
class Side:
    """One side's rows, the runs of their keys, and rows that wait for the watermark (ordered inputs only)."""

    rows: RowStore
    runs: KeyRuns
    waits: RowStore


@dataclass(slots=True)
class WithinState:
    """Keys of both sides in one table, and the sides."""

    table: KeyTable
    left: Side
    right: Side
    in_order: int


@dataclass(frozen=True, slots=True)
class Within:
    """Pairs rows of two inputs, see `within`."""

    before_us: int
    after_us: int
    suffix: str
    how: Literal["inner", "left"]

    @property
    def verb(self) -> str:
        return "within"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The left columns and the right ones, nullable where left rows go without a partner.

        Raises DefinitionError without keys, TypeMismatch for keys that differ, DuplicateName.
        """
        left, right = inputs
        require_same_key(self.verb, left, right)
        brought = (right.schema[name] for name in right_columns(right, None))
        fields = (
            replace(
                column,
                name=output_name(column.name, left.schema.names, self.suffix),
                nullable=column.nullable or self.how == "left",
            )
            for column in brought
        )
        return replace(left, schema=Schema((*left.schema, *fields)), ordered=left.ordered and right.ordered)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return reads_of(needed, inputs[0], inputs[1], suffix=self.suffix, chosen=None)

    def open(self, *inputs: StreamType) -> WithinState:
        left, right = inputs
        brought = pl.Schema({name: right.schema[name].dtype for name in right_columns(right, None)})
        return WithinState(
            KeyTable(),
            Side(
                row_store(left.schema.polars(), keyed=False),
                key_runs(),
                row_store(left.schema.polars(), keyed=True),
            ),
            Side(row_store(brought, keyed=False), key_runs(), row_store(right.schema.polars(), keyed=True)),
            int(left.ordered and right.ordered),
        )

    def process(self, state: WithinState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[WithinState, Output]:
        (left, late), (right, late_right) = split_late(inputs[0]), split_late(inputs[1])
        if state.in_order:
            left = pass_in_order(state.left.waits, left, time, by=None)
            right = pass_in_order(state.right.waits, right, time, by=None)
        rows = self._pair(state, left, right, time)
        end = MIN_TIME if time.end is None else time.end
        due_left, due_right = state.left.rows.take_due(end), state.right.rows.take_due(end)
        if due_left.size or due_right.size:
            alone = due_left[state.left.rows.marks[due_left] == 0]
            release(time.fates, state.left.rows.meta[alone])
            release(time.fates, state.right.rows.meta[due_right[state.right.rows.marks[due_right] == 0]])
            if self.how == "left" and alone.size:
                joined = concat([rows, self._unmatched(state, alone, time)])
                rows = joined.take(position_order(joined.meta))
            _forget(state, due_left, due_right)
        return state, Output(rows, late, late_others=() if late_right is None else (late_right,))

    def _pair(self, state: WithinState, left: Batch, right: Batch, time: StepTime) -> Batch:
        """Takes the rows of both sides into the state and gives the pairs that they make, in position order."""
        assert left.keys is not None and right.keys is not None, "the plan gives joins keyed inputs"
        left_owners, right_owners = state.table.intern(left.keys), state.table.intern(right.keys)
        slots = max(int(left_owners.max(initial=-1)), int(right_owners.max(initial=-1))) + 1
        ours, theirs = state.left, state.right
        for side in (ours, theirs):
            side.runs.make_room(slots)
        left_times, right_times = np.ascontiguousarray(left.event_time), np.ascontiguousarray(right.event_time)
        brought = replace(right, frame=only_columns(right.frame, theirs.rows.old.columns))
        left_numbers = ours.rows.append(left, left_times + self.after_us, owners=left_owners)
        right_numbers = theirs.rows.append(brought, right_times + self.before_us, owners=right_owners)
        ours.runs.arena, theirs.runs.arena, pairs, left_met, right_met = _match(
            merge_by_position(_positions(left), _positions(right), state.in_order), self.before_us, self.after_us,
            ours.runs.runs, ours.runs.arena, ours.runs.free, ours.runs.used, ours.rows.marks,
            left_owners, left_times, left_numbers,
            theirs.runs.runs, theirs.runs.arena, theirs.runs.free, theirs.runs.used, theirs.rows.marks,
            right_owners, right_times, right_numbers,
        )  # fmt: skip
        _settle(ours.rows, left_numbers, left_met, time)
        _settle(theirs.rows, right_numbers, right_met, time)
        return self._paired(state, left, right, pairs, time)

    def _paired(self, state: WithinState, left: Batch, right: Batch, pairs: Int64s, time: StepTime) -> Batch:
        came, left_numbers, right_numbers = (np.ascontiguousarray(pairs[:, i]) for i in range(3))
        left_meta, right_meta = state.left.rows.meta[left_numbers], state.right.rows.meta[right_numbers]
        meta = np.concatenate((left.meta, right.meta))[came]
        meta[:, EVENT_TIME] = np.maximum(left_meta[:, EVENT_TIME], right_meta[:, EVENT_TIME])
        _name(meta, time.rank, left_meta, right_meta)
        assert left.keys is not None and right.keys is not None, "the plan gives joins keyed inputs"
        keys = concat_keys([left.keys, right.keys]).take(came)
        frame = self._frame(state.left.rows.frame(left_numbers), state.right.rows.frame(right_numbers))
        return Batch(frame, meta, keys)

    def _unmatched(self, state: WithinState, numbers: Int64s, time: StepTime) -> Batch:
        """Left rows whose time is over without a partner, in order of the moment, key bytes and coordinate."""
        rows = state.left.rows
        meta = rows.meta[numbers]
        due = meta[:, EVENT_TIME] + self.after_us
        slots, slot = np.unique(rows.owners[numbers], return_inverse=True)
        rank_of_slot = np.empty(slots.size, np.int64)
        rank_of_slot[state.table.order(slots)] = np.arange(slots.size)
        order = np.lexsort((meta[:, C3], meta[:, C2], meta[:, C1], meta[:, C0], rank_of_slot[slot], due))
        numbers, meta, due = numbers[order], meta[order], due[order]
        released = as_released(meta, due, time)
        _name(released, time.rank, meta, None)
        frame = self._frame(rows.frame(numbers), state.right.rows.old.clear(numbers.size))
        return Batch(frame, released, state.table.key_bytes(rows.owners[numbers]))

    def _frame(self, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        names = left.columns
        named = [column.alias(output_name(column.name, names, self.suffix)) for column in right.get_columns()]
        return pl.DataFrame([*left.get_columns(), *named])


def within(
    other: Stream,
    *,
    before: Span = "1h",
    after: Span = "1h",
    how: Literal["inner", "left"] = "inner",
    suffix: str = "_right",
    name: str = "",
) -> Step:
    """Pairs each row with every row of `other` that has its key and lies in the span around it.

    other          keyed by columns of the same types
    before, after  a pair holds if  left - before <= right <= left + after  in event time, both ends included
    how            "inner": pairs only. "left": a left row that found no partner goes on too, with nulls on the right,
                   once the watermark is above its event time + after; that moment is its event time from there on
    suffix         put to columns of `other` whose name the left side has too; key columns of `other` are left out

    A pair comes when its second row does, has the later event time and that row's position; several pairs of one row
    stand in order of the other side's event time, then of arrival. Rows that wait are held for that long; one that
    found no partner counts as filtered. If both inputs are `ordered`, so is the output. Late rows of either side go to
    `.late`.

    >>> shipped = Stream(Within(0, 0, "_right", "inner"))
    >>> within(shipped, before="0s", after="2d").operator.after_us
    172800000000
    """
    if how not in ("inner", "left"):
        raise DefinitionError(f"'within' cannot join '{how}'", hint="how is 'inner' or 'left'")
    return Step(Within(span_us(before), span_us(after), require_suffix(suffix), how), (other,), name)


def _positions(batch: Batch) -> Int64s:
    return np.ascontiguousarray(batch.meta[:, ROW : RANK + 1])


def _name(meta: Meta, rank: int, left: Meta, right: Meta | None) -> None:
    """Writes the coordinate of a pair: the operator, the left row, the right row (0 where there is none)."""
    meta[:, C0] = rank << 32
    meta[:, C1] = _hashed(left)
    meta[:, C2] = 0 if right is None else _hashed(right)
    meta[:, C3] = 0


def _hashed(meta: Meta) -> Int64s:
    hashes = mix64(*(np.ascontiguousarray(meta[:, column]) for column in (C0, C1, C2, C3)))
    return hashes.view(np.int64)


def _settle(rows: RowStore, came: Int64s, met: Int64s, time: StepTime) -> None:
    """Tells the ledger of rows that came, and of those that found their first partner (`met`): the others wait."""
    first = int(came[0]) if came.size else rows.used
    hold(time.fates, rows.meta[came[rows.marks[came] == 0]])
    release(time.fates, rows.meta[met[met < first]])
    absorb(time.fates, rows.meta[met])


def _forget(state: WithinState, due_left: Int64s, due_right: Int64s) -> None:
    """Drops rows that no row to come can meet, and keys that have no rows any more."""
    for side, other, due in ((state.left, state.right, due_left), (state.right, state.left, due_right)):
        emptied = side.runs.drop(side.rows.owners[due])
        # A key that loses its last rows on both sides is empty on both only at the second look.
        emptied = emptied[other.runs.runs[emptied, LENGTH] == 0]
        if emptied.size:
            state.table.release(emptied)
        side.rows.remove(due)
        numbers = side.rows.compact()
        if numbers is not None:
            side.runs.renumber(numbers)


@kernel
def _match(
    order: Int64s, before: int, after: int,
    left_runs: Int64s, left_arena: Int64s, left_free: Int64s, left_used: Int64s, left_marks: Bytes,
    left_slots: Int64s, left_times: Int64s, left_numbers: Int64s,
    right_runs: Int64s, right_arena: Int64s, right_free: Int64s, right_used: Int64s, right_marks: Bytes,
    right_slots: Int64s, right_times: Int64s, right_numbers: Int64s,
) -> tuple[Int64s, Int64s, Int64s, Int64s, Int64s]:  # fmt: skip
    """Lets the rows come in `order`; gives both arenas, the pairs, and the rows of each side that met a first partner.

    Pairs are int64[*, 3]: the row that came (as in `order`), and the numbers of the left and the right row.
    """
    pairs = np.empty((order.size, 3), np.int64)
    left_met = np.empty(order.size, np.int64)
    right_met = np.empty(order.size, np.int64)
    n = lefts = rights = 0
    for at in range(order.size):
        i = order[at]
        if i < left_slots.size:
            slot, moment, number = left_slots[i], left_times[i], left_numbers[i]
            place = first_at_or_after(right_runs, right_arena, slot, moment - before)
            stop = first_at_or_after(right_runs, right_arena, slot, moment + after + 1)
            if is_full(left_runs, slot):
                left_arena = make_place(left_runs, left_arena, left_free, left_used, slot)
            insert(left_runs, left_arena, slot, moment, number)
        else:
            j = i - left_slots.size
            slot, moment, number = right_slots[j], right_times[j], right_numbers[j]
            place = first_at_or_after(left_runs, left_arena, slot, moment - after)
            stop = first_at_or_after(left_runs, left_arena, slot, moment + before + 1)
            if is_full(right_runs, slot):
                right_arena = make_place(right_runs, right_arena, right_free, right_used, slot)
            insert(right_runs, right_arena, slot, moment, number)
        while n + stop - place > pairs.shape[0]:
            more = np.empty((2 * pairs.shape[0] + 16, 3), np.int64)
            copy_rows(pairs, more, n)
            pairs = more
        for other in range(place, stop):
            pairs[n, 0] = i
            if i < left_slots.size:
                pairs[n, 1], pairs[n, 2] = number, right_arena[other, NUMBER]
            else:
                pairs[n, 1], pairs[n, 2] = left_arena[other, NUMBER], number
            left_number, right_number = pairs[n, 1], pairs[n, 2]
            n += 1
            if left_marks[left_number] == 0:
                left_marks[left_number] = 1
                left_met = _with(left_met, lefts, left_number)
                lefts += 1
            if right_marks[right_number] == 0:
                right_marks[right_number] = 1
                right_met = _with(right_met, rights, right_number)
                rights += 1
    return left_arena, right_arena, pairs[:n].copy(), left_met[:lefts].copy(), right_met[:rights].copy()


@kernel
def _with(values: Int64s, at: int, value: int) -> Int64s:
    """The array with `value` at `at`, grown if needed."""
    if at == values.size:
        more = np.empty(2 * at + 16, np.int64)
        copy(values, more, at)
        values = more
    values[at] = value
    return values
