"""Compiles a writer's schema and a reader's layout into the table of instructions that the decoding kernel runs.

All of schema resolution happens here, once: promotions, aliases, reordered and missing fields, enum symbols, unions on
either side.  What nobody reads becomes instructions that only step over it.
Source: Avro specification 1.12, "Schema Resolution".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamproc.errors import IncompatibleEvolution, InvalidSchema
from streamproc.wire import opcodes as op
from streamproc.wire.defaults import constant_steps
from streamproc.wire.layout import Layout, Slot
from streamproc.wire.types import AvroField, AvroType, min_size

_DAY = {"time-millis": (86_400_000, 1_000_000), "time-micros": (86_400_000_000, 1_000)}
_READS: dict[str, tuple[str, ...]] = {
    "int": ("int", "long", "float", "double"),
    "long": ("long", "float", "double"),
    "float": ("float", "double"),
    "string": ("string", "bytes"),
    "bytes": ("bytes", "string"),
}


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled pair of schemas.

    code       int64[*, 10]  instructions, see `opcodes`; BASE and VALID are column numbers
    aux        int64[*]  jump tables of unions, symbol tables of enums
    constants  uint8[*]  the bytes of texts that defaults give; views name them as a second buffer
    """

    layout: Layout
    code: npt.NDArray[np.int64]
    aux: npt.NDArray[np.int64]
    constants: npt.NDArray[np.uint8]


def compile_program(writer: AvroType, layout: Layout) -> Program:
    """The program that reads the writer's records into the layout of the reader's schema.

    Raises IncompatibleEvolution, naming the field, where the reader's schema cannot read what the writer's writes.
    """
    compiler = _Compiler()
    compiler.value(writer, layout.root, op.PLAIN)
    compiler.emit(op.END)
    code = np.array(compiler.code, np.int64).reshape(-1, op.FIELDS)
    constants = np.frombuffer(bytes(compiler.constants), np.uint8)
    return Program(layout, code, np.array([*compiler.aux, -1], np.int64), constants)


class _Compiler:
    def __init__(self) -> None:
        self.code: list[list[int]] = []
        self.aux: list[int] = []
        self.constants = bytearray()

    def emit(
        self,
        opcode: int,
        slot: Slot | None = None,
        *,
        tag: int = op.PLAIN,
        a: int = 0,
        b: int = 0,
        width: int = op.ZERO_NOTHING,
    ) -> int:
        """Adds an instruction and gives its place."""
        here = len(self.code)
        if slot is None:
            self.code.append([opcode, tag, -1, -1, 0, a, b, here + 1, width, -1])
        else:
            self.code.append([opcode, tag, slot.column, slot.valid, slot.scope, a, b, here + 1, width, slot.inner])
        return here

    def land(self, *places: int) -> None:
        """Makes these instructions jump to the next one."""
        for place in places:
            self.code[place][op.JUMP] = len(self.code)

    def node(self, writer: AvroType, slot: Slot | None) -> None:
        """Reads a value of any type, or steps over it where there is no slot."""
        if writer.kind != "union":
            self.bare(writer, slot)
        elif len(writer.branches) == 2 and writer.null_index >= 0 and _takes_null(slot):
            self.value(writer.values[0], slot, op.NULL_SECOND if writer.null_index else op.NULL_FIRST)
        else:
            self.switch(writer, slot)

    def switch(self, writer: AvroType, slot: Slot | None) -> None:
        """A writer's union, branch by branch; a branch that the reader cannot read makes only its rows bad."""
        table = len(self.aux)
        self.aux.extend([-1] * len(writer.branches))
        self.emit(op.SWITCH, a=table, b=len(writer.branches))
        ends: list[int] = []
        refused: IncompatibleEvolution | None = None
        for index, branch in enumerate(writer.branches):
            mark = self.mark()
            self.aux[table + index] = len(self.code)
            try:
                self.bare(branch, slot)
                ends.append(self.emit(op.JUMP_TO))
            except IncompatibleEvolution as error:
                self.rewind(mark)
                self.aux[table + index] = -1
                refused = error
        if refused is not None and not ends:
            raise refused
        self.land(*ends)

    def mark(self) -> tuple[int, int, int]:
        return len(self.code), len(self.aux), len(self.constants)

    def rewind(self, mark: tuple[int, int, int]) -> None:
        del self.code[mark[0] :], self.aux[mark[1] :], self.constants[mark[2] :]

    def bare(self, writer: AvroType, slot: Slot | None) -> None:
        """A value that no union index precedes, into a slot that may be a union."""
        if slot is None:
            self.skip(writer, op.PLAIN)
        elif slot.avro.kind == "union":
            self.into_union(writer, slot)
        elif writer.kind == "null":
            if slot.valid >= 0:
                self.fill(slot)
            elif slot.avro.kind != "null":
                raise _refusal(writer, slot)
        else:
            self.value(writer, slot, op.PLAIN if slot.valid < 0 else op.PRESENT)

    def fill(self, slot: Slot) -> None:
        """Nulls in every column of the slot."""
        self.emit(op.FILL, slot, a=slot.first, b=slot.last)

    def into_union(self, writer: AvroType, slot: Slot) -> None:
        """A plain value into the reader's wide union: the same type first, then the first that it promotes to."""
        if writer.kind == "null":
            if slot.valid < 0:
                raise _refusal(writer, slot)
            self.fill(slot)
            return
        same = [child for child in slot.children if (child.avro.kind, child.avro.label) == (writer.kind, writer.label)]
        others = [child for child in slot.children if child not in same]
        for child in same + others:
            mark = self.mark()
            self.fill(slot)
            if slot.valid >= 0:
                self.emit(op.SET_FLAG, slot, a=1)
                self.code[-1][op.BASE] = slot.valid
            try:
                self.value(writer, child, op.PRESENT)
            except IncompatibleEvolution:
                self.rewind(mark)
            else:
                return
        raise _refusal(writer, slot)

    def value(self, writer: AvroType, slot: Slot | None, tag: int) -> None:
        """A value of a type that is neither null nor a union, into a slot of one type."""
        if slot is None:
            self.skip(writer, tag)
        elif writer.kind == "record":
            self.record(writer, slot, tag)
        elif writer.items is not None:
            self.items(writer, slot, tag)
        else:
            self.leaf(writer, slot, tag)

    def record(self, writer: AvroType, slot: Slot, tag: int) -> None:
        _check_names(writer, slot)
        start = -1
        if tag != op.PLAIN:
            start = self.emit(op.RECORD, slot, tag=tag, a=slot.first, b=slot.last, width=op.ZERO_COLUMNS)
        targets = _targets(writer, slot)
        for column in writer.fields:
            self.node(column.type, targets.get(column.name))
        found = set(map(id, targets.values()))
        for column, child in zip(slot.avro.fields, slot.children, strict=True):
            if id(child) not in found:
                if not column.has_default:
                    raise IncompatibleEvolution(
                        f"the field '{child.path}' is in the reader's schema only and has no default",
                        hint="give it a default, or an alias that names the writer's field",
                    )
                self.default(column, child)
        if start >= 0:
            self.land(start)

    def default(self, column: AvroField, slot: Slot) -> None:
        """What a record gets where its writer did not know the field."""
        for opcode, target, a, b in constant_steps(column.type, slot, column.default, self.constants):
            place = self.emit(opcode, target, a=a, b=b)
            if opcode == op.SET_FLAG and b:
                self.code[place][op.BASE] = target.valid

    def items(self, writer: AvroType, slot: Slot | None, tag: int) -> None:
        """An array's or map's blocks."""
        if writer.items is None or (slot is not None and slot.avro.kind != writer.kind):
            raise _refusal(writer, slot)
        least = min_size(writer.items) + (writer.kind == "map")
        start = self.emit(op.LIST, slot, tag=tag, a=least, width=op.ZERO_ITEMS if slot else op.ZERO_NOTHING)
        children = slot.children if slot else (None, None)
        if writer.kind == "map":
            self.node(AvroType("string"), children[0])
        self.node(writer.items, children[-1])
        self.emit(op.NEXT, slot, a=start + 1, b=least)
        self.land(start)

    def leaf(self, writer: AvroType, slot: Slot, tag: int) -> None:
        reader, kind = slot.avro, writer.kind
        if reader.kind not in _READS.get(kind, (kind,)) or reader.items is not None:
            raise _refusal(writer, slot)
        if writer.logical and reader.logical and not _same_meaning(writer, reader):
            raise _refusal(writer, slot)
        if kind == "enum":
            self.enum(writer, slot, tag)
        elif kind == "fixed":
            _check_names(writer, slot)
            if writer.size != reader.size:
                raise _refusal(writer, slot)
            if reader.logical == "decimal":
                self.decimal(slot, tag, op.DECIMAL_FIXED, writer.size)
            elif reader.logical == "duration":
                self.duration(slot, tag)
            else:
                self.emit(op.FIXED, slot, tag=tag, a=writer.size, width=op.ZERO_PAIR)
        elif reader.logical in _DAY:
            if (kind == "int") != (reader.kind == "int"):
                raise _refusal(writer, slot)
            self.emit(op.TIME, slot, tag=tag, a=_DAY[reader.logical][0], b=_DAY[reader.logical][1], width=op.ZERO_WORD)
        elif kind in {"string", "bytes"}:
            if reader.logical == "decimal":
                self.decimal(slot, tag, op.DECIMAL_BYTES, 0)
            else:
                self.emit(op.STRING if reader.kind == "string" else op.BYTES, slot, tag=tag, width=op.ZERO_PAIR)
        else:
            opcode, limited, width = _NUMBERS[kind, reader.kind]
            self.emit(opcode, slot, tag=tag, a=limited, width=width)

    def decimal(self, slot: Slot, tag: int, opcode: int, size: int) -> None:
        """The limit, 10 ** precision, stands in `aux` as two words."""
        limit = 10**slot.avro.precision
        place = len(self.aux)
        self.aux.extend(_signed(word) for word in (limit & (2**64 - 1), limit >> 64))
        self.emit(opcode, slot, tag=tag, a=size, b=place, width=op.ZERO_PAIR)

    def duration(self, slot: Slot, tag: int) -> None:
        """Three 32-bit numbers into three columns."""
        if tag != op.PLAIN:
            start = self.emit(op.RECORD, slot, tag=tag, a=slot.first, b=slot.last, width=op.ZERO_COLUMNS)
        for child in slot.children:
            self.emit(op.DURATION, child)
        if tag != op.PLAIN:
            self.land(start)

    def enum(self, writer: AvroType, slot: Slot, tag: int) -> None:
        """The writer's symbol numbers to the reader's, by symbol; unknown ones to the reader's default."""
        _check_names(writer, slot)
        reader = slot.avro
        fallback = reader.symbols.index(reader.default) if reader.default else -1
        place = len(self.aux)
        self.aux.extend(reader.symbols.index(s) if s in reader.symbols else fallback for s in writer.symbols)
        if max(self.aux[place:]) < 0:
            raise _refusal(writer, slot)
        self.emit(op.ENUM, slot, tag=tag, a=place, b=len(writer.symbols), width=op.ZERO_WORD)

    def skip(self, writer: AvroType, tag: int) -> None:
        """Steps over a value.  Lengths, counts and ranges are still checked; UTF-8, decimals and times are not."""
        if writer.kind == "union":
            self.node(writer, None)
        elif writer.kind == "record":
            start = self.emit(op.RECORD, tag=tag) if tag != op.PLAIN else -1
            for column in writer.fields:
                self.node(column.type, None)
            if start >= 0:
                self.land(start)
        elif writer.items is not None:
            self.items(writer, None, tag)
        elif writer.kind != "null":
            opcode = _SKIPS.get(writer.kind, op.SKIP_BYTES)
            size = len(writer.symbols) if writer.kind == "enum" else min_size(writer)
            self.emit(opcode, tag=tag, a=size, b=size)


_SKIPS = {"int": op.SKIP_INT, "long": op.SKIP_LONG, "bytes": op.SKIP_LENGTH, "string": op.SKIP_LENGTH,
          "enum": op.SKIP_ENUM, "boolean": op.SKIP_BOOLEAN}  # fmt: skip
# (writer, reader) -> opcode, whether the value must fit 32 bits, what a null leaves behind
_NUMBERS: dict[tuple[str, str], tuple[int, int, int]] = {
    ("boolean", "boolean"): (op.BOOLEAN, 0, op.ZERO_FLAG),
    ("int", "int"): (op.INT, 1, op.ZERO_WORD),
    ("int", "long"): (op.INT, 1, op.ZERO_WORD),
    ("int", "float"): (op.LONG_TO_FLOAT, 1, op.ZERO_WORD),
    ("int", "double"): (op.LONG_TO_DOUBLE, 1, op.ZERO_WORD),
    ("long", "long"): (op.LONG, 0, op.ZERO_WORD),
    ("long", "float"): (op.LONG_TO_FLOAT, 0, op.ZERO_WORD),
    ("long", "double"): (op.LONG_TO_DOUBLE, 0, op.ZERO_WORD),
    ("float", "float"): (op.FLOAT, 0, op.ZERO_WORD),
    ("float", "double"): (op.FLOAT_TO_DOUBLE, 0, op.ZERO_WORD),
    ("double", "double"): (op.DOUBLE, 0, op.ZERO_WORD),
}


def _takes_null(slot: Slot | None) -> bool:
    return slot is None or (slot.valid >= 0 and slot.avro.kind not in {"union", "null"})


def _targets(writer: AvroType, slot: Slot) -> dict[str, Slot]:
    """The reader's slot of each writer's field: by name first, then by the reader's aliases."""
    names = {column.name for column in writer.fields}
    targets: dict[str, Slot] = {}
    pairs = list(zip(slot.avro.fields, slot.children, strict=True))
    for column, child in pairs:
        if column.name in names:
            targets[column.name] = child
    for column, child in pairs:
        if column.name not in names:
            alias = next((a for a in column.aliases if a in names and a not in targets), None)
            if alias is not None:
                targets[alias] = child
    return targets


def _check_names(writer: AvroType, slot: Slot) -> None:
    """Named types match by their short names, or by an alias of the reader's."""
    reader = slot.avro
    if writer.kind != reader.kind or (writer.label != reader.label and writer.name not in reader.aliases):
        raise _refusal(writer, slot)


def _same_meaning(writer: AvroType, reader: AvroType) -> bool:
    if writer.logical == reader.logical == "decimal":
        return writer.scale == reader.scale and writer.precision <= reader.precision
    return writer.logical == reader.logical


def _refusal(writer: AvroType, slot: Slot | None) -> IncompatibleEvolution:
    if slot is None:
        raise InvalidSchema(f"there is no way to step over '{writer.kind}'", hint="check the writer's schema")
    place = f"the field '{slot.path}'" if slot.path else "the record"
    return IncompatibleEvolution(
        f"{place} is written as {_words(writer)} and read as {_words(slot.avro)}",
        hint="keep the type, or one that Avro promotes it to; named types keep their name or declare an alias",
    )


def _words(avro: AvroType) -> str:
    text = f"{avro.kind} '{avro.name}'" if avro.name else avro.kind
    if avro.logical == "decimal":
        return f"{text} (decimal of {avro.precision} digits, scale {avro.scale})"
    return f"{text} ({avro.logical})" if avro.logical else text


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
