"""Reading records: stored blocks joined up to the reader's bounds."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np

from connectors.embedded.database import Database
from connectors.embedded.layout import Columns, block_from, joined, record_bytes
from connectors.embedded.stored import (
    BlockRow,
    PartitionRow,
    block_rows,
    damaged,
    next_row,
    partition_row,
    read_block,
    read_columns,
)
from streamproc.errors import CorruptLog, OffsetOutOfRange
from streamproc.ports import Block, TopicPartition, block_of

_REMEMBERED = 16


class Reader:
    """Reads blocks, and remembers those that were only partly asked for: small reads do not decompress them again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._started: dict[TopicPartition, tuple[bytes, Block]] = {}

    def read(self, partition: TopicPartition, offset: int, *, max_records: int, max_bytes: int) -> Block:
        """Committed records from `offset` on, within the bounds, but at least one if there is one."""
        try:
            return self._read(partition, offset, max_records=max_records, max_bytes=max_bytes)
        except CorruptLog as error:
            if not isinstance(error.__cause__, sqlite3.Error):
                raise
            what = f"a page of the file is damaged ({error.__cause__})"
            raise damaged(self._database, partition, offset, what) from error

    def _read(self, partition: TopicPartition, offset: int, *, max_records: int, max_bytes: int) -> Block:
        parts: list[Block] = []
        small: list[Columns] = []

        def gather_small() -> None:
            if small:
                parts.append(block_from(partition, small))
                small.clear()

        records, size = max(max_records, 1), max_bytes
        with self._database.reading():
            row = partition_row(self._database, partition)
            if not row.start <= offset <= row.end:
                raise _out_of_range(row, offset)
            reached = offset
            with closing(block_rows(self._database, row, offset)) as rows:
                for stored, payload in rows:
                    reached = stored.next
                    if payload and stored.base >= offset and stored.count <= records and stored.raw_bytes <= size:
                        columns = read_columns(self._database, partition, stored, payload)
                        if small and small[0].names != columns.names:
                            gather_small()
                        if stored.count:
                            small.append(columns)
                        records -= stored.count
                        size -= stored.raw_bytes
                        if records <= 0 or size <= 0:
                            break
                        continue
                    gather_small()
                    whole = block = self._decoded(partition, stored, payload)
                    if block.offsets.size and block.offsets[0] < offset:
                        block = block.slice(int(np.searchsorted(block.offsets, offset)), len(block))
                    taken = _within(block, records, size, stored.raw_bytes, first=not parts)
                    if len(taken):
                        parts.append(taken)
                    if len(taken) < len(block):
                        self._remember(partition, stored, whole)
                        break
                    records -= len(taken)
                    size -= stored.raw_bytes
                    if parts and (records <= 0 or size <= 0):
                        break
                else:
                    if reached < row.end:
                        raise damaged(self._database, partition, reached, "a stored block is missing")
        gather_small()
        if not parts:
            return block_of(partition.topic, partition.partition, [])
        return parts[0] if len(parts) == 1 else joined(parts)

    def offset_at(self, partition: TopicPartition, timestamp: int) -> int:
        """The first offset whose record's timestamp is not below `timestamp`, or the end."""
        with self._database.reading():
            row = partition_row(self._database, partition)
            low, high = row.start, row.end
            while low < high:  # `high_time` never falls, so blocks can be searched by halves of the offset range
                middle = (low + high) // 2
                stored = next_row(self._database, row, middle)
                if stored is None or stored.high_time >= timestamp:
                    high = middle
                else:
                    low = min(stored.next, high)
            # Retention may have removed what made `high_time` that high, so the block found need not be the one.
            with closing(block_rows(self._database, row, low)) as rows:
                for found, payload in rows:
                    if found.newest >= timestamp:
                        block = read_block(self._database, partition, found, payload)
                        hits = np.flatnonzero((block.timestamps >= timestamp) & (block.offsets >= row.start))
                        if hits.size:
                            return int(block.offsets[hits[0]])
            return row.end

    def _decoded(self, partition: TopicPartition, stored: BlockRow, payload: bytes | None) -> Block:
        checksum, block = self._started.get(partition, (b"", None))
        if block is not None and checksum == stored.checksum:
            return block
        return read_block(self._database, partition, stored, payload)

    def _remember(self, partition: TopicPartition, stored: BlockRow, block: Block) -> None:
        self._started.pop(partition, None)
        while len(self._started) >= _REMEMBERED:
            self._started.pop(next(iter(self._started)))
        self._started[partition] = (stored.checksum, block)


def _within(block: Block, records: int, size: int, stored_size: int, *, first: bool) -> Block:
    """The leading records that the bounds allow; one at least if nothing came before."""
    count = min(len(block), records)
    if stored_size > size:
        reach = np.cumsum(record_bytes(block))
        count = min(count, max(int(np.searchsorted(reach, size, "right")), int(first)))
    return block if count == len(block) else block.slice(0, count)


def _out_of_range(row: PartitionRow, offset: int) -> OffsetOutOfRange:
    place = f"partition {row.partition.partition} of '{row.partition.topic}'"
    if offset < row.start:
        return OffsetOutOfRange(
            f"{place} starts at offset {row.start}; {offset} was removed by retention or delete_records",
            hint=f"read from {row.start} on, and take what lies before as lost",
        )
    return OffsetOutOfRange(
        f"{place} ends at offset {row.end}; {offset} was never written",
        hint=f"read from {row.end} on; a committed offset beyond the end comes from another log",
    )
