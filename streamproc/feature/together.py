"""Streams of several processes, each with columns of its own, as one stream of what happened to a key."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from streamproc.batch import Batch, merge
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.sensitivity import strictest
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch
from streamproc.feature.plan import SOURCE
from streamproc.graph import Stream
from streamproc.operator import Output, StepTime, StreamType


@dataclass(frozen=True, slots=True)
class Together:
    """The operator of `together`."""

    sources: tuple[str, ...]
    verb: str = "together"

    def schema(self, *inputs: StreamType) -> StreamType:
        """Every column of every stream, null where a stream does not have it, then the name of the source.

        Raises DefinitionError where the streams are not keyed by the same columns, TypeMismatch where a column that
        several have is not the same, DuplicateName for a column 'source'.
        """
        key = inputs[0].require_key(self.verb)
        fields: dict[str, list[tuple[str, Field]]] = {}
        for source, stream in zip(self.sources, inputs, strict=True):
            if stream.require_key(self.verb) != key:
                raise DefinitionError(
                    f"step '{self.verb}': '{source}' is keyed by {stream.keyed_by}, '{self.sources[0]}' by {key}",
                    hint="key all of them by columns of the same names",
                )
            if SOURCE in stream.schema:
                raise DuplicateName(
                    f"step '{self.verb}': '{source}' already has a column '{SOURCE}'", hint="rename it before"
                )
            for column in stream.schema:
                fields.setdefault(column.name, []).append((source, column))
        made = [self._joined(known, everywhere=len(inputs)) for known in fields.values()]
        placed = inputs[0].placed_by
        return StreamType(
            Schema((*made, Field(SOURCE, pl.Enum(list(self.sources))))),
            key,
            ordered=False,
            placed_by=placed if all(stream.placed_by == placed for stream in inputs) else None,
        )

    def _joined(self, known: list[tuple[str, Field]], *, everywhere: int) -> Field:
        source, first = known[0]
        for other, column in known[1:]:
            if column.dtype != first.dtype or (column.unit and first.unit and column.unit != first.unit):
                told = f"{first.dtype} {first.unit}".strip(), f"{column.dtype} {column.unit}".strip()
                raise TypeMismatch(
                    f"step '{self.verb}': '{first.name}' is {told[0]} in '{source}', {told[1]} in '{other}'",
                    hint="rename one of them, or bring both to one type and unit before",
                )
        units = {column.unit for _, column in known}
        return replace(
            first,
            nullable=len(known) < everywhere or any(column.nullable for _, column in known),
            unit=first.unit if len(units) == 1 else "",
            pii=strictest(column.pii for _, column in known),
            origins=frozenset().union(*(column.origins for _, column in known)),
            merges=any(column.merges for _, column in known),
        )

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """Of each input what is needed of it."""
        return tuple(needed & frozenset(schema.names) for schema in inputs)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """Cost O(n log n) where several ports have rows."""
        types: dict[str, pl.DataType] = {}
        for batch in inputs:
            for name, dtype in batch.frame.schema.items():
                types.setdefault(name, dtype)
        kind = pl.Enum(list(self.sources))
        aligned = []
        for source, batch in zip(self.sources, inputs, strict=True):
            there = batch.frame.schema
            n = len(batch)
            columns = [
                batch.frame.get_column(name) if name in there else _constant(name, None, dtype, n)
                for name, dtype in types.items()
            ]
            tag = _constant(SOURCE, source, kind, n)
            # Rows of several topics have payloads under several schemas: none of them stands for these columns.
            aligned.append(replace(batch, frame=pl.DataFrame([*columns, tag]), raw=None))
        return None, Output(merge(aligned))


def _constant(name: str, value: str | None, dtype: pl.DataType, rows: int) -> pl.Series:
    return pl.Series(name, [value], dtype=dtype).new_from_index(0, rows)


def together(**streams: Stream) -> Stream:
    """One stream of several: `together(orders=a, refunds=b)`, for features over what several processes say of a key.

    Each row has its own stream's columns, null in those of the others, and the stream's name in the column `source`.
    Columns of the same name must be of the same type and unit; name columns apart that mean different things. All must
    be keyed by columns of the same names. Rows stand in order of position; put `ordered` behind to have them in order
    of event time, so that what a row sees is the same in every run. Each source keeps its own lateness.

    >>> from streamproc.graph import source
    >>> both = together(orders=source("orders", contract="order"), refunds=source("refunds", contract="refund"))
    >>> both.origin.sources
    ('orders', 'refunds')
    """
    if len(streams) < 2:
        raise DefinitionError("together: needs two streams at least", hint="sp.together(orders=..., refunds=...)")
    return Stream(Together(tuple(streams)), tuple(streams.values()))
