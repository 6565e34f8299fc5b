"""From blocks of the log to units: what a task reads of one channel, decoded, before any order or state.

All of it is a function of the block alone, so a worker may decode ahead, and a replay decodes to the same units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.batch import C0, C1, EVENT_TIME, OUTSIDE, WATERMARK, WIDTH, Meta, Raw
from streamproc.batch import LATE as ROW_LATE
from streamproc.contracts.model import Schema
from streamproc.engine.edges import CARRIED, read_edge
from streamproc.engine.timeline import MARK, ROW
from streamproc.engine.tombstones import Deletes, deletes_of
from streamproc.engine.units import ADVANCE, DIGEST, INDEX, KIND, LATE, OFFSET, ORDINAL, STAMP, TIME, UNIT_WIDTH, Units
from streamproc.errors import CorruptLog
from streamproc.event_time import MAX_TIME, MIN_TIME
from streamproc.graph import Source
from streamproc.hashing import frozen, record_hashes
from streamproc.kernels import kernel
from streamproc.planning.carried import carriage
from streamproc.planning.plan import StageInput
from streamproc.ports import Block, Int64s
from streamproc.wire import Decoder, Reader
from streamproc.wire.opcodes import UNKNOWN_SCHEMA

NOBODY: Final = np.empty(0, np.int64)
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class SourceIntake:
    """Reads the partitions of one source topic."""

    def __init__(self, inlet: StageInput, lookup: Callable[[int], Mapping[str, object] | None]) -> None:
        node = inlet.source
        if node is None or not isinstance(node.origin, Source) or node.contract is None:
            raise TypeError(f"'{inlet.name}' is no source")
        self._source = node.origin
        self._rank = node.rank
        self._wanted = [name for name in node.type.schema.names if name in node.columns]
        read = [name for name in self._wanted if name in node.contract.schema]
        self._reader = Reader(node.contract.avro, lookup, columns=read)
        self._key = node.contract.key
        # What tells deletes is no field of the contract, or tells them too where a record has a value.
        deletes = node.type.schema.deletes if self._source.table else ""
        self._deletes = deletes if deletes in self._wanted else ""
        self._read = Schema(tuple(node.type.schema[name] for name in read))

    @property
    def max_future_skew_us(self) -> int:
        """How far a moment may lie ahead of the one that it is held against."""
        return self._source.max_future_skew_us

    def units(self, block: Block, future: Int64s | None = None, unknown: Int64s | None = None) -> Units:
        """The block's records as units: rows, and records that could not be read, with the reason.

        future   offsets of records that a clock found to be from the future, ascending
        unknown  offsets of records whose schema was unknown when they were read first; None: they are read now

        A record without event time is bad; so is one stamped further in the future than its record's own timestamp plus
        the allowed skew, and one from before the beginning of time: they must never move time.
        """
        n = len(block)
        foreign = None if unknown is None else np.flatnonzero(np.isin(block.offsets, unknown))
        decoded = self._reader.decode(block.buffer, block.value_starts, block.value_ends, unknown=foreign)
        digests = record_hashes(block.buffer, block.key_starts, block.key_ends, block.value_starts, block.value_ends)
        rows = decoded.rows
        nobodys = block.offsets[decoded.bad[decoded.reasons == UNKNOWN_SCHEMA]] if decoded.bad.size else NOBODY
        reasons: list[str] = []
        bad_reason = np.full(n, -1, np.int64)
        bad_reason[decoded.bad] = np.arange(decoded.bad.size)
        reasons.extend(why for _, why in decoded.why())
        for row, why in block.unreadable:
            bad_reason[row] = len(reasons)
            reasons.append(f"unreadable: {why}")
        frame = decoded.frame
        times = event_times(frame[self._source.event_time])
        missing = times.is_null().to_numpy() if times.null_count() else None
        event_time = (times if missing is None else times.fill_null(0)).to_numpy()
        resting = NOBODY
        if self._source.table:
            deletes = deletes_of(block, self._read, self._key, self._source.event_time)
            frame, rows, event_time, missing = self._with_deletes(frame, rows, event_time, missing, deletes)
            resting = deletes.rows[~deletes.own]
        # Lateness is subtracted from event time, and spans are added: neither may leave 64 bits.
        stamps = block.timestamps if rows.size == n else block.timestamps[rows]
        wrong = _wrong_times(
            frozen(event_time), frozen(stamps), self._source.max_future_skew_us, MIN_TIME + self._source.lateness_us
        )
        judged = NOBODY if future is None or not future.size else future[np.isin(future, block.offsets)]
        if judged.size:
            wrong[np.isin(block.offsets[rows], judged)] = _FUTURE
        if missing is not None:
            wrong[missing] = _MISSING
        if wrong.any():
            for row in np.flatnonzero(wrong).tolist():
                bad_reason[rows[row]] = len(reasons)
                reasons.append(_WRONG[wrong[row]])
            keep = np.flatnonzero(wrong == 0)
            rows, event_time, frame = rows[keep], event_time[keep], frame[keep]
        units, meta = _source_units(
            frozen(rows),
            frozen(event_time),
            frozen(bad_reason),
            frozen(block.offsets),
            frozen(block.timestamps),
            frozen(digests.view(np.int64)),
            self._source.lateness_us,
            (self._rank << 32) | block.partition,
        )
        units[resting, ADVANCE] = MIN_TIME
        if self._source.feedback:
            units[:, ADVANCE], units[units[:, KIND] == ROW, LATE] = MIN_TIME, OUTSIDE
        bounds = (block.value_starts, block.value_ends, block.key_starts, block.key_ends)
        records = np.stack(bounds, axis=1)
        raw = Raw(block.buffer, *(bounds if rows.size == n else (bound[rows] for bound in bounds)))
        frame = frame if frame.columns == self._wanted else frame[self._wanted]
        told = tuple(reasons)
        return Units(units, frame, meta, raw, block.buffer, records, told, future=judged, unknown=nobodys)

    def _with_deletes(
        self, frame: pl.DataFrame, rows: Int64s, event_time: Int64s, missing: Mask | None, deletes: Deletes
    ) -> tuple[pl.DataFrame, Int64s, Int64s, Mask | None]:
        """Rows with a value and deletes in the order of their records."""
        n, m = rows.size, deletes.rows.size
        if self._deletes:
            told = pl.Series(self._deletes, [False]).new_from_index(0, n)
            # A record that has a value may still say that it deletes its key.
            told = frame.get_column(self._deletes) if self._deletes in frame.columns else told
            frame = frame.with_columns(told)
        if not m:
            return frame, rows, event_time, missing
        gone = deletes.frame
        if self._deletes:
            gone = gone.with_columns(pl.Series(self._deletes, [True]).new_from_index(0, m))
        order = np.argsort(np.concatenate([rows, deletes.rows]), kind="stable")
        both = pl.concat([frame, gone.select(frame.columns)], rechunk=True)[order]
        if missing is not None:
            missing = np.concatenate([missing, np.zeros(m, np.bool_)])[order]
        joined = np.concatenate([event_time, deletes.times])[order]
        return both, np.concatenate([rows, deletes.rows])[order], joined, missing


_MISSING, _FUTURE, _PAST = 1, 2, 3
_WRONG: Final = ("", "no event time", "future", "past")


@kernel
def _wrong_times(event_time: Int64s, stamps: Int64s, skew: int, least: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Per row 0, or why its event time is none: beyond its record's timestamp plus the skew, or below the least."""
    out = np.zeros(event_time.size, np.uint8)
    for row in range(event_time.size):
        if event_time[row] > stamps[row] + skew:
            out[row] = _FUTURE
        elif event_time[row] < least:
            out[row] = _PAST
    return out


@kernel
def _source_units(
    rows: Int64s,
    event_time: Int64s,
    reason: Int64s,
    offsets: Int64s,
    stamps: Int64s,
    digests: Int64s,
    lateness: int,
    place: int,
) -> tuple[Int64s, Meta]:
    """The units of a block's records and the meta matrix of its rows, in one pass.

    rows, event_time  int64[k]: records that gave a row, ascending; reason int64[n]: why the others gave none
    """
    n = offsets.size
    units = np.zeros((n, UNIT_WIDTH), np.int64)
    meta = np.zeros((rows.size, WIDTH), np.int64)
    row = 0
    for i in range(n):
        units[i, OFFSET] = offsets[i]
        units[i, DIGEST] = digests[i]
        units[i, STAMP] = stamps[i]
        if row < rows.size and rows[row] == i:
            units[i, KIND] = ROW
            units[i, TIME] = event_time[row]
            units[i, ADVANCE] = event_time[row] - lateness
            units[i, INDEX] = row
            meta[row, EVENT_TIME] = event_time[row]
            meta[row, C0] = place
            meta[row, C1] = offsets[i]
            row += 1
        else:
            units[i, ADVANCE] = MIN_TIME
            units[i, INDEX] = reason[i]
    return units, meta


class EdgeIntake:
    """Reads the partitions of one internal topic."""

    def __init__(self, inlet: StageInput) -> None:
        self._outside = inlet.outside
        self._carriage = carriage(inlet.type.schema)
        self._decoder = Decoder(self._carriage.avro)

    def units(self, block: Block, future: Int64s | None = None) -> Units:
        """The records' rows as units, each record followed by the mark of its sender's watermark."""
        if block.unreadable:
            row, why = block.unreadable[0]
            raise CorruptLog(
                f"{block.topic}-{block.partition}@{int(block.offsets[row])} cannot be read: {why}",
                hint="restore the topic from a copy: internal topics are written by streamproc alone",
            )
        rows, marks, flags, carried, record, starts, ends = read_edge(block)
        decoded = self._decoder.decode(block.buffer, starts, ends)
        if decoded.bad.size:
            where = int(block.offsets[record[decoded.bad[0]]])
            raise CorruptLog(
                f"a row of {block.topic}-{block.partition}@{where} cannot be read: {decoded.why()[0][1]}",
                hint="run 'streamproc verify'; if the log is sound, the reader's build differs from the writer's",
            )
        k, r = carried.shape[0], len(block)
        units = np.zeros((k + r, UNIT_WIDTH), np.int64)
        at_row = np.arange(k) + record
        at_mark = np.cumsum(rows) + np.arange(r)
        first = at_mark - rows
        units[:, OFFSET] = np.repeat(block.offsets, rows + 1)
        units[:, STAMP] = np.repeat(block.timestamps, rows + 1)
        units[:, ORDINAL] = np.arange(k + r) - np.repeat(first, rows + 1)
        units[first, DIGEST] = record_hashes(
            block.buffer, block.key_starts, block.key_ends, block.value_starts, block.value_ends
        ).view(np.int64)
        units[at_row, KIND] = ROW
        units[at_row, TIME] = carried[:, 0]
        # What is outside the watermark says by its event time only where it goes among the rows of other channels.
        units[at_row, ADVANCE] = carried[:, 0] if self._outside else carried[:, 1]
        units[at_row, LATE] = carried[:, 2]
        units[at_row, INDEX] = np.arange(k)
        units[at_mark, KIND] = MARK
        units[at_mark, ADVANCE] = marks
        units[at_mark, INDEX] = -1
        units[at_mark, LATE] = flags
        meta = np.zeros((k, WIDTH), np.int64)
        meta[:, CARRIED] = carried
        meta[:, WATERMARK] = carried[:, 1]
        meta[:, ROW_LATE] = carried[:, 2]
        records = np.full((k + r, 4), -1, np.int64)
        return Units(units, self._carriage.unpacked(decoded.frame), meta, None, block.buffer, records)


Intake = SourceIntake | EdgeIntake


def event_times(column: pl.Series) -> pl.Series:
    """Event time in µs since 1970 UTC, from a timestamp of any unit, a date, or an integer of µs.

    Moments beyond the ends of time become the ends, so that none wraps around to another one.

    >>> event_times(pl.Series([1], dtype=pl.Datetime("ms", "UTC"))).to_list()
    [1000]
    """
    match column.dtype:
        case pl.Datetime(time_unit="ms"):
            factor = 1_000
        case pl.Datetime(time_unit="ns"):
            return column.to_physical() // 1_000
        case pl.Date():
            factor = 86_400_000_000
        case _:
            factor = 1
    moments = column.to_physical().cast(pl.Int64)
    least, most = MIN_TIME // factor, MAX_TIME // factor
    # Nearly always all moments are inside: to ask costs less than to make another column.
    if int(moments.min() or 0) < least or int(moments.max() or 0) > most:  # type: ignore[arg-type]  # of integers
        moments = moments.clip(least, most)
    return moments if factor == 1 else moments * factor
