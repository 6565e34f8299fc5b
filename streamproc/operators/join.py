"""`join`: two tables as one, a row a key: the newest of both sides, told anew whenever one of them changes.

Per key, the newest row of each side stands in a store. A row that comes takes the place of the one before it, unless
it is older; then the joined row is told. What is told last of a key holds, so the output is a table itself: where no
joined row stands any more, because a side was deleted, a row that deletes the key is told.

A row that deletes its key stays until the watermark has passed it, so that an older one that comes after it brings
nothing back to life. From then on an older one is late: forgetting never changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import C0, C1, C2, C3, EVENT_TIME, RANK, ROW, Batch, Keys, Meta, concat_keys
from streamproc.columns import grow, next_rows
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName
from streamproc.event_time import MIN_TIME
from streamproc.graph import Step, Stream
from streamproc.hashing import mix64
from streamproc.kernels import kernel
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.deadlines import NEVER
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
from streamproc.operators.key_columns import key_columns
from streamproc.operators.key_runs import merge_by_position
from streamproc.operators.lateness import split_late
from streamproc.operators.row_store import RowStore, row_store
from streamproc.ports import Bytes, Int64s
from streamproc.state import KeyTable

How = Literal["inner", "left", "full"]
_HOWS: Final = ("inner", "left", "full")
DELETED: Final = "deleted"
"""The column that tells deletes, in what `join`, `table` and `changes` give."""

_MOMENT: Final = 2
_STANDS: Final = 3
_NOTHING: Final = (0, 0, MIN_TIME, 0)


@dataclass(slots=True)
class Side:
    """One side's newest rows (mark 1: it deletes its key), and rows that wait for the watermark (ordered inputs only).

    deletes  the column that tells deletes, "" where there is none
    """

    rows: RowStore
    waits: RowStore
    deletes: str


@dataclass(slots=True)
class JoinState:
    """Keys of both sides in one table, and what stands for each.

    key     the key's columns on the left
    newest  int64[slots, 4]: one past the number of the newest left and right row (0: none), the event time of what was
            told last, and whether a joined row stands
    """

    table: KeyTable
    key: tuple[str, ...]
    newest: Int64s
    left: Side
    right: Side
    in_order: int


@dataclass(frozen=True, slots=True)
class Join:
    """Joins two tables, see `join`."""

    how: How
    suffix: str

    @property
    def verb(self) -> str:
        return "join"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The left columns, the right ones, and `deleted`; what is not of the key may be null.

        Raises DefinitionError without keys, TypeMismatch for keys that differ, DuplicateName.
        """
        left, right = inputs
        require_same_key(self.verb, left, right)
        key = left.require_key(self.verb)
        ours = [
            column if column.name in key else replace(column, nullable=True)
            for column in left.schema
            if not column.deletes
        ]
        names = [column.name for column in ours]
        brought = [
            replace(right.schema[name], name=output_name(name, names, self.suffix), nullable=True)
            for name in right_columns(right, None)
        ]
        for column in (*ours, *brought):
            if column.name == DELETED:
                raise DuplicateName(
                    f"step '{self.verb}' makes a column '{DELETED}', which its input has already",
                    hint="rename the input's column before",
                )
        schema = Schema((*ours, *brought, Field(DELETED, pl.Boolean(), deletes=True)))
        return replace(left, schema=schema, ordered=left.ordered and right.ordered)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        left, right = inputs
        plain = Schema(tuple(column for column in left if not column.deletes))
        ours, theirs = reads_of(needed, plain, right, suffix=self.suffix, chosen=None)
        return (ours | {left.deletes}) - {""}, (theirs | {right.deletes}) - {""}

    def open(self, *inputs: StreamType) -> JoinState:
        left, right = inputs
        key = left.keyed_by or ()
        ours = [name for name in left.schema.names if name not in key and name != left.schema.deletes]
        theirs = right_columns(right, None)
        return JoinState(
            KeyTable(), key, np.empty((0, 4), np.int64), _side(left, tuple(ours)), _side(right, theirs),
            int(left.ordered and right.ordered),
        )  # fmt: skip

    def process(self, state: JoinState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[JoinState, Output]:
        """Cost O(1) a row and key, and a gather of the columns told."""
        (left, late), (right, late_right) = split_late(inputs[0]), split_late(inputs[1])
        if state.in_order:
            left = pass_in_order(state.left.waits, left, time, by=None)
            right = pass_in_order(state.right.waits, right, time, by=None)
        rows = self._told(state, left, right, time)
        _forget(state, MIN_TIME if time.end is None else time.end)
        return state, Output(rows, late, late_others=() if late_right is None else (late_right,))

    def _told(self, state: JoinState, left: Batch, right: Batch, time: StepTime) -> Batch:
        """Takes the rows of both sides in and gives what is told of their keys."""
        assert left.keys is not None and right.keys is not None, "the plan gives joins keyed inputs"
        owners = state.table.intern(left.keys), state.table.intern(right.keys)
        _make_room(state, 1 + max(int(of.max(initial=-1)) for of in owners))
        numbers = _take(state.left, left, owners[0]), _take(state.right, right, owners[1])
        ours, theirs = state.left.rows, state.right.rows
        told, accepted, gone_left, gone_right = _apply(
            merge_by_position(_positions(left), _positions(right), state.in_order), _HOWS.index(self.how), state.newest,
            owners[0], np.ascontiguousarray(left.event_time), numbers[0], ours.marks,
            owners[1], np.ascontiguousarray(right.event_time), numbers[1], theirs.marks, ours.meta, theirs.meta,
        )  # fmt: skip
        both = np.concatenate((left.meta, right.meta))
        absorb(time.fates, both[accepted])
        came = np.ascontiguousarray(told[:, 0])
        meta = both[came]
        _name(meta, time.rank, came >= len(left))
        meta[:, EVENT_TIME] = told[:, 3]
        keys = concat_keys([left.keys, right.keys]).take(came)
        frame = self._frame(state, left.frame.schema, keys, told)
        ours.remove(gone_left)
        theirs.remove(gone_right)
        return Batch(frame, meta, keys)

    def _frame(self, state: JoinState, left: pl.Schema, keys: Keys, told: Int64s) -> pl.DataFrame:
        """The columns of what is told: those of the key are read from its bytes, so that they stand on every row."""
        names = [name for name in left if name != state.left.deletes]
        fields = [Field(name, left[name]) for name in state.key if name in left]
        of_key = {column.name: column for column in key_columns(keys, fields)} if len(fields) == len(state.key) else {}
        ours = state.left.rows.frame_or_nulls(told[:, 1])
        theirs = state.right.rows.frame_or_nulls(told[:, 2])
        found = {column.name: column for column in ours.get_columns()} | of_key
        brought = [column.alias(output_name(column.name, names, self.suffix)) for column in theirs.get_columns()]
        gone = pl.Series(DELETED, told[:, 4] != 0)
        return pl.DataFrame([*(found[name] for name in names if name in found), *brought, gone])


def join(other: Stream, *, how: How = "inner", suffix: str = "_right", name: str = "") -> Step:
    """Joins two tables: a row a key, told anew whenever one side of it changes.

    other   keyed by columns of the same types. Both sides are tables: of each key the newest row by event time counts,
            of several at one moment the last; a row that deletes its key (`table`, `changes`) ends it. A stream that
            has no deletes is a table too, in which nothing ends
    how     "inner": a joined row stands while both sides have one. "left": while the left one has. "full": while either
            has; the columns of a side that has none are null
    suffix  put to columns of `other` whose name the left side has too; key columns of `other` are left out

    The output is a table: the row told last of a key is the one that holds, and a row with `deleted` says that none
    does any more (all but its key is null). A row comes with the change that caused it, in its place; its event time is
    the newest of both sides. A row older than its side's newest changes nothing and counts as filtered. If both inputs
    are `ordered`, rows are applied in one order of event time, right rows first, and so is the output; otherwise in the
    order in which they come: but for ties what holds in the end is the same, the steps to it may be others. Late rows
    go to `.late`.

    Memory: a row a key and side, for as long as the key stands.

    >>> join(Stream(Join("inner", "_right")), how="left").operator
    Join(how='left', suffix='_right')
    """
    if how not in _HOWS:
        raise DefinitionError(f"'join' cannot join '{how}'", hint="how is 'inner', 'left' or 'full'")
    return Step(Join(how, require_suffix(suffix)), (other,), name)


def _side(kind: StreamType, columns: tuple[str, ...]) -> Side:
    kept = pl.Schema({name: kind.schema[name].dtype for name in columns})
    return Side(row_store(kept, keyed=False), row_store(kind.schema.polars(), keyed=True), kind.schema.deletes)


def _positions(batch: Batch) -> Int64s:
    return np.ascontiguousarray(batch.meta[:, ROW : RANK + 1])


def _make_room(state: JoinState, slots: int) -> None:
    before, capacity = state.newest.shape[0], next_rows(state.newest.shape[0], slots)
    if capacity > before:
        state.newest = grow(state.newest, capacity)
        state.newest[before:] = _NOTHING


def _take(side: Side, batch: Batch, owners: Int64s) -> Int64s:
    """Puts rows into the store of their side; gives their numbers. One that deletes its key is due at its own time."""
    deletes = deleting(batch, side.deletes)
    ends = np.where(deletes, batch.event_time, NEVER)
    kept = replace(batch, frame=only_columns(batch.frame, side.rows.old.columns))
    numbers = side.rows.append(kept, ends, owners=owners)
    side.rows.marks[numbers] = deletes
    return numbers


def _name(meta: Meta, rank: int, port: npt.NDArray[np.bool_]) -> None:
    """Writes the coordinate of a joined row: the operator, the row that caused it and its side."""
    hashes = mix64(*(np.ascontiguousarray(meta[:, column]) for column in (C0, C1, C2, C3)))
    meta[:, C0] = rank << 32
    meta[:, C1] = hashes.view(np.int64)
    meta[:, C2] = port
    meta[:, C3] = 0


def _forget(state: JoinState, end: int) -> None:
    """Drops rows that delete their key once no older one can come, and keys of which nothing is left."""
    touched = []
    for port, side in enumerate((state.left, state.right)):
        due = side.rows.take_due(end)
        if due.size:
            owners = side.rows.owners[due]
            state.newest[owners, port] = 0
            touched.append(owners)
            side.rows.remove(due)
        numbers = side.rows.compact()
        if numbers is not None:
            there = np.flatnonzero(state.newest[:, port])
            state.newest[there, port] = 1 + numbers[state.newest[there, port] - 1]
    if touched:
        owners = np.unique(np.concatenate(touched))
        empty = owners[(state.newest[owners, 0] == 0) & (state.newest[owners, 1] == 0)]
        state.newest[empty] = _NOTHING
        state.table.release(empty)


@kernel
def _apply(
    order: Int64s, how: int, newest: Int64s,
    left_slots: Int64s, left_times: Int64s, left_numbers: Int64s, left_marks: Bytes,
    right_slots: Int64s, right_times: Int64s, right_numbers: Int64s, right_marks: Bytes,
    left_meta: Meta, right_meta: Meta,
) -> tuple[Int64s, Int64s, Int64s, Int64s]:  # fmt: skip
    """Lets rows come in `order`; gives what is told, the rows that count, and numbers that nobody needs on each side.

    Told are int64[*, 5]: the row that came, the numbers of the left and the right row (-1: none), the event time, and
    whether the key is deleted.
    """
    told = np.empty((order.size, 5), np.int64)
    accepted = np.empty(order.size, np.int64)
    gone_left = np.empty(order.size, np.int64)
    gone_right = np.empty(order.size, np.int64)
    n = taken = lefts = rights = 0
    for at in range(order.size):
        i = order[at]
        is_left = i < left_slots.size
        j = i if is_left else i - left_slots.size
        slot = left_slots[j] if is_left else right_slots[j]
        moment = left_times[j] if is_left else right_times[j]
        number = left_numbers[j] if is_left else right_numbers[j]
        side = 0 if is_left else 1
        before = newest[slot, side] - 1
        older = before >= 0 and (left_meta[before, EVENT_TIME] if is_left else right_meta[before, EVENT_TIME]) > moment
        gone = number if older else before
        if gone >= 0:
            if is_left:
                gone_left[lefts] = gone
                lefts += 1
            else:
                gone_right[rights] = gone
                rights += 1
        if older:
            continue
        accepted[taken] = i
        taken += 1
        newest[slot, side] = number + 1
        newest[slot, _MOMENT] = max(newest[slot, _MOMENT], moment)
        left, right = newest[slot, 0] - 1, newest[slot, 1] - 1
        if left >= 0 and left_marks[left] != 0:
            left = -1
        if right >= 0 and right_marks[right] != 0:
            right = -1
        stands = left >= 0 and right >= 0
        if how > 0:
            stands = left >= 0 or (how == 2 and right >= 0)
        if not stands and newest[slot, _STANDS] == 0:
            continue
        newest[slot, _STANDS] = 1 if stands else 0
        told[n, 0] = i
        told[n, 1] = left if stands else -1
        told[n, 2] = right if stands else -1
        told[n, 3] = newest[slot, _MOMENT]
        told[n, 4] = 0 if stands else 1
        n += 1
    return told[:n].copy(), accepted[:taken].copy(), gone_left[:lefts].copy(), gone_right[:rights].copy()
