"""The key of a stream: which rows belong together, and so come to the same task."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from streamproc.batch import Batch, Keys
from streamproc.contracts.model import Schema
from streamproc.errors import DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.graph import Step
from streamproc.hashing import hash_bytes
from streamproc.keys import key_kinds, keys_of
from streamproc.operator import Output, StepTime, StreamType, passes_through


@dataclass(frozen=True, slots=True)
class KeyBy:
    """Gives each row its key."""

    columns: tuple[str, ...]
    verb: str = "key_by"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The same columns under another key; raises UnknownColumn, and TypeMismatch for floats, lists and structs."""
        (stream,) = inputs
        for name in self.columns:
            if name not in stream.schema:
                raise UnknownColumn(
                    f"step '{self.verb}' reads '{name}'",
                    hint=f"{did_you_mean(name, stream.schema.names)}; a computed key needs a with_columns before",
                )
        try:
            key_kinds(stream.schema, self.columns)
        except TypeMismatch as error:
            raise TypeMismatch(f"step '{self.verb}': {error.message}", hint=error.hint) from None
        # Rows of another key go elsewhere: where their producers placed them is over.
        stays = self.columns in (stream.keyed_by, stream.placed_by)
        return replace(stream, keyed_by=self.columns, placed_by=stream.placed_by if stays else None)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and the key columns."""
        return (passes_through(needed, self.columns),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """Cost O(rows + bytes of the keys); rows and payloads stay as they are."""
        (batch,) = inputs
        keys = keys_of(batch.frame, self.columns) if self.columns else _one_key(len(batch))
        return None, Output(batch.with_keys(keys))


def key_by(*columns: str, name: str = "") -> Step:
    """Says which rows belong together: those that are equal in all of these columns; null is a key of its own.

    The plan cuts a stage here: rows of one key are processed by one task, in order. Without columns all rows have one
    key, and one task takes them all. A key that must be computed is a column made by `with_columns` before.
    At plan time raises UnknownColumn, DuplicateName, and TypeMismatch for floats (NaN does not equal itself), lists and
    structs.

    >>> key_by("country", "card_id").operator.columns
    ('country', 'card_id')
    """
    for column in columns:
        if not isinstance(column, str):
            raise TypeMismatch(
                f"step 'key_by' got {type(column).__name__}, not the name of a column",
                hint="make it a column first: sp.with_columns(key=...) | sp.key_by('key')",
            )
        if columns.count(column) > 1:
            raise DuplicateName(f"step 'key_by' names column '{column}' twice", hint="name it once")
    return Step(KeyBy(columns), (), name)


def _one_key(rows: int) -> Keys:
    """The empty key for all rows, also of a frame without columns."""
    bounds = np.zeros(rows, np.int64)
    buffer = np.empty(0, np.uint8)
    return Keys(buffer, bounds, bounds, hash_bytes(buffer, bounds, bounds))
