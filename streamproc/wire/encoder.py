"""A Polars frame to Avro payloads, a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from streamproc.errors import InputError, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.wire import encode as kernels
from streamproc.wire import opcodes as op
from streamproc.wire.conform import conformed
from streamproc.wire.decoder import frozen
from streamproc.wire.layout import Layout, Slot, layout_of
from streamproc.wire.source import Bytes, Int64s, Source
from streamproc.wire.types import AvroType, parse

_NOTHING: Bytes = np.empty(0, np.uint8)
_DAY_UNIT = {"time-millis": 1_000_000, "time-micros": 1_000}
_FAILURES = {
    kernels.IS_NULL: ("is null, which the schema does not allow", "fill or filter nulls, or make the field nullable"),
    kernels.WRONG_SIZE: ("does not have the size that its fixed type asks for", "give exactly that many bytes"),
    kernels.TOO_PRECISE: ("is finer than its time unit", "truncate it first, or write time-micros"),
    kernels.TOO_WIDE: ("has more digits than its decimal type", "round it first, or widen the type"),
    kernels.NOT_UNSIGNED: ("does not fit 32 bits without a sign", "durations have parts from 0 to 4294967295"),
    kernels.NO_BRANCH: ("has no branch set", "set exactly one field of the struct"),
    kernels.TWO_BRANCHES: ("has more than one branch set", "set exactly one field of the struct"),
}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Payloads in one buffer: row i is buffer[starts[i]:ends[i]], rows lie one after another.

    buffer uint8[*]; starts, ends int64[n]
    """

    buffer: Bytes
    starts: Int64s
    ends: Int64s

    def to_payloads(self) -> list[bytes]:
        """The payloads one by one: for small things and tests."""
        raw = self.buffer.tobytes()
        return [raw[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]


class Encoder:
    """Writes frames as payloads of one schema.

    Columns are found by name; others are left alone.  Integers of another width, Float32 for double, text for an enum
    and nulls without a type are taken where no value is lost.  Equal rows give equal bytes.

    >>> schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "long"}]}
    >>> Encoder(schema).encode(pl.DataFrame({"a": [1, -2]}), schema_id=7).to_payloads()
    [b'\\x00\\x00\\x00\\x00\\x07\\x02', b'\\x00\\x00\\x00\\x00\\x07\\x03']
    """

    def __init__(self, schema: Mapping[str, object]) -> None:
        avro = parse(schema)
        self._layout: Layout = layout_of(avro)
        compiler = _Compiler()
        compiler.root(avro, self._layout.root)
        self._code = np.array(compiler.code, np.int64).reshape(-1, op.FIELDS)
        self._texts = np.isin(self._code[:, op.OP], (op.BYTES, op.FIXED))
        self._aux = np.array([*compiler.aux, -1], np.int64)
        self._numbers, self._paths = compiler.numbers, compiler.paths

    def encode(self, frame: pl.DataFrame, *, schema_id: int | None, behind: Bytes = _NOTHING) -> Encoded:
        """Encodes every row; with a schema id, each body follows the five bytes of Confluent's header.

        behind  uint8[*]: bytes that are to stand behind the last row in the buffer

        Raises UnknownColumn for a column that is missing, TypeMismatch, naming column and first row, for one of another
        type and for a value that the schema cannot hold.
        """
        header = np.empty(0, np.uint8)
        if schema_id is not None:
            if not 0 <= schema_id < 2**31:
                raise InputError(f"the schema id {schema_id} is out of range", hint="ids are positive 32-bit numbers")
            header = np.frombuffer(b"\0" + schema_id.to_bytes(4, "big"), np.uint8)
        root, n = self._layout.root, frame.height
        slots = len(self._paths)
        bases, valids, firsts = (np.full(slots, -1, np.int64) for _ in range(3))
        source = Source(bases, valids, firsts)
        given = {series.name: series for series in frame.get_columns()}
        for column, slot in zip(root.avro.fields, root.children, strict=True):
            if column.name not in given:
                hint = did_you_mean(column.name, frame.columns)
                raise UnknownColumn(f"the frame to encode has no column '{column.name}'", hint=hint)
            source.add(slot, self._numbers, conformed(given[column.name], column.dtype))
        code = self._code.copy()
        code[:, op.BASE] = source.bases[code[:, op.BASE]]
        code[:, op.VALID] = source.valids[code[:, op.VALID]]
        out = np.empty(source.most + header.size * n + 16, np.uint8)
        starts, ends, failure = np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(3, np.int64)
        data, parts = source.data()
        code[self._texts, op.B] = source.firsts[self._code[self._texts, op.BASE]]
        done = kernels.encode_rows(
            code, self._aux, source.valids, np.concatenate(source.words), np.concatenate(source.flags), frozen(data),
            parts, header.copy(), self._layout.scope_count, out, starts, ends, failure,
        )  # fmt: skip
        if not done:
            raise self._failure(frame, *failure.tolist())
        end = int(ends[-1]) if n else 0
        if end + behind.size > out.size:
            return Encoded(np.concatenate([out[:end], behind]), starts, ends)
        out[end : end + behind.size] = behind
        return Encoded(out[: end + behind.size], starts, ends)

    def _failure(self, frame: pl.DataFrame, what: int, row: int, place: int) -> TypeMismatch:
        path = self._paths[int(self._code[place, op.VALID])]
        text, hint = _FAILURES[what]
        value = frame[path.partition(".")[0].partition("[")[0]][row]
        shown = "" if what == kernels.IS_NULL else f" ({value!r})"
        return TypeMismatch(f"row {row}: the value of '{path}'{shown} {text}", hint=hint)


class _Compiler:
    """Instructions as in `opcodes`; BASE and VALID are slot numbers."""

    def __init__(self) -> None:
        self.code: list[list[int]] = []
        self.aux: list[int] = []
        self.numbers: dict[int, int] = {}
        self.paths: list[str] = []

    def root(self, avro: AvroType, slot: Slot) -> None:
        for column, child in zip(avro.fields, slot.children, strict=True):
            self.node(column.type, child)
        self.emit(op.END, slot)

    def emit(self, opcode: int, slot: Slot, *, tag: int = op.PLAIN, a: int = 0, b: int = 0) -> int:
        me, here = self.number(slot), len(self.code)
        self.code.append([opcode, tag, me, me, slot.scope, a, b, here + 1, op.ZERO_NOTHING, slot.inner])
        return here

    def number(self, slot: Slot) -> int:
        """The slot's number, a new one at its first use."""
        if id(slot) not in self.numbers:
            self.numbers[id(slot)] = len(self.paths)
            self.paths.append(slot.path)
        return self.numbers[id(slot)]

    def node(self, avro: AvroType, slot: Slot) -> None:
        """A value of any type, with its branch index where it is a union."""
        if avro.kind != "union":
            self.value(avro, slot, op.PLAIN)
        elif slot.avro.kind == "union":
            self.union(avro, slot)
        elif len(avro.branches) == 2:
            self.value(slot.avro, slot, op.NULL_SECOND if avro.null_index else op.NULL_FIRST)
        else:
            self.emit(kernels.INDEX, slot)
            self.value(slot.avro, slot, op.PLAIN)

    def union(self, avro: AvroType, slot: Slot) -> None:
        """A wide union: the struct's one field that is set says the branch."""
        table = len(self.aux)
        self.aux.extend([-1] * (2 * len(avro.branches)))
        self.code[self.emit(kernels.UNION, slot, a=table, b=len(avro.branches))][op.WIDTH] = avro.null_index
        ends = []
        branches = [i for i, branch in enumerate(avro.branches) if branch.kind != "null"]
        for index, child in zip(branches, slot.children, strict=True):
            self.aux[table + 2 * index + 1] = len(self.code)
            self.value(child.avro, child, op.PRESENT)
            self.aux[table + 2 * index] = self.numbers[id(child)]
            ends.append(self.emit(op.JUMP_TO, slot))
        for place in ends:
            self.code[place][op.JUMP] = len(self.code)
        if avro.null_index >= 0:
            self.aux[table + 2 * avro.null_index + 1] = len(self.code)

    def value(self, avro: AvroType, slot: Slot, tag: int) -> None:
        """A value of a type that is not a union."""
        if avro.kind == "null":
            self.number(slot)
            return
        if avro.kind == "record" or avro.logical == "duration":
            start = self.emit(op.RECORD, slot, tag=tag)
            if avro.kind == "record":
                self.record(avro, slot)
            else:
                for child in slot.children:
                    self.emit(op.DURATION, child)
            self.code[start][op.JUMP] = len(self.code)
        elif avro.items is not None:
            start = self.emit(op.LIST, slot, tag=tag)
            if avro.kind == "map":
                self.value(AvroType("string"), slot.children[0], op.PLAIN)
            self.node(avro.items, slot.children[-1])
            self.emit(op.NEXT, slot, a=start + 1)
            self.code[start][op.JUMP] = len(self.code)
        else:
            self.leaf(avro, slot, tag)

    def record(self, avro: AvroType, slot: Slot) -> None:
        for column, child in zip(avro.fields, slot.children, strict=True):
            self.node(column.type, child)

    def leaf(self, avro: AvroType, slot: Slot, tag: int) -> None:
        if avro.logical == "decimal":
            limit = 10**avro.precision
            words = [limit & (2**64 - 1), limit >> 64]
            self.aux.extend(word - 2**64 if word >= 2**63 else word for word in words)
            opcode = op.DECIMAL_FIXED if avro.kind == "fixed" else op.DECIMAL_BYTES
            self.emit(opcode, slot, tag=tag, a=avro.size, b=len(self.aux) - 2)
        elif avro.logical in _DAY_UNIT:
            self.emit(op.TIME, slot, tag=tag, b=_DAY_UNIT[avro.logical])
        else:
            self.emit(_OPCODES[avro.kind], slot, tag=tag, a=avro.size)


_OPCODES = {
    "boolean": op.BOOLEAN, "int": op.LONG, "long": op.LONG, "enum": op.LONG, "float": op.FLOAT, "double": op.DOUBLE,
    "string": op.BYTES, "bytes": op.BYTES, "fixed": op.FIXED,
}  # fmt: skip
