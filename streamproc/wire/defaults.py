"""A field's default as constant instructions: what each of its columns gets, without anything on the wire."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

from streamproc.errors import InvalidSchema
from streamproc.wire import opcodes as op
from streamproc.wire.layout import Slot
from streamproc.wire.types import AvroType

Step = tuple[int, Slot, int, int]
"""Opcode, slot, and the operands A and B."""


def constant_steps(avro: AvroType, slot: Slot, value: object, constants: bytearray) -> Iterator[Step]:
    """The instructions that store a default of a type in its slot; texts that do not fit a view go to `constants`.

    A union's default may be of any branch (Avro 1.12).  Raises InvalidSchema where the default is of another type.
    """
    if avro.kind == "union":
        branch = next((b for b in avro.branches if _fits(b, value)), None)
        if branch is None:
            raise _misfit(slot, value)
        if branch.kind == "null":
            if slot.avro.kind != "null":
                yield op.FILL, slot, slot.first, slot.last
            return
        if slot.avro.kind == "union":
            yield op.FILL, slot, slot.first, slot.last
            if slot.valid >= 0:
                yield op.SET_FLAG, slot, 1, 1
            slot = slot.children[avro.values.index(branch)]
        avro = branch
    if not _fits(avro, value):
        raise _misfit(slot, value)
    if slot.valid >= 0:
        yield op.SET_FLAG, slot, 1, 1
    yield from _plain_steps(avro, slot, value, constants)


def _plain_steps(avro: AvroType, slot: Slot, value: object, constants: bytearray) -> Iterator[Step]:
    if avro.kind == "record" and isinstance(value, Mapping):
        for column, child in zip(avro.fields, slot.children, strict=True):
            yield from constant_steps(column.type, child, value.get(column.name, column.default), constants)
    elif avro.items is not None:
        pairs = value.items() if isinstance(value, Mapping) else [("", item) for item in _listed(value)]
        for key, item in pairs:
            if avro.kind == "map":
                yield from _plain_steps(AvroType("string"), slot.children[0], key, constants)
            yield from constant_steps(avro.items, slot.children[-1], item, constants)
            yield op.ADD_ITEM, slot, 0, 0
        yield op.SET_ENDS, slot, 0, 0
    elif avro.kind == "boolean":
        yield op.SET_FLAG, slot, int(bool(value)), 0
    elif avro.kind == "enum":
        yield op.SET_WORD, slot, avro.symbols.index(str(value)), 0
    elif isinstance(value, (int, float)):
        yield op.SET_WORD, slot, _word(avro, value), 0
    elif avro.kind != "null":
        yield from _byte_steps(avro, slot, str(value), constants)


def _byte_steps(avro: AvroType, slot: Slot, text: str, constants: bytearray) -> Iterator[Step]:
    raw = text.encode("utf-8" if avro.kind == "string" else "latin-1")
    if avro.logical == "decimal":
        number = int.from_bytes(raw, "big", signed=True)
        yield op.SET_PAIR, slot, *struct.unpack("<qq", number.to_bytes(16, "little", signed=True))
    elif avro.logical == "duration":
        for child, part in zip(slot.children, struct.unpack("<III", raw), strict=True):
            yield op.SET_WORD, child, part, 0
    else:
        if len(raw) <= 12:
            view = struct.pack("<I", len(raw)) + raw.ljust(12, b"\0")
        else:
            view = struct.pack("<I4sII", len(raw), raw[:4], 1, len(constants))
            constants += raw
        yield op.SET_PAIR, slot, *struct.unpack("<qq", view)


def _word(avro: AvroType, value: float) -> int:
    if avro.kind == "double":
        return int(struct.unpack("<q", struct.pack("<d", value))[0])
    if avro.kind == "float":
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    return int(value) * {"time-millis": 1_000_000, "time-micros": 1_000}.get(avro.logical, 1)


def _fits(avro: AvroType, value: object) -> bool:
    """Whether a JSON value is one of this type."""
    if avro.kind == "union":
        return any(_fits(branch, value) for branch in avro.branches)
    if avro.kind == "null":
        return value is None
    if avro.kind == "boolean":
        return isinstance(value, bool)
    if avro.kind in {"int", "long"}:
        bits = 31 if avro.kind == "int" else 63
        return isinstance(value, int) and not isinstance(value, bool) and -(2**bits) <= value < 2**bits
    if avro.kind in {"float", "double"}:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if avro.kind == "array":
        return isinstance(value, Sequence) and not isinstance(value, str)
    if avro.kind in {"map", "record"}:
        return isinstance(value, Mapping)
    if avro.kind == "enum":
        return value in avro.symbols
    if not isinstance(value, str):
        return False
    if avro.kind != "string" and any(ord(char) > 255 for char in value):
        return False
    if avro.logical == "decimal":
        number = int.from_bytes(value.encode("latin-1"), "big", signed=True)
        return abs(number) < 10**avro.precision and (avro.kind == "bytes" or len(value) == avro.size)
    return avro.kind != "fixed" or len(value) == avro.size


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) else ()


def _misfit(slot: Slot, value: object) -> InvalidSchema:
    return InvalidSchema(
        f"the default of '{slot.path}' is {value!r}, which its type cannot hold", hint="change the default"
    )
