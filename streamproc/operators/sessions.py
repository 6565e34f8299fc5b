"""Session windows: rows of a key that follow each other by less than a gap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, LATE, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.event_time import Span, span_us
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.accumulators import Accumulator, Counts, counts
from streamproc.operators.aggregates import Aggregate
from streamproc.operators.inputs import Inputs
from streamproc.operators.released import released_meta, released_up_to, updated_meta
from streamproc.operators.session_table import Assigned, SessionTable
from streamproc.operators.windows import Emit, InputShape, input_shape, plan_windows, refuse_estimates


@dataclass(slots=True)
class SessionState:
    """Open sessions and what they hold; `revisions` counts the rows of each, where updates are emitted."""

    shape: InputShape
    table: SessionTable
    parts: tuple[Accumulator, ...]
    revisions: Counts


@dataclass(frozen=True, slots=True)
class Sessions:
    """The operator of `session`."""

    verb: str
    gap_us: int
    emit: Emit
    aggregates: tuple[tuple[str, Aggregate], ...]

    def schema(self, *inputs: StreamType) -> StreamType:
        """Key columns, window_start, window_end, the aggregates, and revision where updates are emitted."""
        fields = plan_windows(inputs[0], dict(self.aggregates), self.verb).fields
        if self.emit == "update":
            refuse_estimates(self.aggregates, self.verb)
            fields = (*fields, Field("revision", pl.Int64(), doc="how many rows the session holds"))
        return StreamType(Schema(fields), inputs[0].keyed_by, ordered=self.emit == "close")

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """The columns under the aggregates; those of the key are read back from the key."""
        return (frozenset(aggregate.column for _, aggregate in self.aggregates if aggregate.column),)

    def open(self, *inputs: StreamType) -> SessionState:
        """No session yet."""
        shape = input_shape(inputs[0], self.aggregates, self.verb)
        parts = shape.plan(self.aggregates, self.verb).aggregates.open()
        return SessionState(shape, SessionTable(), parts, counts())

    def process(self, state: SessionState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[SessionState, Output]:
        """Adds the rows and merges what they bridge, then releases what is due by the end of the step."""
        batch = inputs[0]
        late: Batch | None = None
        updates: Batch | None = None
        if len(batch):
            updates, late = self._add(state, batch, time)
        released = self._release(state, time)
        if self.emit == "close":
            return state, Output(released, late)
        if updates is None:
            updates = released.with_frame(released.frame.with_columns(pl.Series("revision", [], dtype=pl.Int64)))
        return state, Output(updates, late)

    def _add(self, state: SessionState, batch: Batch, time: StepTime) -> tuple[Batch | None, Batch | None]:
        assert batch.keys is not None  # the plan lets only keyed streams in
        marked = (batch.meta[:, LATE] > 0).astype(np.uint8)
        table = state.table
        found = table.assign(batch.keys, batch.event_time, released_up_to(batch.meta), late=marked, gap=self.gap_us)
        for part in (*state.parts, state.revisions):
            part.grow(table.capacity)
        live = found.sessions >= 0
        late = None if live.all() else batch.filter(~live)
        if late is not None:
            batch = batch.filter(live)
            # Merges name rows of the whole batch; late rows make none.
            at = np.cumsum(live) - 1
            merges = found.merges.copy()
            merges[:, 0] = at[merges[:, 0]]
            found = Assigned(found.sessions[live], found.starts[live], found.ends[live], merges)
        time.fates.absorb(batch.meta[:, ACCOUNT])
        if self.emit == "close":
            # No freed session is taken again within a call, so all rows can go in before anything is merged.
            state.shape.plan(self.aggregates, self.verb).aggregates.add(state.parts, found.sessions, Inputs(batch))
            self._merge(state, found.merges)
            return None, late
        return self._add_each(state, batch, found, time), late

    def _merge(self, state: SessionState, merges: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> None:
        if not merges.shape[0]:
            return
        into, source = merges[:, 1].copy(), merges[:, 2].copy()
        for part in (*state.parts, state.revisions):
            part.merge(into, source)
            part.clear(source)

    def _add_each(self, state: SessionState, batch: Batch, found: Assigned, time: StepTime) -> Batch:
        assert batch.keys is not None
        plan = state.shape.plan(self.aggregates, self.verb)
        frames: list[pl.DataFrame] = []
        cuts = [0, *np.unique(found.merges[:, 0]).tolist(), len(batch)]
        merged = 0
        for begin, stop in pairwise(cuts):
            upto = int(np.searchsorted(found.merges[:, 0], begin, side="right"))
            self._merge(state, found.merges[merged:upto])
            merged = upto
            rows = np.arange(begin, stop)
            piece = Inputs(batch.take(rows))
            sessions = found.sessions[rows]
            columns = plan.aggregates.add_each(state.parts, sessions, piece)
            (revisions,) = state.revisions.add_each(sessions, *piece.form("valid", ""))
            keys = batch.keys.take(rows)
            columns.append(pl.Series("revision", revisions))
            frames.append(plan.frame(keys, found.starts[rows], found.ends[rows], columns))
        frame = pl.concat(frames, rechunk=True)
        meta = updated_meta(
            batch.meta, found.ends, time, key_hashes=batch.keys.hashes, starts=found.starts,
            revisions=frame["revision"].to_numpy(),
        )  # fmt: skip
        return Batch(frame, meta, batch.keys)

    def _release(self, state: SessionState, time: StepTime) -> Batch:
        plan, table = state.shape.plan(self.aggregates, self.verb), state.table
        sessions = np.empty(0, np.int64) if time.end is None else table.due(time.end)
        read = sessions if self.emit == "close" else sessions[:0]
        keys = table.keys.key_bytes(table.key[read])
        starts, ends = table.start[read], table.end[read]
        values = plan.aggregates.read(state.parts, read)
        made = Batch(plan.frame(keys, starts, ends, values), released_meta(ends, time, keys.hashes, starts), keys)
        if sessions.size:
            for part in (*state.parts, state.revisions):
                part.clear(sessions)
            table.close(sessions)
        return made


def session(gap: Span, *, emit: Emit = "close", name: str = "", **aggregates: Aggregate) -> Step:
    """Windows that last as long as rows of the key keep coming with less than `gap` between them.

    A session is [first row, last row + gap). It closes when the watermark reaches its end. A row that bridges two open
    sessions makes them one; exact aggregates merge exactly. A row is late if the session that it would begin is closed
    already and no open one takes it. With emit="update" each row gives its session as it stands after the row, and
    `revision` counts the session's rows; what was emitted for a session that is later merged into another stays.
    Raises DefinitionError for an empty gap or no aggregate.

    >>> from streamproc.operators.aggregates import count
    >>> session("30m", clicks=count()).operator.gap_us
    1800000000
    """
    return Step(_sessions(span_us(gap), emit, aggregates), (), name)


def _sessions(gap_us: int, emit: Emit, aggregates: Mapping[str, Aggregate]) -> Sessions:
    if not gap_us:
        raise DefinitionError("session: a gap of zero makes every row a session", hint="write for example '30m'")
    if emit not in ("close", "update"):
        raise DefinitionError(f"session: emit={emit!r}", hint="emit='close' or emit='update'")
    if not aggregates:
        raise DefinitionError("session: no aggregate", hint="give at least one, for example clicks=sp.count()")
    return Sessions("session", gap_us, emit, tuple(aggregates.items()))
