"""Features of a key when somebody asks, each computed at every row or only when it is read, whichever costs less.

A `FeatureTable` reads what a topology computed at every row. Where rows are many and reads few, nearly all of that is
for nothing. `ServedFeatures` follows the rows from which the features are made, keeps those that can still be seen, and
computes with the same operator as the topology: some features as rows come, others from the kept rows of a key when it
is read. `two_ways` says which, from what both ways cost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.batch import C0, C1, EVENT_TIME, ROW, WATERMARK, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.registry import Registry
from streamproc.engine.intake import event_times
from streamproc.errors import InputError, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import MIN_TIME, Span, span_us
from streamproc.feature.operator import Features
from streamproc.graph import Step
from streamproc.keys import keys_of
from streamproc.operator import StreamType
from streamproc.ports import Log
from streamproc.runtime.feature_table import UNKNOWN, Answer
from streamproc.runtime.kept_rows import Key
from streamproc.runtime.reading import TopicReader
from streamproc.runtime.served_parts import ServedParts, explained, served_parts
from streamproc.runtime.topic_tail import TopicTail, now_us
from streamproc.runtime.two_ways import ON_DEMAND, PRECOMPUTED

_OWN: Final = ("_partition", "_offset")
AUTO: Final = "auto"
WAYS: Final = (AUTO, PRECOMPUTED, ON_DEMAND)


@dataclass(slots=True)
class ServedFeatures:
    """Features of the newest row of each key of a topic, computed at every row or on demand, by what each costs.

    topic     rows before `features`, in the order in which it would see them: what a sink of the stream above it wrote,
              with all rows of a key in one partition
    features  the step: `sp.features(...)`, the same object that the topology has
    key       columns that say whose row it is: those of the topology's `key_by`
    at        the column of event time
    lateness  how far a row may lie behind the greatest event time of its partition; one further behind is left out.
              Below `ordered` none does; over a source's own topic it is that source's
    deletes   a column that is true on rows that delete their key, as `deleted` of `sp.table`: then nothing is known of
              the key, until its next row
    way       "precomputed" or "on demand" for all features; "auto": for each by its costs, see `explain`
    clock, fresh, reads, hits  as in `FeatureTable`; a hit is a read for which nothing had to be computed

    `refresh` takes in what the log has got since; `read` gives what the row would carry behind the step, bit for bit,
    whichever way. `first` and `last` of rows of one moment go by their place in this topic. Features with a hop, of
    `.ever()`, and the least and greatest text are always precomputed, since what they are made of is not kept.

    Memory: the newest row of each key, and as long as later rows look back on them 100 bytes a row and the columns
    under the features, at most two longest spans of them; for what is precomputed its operator's state.
    Cost: see `streamproc.runtime.two_ways`.
    Raises UnknownTopic, InputError, and at the first row UnknownColumn, TypeMismatch or DefinitionError. Where a
    refresh raised, make a new one: it stopped in the middle of a block.
    """

    topic: str
    features: Step
    log: Log
    registry: Registry
    key: tuple[str, ...]
    at: str
    clock: Callable[[], int] = now_us
    fresh: Span | None = None
    lateness: Span = "0s"
    deletes: str = ""
    way: str = AUTO
    reads: int = 0
    hits: int = 0
    late: int = 0
    _operator: Features = field(init=False)
    _tail: TopicTail = field(init=False)
    _reader: TopicReader = field(init=False)
    _lateness_us: int = field(init=False)
    _highest: list[int] = field(init=False)
    _parts: ServedParts | None = None
    _newest: dict[Key, tuple[int, int, int, tuple[str, ...], tuple[Any, ...]]] = field(default_factory=dict)
    _whole: dict[Key, tuple[int, Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.features.operator, Features):
            raise InputError(
                f"'{self.topic}' is served with the step '{self.features.operator.verb}'",
                hint="give the step that computes features: sp.features(...)",
            )
        if not self.key:
            raise InputError(f"features of '{self.topic}' need a key", hint="name the columns that say whose row it is")
        if self.way not in WAYS:
            raise InputError(f"way='{self.way}' is none", hint=f"use one of {', '.join(WAYS)}")
        self._operator = self.features.operator
        self._tail = TopicTail(self.topic, self.log, self.clock, self.fresh)
        self._reader = TopicReader(self.registry)
        self._lateness_us = span_us(self.lateness)
        self._highest = [MIN_TIME + self._lateness_us] * self._tail.partitions

    def __len__(self) -> int:
        return len(self._newest)

    def refresh(self) -> int:
        """Takes in what is committed by now; gives how many records that were."""
        taken = 0
        for block in self._tail.blocks():
            taken += len(block)
            for frame in self._reader.frames(block):
                self._take(block.partition, frame)
        return taken

    def _take(self, partition: int, frame: pl.DataFrame) -> None:
        parts = self._fitting(frame)
        times = event_times(frame[self.at])
        if times.null_count():
            there = times.is_not_null()
            self.late += times.null_count()
            frame, times = frame.filter(there), times.filter(there)
        moments = times.to_numpy()
        highest = np.maximum.accumulate(np.concatenate(([self._highest[partition]], moments)))[1:]
        in_time = moments >= highest - self._lateness_us
        if not in_time.all():
            self.late += int((~in_time).sum())
            frame, moments, highest = frame.filter(pl.Series(in_time)), moments[in_time], highest[in_time]
        if not frame.height:
            return
        self._highest[partition] = int(highest[-1])
        meta = np.zeros((frame.height, WIDTH), np.int64)
        meta[:, EVENT_TIME], meta[:, WATERMARK] = moments, highest - self._lateness_us
        meta[:, ROW] = 2 * np.arange(frame.height) + 1
        meta[:, C0], meta[:, C1] = partition, frame["_offset"].to_numpy()
        newest = frame.with_row_index("_row").unique(self.key, keep="last", maintain_order=True)["_row"].to_numpy()
        keys = frame.select(self.key)
        named = keys[newest].rows()
        shown = frame.drop(_OWN)
        self._newest.update(zip(named, zip(
            repeat(partition), meta[newest, C1].tolist(), meta[newest, EVENT_TIME].tolist(),
            repeat(tuple(shown.columns)), shown[newest].rows(),
        ), strict=False))  # fmt: skip
        under = frame.select(parts.type.schema.names)
        parts.take(partition, Batch(under, meta, keys_of(frame, self.key)), keys, newest, named)

    def _fitting(self, frame: pl.DataFrame) -> ServedParts:
        """The parts of the features, once the columns of the topic are known."""
        known = [column for column in frame.columns if column not in _OWN]
        wanted = [*self.key, self.at, *([self.deletes] if self.deletes else [])]
        if self._parts is None:
            schema = Schema(tuple(Field(name, dtype, True) for name, dtype in frame.select(known).schema.items()))
            kind = StreamType(schema, self.key, ordered=True)
            self._check(frame, wanted, known)
            self._parts = served_parts(self._operator, kind, self._tail.partitions, self.way)
        under = self._parts.type.schema
        self._check(frame, [*wanted, *under.names], known)
        for column in under:
            if frame.schema[column.name] != column.dtype:
                raise TypeMismatch(
                    f"'{column.name}' of '{self.topic}' was {column.dtype}, and is {frame.schema[column.name]} now",
                    hint="bring both to one type before the sink that writes the topic",
                )
        return self._parts

    def _check(self, frame: pl.DataFrame, wanted: Sequence[str], known: list[str]) -> None:
        for name in wanted:
            if name not in frame.columns:
                raise UnknownColumn(f"'{self.topic}' has no column '{name}'", hint=did_you_mean(name, known))

    def read(self, *key: Any, features: Collection[str] | None = None) -> Answer:
        """What is known of a key, given as the values of the key columns.

        features  names of those that are wanted, all by default; what is left out is neither computed nor counted as
                  read. The columns of the row itself are there in any case.
        """
        now = self.clock()
        self.reads += 1
        due = self._tail.is_due(now)
        if due:
            self.refresh()
        newest = self._newest.get(key)
        if newest is None or self._parts is None:
            self.hits += not due
            return UNKNOWN
        partition, offset, moment, names, values = newest
        whole = self._whole.get(key)
        if features is None and whole is not None and whole[0] == offset:
            self.hits += not due
            return Answer(whole[1], moment, now - moment)
        row = dict(zip(names, values, strict=True))
        if self.deletes and row.pop(self.deletes):
            self.hits += not due
            return UNKNOWN
        names = tuple(dict(self._operator.made)) if features is None else tuple(features)
        made, known = self._parts.values(key, partition, offset, names)
        self.hits += known and not due
        answer = row | made
        if features is None:
            self._whole[key] = offset, answer
        return Answer(answer, moment, now - moment)

    @property
    def hit_ratio(self) -> float:
        """The share of reads that were answered from memory alone; 1 before the first."""
        return self.hits / self.reads if self.reads else 1.0

    def explain(self) -> pl.DataFrame:
        """How each feature is computed, and what it costs, in the order of the definition.

        Nothing is known before the first row of the topic.

        feature, way  its name; "precomputed" or "on demand"
        goes_with     the first of the features that share its way, as they are derived from each other
        precomputed, on_demand  what it would have cost so far had it gone one way only, in the units of `two_ways`;
                      on_demand is null where there is no choice
        spent         what it did cost, with changes
        best          the less of the two: the best way in hindsight of those that never change
        changes       how often it changed over
        """
        return explained(() if self._parts is None else self._parts.parts, tuple(dict(self._operator.made)))
