"""A user's own operator: plain methods over frames, fitted into the engine's time and positions.

The adapter does what is easy to get wrong. It calls `advance` at exactly the moments that the operator named, each
before the first row at which time had reached it, so that results do not depend on how rows come in batches; it writes
positions; it sets late rows aside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import polars as pl

from streamproc.batch import (
    ACCOUNT,
    C0,
    C1,
    C2,
    C3,
    DUE,
    EVENT_TIME,
    LATE,
    RANK,
    ROW,
    WATERMARK,
    WIDTH,
    Batch,
    Meta,
    empty_batch,
    first_reaching,
)
from streamproc.contracts.model import Schema
from streamproc.errors import DefinitionError, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import MAX_TIME, MIN_TIME
from streamproc.graph import Step
from streamproc.keys import key_kinds, keys_of
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.declared_reads import declared_reads
from streamproc.operators.explode import child_meta
from streamproc.operators.lateness import split_late
from streamproc.ports import Int64s

EVENT_TIME_COLUMN: Final = "_event_time"
"""Beside the stream's columns in what `process` gets: int64 µs."""
ROW_COLUMN: Final = "_row"
"""In what `process` gives: the row of its input that a row comes from, where it does not give one for each."""


class UserOperator(Protocol):
    """What a user's operator has at least; `custom` names the rest.

    The state is the user's: a dictionary of numbers, strings, lists and such dictionaries, or a dataclass of arrays.
    """

    def schema(self, rows: Schema) -> Schema:
        """The columns that it gives."""
        ...

    def open(self) -> Any:
        """The empty state."""
        ...

    def process(self, state: Any, rows: pl.DataFrame) -> tuple[Any, pl.DataFrame | None]:
        """Takes some rows, gives the new state, and rows or None."""
        ...


@dataclass(slots=True)
class CustomState:
    """The user's state and the columns that it promised, as a frame without rows.

    last    the moment up to which things were due before the last row
    passed  the watermark at the end of the last step
    """

    of_user: Any
    promised: pl.DataFrame
    last: int = MIN_TIME
    passed: int = MIN_TIME


@dataclass(frozen=True, slots=True)
class Custom:
    """Drives a user's operator.

    read  the columns that it gets, or None: all
    """

    by_user: UserOperator
    key: tuple[str, ...] | None = None
    read: tuple[str, ...] | None = None
    verb: str = "custom"

    @property
    def clocked(self) -> bool:
        """Whether it wants to be told what the clock says."""
        return hasattr(self.by_user, "tick")

    def schema(self, *inputs: StreamType) -> StreamType:
        """The columns that the operator promises, keyed as `key` says."""
        (stream,) = inputs
        for reserved in (EVENT_TIME_COLUMN, ROW_COLUMN):
            if reserved in stream.schema:
                raise DefinitionError(
                    f"step '{self.verb}' cannot take a column named '{reserved}'", hint="rename it before"
                )
        for name in self.read or ():
            if name not in stream.schema:
                raise UnknownColumn(f"step '{self.verb}' reads '{name}'", hint=did_you_mean(name, stream.schema.names))
        made = self._promised(stream.schema)
        if not isinstance(made, Schema) or not made.fields:
            raise TypeMismatch(
                f"step '{self.verb}': {_named(self.by_user)}.schema gives {type(made).__name__}, not columns",
                hint="return rows.with_fields([Field(...)]), or Schema((Field(...), ...))",
            )
        if self.key is not None:
            if stream.keyed_by is None or len(stream.keyed_by) != len(self.key):
                raise TypeMismatch(
                    f"step '{self.verb}' says that {self.key} is the key, and its input's key is {stream.keyed_by}",
                    hint="`key` names the columns of the output that hold the input's key, in its order",
                )
            if key_kinds(made, self.key) != key_kinds(stream.schema, stream.keyed_by):
                raise TypeMismatch(f"step '{self.verb}': {self.key} have other types than the key {stream.keyed_by}")
        return StreamType(made, self.key)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """The columns that it says it reads; without a word of it all, for then what it reads is its own affair."""
        return (frozenset(inputs[0].names if self.read is None else self.read),)

    def open(self, *inputs: StreamType) -> CustomState:
        """The user's empty state."""
        return CustomState(self.by_user.open(), self._promised(inputs[0].schema).empty())

    def _promised(self, schema: Schema) -> Schema:
        """What the operator gives, asked of the columns that it gets: it cannot pass on what it does not read."""
        read = schema if self.read is None else Schema(tuple(schema[name] for name in self.read))
        with declared_reads(self.read, f"step '{self.verb}': {_named(self.by_user)}.schema"):
            return self.by_user.schema(read)

    def process(self, state: CustomState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[CustomState, Output]:
        """Calls the operator for runs of rows within which nothing can fall due, and at each moment between them."""
        (batch,) = inputs
        timed = hasattr(self.by_user, "next_due")
        rows, late = split_late(batch) if timed else (batch, None)
        run = _Run(self, state, time)
        reached = _reached(rows.meta, time.watermarks, state.passed)
        at = 0
        while at < len(rows):
            run.release(int(reached[at]))
            stop = run.reach(reached, at, int(rows.meta[at, WATERMARK])) if timed else len(rows)
            run.take(rows, at, stop, reached)
            at = stop
        if time.end is not None:
            run.release(time.end)
            state.passed = time.end
        if time.clock is not None:
            run.tick(time.clock)
        time.fates.absorb(np.ascontiguousarray(rows.meta[rows.meta[:, ACCOUNT] >= 0, ACCOUNT]))
        return state, Output(run.made(), late)


@dataclass(slots=True)
class _Run:
    """One call of `process`: the operator, its state, and what it gave so far."""

    step: Custom
    state: CustomState
    time: StepTime
    frames: list[pl.DataFrame] = field(default_factory=list)
    metas: list[Meta] = field(default_factory=list)

    def next_due(self) -> int:
        """The next moment at which the operator wants to be called, or the end of time."""
        by_user: Any = self.step.by_user
        due = by_user.next_due(self.state.of_user) if hasattr(by_user, "next_due") else None
        # What a row asks for in its own past happens once time goes on: it must not stand before the row.
        return MAX_TIME if due is None else max(int(due), self.state.last + 1)

    def release(self, until: int) -> None:
        """Calls `advance` for every moment up to `until`."""
        by_user: Any = self.step.by_user
        while (due := self.next_due()) <= until and due < MAX_TIME:
            self.state.of_user, frame = _pair(by_user.advance(self.state.of_user, due), by_user, "advance")
            again = by_user.next_due(self.state.of_user)
            if again is not None and again <= due:
                raise DefinitionError(
                    f"step '{self.step.verb}': {_named(by_user)}.next_due still gives {again} after advance to {due}",
                    hint="advance must deal with all that is due by its moment",
                )
            self.put_released(frame, 2 * first_reaching(np.ascontiguousarray(self.time.watermarks), due), due)

    def reach(self, reached: Int64s, at: int, watermark: int) -> int:
        """The row before which something can next fall due, counting on what the rows from `at` on may ask for."""
        wait = int(getattr(self.step.by_user, "shortest_wait_us", 0))
        limit = min(self.next_due(), watermark + wait)
        stop = at + 1
        while stop < reached.size and reached[stop] < limit:
            stop += 1
        return stop

    def take(self, rows: Batch, start: int, stop: int, reached: Int64s) -> None:
        """Gives rows start..stop to the operator."""
        meta = rows.meta[start:stop]
        times = pl.Series(EVENT_TIME_COLUMN, np.ascontiguousarray(meta[:, EVENT_TIME]))
        given = rows.frame if self.step.read is None else rows.frame.select(self.step.read)
        part = given[start:stop].with_columns(times)
        with declared_reads(self.step.read, f"step '{self.step.verb}': {_named(self.step.by_user)}.process"):
            made = self.step.by_user.process(self.state.of_user, part)
        self.state.of_user, frame = _pair(made, self.step.by_user, "process")
        self.state.last = int(reached[stop - 1])
        if frame is None or (not frame.height and ROW_COLUMN not in frame.columns):
            return
        if ROW_COLUMN in frame.columns:
            parents = frame[ROW_COLUMN].cast(pl.Int64).to_numpy()
            if parents.size and (parents[0] < 0 or parents[-1] >= stop - start or (np.diff(parents) < 0).any()):
                raise self.wrong(
                    "process", f"'{ROW_COLUMN}' must rise and name rows of its input, 0 to {stop - start - 1}"
                )
            self.put(frame.drop(ROW_COLUMN), child_meta(meta[parents], _occurrences(parents)), "process")
        elif frame.height == stop - start:
            self.put(frame, meta.copy(), "process")
        else:
            raise self.wrong(
                "process",
                f"gave {frame.height} rows for {stop - start}; name the row of each in a column '{ROW_COLUMN}'",
            )

    def tick(self, now: int) -> None:
        """Tells the operator what the clock says, if it wants to know: what it gives stands behind all rows."""
        by_user: Any = self.step.by_user
        if hasattr(by_user, "tick"):
            self.state.of_user, frame = _pair(by_user.tick(self.state.of_user, now), by_user, "tick")
            self.put_released(frame, 2 * self.time.watermarks.size, now, self.state.last)

    def put_released(self, frame: pl.DataFrame | None, row: int, due: int, watermark: int | None = None) -> None:
        """Rows that time made, at one position, told apart by their place in the frame."""
        if frame is None or not frame.height:
            return
        meta = np.zeros((frame.height, WIDTH), np.int64)
        meta[:, EVENT_TIME] = due
        meta[:, WATERMARK] = due if watermark is None else watermark
        meta[:, ROW], meta[:, DUE], meta[:, RANK] = row, due, self.time.rank
        meta[:, ACCOUNT], meta[:, LATE] = -1, 0
        meta[:, C0], meta[:, C2], meta[:, C3] = self.time.rank << 32, due, np.arange(frame.height)
        if self.step.key is not None:
            meta[:, C1] = keys_of(frame, self.step.key).hashes.view(np.int64)
        self.put(frame, meta, "advance")

    def put(self, frame: pl.DataFrame, meta: Meta, method: str) -> None:
        """Checks a frame against the promise."""
        promised = self.state.promised.schema
        if frame.schema != promised:
            if sorted(frame.columns) != sorted(promised):
                raise self.wrong(method, f"gave columns {frame.columns}, promised are {list(promised)}")
            frame = frame.select(promised.names())
            for name, dtype in promised.items():
                if frame.schema[name] == pl.Null():
                    frame = frame.with_columns(pl.col(name).cast(dtype))
                elif frame.schema[name] != dtype:
                    raise self.wrong(method, f"gave '{name}' as {frame.schema[name]}, promised is {dtype}")
        self.frames.append(frame)
        self.metas.append(meta)

    def made(self) -> Batch:
        """All that the operator gave, in order of position."""
        if not self.frames:
            none = empty_batch(self.state.promised.schema)
            return none if self.step.key is None else none.with_keys(keys_of(none.frame, self.step.key))
        frame = pl.concat(self.frames, rechunk=True)
        keys = None if self.step.key is None else keys_of(frame, self.step.key)
        return Batch(frame, np.concatenate(self.metas), keys)

    def wrong(self, method: str, what: str) -> DefinitionError:
        return DefinitionError(f"step '{self.step.verb}': {_named(self.step.by_user)}.{method} {what}")


def custom(
    operator: UserOperator,
    *,
    key: tuple[str, ...] | None = None,
    reads: tuple[str, ...] | list[str] | None = None,
    name: str = "",
) -> Step:
    """A step of your own: an object with plain methods over Polars frames.

    schema(rows: Schema) -> Schema           the columns that it gives
    open() -> state                          a dictionary of plain values, or a dataclass of arrays
    process(state, frame) -> (state, frame)  rows as they come, with their event time (µs) in `_event_time`. It gives
                                             one row for each, or names each one's row in a column `_row`; or None
    next_due(state) -> int | None            when it next wants to be called by event time (µs)
    advance(state, moment) -> (state, frame) called at each such moment, before any row that came when time was there
    tick(state, now) -> (state, frame)       called now and then with the journal's clock; what it gives is *clocked*
    shortest_wait_us                         a promise: no row asks for a moment earlier than its event time plus this

    The first three are needed, `next_due` and `advance` go together. Without `next_due`, `process` must not care how
    rows are cut into frames. With it, rows come in runs within which nothing can fall due: one by one if
    `shortest_wait_us` is 0. Late rows then go to `.late`.

    key    the columns of the output that hold the input's key, if they do; else the stream has no key any more
    reads  the columns that it gets, and no others: one that it reads without a word of it stops the step. Without, it
           gets all columns; then all are said to be read, and a scope cannot be locked (`streamproc scope`)

    >>> class Silence:  # says which machine has been silent for a minute
    ...     shortest_wait_us = 60_000_000
    ...     def schema(self, rows):
    ...         return Schema((rows["machine"],))
    ...     def open(self):
    ...         return {}
    ...     def process(self, state, rows):
    ...         return state | dict(zip(rows["machine"], rows["_event_time"])), None
    ...     def next_due(self, state):
    ...         return min(state.values()) + 60_000_000 if state else None
    ...     def advance(self, state, moment):
    ...         silent = sorted(m for m, seen in state.items() if seen + 60_000_000 <= moment)
    ...         return {m: seen for m, seen in state.items() if m not in silent}, pl.DataFrame({"machine": silent})
    >>> custom(Silence(), key=("machine",)).operator.verb
    'custom'
    """
    for method in ("schema", "open", "process"):
        if not callable(getattr(operator, method, None)):
            raise DefinitionError(
                f"step 'custom': {_named(operator)} has no method '{method}'",
                hint="an operator has schema(rows), open() and process(state, rows)",
            )
    if hasattr(operator, "next_due") != hasattr(operator, "advance"):
        raise DefinitionError(
            f"step 'custom': {_named(operator)} has only one of 'next_due' and 'advance'",
            hint="next_due(state) says when advance(state, moment) is called",
        )
    if reads is not None and not reads:
        raise DefinitionError("step 'custom' reads no column", hint="name some, or leave `reads` out to read all")
    return Step(Custom(operator, key, None if reads is None else tuple(reads)), (), name)


def _reached(meta: Meta, watermarks: Int64s, passed: int) -> Int64s:
    """For each row the moment up to which things are due before it.

    Before a row that time released upstream that is what was due earlier: at one moment, upstream stands before us. But
    not less than where time had been at the input row before: `ordered` releases rows only once time is beyond them.
    """
    before = np.concatenate((np.array([passed], np.int64), watermarks))[meta[:, ROW] // 2]
    reached: Int64s = np.where(meta[:, ROW] % 2 == 1, meta[:, WATERMARK], np.maximum(meta[:, DUE] - 1, before))
    return reached


def _occurrences(parents: Int64s) -> Int64s:
    """How many rows of the same parent stand before each; parents never fall."""
    return np.arange(parents.size, dtype=np.int64) - np.searchsorted(parents, parents, side="left")


def _pair(given: Any, by_user: object, method: str) -> tuple[Any, pl.DataFrame | None]:
    if isinstance(given, tuple) and len(given) == 2 and (given[1] is None or isinstance(given[1], pl.DataFrame)):
        return given
    raise DefinitionError(
        f"step 'custom': {_named(by_user)}.{method} gave {type(given).__name__}",
        hint="return (state, frame), or (state, None)",
    )


def _named(by_user: object) -> str:
    return type(by_user).__name__
