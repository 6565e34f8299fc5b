"""`ordered`: rows in order of event time.

Below it, results no longer depend on how upstream tasks interleaved: what comes out is sorted by event time, then by
the columns of `by`, then by coordinate, and the watermark column is made anew (each row carries its own event time).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Schema
from streamproc.errors import TypeMismatch
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.event_order import pass_in_order
from streamproc.operators.lateness import split_late
from streamproc.operators.row_store import RowStore, row_store

_SORTABLE: Final = (pl.Boolean, pl.String, pl.Binary, pl.Enum, pl.Decimal)


@dataclass(frozen=True, slots=True)
class Ordered:
    """Holds each row until the watermark is above its event time, see `ordered`."""

    by: tuple[str, ...] = ()

    @property
    def verb(self) -> str:
        return "ordered"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The same columns; raises UnknownColumn, or TypeMismatch for a column of `by` that has no total order."""
        for name in self.by:
            dtype = inputs[0].schema[name].dtype
            if not (dtype.is_integer() or dtype.is_temporal() or dtype in _SORTABLE):
                raise TypeMismatch(
                    f"'ordered' cannot sort by '{name}', which is {dtype}",
                    hint="sort by text, integers, decimals, booleans, enums, bytes, dates or times",
                )
        return replace(inputs[0], ordered=True)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (passes_through(needed, self.by),)

    def open(self, *inputs: StreamType) -> RowStore:
        return row_store(inputs[0].schema.polars(), keyed=inputs[0].keyed_by is not None)

    def process(self, state: RowStore, inputs: tuple[Batch, ...], time: StepTime) -> tuple[RowStore, Output]:
        rows, late = split_late(inputs[0])
        return state, Output(pass_in_order(state, rows, time, by=self.by), late)


def ordered(by: str | tuple[str, ...] = (), *, name: str = "") -> Step:
    """Lets rows go on in order of event time, each once the watermark is above it.

    by  columns that order the rows of one event time (nulls first; text by its UTF-8 bytes, enums as declared, not
        floats); what is left is ordered by coordinate. Runs with other partition counts agree only if `by` is unique.
    Rows wait for as long as their source's `lateness`.  Late ones go to `.late`.  Payloads are encoded anew below it.

    >>> ordered("payment_id").operator
    Ordered(by=('payment_id',))
    """
    return Step(Ordered((by,) if isinstance(by, str) else tuple(by)), name=name)
