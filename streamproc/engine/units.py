"""Units: what a task reads of one channel, decoded, in the order of its offsets; cut and joined like the log itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import WIDTH, Meta, Raw
from streamproc.engine.timeline import BAD, ROW
from streamproc.ports import Bytes, Int64s

KIND: Final = 0
ADVANCE: Final = 1
"""The watermark that the unit implies for its channel, µs."""
TIME: Final = 2
LATE: Final = 3
OFFSET: Final = 4
ORDINAL: Final = 5
"""Which unit of its record this is."""
INDEX: Final = 6
"""Row of the frame, or of `reasons` for a record that could not be read; -1 for marks."""
DIGEST: Final = 7
"""64-bit hash of the record (key and value), as int64; on the record's first unit, else 0."""
STAMP: Final = 8
"""The record's own timestamp, µs."""
UNIT_WIDTH: Final = 9


@dataclass(frozen=True, slots=True)
class Units:
    """Units of one channel in offset order.

    units    int64[n, UNIT_WIDTH], see the constants
    frame    the rows; meta int64[k, WIDTH] with event time and coordinate set (late flag and watermark on internal
             channels)
    records  each unit's record: bounds of value and key in a buffer (int64[n, 4] and the buffer), for dead letters
    reasons  why records could not be read, indexed by INDEX
    future   offsets of records that a clock found to be from the future: that is no function of the block, but recorded
    unknown  offsets of records whose schema nobody knew: that is none either, for it may be registered later
    """

    units: Int64s
    frame: pl.DataFrame
    meta: Meta
    raw: Raw | None
    buffer: Bytes
    records: Int64s
    reasons: tuple[str, ...] = ()
    future: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    unknown: Int64s = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return int(self.units.shape[0])

    def slice(self, start: int, stop: int) -> Units:
        """Units start..stop; shares all buffers."""
        if start == 0 and stop == len(self):
            return self
        units = self.units[start:stop].copy()
        future, unknown = (
            verdicts[np.isin(verdicts, units[:, OFFSET])] if verdicts.size else verdicts
            for verdicts in (self.future, self.unknown)
        )
        is_row = units[:, KIND] == ROW
        count = int(is_row.sum())
        first = int(units[int(is_row.argmax()), INDEX]) if count else 0
        units[is_row, INDEX] -= first
        raw = self.raw
        if raw is not None:
            cut = slice(first, first + count)
            raw = Raw(raw.buffer, raw.starts[cut], raw.ends[cut], raw.key_starts[cut], raw.key_ends[cut])
        return replace(
            self,
            units=units,
            frame=self.frame.slice(first, count),
            meta=self.meta[first : first + count],
            raw=raw,
            records=self.records[start:stop],
            future=future,
            unknown=unknown,
        )


def joined_units(parts: Sequence[Units]) -> Units:
    """Consecutive units of one channel as one, with as much of their buffers as holds the records."""
    if len(parts) == 1:
        return parts[0]
    units: list[Int64s] = []
    reasons: list[str] = []
    row, size = 0, 0
    records: list[Int64s] = []
    pieces: list[Bytes] = []
    raws: list[Raw] = []
    for part in parts:
        moved = part.units.copy()
        moved[moved[:, KIND] == ROW, INDEX] += row
        moved[moved[:, KIND] == BAD, INDEX] += len(reasons)
        units.append(moved)
        reasons.extend(part.reasons)
        row += part.frame.height
        # A slice of a block shares all of its buffer, in which values and keys may lie apart.
        values, keys = _span(part.records[:, :2]), _span(part.records[:, 2:])
        if keys[0] < values[1] and values[0] < keys[1]:
            values = keys = (min(values[0], keys[0]), max(values[1], keys[1]))
        pieces.append(part.buffer[values[0] : values[1]])
        shifts = np.array([size - values[0]] * 2 + [size - keys[0]] * 2, np.int64)
        if keys != values:
            shifts[2:] += pieces[-1].size
            size += pieces[-1].size
            pieces.append(part.buffer[keys[0] : keys[1]])
        size += pieces[-1].size
        records.append(np.where(part.records < 0, -1, part.records + shifts))
        if part.raw is not None:
            bounds = (part.raw.starts, part.raw.ends, part.raw.key_starts, part.raw.key_ends)
            raws.append(
                Raw(part.buffer, *(np.where(at < 0, -1, at + by) for at, by in zip(bounds, shifts, strict=True)))
            )
    buffer = np.concatenate(pieces)
    raw = None
    if len(raws) == len(parts):
        raw = Raw(
            buffer,
            np.concatenate([r.starts for r in raws]),
            np.concatenate([r.ends for r in raws]),
            np.concatenate([r.key_starts for r in raws]),
            np.concatenate([r.key_ends for r in raws]),
        )
    return Units(
        np.concatenate(units),
        pl.concat([part.frame for part in parts], rechunk=True),
        np.concatenate([part.meta for part in parts]),
        raw,
        buffer,
        np.concatenate(records),
        tuple(reasons),
        np.concatenate([part.future for part in parts]),
        np.concatenate([part.unknown for part in parts]),
    )


def _span(bounds: Int64s) -> tuple[int, int]:
    """Where in a buffer the first of these cells begins and the last one ends; (0, 0) where all are null."""
    high = int(bounds.max(initial=0))
    return (int(bounds.min(initial=high, where=bounds >= 0)), high) if high > 0 else (0, 0)


def no_units() -> Units:
    """Nothing of a channel."""
    return _NO_UNITS


_NO_UNITS: Final = Units(
    np.empty((0, UNIT_WIDTH), np.int64),
    pl.DataFrame(),
    np.empty((0, WIDTH), np.int64),
    None,
    np.empty(0, np.uint8),
    np.empty((0, 4), np.int64),
)
