"""Reading features: the newest row of each key from a table in memory, or as of a past moment from a history.

A topic that a sink writes with `latest=True` is a table: of each key the newest record stays. `FeatureTable` keeps it
as a dict, so a read costs a look-up: no log, no decoding. A history (the topic of a sink that keeps everything, or the
Parquet file that a replay wrote) answers what was known at a past moment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.contracts.registry import Registry
from streamproc.engine.intake import event_times
from streamproc.errors import InputError, UnknownColumn, UnknownTopic, did_you_mean
from streamproc.event_time import Span, instant_us
from streamproc.ports import Block, Log, TopicPartition
from streamproc.runtime.reading import TopicReader, read_topic
from streamproc.runtime.topic_tail import TopicTail, now_us
from streamproc.runtime.workspace import workspace_of

_OWN: Final = ("_partition", "_offset")
AS_OF: Final = "_as_of"
AGE: Final = "_age_us"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a key.

    row     its features by name; empty for a key that is not known
    as_of   µs: the event time of the row, None for a key that is not known
    age_us  how old that is now
    """

    row: Mapping[str, Any]
    as_of: int | None
    age_us: int | None


UNKNOWN: Final = Answer({}, None, None)
"""Of a key that is not known."""


@dataclass(slots=True)
class FeatureTable:
    """The newest row of each key of a topic, for reading features while events happen.

    topic  what a sink writes, best one with latest=True
    key    columns that say whose row it is
    at     the column of event time
    clock  what age is measured against, µs
    fresh  a read refreshes first if the last refresh is longer ago than this, so that an answer lacks nothing that was
           committed longer ago; None: only you refresh
    reads, hits  how many reads there were, and how many of them were answered from memory alone

    `refresh` takes in what the log has got since; `read` answers from memory, in microseconds. Of several rows of a key
    the one with the greatest offset counts; a record without a value deletes its key. Memory: one row a key.
    Raises UnknownTopic, and UnknownColumn at the first row that lacks a key column or `at`.
    """

    topic: str
    log: Log
    registry: Registry
    key: tuple[str, ...]
    at: str
    clock: Callable[[], int] = now_us
    fresh: Span | None = None
    reads: int = 0
    hits: int = 0
    _rows: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = field(default_factory=dict)
    _named: dict[bytes, tuple[Any, ...]] = field(default_factory=dict)
    _tail: TopicTail = field(init=False)
    _reader: TopicReader = field(init=False)

    def __post_init__(self) -> None:
        if not self.key:
            raise InputError(f"a table of '{self.topic}' needs a key", hint="name the columns that say whose row it is")
        self._tail = TopicTail(self.topic, self.log, self.clock, self.fresh)
        self._reader = TopicReader(self.registry)

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self) -> int:
        """Takes in what is committed by now; gives how many records that were."""
        taken = 0
        for block in self._tail.blocks():
            taken += len(block)
            self._take(block)
        return taken

    def _take(self, block: Block) -> None:
        start = 0
        for gone in [*np.flatnonzero(block.value_starts < 0).tolist(), len(block)]:
            if gone > start:
                self._put(block.slice(start, gone))
            if gone < len(block) and (name := block.key(gone)) is not None:
                key = self._named.pop(name, None)
                if key is not None:
                    self._rows.pop(key, None)
            start = gone + 1

    def _put(self, block: Block) -> None:
        for frame in self._reader.frames(block):
            for name in (*self.key, self.at):
                if name not in frame.columns:
                    known = [column for column in frame.columns if column not in _OWN]
                    raise UnknownColumn(f"'{self.topic}' has no column '{name}'", hint=did_you_mean(name, known))
            newest = frame.unique(self.key, keep="last", maintain_order=True)
            moments = event_times(newest[self.at]).to_list()
            values = newest.drop(_OWN)
            columns = [values.columns.index(name) for name in self.key]
            rows = np.searchsorted(block.offsets, newest["_offset"].to_numpy())
            for row, moment, place in zip(values.rows(), moments, rows.tolist(), strict=True):
                key = tuple(row[column] for column in columns)
                self._rows[key] = moment, dict(zip(values.columns, row, strict=True))
                named = block.key(place)
                if named is not None:
                    self._named[named] = key

    def read(self, *key: Any) -> Answer:
        """What is known of a key, given as the values of the key columns."""
        now = self.clock()
        self.reads += 1
        if self._tail.is_due(now):
            self.refresh()
        else:
            self.hits += 1
        known = self._rows.get(key)
        if known is None:
            return UNKNOWN
        return Answer(known[1], known[0], now - known[0])

    @property
    def hit_ratio(self) -> float:
        """The share of reads that were answered from memory alone; 1 before the first."""
        return self.hits / self.reads if self.reads else 1.0


def read_features(
    source: str | Path,
    keys: pl.DataFrame | Mapping[str, Iterable[Any]],
    *,
    at: str,
    as_of: str | None = None,
    bind: str | Path | None = None,
    log: Log | None = None,
    registry: Registry | None = None,
    clock: Callable[[], int] = now_us,
) -> pl.DataFrame:
    """The newest row of each key, or the newest at or before a past moment: one row a key, in the order of the keys.

    source  a topic of the log, or a Parquet file that a replay wrote
    keys    the key columns and their values: `{"customer_id": ["17850", "13047"]}`
    at      the column of event time
    as_of   ISO 8601; rows of later moments are not seen; of rows of one moment the last one counts
    bind    a binding file, as --bind names it: it says where the topic's log (or Kafka) and contracts are; by default
            ".streamproc/log.db" and "schemas_avro". Instead of it log and registry

    Beside the columns come `_as_of` (event time, µs) and `_age_us`, measured from `as_of`, else from the clock: both
    are null, as all is, for a key that is not known. Reads the whole history: for one key at a time while events happen
    use `FeatureTable`.
    Raises InputError for a source that cannot be read, UnknownColumn for a column that is not there.
    """
    wanted = keys if isinstance(keys, pl.DataFrame) else pl.DataFrame(dict(keys))
    rows = _history(source, bind, log, registry)
    for name in (*wanted.columns, at):
        if name not in rows.columns:
            raise UnknownColumn(f"'{source}' has no column '{name}'", hint=did_you_mean(name, rows.columns))
    moment = None if as_of is None else instant_us(as_of)
    rows = rows.with_columns(event_times(rows[at]).alias(AS_OF))
    if moment is not None:
        rows = rows.filter(pl.col(AS_OF) <= moment)
    newest = rows.sort(AS_OF, maintain_order=True).unique(wanted.columns, keep="last", maintain_order=True)
    newest = newest.drop(_OWN, strict=False)
    typed = wanted.select(pl.col(name).cast(newest.schema[name]) for name in wanted.columns)
    found = typed.join(newest, on=wanted.columns, how="left", nulls_equal=True, maintain_order="left")
    now = clock() if moment is None else moment
    return found.with_columns((now - pl.col(AS_OF)).alias(AGE))


def _history(source: str | Path, bind: str | Path | None, log: Log | None, registry: Registry | None) -> pl.DataFrame:
    path = Path(source)
    if path.suffix == ".parquet":
        if not path.exists():
            raise InputError(f"there is no file '{path}'", hint="streamproc replay ... --by-event-time --out FOLDER")
        return pl.read_parquet(path)
    if log is not None and registry is not None and bind is None:
        return _rows_of(str(source), log, registry)
    if log is not None or registry is not None:
        raise InputError(
            f"'{source}' is a topic, and it is not clear of which log", hint="bind=..., or both log= and registry="
        )
    with contextlib.ExitStack() as opened:
        workspace = workspace_of(None if bind is None else Path(bind))
        opened.callback(workspace.close)
        return _rows_of(str(source), opened.enter_context(workspace.log()), workspace.reading_registry())


def _rows_of(topic: str, log: Log, registry: Registry) -> pl.DataFrame:
    if topic not in log.topics():
        raise UnknownTopic(f"the log has no topic '{topic}'", hint=did_you_mean(topic, log.topics()))
    rows = read_topic(log, registry, topic)
    count = log.topics()[topic].partitions
    if rows.columns == [*_OWN] and any(log.end_offset(TopicPartition(topic, number)) for number in range(count)):
        raise InputError(
            f"the contracts do not say what a record of '{topic}' holds",
            hint="give bind=, which knows what runs derived beside the log, or a registry that has the sink's contract",
        )
    return rows
