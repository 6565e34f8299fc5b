"""Records of a block as events, one by one: on topics of decisions and alerts rows are few."""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl

from streamproc.engine.leaving import HEADER
from streamproc.engine.rejects import row_json
from streamproc.ports import Block
from streamproc.reaction import Event
from streamproc.runtime.reading import TopicReader

_ID_BYTES = 16


class Received(NamedTuple):
    """A record as it came, and the event that it is; no event where no known contract reads it."""

    offset: int
    recorded_at: int
    id: str
    key: bytes | None
    payload: bytes | None
    event: Event | None


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


def event_id(block: Block, number: int) -> str:
    """The idempotency key of a record: the id in its `sp` header, else its place in the log."""
    header = block.header(number, HEADER)
    if header is not None and len(header) >= _ID_BYTES:
        return header[:_ID_BYTES].hex()
    return f"{block.topic}-{block.partition}@{int(block.offsets[number])}"
