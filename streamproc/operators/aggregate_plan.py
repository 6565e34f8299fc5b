"""Aggregates bound to the columns of a stream, shared parts once: what windows run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.operators.accumulators import Accumulator, Reading
from streamproc.operators.aggregate_parts import PER_ROW, Finish, Part, bind_aggregate
from streamproc.operators.aggregates import NULL, Aggregate
from streamproc.operators.inputs import Inputs
from streamproc.ports import Int64s


@dataclass(frozen=True, slots=True)
class Computed:
    """One aggregate after planning: its output column, the part that it reads, and how a reading becomes a column."""

    field: Field
    part: int
    finish: Finish


@dataclass(frozen=True, slots=True)
class AggregatePlan:
    """Aggregates bound to the columns of a stream."""

    parts: tuple[Part, ...]
    computed: tuple[Computed, ...]

    @property
    def fields(self) -> tuple[Field, ...]:
        """The output columns."""
        return tuple(one.field for one in self.computed)

    def open(self) -> tuple[Accumulator, ...]:
        """Empty accumulators, one per part."""
        return tuple(part.make() for part in self.parts)

    def add(self, state: tuple[Accumulator, ...], slots: Int64s, inputs: Inputs) -> None:
        """Takes one input row into each element of `slots`."""
        for part, accumulator in zip(self.parts, state, strict=True):
            accumulator.add(slots, *inputs.form(part.form, part.column))

    def add_each(self, state: tuple[Accumulator, ...], slots: Int64s, inputs: Inputs) -> list[pl.Series]:
        """Takes the rows in one by one, and gives the aggregates of each row's slot right after it."""
        return self._finish(
            [
                accumulator.add_each(slots, *inputs.form(part.form, part.column))
                for part, accumulator in zip(self.parts, state, strict=True)
            ]
        )

    def read(self, state: tuple[Accumulator, ...], slots: Int64s) -> list[pl.Series]:
        """The aggregates of these slots, a column each."""
        return self._finish([accumulator.read(slots) for accumulator in state])

    def _finish(self, readings: list[Reading]) -> list[pl.Series]:
        return [one.finish(one.field.name, readings[one.part]) for one in self.computed]


def plan_aggregates(aggregates: Mapping[str, Aggregate], schema: Schema, *, step: str) -> AggregatePlan:
    """The aggregates with their columns looked up, their types checked and their shared parts found.

    Raises UnknownColumn for a column that is not there, TypeMismatch for a type that an aggregate has no meaning for.
    """
    parts: list[Part] = []
    computed: list[Computed] = []
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate):
            raise DefinitionError(
                f"step '{step}': {name}={aggregate!r} is not an aggregate", hint="write for example total('amount')"
            )
        if aggregate.kind in PER_ROW and not aggregate.error:
            raise DefinitionError(
                f"step '{step}': {aggregate} looks back from a row",
                hint=f"sp.features({name}={aggregate}.over('1h'))",
            )
        if (aggregate.where_, aggregate.absent, aggregate.sources) != (None, NULL, ()):
            raise DefinitionError(
                f"step '{step}': {name}={aggregate} says what only features can",
                hint="filter rows before the window, sp.where(...)",
            )
        made, part, finish = bind_aggregate(aggregate, schema, step=step)
        if part not in parts:
            parts.append(part)
        computed.append(Computed(replace(made, name=name), parts.index(part), finish))
    return AggregatePlan(tuple(parts), tuple(computed))
