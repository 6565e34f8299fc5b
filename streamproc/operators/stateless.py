"""A function of frames as a step: what no Polars expression can say, but still row by row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.sensitivity import strictest
from streamproc.errors import DefinitionError, NotElementWise, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.declared_reads import declared_reads
from streamproc.operators.evaluation import in_columns
from streamproc.operators.probe import differs_when_cut, probe_frame

FrameFunction = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Stateless:
    """Runs a function over the columns that it reads, and puts the columns that it gives into the frame.

    function  frame to frame of as many rows, row by row
    read      the columns that it gets, or None: all, and then what it gives is the whole new frame
    declared  fields of what it gives, or None: types are taken from a run on an empty frame
    """

    function: FrameFunction
    read: tuple[str, ...] | None = None
    declared: Schema | None = None
    verb: str = "stateless"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns with those that the function gives; runs it on an empty frame and on awkward rows.

        Raises TypeMismatch where it gives other types than declared, NotElementWise where its result for a row depends
        on other rows, DefinitionError where it fails.
        """
        (stream,) = inputs
        for name in self.read or ():
            if name not in stream.schema:
                raise UnknownColumn(f"step '{self.verb}' reads '{name}'", hint=did_you_mean(name, stream.schema.names))
        read = self._read_of(stream.schema)
        fields = self._given(read)
        self._probe(read)
        if self.read is None:
            return StreamType(Schema(fields), None, stream.ordered)
        given = {field.name for field in fields}

        def kept(columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if columns is None or given & set(columns) else columns

        return replace(
            stream,
            schema=stream.schema.with_fields(fields),
            keyed_by=kept(stream.keyed_by),
            placed_by=kept(stream.placed_by),
        )

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down and comes from above, and what the function gets."""
        if self.read is None:
            return (frozenset(inputs[0].names),)
        return (needed & frozenset(inputs[0].names) | frozenset(self.read),)

    def gives(self, schema: Schema) -> frozenset[str]:
        """Names of the columns that the function gives for an input of these columns."""
        return frozenset(field.name for field in self._given(self._read_of(schema)))

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """One call of the function; raises DefinitionError if it gives another number of rows or other types."""
        (batch,) = inputs
        part = batch.frame if self.read is None else batch.frame.select(self.read)
        types = _types(self.function, tuple(part.schema.items()))
        if len(batch):
            with declared_reads(self.read, f"step '{self.verb}': {_named(self.function)}"):
                made = in_columns(lambda rows: _checked(self.function(rows), types, rows.height), part)
        else:
            made = pl.DataFrame(schema=dict(types))
        return None, Output(batch.with_frame(made if self.read is None else batch.frame.with_columns(made)))

    def _read_of(self, schema: Schema) -> Schema:
        return Schema(tuple(schema[name] for name in self.read or schema.names))

    def _given(self, read: Schema) -> tuple[Field, ...]:
        try:
            with declared_reads(self.read, f"step '{self.verb}': {_named(self.function)}"):
                types = dict(_types(self.function, tuple(read.polars().items())))
        except DefinitionError:
            raise
        except Exception as error:
            raise DefinitionError(
                f"step '{self.verb}': {_named(self.function)} fails on a frame without rows: {_reason(error)}",
                hint="a batch may be empty; the plan takes the types from such a call",
            ) from error
        if self.declared is None:
            # The function may carry anything that it reads into any column that it gives.
            origins: frozenset[str] = frozenset().union(*(column.origins for column in read))
            pii = strictest(column.pii for column in read)
            return tuple(Field(name, dtype, True, pii=pii, origins=origins) for name, dtype in types.items())
        if self.declared.polars() != pl.Schema(types):
            raise TypeMismatch(
                f"step '{self.verb}': {_named(self.function)} gives {_listed(types)}, declared are "
                f"{_listed(dict(self.declared.polars()))}"
            )
        return self.declared.fields

    def _probe(self, read: Schema) -> None:
        frame = probe_frame(read)
        types = _types(self.function, tuple(read.polars().items()))

        def compute(part: pl.DataFrame) -> pl.DataFrame:
            return in_columns(lambda rows: _checked(self.function(rows), types, rows.height), part)

        try:
            with declared_reads(self.read, f"step '{self.verb}': {_named(self.function)}"):
                differs = differs_when_cut(compute, frame)
        except DefinitionError:
            raise
        except Exception as error:
            raise DefinitionError(
                f"step '{self.verb}': {_named(self.function)} fails on awkward rows: {_reason(error)}",
                hint="such a row would stop the task; give null for what cannot be computed, or filter it before",
            ) from error
        if differs:
            raise NotElementWise(
                f"step '{self.verb}': {_named(self.function)} gives something else for rows cut into other frames",
                hint="each row of its result may depend on that row only; sp.custom keeps state",
            )


def stateless(
    function: FrameFunction,
    *,
    reads: tuple[str, ...] | list[str] | None = None,
    schema: Schema | None = None,
    name: str = "",
) -> Step:
    """Computes columns by a function of Polars frames, for what expressions cannot say (a NumPy routine, a model).

    With `reads` the function gets a frame of these columns and gives the columns to add or replace; the others, the key
    included, pass by. Without, it gets all columns and what it gives replaces them all; the key is then forgotten.
    It must give one row for each row, computed from that row alone, the same every time; filter with `where`. The plan
    runs it on an empty frame to learn the types (or to check them against `schema`), and on awkward rows whole and in
    pieces.  Raises at plan time DefinitionError, TypeMismatch, NotElementWise, UnknownColumn.

    >>> def doubled(frame: pl.DataFrame) -> pl.DataFrame:
    ...     return pl.DataFrame({"twice": frame["amount"].to_numpy() * 2})
    >>> stateless(doubled, reads=("amount",)).operator.read
    ('amount',)
    """
    if not callable(function):
        raise DefinitionError(
            f"step 'stateless' got {type(function).__name__}, not a function",
            hint="sp.stateless(function), without calling it",
        )
    if reads is not None and not reads:
        raise DefinitionError("step 'stateless' reads no column", hint="name some, or leave `reads` out to read all")
    return Step(Stateless(function, None if reads is None else tuple(reads), schema), (), name)


@functools.lru_cache(maxsize=256)
def _types(function: FrameFunction, read: tuple[tuple[str, pl.DataType], ...]) -> tuple[tuple[str, pl.DataType], ...]:
    """Columns and types that the function gives for columns and types, by a call on an empty frame."""
    given = function(pl.DataFrame(schema=dict(read)))
    if not isinstance(given, pl.DataFrame):
        raise DefinitionError(
            f"step 'stateless': {_named(function)} gives {type(given).__name__}, not a Polars frame",
            hint="return pl.DataFrame({...})",
        )
    if not given.width:
        raise DefinitionError(
            f"step 'stateless': {_named(function)} gives no column", hint="give those to add or replace"
        )
    return tuple(given.schema.items())


def _checked(given: pl.DataFrame, types: tuple[tuple[str, pl.DataType], ...], rows: int) -> pl.DataFrame:
    expected = dict(types)
    if given.height != rows:
        raise DefinitionError(
            f"step 'stateless': the function gave {given.height} rows for {rows}",
            hint="give one row for each row; filter with sp.where, and make more with sp.explode",
        )
    if given.columns != list(expected):
        raise TypeMismatch(
            f"step 'stateless': the function gave columns {given.columns}, at plan time {list(expected)}"
        )
    for column in given.columns:
        # A column of nothing but nulls has no type of its own in Polars.
        if given.schema[column] == pl.Null():
            given = given.with_columns(pl.col(column).cast(expected[column]))
        elif given.schema[column] != expected[column]:
            raise TypeMismatch(
                f"step 'stateless': the function gave '{column}' as {given.schema[column]}, not {expected[column]}",
                hint="give the types of the call on an empty frame every time: pl.Series(values, dtype=...)",
            )
    return given


def _named(function: FrameFunction) -> str:
    return f"'{getattr(function, '__qualname__', type(function).__name__)}'"


def _listed(types: dict[str, pl.DataType]) -> str:
    return ", ".join(f"{name}: {dtype}" for name, dtype in types.items())


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
