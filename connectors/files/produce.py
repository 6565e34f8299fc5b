"""Writes the rows of a file to a topic: encoded, keyed, spread over its partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from connectors.files.rows import BAD_ROWS, FileRows
from connectors.files.source import read_file
from streamproc.contracts.model import Contract
from streamproc.errors import InputError, TypeMismatch, UnknownTopic, did_you_mean
from streamproc.hashing import partitions_of
from streamproc.keys import keys_of
from streamproc.ports import Block, Int64s, Log
from streamproc.wire.encoder import Encoder

_SAMPLE = 1_000


@dataclass(frozen=True, slots=True)
class ProduceReport:
    """What became of a file: in = rows + bad.

    rows        records written; partitions: how many of them to each partition
    bad         rows that could not be converted or encoded
    examples    `BAD_ROWS`: the first of them, at most 1,000
    """

    rows: int
    bad: int
    partitions: Mapping[int, int] = field(default_factory=dict)
    examples: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BAD_ROWS))


def produce_file(
    log: Log,
    path: str | Path,
    topic: str,
    *,
    contract: Contract,
    schema_id: int,
    key: tuple[str, ...] | None = None,
    mapping: Mapping[str, str] | None = None,
    event_time: str | None = None,
    formats: Mapping[str, str] | None = None,
    zone: str = "UTC",
    file_format: str = "",
    separator: str = "",
    producer_id: str = "",
    progress: Callable[[int], None] | None = None,
) -> ProduceReport:
    """Appends the file's rows to an existing topic, in file order, one transaction a piece.

    key          the columns that choose the partition; without them the contract's key
    producer_id  the transactional id; one run at a time may use it, without one it follows from topic and file name
    progress     called after each commit with the number of rows read so far, bad ones included
    Other arguments as in `read_file`.  Each piece becomes visible as a whole; a failure leaves the pieces before it.
    """
    pieces = read_file(
        path, contract=contract, mapping=mapping, event_time=event_time, formats=formats, zone=zone,
        file_format=file_format, separator=separator,
    )  # fmt: skip
    return produce_rows(
        log, pieces, topic, contract=contract, schema_id=schema_id, key=key,
        producer_id=producer_id or f"produce.{topic}.{Path(path).name}", progress=progress,
    )  # fmt: skip


def produce_frame(
    log: Log,
    frame: pl.DataFrame,
    topic: str,
    *,
    contract: Contract,
    schema_id: int,
    key: tuple[str, ...] | None = None,
    producer_id: str = "",
    rows: int = 100_000,
) -> ProduceReport:
    """Appends the rows of a frame, as `produce_file` does with those of a file."""
    empty = pl.DataFrame(schema=BAD_ROWS)
    pieces = (
        FileRows(piece, np.arange(start + 1, start + 1 + piece.height), empty)
        for start in range(0, frame.height, rows)
        for piece in [frame[start : start + rows]]
    )
    return produce_rows(
        log, pieces, topic, contract=contract, schema_id=schema_id, key=key,
        producer_id=producer_id or f"produce.{topic}",
    )  # fmt: skip


def produce_rows(
    log: Log,
    pieces: Iterator[FileRows],
    topic: str,
    *,
    contract: Contract,
    schema_id: int,
    producer_id: str,
    key: tuple[str, ...] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ProduceReport:
    """Appends rows that come in pieces, one transaction a piece."""
    settings = log.topics().get(topic)
    if settings is None:
        raise UnknownTopic(f"there is no topic '{topic}'", hint=did_you_mean(topic, log.topics()))
    columns = contract.key if key is None else key
    for name in columns:
        if name not in contract.schema:
            hint = did_you_mean(name, contract.schema.names)
            raise InputError(f"the key column '{name}' is not in '{contract}'", hint=hint)
    encoder = Encoder(contract.avro)
    counts = np.zeros(settings.partitions, np.int64)
    examples: list[pl.DataFrame] = []
    bad = 0
    producer = log.producer(producer_id)
    try:
        for piece in pieces:
            to_blocks = partial(
                rows_to_blocks, encoder=encoder, schema_id=schema_id, topic=topic, key=columns,
                partitions=settings.partitions, first=int(counts.sum()),
            )  # fmt: skip
            refused = piece.bad
            try:
                blocks = to_blocks(piece.frame)
            except TypeMismatch:
                good, unfit = encodable(encoder, piece)
                refused = pl.concat([refused, unfit]).sort("line", maintain_order=True)
                blocks = to_blocks(good.frame)
            if blocks:
                transaction = producer.begin()
                for block in blocks:
                    transaction.append(block)
                    counts[block.partition] += len(block)
                transaction.commit()
            if bad < _SAMPLE:
                examples.append(refused.head(_SAMPLE - bad))
            bad += refused.height
            if progress is not None:
                progress(int(counts.sum()) + bad)
    finally:
        producer.close()
    spread = {partition: int(count) for partition, count in enumerate(counts)}
    shown = pl.concat(examples) if examples else pl.DataFrame(schema=BAD_ROWS)
    return ProduceReport(int(counts.sum()), bad, spread, shown)


def rows_to_blocks(
    frame: pl.DataFrame, encoder: Encoder, schema_id: int, *, topic: str, key: tuple[str, ...], partitions: int,
    first: int = 0,
) -> list[Block]:  # fmt: skip
    """The frame as blocks to append, one for each partition that gets a row; rows keep their order in a partition.

    The record's value is Confluent's header and the body; its key the key columns as `keys_of` writes them, and null
    where all of them are null.  A key's partition is murmur2 of its bytes; rows without a key go round by their number,
    the frame's first row being number `first`.
    """
    encoded = encoder.encode(frame, schema_id=schema_id)
    buffer, key_starts, key_ends = encoded.buffer, np.full(frame.height, -1), np.full(frame.height, -1)
    numbers = (first + np.arange(frame.height, dtype=np.int64)) % partitions
    if key:
        keys = keys_of(frame, key)
        null = frame.select(pl.all_horizontal(pl.col(name).is_null() for name in key)).to_series().to_numpy()
        key_starts = np.where(null, -1, keys.starts + buffer.size)
        key_ends = np.where(null, -1, keys.ends + buffer.size)
        numbers = np.where(null, numbers, partitions_of(keys.buffer, keys.starts, keys.ends, partitions))
        buffer = np.concatenate([buffer, keys.buffer])
    blocks = []
    for partition in range(partitions):
        rows = np.flatnonzero(numbers == partition)
        if rows.size:
            blocks.append(
                Block(
                    topic, partition, offsets=_NONE, timestamps=_NONE, buffer=buffer,
                    value_starts=encoded.starts[rows], value_ends=encoded.ends[rows],
                    key_starts=key_starts[rows], key_ends=key_ends[rows],
                )
            )  # fmt: skip
    return blocks


_NONE: Int64s = np.empty(0, np.int64)


def encodable(encoder: Encoder, piece: FileRows) -> tuple[FileRows, pl.DataFrame]:
    """The rows that the schema can hold, and the others as `BAD_ROWS`.

    Column types do not say all: the size of a fixed, a null inside a list. Such rows are found by halving: k of them
    cost about k log n encodings.
    """
    rows: list[tuple[int, str, bytes]] = []
    pending = [(0, piece.frame.height)]
    while pending:
        start, stop = pending.pop()
        if start == stop:
            continue
        try:
            encoder.encode(piece.frame[start:stop], schema_id=None)
        except TypeMismatch as error:
            if stop - start == 1:
                shown = str(piece.frame.row(start, named=True))
                rows.append((start, error.message.partition(": ")[2] or error.message, shown.encode()))
            else:
                middle = (start + stop) // 2
                pending += [(start, middle), (middle, stop)]
    if not rows:
        return piece, pl.DataFrame(schema=BAD_ROWS)
    bad = sorted(rows)
    keep = np.setdiff1d(np.arange(piece.frame.height), [row for row, _, _ in bad])
    refused = pl.DataFrame([(int(piece.lines[r]), why, raw) for r, why, raw in bad], schema=BAD_ROWS, orient="row")
    return FileRows(piece.frame[keep], piece.lines[keep], piece.bad), refused
