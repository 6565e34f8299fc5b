"""The state of `resolve`: records, blocks, edges and entities as columns linked by numbers.

Everything is an array that grows. A record's slot is that of its id in a key table and is never given to another id;
a record that was deleted keeps its slot, so that every entity id that was ever issued can be resolved.

**Ids.** An entity has the id of its founding record: the one of its records that came first. A record that is deleted
hands the id that it carries on to the oldest record of its entity that is left; so each record *carries* a claim (a
record's slot and its generation, how often that record had been deleted before), at first its own.

**Lists.** Members of an entity, records of a block and edges of a record are doubly linked lists. Entry e of the blocks
belongs to record e // entries; half h of the edges belongs to edge h // 2 and names the record at the other end.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from streamproc.columns import grow, next_rows
from streamproc.entities.interning import Interned, Values, interned
from streamproc.entities.linkage_model import Floats
from streamproc.int_table import IntTable
from streamproc.key_table import KeyTable
from streamproc.ports import Bytes, Int64s

Int32s = npt.NDArray[np.int32]

MATCH, MUST, CANNOT, NO_EDGE = 0, 1, 2, 3

BORN: Final = 0
"""Counters of `Tables.counters`: records that ever came, ..."""
ALIVE: Final = 1
EDGES: Final = 2
FREE_EDGE: Final = 3
"""... the first free edge plus one, the others linked through `half_next`, ..."""
ENTITIES: Final = 4
FREE_ENTITY: Final = 5
CANNOTS: Final = 6
LARGE: Final = 7
"""... decisions taken without looking at the whole component because it was too large, ..."""
RETIRED: Final = 8
WEIGHED: Final = 9
"""... pairs that were weighed, ..."""
DROPPED_EDGES: Final = 10
"""... and agreeing pairs that were not kept because the record had stronger ones enough."""
COUNTERS: Final = 16

UNSEEN: Final = 0
"""Columns of `Tables.rules`: pairs of a block that were not looked at because it was full, ..."""
SEEN: Final = 1
"""... pairs of full blocks that were, and that no other block brought, ..."""
MATCHED: Final = 2
"""... and those of them that matched."""
FULL: Final = 3
RULES: Final = 4


class Records(NamedTuple):
    """Per record.  `mark` is scratch: -1 between two operations."""

    values: Values
    alive: Bytes
    born: Int64s
    moment: Int64s
    rank: Int32s
    source: Int32s
    claim: Int32s
    claim_generation: Int32s
    claim_born: Int64s
    generation: Int32s
    entity: Int32s
    next_member: Int32s
    previous_member: Int32s
    first_half: Int32s
    mark: Int32s


class Blocks(NamedTuple):
    """Per entry of a record its neighbours and its block; per block its first entry and how many it has."""

    entry_next: Int32s
    entry_previous: Int32s
    entry_block: Int32s
    head: Int32s
    held: Int64s
    entry_rule: Int64s
    rules: Int64s


class Edges(NamedTuple):
    """Per half the record at the other end and its neighbours; per edge its weight, kind and pattern of levels."""

    half_record: Int32s
    half_next: Int32s
    half_previous: Int32s
    weight: Floats
    kind: npt.NDArray[np.int8]
    pattern: Int64s


class Entities(NamedTuple):
    """Per entity its members, and the one whose claim is its id."""

    head: Int32s
    size: Int64s
    founder: Int32s


@dataclass(slots=True)
class Tables:
    """See the module.  `successors` (int64[n, 4]) holds claims that nobody carries, each with the claim to which it
    leads: record and generation of both, -1 where its entity is gone."""

    keys: KeyTable
    kept: Interned
    values: Values
    alive: Bytes
    born: Int64s
    moment: Int64s
    rank: Int32s
    source: Int32s
    claim: Int32s
    claim_generation: Int32s
    claim_born: Int64s
    generation: Int32s
    entity: Int32s
    next_member: Int32s
    previous_member: Int32s
    first_half: Int32s
    mark: Int32s
    entry_next: Int32s
    entry_previous: Int32s
    entry_block: Int32s
    block_table: IntTable
    block_head: Int32s
    block_count: Int64s
    rules: Int64s
    half_record: Int32s
    half_next: Int32s
    half_previous: Int32s
    edge_weight: Floats
    edge_kind: npt.NDArray[np.int8]
    edge_pattern: Int64s
    entity_head: Int32s
    entity_size: Int64s
    entity_founder: Int32s
    successors: Int64s
    counters: Int64s

    @property
    def records(self) -> Records:
        """The kernels' view of the records."""
        return Records(*(getattr(self, name) for name in Records._fields))

    def blocks(self, entry_rule: Int64s) -> Blocks:
        """The kernels' view of the blocks."""
        return Blocks(
            self.entry_next, self.entry_previous, self.entry_block, self.block_head, self.block_count, entry_rule,
            self.rules,
        )  # fmt: skip

    @property
    def edges(self) -> Edges:
        """The kernels' view of the edges."""
        return Edges(
            self.half_record, self.half_next, self.half_previous, self.edge_weight, self.edge_kind, self.edge_pattern
        )

    @property
    def entities(self) -> Entities:
        """The kernels' view of the entities."""
        return Entities(self.entity_head, self.entity_size, self.entity_founder)

    def fit_records(self) -> None:
        """Makes room for all records whose ids are known."""
        capacity = self.keys.capacity
        if self.alive.size >= capacity:
            return
        nothing = frozenset(
            {"source", "claim", "entity", "next_member", "previous_member", "first_half", "mark", "entry_next",
             "entry_previous", "entry_block", "entity_head", "entity_founder"}
        )  # fmt: skip
        for name in (*Records._fields, "entry_next", "entry_previous", "entry_block", "entity_head", "entity_size",
                     "entity_founder"):  # fmt: skip
            setattr(self, name, grow(getattr(self, name), capacity, fill=-1 if name in nothing else 0))

    def fit_blocks(self) -> None:
        """Makes room for all blocks."""
        capacity = self.block_table.capacity
        self.block_head = grow(self.block_head, capacity, fill=-1)
        self.block_count = grow(self.block_count, capacity)

    def fit_edges(self, more: int) -> None:
        """Makes room for so many edges beside those that there are."""
        rows = next_rows(self.edge_weight.size, int(self.counters[EDGES]) + more)
        if rows > self.edge_weight.size:
            for name in ("half_record", "half_next", "half_previous"):
                setattr(self, name, grow(getattr(self, name), 2 * rows, fill=-1))
            self.edge_weight = grow(self.edge_weight, rows)
            self.edge_kind = grow(self.edge_kind, rows, fill=NO_EDGE)
            self.edge_pattern = grow(self.edge_pattern, rows)

    def fit_retired(self, more: int) -> None:
        """Makes room for so many claims that nobody will carry."""
        self.successors = grow(self.successors, next_rows(self.successors.shape[0], int(self.counters[RETIRED]) + more))


def tables(columns: int, entries: int, rules: int) -> Tables:
    """No records."""
    made: dict[str, Any] = {
        "keys": KeyTable(), "kept": interned(), "block_table": IntTable(), "rules": np.zeros((rules, RULES), np.int64),
        "counters": np.zeros(COUNTERS, np.int64), "successors": np.zeros((0, 4), np.int64),
        "values": np.zeros((0, columns), np.int32),
    }  # fmt: skip
    for name in ("entry_next", "entry_previous", "entry_block"):
        made[name] = np.zeros((0, entries), np.int32)
    kinds = {"alive": np.uint8, "edge_kind": np.int8, "edge_weight": np.float64}
    wide = {"born", "moment", "claim_born", "block_count", "edge_pattern", "entity_size"}
    for one in fields(Tables):
        if one.name not in made:
            made[one.name] = np.zeros(0, np.int64 if one.name in wide else kinds.get(one.name, np.int32))
    return Tables(**made)
