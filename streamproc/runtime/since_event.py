"""A topology that sees nothing from before a moment of event time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import polars as pl

from streamproc.contracts.registry import Registry
from streamproc.errors import InputError
from streamproc.graph import Source, Stream
from streamproc.operators.columns import where
from streamproc.planning.plan import Plan
from streamproc.planning.topology import Sink, Topology
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import plan_topology

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def since_event(topology: Topology, registry: Registry, since_us: int) -> Topology:
    """The topology with a filter below each source: rows whose event time is earlier count as filtered.

    They still move time on, so what is late stays late.
    """
    plan = plan_topology(topology, registry)
    done: dict[int, Stream] = {}

    def moved(stream: Stream) -> Stream:
        if id(stream) not in done:
            done[id(stream)] = _filtered(stream, plan, since_us) if isinstance(stream.origin, Source) else _over(stream)
        return done[id(stream)]

    def _over(stream: Stream) -> Stream:
        return replace(stream, inputs=tuple(moved(above) for above in stream.inputs))

    sinks: dict[str, Stream | Sink] = {}
    for name in topology.sinks:
        sink = topology.sink(name)
        sinks[name] = replace(sink, stream=moved(sink.stream))
    return replace(topology, sinks=sinks)


def first_offsets(plan: Plan, log: Log, since_us: int) -> dict[TopicPartition, int]:
    """Offsets before which no row of event time `since_us` or later can lie.

    A row is a dead letter if its event time is more than the source's skew beyond its record's timestamp, so earlier
    records hold none.
    """
    topics = log.topics()
    found: dict[TopicPartition, int] = {}
    for node in plan.sources:
        if not isinstance(node.origin, Source):
            continue
        for number in range(topics[node.origin.topic].partitions):
            place = TopicPartition(node.origin.topic, number)
            offset = log.offset_at(place, since_us - node.origin.max_future_skew_us)
            found[place] = min(offset, found.get(place, offset))
    return found


def _filtered(stream: Stream, plan: Plan, since_us: int) -> Stream:
    source = stream.origin
    for node in plan.sources:
        known = node.origin
        if (
            isinstance(source, Source)
            and isinstance(known, Source)
            and known.topic == source.topic
            and source.event_time in ("", known.event_time)
        ):
            return stream | where(pl.col(known.event_time) >= _moment(since_us, node.type.schema, known.event_time))
    raise InputError(f"no source of '{plan.topology.name}' is filtered", hint="leave --since-event out")


def _moment(since_us: int, schema: Any, column: str) -> pl.Expr:
    """A literal of the column's type."""
    dtype = next(field.dtype for field in schema if field.name == column)
    if dtype.is_integer():
        return pl.lit(since_us, pl.Int64)
    moment = _EPOCH + timedelta(microseconds=since_us)
    return pl.lit(moment.date() if dtype == pl.Date else moment, dtype)
