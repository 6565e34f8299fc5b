"""Confluent's framing: a zero byte and a big-endian schema id before each body, and a reader of mixed ids.

Source: Confluent Schema Registry documentation, "Wire format".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import polars as pl

from streamproc.errors import IncompatibleEvolution, InvalidSchema
from streamproc.kernels import unlocked
from streamproc.wire import opcodes as op
from streamproc.wire.columns import Bytes, Int64s
from streamproc.wire.decoder import Decoded, Decoder, frozen

HEADER_SIZE = 5
"""Bytes before each body."""


def split_frames(buffer: Bytes, starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s]:
    """The schema id of each payload and where its body starts.

    starts, ends int64[n], start -1 for a null payload.  Gives two int64[n]: the id, -1 for a null payload and for one
    that is not framed, and the start of the body, -1 likewise.

    >>> ids, bodies = split_frames(np.array([0, 0, 0, 1, 0, 9], np.uint8), np.array([0, 1]), np.array([6, 2]))
    >>> ids.tolist(), bodies.tolist()
    ([256, -1], [5, -1])
    """
    ids, bodies = np.empty(starts.size, np.int64), np.empty(starts.size, np.int64)
    _split(frozen(buffer), frozen(starts), frozen(ends), ids, bodies)
    return ids, bodies


@unlocked
def _split(buffer: Bytes, starts: Int64s, ends: Int64s, ids: Int64s, bodies: Int64s) -> None:
    for row in range(starts.size):
        p = starts[row]
        ids[row] = -1
        bodies[row] = -1
        if p >= 0 and ends[row] - p >= 5 and ends[row] <= buffer.size and buffer[p] == 0:
            ids[row] = (
                np.int64(buffer[p + 1]) << 24 | np.int64(buffer[p + 2]) << 16 | np.int64(buffer[p + 3]) << 8
                | np.int64(buffer[p + 4])
            )  # fmt: skip
            bodies[row] = p + 5


def _different(ids: Int64s) -> list[int]:
    """The ids without -1, ascending."""
    return [int(schema_id) for schema_id in np.unique(ids[ids >= 0])]


class Reader:
    """Reads framed payloads of any mix of writer schemas as one reader's columns.

    `lookup` gives the writer's schema of an id, or None where there is none; each id is asked for once, unknown ones
    again in every batch (the schema may be registered later).

    >>> schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "long"}]}
    >>> buffer = np.array([0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 8, 4], np.uint8)
    >>> decoded = Reader(schema, {7: schema}.get).decode(buffer, np.array([0, 6, -1]), np.array([6, 12, -1]))
    >>> decoded.frame["a"].to_list(), decoded.why()
    ([1], [(1, 'unknown schema'), (2, 'null payload')])
    """

    def __init__(
        self,
        reader_schema: Mapping[str, object],
        lookup: Callable[[int], Mapping[str, object] | None],
        *,
        columns: Collection[str] | None = None,
    ) -> None:
        self._schema, self._lookup, self._columns = reader_schema, lookup, columns
        self._decoders: dict[int, Decoder | None] = {}
        self._empty = Decoder(reader_schema, columns=columns).decode_payloads([]).frame

    def decode(self, buffer: Bytes, starts: Int64s, ends: Int64s, *, unknown: Int64s | None = None) -> Decoded:
        """Decodes a block of framed payloads; start -1 for a null payload.  Rows keep their order.

        unknown  rows whose schema counts as unknown, whatever is known of it now
        """
        ids, bodies = split_frames(buffer, starts, ends)
        if unknown is not None and unknown.size:
            ids[unknown] = -1
        if ids.size and ids[0] >= 0 and (ids == ids[0]).all():
            # Most blocks have one writer.
            only = self._decoder(int(ids[0]))
            if isinstance(only, Decoder):
                return only.decode(buffer, bodies, np.asarray(ends))
        codes = np.zeros(starts.size, np.uint8)
        codes[ids < 0] = op.NOT_FRAMED
        codes[np.asarray(starts) < 0] = op.NULL_PAYLOAD
        if unknown is not None:
            codes[unknown] = op.UNKNOWN_SCHEMA
        frames: list[pl.DataFrame] = []
        places: list[Int64s] = []
        for schema_id in _different(ids):
            here = np.flatnonzero(ids == schema_id)
            decoder = self._decoder(schema_id)
            if not isinstance(decoder, Decoder):
                codes[here] = decoder
                continue
            decoded = decoder.decode(buffer, bodies[here], np.asarray(ends)[here])
            codes[here[decoded.bad]] = decoded.reasons
            frames.append(decoded.frame)
            places.append(here[decoded.rows])
        bad = np.flatnonzero(codes)
        if len(frames) <= 1:
            frame = frames[0] if frames else self._empty
            return Decoded(frame, places[0] if places else np.empty(0, np.int64), bad, codes[bad])
        rows = np.concatenate(places)
        order = np.argsort(rows)
        return Decoded(pl.concat(frames)[order], rows[order], bad, codes[bad])

    def _decoder(self, schema_id: int) -> Decoder | int:
        """The decoder of an id, or the reason why there is none."""
        if schema_id not in self._decoders:
            writer = self._lookup(schema_id)
            if writer is None:
                return op.UNKNOWN_SCHEMA
            try:
                self._decoders[schema_id] = Decoder(writer, self._schema, columns=self._columns)
            except (IncompatibleEvolution, InvalidSchema):
                self._decoders[schema_id] = None
        return self._decoders[schema_id] or op.INCOMPATIBLE
