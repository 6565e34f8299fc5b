"""One row per item of a list column."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import C0, C1, C2, C3, Batch, Meta
from streamproc.contracts.model import Schema
from streamproc.errors import TypeMismatch, UnknownColumn, did_you_mean
from streamproc.graph import Step
from streamproc.hashing import mix64
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.ports import Int64s

_ITEM_BITS: Final = 20
_LIMIT: Final = 1 << _ITEM_BITS


@dataclass(frozen=True, slots=True)
class Explode:
    """Gives a row for each item of a list column, the other columns repeated."""

    column: str
    verb: str = "explode"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns, the list's type replaced by its items', which may be null."""
        (stream,) = inputs
        if self.column not in stream.schema:
            raise UnknownColumn(
                f"step '{self.verb}' reads '{self.column}'", hint=did_you_mean(self.column, stream.schema.names)
            )
        field = stream.schema[self.column]
        if not isinstance(field.dtype, pl.List):
            raise TypeMismatch(
                f"step '{self.verb}' needs a list, and '{self.column}' is {field.dtype}", hint="explode a List column"
            )
        inner = field.dtype.inner
        item = replace(field, dtype=inner() if isinstance(inner, type) else inner, nullable=True)
        lost = [self.column in (columns or ()) for columns in (stream.keyed_by, stream.placed_by)]
        return replace(
            stream,
            schema=stream.schema.with_fields([item]),
            keyed_by=None if lost[0] else stream.keyed_by,
            placed_by=None if lost[1] else stream.placed_by,
        )

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and the list, which says how many rows there are."""
        return (passes_through(needed, (self.column,)),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """Cost O(rows + items)."""
        (batch,) = inputs
        items = batch.frame[self.column]
        counts = items.list.len().fill_null(0).to_numpy().astype(np.int64)
        parents = np.repeat(np.arange(len(batch), dtype=np.int64), counts)
        # The item's place in its list: a running number less the one at which its list began.
        ordinals = np.arange(parents.size, dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        values = items.filter(pl.Series(counts > 0)).explode()
        # The list itself is left behind before rows are repeated: copying it for each of its items would be quadratic.
        rest = batch.with_frame(batch.frame.drop(self.column))
        children = rest.take(parents)
        frame = children.frame.with_columns(values) if rest.frame.width else values.to_frame()
        meta = child_meta(children.meta, ordinals)
        return None, Output(replace(children, frame=frame.select(batch.frame.columns), meta=meta))


def explode(column: str, *, name: str = "") -> Step:
    """Gives one row per item of a list column, in the order of the list; the other columns are repeated.

    A row whose list is empty or null gives no row: it is filtered. Rows stay at their parent's position and event time,
    and each gets a coordinate of its own, so that ids and ties know the items of one row apart.
    At plan time raises UnknownColumn, and TypeMismatch where the column is not a list.

    >>> explode("lines").operator.column
    'lines'
    """
    return Step(Explode(column), (), name)


def child_meta(parents: Meta, ordinals: Int64s) -> Meta:
    """Meta of the rows made from one row each, C3 naming which of them a row is; written into `parents`, a copy.

    C3 of child i is C3 of its parent times 2**20, plus i + 1: children of one row stand in their order, and children
    of children too. Where that does not fit, C3 is a hash of the whole coordinate: still distinct, no longer in order.
    """
    level = np.ascontiguousarray(parents[:, C3])
    fits = (level >= 0) & (level < _LIMIT) & (ordinals + 1 < _LIMIT)
    packed = (np.where(fits, level, 0) << _ITEM_BITS) + ordinals + 1
    if fits.all():
        parents[:, C3] = packed
        return parents
    mixed = mix64(*(np.ascontiguousarray(parents[:, at]) for at in (C0, C1, C2, C3)), ordinals)
    hashed = (mixed >> np.uint64(2)).astype(np.int64) | (1 << 61)  # above every packed one, and positive
    parents[:, C3] = np.where(fits, packed, hashed)
    return parents
