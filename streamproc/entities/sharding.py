"""`sharded`: a `resolve` whose pairs are found by as many tasks as there are partitions.

    records --by record-->  block_copies  --by block-->  block_pairs  --to one task-->  resolve

Each stage stands below `ordered`, so all of them see records, corrections and deletions in one order: event time, then
the record's id. A record reaches the last stage behind all of its pairs, and there the single writer's own code does
the rest: so what comes out are the rows that `ordered | key_by() | resolve` gives, on any number of partitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Schema
from streamproc.entities.block_copies import BLOCK, REVISION, TURN, BlockCopies
from streamproc.entities.block_keys import entry_rules
from streamproc.entities.block_pairs import (
    AGREED,
    BEHIND_ALL,
    COMPARED,
    ENTRY_BITS,
    HELD,
    OTHER,
    PAIR_COLUMNS,
    PLACE,
    WEIGHT,
    BlockPairs,
)
from streamproc.entities.capped import CAPPED, capped_frame
from streamproc.entities.linkage_model import Floats
from streamproc.entities.resolve import Given, Resolve
from streamproc.entities.tables import Tables
from streamproc.errors import DefinitionError
from streamproc.graph import Step
from streamproc.keys import keys_of
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.columns import where
from streamproc.operators.event_order import absorb
from streamproc.operators.key_by import KeyBy
from streamproc.operators.ordered import Ordered
from streamproc.ports import Int64s


@dataclass(slots=True)
class Gathering:
    """The single writer's state, and the pairs of the record that comes next: slots of the other records, weights."""

    tables: Tables
    others: Int64s
    weights: Floats


@dataclass(frozen=True, slots=True)
class ResolvePairs:
    """Makes entities of records that come behind their pairs: the last stage of `sharded`."""

    resolve: Resolve

    @property
    def verb(self) -> str:
        return "resolve"

    def _inputs(self, *inputs: StreamType) -> tuple[StreamType, ...]:
        """The inputs as the single writer would have them."""
        own = tuple(column for column in inputs[0].schema if column.name not in PAIR_COLUMNS)
        return (replace(inputs[0], schema=Schema(own)), *inputs[1:])

    def schema(self, *inputs: StreamType) -> StreamType:
        """As `resolve`."""
        return self.resolve.schema(*self._inputs(*inputs))

    def sides(self, *inputs: StreamType) -> Mapping[str, StreamType]:
        """As `resolve`."""
        return self.resolve.sides(*self._inputs(*inputs))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """As `resolve`, and what speaks of pairs."""
        own = Schema(tuple(column for column in inputs[0] if column.name not in PAIR_COLUMNS))
        read = self.resolve.reads(needed, own, *inputs[1:])
        return (read[0] | frozenset(PAIR_COLUMNS), *read[1:])

    def open(self, *inputs: StreamType) -> Gathering:
        """No records."""
        return Gathering(self.resolve.open(*self._inputs(*inputs)), np.empty(0, np.int64), np.empty(0))

    def process(self, state: Gathering, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Gathering, Output]:
        """Cost a record: its pairs, and its component."""
        rows = inputs[0]
        frame, tables = rows.frame, state.tables
        place = frame[PLACE].to_numpy()
        absorb(time.fates, rows.meta[place != BEHIND_ALL])
        itself = np.flatnonzero(place == BEHIND_ALL)
        pairs = np.flatnonzero(frame[OTHER].is_not_null().to_numpy() & (place != BEHIND_ALL))
        others = tables.keys.intern(keys_of(frame.select(OTHER)[pairs], [OTHER]))
        weights = frame[WEIGHT].gather(pl.Series(pairs)).to_numpy()
        waiting = state.others.size
        begins = np.append(0, waiting + np.searchsorted(pairs, itself))
        state.others = np.concatenate([state.others, others])
        state.weights = np.concatenate([state.weights, weights])
        given = Given(begins, state.others, state.weights)
        own = rows.take(itself).with_frame(frame[itself].drop(PAIR_COLUMNS, strict=False))
        output = self.resolve.resolved(tables, own, inputs[1:], given, [], time)
        taken = int(begins[-1]) if itself.size else 0
        state.others, state.weights = state.others[taken:].copy(), state.weights[taken:].copy()
        return state, replace(output, sides=((CAPPED, self._capped(rows, place)),))

    def _capped(self, rows: Batch, place: Int64s) -> Batch:
        """The rows that tell of full blocks."""
        full = rows.filter(rows.frame[HELD].is_not_null().to_numpy() & (place != BEHIND_ALL))
        rules = entry_rules(self.resolve.model)[full.frame[PLACE].to_numpy() >> ENTRY_BITS]
        held, compared, agreed = (full.frame[name].to_numpy() for name in (HELD, COMPARED, AGREED))
        blocks, cap = self.resolve.model.blocks, self.resolve.block_cap
        frame = capped_frame(full.frame[self.resolve.record], rules, held, compared, agreed, blocks, cap)
        return Batch(frame, np.ascontiguousarray(full.meta))


def sharded(step: Step) -> Step:
    """Has a `resolve` find its pairs in as many tasks as there are partitions: `records | sp.sharded(sp.resolve(..))`.

    No `key_by` is needed before, neither for its commands. Gives the rows that
    `records | sp.key_by() | sp.ordered(record) | sp.resolve(...)` gives, whatever the number of partitions: the same
    events, ids and golden records, in the same order; `.side("capped")` too. A record waits until time has passed it,
    three times, where the single writer takes it as it comes; rows that are late for that go to `<topology>.late`.
    Each record travels once for each of its blocks: it pays where weighing pairs is what costs (see docs/entities.md).
    Of one record and block, the 16 strongest pairs are passed on, and the 16 strongest in doubt.
    Raises DefinitionError for another step than a `resolve`.
    """
    single = step.operator
    if not isinstance(single, Resolve) or single.pairs_given:
        raise DefinitionError(
            f"'sharded' shares out the work of a resolve, and got a step '{single.verb}'",
            hint="records | sp.sharded(sp.resolve(linkage, record='id'))",
        )
    record = single.record
    pairs = BlockPairs(
        single.model, record, single.source, single.mode, single.threshold,
        single.threshold if single.review is None else single.review, single.block_cap,
    )  # fmt: skip
    commands, deletes = step.others, step.others
    if commands:
        deleted = (pl.col("action").cast(pl.String) == "delete") & pl.col("record").is_not_null()
        deletes = (commands[0] | where(deleted) | Step(KeyBy(("record",))) | Step(Ordered(("record",))),)
        commands = (commands[0] | Step(KeyBy(())) | Step(Ordered(("record", "other"))),)
    before = (
        Step(KeyBy((record,))),
        Step(Ordered((record,))),
        Step(BlockCopies(single.model, record, pairs.compared), deletes),
        Step(KeyBy((BLOCK,))),
        Step(Ordered((TURN, record, REVISION))),
        Step(pairs),
        Step(KeyBy(())),
        Step(Ordered((record, REVISION, PLACE))),
    )
    return Step(ResolvePairs(replace(single, pairs_given=True)), commands, step.name, before)
