"""Decoded words and flags as Polars columns, without copying what Arrow can take as it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from streamproc.wire.layout import ENDS, FLAG, TEXT, WIDE, Layout, Slot
from streamproc.wire.types import AvroType

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclass(slots=True)
class Arena:
    """The columns of one decode call, while they are written.

    words     int64[*], 16-byte aligned columns; flags uint8[*]
    columns   int64[4, c]  address, kind, scope and inner scope of each column
    counts, capacity  int64[s]  rows written and room of each scope
    """

    words: Int64s
    flags: Bytes
    columns: Int64s
    counts: Int64s
    capacity: Int64s


def new_arena(layout: Layout, capacity: Int64s) -> Arena:
    """An empty arena with that much room in each scope."""
    columns = np.zeros((4, len(layout.kinds)), np.int64)
    columns[1:] = layout.kinds, layout.scopes, layout.inner
    words = flags = 0
    for c, (kind, scope) in enumerate(zip(layout.kinds, layout.scopes, strict=True)):
        rows = int(capacity[scope])
        if kind == FLAG:
            columns[0, c], flags = flags, flags + rows
        else:
            columns[0, c] = words
            words += 2 * rows if kind in {TEXT, WIDE} else rows + 1
            words += words & 1
    arena = Arena(
        np.empty(words, np.int64), np.empty(flags, np.uint8), columns, np.zeros(layout.scope_count, np.int64), capacity
    )
    for c in np.flatnonzero(columns[1] == ENDS).tolist():
        arena.words[columns[0, c]] = 0
    return arena


def grown(layout: Layout, arena: Arena, scope: int, needed: int) -> Arena:
    """The arena with at least that much room in a scope, and twice what it had."""
    capacity = arena.capacity.copy()
    capacity[scope] = max(needed, 2 * int(capacity[scope]))
    bigger = new_arena(layout, capacity)
    bigger.counts[:] = arena.counts
    for c, kind in enumerate(layout.kinds):
        used = int(arena.counts[layout.scopes[c]])
        source, target = int(arena.columns[0, c]), int(bigger.columns[0, c])
        if kind == FLAG:
            bigger.flags[target : target + used] = arena.flags[source : source + used]
        else:
            size = 2 * used if kind in {TEXT, WIDE} else used + (kind == ENDS)
            bigger.words[target : target + size] = arena.words[source : source + size]
    return bigger


def arrow_schema(avro: AvroType) -> pa.Schema:
    """The Arrow schema of a record's columns, as Polars itself states it: enums and views arrive as such."""
    empty = pl.DataFrame(schema={column.name: column.dtype for column in avro.fields})
    return empty.to_arrow(compat_level=pl.CompatLevel.newest()).schema


def frame_of(layout: Layout, target: pa.Schema, arena: Arena, data: Sequence[Bytes]) -> pl.DataFrame:
    """The good rows as a frame of the reader's columns; `data` are the buffers that text views point into."""
    maker = _Maker(arena, [pa.py_buffer(part) for part in data])
    arrays = [maker.array(slot, target.field(i).type) for i, slot in enumerate(layout.root.children)]
    if not arrays:
        return pl.DataFrame(height=int(arena.counts[0]))
    # As one struct, not as a table: Polars hands a table to its pool of threads, and to wait for that takes longer than
    # the work where rows are few.
    return pl.Series(pa.StructArray.from_arrays(arrays, fields=list(target))).struct.unnest()


@dataclass(frozen=True, slots=True)
class _Maker:
    arena: Arena
    data: list[pa.Buffer]

    def array(self, slot: Slot, arrow: pa.DataType) -> pa.Array:
        """The slot's values as an Arrow array of a type."""
        rows = int(self.arena.counts[slot.scope])
        if slot.avro.kind == "null":
            return pa.nulls(rows)
        valid = None if slot.valid < 0 else self.bitmap(slot.valid, rows)
        if pa.types.is_struct(arrow):
            children = [self.array(child, arrow.field(i).type) for i, child in enumerate(slot.children)]
            return pa.Array.from_buffers(arrow, rows, [valid], children=children)
        if slot.avro.items is not None:
            ends = pa.py_buffer(self.words(slot.column, rows + 1))
            return pa.Array.from_buffers(arrow, rows, [valid, ends], children=[self.items(slot, arrow.value_type)])
        if slot.avro.kind == "boolean":
            return pa.Array.from_buffers(arrow, rows, [valid, self.bitmap(slot.column, rows)])
        return self.leaf(slot, arrow, rows, valid)

    def items(self, slot: Slot, arrow: pa.DataType) -> pa.Array:
        if slot.avro.kind == "array":
            return self.array(slot.children[0], arrow)
        children = [self.array(child, arrow.field(i).type) for i, child in enumerate(slot.children)]
        return pa.Array.from_buffers(arrow, int(self.arena.counts[slot.inner]), [None], children=children)

    def leaf(self, slot: Slot, arrow: pa.DataType, rows: int, valid: pa.Buffer | None) -> pa.Array:
        avro = slot.avro
        if avro.logical == "uuid" and avro.kind == "fixed":
            return self.uuids(slot, arrow, rows, valid)
        if avro.kind in {"string", "bytes", "fixed"}:
            views = self.words(slot.column, 2 * rows)
            if avro.logical == "decimal":
                return pa.Array.from_buffers(arrow, rows, [valid, pa.py_buffer(views)])
            return pa.Array.from_buffers(arrow, rows, [valid, pa.py_buffer(views), *self.data])
        words = self.words(slot.column, rows)
        if avro.kind == "enum":
            indices = pa.Array.from_buffers(
                arrow.index_type, rows, [valid, pa.py_buffer(_narrow(words, arrow.index_type))]
            )
            return pa.DictionaryArray.from_arrays(
                indices, pa.array(avro.symbols, arrow.value_type), ordered=arrow.ordered, safe=False
            )
        return pa.Array.from_buffers(arrow, rows, [valid, pa.py_buffer(_narrow(words, arrow))])

    def uuids(self, slot: Slot, arrow: pa.DataType, rows: int, valid: pa.Buffer | None) -> pa.Array:
        """Sixteen raw bytes a row as the usual text of 36 characters."""
        views = self.words(slot.column, 2 * rows)
        # A row without a value has a view of length zero; its text is never looked at.
        starts = np.where(views[::2] & 0xFFFFFFFF == 16, (views[1::2] >> 32) & 0xFFFFFFFF, 0)
        constant = views[1::2] & 0xFFFFFFFF
        text = np.zeros((rows, 36), np.uint8)
        for part in range(len(self.data)):
            source = np.frombuffer(self.data[part], np.uint8)
            here = np.flatnonzero((constant == part) & (views[::2] & 0xFFFFFFFF == 16))
            if here.size:
                raw = source[starts[here, None] + np.arange(16)]
                text[here[:, None], _UUID_PLACES] = _HEX[np.stack([raw >> 4, raw & 15], axis=2).reshape(-1, 32)]
        text[:, [8, 13, 18, 23]] = ord("-")
        bounds = pa.py_buffer(np.arange(0, 36 * (rows + 1), 36, dtype=np.int64))
        return pa.Array.from_buffers(pa.large_string(), rows, [valid, bounds, pa.py_buffer(text)]).cast(arrow)

    def words(self, column: int, size: int) -> Int64s:
        start = int(self.arena.columns[0, column])
        return self.arena.words[start : start + size]

    def bitmap(self, column: int, rows: int) -> pa.Buffer:
        start = int(self.arena.columns[0, column])
        return pa.py_buffer(np.packbits(self.arena.flags[start : start + rows], bitorder="little"))


_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_UUID_PLACES = np.array([i for i in range(36) if i not in {8, 13, 18, 23}])


def _narrow(words: Int64s, arrow: pa.DataType) -> npt.NDArray[np.generic]:
    """The words as the bytes of a fixed-width type; wider ones are cut, which keeps two's complement and float bits."""
    width = arrow.bit_width // 8
    return words if width == 8 else words.astype({1: np.uint8, 2: np.uint16, 4: np.uint32}[width])


def reduced(avro: AvroType, names: frozenset[str]) -> AvroType:
    """A record of only some of its fields."""
    kept = tuple(column for column in avro.fields if column.name in names)
    return AvroType("record", name=avro.name, aliases=avro.aliases, fields=kept)
