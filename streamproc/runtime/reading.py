"""Reading topics back as rows: what `subscribe`, tests and reports see."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from streamproc.contracts.registry import Registry
from streamproc.decisions.review import ANSWER
from streamproc.engine.rejects import REJECTED
from streamproc.errors import UnknownContract
from streamproc.ports import Block, Log, TopicPartition
from streamproc.runtime.reactions.records import OWN
from streamproc.wire import Decoder, split_frames

logger = logging.getLogger(__name__)


class TopicReader:
    """Decodes blocks of any topic whose records name their schema; each schema is looked up and compiled once."""

    def __init__(self, registry: Registry) -> None:
        for contract in (REJECTED, ANSWER, *OWN):
            registry.adopt(contract)
        self._registry = registry
        self._decoders: dict[int, Decoder | None] = {}

    def frames(self, block: Block) -> Iterator[pl.DataFrame]:
        """The readable records of a block, in runs of one schema; beside their columns `_partition` and `_offset`."""
        ids, bodies = split_frames(block.buffer, block.value_starts, block.value_ends)
        at = 0
        while at < len(block):
            stop = at + 1
            while stop < len(block) and ids[stop] == ids[at]:
                stop += 1
            decoder = self._decoder(int(ids[at]))
            if decoder is not None:
                decoded = decoder.decode(block.buffer, bodies[at:stop], block.value_ends[at:stop])
                yield decoded.frame.with_columns(
                    pl.lit(block.partition, pl.Int64).alias("_partition"),
                    pl.Series("_offset", block.offsets[at:stop][decoded.rows]),
                )
            at = stop

    def _decoder(self, schema_id: int) -> Decoder | None:
        if schema_id not in self._decoders:
            try:
                self._decoders[schema_id] = Decoder(self._registry.schema_of(schema_id)) if schema_id >= 0 else None
            except UnknownContract:
                self._decoders[schema_id] = None
        return self._decoders[schema_id]


def read_blocks(
    log: Log, topic: str, *, starts: Mapping[int, int] | None = None, ends: Mapping[int, int] | None = None
) -> Iterator[Block]:
    """All committed blocks of a topic, partition by partition, from offsets on (by default the start) to ends."""
    for partition in range(log.topics()[topic].partitions if topic in log.topics() else 0):
        place = TopicPartition(topic, partition)
        end = log.end_offset(place) if ends is None else ends[partition]
        at = log.start_offset(place) if starts is None else starts.get(partition, log.start_offset(place))
        while at < end:
            block = log.read(place, at, max_records=min(65_536, end - at))
            # Offsets may have gaps: as many records as there are offsets can reach past the end.
            inside = block.slice(0, int(np.searchsorted(block.offsets, end)))
            if not len(inside):
                break
            yield inside
            at = int(block.offsets[-1]) + 1


def left_out(block: Block, read: int) -> str:
    """What is to be said of a block of which so many rows were read: nothing where the others are null, deletions."""
    missing = int(np.count_nonzero(block.value_starts >= 0)) - read
    if missing <= 0:
        return ""
    of = f"of {block.topic}-{block.partition} from offset {int(block.offsets[0])} on"
    return f"{missing:,} {'records' if missing > 1 else 'record'} {of}: no rows of a known contract"


def read_topic(log: Log, registry: Registry, topic: str, schema: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """All readable rows of a topic, partition by partition in offset order; `schema` gives the columns of an empty
    one. Records that are no rows of a known contract are left out, and a warning says how many and from where on."""
    reader, frames = TopicReader(registry), list[pl.DataFrame]()
    for block in read_blocks(log, topic):
        found = list(reader.frames(block))
        frames += found
        if said := left_out(block, sum(frame.height for frame in found)):
            logger.warning("left out %s", said)
    if not frames:
        return pl.DataFrame(schema={**(schema or {}), "_partition": pl.Int64, "_offset": pl.Int64})
    return pl.concat(frames, how="diagonal_relaxed")
