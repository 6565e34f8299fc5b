"""`harmonise`: fields in canonical form beside the originals, each with how it came about."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.sensitivity import strictest
from streamproc.errors import DefinitionError, DuplicateName
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.harmonising.ladder import (
    DEFAULT,
    FAILED,
    MISSING,
    NULL,
    STATUS,
    Canonical,
    Converted,
    Converter,
)
from streamproc.ports import Int64s

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Harmonise:
    """Adds columns in canonical form, see `harmonise`."""

    declared: tuple[tuple[str, Canonical], ...]
    verb: str = "harmonise"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns, and per field: the value, what is written beside it, and `<name>_status`.

        A value has the unit of its type; sensitivity and origins are those of what it is made from.
        """
        (stream,) = inputs
        made: list[Field] = []
        for name, canonical in self.declared:
            made += _fields(name, canonical, stream.schema)
        taken = set(stream.schema.names)
        for field in made:
            if field.name in taken:
                raise DuplicateName(
                    f"step '{self.verb}' makes '{field.name}', which is there already",
                    hint="the original stays beside the canonical value: give the field another name",
                )
            taken.add(field.name)
        return replace(stream, schema=Schema((*stream.schema, *made)))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and what the fields are made from: any of them may refuse a row."""
        sources = [column for _, canonical in self.declared for column in canonical.reads]
        made = [field.name for name, canonical in self.declared for field in _fields(name, canonical, inputs[0])]
        return (passes_through(needed, sources, made),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """Runs each field's column code over the batch; rows that a field refuses leave as dead letters."""
        (batch,) = inputs
        times = np.ascontiguousarray(batch.event_time)
        refused = np.full(len(batch), -1, np.int64)
        causes = np.zeros(len(batch), np.int64)
        columns: list[pl.Series] = []
        for place, (name, convert) in enumerate(_code(self.declared, tuple(batch.frame.schema.items()))):
            canonical = self.declared[place][1]
            converted = convert(batch.frame, times)
            failed = _without_blanks(batch.frame, canonical, converted)
            if failed.any():
                if canonical.default is None and canonical.otherwise == "quarantine":
                    first = failed & (refused < 0)
                    refused[first], causes[first] = place, converted.causes[first]
                converted = _replaced(converted, canonical)
            columns += _named(name, canonical, converted)
        frame = batch.frame.with_columns(columns)
        if (refused < 0).all():
            return None, Output(batch.with_frame(frame))
        return None, Output(
            batch.with_frame(frame).filter(refused < 0), rejected=self._rejected(batch, refused, causes)
        )

    def _rejected(self, batch: Batch, refused: Int64s, causes: Int64s) -> tuple[tuple[str, Batch], ...]:
        """The refused rows as they came, by field and cause."""
        out = []
        for place, cause in sorted({*zip(refused.tolist(), causes.tolist(), strict=True)} - {(-1, 0)}):
            name, canonical = self.declared[place]
            rows = np.flatnonzero((refused == place) & (causes == cause))
            out.append((f"{name}: {canonical.causes[cause]}", batch.take(rows)))
        return tuple(out)

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of the libraries that decide what comes out: part of the fingerprint of the environment."""
        found = {}
        for name in sorted({library for _, canonical in self.declared for library in canonical.libraries}):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
        return found


def harmonise(*, name: str | Canonical = "", **fields: Canonical) -> Step:
    """Adds a column in canonical form for each field, and keeps the original beside it.

    Per field come the value under the field's name, what belongs to it (`<field>_rate_id` of money, `<field>_family` of
    a person's name) and `<field>_status`: CAST (the first declared form fitted), OTHER (a further declared form did),
    MISSING (there was no value), NULL or DEFAULT (none fitted, and what the field declares for that stands there). A
    field that declares neither sends the row to the dead-letter topic, with field and cause as the reason.

    A text that is null or blank is no value.

    A value depends on its row alone: on the columns that the field reads and, for rates, on event time. At plan time
    raises DefinitionError (UnknownColumn, TypeMismatch, DuplicateName) for fields that cannot work.

    >>> from streamproc.operators.harmonising import canonical
    >>> step = harmonise(placed_at=canonical.instant("placed", zone="Europe/Berlin", formats=("%d.%m.%Y %H:%M",)))
    >>> step.operator.verb
    'harmonise'
    """
    if not isinstance(name, str):
        # People have names: a canonical type under `name` is a field, and the step is named by its verb.
        fields, name = {"name": name, **fields}, ""
    if not fields:
        raise DefinitionError(
            "step 'harmonise' has no field",
            hint="sp.harmonise(weight_kg=sp.canonical.quantity('weight', unit='g', to='kg'))",
        )
    for field, canonical in fields.items():
        if not callable(getattr(canonical, "converter", None)):
            raise DefinitionError(
                f"field '{field}' of 'harmonise' is {type(canonical).__name__}, not a canonical type",
                hint="use sp.canonical.instant, quantity, money, text, phone, email, country, ...",
            )
    return Step(Harmonise(tuple(fields.items())), name=name)


def _fields(name: str, canonical: Canonical, schema: Schema) -> list[Field]:
    """The field's columns, all with the sensitivity and origins of what they are made from."""
    value, *beside = canonical.fields(name, schema)
    read = [schema[column] for column in canonical.reads]
    pii = strictest(column.pii for column in read)
    origins: frozenset[str] = frozenset().union(*(column.origins for column in read))
    # Null stands for what is missing, a blank text too, and where the policy says so.
    blank = any(isinstance(column.dtype, pl.String) for column in read)
    nullable = any(column.nullable for column in read) or blank or canonical.otherwise == "null" or value.nullable
    status = Field(f"{name}_status", STATUS)
    made = [replace(value, nullable=nullable), *(replace(field, nullable=True) for field in beside)]
    return [*(replace(field, pii=pii, origins=origins) for field in made), replace(status, origins=origins)]


@functools.lru_cache(maxsize=256)
def _code(
    declared: tuple[tuple[str, Canonical], ...], types: tuple[tuple[str, pl.DataType], ...]
) -> tuple[tuple[str, Converter], ...]:
    """The column code of all fields, made once for columns of these types."""
    by_name: Mapping[str, pl.DataType] = dict(types)
    return tuple((name, canonical.converter(by_name)) for name, canonical in declared)


def _without_blanks(frame: pl.DataFrame, canonical: Canonical, converted: Converted) -> Flags:
    """The rows that no form fitted; of texts that are blank it is said that there was no value."""
    failed: Flags = converted.rungs == FAILED
    if not failed.any():
        return failed
    columns = [frame.get_column(name) for name in getattr(canonical, "given", canonical.reads[:1])]
    if not all(isinstance(column.dtype, pl.String) for column in columns):
        return failed
    rows = np.flatnonzero(failed)
    blank = np.ones(rows.size, np.bool_)
    for column in columns:
        blank &= (column.gather(rows).fill_null("").str.strip_chars() == "").to_numpy()
    converted.rungs[rows[blank]] = MISSING
    failed[rows[blank]] = False
    return failed


def _replaced(converted: Converted, canonical: Canonical) -> Converted:
    """What the field's policy puts where nothing fitted."""
    failed = converted.rungs == FAILED
    rungs = converted.rungs.copy()
    rungs[failed] = NULL if canonical.default is None else DEFAULT
    if canonical.default is None:
        return Converted(converted.columns, rungs, converted.causes)
    value, *beside = converted.columns
    value = value.set(pl.Series(failed), canonical.default)
    return Converted((value, *beside), rungs, converted.causes)


def _named(name: str, canonical: Canonical, converted: Converted) -> list[pl.Series]:
    suffixes = ("", *getattr(canonical, "suffixes", ()))
    columns = [column.alias(f"{name}{suffix}") for column, suffix in zip(converted.columns, suffixes, strict=True)]
    return [*columns, pl.Series(converted.rungs).cat.to(STATUS).alias(f"{name}_status")]
