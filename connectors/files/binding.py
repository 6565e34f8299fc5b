"""Which column of a file feeds which field of a contract."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from connectors.files.moments import EPOCHS
from streamproc.contracts.model import Contract, Field
from streamproc.errors import InputError, did_you_mean


@dataclass(frozen=True, slots=True)
class Source:
    """Where a field's values come from: a column of the file, or, with no column, its default (null or a text).

    form is how the file writes dates and times, "" for ISO 8601.
    """

    field: Field
    column: str | None
    default: str | None = None
    form: str = ""

    @property
    def label(self) -> str:
        """The column as a person knows it."""
        return self.column if self.column is not None else self.field.name


def bind(
    path: Path,
    contract: Contract,
    present: Collection[str],
    *,
    mapping: Mapping[str, str] | None = None,
    event_time: str | None = None,
    formats: Mapping[str, str] | None = None,
    open_ended: bool = False,
) -> list[Source]:
    """The source of each field, in the contract's order: the mapped column, else the one of its name.

    present      columns of the file; with `open_ended` other ones may come later (JSON Lines)
    mapping      file column -> field; event_time names the column that is the event time
    formats      field -> form of its dates and times
    Raises InputError for columns and fields that do not exist, and for fields that need a value and have no column.
    """
    wanted = dict(mapping or {})
    if event_time is not None:
        if not contract.event_time:
            raise InputError(f"'{contract}' has no event time", hint='give a field "sp:role": "event_time"')
        wanted[event_time] = contract.event_time
    for column, target in wanted.items():
        if column not in present:
            raise InputError(f"'{path}' has no column '{column}'", hint=did_you_mean(column, present))
        if target not in contract.schema:
            known = did_you_mean(target, contract.schema.names)
            raise InputError(f"'{contract}' has no field '{target}' for the column '{column}'", hint=known)
    for name, form in (formats or {}).items():
        _check_form(contract, name, form)
    columns: dict[str, str] = {}
    for column, target in wanted.items():
        if target in columns:
            raise InputError(
                f"the columns '{columns[target]}' and '{column}' are both mapped to '{target}'", hint="map one of them"
            )
        columns[target] = column
    sources = []
    for field in contract.schema:
        column_name = columns.get(field.name, field.name)
        form = (formats or {}).get(field.name, "")
        default = _default(contract, field)
        if column_name in present or (open_ended and (field.nullable or default is not None)):
            sources.append(Source(field, column_name, default, form))
        elif field.nullable or default is not None:
            sources.append(Source(field, None, default, form))
        else:
            unused = [name for name in present if name not in wanted]
            raise InputError(
                f"'{path}' has no column for '{field.name}' of '{contract}', which needs a value",
                hint=f"map one to it; {did_you_mean(field.name, unused)}",
            )
    return sources


def _check_form(contract: Contract, name: str, form: str) -> None:
    if name not in contract.schema:
        hint = did_you_mean(name, contract.schema.names)
        raise InputError(f"a time format is given for '{name}', which '{contract}' does not have", hint=hint)
    dtype = contract.schema[name].dtype
    if not isinstance(dtype, pl.Datetime | pl.Date | pl.Time):
        raise InputError(f"'{name}' of '{contract}' is {dtype}, not a date or time", hint="drop its time format")
    if "%" not in form and not (form in EPOCHS and isinstance(dtype, pl.Datetime)):
        raise InputError(
            f"'{form}' is not a time format for '{name}'",
            hint=f"write a pattern such as '%d/%m/%Y %H:%M', or for moments one of {', '.join(EPOCHS)}",
        )


def _default(contract: Contract, field: Field) -> str | None:
    """The field's default in the contract as text, where text can say it."""
    if not isinstance(field.dtype, pl.String | pl.Boolean | pl.Enum) and not field.dtype.is_numeric():
        return None
    items: Any = contract.avro.get("fields", ())
    for item in items:
        if item["name"] == field.name and item.get("default") is not None:
            default = item["default"]
            return default if isinstance(default, str) else json.dumps(default)
    return None


def columns_of(sources: Sequence[Source]) -> list[str]:
    """The file's columns that are read, each once."""
    return list(dict.fromkeys(source.column for source in sources if source.column is not None))
