"""Records of a block as events, one by one: on topics of decisions and alerts rows are few."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from streamproc.engine.leaving import HEADER
from streamproc.engine.rejects import row_json
from streamproc.ports import Block, block_of
from streamproc.reaction import Event
from streamproc.runtime.reading import TopicReader

_ID_BYTES: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Origin(NamedTuple):
    """Where a dead letter's record lay."""

    topic: str
    partition: int
    offset: int


class Received(NamedTuple):
    """A record as it came, and the event that it is; no event where no known contract reads it.

    origin  of a dead letter that is delivered again: all but `offset` is that of the record which it was
    """

    offset: int
    recorded_at: int
    id: str
    key: bytes | None
    payload: bytes | None
    event: Event | None
    origin: Origin | None = None


def received(block: Block, reader: TopicReader) -> list[Received]:
    """Every record of the block, in order of offsets."""
    rows: dict[int, tuple[dict[str, Any], bytes]] = {}
    for frame in reader.frames(block):
        columns = frame.select(pl.exclude("_partition", "_offset"))
        rows |= dict(
            zip(frame["_offset"].to_list(), zip(columns.to_dicts(), row_json(columns), strict=True), strict=True)
        )
    taken: list[Received] = []
    for number in range(len(block)):
        offset, recorded_at = int(block.offsets[number]), int(block.timestamps[number])
        key, id_ = block.key(number), event_id(block, number)
        event = None
        if offset in rows:
            row, text = rows[offset]
            event = Event(id_, block.topic, block.partition, offset, recorded_at, key, row, text)
        taken.append(Received(offset, recorded_at, id_, key, block.value(number), event))
    return taken


def letters(block: Block, reader: TopicReader) -> list[Received]:
    """Dead letters of reactions as the records that they were, with the ids that these had."""
    taken: list[Received] = []
    for letter in received(block, reader):
        if letter.event is None or "attempts" not in letter.event.row:
            taken.append(letter)
            continue
        row = letter.event.row
        origin = Origin(row["topic"], row["partition"], row["offset"])
        at = 0 if row["recorded_at"] is None else (row["recorded_at"] - _EPOCH) // timedelta(microseconds=1)
        record = replace(
            block_of(origin.topic, origin.partition, [row["payload"]], keys=[row["key"]]),
            offsets=np.array([origin.offset], np.int64),
            timestamps=np.array([at], np.int64),
        )
        event = received(record, reader)[0].event
        if event is not None:
            event = replace(event, id=row["id"])
        taken.append(Received(letter.offset, at, row["id"], row["key"], row["payload"], event, origin))
    return taken


def event_id(block: Block, number: int) -> str:
    """The idempotency key of a record: the id in its `sp` header, else its place in the log."""
    header = block.header(number, HEADER)
    if header is not None and len(header) >= _ID_BYTES:
        return header[:_ID_BYTES].hex()
    return f"{block.topic}-{block.partition}@{int(block.offsets[number])}"
