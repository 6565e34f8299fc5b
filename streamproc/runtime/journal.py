"""The journal: one record per step on the task topic, in the same transaction as all that the step wrote.

An entry says what the step consumed (offset ranges with a digest each, the order of the runs, verdicts that came from a
clock) and what came of it (rows and chain per topic, fates, watermark). So a step can be run again, anywhere, and
compared.

A record's value is "SPJ1", the length of a JSON head (uint32, little-endian), the head, and then two columns: the runs
(int32 pairs) and 32 bits of each consumed record's hash (uint32), both little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from streamproc.errors import CorruptLog
from streamproc.ports import Block, Int64s, Log, TopicPartition, block_of

MAGIC: Final = b"SPJ1"


@dataclass(frozen=True, slots=True)
class ConsumedRange:
    """What a step took from one channel.

    first, skip      where it began: the offset, and how many units of that record earlier steps had taken
    last, last_skip  where the next step begins
    units, records   how many units and whole or begun records
    digest           hex of a 128-bit hash over the hashes of these records
    """

    topic: str
    partition: int
    first: int
    skip: int
    last: int
    last_skip: int
    units: int
    records: int
    digest: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One journal entry. `kind` is "start" for entry 0 of a task and "step" for all others.

    future       (channel, first, last): records of these offsets were from the future by the worker's clock
    unknown      (channel, first, last): nobody knew the schema of the records of these offsets
    environment  id of the processor and the libraries that ran the step
    """

    kind: str
    step: int
    ranges: tuple[ConsumedRange, ...] = ()
    runs: Int64s = field(default_factory=lambda: np.empty((0, 2), np.int64))
    records: np.ndarray[Any, np.dtype[np.uint32]] = field(default_factory=lambda: np.empty(0, np.uint32))
    marks: tuple[tuple[int, int], ...] = ()
    clock: int | None = None
    outputs: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    sums: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    fates: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    watermark: int = 0
    delivered: tuple[tuple[str, int, int, int], ...] = ()
    future: tuple[tuple[int, int, int], ...] = ()
    environment: str = ""
    unknown: tuple[tuple[int, int, int], ...] = ()
    head: Mapping[str, Any] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """The record's value."""
        head = orjson.dumps(
            {
                "kind": self.kind,
                "step": self.step,
                "ranges": [
                    [r.topic, r.partition, r.first, r.skip, r.last, r.last_skip, r.units, r.records, r.digest]
                    for r in self.ranges
                ],
                "runs": int(self.runs.shape[0]),
                "marks": self.marks,
                "clock": self.clock,
                "outputs": self.outputs,
                "sums": self.sums,
                "fates": self.fates,
                "watermark": self.watermark,
                "delivered": self.delivered,
                "future": self.future,
                "environment": self.environment,
                **({"unknown": self.unknown} if self.unknown else {}),
                "head": self.head,
            }
        )
        return b"".join(
            (
                MAGIC,
                len(head).to_bytes(4, "little"),
                head,
                self.runs.astype("<i4").tobytes(),
                self.records.astype("<u4").tobytes(),
            )
        )


def decode_entry(value: bytes | None, where: str) -> Entry:
    """The entry in a record; raises CorruptLog for anything else."""
    if value is None or value[:4] != MAGIC:
        raise CorruptLog(
            f"{where} is no journal entry", hint="something else wrote to the task topic; run 'streamproc verify'"
        )
    size = int.from_bytes(value[4:8], "little")
    head = orjson.loads(value[8 : 8 + size])
    at = 8 + size
    runs = np.frombuffer(value, "<i4", count=2 * head["runs"], offset=at).astype(np.int64).reshape(-1, 2)
    records = np.frombuffer(value, "<u4", offset=at + 8 * head["runs"])
    return Entry(
        head["kind"],
        head["step"],
        tuple(ConsumedRange(*r) for r in head["ranges"]),
        runs,
        records,
        tuple((c, k) for c, k in head["marks"]),
        head["clock"],
        {t: (n, c) for t, (n, c) in head["outputs"].items()},
        {t: (n, c) for t, (n, c) in head["sums"].items()},
        head["fates"],
        head["watermark"],
        tuple((t, p, a, b) for t, p, a, b in head["delivered"]),
        tuple((c, a, b) for c, a, b in head.get("future", ())),
        head.get("environment", ""),
        tuple((c, a, b) for c, a, b in head.get("unknown", ())),
        head["head"],
    )


def entries_of(block: Block) -> Iterator[tuple[int, Entry]]:
    """Offset and entry of each record of a block of a task topic, each decoded when it is asked for."""
    for row in range(len(block)):
        yield int(block.offsets[row]), entry_at(block, row)


def entry_at(block: Block, row: int) -> Entry:
    """The entry in one record of a block of a task topic."""
    return decode_entry(block.value(row), f"{block.topic}-{block.partition}@{int(block.offsets[row])}")


def entry_block(topic: str, partition: int, entries: Sequence[Entry]) -> Block:
    """Entries as a block to be written."""
    return block_of(topic, partition, [entry.encoded() for entry in entries])


def journal_entries(log: Log, place: TopicPartition, offset: int, end: int) -> Iterator[tuple[int, Entry]]:
    """Offsets and entries of a journal from an offset on."""
    for block in journal_blocks(log, place, offset, end):
        for at, entry in entries_of(block):
            if at >= end:
                return
            yield at, entry


def journal_blocks(log: Log, place: TopicPartition, offset: int, end: int) -> Iterator[Block]:
    """A journal from an offset on as it lies in the log: the last block may go beyond the end."""
    while offset < end:
        block = log.read(place, offset, max_records=256)
        if not len(block):
            return
        yield block
        offset = int(block.offsets[-1]) + 1
