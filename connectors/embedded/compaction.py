"""Compaction: of each key only the newest record stays; offsets stay as they are.

Two passes over a partition.  The first one reads from the newest block to the oldest and notes which records survive:
those whose key was not met yet.  The second one rewrites blocks from the oldest to the newest, in short transactions.
The direction matters: a tombstone (null value) lies behind the records that it deletes, so if the process dies on
the way, they are gone before it is, and none comes back.

A tombstone survives the first compaction that sees it, so that readers who follow learn of it, and goes in the next.
A record without key always stays, and so does the partition's last record: a reader below the end always finds one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from connectors.embedded.database import Database
from connectors.embedded.layout import BLOCK_BYTES, BLOCK_RECORDS, cells_of, encode, joined
from connectors.embedded.stored import (
    BlockRow,
    PartitionRow,
    block_rows,
    insert,
    partition_row,
    read_block,
    store_partition,
)
from streamproc.ports import Block, HeaderColumn, Int64s, TopicPartition

_SCAN_BYTES: Final = 64 << 20
_MANY_RECORDS: Final = 4_000_000


def is_worth_compacting(database: Database, topic: str) -> bool:
    """Whether some partition has got at least as many records since its last compaction as stayed in it then."""
    rows = database.execute(
        "SELECT (SELECT coalesce(sum(count), 0) FROM block WHERE partition_id = p.id AND next > p.compacted_to), "
        "(SELECT coalesce(sum(count), 0) FROM block WHERE partition_id = p.id AND next <= p.compacted_to) "
        "FROM partition p JOIN topic t ON t.id = p.topic_id WHERE t.name = ?",
        (topic,),
    ).fetchall()
    return any(new >= max(old, 1_000) for new, old in rows)


def compact_topic(database: Database, topic: str) -> int:
    """Compacts every partition of the topic; gives how many records went from the file.

    Memory: the distinct keys of one partition.  Raises UnknownTopic, and CorruptLog without having changed the
    damaged block or one behind it.
    """
    with database.reading():
        partition_row(database, TopicPartition(topic, 0))
        (partitions,) = database.execute("SELECT partitions FROM topic WHERE name = ?", (topic,)).fetchone()
    removed = 0
    for number in range(partitions):
        with database.reading():
            row = partition_row(database, TopicPartition(topic, number))
            blocks = [block for block, _ in block_rows(database, row, row.start)]
        if row.end > max(row.start, row.compacted_to):
            removed += _compact(database, row, blocks)
    return removed


def _compact(database: Database, partition: PartitionRow, blocks: list[BlockRow]) -> int:
    keep = _survivors(database, partition, blocks)
    removed = 0
    for group in _groups(blocks, keep):
        before = sum(row.count for row in group)
        after = sum(keep[row.id].size for row in group)
        if (before != after or len(group) > 1) and _rewrite(database, partition, group, keep):
            removed += before - after
    with database.writing():
        # Others appended meanwhile, so the row is read again.
        store_partition(database, replace(partition_row(database, partition.partition), compacted_to=partition.end))
    return removed


def _survivors(database: Database, partition: PartitionRow, blocks: list[BlockRow]) -> dict[int, Int64s]:
    """Block id to the positions in it of the records that stay."""
    seen = pl.DataFrame(schema={"key": pl.Binary()})
    keep: dict[int, Int64s] = {}
    for chunk in _chunks(blocks):
        frames = []
        for place, row in enumerate(chunk):
            with database.reading():
                block = read_block(database, partition.partition, row)
            frames.append(_key_frame(block, place, partition))
        frame = pl.concat(frames)
        keyed = frame.filter(pl.col("key").is_not_null())
        newest = keyed.unique("key", keep="last", maintain_order=True).join(seen, on="key", how="anti")
        stays = pl.concat([newest.filter(~pl.col("buried")), frame.filter(pl.col("key").is_null() | pl.col("last"))])
        stays = stays.select("place", "row").unique()
        for place, row in enumerate(chunk):
            rows = stays.filter(pl.col("place") == place)["row"].sort().to_numpy()
            keep[row.id] = np.ascontiguousarray(rows, np.int64)
        seen = pl.concat([seen, newest.select("key")])
    return keep


def _chunks(blocks: list[BlockRow]) -> Iterator[list[BlockRow]]:
    """Runs of blocks, the newest run first, each in order and of bounded size."""
    chunk: list[BlockRow] = []
    size = count = 0
    for row in reversed(blocks):
        if chunk and (size + row.raw_bytes > _SCAN_BYTES or count + row.count > _MANY_RECORDS):
            yield chunk[::-1]
            chunk, size, count = [], 0, 0
        chunk.append(row)
        size += row.raw_bytes
        count += row.count
    if chunk:
        yield chunk[::-1]


def _arrow() -> Any:
    """PyArrow, which has no types of its own and is slow to import."""
    return importlib.import_module("pyarrow")


def _key_frame(block: Block, place: int, partition: PartitionRow) -> pl.DataFrame:
    """Key, place, row, whether it is a tombstone to go, and whether it is the partition's last record."""
    cells = cells_of(block.buffer, block.key_starts, block.key_ends)
    bounds = np.concatenate([[0], np.cumsum(cells.lengths)])
    valid = np.packbits(cells.codes > 0, bitorder="little")
    arrow = _arrow()
    buffers = [arrow.py_buffer(part.tobytes()) for part in (valid, bounds, cells.data)]
    keys = arrow.LargeBinaryArray.from_buffers(arrow.large_binary(), len(block), buffers)
    below_start = block.offsets < partition.start
    return pl.DataFrame(
        {
            "key": pl.Series(pl.from_arrow(keys), dtype=pl.Binary()),
            "place": np.full(len(block), place, np.int64),
            "row": np.arange(len(block), dtype=np.int64),
            "buried": below_start | ((block.value_starts < 0) & (block.offsets < partition.compacted_to)),
            "last": block.offsets == partition.end - 1,
        }
    )


@dataclass(slots=True)
class _Run:
    rows: list[BlockRow]
    count: int = 0
    size: int = 0


def _groups(blocks: list[BlockRow], keep: dict[int, Int64s]) -> Iterator[list[BlockRow]]:
    """Neighbouring blocks whose survivors fit into one stored block."""
    run = _Run([])
    for row in blocks:
        stays = keep[row.id].size
        size = row.raw_bytes * stays // max(row.count, 1)
        if run.rows and (run.count + stays > BLOCK_RECORDS or run.size + size > BLOCK_BYTES):
            yield run.rows
            run = _Run([])
        run.rows.append(row)
        run.count += stays
        run.size += size
    if run.rows:
        yield run.rows


def _rewrite(database: Database, partition: PartitionRow, group: list[BlockRow], keep: dict[int, Int64s]) -> bool:
    """Puts one block of the survivors in the place of a group; False if someone else changed the group meanwhile."""
    with database.reading():
        parts = [_picked(read_block(database, partition.partition, row), keep[row.id]) for row in group]
    encoded = encode(joined(parts), base=group[0].base)
    with database.writing():
        for row in group:
            found = database.execute("SELECT checksum FROM block WHERE id = ?", (row.id,)).fetchone()
            if found is None or found[0] != row.checksum:
                return False
        for row in group:
            database.execute("DELETE FROM block WHERE id = ?", (row.id,))
        insert(
            database, partition, encoded, base=group[0].base, end=group[-1].next, append_time=group[-1].append_time,
            high_time=group[-1].high_time,
        )  # fmt: skip
    return True


def _picked(block: Block, rows: Int64s) -> Block:
    """Some records of a block, sharing its buffer."""
    return Block(
        block.topic, block.partition, block.offsets[rows], block.timestamps[rows], block.buffer,
        block.value_starts[rows], block.value_ends[rows], block.key_starts[rows], block.key_ends[rows],
        tuple(HeaderColumn(header.name, header.starts[rows], header.ends[rows]) for header in block.headers),
    )  # fmt: skip


