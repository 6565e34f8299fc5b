"""`block_copies`: each record once for every block that it is in, so that a block's records come to one task.

The first stage of `sharded`, keyed by record. It remembers which blocks a record is in, and so can tell the blocks that
a corrected record is in no longer, and all of those of a deleted one. Behind its copies goes the record itself, whole:
what is compared travels with the copies, what is only carried with the record.

Every operation on a record has a number, its *revision*. Records of one moment stand in order of their ids, then of
revisions, and deletions stand behind them, in this stage and in those below: so all stages apply them in one order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import DUE, RANK, ROW, Batch
from streamproc.columns import grow
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.sensitivity import strictest
from streamproc.entities.block_keys import NO_BLOCK, block_keys, entry_rules
from streamproc.entities.entity_rows import ordinals
from streamproc.entities.interning import texts_of_keys
from streamproc.entities.linkage_model import LinkageModel
from streamproc.entities.stored_columns import check_column, stored_columns
from streamproc.errors import DuplicateName, UnknownColumn, did_you_mean
from streamproc.kernels import kernel
from streamproc.key_table import KeyTable
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.event_order import absorb
from streamproc.operators.explode import child_meta
from streamproc.operators.join_columns import require_same_key
from streamproc.ports import Int64s

BLOCK: Final = "entity_block"
ENTRY: Final = "entity_entry"
TURN: Final = "entity_turn"
REVISION: Final = "entity_revision"
COPY_COLUMNS: Final = (BLOCK, ENTRY, TURN, REVISION)
RECORD_ITSELF: Final = -1
"""In `ENTRY`, which else says by which rule a record is in the block: the row is the record itself."""
LEAVES: Final = -2
"""... and: the record is no longer in the block."""


@dataclass(slots=True)
class Memberships:
    """blocks: int64[slots, entries], the blocks of each record, -1 for none; revision: int64[slots]."""

    table: KeyTable
    blocks: Int64s
    revision: Int64s


@dataclass(frozen=True, slots=True)
class BlockCopies:
    """Copies of records for their blocks, see the module.

    record    the column of a record's id
    compared  the columns that travel with the copies
    """

    model: LinkageModel
    record: str
    compared: tuple[str, ...]

    @property
    def verb(self) -> str:
        return "block_copies"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The records' columns, null where a copy does not carry them, and those that say what a row is."""
        stream = inputs[0]
        if len(inputs) > 1:
            require_same_key("resolve", *inputs)
        for one in stored_columns(self.model.comparisons, self.model.blocks):
            check_column(stream.schema, one)
        for name in self.compared:
            if name not in stream.schema:
                raise UnknownColumn(f"step 'resolve' reads '{name}'", hint=did_you_mean(name, stream.schema.names))
        check_free(stream.schema, COPY_COLUMNS)
        read = {name for one in self.model.blocks for name in one.columns}
        hashed = strictest(stream.schema[name].pii for name in read)
        carried = (column if column.name == self.record else replace(column, nullable=True) for column in stream.schema)
        made = (Field(BLOCK, pl.Int64(), pii=hashed), *(Field(name, pl.Int64()) for name in COPY_COLUMNS[1:]))
        return replace(stream, schema=Schema((*carried, *made)), keyed_by=None, placed_by=None, ordered=False)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and what makes blocks."""
        read = {name for one in self.model.blocks for name in one.columns}
        rows = passes_through(needed, (self.record, *sorted(read)), COPY_COLUMNS)
        return (rows, frozenset({"record"}))[: len(inputs)]

    def open(self, *inputs: StreamType) -> Memberships:
        return Memberships(KeyTable(), np.zeros((0, entry_rules(self.model).size), np.int64), np.zeros(0, np.int64))

    def process(
        self, state: Memberships, inputs: tuple[Batch, ...], time: StepTime
    ) -> tuple[Memberships, Output]:  # fmt: skip
        """Cost O(blocks) a record."""
        rows = inputs[0]
        rejected: tuple[tuple[str, Batch], ...] = ()
        if rows.frame[self.record].null_count():
            there = rows.frame[self.record].is_not_null().to_numpy()
            rejected, rows = (("record_is_null", rows.filter(~there)),), rows.filter(there)
        assert rows.keys is not None, "the plan keys records by their id"
        slots, metas = state.table.intern(rows.keys), rows.meta
        row_of, port = np.arange(len(rows)), np.zeros(len(rows), np.int64)
        if len(inputs) > 1 and len(inputs[1]):
            deletes = inputs[1]
            assert deletes.keys is not None, "the plan keys deletions by the record"
            absorb(time.fates, deletes.meta)
            slots = np.concatenate([slots, state.table.intern(deletes.keys)])
            metas = np.concatenate([metas, deletes.meta])
            row_of = np.concatenate([row_of, np.full(len(deletes), -1)])
            port = np.concatenate([port, np.ones(len(deletes), np.int64)])
        order = np.lexsort((port, metas[:, RANK], metas[:, DUE], metas[:, ROW]))
        state.blocks = grow(state.blocks, state.table.capacity, fill=NO_BLOCK)
        state.revision = grow(state.revision, state.table.capacity)
        told = _copies(slots[order], row_of[order], block_keys(rows.frame, self.model), state.blocks, state.revision)
        own = told[:, OF_ENTRY] == RECORD_ITSELF
        told[own, OF_BLOCK] = (rows.keys.hashes[told[own, OF_ROW]] >> np.uint64(1)).astype(np.int64)
        meta = child_meta(metas[order][told[:, OF_OP]], ordinals(told[:, OF_OP]))
        return state, Output(Batch(self._frame(state, rows.frame, told), meta), rejected=rejected)

    def _frame(self, state: Memberships, frame: pl.DataFrame, told: Int64s) -> pl.DataFrame:
        """The columns of what is told: those that are compared on copies, all of them on the record itself."""
        entry = told[:, OF_ENTRY]
        copied = _gathered(frame, [name for name in frame.columns if name in self.compared], told, entry != LEAVES)
        rest = [name for name in frame.columns if name != self.record and name not in self.compared]
        whole = _gathered(frame, rest, told, entry == RECORD_ITSELF)
        made = {
            self.record: texts_of_keys(state.table, told[:, OF_SLOT]),
            BLOCK: pl.Series(told[:, OF_BLOCK]), ENTRY: pl.Series(entry),
            TURN: pl.Series((told[:, OF_ROW] < 0).astype(np.int64)), REVISION: pl.Series(told[:, OF_REVISION]),
        }  # fmt: skip
        return pl.DataFrame({**copied, **whole, **made}).select(*frame.columns, *COPY_COLUMNS)


def _gathered(
    frame: pl.DataFrame, names: list[str], told: Int64s, there: npt.NDArray[np.bool_]
) -> dict[str, pl.Series]:  # fmt: skip
    """These columns of the rows that are told, null where they are not there."""
    chosen = frame.select(names)
    if not frame.height:
        return chosen.clear(told.shape[0]).to_dict()
    index = pl.Series(told[:, OF_ROW]).zip_with(pl.Series(there), pl.Series([None], dtype=pl.Int64))
    return {column.name: column.gather(index) for column in chosen.get_columns()}


def check_free(schema: Schema, names: tuple[str, ...]) -> None:
    """Raises DuplicateName where a stream has one of the columns that sharding makes."""
    for name in names:
        if name in schema:
            raise DuplicateName(
                f"step 'resolve' makes a column '{name}' to share out its work, which its input has already",
                hint="rename the input's column before",
            )


OF_OP, OF_BLOCK, OF_ENTRY, OF_REVISION, OF_SLOT, OF_ROW = range(6)


@kernel
def _copies(slots: Int64s, row_of: Int64s, keys: Int64s, blocks: Int64s, revision: Int64s) -> Int64s:
    """What is told of each operation, in order: int64[*, 6], see the constants above; a row of -1 is a deletion."""
    entries = blocks.shape[1]
    told = np.empty((slots.size * (2 * entries + 1), 6), np.int64)
    n = 0
    for i in range(slots.size):
        slot, row = slots[i], row_of[i]
        revision[slot] += 1
        for k in range(entries):
            old = blocks[slot, k]
            stays = old == NO_BLOCK
            for j in range(entries):
                stays = stays or (row >= 0 and keys[row, j] == old)
            if not stays:
                n = _tell(told, n, i, old, LEAVES, revision[slot], slot, row)
        for k in range(entries):
            new = keys[row, k] if row >= 0 else NO_BLOCK
            blocks[slot, k] = new
            if new != NO_BLOCK:
                n = _tell(told, n, i, new, k, revision[slot], slot, row)
        if row >= 0:
            n = _tell(told, n, i, NO_BLOCK, RECORD_ITSELF, revision[slot], slot, row)
    return told[:n].copy()


@kernel
def _tell(told: Int64s, n: int, op: int, block: int, entry: int, revision: int, slot: int, row: int) -> int:
    told[n, 0] = op
    told[n, 1] = block
    told[n, 2] = entry
    told[n, 3] = revision
    told[n, 4] = slot
    told[n, 5] = row
    return n + 1
