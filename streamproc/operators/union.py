"""Several streams of the same columns as one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamproc.batch import Batch, merge
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.sensitivity import strictest
from streamproc.errors import DefinitionError, TypeMismatch
from streamproc.graph import Step, Stream
from streamproc.operator import Output, StepTime, StreamType


@dataclass(frozen=True, slots=True)
class Union:
    """Merges its inputs by position, then by port."""

    verb: str = "union"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The left stream's columns in its order; what is declared of a column is joined over all inputs.

        The key is kept if all streams have the same. The order of event time is not promised.
        Raises TypeMismatch naming the first difference.
        """
        left = inputs[0]
        for port, other in enumerate(inputs[1:], 2):
            _same_columns(left.schema, other.schema, port)
        fields = tuple(_joined([stream.schema[name] for stream in inputs]) for name in left.schema.names)
        keyed_by = left.keyed_by if all(stream.keyed_by == left.keyed_by for stream in inputs) else None
        placed_by = left.placed_by if all(stream.placed_by == left.placed_by for stream in inputs) else None
        return StreamType(Schema(fields), keyed_by, ordered=False, placed_by=placed_by)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """The same of each input."""
        return tuple(needed for _ in inputs)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """Cost O(n log n) where several ports have rows, else nothing."""
        # The plan asks every input for the same columns, but their order is each stream's own, and one may bring more
        # because something else reads it too.
        there = set.intersection(*(set(batch.frame.columns) for batch in inputs))
        names = [name for name in inputs[0].frame.columns if name in there]
        aligned = [
            batch if batch.frame.columns == names else replace(batch, frame=batch.frame.select(names))
            for batch in inputs
        ]
        # Rows of several topics have payloads under several schemas: none of them stands for the union's columns.
        return None, Output(replace(merge(aligned), raw=None))


def union(*others: Stream, name: str = "") -> Step:
    """Joins streams of the same columns: `a | sp.union(b, c)`. Every row of every stream goes on, in order of position.

    Column names and types must be the same (the order of columns is the left one's); the rows of one input row stand in
    the order of the streams. Event-time order across streams is not promised: put `ordered` behind.
    At plan time raises TypeMismatch naming the first difference.

    >>> from streamproc.graph import source
    >>> a, b = (source(topic, contract="payment.v2") for topic in ("web", "till"))
    >>> len((a | union(b)).inputs)
    2
    """
    if not others:
        raise DefinitionError("step 'union' has no other stream", hint="a | sp.union(b, c)")
    return Step(Union(), others, name)


def _same_columns(left: Schema, other: Schema, port: int) -> None:
    place = f"step 'union': stream {port}"
    for column in left:
        if column.name not in other:
            raise TypeMismatch(f"{place} has no column '{column.name}'", hint="add it there, or drop it on the left")
        found = other[column.name]
        if found.dtype != column.dtype:
            raise TypeMismatch(
                f"{place} has '{column.name}' as {found.dtype}, the first as {column.dtype}",
                hint="cast one of them in a with_columns before",
            )
        if found.unit and column.unit and found.unit != column.unit:
            raise TypeMismatch(
                f"{place} has '{column.name}' in {found.unit}, the first in {column.unit}",
                hint="bring both to one unit in a with_columns before",
            )
    for column in other:
        if column.name not in left:
            raise TypeMismatch(
                f"{place} has a column '{column.name}' that the first has not", hint="drop or rename it there"
            )


def _joined(columns: list[Field]) -> Field:
    """One column out of the same one of several streams: the weaker promise, the stricter tag, all origins."""
    return replace(
        columns[0],
        nullable=any(column.nullable for column in columns),
        # A column without a unit, such as a constant, fits every unit and promises none.
        unit=columns[0].unit if len({column.unit for column in columns}) == 1 else "",
        pii=strictest(column.pii for column in columns),
        origins=frozenset().union(*(column.origins for column in columns)),
        merges=any(column.merges for column in columns),
    )
