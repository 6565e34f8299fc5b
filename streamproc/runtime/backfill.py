"""Backfills: a piece of history computed beside the live run, by event time, resumable, with results of its own.

A backfill has an id. Everything that it owns in the log carries it: journal, internal topics, groups, transactional id,
and the topics that it writes. Sources are shared and only read, so the live run never notices. Entry 0 of its journal
says which offsets it covers; each commit holds its results and how far it read, so one that was killed goes on where it
stopped. Its steps have a fixed size, one turn is one transaction, and each turn follows from what is committed alone:
a backfill that was killed any number of times leaves the same bytes in the same order as one that was not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import polars as pl

from streamproc.contracts.registry import Registry
from streamproc.engine.compiled import SHADOW, Names
from streamproc.errors import InputError
from streamproc.planning.topology import Topology
from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding, bind, plan_topology
from streamproc.runtime.clock import Clock, SystemClock
from streamproc.runtime.first_start import begin
from streamproc.runtime.future import recorded_verdicts
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.offsets import source_places
from streamproc.runtime.reading import read_topic
from streamproc.runtime.restore import journal_head
from streamproc.runtime.since_event import since_event
from streamproc.runtime.worker import Progress, Worker

_STEP_UNITS: Final = 65_536
_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_RESERVED: Final = ("live", "tasks", "edge", "late", "dlq", "control", SHADOW)


@dataclass(frozen=True, slots=True)
class Span:
    """What a backfill covers: half-open offset ranges of the sources, whether time ends with them, the first event
    time."""

    starts: Mapping[TopicPartition, int]
    until: Mapping[TopicPartition, int]
    close: bool = True
    since_event_us: int | None = None

    def described(self) -> dict[str, Any]:
        """As entry 0 keeps it."""
        return {
            "starts": [[p.topic, p.partition, offset] for p, offset in sorted(self.starts.items())],
            "until": [[p.topic, p.partition, offset] for p, offset in sorted(self.until.items())],
            "close": self.close,
            "since_event_us": self.since_event_us,
        }


@dataclass(frozen=True, slots=True)
class Backfill:
    """A backfill that has begun."""

    binding: Binding
    log: Log
    span: Span

    def frames(self) -> dict[str, pl.DataFrame]:
        """The rows of each sink so far, with `_partition` and `_offset`."""
        sinks = self.binding.plan.sinks
        registry = self.binding.registry
        return {s.name: read_topic(self.log, registry, s.topic, s.contract.schema.polars()) for s in sinks}


def open_backfill(
    topology: Topology,
    log: Log,
    registry: Registry,
    run: str,
    span: Span | None = None,
    *,
    checkpoints: CheckpointStore | None = None,
    clock: Clock | None = None,
) -> Backfill:
    """Begins the backfill of that id, or takes it up again.

    span  what it is to cover; None: all that is there now, or what it was begun over

    Raises InputError for an id that cannot be used, and for one that was begun over another span.
    """
    if not _ID.fullmatch(run) or run in _RESERVED or re.fullmatch(r"s\d+", run):
        raise InputError(
            f"'{run}' cannot be the id of a replay",
            hint="use lower-case letters, digits, _ and -, and none of " + ", ".join(_RESERVED),
        )
    names = Names(topology.name, topology.version, run)
    recorded = recorded_span(names, log, checkpoints)
    if recorded is not None and span is not None and span.described() != recorded.described():
        raise InputError(
            f"replay '{run}' of '{topology.name}' was begun over another piece of history: {_told(recorded)}",
            hint="leave out what bounds it to go on with it, or give the new one another --id",
        )
    span = recorded or span
    if span is None:
        places = source_places(plan_topology(topology, registry), log)
        span = Span({p: log.start_offset(p) for p in places}, {p: log.end_offset(p) for p in places})
    if span.since_event_us is not None:
        topology = since_event(topology, registry, span.since_event_us)
    binding = bind(topology, log, registry, run=run)
    if recorded is None:
        heads = {number: {"replay": span.described()} for number in range(binding.task_count)}
        begin(binding, log, span.starts, heads=heads, clock=clock)
    return Backfill(binding, log, span)


def recorded_span(names: Names, log: Log, checkpoints: CheckpointStore | None) -> Span | None:
    """What a backfill was begun over, as its journal says; None if it was not."""
    place = TopicPartition(names.tasks, 0)
    if names.tasks not in log.topics():
        return None
    found = next(journal_entries(log, place, log.start_offset(place), log.end_offset(place)), None)
    if found is None:
        return None
    head = (journal_head(f"{names.prefix}.s0.t0", log, place, found[1], checkpoints) or {}).get("replay")
    if head is None:
        raise InputError(f"'{names.prefix}' is no replay, or its checkpoints are gone", hint="use another --id")
    starts, until = ({TopicPartition(t, p): offset for t, p, offset in head[side]} for side in ("starts", "until"))
    return Span(starts, until, head["close"], head["since_event_us"])


def backfill_worker(
    backfill: Backfill,
    *,
    checkpoints: CheckpointStore | None = None,
    on_commit: Callable[[Progress], None] | None = None,
    checkpoint_every_s: float = 5.0,
    step_units: int = _STEP_UNITS,
    clock: Clock | None = None,
    silent: Collection[TopicPartition] = (),
) -> Worker:
    """The worker that runs a backfill to the end of its span; that of a finished one has nothing left to do.

    silent      see `Worker`
    step_units  the size of a step: another one gives the rows of a sink in another order, where several tasks write it
    """
    began = (clock or SystemClock()).now_us()
    return Worker(
        backfill.binding,
        backfill.log,
        checkpoints=checkpoints,
        member="replay",
        until_end=backfill.span.until,
        close=backfill.span.close,
        in_stages=True,
        on_commit=on_commit,
        checkpoint_every_s=checkpoint_every_s,
        steps=repeat(step_units),
        clock=clock,
        silent=silent,
        future=recorded_verdicts(backfill.binding.names.topology, backfill.log, lambda: began),
    )


def drop_backfill(backfill: Backfill) -> list[str]:
    """Deletes all topics of a backfill, its results too; gives their names."""
    names = backfill.binding.names
    own = {names.late, names.dead_letters, *(sink.topic for sink in backfill.binding.plan.sinks)}
    mine = [t for t in backfill.log.topics() if t in own or t.startswith(f"{names.prefix}.")]
    for topic in mine:
        backfill.log.delete_topic(topic)
    return mine


def _told(span: Span) -> str:
    ranges = [f"{p.topic}:{p.partition} from {span.starts[p]} to {end}" for p, end in sorted(span.until.items())]
    return ", ".join(ranges) + ("" if span.close else ", left open")
