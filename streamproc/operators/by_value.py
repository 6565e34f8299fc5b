"""Aggregates over texts, bytes and decimals: accumulators of codes, together with what the codes stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamproc.batch import Keys
from streamproc.columns import grow
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.operators.accumulators import Reading
from streamproc.operators.edges import Edges
from streamproc.operators.tallies import Tallies
from streamproc.operators.value_table import ValueTable, values_ordered
from streamproc.operators.values import Flags
from streamproc.ports import Bytes, Int64s


@kernel
def _offer(codes: Int64s, present: Flags, slot: int, code: int, smallest: bool, arena: Bytes, records: Int64s) -> None:
    if not present[slot]:
        present[slot] = 1
        codes[slot] = code
    elif smallest:
        if values_ordered(arena, records, code, codes[slot]):
            codes[slot] = code
    elif values_ordered(arena, records, codes[slot], code):
        codes[slot] = code


@kernel
def _offer_all(
    codes: Int64s, present: Flags, slots: Int64s, offered: Int64s, valid: Flags, smallest: bool, arena: Bytes,
    records: Int64s, out: Int64s, has: Flags,
) -> None:  # fmt: skip
    for i in range(slots.size):
        if valid[i]:
            _offer(codes, present, slots[i], offered[i], smallest, arena, records)
        out[i] = codes[slots[i]]
        has[i] = present[slots[i]]


@kernel
def _offer_merge(
    codes: Int64s, present: Flags, into: Int64s, source: Int64s, smallest: bool, arena: Bytes, records: Int64s
) -> None:
    for i in range(into.size):
        if present[source[i]]:
            _offer(codes, present, into[i], codes[source[i]], smallest, arena, records)


def _bytes_of(values: ValueTable) -> tuple[Bytes, Int64s]:
    return frozen(values.keys.arrays.arena), frozen(values.keys.arrays.records)


def _spelled(values: ValueTable, codes: Int64s, present: Flags) -> Reading:
    """Codes as their bytes, copied: (buffer, starts, ends, present)."""
    some = np.flatnonzero(present)
    keys = values.keys.key_bytes(codes[some])
    starts, ends = np.zeros(codes.size, np.int64), np.zeros(codes.size, np.int64)
    starts[some], ends[some] = keys.starts, keys.ends
    return keys.buffer, starts, ends, present


@dataclass(slots=True)
class ValueExtremes:
    """The least or greatest value by slot."""

    values: ValueTable
    codes: Int64s
    present: Flags
    smallest: bool

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.codes, self.present = grow(self.codes, slots), grow(self.present, slots)

    def add(self, slots: Int64s, *columns: Any) -> None:
        """Compares the valid values."""
        self._offer(slots, *columns)

    def add_each(self, slots: Int64s, *columns: Any) -> Reading:
        """Compares, and gives the extreme after each row."""
        return _spelled(self.values, *self._offer(slots, *columns))

    def _offer(
        self, slots: Int64s, buffer: Bytes, starts: Int64s, ends: Int64s, hashes: Any, valid: Flags
    ) -> tuple[Int64s, Flags]:
        if self.values.crowded():
            self.values.sweep(self.codes[self.present != 0])
        codes = self.values.keys.intern(Keys(buffer, starts, ends, hashes))
        out, has = np.empty(slots.size, np.int64), np.empty(slots.size, np.uint8)
        _offer_all(self.codes, self.present, slots, codes, valid, self.smallest, *_bytes_of(self.values), out, has)
        return out, has

    def merge(self, into: Int64s, source: Int64s) -> None:
        """The extreme of both."""
        _offer_merge(self.codes, self.present, into, source, self.smallest, *_bytes_of(self.values))

    def clear(self, slots: Int64s) -> None:
        """Back to nothing."""
        self.present[slots] = 0

    def read(self, slots: Int64s) -> Reading:
        """(buffer, starts, ends, present)"""
        return _spelled(self.values, self.codes[slots], self.present[slots])


@dataclass(slots=True)
class ValueEdges:
    """The first or last value by slot."""

    values: ValueTable
    edges: Edges

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.edges.grow(slots)

    def add(self, slots: Int64s, *columns: Any) -> None:
        """Compares the places of the valid rows."""
        self.edges.add(slots, *self._coded(*columns))

    def add_each(self, slots: Int64s, *columns: Any) -> Reading:
        """Compares, and gives the value after each row."""
        codes, has = self.edges.add_each(slots, *self._coded(*columns))
        return _spelled(self.values, codes, has)

    def _coded(self, buffer: Bytes, starts: Int64s, ends: Int64s, hashes: Any, places: Int64s, valid: Flags) -> Reading:
        if self.values.crowded():
            self.values.sweep(self.edges.codes[self.edges.present != 0])
        return frozen(self.values.keys.intern(Keys(buffer, starts, ends, hashes))), places, valid

    def merge(self, into: Int64s, source: Int64s) -> None:
        """The earlier or later of both."""
        self.edges.merge(into, source)

    def clear(self, slots: Int64s) -> None:
        """Back to nothing."""
        self.edges.clear(slots)

    def read(self, slots: Int64s) -> Reading:
        """(buffer, starts, ends, present)"""
        return _spelled(self.values, *self.edges.read(slots))


@dataclass(slots=True)
class ValueTallies:
    """How often each value occurs by slot."""

    values: ValueTable
    tallies: Tallies

    def grow(self, slots: int) -> None:
        """Makes room."""
        self.tallies.grow(slots)

    def add(self, slots: Int64s, *columns: Any) -> None:
        """Counts the valid values."""
        self.tallies.add(slots, *self._coded(*columns))

    def add_each(self, slots: Int64s, *columns: Any) -> Reading:
        """Counts, and gives the reading after each row."""
        codes, valid = self._coded(*columns)
        arena, records = _bytes_of(self.values)
        return self._spelled(self.tallies.best_each(slots, codes, valid, texts=True, arena=arena, records=records))

    def _coded(self, buffer: Bytes, starts: Int64s, ends: Int64s, hashes: Any, valid: Flags) -> tuple[Int64s, Flags]:
        if self.values.crowded():
            self.values.sweep(self.tallies.codes_held())
        return self.values.keys.intern(Keys(buffer, starts, ends, hashes)), valid

    def _spelled(self, reading: Reading) -> Reading:
        if not self.tallies.k:
            return reading
        found, codes, numbers = reading
        return found, numbers, *_spelled(self.values, codes, np.ones(codes.size, np.uint8))

    def merge(self, into: Int64s, source: Int64s) -> None:
        """Adds counts."""
        self.tallies.merge(into, source)

    def clear(self, slots: Int64s) -> None:
        """Forgets what these slots counted."""
        self.tallies.clear(slots)

    def read(self, slots: Int64s) -> Reading:
        """(how many values,), or with k (how many of k, counts, buffer, starts, ends, present)."""
        arena, records = _bytes_of(self.values)
        return self._spelled(self.tallies.best(slots, texts=True, arena=arena, records=records))


def value_extremes(*, smallest: bool) -> ValueExtremes:
    """Extremes of values without a slot yet."""
    return ValueExtremes(ValueTable(), np.zeros(0, np.int64), np.zeros(0, np.uint8), smallest)
