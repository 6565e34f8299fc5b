"""Polars columns as the words, flags and bytes that the encoding kernel reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamproc.wire.layout import Slot

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


_INLINE = 12
_SPARE, _TIMES = 65_536, 4
"""Buffers may be so much larger than what is shown of them before that is copied: bytes, and times."""


@dataclass(slots=True)
class _Text:
    """A column of bytes as Arrow's views: each holds up to twelve bytes itself, or says where in a buffer they are.

    Source: Arrow columnar format, "Variable-size Binary View Layout".

    array  what it was made of, None where the buffer is its own
    views  int64[2n];  parts  the buffers by the numbers that views give them
    size   bytes shown, of these `long` from buffers
    slot, place  the slot's number, and where the views are among the source's words
    """

    array: pa.Array | None
    views: Int64s
    parts: list[Bytes]
    size: int
    long: int
    slot: int = 0
    place: int = 0

    @classmethod
    def of(cls, array: pa.Array) -> _Text:
        """A string_view or binary_view array."""
        views = _numbers(array, "i8", width=2).astype(np.int64, copy=False)
        sizes = views[::2] & 0xFFFFFFFF
        if array.null_count:
            sizes = np.where(_bits(array.buffers()[0], array.offset, len(array)), sizes, 0)
        parts = [np.frombuffer(part, np.uint8) for part in array.buffers()[2:]]
        return cls(array, views, parts, int(sizes.sum()), int(sizes.sum(where=sizes > _INLINE)))

    def gather(self) -> None:
        """Takes a copy of what is shown in place of the buffers."""
        if self.array is not None:
            whole = self.array.cast(pa.large_binary())
            low, high = self.views[::2], self.views[1::2]
            high = np.where(low & 0xFFFFFFFF > _INLINE, _bounds(whole)[:-1] << 32, high)
            self.views = np.stack([low, high], axis=1).ravel()
            self.parts, self.array = [np.frombuffer(whole.buffers()[2], np.uint8)], None


def _place(part: Bytes) -> tuple[int, int]:
    return part.ctypes.data, part.size




@dataclass(slots=True)
class Source:
    """The columns of one encode call: parts to be joined, and where each slot's values and flags begin.

    bases, valids  int64[c] by slot number; valids -1 where every row has a value
    firsts         int64[c] by slot number: of a text column, its first buffer in `parts`
    texts          the text columns, whose bytes are joined last
    most           a bound on the bytes that these columns can encode to
    """

    bases: Int64s
    valids: Int64s
    firsts: Int64s
    words: list[Int64s] = field(default_factory=lambda: [np.zeros(1, np.int64)])
    flags: list[Bytes] = field(default_factory=lambda: [np.zeros(1, np.uint8)])
    texts: list[_Text] = field(default_factory=list)
    word_count: int = 1
    flag_count: int = 1
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
            self.bases[me] = self.leaf(me, slot, array)

    def leaf(self, me: int, slot: Slot, array: pa.Array) -> int:
        """Appends plain values; gives their address."""
        avro = slot.avro
        if avro.logical == "decimal":
            self.most += 17 * len(array) + avro.size * len(array)
            return self.add_words(_numbers(array, "i8", width=2))
        if avro.kind in {"string", "bytes", "fixed"}:
            text = _uuids(array) if avro.logical == "uuid" and avro.kind == "fixed" else _Text.of(array)
            text.slot, text.place = me, len(self.words)
            self.texts.append(text)
            self.most += text.size
            return self.add_words(text.views)
        if avro.kind == "enum":
            return self.add_words(_symbols(avro.symbols, array))
        width = array.type.bit_width // 8
        return self.add_words(_numbers(array, "u4" if avro.kind == "float" else f"i{width}"))

    def data(self) -> tuple[Bytes, Int64s]:
        """The bytes that the views of all text columns show, and where each of their buffers begins among them.

        Buffers are taken as they are where that is little more than what is shown, and always where there is only one:
        columns that were decoded together share the payloads, and one that came from many steps holds on to them all.
        """
        texts = [text for text in self.texts if text.long]
        held = {_place(part): part for text in texts for part in text.parts}
        shown = sum(text.long for text in texts)
        if len(held) > 1 and sum(part.size for part in held.values()) > _SPARE + _TIMES * shown:
            for text in texts:
                text.gather()
                self.words[text.place] = text.views
            held = {_place(part): part for text in texts for part in text.parts}
        starts = dict(zip(held, accumulate((part.size for part in held.values()), initial=0), strict=False))
        parts: list[int] = []
        for text in texts:
            self.firsts[text.slot] = len(parts)
            parts += [starts[_place(part)] for part in text.parts]
        found = list(held.values()) or [np.zeros(1, np.uint8)]
        return found[0] if len(found) == 1 else np.concatenate(found), np.array([*parts, 0], np.int64)

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


def _uuids(array: pa.Array) -> _Text:
    """Texts of 36 characters as 16 bytes; what is no UUID becomes empty, which the kernel finds too short."""
    whole = array.cast(pa.large_binary())
    bounds, raw = _bounds(whole), np.frombuffer(whole.buffers()[2] or b"", np.uint8)
    candidates = np.flatnonzero(np.diff(bounds) == 36)
    chars = raw[bounds[candidates][:, None] + np.arange(36)]
    nibbles = _NIBBLE[chars[:, _PLACES]]
    good = (nibbles < 16).all(axis=1) & (chars[:, [8, 13, 18, 23]] == ord("-")).all(axis=1)
    packed = (nibbles[good, ::2] << 4 | nibbles[good, 1::2]).reshape(-1)
    views = np.zeros(2 * len(array), np.int64)
    views[2 * candidates[good]] = 16
    views[2 * candidates[good] + 1] = np.arange(packed.size // 16) << 36
    return _Text(None, views, [packed], packed.size, packed.size)
