"""The oracle of lineage: another run, in which one source column has other values.

What differs between the runs has that column among its causes, whatever anybody says of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

import streamproc as sp
from streamproc.contracts.registry import Registry
from streamproc.graph import Source
from streamproc.planning.lineage import SinkLineage, plan_lineage
from streamproc.runtime.binding import plan_topology
from streamproc.testing import drive

Frames = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Subject:
    """A topology with rows, its lineage, and what it gives.

    keeps  source columns that stay as they are
    """

    topology: sp.Topology
    frames: Frames
    registry: Registry
    partitions: int = 1
    keeps: frozenset[tuple[str, str]] = frozenset()

    @property
    def lineage(self) -> dict[str, SinkLineage]:
        return plan_lineage(plan_topology(self.topology, self.registry))

    def columns(self) -> Iterator[tuple[str, str]]:
        """Every source column that can have other values: all that are read, and of each source one that is not.

        Those of a record's key choose its partition, if there are several: that is its producer's doing.
        """
        for node in plan_topology(self.topology, self.registry).sources:
            assert isinstance(node.origin, Source) and node.contract is not None
            placing = node.contract.key if self.partitions > 1 else ()
            names = [name for name in node.contract.schema.names if name not in placing]
            unread = [name for name in names if name not in node.columns][:1]
            for name in names:
                if (name in node.columns or name in unread) and (node.origin.topic, name) not in self.keeps:
                    yield node.origin.topic, name

    def run(self, frames: Frames | None = None) -> dict[str, pl.DataFrame]:
        given = self.frames if frames is None else frames
        return dict(drive(self.topology, given, registry=self.registry, partitions=self.partitions))

    def changed(self, topic: str, column: str, seed: int) -> Frames:
        """The same rows, that column with other values."""
        frame = self.frames[topic]
        nullable = {
            (n.origin.topic, f.name): f.nullable
            for n in plan_topology(self.topology, self.registry).sources
            if isinstance(n.origin, Source) and n.contract is not None
            for f in n.contract.schema
        }
        made = other_values(frame[column], np.random.default_rng(seed), nullable=nullable[topic, column])
        return {**self.frames, topic: frame.with_columns(made)}


def other_values(values: pl.Series, random: np.random.Generator, *, nullable: bool) -> pl.Series:
    """Values of the same kind: those of other rows, numbers and times a little off, texts now and then new ones."""
    n = len(values)
    made = values.gather(random.integers(0, max(n, 1), n)) if n else values
    if made.dtype.is_float():
        made = made * pl.Series(random.uniform(0.5, 1.5, n))
    elif made.dtype == pl.String:
        new = pl.Series([f"{text}'" for text in made.to_list()], dtype=pl.String)
        made = new.zip_with(pl.Series(random.random(n) < 0.1) & made.is_not_null(), made)
    elif made.dtype.is_integer() or isinstance(made.dtype, pl.Datetime):
        off = pl.Series(random.integers(-2, 3, n))
        made = (made.cast(pl.Int64) + off).cast(values.dtype)
    if nullable:
        gone = pl.Series(random.random(n) < 0.15)
        made = pl.select(pl.when(~gone).then(made)).to_series().cast(values.dtype)
    return made.alias(values.name)


def differing(before: Mapping[str, pl.DataFrame], after: Mapping[str, pl.DataFrame]) -> set[tuple[str, str]]:
    """Columns of sinks that are not the same in both runs, row by row."""
    return {
        (sink, name)
        for sink, frame in before.items()
        for name in frame.columns
        if not frame[name].equals(after[sink][name], null_equal=True)
    }


Effect = tuple[str, str, str, str]
"""Sink, its column, source topic, its column."""


def effects(subject: Subject, seeds: range) -> set[Effect]:
    """Every column of a sink that is not the same where a source column has other values, in any of so many tries."""
    before = subject.run()
    return {
        (sink, name, topic, column)
        for topic, column in subject.columns()
        for seed in seeds
        for sink, name in differing(before, subject.run(subject.changed(topic, column, seed)))
    }


def unlisted(subject: Subject, found: set[Effect]) -> list[str]:
    """What the lineage leaves out."""
    lineage = subject.lineage
    return [
        f"{topic}.{column} changes {sink}.{name}"
        for sink, name, topic, column in sorted(found)
        if name in lineage[sink].columns and (topic, column) not in lineage[sink].origins(name)
    ]


def without_effect(subject: Subject, found: set[Effect]) -> set[Effect]:
    """Direct parts that the lineage names and that changed nothing."""
    can_change = set(subject.columns())
    named = {
        (sink, name, part.topic, part.column)
        for sink, told in subject.lineage.items()
        for name, parts in told.columns.items()
        for part in parts
        if part.direct and (part.topic, part.column) in can_change
    }
    return named - found
