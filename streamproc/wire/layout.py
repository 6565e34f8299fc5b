"""Where each part of a record lies: columns of plain numbers, and the scopes that they grow in.

A *column* is a run of 8-byte words or of 1-byte flags.  A *scope* is what counts its rows: scope 0 counts records, and
each array or map opens one that counts items.  A *slot* is one node of the reader's schema with its columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streamproc.wire.types import AvroType

FLAG: Final = 0
"""One byte a row: a truth value, or whether the row has a value."""
WORD: Final = 1
"""Eight bytes a row: numbers, floats as their bits, enum indices."""
TEXT: Final = 2
"""Bytes of any length: decoding writes 16-byte views a row, encoding reads n + 1 bounds."""
WIDE: Final = 3
"""Sixteen bytes a row: decimals, low word first."""
ENDS: Final = 4
"""n + 1 bounds of each row's items in the inner scope."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One node of a schema with the columns that hold it.

    avro      the type without null; `path` names it in messages
    valid     the flag column that tells null from a value, -1 where null cannot stand
    column    the data column, -1 for records, unions, durations and null
    scope     what counts its rows; `inner` counts an array's or map's items, else -1
    first, last   half-open range of all its column numbers, inner scopes included
    """

    avro: AvroType
    path: str
    valid: int
    column: int
    scope: int
    inner: int
    first: int
    last: int
    children: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """All columns of a record: kinds[c] and scopes[c] of column c, inner[c] the scope that an ENDS column bounds."""

    root: Slot
    kinds: tuple[int, ...]
    scopes: tuple[int, ...]
    inner: tuple[int, ...]
    scope_count: int


def layout_of(avro: AvroType) -> Layout:
    """The columns of a schema, numbered in schema order."""
    builder = _Builder()
    root = builder.slot(avro, "", 0, nullable=False)
    return Layout(root, tuple(builder.kinds), tuple(builder.scopes), tuple(builder.inner), builder.scope_count)


DURATION_PARTS: Final = ("months", "days", "millis")


class _Builder:
    def __init__(self) -> None:
        self.kinds: list[int] = []
        self.scopes: list[int] = []
        self.inner: list[int] = []
        self.scope_count = 1

    def column(self, kind: int, scope: int, inner: int = -1) -> int:
        self.kinds.append(kind)
        self.scopes.append(scope)
        self.inner.append(inner)
        return len(self.kinds) - 1

    def slot(self, avro: AvroType, path: str, scope: int, *, nullable: bool) -> Slot:
        """A node's slot; `nullable` says that null may stand here for another reason than a union with null."""
        first = len(self.kinds)
        nullable = nullable or (avro.kind == "union" and avro.null_index >= 0)
        if avro.kind == "union" and not avro.is_wide:
            avro = avro.values[0] if avro.values else AvroType("null")
        valid = self.column(FLAG, scope) if nullable and avro.kind != "null" else -1
        column = inner = -1
        children: tuple[Slot, ...] = ()
        if avro.kind == "record":
            children = tuple(
                self.slot(f.type, f"{path}.{f.name}".lstrip("."), scope, nullable=False) for f in avro.fields
            )
        elif avro.kind == "union":
            pairs = zip(avro.value_names, avro.values, strict=True)
            children = tuple(self.slot(branch, f"{path}.{name}", scope, nullable=True) for name, branch in pairs)
        elif avro.logical == "duration":
            long = AvroType("long")
            children = tuple(self.slot(long, f"{path}.{part}", scope, nullable=False) for part in DURATION_PARTS)
        elif avro.items is not None:
            inner, self.scope_count = self.scope_count, self.scope_count + 1
            column = self.column(ENDS, scope, inner)
            if avro.kind == "map":
                key = self.slot(AvroType("string"), f"{path}[].key", inner, nullable=False)
                children = (key, self.slot(avro.items, f"{path}[].value", inner, nullable=False))
            else:
                children = (self.slot(avro.items, f"{path}[]", inner, nullable=False),)
        elif avro.kind != "null":
            column = self.column(_leaf_kind(avro), scope)
        return Slot(avro, path, valid, column, scope, inner, first, len(self.kinds), children)


def _leaf_kind(avro: AvroType) -> int:
    if avro.logical == "decimal":
        return WIDE
    if avro.kind == "boolean":
        return FLAG
    return TEXT if avro.kind in {"bytes", "string", "fixed"} else WORD
