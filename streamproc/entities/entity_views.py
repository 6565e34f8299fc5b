"""One kind of what `resolve` gives, with the columns that belong to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, did_you_mean
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.explode import Explode

Kind = Literal["records", "events", "links", "golden", "review"]
_EVENTS: Final[dict[str, tuple[str, ...]]] = {
    "records": ("created", "joined", "corrected"),
    "events": ("created", "joined", "corrected", "merged", "split", "removed", "ignored"),
    "links": ("created", "joined", "corrected", "merged", "split", "removed"),
    "golden": ("golden",),
    "review": ("review",),
}
_OF_EVENTS: Final = ("event", "reason", "entity_id", "other_id", "records", "matched", "weight", "posterior", "size")
_COLUMNS: Final = {
    "records": ("entity_id", "event", "matched", "weight", "posterior"),
    "events": _OF_EVENTS,
    "links": ("records", "entity_id"),
    "golden": ("entity_id", "size"),
    "review": ("entity_id", "other_id", "records", "weight", "posterior", "reason"),
}


@dataclass(frozen=True, slots=True)
class EntityRows:
    """Takes one kind of rows out of what `resolve` gives, see `entity_rows`."""

    kind: Kind

    @property
    def verb(self) -> str:
        return "entity_rows"

    def _made(self, schema: Schema) -> list[tuple[str, Field]]:
        """Columns of the output: their names above, and themselves."""
        golden = [column for column in schema.names if column.startswith("golden_")]
        if self.kind == "records":
            own = [column for column in schema.names if column not in _OF_EVENTS and column not in golden]
            return [(name, schema[name]) for name in (*own, *_COLUMNS["records"])]
        if self.kind == "links":
            return [
                ("records", Field("record", pl.String(), pii=schema["records"].pii)),
                ("entity_id", schema["entity_id"]),
            ]
        made = [(name, schema[name]) for name in _COLUMNS[self.kind]]
        if self.kind == "golden":
            made += [(name, replace(schema[name], name=name.removeprefix("golden_"))) for name in golden]
        return made

    def schema(self, *inputs: StreamType) -> StreamType:
        """The columns of one kind; raises DefinitionError for a stream that is not `resolve`'s."""
        (stream,) = inputs
        missing = [name for name in _OF_EVENTS if name not in stream.schema]
        if missing:
            raise DefinitionError(
                f"step 'entity_rows' needs what resolve gives, and there is no column '{missing[0]}'",
                hint="people = records | sp.key_by() | sp.resolve(...); people | sp.entity_rows('events')",
            )
        return StreamType(Schema(tuple(column for _, column in self._made(stream.schema))))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed of the kind's columns, and the kind of event."""
        if self.kind == "links":
            return (frozenset(("event", *_COLUMNS["links"])),)
        above = {column.name: name for name, column in self._made(inputs[0])}
        return (frozenset(above[name] for name in needed) | {"event"},)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """Cost O(rows)."""
        (batch,) = inputs
        mine = batch.frame["event"].cast(pl.String).is_in(list(_EVENTS[self.kind])).to_numpy()
        rows = batch.filter(mine)
        if self.kind == "links":
            return None, Output(_links(rows, time))
        names = frozenset(rows.frame.columns)
        golden = [name for name in rows.frame.columns if name.startswith("golden_")]
        if self.kind == "records":
            wanted = [name for name in rows.frame.columns if name not in _OF_EVENTS and name not in golden]
            wanted += [name for name in _COLUMNS["records"] if name in names]
        else:
            wanted = [name for name in _COLUMNS[self.kind] if name in names]
        frame = rows.frame.select(wanted)
        if self.kind == "golden":
            frame = rows.frame.select(*wanted, *(pl.col(n).alias(n.removeprefix("golden_")) for n in golden))
        return None, Output(Batch(frame, np.ascontiguousarray(rows.meta)))


def _links(rows: Batch, time: StepTime) -> Batch:
    """A row for each record that an event speaks of: to which entity it belongs from then on, null for none."""
    belongs = pl.when(pl.col("event").cast(pl.String) != "removed").then(pl.col("entity_id")).alias("entity_id")
    events = Batch(rows.frame.select("records", belongs), np.ascontiguousarray(rows.meta))
    _, output = Explode("records").process(None, (events,), time)
    links = output.rows
    return Batch(links.frame.rename({"records": "record"}), np.ascontiguousarray(links.meta))


def entity_rows(kind: Kind, *, name: str = "") -> Step:
    """One kind of what `resolve` gives: `people | sp.entity_rows("golden")`.

    records  each record once as it came, with the id of its entity, and what it agreed with best
    events   what happened to entities: created, joined, corrected, merged, split, removed, ignored
    links    of each record that an event speaks of, the entity to which it belongs from then on (null: none): for
             `follow`
    golden   entities as they are after each change: surviving values, each with the record that it comes from
    review   pairs of records that a person should decide; the answer is a command

    >>> entity_rows("golden").operator.kind
    'golden'
    """
    if kind not in _EVENTS:
        raise DefinitionError(f"step 'entity_rows' knows no kind '{kind}'", hint=did_you_mean(kind, _EVENTS))
    return Step(EntityRows(kind), (), name)
