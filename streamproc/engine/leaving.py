"""What leaves a step: rows as records of sinks, internal topics and the topics of refused rows. Nothing here has state.

An identified sink's records carry one header, `sp`: 16 bytes of id, then the task's number in its stage (uint32), the
step (uint64) and the row's ordinal among the step's rows of that sink (uint32), little-endian. The id is a hash of the
topology, the step that made the row, and the row's coordinate: a run again, on any number of workers and however cut,
gives the same row the same id, so that whoever acts on it can tell a repetition.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from streamproc.batch import C0, Batch, row_ids
from streamproc.engine.compiled import CompiledStage, EdgeWriter, SinkWriter
from streamproc.engine.edges import write_edge
from streamproc.engine.tombstones import delete_headers
from streamproc.hashing import frozen, partitions_of
from streamproc.kernels import kernel
from streamproc.keys import NULL_KEY, keys_of
from streamproc.ports import Block, Bytes, HeaderColumn, Int64s

HEADER: Final = "sp"
"""The header of identified records."""
_ID: Final = 16
_HEADER: Final = 32
_NONE: Final = np.empty(0, np.int64)
_NO_BYTES: Final = np.empty(0, np.uint8)
Flags = np.ndarray[Any, np.dtype[np.bool_]]
_UNHASHED: Final = {
    column.name: column
    for column in (
        pl.Series("step", [""]),
        pl.Series("partition", [0], pl.Int32),
        pl.Series("offset", [0], pl.Int64),
        pl.Series("recorded_at", [None], pl.Datetime("us", "UTC")),
        pl.Series("key", [None], pl.Binary),
    )
}
"""What stands in the digest of a refused row for what differs between runs."""
_NULL_SIZE, _NULL_FIRST = len(NULL_KEY), NULL_KEY[0]


class Hashed(NamedTuple):
    """The bytes of each row that go into a topic's digest, in the order of the rows."""

    buffer: Bytes
    starts: Int64s
    ends: Int64s


def sink_blocks(
    stage: CompiledStage, writer: SinkWriter, batch: Batch, *, task: int, step: int
) -> tuple[Hashed, list[Block]]:
    """The rows of a sink as records, one block a partition; hashed are their bodies without the schema id."""
    sink = writer.sink
    raw = batch.raw
    keys = keys_of(batch.frame, sink.key) if sink.key is not None else batch.keys
    key_starts = key_ends = np.full(len(batch), -1, np.int64)
    key_buffer = _NO_BYTES
    if keys is not None:
        if not (sink.key == () or (sink.key is None and not sink.type.keyed_by)):
            key_starts, key_ends = _with_nulls(frozen(keys.buffer), frozen(keys.starts), frozen(keys.ends))
            key_buffer = keys.buffer
    elif raw is not None:
        key_starts, key_ends, key_buffer = raw.key_starts, raw.key_ends, raw.buffer
    if writer.partitions == 1:
        where = np.zeros(len(batch), np.int64)
    elif keys is None:
        # Rows without a key of their own stay in the partition that they came from.
        where = np.full(len(batch), task % writer.partitions, np.int64)
    else:
        where = partitions_of(key_buffer, key_starts, key_ends, writer.partitions)
        where = np.where(where < 0, (batch.meta[:, C0] & 0xFFFFFFFF) % writer.partitions, where)
    gone = None
    if raw is not None and sink.forwards:
        buffer, starts, ends = raw.buffer, raw.starts, raw.ends
        if key_buffer is not buffer:
            key_starts, key_ends = _moved(frozen(key_starts), frozen(key_ends), buffer.size)
            buffer = np.concatenate([buffer, key_buffer])
    else:
        gone = _gone(batch, sink.deletes)
        buffer, starts, ends = _encoded(writer, batch, gone, key_buffer)
        key_starts, key_ends = _moved(frozen(key_starts), frozen(key_ends), buffer.size - key_buffer.size)
    headers: tuple[HeaderColumn, ...] = ()
    hashed = Hashed(buffer, starts + 5, ends)
    if gone is not None:
        # A record without a value is told from others by its key alone.
        hashed = Hashed(
            buffer, np.where(gone, np.maximum(key_starts, 0), starts + 5), np.where(gone, np.maximum(key_ends, 0), ends)
        )
        moments, told = delete_headers(batch.event_time, gone, buffer.size)
        headers = (moments,)
        buffer = np.concatenate([buffer, told])
    if sink.identified:
        at = buffer.size + _HEADER * np.arange(len(batch), dtype=np.int64)
        headers = (*headers, HeaderColumn(HEADER, at, at + _HEADER))
        maker = f"{stage.names.topology}\0{stage.plan.nodes[sink.port[0]].name}\0{sink.port[1]}"
        buffer = np.concatenate([buffer, _identities(batch, maker, task, step)])
    counts = np.bincount(where, minlength=1)
    everywhere = bool(counts.max() == len(batch))
    blocks: list[Block] = []
    for partition in np.flatnonzero(counts).tolist():
        mine = slice(None) if everywhere else np.flatnonzero(where == partition)
        blocks.append(
            Block(
                sink.topic,
                partition,
                _NONE,
                _NONE,
                buffer,
                np.ascontiguousarray(starts[mine]),
                np.ascontiguousarray(ends[mine]),
                np.ascontiguousarray(key_starts[mine]),
                np.ascontiguousarray(key_ends[mine]),
                tuple(HeaderColumn(h.name, h.starts[mine], h.ends[mine]) for h in headers),
            )
        )
    return hashed, blocks


def _gone(batch: Batch, column: str) -> Flags | None:
    """Which rows leave as records without a value; None where none does."""
    if not column:
        return None
    gone = batch.frame.get_column(column).fill_null(False).to_numpy()
    return np.array(gone, np.bool_) if gone.any() else None


def _encoded(
    writer: SinkWriter, batch: Batch, gone: Flags | None, keys: Bytes
) -> tuple[Bytes, Int64s, Int64s]:
    """The values of the rows, the bytes of keys behind them, and the values' bounds, -1 for those that are gone."""
    frame = batch.frame if gone is None else batch.frame.filter(pl.Series(~gone))
    encoded = writer.encoder.encode(_conformed(frame, writer.columns), schema_id=writer.schema_id, behind=keys)
    if gone is None:
        return encoded.buffer, encoded.starts, encoded.ends
    starts, ends = np.full(len(batch), -1, np.int64), np.full(len(batch), -1, np.int64)
    starts[~gone], ends[~gone] = encoded.starts, encoded.ends
    return encoded.buffer, starts, ends


def edge_blocks(
    stage: CompiledStage, writer: EdgeWriter, batch: Batch, *, task: int, watermark: int, idle: int, moved: bool
) -> tuple[Hashed | None, list[Block]]:
    """The rows of an edge as records of its internal topic, one block a downstream task.

    idle   0: the task is awake; 1: it is idle; 2: nothing of it is waited for either
    moved  all downstream tasks are told the time, also those that get no row

    Hashed are the rows as they stand, not by reader: so it does not show how the input was cut.
    """
    upstream, down = stage.tasks[writer.edge.from_stage], writer.downstream
    if not writer.edge.rekeyed:
        where = np.full(len(batch), task % down, np.int64)
    elif batch.keys is None or down == 1:
        where = np.zeros(len(batch), np.int64)
    else:
        where = partitions_of(batch.keys.buffer, batch.keys.starts, batch.keys.ends, down)
    order = np.argsort(where, kind="stable")
    sorted_batch = batch if down == 1 else batch.take(order)
    encoded = writer.encoder.encode(writer.carriage.packed(sorted_batch.frame), schema_id=None)
    hashed = None
    if len(batch):
        standing = np.argsort(order, kind="stable")
        hashed = Hashed(encoded.buffer, encoded.starts[standing], encoded.ends[standing])
    bounds = np.searchsorted(where[order], np.arange(down + 1))
    blocks: list[Block] = []
    for reader in range(down):
        cut = slice(int(bounds[reader]), int(bounds[reader + 1]))
        if not moved and cut.start == cut.stop:
            continue
        values = list(
            write_edge(
                sorted_batch.meta[cut],
                encoded.buffer,
                encoded.starts[cut],
                encoded.ends[cut],
                watermark=watermark,
                flags=idle,
            )
        )
        blocks.append(_small_block(writer.topic, reader * upstream + task, values))
    return hashed, blocks


def reject_block(stage: CompiledStage, topic: str, frame: pl.DataFrame) -> tuple[Hashed, Block]:
    """Refused rows as a block of their topic; hashed are source, payload and reason: the rest differs between runs."""
    encoded = stage.rejected.encode(frame, schema_id=stage.rejected_id)
    n = frame.height
    hashed = stage.rejected.encode(
        pl.DataFrame([_UNHASHED[c.name].new_from_index(0, n) if c.name in _UNHASHED else c for c in frame]),
        schema_id=None,
    )
    null = np.full(n, -1, np.int64)
    return (
        Hashed(hashed.buffer, hashed.starts, hashed.ends),
        Block(topic, 0, _NONE, _NONE, encoded.buffer, encoded.starts, encoded.ends, null, null),
    )


def _identities(batch: Batch, maker: str, task: int, step: int) -> Bytes:
    """The `sp` header of each row, 32 bytes each."""
    n = len(batch)
    headers = np.empty((n, _HEADER), np.uint8)
    headers[:, :_ID] = row_ids(batch.meta, maker)
    headers[:, _ID : _ID + 4] = np.frombuffer(task.to_bytes(4, "little"), np.uint8)
    headers[:, _ID + 4 : _ID + 12] = np.frombuffer(step.to_bytes(8, "little"), np.uint8)
    headers[:, _ID + 12 :] = np.arange(n, dtype="<u4").view(np.uint8).reshape(n, 4)
    return headers.reshape(-1)


def _conformed(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """The frame in a contract's columns and types: absent optional columns are null, narrow ones become wider."""
    if frame.schema == schema:
        return frame
    return frame.select_seq(
        pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name)
        for name, dtype in schema.items()
    )


@kernel
def _with_nulls(buffer: Bytes, starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s]:
    """The bounds of keys, -1 for those that are null."""
    first, last = starts.copy(), ends.copy()
    for row in range(starts.size):
        if ends[row] - starts[row] == _NULL_SIZE and buffer[starts[row]] == _NULL_FIRST:
            first[row] = last[row] = -1
    return first, last


@kernel
def _moved(starts: Int64s, ends: Int64s, by: int) -> tuple[Int64s, Int64s]:
    """Bounds in a buffer that stands behind others now; -1 stays."""
    first, last = starts + by, ends + by
    for row in range(starts.size):
        if starts[row] < 0:
            first[row] = last[row] = -1
    return first, last


def _small_block(topic: str, partition: int, values: list[bytes]) -> Block:
    ends = np.cumsum([len(value) for value in values])
    starts = ends - np.array([len(value) for value in values], np.int64)
    null = np.full(len(values), -1, np.int64)
    return Block(topic, partition, _NONE, _NONE, np.frombuffer(b"".join(values), np.uint8), starts, ends, null, null)
