"""`block_pairs`: the pairs of a block that agree enough, found where the block's records are.

The second stage of `sharded`, keyed by block; below `ordered`, so that a block's records come in one order whatever the
number of tasks. A record that comes is weighed against the newest ones of its block, as `resolve` does it; what reaches
the review bound leaves as a row of the record that came. A pair that shares several blocks leaves once for each: which
of them is the first would be known only where all are.

Each row says by its *place* where it stands behind its record: pairs by block and the newest first, as a single writer
meets them, then what a full block cost, and last of all the record itself. So who reads them in order of record,
revision and place has all pairs of a record when the record comes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import Batch
from streamproc.columns import grow
from streamproc.contracts.model import Field, Schema
from streamproc.entities import pairing
from streamproc.entities.block_copies import COPY_COLUMNS, ENTRY, RECORD_ITSELF, REVISION, check_free
from streamproc.entities.entity_rows import ordinals
from streamproc.entities.interning import Interned, Values, intern_frame, interned, texts
from streamproc.entities.linkage_model import Floats, LinkageModel, weight_of
from streamproc.entities.links import BOTH
from streamproc.entities.pairing import Lists, pair_up
from streamproc.entities.program import Program, program_of
from streamproc.entities.scoring import scorer
from streamproc.entities.stored_columns import StoredColumn, stored_columns
from streamproc.entities.tables import Int32s
from streamproc.int_table import IntTable
from streamproc.key_table import KeyTable
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.event_order import absorb
from streamproc.operators.explode import child_meta
from streamproc.ports import Int64s

PLACE: Final = "entity_place"
OTHER: Final = "entity_other"
WEIGHT: Final = "entity_weight"
HELD: Final = "entity_held"
COMPARED: Final = "entity_compared"
AGREED: Final = "entity_agreed"
PAIR_COLUMNS: Final = (REVISION, PLACE, OTHER, WEIGHT, HELD, COMPARED, AGREED)
BEHIND_ALL: Final = 1 << 62
"""The place of the record itself."""
AFTER_PAIRS: Final = (1 << 32) - 1
ENTRY_BITS: Final = 32
"""Below the number of the entry in a place."""


@dataclass(slots=True)
class BlockRecords:
    """Records by block: `places` leads from a block and a record's id (a value) to an entry.

    values         int32[entries, columns]
    older, newer   int32[entries]: neighbours in the block
    newest, held   per block
    """

    blocks: KeyTable
    kept: Interned
    places: IntTable
    values: Int32s
    older: Int32s
    newer: Int32s
    newest: Int32s
    held: Int64s


@dataclass(frozen=True, slots=True)
class BlockPairs:
    """Pairs of blocks, see the module.

    mode  which sources are compared, as in `links`
    """

    model: LinkageModel
    record: str
    source: str
    mode: int
    threshold: float
    review: float
    block_cap: int
    stored: tuple[StoredColumn, ...] = field(init=False, repr=False, metadata={"fingerprint": False})
    program: Program = field(init=False, repr=False, compare=False, metadata={"fingerprint": False})

    def __post_init__(self) -> None:
        raw = [self.record, *([self.source] if self.mode != BOTH else [])]
        object.__setattr__(self, "stored", stored_columns(self.model.comparisons, (), raw))
        object.__setattr__(self, "program", program_of(self.model, self.stored, blocks=()))

    @property
    def verb(self) -> str:
        return "block_pairs"

    @property
    def compared(self) -> tuple[str, ...]:
        """The columns that it reads of each record."""
        read = [name for one in self.stored for name in (one.column, one.other) if name and name != self.record]
        return tuple(dict.fromkeys(read))

    def schema(self, *inputs: StreamType) -> StreamType:
        """The records' columns, null but on the record itself, and those of its pairs."""
        (stream,) = inputs
        own = Schema(tuple(column for column in stream.schema if column.name not in COPY_COLUMNS))
        check_free(own, PAIR_COLUMNS)
        record = own[self.record]
        made = (
            Field(REVISION, pl.Int64()), Field(PLACE, pl.Int64()),
            Field(OTHER, pl.String(), nullable=True, pii=record.pii, origins=record.origins),
            Field(WEIGHT, pl.Float64(), nullable=True),
            *(Field(name, pl.Int64(), nullable=True) for name in (HELD, COMPARED, AGREED)),
        )  # fmt: skip
        return replace(stream, schema=Schema((*own, *made)), keyed_by=None, placed_by=None, ordered=False)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, what is compared, and what a row is."""
        own = (self.record, *self.compared, *COPY_COLUMNS[1:])
        return (passes_through(needed, own, PAIR_COLUMNS[1:]),)

    def open(self, *inputs: StreamType) -> BlockRecords:
        none = np.zeros(0, np.int32)
        return BlockRecords(
            KeyTable(), interned(), IntTable(), np.zeros((0, len(self.stored)), np.int32), none, none.copy(),
            none.copy(), np.zeros(0, np.int64),
        )  # fmt: skip

    def process(
        self, state: BlockRecords, inputs: tuple[Batch, ...], time: StepTime
    ) -> tuple[BlockRecords, Output]:  # fmt: skip
        """Cost a copy: at most `block_cap` pairs, most of them told apart without reading their texts."""
        (rows,) = inputs
        assert rows.keys is not None, "the plan keys copies by their block"
        entry = rows.frame[ENTRY].to_numpy()
        mine = np.flatnonzero(entry != RECORD_ITSELF)
        copies = rows if mine.size == len(rows) else rows.take(mine)
        absorb(time.fates, copies.meta)
        told, weights, full, gone = self._paired(state, copies)
        itself = np.flatnonzero(entry == RECORD_ITSELF)
        parents = np.concatenate([mine[told[:, pairing.OF_ROW]], mine[full[:, pairing.OF_ROW]], itself])
        places = (_place(told, told[:, pairing.NTH]), _place(full, AFTER_PAIRS), np.full(itself.size, BEHIND_ALL))
        place = np.concatenate(places)
        order = np.lexsort((place, parents))
        others = texts(state.kept, told[:, pairing.OTHER])
        state.kept.release(gone.astype(np.int64))
        frame = _columns(rows.frame, parents, entry, self.record)
        frame |= {
            PLACE: pl.Series(place), OTHER: _spread(others, 0, parents.size),
            WEIGHT: _spread(pl.Series(weights), 0, parents.size),
        }  # fmt: skip
        for name, column in ((HELD, pairing.HELD), (COMPARED, pairing.COMPARED), (AGREED, pairing.AGREED)):
            frame[name] = _spread(pl.Series(full[:, column]), told.shape[0], parents.size)
        parents = parents[order]
        made = pl.DataFrame(frame)[order] if order.size else pl.DataFrame(frame)
        return state, Output(Batch(made, child_meta(rows.meta[parents], ordinals(parents))))

    def _paired(
        self, state: BlockRecords, copies: Batch
    ) -> tuple[Int64s, Floats, Int64s, Int32s]:  # fmt: skip
        assert copies.keys is not None, "the plan keys copies by their block"
        came = self._values(state, copies.frame)
        blocks = state.blocks.intern(copies.keys)
        state.places.reserve(len(copies))
        capacity = state.places.capacity
        for name in ("values", "older", "newer"):
            setattr(state, name, grow(getattr(state, name), capacity, fill=-1))
        state.newest = grow(state.newest, state.blocks.capacity, fill=-1)
        state.held = grow(state.held, state.blocks.capacity)
        source = self.stored.index(StoredColumn(self.source, "raw")) if self.mode != BOTH else 0
        numbers = np.array([self.block_cap, self.mode, source, self.stored.index(StoredColumn(self.record, "raw"))])
        made = pair_up(
            scorer(self.program, state.kept), Lists(state.values, state.older, state.newer, state.newest, state.held),
            state.places.arrays, state.kept.counts, blocks, copies.frame[ENTRY].to_numpy(), came,
            numbers, weight_of(self.threshold), weight_of(self.review),
        )  # fmt: skip
        empty = np.unique(blocks)
        empty = empty[state.held[empty] == 0]
        if empty.size:
            state.blocks.release(empty)
        return made


    def _values(self, state: BlockRecords, frame: pl.DataFrame) -> Values:
        """The values of copies as numbers; copies of one record often stand together, and are looked up once."""
        if not frame.height:
            return intern_frame(state.kept, frame, self.stored, self.model, self.program)
        names = (self.record, *self.compared)
        other = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in names)
        differs = frame.select(other).to_series().to_numpy().copy()
        differs[0] = True
        distinct = frame.filter(pl.Series(differs))
        values = intern_frame(state.kept, distinct, self.stored, self.model, self.program)
        return np.ascontiguousarray(values[np.cumsum(differs) - 1])


def _place(told: Int64s, behind: Int64s | int) -> Int64s:
    place: Int64s = (told[:, pairing.OF_ENTRY] << ENTRY_BITS) + behind
    return place


def _spread(values: pl.Series, begin: int, rows: int) -> pl.Series:
    """A column of so many rows that has these values from `begin` on, and nulls elsewhere."""
    nulls = pl.Series([None], dtype=values.dtype)
    parts = [nulls.new_from_index(0, begin), values, nulls.new_from_index(0, rows - begin - len(values))]
    return pl.concat(parts, rechunk=True)


def _columns(frame: pl.DataFrame, parents: Int64s, entry: Int64s, record: str) -> dict[str, pl.Series]:
    """The columns of the rows from which these are made; but for id and revision null but on the records themselves."""
    kept = [name for name in frame.columns if name not in COPY_COLUMNS]
    itself = pl.Series(entry[parents] == RECORD_ITSELF)
    rows = pl.Series(parents)
    index = rows.zip_with(itself, pl.Series([None], dtype=pl.Int64))
    made = {name: frame[name].gather(rows if name == record else index) for name in kept}
    return made | {REVISION: frame[REVISION].gather(rows)}
