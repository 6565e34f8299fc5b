"""Stored blocks of the file: the rows that hold them, their checksums, and finding them."""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import xxhash
import zstandard

from connectors.embedded.database import Database
from connectors.embedded.layout import Columns, Encoded, block_from, decode
from streamproc.errors import CorruptLog, UnknownTopic, did_you_mean
from streamproc.event_time import MIN_TIME
from streamproc.ports import Block, TopicPartition

_PLACE: Final = struct.Struct("<7q")
_PARTITION: Final = struct.Struct("<6q")
_SMALL_PAYLOAD: Final = 16_384
# A damaged page may call bytes a text, which Python would then try to decode: the casts keep them bytes.
_COLUMNS: Final = (
    "id, base, next, count, raw_bytes, append_time, newest, high_time, CAST(checksum AS BLOB), length(payload)"
)


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """What the file knows of one partition.

    start, end    the half-open range of offsets that it promises
    append_time   the last time that the log stamped: stamps never go back
    high_time     the greatest timestamp so far
    compacted_to  tombstones below this offset were seen by a compaction, so the next one removes them
    """

    partition: TopicPartition
    id: int
    start: int
    end: int
    append_time: int
    high_time: int
    compacted_to: int


@dataclass(frozen=True, slots=True)
class BlockRow:
    """What the file knows of one stored block, without its payload.

    base, next    the half-open range of offsets that it covers; compaction leaves gaps, but the range stays
    append_time   timestamp of the records that have none of their own
    newest        the block's greatest timestamp
    high_time     the greatest timestamp of the partition up to here
    size          bytes of the stored payload
    """

    id: int
    base: int
    next: int
    count: int
    raw_bytes: int
    append_time: int
    newest: int
    high_time: int
    checksum: bytes
    size: int


def partition_row(database: Database, partition: TopicPartition) -> PartitionRow:
    """The partition; raises UnknownTopic, and CorruptLog if its row was changed by anyone but us."""
    row = database.execute(
        "SELECT CAST(p.checksum AS BLOB), p.id, p.start_offset, p.end_offset, p.append_time, p.high_time, "
        "p.compacted_to FROM topic t JOIN partition p ON p.topic_id = t.id WHERE t.name = ? AND p.number = ?",
        (partition.topic, partition.partition),
    ).fetchone()
    if row is None:
        raise unknown(database, partition.topic, partition.partition)
    checksum, *cells = row
    if not _all_integers(cells) or checksum != _partition_checksum(partition, cells):
        raise damaged(database, partition, 0, "the checksum of the partition's own row does not match it")
    return PartitionRow(partition, *cells)


def create_partition(database: Database, topic_id: int, partition: TopicPartition) -> None:
    """Adds an empty partition."""
    made = database.execute(
        "INSERT INTO partition(topic_id, number, start_offset, end_offset, append_time, high_time, compacted_to, "
        "checksum) VALUES(?, ?, 0, 0, 0, 0, 0, x'')",
        (topic_id, partition.partition),
    )
    store_partition(database, PartitionRow(partition, made.lastrowid or 0, 0, 0, MIN_TIME, MIN_TIME, 0))


def store_partition(database: Database, row: PartitionRow) -> None:
    """Writes the partition's row; call it inside the transaction that read it."""
    cells = (row.id, row.start, row.end, row.append_time, row.high_time, row.compacted_to)
    database.execute(
        "UPDATE partition SET start_offset = ?, end_offset = ?, append_time = ?, high_time = ?, compacted_to = ?, "
        "checksum = ? WHERE id = ?",
        (*cells[1:], _partition_checksum(row.partition, cells), row.id),
    )


def _partition_checksum(partition: TopicPartition, cells: Sequence[int]) -> bytes:
    digest = xxhash.xxh3_128(_PARTITION.pack(*cells))
    digest.update(f"{partition.partition}:{partition.topic}".encode())
    return digest.digest()


def _all_integers(cells: Sequence[object]) -> bool:
    # A damaged page may turn a number into anything that SQLite knows.
    return all(type(cell) is int for cell in cells)


def unknown(database: Database, topic: str, partition: int) -> UnknownTopic:
    """The error for a topic or a partition that is not there."""
    known = dict(database.execute("SELECT name, partitions FROM topic"))
    if topic in known:
        return UnknownTopic(
            f"the topic '{topic}' has no partition {partition}",
            hint=f"its partitions are 0 to {known[topic] - 1}",
        )
    return UnknownTopic(f"the log '{database.path}' has no topic '{topic}'", hint=did_you_mean(topic, known))


def checksum_of(partition: TopicPartition, row: tuple[int, int, int, int, int, int, int], payload: bytes) -> bytes:
    """xxh3_128 over the payload and all that its row says, so that an edited or exchanged row shows as well."""
    digest = xxhash.xxh3_128(payload)
    digest.update(_PLACE.pack(*row))
    digest.update(f"{partition.partition}:{partition.topic}".encode())
    return digest.digest()


def insert(database: Database, partition: PartitionRow, encoded: Encoded, *, base: int, end: int, append_time: int,
           high_time: int) -> int:
    """Stores a block over the offsets base..end; gives the partition's greatest timestamp after it."""
    newest = append_time if encoded.newest is None else encoded.newest
    high_time = max(high_time, newest)
    row = (base, end, encoded.count, encoded.raw_bytes, append_time, newest, high_time)
    database.execute(
        "INSERT INTO block(partition_id, base, next, count, raw_bytes, append_time, newest, high_time, checksum, "
        "payload) VALUES(?,?,?,?,?,?,?,?,?,?)",
        (partition.id, *row, checksum_of(partition.partition, row, encoded.payload), encoded.payload),
    )
    return high_time


def next_row(database: Database, partition: PartitionRow, offset: int) -> BlockRow | None:
    """The first block that ends beyond the offset, wherever it starts."""
    cells = database.execute(
        f"SELECT {_COLUMNS} FROM block WHERE partition_id = ? AND next > ? ORDER BY next LIMIT 1",
        (partition.id, offset),
    ).fetchone()
    return None if cells is None else _block_row(database, partition, cells)


def _block_row(database: Database, partition: PartitionRow, cells: Sequence[Any]) -> BlockRow:
    *numbers, _, size = cells
    if not _all_integers((*numbers, size)):
        raise damaged(database, partition.partition, partition.start, "the row of a stored block is not what we wrote")
    return BlockRow(*cells)


def block_rows(database: Database, partition: PartitionRow, offset: int) -> Generator[tuple[BlockRow, bytes | None]]:
    """Rows of the blocks that end beyond the offset, in order; small payloads come along.

    Raises CorruptLog if the rows leave a hole.
    """
    expected = None
    cursor = database.execute(
        f"SELECT {_COLUMNS}, CASE WHEN length(payload) < {_SMALL_PAYLOAD} THEN CAST(payload AS BLOB) END "
        "FROM block WHERE partition_id = ? AND next > ? ORDER BY next",
        (partition.id, offset),
    )
    for *cells, payload in cursor:
        row = _block_row(database, partition, cells)
        if row.base != expected and (expected is not None or row.base > offset):
            raise damaged(database, partition.partition, expected or offset, "a stored block is missing")
        expected = row.next
        yield row, payload


def read_block(database: Database, partition: TopicPartition, row: BlockRow, payload: bytes | None = None) -> Block:
    """The records of a stored block; raises CorruptLog if its checksum does not match."""
    return block_from(partition, [read_columns(database, partition, row, payload)])


def read_columns(
    database: Database, partition: TopicPartition, row: BlockRow, payload: bytes | None = None
) -> Columns:
    """The columns of a stored block; raises CorruptLog if its checksum does not match."""
    if payload is None:
        found = database.execute("SELECT CAST(payload AS BLOB) FROM block WHERE id = ?", (row.id,)).fetchone()
        if found is None:
            raise damaged(database, partition, row.base, "a stored block is missing")
        payload = found[0]
    told = (row.base, row.next, row.count, row.raw_bytes, row.append_time, row.newest, row.high_time)
    if not isinstance(payload, bytes) or checksum_of(partition, told, payload) != row.checksum:
        raise damaged(database, partition, row.base, "the checksum of a stored block does not match its bytes")
    try:
        columns = decode(payload, row.raw_bytes, base=row.base, append_time=row.append_time)
    except (zstandard.ZstdError, ValueError, struct.error) as error:
        raise damaged(database, partition, row.base, f"a stored block cannot be read ({error})") from error
    if columns.offsets.size != row.count:
        found_count = columns.offsets.size
        raise damaged(database, partition, row.base, f"a stored block has {found_count} records, not {row.count}")
    return columns


def damaged(database: Database, partition: TopicPartition, offset: int, what: str) -> CorruptLog:
    """The error for a damaged block, with the place and the way out."""
    return CorruptLog(
        f"{what}: topic '{partition.topic}', partition {partition.partition}, offset {offset} in '{database.path}'",
        hint="restore the log from a copy, produce the topic again, or give up the records up to the next whole block "
        "with delete_records; 'streamproc verify' lists all damaged blocks",
    )


