"""Schemas as values: fields with Polars types and the tags that govern them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from streamproc.errors import DuplicateName, UnknownColumn, did_you_mean


@dataclass(frozen=True, slots=True)
class Field:
    """One column: name, Polars type, and the promises that travel with it.

    nullable   whether a null may stand in it
    unit       a unit or currency code, "" where none is declared
    pii        sensitivity tag ("" = none), for example "pseudonym" or "direct"
    origins    source fields ("contract.field") from which the values derive
    deletes    true stands on a row that deletes its key: the rows are changes of a table
    merges     the values are ids of entities that merge and split, or made of such
    owner      in a contract: who owns the field, "" where that is the contract's owner
    """

    name: str
    dtype: pl.DataType
    nullable: bool = False
    unit: str = ""
    pii: str = ""
    doc: str = ""
    origins: frozenset[str] = frozenset()
    deletes: bool = False
    merges: bool = field(default=False, metadata={"fingerprint": False})
    owner: str = field(default="", metadata={"fingerprint": False})

    def renamed(self, name: str) -> Field:
        """The same column under another name."""
        return replace(self, name=name)


@dataclass(frozen=True, slots=True)
class Schema:
    """The ordered columns of a stream.

    >>> Schema((Field("a", pl.Int64()),)).names
    ('a',)
    """

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for column in self.fields:
            if column.name in seen:
                raise DuplicateName(f"two columns are named '{column.name}'", hint="rename one of them")
            seen.add(column.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __contains__(self, name: str) -> bool:
        return any(column.name == name for column in self.fields)

    def __getitem__(self, name: str) -> Field:
        for column in self.fields:
            if column.name == name:
                return column
        raise UnknownColumn(f"there is no column '{name}'", hint=did_you_mean(name, self.names))

    @property
    def deletes(self) -> str:
        """The column that says of a row that it deletes its key, "" where there is none: then the rows are no table."""
        return next((column.name for column in self.fields if column.deletes), "")

    def polars(self) -> pl.Schema:
        """The Polars schema."""
        return pl.Schema({column.name: column.dtype for column in self.fields})

    def with_fields(self, fields: Iterable[Field]) -> Schema:
        """This schema with fields replaced in place where the name is known, appended where it is new."""
        new = {column.name: column for column in fields}
        kept = [new.pop(column.name, column) for column in self.fields]
        return Schema((*kept, *new.values()))

    def empty(self) -> pl.DataFrame:
        """A frame of these columns without rows."""
        return pl.DataFrame(schema=self.polars())


@dataclass(frozen=True, slots=True)
class Contract:
    """A named, versioned schema and its promises, read from one `.avsc` file.

    name         subject, for example "payment"; version from the file's `sp:version`; `str()` gives "payment.v2"
    avro         the parsed Avro schema (JSON as Python values), without interpretation
    schema       the columns
    event_time   name of the field with role event_time, "" if none
    key          names of the fields with role key, in schema order
    retention_us how long the data may be kept, None for ever
    key_encoding how the record key is made of them: "utf8", "int64", "composite", or "" without a key
    partitioner  who placed the records: "murmur2", "crc32", "fnv1a", or "unknown" (the engine then repartitions)
    compatibility the mode that a next version must keep
    """

    name: str
    version: int
    avro: Mapping[str, object]
    schema: Schema
    event_time: str = ""
    key: tuple[str, ...] = ()
    owner: str = ""
    steward: str = ""
    scope: tuple[str, ...] = ()
    retention_us: int | None = None
    sla: Mapping[str, object] = field(default_factory=dict)
    doc: str = ""
    key_encoding: str = ""
    partitioner: str = "unknown"
    compatibility: str = "BACKWARD_TRANSITIVE"

    def owner_of(self, name: str) -> str:
        """Who owns a field: the one that it names, else the contract's owner.  Raises UnknownColumn."""
        return self.schema[name].owner or self.owner

    def __str__(self) -> str:
        return f"{self.name}.v{self.version}"
