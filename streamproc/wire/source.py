"""Polars columns as the words, flags and bytes that the encoding kernel reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamproc.wire.layout import Slot

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclass(slots=True)
class Source:
    """The columns of one encode call: parts to be joined, and where each slot's values and flags begin.

    bases, valids  int64[c] by slot number; valids -1 where every row has a value
    most           a bound on the bytes that these columns can encode to
    """

    bases: Int64s
    valids: Int64s
    words: list[Int64s] = field(default_factory=lambda: [np.zeros(1, np.int64)])
    flags: list[Bytes] = field(default_factory=lambda: [np.zeros(1, np.uint8)])
    data: list[Bytes] = field(default_factory=lambda: [np.zeros(1, np.uint8)])
    word_count: int = 1
    flag_count: int = 1
    data_count: int = 1
    most: int = 0

    def add(self, slot: Slot, numbers: dict[int, int], array: pa.Array) -> None:
        """Takes over the values of a slot and of everything in it."""
        me, n = numbers[id(slot)], len(array)
        self.most += 11 * n  # a branch index and the longest number, length or count
        if slot.avro.kind == "null":
            return
        self.valids[me] = -1
        if array.null_count:
            self.valids[me] = self.add_flags(_bits(array.buffers()[0], array.offset, n))
        if pa.types.is_struct(array.type):
            for i, child in enumerate(slot.children):
                self.add(child, numbers, array.field(i))
        elif slot.avro.items is not None:
            bounds = _bounds(array)
            self.bases[me] = self.add_words(bounds - bounds[0])
            self.most += n
            items = array.values.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))
            if slot.avro.kind == "map":
                for i, child in enumerate(slot.children):
                    self.add(child, numbers, items.field(i))
            else:
                self.add(slot.children[0], numbers, items)
        elif slot.avro.kind == "boolean":
            self.bases[me] = self.add_flags(_bits(array.buffers()[1], array.offset, n))
        else:
            self.bases[me] = self.leaf(slot, array)

    def leaf(self, slot: Slot, array: pa.Array) -> int:
        """Appends plain values; gives their address."""
        avro = slot.avro
        if avro.logical == "decimal":
            self.most += 17 * len(array) + avro.size * len(array)
            return self.add_words(_numbers(array, "i8", width=2))
        if avro.kind in {"string", "bytes", "fixed"}:
            bounds = _bounds(array)
            raw = np.empty(0, np.uint8) if array.buffers()[2] is None else np.frombuffer(array.buffers()[2], np.uint8)
            raw = raw[int(bounds[0]) : int(bounds[-1])]
            bounds = bounds - bounds[0]
            if avro.logical == "uuid" and avro.kind == "fixed":
                bounds, raw = _uuid_bytes(bounds, raw)
            self.most += raw.size
            address = self.add_words(bounds + self.data_count)
            self.data.append(raw)
            self.data_count += raw.size
            return address
        if avro.kind == "enum":
            return self.add_words(_symbols(avro.symbols, array))
        width = array.type.bit_width // 8
        return self.add_words(_numbers(array, "u4" if avro.kind == "float" else f"i{width}"))

    def add_words(self, values: npt.NDArray[np.generic]) -> int:
        """Appends numbers as words; gives their address."""
        address = self.word_count
        self.words.append(values.astype(np.int64, copy=False))
        self.word_count += values.size
        return address

    def add_flags(self, values: Bytes) -> int:
        """Appends flags; gives their address."""
        address = self.flag_count
        self.flags.append(values)
        self.flag_count += values.size
        return address


def _bits(buffer: pa.Buffer, offset: int, n: int) -> Bytes:
    if n == 0:
        return np.empty(0, np.uint8)
    return np.unpackbits(np.frombuffer(buffer, np.uint8), count=offset + n, bitorder="little")[offset:]


def _numbers(array: pa.Array, dtype: str, *, extra: int = 0, width: int = 1) -> npt.NDArray[np.generic]:
    """The array's first value buffer from the array's own offset on: `width` numbers a row, `extra` more at the end."""
    start, n = array.offset * width, len(array) * width + extra
    held = array.buffers()[1]
    if held is None or held.size == 0:
        return np.zeros(n, dtype)
    return np.frombuffer(held, dtype)[start : start + n]


def _bounds(array: pa.Array) -> Int64s:
    """Where each row's bytes or items begin, and where the last one ends."""
    return _numbers(array, "i8", extra=1).astype(np.int64, copy=False)


def _symbols(symbols: tuple[str, ...], array: pa.Array) -> Int64s:
    """Indices into the schema's symbols, whatever order the array's dictionary has."""
    indices = array.indices
    raw = _numbers(indices, f"u{indices.type.bit_width // 8}").astype(np.int64)
    known = array.dictionary.to_pylist()
    if tuple(known) == symbols[: len(known)]:
        return raw
    place = {symbol: i for i, symbol in enumerate(symbols)}
    return np.take(np.array([*(place[s] for s in known), 0], np.int64), np.minimum(raw, len(known)))


_NIBBLE = np.full(256, 255, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_NIBBLE[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)
_PLACES = np.array([i for i in range(36) if i not in {8, 13, 18, 23}])


def _uuid_bytes(bounds: Int64s, raw: Bytes) -> tuple[Int64s, Bytes]:
    """Texts of 36 characters as 16 bytes; what is no UUID becomes empty, which the kernel finds too short."""
    candidates = np.flatnonzero(np.diff(bounds) == 36)
    chars = raw[bounds[candidates][:, None] + np.arange(36)]
    nibbles = _NIBBLE[chars[:, _PLACES]]
    good = (nibbles < 16).all(axis=1) & (chars[:, [8, 13, 18, 23]] == ord("-")).all(axis=1)
    sizes = np.zeros(bounds.size, np.int64)
    sizes[1 + candidates[good]] = 16
    return np.cumsum(sizes), (nibbles[good, ::2] << 4 | nibbles[good, 1::2]).reshape(-1)
