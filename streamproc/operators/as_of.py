"""`as_of`: each row with the newest row of another stream at its moment: a rate, a price, a status, a profile.

Right rows lie in runs per key, by event time; a left row takes the last one at or before its own event time. What a
right row can still be good for ends at a moment that is known: when the watermark reaches the event time of the next
row of its key, no row to come can ask for it, and with `max_age` it ends in any case. That moment is the row's
deadline, so forgetting never changes a result.

A table is a stream with a column that tells deletes (`Field.deletes`): a right row that deletes its key is one like any
other, except that who finds it has found nothing; it is good for nothing more once the watermark has passed it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import DUE, EVENT_TIME, ROW, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.event_time import MAX_TIME, MIN_TIME, Span, span_us
from streamproc.graph import Step, Stream
from streamproc.kernels import kernel
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.coverage import Coverage
from streamproc.operators.deadlines import BLOCK, NEVER
from streamproc.operators.event_order import absorb, pass_in_order
from streamproc.operators.join_columns import (
    deleting,
    only_columns,
    output_name,
    reads_of,
    require_same_key,
    require_suffix,
    right_columns,
)
from streamproc.operators.key_runs import (
    BASE,
    FIRST,
    LENGTH,
    NUMBER,
    TIME,
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
from streamproc.ports import Int64s
from streamproc.state import KeyTable

STATUS: Final = pl.Enum(["MATCHED", "MISSING", "EXPIRED", "NOT_COVERED"])
"""MATCHED: the right columns are those of the newest right row.  MISSING: the key has none, or it was deleted.
EXPIRED: it is too old.  NOT_COVERED: the other stream was not there at some moment since, so that nobody knows."""
_MATCHED, _MISSING, _EXPIRED, _NOT_COVERED = range(4)
_STATUSES: Final = pl.Series(STATUS.categories.to_list(), dtype=STATUS)


@dataclass(slots=True)
class AsOfState:
    """Keys, runs and rows of the right side, and rows of both sides that wait for the watermark (if ordered).

    A right row that deletes its key has the mark 1; `deletes` is the column that tells so, "" where there is none.
    """

    table: KeyTable
    runs: KeyRuns
    rows: RowStore
    left_waits: RowStore
    right_waits: RowStore
    in_order: int
    deletes: str


@dataclass(frozen=True, slots=True)
class AsOf:
    """Looks rows of the first input up in the second, see `as_of`."""

    max_age_us: int | None
    suffix: str
    columns: tuple[str, ...] | None
    prefix: str
    coverage: Coverage | None = None

    @property
    def verb(self) -> str:
        return "as_of"

    @property
    def _made(self) -> tuple[str, str]:
        return f"{self.prefix}_status", f"{self.prefix}_age"

    @property
    def _horizon(self) -> int:
        """How long a right row is remembered: as EXPIRED after its age is past, then not at all."""
        return MAX_TIME if self.max_age_us is None else min(2 * self.max_age_us, MAX_TIME)

    def schema(self, *inputs: StreamType) -> StreamType:
        """The left columns, the right ones (nullable), status and age.

        Raises DefinitionError without keys, TypeMismatch for keys that differ, DuplicateName, UnknownColumn.
        """
        left, right = inputs
        require_same_key(self.verb, left, right)
        status, age = self._made
        brought = (right.schema[name] for name in right_columns(right, self.columns))
        fields = (
            replace(column, name=output_name(column.name, left.schema.names, self.suffix), nullable=True)
            for column in brought
        )
        made = (Field(status, STATUS), Field(age, pl.Int64(), nullable=True, unit="us"))
        return replace(left, schema=Schema((*left.schema, *fields, *made)), ordered=left.ordered and right.ordered)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        ours, theirs = reads_of(needed, inputs[0], inputs[1], suffix=self.suffix, chosen=self.columns)
        return ours, theirs | {inputs[1].deletes} if inputs[1].deletes else theirs

    def open(self, *inputs: StreamType) -> AsOfState:
        left, right = inputs
        # Columns that nobody reads do not come.
        chosen = None if self.columns is None else tuple(name for name in self.columns if name in right.schema)
        brought = pl.Schema({name: right.schema[name].dtype for name in right_columns(right, chosen)})
        return AsOfState(
            KeyTable(),
            key_runs(),
            row_store(brought, keyed=False),
            row_store(left.schema.polars(), keyed=True),
            row_store(right.schema.polars(), keyed=True),
            int(left.ordered and right.ordered),
            right.schema.deletes,
        )

    def process(self, state: AsOfState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[AsOfState, Output]:
        (left, late), (right, late_right) = split_late(inputs[0]), split_late(inputs[1])
        if state.in_order:
            left = pass_in_order(state.left_waits, left, time, by=None)
            right = pass_in_order(state.right_waits, right, time, by=None)
        absorb(time.fates, right.meta)
        numbers = self._look_up(state, left, right)
        output = self._joined(state, left, numbers)
        self._forget(state, time)
        return state, Output(output, late, late_others=() if late_right is None else (late_right,))

    def _look_up(self, state: AsOfState, left: Batch, right: Batch) -> Int64s:
        """Puts the right rows into the state and gives for each left row the number of its right row, or -1."""
        assert left.keys is not None and right.keys is not None, "the plan gives joins keyed inputs"
        rows, runs = state.rows, state.runs
        owners = state.table.intern(right.keys)
        runs.make_room(int(owners.max(initial=-1)) + 1)
        moments = np.ascontiguousarray(right.event_time)
        ends = np.full(len(right), NEVER, np.int64) if self.max_age_us is None else moments + self._horizon
        deletes = deleting(right, state.deletes)
        ends[deletes] = moments[deletes]
        brought = replace(right, frame=only_columns(right.frame, rows.old.columns))
        numbers = rows.append(brought, ends, owners=owners)
        rows.marks[numbers] = deletes
        runs.arena, found = _look_up(
            runs.runs, runs.arena, runs.free, runs.used, rows.deadlines, rows.minima,
            merge_by_position(_positions(left), _positions(right), state.in_order),
            state.table.find(left.keys), np.ascontiguousarray(left.event_time), owners, moments, numbers,
        )  # fmt: skip
        return found

    def _joined(self, state: AsOfState, left: Batch, numbers: Int64s) -> Batch:
        known = numbers >= 0
        known[known] = state.rows.marks[numbers[known]] == 0
        age = np.zeros(len(left), np.int64)
        age[known] = left.event_time[known] - state.rows.meta[numbers[known], EVENT_TIME]
        status = np.where(known, _MATCHED, _MISSING).astype(np.int64)
        if self.max_age_us is not None:
            known &= age <= self._horizon
            status = np.where(known, np.where(age > self.max_age_us, _EXPIRED, _MATCHED), _MISSING).astype(np.int64)
        if self.coverage is not None:
            self._uncover(status, left.event_time, np.where(known, age, -1))
            known &= status != _NOT_COVERED
        found = state.rows.frame_or_nulls(np.where(status == _MATCHED, numbers, -1))
        names = left.frame.columns
        columns = [column.alias(output_name(column.name, names, self.suffix)) for column in found.get_columns()]
        said, aged = self._made
        made = [_STATUSES[status].alias(said), _null_where(~known, age).alias(aged)]
        return left.with_frame(pl.DataFrame([*left.frame.get_columns(), *columns, *made]))

    def _uncover(self, status: Int64s, times: Int64s, age: Int64s) -> None:
        """Says NOT_COVERED where the other stream was not there at some moment from the right row on.

        Without a right row, since the longest age that would have counted, if there is one, else since ever.
        """
        assert self.coverage is not None
        times = np.ascontiguousarray(times)
        found = age >= 0
        spans = np.where(found, age + 1, self._horizon + 1)
        missed = self.coverage.misses(times, spans if self.max_age_us is not None else np.where(found, spans, 1))
        if self.max_age_us is None:
            missed |= ~found & self.coverage.misses(times, None)
        status[missed] = _NOT_COVERED

    def _forget(self, state: AsOfState, time: StepTime) -> None:
        """Drops the right rows for which no left row to come can ask."""
        rows = state.rows
        due = rows.take_due(MIN_TIME if time.end is None else time.end)
        if not due.size:
            return
        emptied = state.runs.drop(rows.owners[due])
        if emptied.size:
            state.table.release(emptied)
        rows.remove(due)
        numbers = rows.compact()
        if numbers is not None:
            state.runs.renumber(numbers)


def as_of(
    other: Stream,
    *,
    max_age: Span | None = None,
    suffix: str = "_right",
    columns: tuple[str, ...] | None = None,
    coverage: Coverage | None = None,
    name: str = "",
) -> Step:
    """Gives each row the columns of the newest row of `other` with its key, as of its own event time.

    other    keyed by columns of the same types. Of its rows with event time <= the row's own, the newest counts; of
             several at one moment, the last
    max_age  older ones do not count: their columns are null and the status is EXPIRED. Beyond twice the age it is
             MISSING, as if the key had never been seen, so that state is bounded
    columns  which ones to bring; all but the key of `other` if not given. One that the left side has too gets `suffix`
    coverage when `other` was there. Where it was not at some moment from the right row on, a newer one may have been
             missed: NOT_COVERED. Where there is no right row, it must have been there for twice the age, or ever since
             its coverage began

    Two columns are added: `<name>_status` (MATCHED, MISSING, EXPIRED or NOT_COVERED) and `<name>_age`, µs from the
    right row's event time to the left one's (null if MISSING or NOT_COVERED); `<name>` is "as_of" where the step has
    none. To keep matched rows only, filter by the status.

    If `other` is a table (`table`, `changes`), a key whose newest row deletes it is MISSING.

    If both inputs are `ordered`, rows are applied in one order of event time, right rows first, and every right row at
    or before the left one's event time counts. Otherwise a row sees only what came before it, and of equal moments
    nothing is promised. Late rows of either side go to `.late`.

    >>> rates = Stream(AsOf(None, "_right", None, "as_of"))
    >>> as_of(rates, max_age="1d", name="fx").operator.max_age_us
    86400000000
    """
    age = None if max_age is None else span_us(max_age)
    chosen = None if columns is None else tuple(columns)
    return Step(AsOf(age, require_suffix(suffix), chosen, name or "as_of", coverage), (other,), name)


def _null_where(mask: npt.NDArray[np.bool_], values: Int64s) -> pl.Series:
    return pl.Series(values).set(pl.Series(mask), None) if mask.any() else pl.Series(values)


def _positions(batch: Batch) -> Int64s:
    return np.ascontiguousarray(batch.meta[:, ROW : DUE + 2])


@kernel
def _look_up(
    runs: Int64s, arena: Int64s, free: Int64s, used: Int64s, deadlines: Int64s, minima: Int64s, order: Int64s,
    left_slots: Int64s, left_times: Int64s, right_slots: Int64s, right_times: Int64s, right_numbers: Int64s,
) -> tuple[Int64s, Int64s]:  # fmt: skip
    """Applies rows of both sides in `order`; gives the arena, and the number of each left row's right row or -1."""
    found = np.full(left_slots.size, -1, np.int64)
    for at in range(order.size):
        i = order[at]
        if i < left_slots.size:
            slot = left_slots[i]
            if slot >= 0 and slot < runs.shape[0]:
                place = first_at_or_after(runs, arena, slot, left_times[i] + 1)
                if place > runs[slot, BASE] + runs[slot, FIRST]:
                    found[i] = arena[place - 1, NUMBER]
            continue
        i -= left_slots.size
        slot, moment, number = right_slots[i], right_times[i], right_numbers[i]
        if is_full(runs, slot):
            arena = make_place(runs, arena, free, used, slot)
        place = insert(runs, arena, slot, moment, number)
        start = runs[slot, BASE] + runs[slot, FIRST]
        # A row is superfluous once the watermark reaches the next row's event time: deadlines are strict, hence - 1.
        if place + 1 < start + runs[slot, LENGTH]:
            _shorten(deadlines, minima, number, arena[place + 1, TIME] - 1)
        if place > start:
            _shorten(deadlines, minima, arena[place - 1, NUMBER], moment - 1)
    return arena, found


@kernel
def _shorten(deadlines: Int64s, minima: Int64s, number: int, moment: int) -> None:
    if moment < deadlines[number]:
        deadlines[number] = moment
        minima[number // BLOCK] = min(minima[number // BLOCK], moment)
