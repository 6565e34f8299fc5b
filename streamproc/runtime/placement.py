"""Whether the newest records of the sources are what their contracts say: readable, and in the partition of their key.

Where a contract declares murmur2, rows are not moved to their key's partition, because they are there; so a topic that
other producers placed would be joined and counted wrongly, and nothing would say so. librdkafka's producers choose by
CRC32 unless told otherwise, Java's by murmur2.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import polars as pl

from streamproc.contracts.model import Contract
from streamproc.contracts.registry import Registry
from streamproc.errors import UnknownContract
from streamproc.graph import Source
from streamproc.hashing import partitions_of
from streamproc.keys import keys_of
from streamproc.planning.plan import Node, Plan
from streamproc.ports import Int64s, Log, TopicPartition
from streamproc.runtime.reading import read_blocks
from streamproc.wire import Reader

_SAMPLE: Final = 500
"""Offsets that are looked at in each partition, the newest."""
_WORDS: Final = {"crc32": "as librdkafka's producers do by default", "murmur2": "as Java's producers do by default"}


def crc32_partition(key: bytes, count: int) -> int:
    """Where librdkafka's `consistent` partitioner puts a key."""
    return zlib.crc32(key) % count


def fnv1a_partition(key: bytes, count: int) -> int:
    """Where the `fnv1a` partitioner of librdkafka and Sarama puts a key."""
    hashed = 0x811C9DC5
    for byte in key:
        hashed = (hashed ^ byte) * 0x01000193 & 0xFFFFFFFF
    # It is taken for a number with a sign, of which the sign is dropped.
    return ((1 << 32) - hashed if hashed >> 31 else hashed) % count


def murmur2_partition(key: bytes, count: int) -> int:
    """Where Kafka's default partitioner and this engine put a key."""
    return int(partitions_of(np.frombuffer(key, np.uint8), np.zeros(1, np.int64), np.array([len(key)]), count)[0])


PARTITIONERS: Final[Mapping[str, Callable[[bytes, int], int]]] = {
    "murmur2": murmur2_partition,
    "crc32": crc32_partition,
    "fnv1a": fnv1a_partition,
}


def source_findings(plan: Plan, log: Log, registry: Registry) -> list[str]:
    """What is not as the contracts of the sources say, one line each with the way out; reads some hundred records of
    each partition, and writes nothing."""
    topics = log.topics()
    found = []
    for node in plan.sources:
        if not isinstance(node.origin, Source) or node.contract is None:
            continue
        if node.origin.topic not in topics:
            found.append(f"source '{node.origin.topic}' is no topic of the log: produce to it, or name the right log")
            continue
        found += _looked_at(node, node.contract, node.origin.topic, topics[node.origin.topic].partitions, log, registry)
    return found


def _looked_at(
    node: Node, contract: Contract, topic: str, partitions: int, log: Log, registry: Registry
) -> list[str]:
    def lookup(schema_id: int) -> Mapping[str, object] | None:
        try:
            return registry.schema_of(schema_id)
        except UnknownContract:
            return None

    reader = Reader(contract.avro, lookup, columns=list(contract.key or node.type.schema.names[:1]))
    ends = {p: log.end_offset(TopicPartition(topic, p)) for p in range(partitions)}
    starts = {p: max(log.start_offset(TopicPartition(topic, p)), end - _SAMPLE) for p, end in ends.items()}
    records, reasons, placed = 0, list[str](), dict[tuple[bytes, int], int]()
    for block in read_blocks(log, topic, starts=starts, ends=ends):
        records += len(block)
        reasons += [why for _, why in block.unreadable]
        decoded = reader.decode(block.buffer, block.value_starts, block.value_ends)
        reasons += [why for _, why in decoded.why()][: len(block) - len(block.unreadable)]
        for key in _keys(decoded.frame, contract.key):
            placed[key, block.partition] = placed.get((key, block.partition), 0) + 1
    found = []
    if reasons:
        found.append(
            f"source '{topic}': of the newest {records:,} records {len(reasons):,} cannot be read as {contract} "
            f"({reasons[0]}): they would be dead letters; register their schema, or mend the producer"
        )
    if contract.partitioner in PARTITIONERS and partitions > 1:
        found += _misplaced(topic, contract.partitioner, placed, partitions)
    return found


def _keys(frame: pl.DataFrame, columns: tuple[str, ...]) -> list[bytes]:
    """The keys of rows that have one; rows without may lie anywhere."""
    if not columns or frame.is_empty():
        return []
    keys = keys_of(frame.drop_nulls(list(columns)), columns)
    starts: Int64s = keys.starts
    return [keys.get(row) for row in range(starts.size)]


def _misplaced(topic: str, declared: str, placed: Mapping[tuple[bytes, int], int], partitions: int) -> list[str]:
    rows = sum(placed.values())
    wrong = {
        name: sum(count for (key, at), count in placed.items() if chosen(key, partitions) != at)
        for name, chosen in PARTITIONERS.items()
    }
    if not wrong[declared]:
        return []
    fits = [name for name, misses in wrong.items() if not misses]
    told = f"; {fits[0]} places all of them so, {_WORDS[fits[0]]}" if fits and fits[0] in _WORDS else ""
    way = f'"sp:partitioner": "{fits[0]}"' if fits else "no sp:partitioner"
    return [
        f"source '{topic}' declares that {declared} placed its records, and {wrong[declared]:,} of the newest {rows:,} "
        f"lie in another partition{told}: declare {way}, and the engine moves the rows itself"
    ]
