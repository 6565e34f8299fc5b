"""Runs that `sp.retrain` asked for: which requests there are, over which offsets each goes, and whether it is time.

Where history ends for a request is read from the log: of each source partition the first row whose event time lets the
partition's watermark pass the cut is the last one. So the same request gives the same offsets, and these the same
versions: a run that was killed is simply made again. A request is done when its versions are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from streamproc.contracts.registry import Registry
from streamproc.engine.intake import event_times
from streamproc.errors import InputError, InputGone, did_you_mean
from streamproc.graph import Source
from streamproc.learning.operator import Learn
from streamproc.learning.retrain import REQUEST, Retrain
from streamproc.models.version import ModelVersion
from streamproc.planning.plan import Plan
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.model_replay import REPLAYED, History, replayed_versions
from streamproc.runtime.model_store import ModelStore
from streamproc.runtime.model_versions import Learner, chosen_learner
from streamproc.runtime.reading import TopicReader, read_topic
from streamproc.runtime.since_event import first_offsets
from streamproc.runtime.worker import Progress

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Request:
    """A run that is asked for.  since_us: None for all history."""

    id: str
    cut_us: int
    since_us: int | None
    reasons: tuple[str, ...]


@dataclass(slots=True)
class Retrained:
    """What became of the requests.

    made, done  versions that were made now, and that were there
    waiting     requests for which it is not time, with the partitions that have not reached their cut
    """

    made: list[tuple[Request, list[ModelVersion]]] = field(default_factory=list)
    done: list[tuple[Request, list[ModelVersion]]] = field(default_factory=list)
    waiting: list[tuple[Request, list[TopicPartition]]] = field(default_factory=list)


def retrain_all(
    topology: Topology, learner: str, log: Log, registry: Registry, store: ModelStore, *,
    on_commit: Callable[[Progress], None] | None = None,
) -> Retrained:  # fmt: skip
    """Makes what is asked for and not done, and keeps it, the earliest cut first.

    Touches nothing live, and may be called at any time, by several at once too: they make the same.
    Raises InputError for a topology that asks for nothing or learns nothing, InputGone where the window is gone.
    """
    plan = plan_topology(topology, registry)
    nodes = [node for node in plan.nodes if isinstance(node.origin, Learn)]
    name = chosen_learner([Learner(node, ()) for node in nodes], topology.name, learner).name
    told = Retrained()
    versions = [version for _, version in store.versions() if isinstance(version, ModelVersion)]
    for request in requests_of(plan, log, registry):
        there = _kept(versions, topology, name, request)
        if there:
            told.done.append((request, there))
            continue
        history, behind = history_until(plan, log, registry, request.cut_us, request.since_us)
        if behind:
            told.waiting.append((request, behind))
            continue
        made = replayed_versions(topology, name, log, registry, history, request=request.id, on_commit=on_commit)
        for version in made:
            store.put(version)
        told.made.append((request, made))
    return told


def requests_of(plan: Plan, log: Log, registry: Registry) -> list[Request]:
    """The requests that a topology has written, by cut; raises InputError if it writes none."""
    sinks = {s.topic: s for s in plan.sinks if isinstance(plan.nodes[s.port[0]].origin, Retrain)}
    topics = sorted(sinks)
    if len(topics) != 1:
        raise InputError(
            f"topology '{plan.topology.name}' has {len(topics)} sinks of requests"
            + (f": {', '.join(topics)}" if topics else ""),
            hint='sinks={"requests": labels | sp.retrain(...)}, one of them',
        )
    if topics[0] not in log.topics():
        return []
    registry.adopt(sinks[topics[0]].contract)  # Where the plan derived it, nobody has it but the run that wrote.
    rows = read_topic(log, registry, topics[0], REQUEST.polars()).sort("cut")
    return [
        Request(row["request"], _us(row["cut"]), None if row["since"] is None else _us(row["since"]),
                tuple(row["reasons"]))
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip


def history_until(
    plan: Plan, log: Log, registry: Registry, cut_us: int, since_us: int | None
) -> tuple[History, list[TopicPartition]]:
    """The offsets that a run over what happened before a cut reads, and the partitions that have not reached it.

    A partition has reached it where its own watermark has: the largest event time less the source's lateness. One of
    which nothing ever came holds nothing back. Feedback ends before its first row at the cut or later.
    Raises InputGone if records of the window may be gone.  Cost: decodes the records at and behind the cut.
    """
    firsts = {} if since_us is None else first_offsets(plan, log, since_us)
    topics = log.topics()
    starts: dict[TopicPartition, int] = {}
    ends: dict[TopicPartition, int] = {}
    behind: list[TopicPartition] = []
    silent: list[TopicPartition] = []
    for node in plan.sources:
        source = node.origin
        assert isinstance(source, Source), "it is a source"
        if source.topic not in topics:
            raise InputError(f"the log has no topic '{source.topic}'", hint=did_you_mean(source.topic, topics))
        for number in range(topics[source.topic].partitions):
            place = TopicPartition(source.topic, number)
            begins, last = log.start_offset(place), log.end_offset(place)
            starts[place] = max(begins, firsts.get(place, begins))
            if since_us is not None and begins > 0 and firsts[place] <= begins:
                raise InputGone(
                    f"{place.topic}-{number} begins at offset {begins}: records of the window may be gone",
                    hint="declare a shorter window=, or a longer retention of the topic",
                )
            end = _passes(log, registry, source, place, cut_us) if last else None
            if not last:
                silent.append(place)
            elif end is None and not source.feedback:
                behind.append(place)
            ends[place] = max(last if end is None else end, ends.get(place, 0))
    return History(starts, ends, since_us, frozenset(silent)), sorted(set(behind))


def _passes(log: Log, registry: Registry, source: Source, place: TopicPartition, cut_us: int) -> int | None:
    """The offset behind the first record by which a partition's watermark is at the cut, None if there is none yet;
    of feedback the offset of the first record at the cut."""
    wanted = cut_us + (0 if source.feedback else source.lateness_us)
    reader = TopicReader(registry)
    end = log.end_offset(place)
    # An earlier record cannot hold that event time: it would be from the future.
    offset = max(log.start_offset(place), log.offset_at(place, wanted - source.max_future_skew_us))
    while offset < end:
        block = log.read(place, offset)
        if not len(block):
            return None
        for frame in reader.frames(block):
            if source.event_time not in frame.columns:
                continue
            times = event_times(frame[source.event_time]).fill_null(-(2**62)).to_numpy()
            offsets = frame["_offset"].to_numpy()
            stamps = block.timestamps[np.searchsorted(block.offsets, offsets)]
            passing = np.flatnonzero((times >= wanted) & (times <= stamps + source.max_future_skew_us))
            if passing.size:
                found = int(offsets[passing[0]])
                return found if source.feedback else found + 1
        offset = int(block.offsets[-1]) + 1
    return None


def _kept(
    versions: Sequence[ModelVersion], topology: Topology, learner: str, request: Request
) -> list[ModelVersion]:
    """The versions of a request, if all of them are kept."""
    found = {}
    for version in versions:
        origin = version.origin
        if origin["made"] != REPLAYED:
            continue
        asked = (origin["topology"], origin["version"], origin["learner"], origin["request"])
        if asked == (topology.name, topology.version, learner, request.id):
            found[origin["task"]] = version
    whole = bool(found) and len(found) == next(iter(found.values())).origin["tasks"]
    return [found[task] for task in sorted(found)] if whole else []


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
