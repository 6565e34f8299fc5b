"""Avro payloads to a Polars frame, a batch at a time, bad payloads set aside one by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.errors import InputError, UnknownColumn, did_you_mean
from streamproc.wire import opcodes as op
from streamproc.wire.columns import Arena, Bytes, Int64s, arrow_schema, frame_of, grown, new_arena, reduced
from streamproc.wire.decode import decode_rows
from streamproc.wire.layout import layout_of
from streamproc.wire.opcodes import REASONS
from streamproc.wire.program import Program, compile_program
from streamproc.wire.types import parse

Number = TypeVar("Number", bound=np.generic)
MAX_BUFFER = 2**31 - 1
"""Bytes that one call takes: Arrow's text views count in 32 bits."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The good rows as columns, and which payloads were bad and why.

    frame    one row for each good payload, in order
    rows     int64[k]  the payload number of each row of the frame
    bad      int64[m]  the payload numbers of the bad ones, increasing; k + m = number of payloads
    reasons  uint8[m]  why: an index into `REASONS`
    """

    frame: pl.DataFrame
    rows: Int64s
    bad: Int64s
    reasons: Bytes

    def why(self) -> list[tuple[int, str]]:
        """Bad payload numbers with the reason in words."""
        return [(int(row), REASONS[code]) for row, code in zip(self.bad, self.reasons, strict=True)]


class Decoder:
    """Reads payloads of one writer's schema as the reader's columns.

    `columns` names the reader's fields that somebody reads: the others are stepped over, not decoded, and their
    UTF-8, decimals and times of day are not looked at.  Text columns point into the payload buffer and keep it alive.

    Raises InvalidSchema, or IncompatibleEvolution where the reader's schema cannot read the writer's.

    >>> schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "long"}]}
    >>> decoded = Decoder(schema).decode_payloads([bytes([2]), bytes([0x80]), bytes([3])])
    >>> decoded.frame["a"].to_list(), decoded.why()
    ([1, -2], [(1, 'truncated')])
    """

    def __init__(
        self,
        writer_schema: Mapping[str, object],
        reader_schema: Mapping[str, object] | None = None,
        *,
        columns: Collection[str] | None = None,
    ) -> None:
        writer = parse(writer_schema)
        reader = writer if reader_schema is None else parse(reader_schema)
        if columns is not None:
            known = [column.name for column in reader.fields]
            for name in columns:
                if name not in known:
                    raise UnknownColumn(f"'{reader.name}' has no field '{name}'", hint=did_you_mean(name, known))
            reader = reduced(reader, frozenset(columns))
        self._program: Program = compile_program(writer, layout_of(reader))
        self._target = arrow_schema(reader)

    def decode(self, buffer: Bytes, starts: Int64s, ends: Int64s) -> Decoded:
        """Decodes the payloads buffer[starts[i]:ends[i]], each of which must hold exactly one record.

        buffer  uint8[*] of at most 2 GiB; starts, ends int64[n] in any order, overlaps allowed, start -1 for none.
        A bad payload costs only itself.  Memory is bounded by the payloads: items never outnumber their bytes.
        """
        if buffer.size > MAX_BUFFER:
            raise InputError(
                f"a batch of {buffer.size} bytes is too large to decode at once", hint="cut it below 2 GiB"
            )
        program, layout, n = self._program, self._program.layout, starts.size
        room = np.full(layout.scope_count, 2 * n + 16, np.int64)
        room[0] = n
        arena = new_arena(layout, room)
        verdicts, rows = np.zeros(n, np.uint8), np.empty(n, np.int64)
        shortage = np.zeros(2, np.int64)
        data, first, last = frozen(buffer), frozen(starts), frozen(ends)
        code, done = _placed(program, arena), 0
        while True:
            done = decode_rows(
                data, first, last, done, code, program.aux, arena.columns, arena.words, arena.flags, arena.counts,
                arena.capacity, verdicts, rows, shortage,
            )  # fmt: skip
            if done == n:
                break
            arena = grown(layout, arena, int(shortage[0]), int(shortage[1]))
            code = _placed(program, arena)
        bad = np.flatnonzero(verdicts)
        buffers = (data, program.constants) if program.constants.size else (data,)
        frame = frame_of(layout, self._target, arena, buffers)
        return Decoded(frame, rows[: int(arena.counts[0])], bad, verdicts[bad])

    def decode_payloads(self, payloads: Sequence[bytes]) -> Decoded:
        """Decodes bodies without headers, given one by one: for small things and tests."""
        lengths = np.fromiter(map(len, payloads), np.int64, len(payloads))
        ends = np.cumsum(lengths)
        return self.decode(np.frombuffer(b"".join(payloads), np.uint8), ends - lengths, ends)


def _placed(program: Program, arena: Arena) -> Int64s:
    """The program with addresses instead of column numbers."""
    code = program.code.copy()
    for part in (op.BASE, op.VALID):
        used = code[:, part] >= 0
        code[used, part] = arena.columns[0, code[used, part]]
    return code


def frozen(array: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """A read-only contiguous view: the kernels are compiled once, for read-only input."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
