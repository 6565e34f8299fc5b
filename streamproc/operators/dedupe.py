"""`dedupe`: the first row of each id goes on, its repetitions do not.

Of each id the event times of rows that went on are remembered (nearly always one), each until the watermark is above
it by more than the span. No row in time can repeat it then, so forgetting never changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from streamproc.batch import Batch
from streamproc.columns import grow, next_rows
from streamproc.contracts.model import Schema
from streamproc.errors import DefinitionError
from streamproc.event_time import MIN_TIME, Span, span_us
from streamproc.graph import Step
from streamproc.kernels import kernel
from streamproc.keys import key_kinds, keys_of
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.deadlines import BLOCK, NEVER, blocks_of, take_due
from streamproc.operators.lateness import split_late
from streamproc.ports import Bytes, Int64s
from streamproc.state import KeyTable

_FREE: Final = 0
_USED: Final = 1


@dataclass(slots=True)
class Memory:
    """Rows that went on, by id.  Links are one past the place that they name, 0 for none.

    table      ids
    heads      int64[ids]: the last remembered row of the id
    nexts      int64[places]: the one remembered before; of a free place the next free one
    owners     int64[places]: the id's slot
    deadlines  int64[places]: event time + span, NEVER for free places; `minima` per block of them
    counts     int64[2]: link to the first free place; places used so far
    same_key   1 if the ids are the keys of the stream
    """

    table: KeyTable
    heads: Int64s
    nexts: Int64s
    owners: Int64s
    deadlines: Int64s
    minima: Int64s
    counts: Int64s
    same_key: int

    def make_room(self, ids: int, rows: int) -> None:
        """Makes sure that there are so many ids, and places for so many rows more."""
        self.heads = grow(self.heads, next_rows(self.heads.size, ids))
        places = next_rows(self.nexts.size, int(self.counts[_USED]) + rows)
        self.nexts = grow(self.nexts, places)
        self.owners = grow(self.owners, places)
        self.deadlines = grow(self.deadlines, places, fill=NEVER)
        self.minima = grow(self.minima, blocks_of(places), fill=NEVER)


@dataclass(frozen=True, slots=True)
class Dedupe:
    """Lets the first row of each id through, see `dedupe`.

    per  "key": the plan keys the stream by the id first, so that all its rows meet in one task; "partition": each task
         looks only at its own rows
    """

    columns: tuple[str, ...]
    within_us: int
    per: Literal["key", "partition"] = "key"

    @property
    def verb(self) -> str:
        return "dedupe"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The same columns.  Raises UnknownColumn, TypeMismatch for a column that cannot be an id (floats)."""
        key_kinds(inputs[0].schema, self.columns)
        return inputs[0]

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (passes_through(needed, self.columns),)

    def open(self, *inputs: StreamType) -> Memory:
        none = np.empty(0, np.int64)
        return Memory(
            KeyTable(),
            none,
            none.copy(),
            none.copy(),
            none.copy(),
            none.copy(),
            np.zeros(2, np.int64),
            int(inputs[0].keyed_by == self.columns),
        )

    def process(self, state: Memory, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Memory, Output]:
        rows, late = split_late(inputs[0])
        if len(rows):
            keys = rows.keys if state.same_key and rows.keys is not None else keys_of(rows.frame, self.columns)
            ids = state.table.intern(keys)
            state.make_room(int(ids.max()) + 1, len(rows))
            first = _firsts(
                state.heads, state.nexts, state.owners, state.deadlines, state.minima, state.counts,
                ids, np.ascontiguousarray(rows.event_time), self.within_us,
            )  # fmt: skip
            rows = rows.filter(first.view(np.bool_))
        due = take_due(
            state.deadlines, state.minima, int(state.counts[_USED]), MIN_TIME if time.end is None else time.end
        )
        if due.size:
            forgotten = _forget(state.heads, state.nexts, state.owners, state.counts, due)
            if forgotten.size:
                state.table.release(forgotten)
        return state, Output(rows, late)


def dedupe(*columns: str, within: Span = "24h", per: Literal["key", "partition"] = "key", name: str = "") -> Step:
    """Lets a row through unless one with the same id went through that is at most `within` away in event time.

    columns  the id; null is an id like any other. Text, integers, decimals, booleans, dates, times, bytes; not floats
    within   both ends included, in either direction, from the row that went through: repetitions do not prolong it
    per      "key": the stream is keyed by the id first where it is not yet; "partition": repetitions count only within
             one partition of the stream as it is

    First is first in order of arrival. Repetitions count as filtered; late rows go to `.late` and are not remembered.
    State: one place per id for `within` plus the lateness.

    >>> dedupe("payment_id", within="1h").operator
    Dedupe(columns=('payment_id',), within_us=3600000000, per='key')
    """
    if not columns:
        raise DefinitionError("'dedupe' needs the columns of the id", hint="dedupe('payment_id', within='24h')")
    if per not in ("key", "partition"):
        raise DefinitionError(f"'dedupe' knows no per='{per}'", hint="per is 'key' or 'partition'")
    return Step(Dedupe(columns, span_us(within), per), name=name)


@kernel
def _firsts(
    heads: Int64s, nexts: Int64s, owners: Int64s, deadlines: Int64s, minima: Int64s, counts: Int64s,
    ids: Int64s, moments: Int64s, within: int,
) -> Bytes:  # fmt: skip
    """1 for each row that goes through (remembered from then on), 0 for repetitions."""
    first = np.zeros(ids.size, np.uint8)
    for i in range(ids.size):
        until = moments[i] + within
        link = heads[ids[i]]
        while link > 0 and not until - 2 * within <= deadlines[link - 1] - within <= until:
            link = nexts[link - 1]
        if link > 0:
            continue
        first[i] = 1
        place = counts[_FREE] - 1
        if place >= 0:
            counts[_FREE] = nexts[place]
        else:
            place = counts[_USED]
            counts[_USED] += 1
        nexts[place] = heads[ids[i]]
        heads[ids[i]] = place + 1
        owners[place] = ids[i]
        deadlines[place] = until
        minima[place // BLOCK] = min(minima[place // BLOCK], until)
    return first


@kernel
def _forget(heads: Int64s, nexts: Int64s, owners: Int64s, counts: Int64s, due: Int64s) -> Int64s:
    """Frees these places; gives the ids of which nothing is remembered any more."""
    forgotten = np.empty(due.size, np.int64)
    n = 0
    for i in range(due.size):
        owner = owners[due[i]]
        if heads[owner] == due[i] + 1:
            heads[owner] = nexts[due[i]]
        else:
            link = heads[owner]
            while nexts[link - 1] != due[i] + 1:
                link = nexts[link - 1]
            nexts[link - 1] = nexts[due[i]]
        nexts[due[i]] = counts[_FREE]
        counts[_FREE] = due[i] + 1
        if heads[owner] == 0:
            forgotten[n] = owner
            n += 1
    return forgotten[:n].copy()
