"""`follow`: rows of leaves with the entity that each leaf belongs to, and rows again where a leaf changes its entity.

A *leaf* is the smallest thing that can move between entities: one source record, with an id of its own. Leaves never
move between tasks: this step is keyed by leaf, and keeps each leaf's rows as long as somebody below may look back on
them. When a link says that a leaf belongs to another entity, the leaf's rows are told twice more: to the old entity,
which they *leave*, and to the new one, where they *arrive*. Each that leaves is told as itself, so that a step between
which drops a row drops all that is ever told of it. These go the way of all rows, by key through the internal topic of
the next change of key, in the transaction of the step that took the link. So a merge across partitions is an
append to that topic like any other: there is no cycle, nothing waits for an answer, and a crash in the middle leaves
what a crash leaves of any step, nothing.

Every stay of a leaf in an entity has a number, its *epoch*. A leaf that leaves takes exactly the rows of one stay with
it, so several changes at one moment may be told in any order of entities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, C0, C3, EVENT_TIME, LATE, RANK, ROW, Batch, Keys
from streamproc.columns import grow, next_rows
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import MIN_TIME, Span, span_text, span_us
from streamproc.graph import Step, Stream
from streamproc.kernels import kernel
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.event_order import absorb, pass_in_order
from streamproc.operators.join_columns import only_columns, require_same_key
from streamproc.operators.key_columns import text_column
from streamproc.operators.key_runs import (
    BASE,
    FIRST,
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
from streamproc.operators.value_table import ValueTable, value_keys
from streamproc.ports import Int64s
from streamproc.row_loops import copy_rows
from streamproc.state import KeyTable

ENTITY: Final = "entity"
LEAF: Final = "leaf"
STEP: Final = "leaf_step"
EPOCH: Final = "leaf_epoch"
HAPPENED: Final = "leaf_time"
STEPS: Final = pl.Enum(["arrives", "leaves", "row"])
"""What a row is: a leaf's row that comes to its new entity, one that leaves the old entity, or one that just happened.
Their order is the order in which rows of one moment are applied."""
ARRIVES, LEAVES, HAPPENS = range(3)
_STEPS: Final = pl.Series(STEPS.categories.to_list(), dtype=STEPS)
_MADE: Final = (ENTITY, LEAF, STEP, EPOCH, HAPPENED)
_OWN: Final = -1
"""The entity of a leaf that belongs to none: it stands for itself."""


@dataclass(slots=True)
class FollowState:
    """Leaves, what they belong to, and their rows.

    entity    int64[slots]: code of the leaf's entity, -1 while it stands for itself
    epoch     int64[slots]: number of the leaf's stay
    entities  ids of entities, by code
    """

    table: KeyTable
    entity: Int64s
    epoch: Int64s
    entities: ValueTable
    runs: KeyRuns
    rows: RowStore
    row_waits: RowStore
    link_waits: RowStore


@dataclass(frozen=True, slots=True)
class Follow:
    """Rows with the entity of their leaf, see `follow`."""

    keep_us: int
    column: str

    @property
    def verb(self) -> str:
        return "follow"

    @property
    def ordered_around(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Columns that order rows of one moment before, and after, the columns by which its input is ordered."""
        return (STEP,), (EPOCH,)

    def schema(self, *inputs: StreamType) -> StreamType:
        """The rows' columns and those of the leaf and its entity.

        Raises DefinitionError for streams that are not keyed, or not in order; TypeMismatch for ids that are no text.
        """
        rows, links = inputs
        require_same_key(self.verb, rows, links)
        key = rows.require_key(self.verb)
        if len(key) != 1 or not isinstance(rows.schema[key[0]].dtype, pl.String):
            raise TypeMismatch(
                f"step '{self.verb}' takes the id of a leaf, and its key is {', '.join(key) or 'no column'}",
                hint="key both sides by one column of text: the record's id",
            )
        if rows.schema[key[0]].nullable:
            raise TypeMismatch(
                f"step '{self.verb}' takes '{key[0]}' for the id of a leaf, and it may be null",
                hint=f"filter before the key_by: sp.where(pl.col('{key[0]}').is_not_null())",
            )
        if self.column not in links.schema:
            raise UnknownColumn(
                f"the links of step '{self.verb}' have no column '{self.column}'",
                hint=did_you_mean(self.column, links.schema.names),
            )
        if not isinstance(links.schema[self.column].dtype, pl.String):
            raise TypeMismatch(
                f"step '{self.verb}' takes '{self.column}' for an entity's id, and it is "
                f"{links.schema[self.column].dtype}",
                hint="make it text in a with_columns before",
            )
        if not (rows.ordered and links.ordered):
            raise DefinitionError(
                f"step '{self.verb}' must know which came first, a row or a link",
                hint="put sp.ordered() before it, on both sides, behind their key_by",
            )
        for name in _MADE:
            if name in rows.schema:
                raise DuplicateName(
                    f"step '{self.verb}' makes a column '{name}', which its input has already",
                    hint="rename the input's column before",
                )
        made = (
            Field(ENTITY, pl.String(), pii=links.schema[self.column].pii, merges=True),
            Field(LEAF, pl.String(), pii=rows.schema[key[0]].pii),
            Field(STEP, STEPS),
            Field(EPOCH, pl.Int64()),
            Field(HAPPENED, pl.Int64(), unit=kept(self.keep_us)),
        )
        schema = Schema((*rows.schema, *made))
        return replace(rows, schema=schema, keyed_by=None, ordered=True, placed_by=None)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return needed & frozenset(inputs[0].names), frozenset((self.column,))

    def open(self, *inputs: StreamType) -> FollowState:
        rows, links = inputs
        none = np.empty(0, np.int64)
        return FollowState(
            KeyTable(), none, none.copy(), ValueTable(), key_runs(), row_store(rows.schema.polars(), keyed=False),
            row_store(rows.schema.polars(), keyed=True), row_store(links.schema.polars(), keyed=True),
        )  # fmt: skip

    def process(self, state: FollowState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[FollowState, Output]:
        """Cost O(1) a row, and O(rows kept of the leaf) a change of its entity."""
        (rows, late), (links, late_links) = split_late(inputs[0]), split_late(inputs[1])
        rows = pass_in_order(state.row_waits, rows, time, by=None)
        links = pass_in_order(state.link_waits, links, time, by=None)
        absorb(time.fates, links.meta)
        output = self._followed(state, rows, links)
        self._forget(state, MIN_TIME if time.end is None else time.end)
        return state, Output(output, late, late_others=() if late_links is None else (late_links,))

    def _followed(self, state: FollowState, rows: Batch, links: Batch) -> Batch:
        assert rows.keys is not None and links.keys is not None, "the plan gives joins keyed inputs"
        store, runs = state.rows, state.runs
        if state.entities.crowded():
            state.entities.sweep(np.unique(state.entity[state.entity >= 0]))
        link_slots, row_slots = state.table.intern(links.keys), state.table.intern(rows.keys)
        _make_room(state, 1 + max(int(link_slots.max(initial=-1)), int(row_slots.max(initial=-1))))
        to = links.frame.get_column(self.column)
        codes = np.where(to.is_null().to_numpy(), _OWN, state.entities.keys.intern(value_keys(to)))
        moments = np.ascontiguousarray(rows.event_time)
        kept_rows = replace(rows, frame=only_columns(rows.frame, store.old.columns))
        numbers = store.append(kept_rows, moments + self.keep_us, owners=row_slots)
        runs.arena, told = _follow(
            merge_by_position(_positions(rows), _positions(links), 1), self.keep_us, state.entity, state.epoch,
            runs.runs, runs.arena, runs.free, runs.used, row_slots, moments, numbers, link_slots,
            np.ascontiguousarray(links.event_time), codes,
        )  # fmt: skip
        meta = store.meta[told[:, 2]]
        happened = meta[:, EVENT_TIME].copy()
        came = told[:, 0]
        by_link = came >= len(rows)
        if by_link.any():
            # What a link makes stands where the link stands, under the coordinate of the row that is told again.
            cause = links.meta[came[by_link] - len(rows)]
            moved = cause.copy()
            moved[:, C0 : C3 + 1] = meta[by_link, C0 : C3 + 1]
            moved[:, ACCOUNT], moved[:, LATE] = -1, 0
            meta[by_link] = moved
        frame = pl.DataFrame([*store.frame(told[:, 2]).get_columns(), *_told_columns(state, told, happened)])
        return Batch(frame, np.ascontiguousarray(meta))

    def _forget(self, state: FollowState, end: int) -> None:
        """Drops rows on which nobody looks back any more; what a leaf belongs to stays."""
        due = state.rows.take_due(end)
        if not due.size:
            return
        state.runs.drop(state.rows.owners[due])
        state.rows.remove(due)
        numbers = state.rows.compact()
        if numbers is not None:
            state.runs.renumber(numbers)


def follow(links: Stream, *, keep: Span, entity: str = "entity_id", name: str = "") -> Step:
    """Gives rows of leaves the entity that their leaf belongs to, and hands a leaf's rows over when it changes.

    links   keyed as the rows are, by the id of the leaf: `sp.entity_rows("links")` of `resolve`, or any stream that
            says what a leaf belongs to from its event time on; null: it stands for itself again
    keep    how long a leaf's rows are kept to be handed over: at least the longest span of what looks back on them
    entity  the links' column with the entity's id

    The columns `entity` and `leaf` are added; a leaf that no link has named yet is an entity of its own, under its own
    id. Key by `entity` behind it and put `sp.features` there: a row then sees all rows of all leaves that belong to its
    entity at its own moment, of the time before they did too, and none of a leaf that left. What was said stays said.
    Both sides must be `ordered`; a link comes before the rows of its own moment, and rows are in order below too. The
    further columns `leaf_step`, `leaf_epoch` and `leaf_time` tell features what a row is; they end there. Other steps
    between the two should be of the row alone (`where`, `with_columns`).

    Memory: the rows of `keep`, once here by leaf and once in the features by entity; 24 bytes a leaf for ever.
    Raises DefinitionError for a stream that is not in order.

    >>> follow(Stream(Follow(1, "entity_id")), keep="30d").operator.keep_us
    2592000000000
    """
    span = span_us(keep)
    if span <= 0:
        raise DefinitionError(f"'follow' keeps rows for {keep}", hint="spans are above zero")
    return Step(Follow(span, entity), (links,), name)


def is_followed(schema: Schema) -> bool:
    """Whether rows of a stream say which leaf they are of, and come again where it moves."""
    return STEP in schema and schema[STEP].dtype == STEPS


def require_own_id(step: str, schema: Schema, columns: tuple[str, ...], does: str) -> None:
    """Raises DefinitionError where rows that wait would be known by an entity that may merge and split meanwhile."""
    for name in columns:
        if schema[name].merges:
            raise DefinitionError(
                f"step '{step}' {does} by '{name}', which is another for the same row once its entity merges or splits",
                hint="by the row's own id; outcomes of the entity come under it from "
                "sp.outcomes(rows, events, within='14d', on='order_id', into='returned')",
            )


def kept(keep_us: int) -> str:
    """The unit of `leaf_time`, which says how long rows are kept to be handed over."""
    return f"us within {span_text(keep_us)}"


def kept_us(unit: str) -> int:
    """The inverse of `kept`.

    >>> kept_us(kept(3_600_000_000))
    3600000000
    """
    return span_us(unit.rpartition(" ")[2])


def _positions(batch: Batch) -> Int64s:
    return np.ascontiguousarray(batch.meta[:, ROW : RANK + 1])


def _make_room(state: FollowState, slots: int) -> None:
    state.runs.make_room(slots)
    capacity = next_rows(state.entity.size, slots)
    state.entity = grow(state.entity, capacity, fill=_OWN)
    state.epoch = grow(state.epoch, capacity)


def _told_columns(state: FollowState, told: Int64s, happened: Int64s) -> list[pl.Series]:
    leaves, codes = np.ascontiguousarray(told[:, 3]), np.ascontiguousarray(told[:, 4])
    leaf = _texts(LEAF, state.table.key_bytes(leaves))
    entity = leaf.alias(ENTITY)
    linked = codes >= 0
    if linked.any():
        ids = _texts("", state.entities.keys.key_bytes(np.where(linked, codes, codes[linked][0])))
        entity = ids.zip_with(pl.Series(linked), entity).alias(ENTITY)
    steps = _STEPS[told[:, 1]].alias(STEP)
    return [entity, leaf, steps, pl.Series(EPOCH, told[:, 5]), pl.Series(HAPPENED, happened)]


def _texts(name: str, keys: Keys) -> pl.Series:
    return text_column(name, keys.buffer, keys.starts, keys.ends)


@kernel
def _follow(
    order: Int64s, keep: int, entity: Int64s, epoch: Int64s, runs: Int64s, arena: Int64s, free: Int64s, used: Int64s,
    row_slots: Int64s, row_times: Int64s, row_numbers: Int64s,
    link_slots: Int64s, link_times: Int64s, link_codes: Int64s,
) -> tuple[Int64s, Int64s]:  # fmt: skip
    """Lets rows and links come in `order`; gives the arena, and what is told.

    Told are int64[*, 6]: the row or link that came (as in `order`), the step, the number of the row, the leaf's slot,
    the entity's code and the epoch.
    """
    told = np.empty((order.size, 6), np.int64)
    n = 0
    for at in range(order.size):
        i = order[at]
        if i < row_slots.size:
            slot = row_slots[i]
            if is_full(runs, slot):
                arena = make_place(runs, arena, free, used, slot)
            insert(runs, arena, slot, row_times[i], row_numbers[i])
            told = _more(told, n + 1)
            _tell(told, n, i, HAPPENS, row_numbers[i], slot, entity[slot], epoch[slot])
            n += 1
            continue
        j = i - row_slots.size
        slot, code = link_slots[j], link_codes[j]
        if entity[slot] == code:
            continue
        first = first_at_or_after(runs, arena, slot, link_times[j] - keep + 1)
        stop = runs[slot, BASE] + runs[slot, FIRST] + runs[slot, LENGTH]
        told = _more(told, n + 2 * (stop - first))
        for place in range(first, stop):
            _tell(told, n, i, LEAVES, arena[place, NUMBER], slot, entity[slot], epoch[slot])
            n += 1
        entity[slot] = code
        epoch[slot] += 1
        for place in range(first, stop):
            _tell(told, n, i, ARRIVES, arena[place, NUMBER], slot, code, epoch[slot])
            n += 1
    return arena, told[:n].copy()


@kernel
def _more(told: Int64s, need: int) -> Int64s:
    """The array with room for so many rows."""
    if need <= told.shape[0]:
        return told
    more = np.empty((max(need, 2 * told.shape[0] + 16), 6), np.int64)
    copy_rows(told, more, told.shape[0])
    return more


@kernel
def _tell(told: Int64s, n: int, came: int, step: int, number: int, slot: int, code: int, epoch: int) -> None:
    told[n, 0] = came
    told[n, 1] = step
    told[n, 2] = number
    told[n, 3] = slot
    told[n, 4] = code
    told[n, 5] = epoch
