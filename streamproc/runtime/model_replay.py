"""Models made by a bounded replay: a topology, cut down to one learner, over given offsets of its sources.

The replay goes by event time, in steps of a fixed size, into a log of its own: so the same offsets give the same
version, on any machine and any number of times. Time is not closed at its end: a label that had not become known by
then is not known.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Final

from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import Registry
from streamproc.errors import InputGone
from streamproc.graph import Stream
from streamproc.learning.operator import Learn
from streamproc.learning.standing import standing
from streamproc.models.version import ModelVersion
from streamproc.planning.topology import Sink, Topology
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.model_versions import Learner, chosen_learner, definition, learners_of, made_version
from streamproc.runtime.replay import replay_by_event_time
from streamproc.runtime.restore import newest_checkpoint
from streamproc.runtime.since_event import since_event
from streamproc.runtime.task import Task
from streamproc.runtime.worker import Progress

REPLAYED: Final = "replayed"
_STEP_UNITS: Final = 65_536


@dataclass(frozen=True, slots=True)
class History:
    """What a model is made of: half-open offset ranges of all partitions of its sources, and the first event time.

    silent  partitions of which nothing ever came: they hold no time back
    """

    starts: Mapping[TopicPartition, int]
    ends: Mapping[TopicPartition, int]
    since_us: int | None = None
    silent: frozenset[TopicPartition] = frozenset()

    def described(self) -> dict[str, Any]:
        """As an origin keeps it."""
        return {
            "ranges": [[p.topic, p.partition, self.starts[p], end] for p, end in sorted(self.ends.items())],
            "since_us": self.since_us,
            "silent": sorted([p.topic, p.partition] for p in self.silent),
        }


def history_of(origin: Mapping[str, Any]) -> History:
    """The history in an origin."""
    ranges = [(TopicPartition(topic, number), first, end) for topic, number, first, end in origin["ranges"]]
    silent = frozenset(TopicPartition(topic, number) for topic, number in origin["silent"])
    return History(
        {p: first for p, first, _ in ranges}, {p: end for p, _, end in ranges}, origin["since_us"], silent
    )  # fmt: skip


def alone(topology: Topology, step: Learn) -> Topology:
    """A topology that runs one learner and what it needs, and writes its metrics alone."""
    (stream, *_) = [one for name in topology.sinks for one in _above(topology.sink(name).stream) if one.origin is step]
    return replace(topology, sinks={"metrics": Sink(replace(stream, port="metrics"))}, late="count")


def replayed_versions(
    topology: Topology, learner: str, log: Log, registry: Registry, history: History, *,
    request: str = "", on_commit: Callable[[Progress], None] | None = None,
) -> list[ModelVersion]:  # fmt: skip
    """What a learner becomes over a piece of history, one version a task.

    learner  its name in the topology; "" for the only one
    request  the id of the request that asked for it: for the origin

    Touches nothing live.  Raises InputGone if the log no longer reaches back to where the history begins.
    """
    plan = plan_topology(topology, registry)
    nodes = [node for node in plan.nodes if isinstance(node.origin, Learn)]
    asked = chosen_learner([Learner(node, ()) for node in nodes], topology.name, learner)
    told = definition(plan, asked.node)
    _check_reach(log, history)
    cut = alone(topology, asked.step)
    sources = {getattr(node.origin, "topic", "") for node in plan_topology(cut, registry).sources}
    starts = {place: at for place, at in history.starts.items() if place.topic in sources}
    ends = {place: history.ends[place] for place in starts}
    history = replace(history, starts=starts, ends=ends, silent=frozenset(p for p in history.silent if p in starts))
    if history.since_us is not None:
        cut = since_event(cut, registry, history.since_us)
    with tempfile.TemporaryDirectory(prefix="streamproc-model-") as folder, EmbeddedLog(
        Path(folder) / "scratch.db"
    ) as scratch:
        checkpoints = DirectoryCheckpoints(Path(folder) / "checkpoints")
        binding, run, _ = replay_by_event_time(
            cut, log, registry, scratch, close=False, starts=starts, ends=ends, on_commit=on_commit,
            checkpoints=checkpoints, steps=repeat(_STEP_UNITS), silent=history.silent,
        )  # fmt: skip
        (own,) = [one for one in learners_of(binding) if one.step is asked.step]
        made = []
        for number in own.tasks:
            place = TopicPartition(binding.names.tasks, number)
            fresh = Task(binding, number, run)
            # Of a task to which nothing came there is no checkpoint: it is as it was opened.
            task = newest_checkpoint(binding, fresh, run, checkpoints, place, None)[0] or fresh
            origin = {
                "made": REPLAYED, "topology": topology.name, "version": topology.version, "learner": asked.name,
                "task": own.tasks.index(number), "tasks": len(own.tasks), "request": request, **history.described(),
            }  # fmt: skip
            offsets = [[p.topic, p.partition, starts[p], end, 0] for p, end in sorted(ends.items())]
            stands = standing(own.step, task.state.operators[own.name])
            made.append(made_version(told, stands, offsets, binding, number, origin))
    return made


def _check_reach(log: Log, history: History) -> None:
    for place, first in history.starts.items():
        begins, ends = log.start_offset(place), log.end_offset(place)
        if first < history.ends[place] and (begins > first or ends < history.ends[place]):
            raise InputGone(
                f"{place.topic}-{place.partition} holds offsets {begins} to {ends}, the model is made of "
                f"{first} to {history.ends[place]}",
                hint="restore the topic from an archive, or name the log that has it",
            )


def _above(stream: Stream) -> Iterator[Stream]:
    yield stream
    for one in stream.inputs:
        yield from _above(one)
