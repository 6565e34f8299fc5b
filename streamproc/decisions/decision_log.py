"""The log of decisions: everything that a decision rested on, chained by SHA-256 so that no line can be changed alone.

Line i holds SHA-256 of line i-1's hash and of its own body in Avro. The chain is per task and begins with 32 zero
bytes; its end stands in the task's state, so lines that were cut off the end are missed too. The log leaves in the
same transaction as the decisions: one cannot be there without the other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import polars as pl

from streamproc.contracts.derive import contract_of
from streamproc.contracts.model import Field, Schema
from streamproc.wire import Encoder

FIRST: Final = bytes(32)
CHAIN: Final = "chain"


@dataclass(frozen=True, slots=True)
class LogForm:
    """The columns of a log and how its bodies become bytes.

    inputs  columns that the decision rested on, as the step gets them
    made    the columns of id, decision and rule
    """

    inputs: Schema
    made: tuple[str, str, str]
    listed: bool

    @property
    def body(self) -> Schema:
        """What is hashed."""
        decision = pl.List(pl.String()) if self.listed else pl.String()
        known = (Field(self.made[0], pl.Int64()), Field("number", pl.Int64()), Field("logic", pl.String()))
        return Schema((*known, *self.inputs, Field(self.made[1], decision), Field(self.made[2], decision)))

    @property
    def schema(self) -> Schema:
        """The log's columns."""
        return Schema((*self.body, Field(CHAIN, pl.Binary())))

    def encoder(self) -> Encoder:
        """Makes bodies; building it costs a millisecond."""
        return Encoder(contract_of("decision", self.body).avro)

    def bodies(self, frame: pl.DataFrame, encoder: Encoder) -> list[bytes]:
        """The body of each line."""
        encoded = encoder.encode(frame.select(self.body.names), schema_id=None)
        data = encoded.buffer.tobytes()
        return [data[a:b] for a, b in zip(encoded.starts.tolist(), encoded.ends.tolist(), strict=True)]


def chained(previous: bytes, bodies: list[bytes]) -> list[bytes]:
    """The hashes of lines that follow one with the hash `previous`.

    >>> chained(FIRST, [b"a", b"b"])[1] == chained(chained(FIRST, [b"a"])[0], [b"b"])[0]
    True
    """
    sha256, out = hashlib.sha256, []
    for body in bodies:
        previous = sha256(previous + body).digest()
        out.append(previous)
    return out


def first_broken(form: LogForm, lines: pl.DataFrame, *, previous: bytes = FIRST) -> int | None:
    """The first line of a task's log whose hash, number or order is not what it was; None if all are.

    lines     the log of one task in its order, from the line after the one with the hash `previous`
    """
    bodies = form.bodies(lines, form.encoder())
    numbers = lines["number"].to_list()
    for i, (body, told, number) in enumerate(zip(bodies, lines[CHAIN].to_list(), numbers, strict=True)):
        if chained(previous, [body])[0] != told or number != numbers[0] + i:
            return i
        previous = told
    return None


def strays(form: LogForm, lines: pl.DataFrame) -> list[int]:
    """Rows of the whole log of a topic, all tasks in any order, that continue the chain of no task.

    Each line must be the next one of some chain: a changed line is one stray, and so is the one behind it.
    """
    bodies = form.bodies(lines, form.encoder())
    told, numbers = lines[CHAIN].to_list(), lines["number"].to_list()
    ends: dict[int, list[bytes]] = {-1: [FIRST]}
    found = []
    for row in sorted(range(lines.height), key=numbers.__getitem__):
        before = ends.get(numbers[row] - 1, [])
        if not any(chained(previous, [bodies[row]])[0] == told[row] for previous in before):
            found.append(row)
        ends.setdefault(numbers[row], []).append(told[row])
    return sorted(found)
