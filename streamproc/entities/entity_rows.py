"""What the kernels made known, as rows of a stream."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from streamproc.entities.entity_ids import id_text, id_texts
from streamproc.entities.few_rows import FEW
from streamproc.entities.interning import texts, texts_of_keys
from streamproc.entities.linkage_model import Floats
from streamproc.entities.stored_columns import raw_values
from streamproc.entities.tables import Int32s, Tables
from streamproc.entities.telling import (
    CLAIM,
    CORRECTED,
    COUNT,
    EVENTS,
    FROM,
    GENERATION,
    GOLD,
    KIND,
    MATCHED,
    OP,
    OTHER,
    OTHER_GENERATION,
    REASON,
    REASONS,
    SIZE,
    SUBJECT,
)
from streamproc.ports import Int64s

_arrow: Any = pa
EVENT: Final = pl.Enum(EVENTS)
REASON_TYPE: Final = pl.Enum(REASONS)


_EVENTS: Final = pl.Series("event", EVENTS, dtype=EVENT)
_REASONS: Final = pl.Series("reason", REASONS, dtype=REASON_TYPE)


def event_columns(tables: Tables, events: Int64s, weights: Floats, moved: Int32s, seed: int) -> dict[str, pl.Series]:
    """The columns that `resolve` makes, one row an event."""
    if events.shape[0] <= FEW:
        return _columns_of_few(tables, events, weights, moved, seed)
    record_texts, offsets = _records(tables, events, moved)
    with np.errstate(over="ignore"):
        posterior = 1.0 / (1.0 + np.exp2(-weights))
    known = ~np.isnan(weights)
    return {
        "event": _picked(_EVENTS, events[:, KIND]),
        "reason": _picked(_REASONS, events[:, REASON]),
        "entity_id": id_texts(tables, events[:, CLAIM], events[:, GENERATION], seed),
        "other_id": id_texts(tables, events[:, OTHER], events[:, OTHER_GENERATION], seed),
        "records": pl.Series(
            "records", _arrow.LargeListArray.from_arrays(_arrow.array(offsets), record_texts.to_arrow()),
            dtype=pl.List(pl.String),
        ),
        "matched": texts_of_keys(tables.keys, events[:, MATCHED]),
        "weight": _where(known, weights),
        "posterior": _where(known, posterior),
        "size": pl.Series(events[:, SIZE]),
    }  # fmt: skip


def _columns_of_few(
    tables: Tables, events: Int64s, weights: Floats, moved: Int32s, seed: int
) -> dict[str, pl.Series]:
    """As `event_columns`, event by event."""
    rows = events.tolist()
    named = [moved[row[FROM] : row[FROM] + row[COUNT]].tolist() or [row[SUBJECT]] * (row[SUBJECT] >= 0) for row in rows]
    text = pl.String()
    with np.errstate(over="ignore"):
        posterior = 1.0 / (1.0 + np.exp2(-weights))
    known = ~np.isnan(weights)
    ids = [id_text(tables, row[CLAIM], row[GENERATION], seed) for row in rows]
    others = [id_text(tables, row[OTHER], row[OTHER_GENERATION], seed) for row in rows]
    return {
        "event": _picked(_EVENTS, events[:, KIND]),
        "reason": _picked(_REASONS, events[:, REASON]),
        "entity_id": pl.Series(ids, dtype=text),
        "other_id": pl.Series(others, dtype=text),
        "records": pl.Series([[_key(tables, slot) for slot in slots] for slots in named], dtype=pl.List(text)),
        "matched": pl.Series([_key(tables, row[MATCHED]) for row in rows], dtype=text),
        "weight": _where(known, weights),
        "posterior": _where(known, posterior),
        "size": pl.Series(events[:, SIZE]),
    }


def _key(tables: Tables, slot: int) -> str | None:
    return None if slot < 0 else tables.keys.key(slot).decode()


def _picked(names: pl.Series, codes: Int64s) -> pl.Series:
    # A slice is cheaper than taking by index.
    return names.slice(int(codes[0]), 1) if codes.size == 1 else names[pl.Series(codes)]


def _where(known: npt.NDArray[np.bool_], numbers: Floats) -> pl.Series:
    """Numbers, null elsewhere."""
    if known.all():
        return pl.Series(numbers)
    nothing = pl.Series([None], dtype=pl.Float64)
    return pl.Series(numbers).zip_with(pl.Series(known), nothing)


def _records(tables: Tables, events: Int64s, moved: Int32s) -> tuple[pl.Series, Int64s]:
    """The records that each event speaks of: those that moved, else the one that came."""
    counts = events[:, COUNT]
    alone = (counts == 0) & (events[:, SUBJECT] >= 0)
    sizes = counts + alone
    offsets = np.zeros(sizes.size + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    slots = np.empty(int(offsets[-1]), np.int64)
    slots[offsets[:-1][alone]] = events[alone, SUBJECT]
    several = np.flatnonzero(counts)
    places = np.arange(int(counts[several].sum())) - np.repeat(
        np.cumsum(counts[several]) - counts[several], counts[several]
    )
    slots[np.repeat(offsets[several], counts[several]) + places] = moved[
        np.repeat(events[several, FROM], counts[several]) + places
    ]
    return texts_of_keys(tables.keys, slots), offsets


def golden_columns(
    tables: Tables, events: Int64s, golden: Int32s, fields: tuple[tuple[str, str], ...], schema: pl.Schema
) -> dict[str, pl.Series]:
    """Per field of the golden record its value and the record that it comes from; null on other events."""
    out: dict[str, pl.Series] = {}
    row = events[:, GOLD]
    for number, (name, _) in enumerate(fields):
        for side, made in ((0, f"golden_{name}"), (1, f"golden_{name}_from")):
            slots = np.full(row.size, -1, np.int64)
            slots[row >= 0] = golden[row[row >= 0], number + side * len(fields)]
            if side == 0:
                out[made] = raw_values(texts(tables.kept, slots), schema[name])
            else:
                out[made] = texts_of_keys(tables.keys, slots)
    return out


def passing_rows(frame: pl.DataFrame, events: Int64s, row_of: Int64s) -> pl.DataFrame:
    """Per event the row of the input that it carries on, or nulls: a record's own event alone carries its columns."""
    if not frame.height:
        return frame.clear(events.shape[0])
    rows = row_of[events[:, OP]]
    own = (events[:, KIND] <= CORRECTED) & (rows >= 0)
    if rows.size == frame.height and own.all() and (rows == np.arange(rows.size)).all():
        return frame
    return frame[pl.Series(rows).zip_with(pl.Series(own), pl.Series([None], dtype=pl.Int64))]


def ordinals(ops: Int64s) -> Int64s:
    """Which of the rows of its operation each one is; rows of one operation stand together."""
    if ops.size == 1:
        return np.zeros(1, np.int64)
    first = np.flatnonzero(np.concatenate(([True], ops[1:] != ops[:-1]))) if ops.size else np.empty(0, np.int64)
    counts = np.diff(np.append(first, ops.size))
    return np.arange(ops.size, dtype=np.int64) - np.repeat(first, counts)
