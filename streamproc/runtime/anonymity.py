"""How well single persons are hidden in what a topology reads and writes: k-anonymity, counted.

Columns that say nothing of a person by themselves (`sp:pii` "quasi": a postcode, a date of birth) point at somebody
where few share all of their values. A topic is k-anonymous if each combination of such values that stands in it is
shared by at least k individuals. Records of one source may be so and the linked ones not, for linking brings the
columns of several sources beside each other.
Source: L. Sweeney, "k-anonymity: a model for protecting privacy", 2002.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from streamproc.contracts.model import Schema
from streamproc.contracts.registry import Registry
from streamproc.graph import Source
from streamproc.planning.plan import Plan
from streamproc.ports import Log
from streamproc.runtime.reading import TopicReader, read_blocks


@dataclass(frozen=True, slots=True)
class Anonymity:
    """What was counted of one topic.

    written      the topology writes the topic, after its links; else it reads it
    columns      the quasi-identifiers; individuals are told apart by the columns `by`, by nothing else than their rows
                 where there are none
    individuals  each counted once in each of its groups: who moved house stands in two
    groups       different combinations of values; null is a value
    k            individuals of the smallest group, 0 for a topic without rows
    exposed      individuals in groups of fewer than asked for
    """

    topic: str
    written: bool
    columns: tuple[str, ...]
    by: tuple[str, ...]
    rows: int
    individuals: int
    groups: int
    k: int
    exposed: int


def counted_anonymity(frame: pl.DataFrame, columns: Sequence[str], by: Sequence[str], least: int) -> tuple[int, ...]:
    """Individuals, groups, k, and individuals in groups of fewer than `least`.  Cost O(n).

    >>> seen = pl.DataFrame({"zip": ["1", "1", "1", "2"], "id": [7, 7, 8, 9]})
    >>> counted_anonymity(seen, ["zip"], ["id"], 2)
    (3, 2, 1, 1)
    """
    whose = frame.select([*columns, *by]).unique() if by else frame
    sizes = whose.group_by(columns).len()["len"]
    if not sizes.len():
        return 0, 0, 0, 0
    return int(sizes.sum()), sizes.len(), int(sizes.to_numpy().min()), int(sizes.filter(sizes < least).sum())


def topology_anonymity(plan: Plan, log: Log, registry: Registry, *, least: int) -> list[Anonymity]:
    """The topics that the topology reads and writes, as far as they have quasi-identifiers; sources first.

    A sink's are the columns that were made of a source's quasi-identifiers, whatever the plan calls them now: links
    raise their class.  Each by name.  Reads the topics whole; what is not there yet has no rows.
    """
    told: list[Anonymity] = []
    quasi: set[str] = set()
    origins = ((node, node.origin) for node in plan.sources if isinstance(node.origin, Source))
    for node, source in sorted(origins, key=lambda one: one[1].topic):
        schema = node.type.schema
        mine = [column.name for column in schema if column.pii == "quasi"]
        quasi.update(*(schema[name].origins for name in mine))
        if mine:
            by = [column.name for column in schema if column.pii == "pseudonym"]
            told.append(_of_topic(log, registry, source.topic, False, mine, by, least))
    for sink in plan.sinks:
        made = [column.name for column in sink.type.schema if column.origins & quasi]
        if made:
            key = sink.key or sink.type.keyed_by or ()
            by = _standing_for(sink.type.schema, key, made)
            told.append(_of_topic(log, registry, sink.topic, True, made, by, least))
    return told


def _standing_for(schema: Schema, key: Iterable[str], quasi: Sequence[str]) -> list[str]:
    """What tells the individuals of a sink apart: its key, else the columns that stand for a person by themselves."""
    whole = [name for name in key if name not in quasi]
    return whole or [column.name for column in schema if column.pii == "pseudonym" and column.name not in quasi]


def _of_topic(
    log: Log, registry: Registry, topic: str, written: bool, columns: Sequence[str], by: Sequence[str], least: int
) -> Anonymity:
    reader = TopicReader(registry)
    frames = [
        frame.select(*columns, *by)
        for block in read_blocks(log, topic)
        for frame in reader.frames(block)
        if {*columns, *by} <= {*frame.columns}
    ]
    frame = pl.concat(frames, how="vertical_relaxed") if frames else pl.DataFrame(schema=[*columns, *by])
    individuals, groups, k, exposed = counted_anonymity(frame, columns, by, least)
    return Anonymity(topic, written, tuple(columns), tuple(by), frame.height, individuals, groups, k, exposed)
