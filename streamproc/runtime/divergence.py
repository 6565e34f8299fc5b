"""Divergences that somebody accepted: another processor or library gives other bytes, and the run is to go on.

What a step wrote stays written, so the chain over it stays the journal's; the state goes on as this build computes it.
The next step's entry keeps both digests, and whoever runs the same steps again, in the same environment, knows by it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamproc.engine.compiled import TaskState
from streamproc.errors import ReplayDiverged
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.fingerprints import environment
from streamproc.runtime.journal import Entry, journal_entries
from streamproc.runtime.task import TakenStep, Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Divergence:
    """What one step wrote to a topic then, and what it gives now: rows, and the chain after them."""

    step: int
    topic: str
    then: tuple[int, str]
    now: tuple[int, str]


@dataclass(frozen=True, slots=True)
class Before:
    """Chains, sums and rows of a task before a step ran again."""

    chains: Mapping[str, bytes]
    sums: Mapping[str, tuple[int, int]]
    written: Mapping[str, int]

    @staticmethod
    def of(state: TaskState) -> Before:
        """Taken while the state stands before the step."""
        return Before(dict(state.chains), dict(state.sums), dict(state.written))


def divergences(entry: Entry, taken: TakenStep) -> tuple[Divergence, ...]:
    """The topics for which a step that ran again gives something else, by name."""
    now = {topic: (rows, digest.hex()) for topic, (rows, digest) in taken.output.digests.items()}
    found = []
    for topic in sorted(set(now) | set(entry.outputs)):
        (rows, digest), is_now = entry.outputs.get(topic, (0, "")), now.get(topic, (0, ""))
        if (rows, digest) != is_now:
            found.append(Divergence(entry.step, topic, (rows, digest), is_now))
    return tuple(found)


def accepted_in(log: Log, place: TopicPartition, offset: int, end: int) -> frozenset[Divergence]:
    """What was accepted in a journal from an offset on."""
    return frozenset(
        Divergence(step, topic, (then[0], then[1]), (now[0], now[1]))
        for _, entry in journal_entries(log, place, offset, end)
        for step, topic, then, now in entry.head.get("accepted", ())
    )


def go_on_from_what_was_written(task: Task, entry: Entry, before: Before) -> None:
    """Sets a task's chains, sums and rows to what the journal says of a step: that is what lies in the topics."""
    state = task.state
    for topic in state.chains:
        state.chains[topic] = bytes.fromhex(entry.outputs[topic][1]) if topic in entry.outputs else before.chains[topic]
        rows, total = entry.sums.get(topic, (0, "0" * 32))
        state.written[topic], state.sums[topic] = rows, (int(total[:16], 16), int(total[16:], 16))


def note_of(task: Task, accepted: tuple[Divergence, ...]) -> dict[str, Any]:
    """What the head of the next step's entry keeps."""
    told = [[found.step, found.topic, found.then, found.now] for found in accepted]
    return {"accepted": told, "environment": environment(task.stage)}


class Accepting:
    """What to do where a recorded step gives something else: stop, unless the journal or somebody accepts it.

    end    where the journal ends
    new    whether divergences are accepted that nobody accepted before
    taken  the new ones, which are still to be recorded
    """

    def __init__(self, log: Log, place: TopicPartition, end: int, *, new: bool) -> None:
        self._log, self._place, self._end, self._new = log, place, end, new
        self._known: frozenset[Divergence] | None = None
        self.taken: tuple[Divergence, ...] = ()

    def take(
        self, task: Task, entry: Entry, taken: TakenStep, before: Before, diverged: ReplayDiverged, offset: int
    ) -> None:
        """Lets the task go on from what was written, or raises the divergence with the way out."""
        found = divergences(entry, taken)
        if self._known is None:
            # It stands behind the step: who accepts it has run the step again first.
            self._known = accepted_in(self._log, self._place, offset + 1, self._end)
        elsewhere = bool(entry.environment) and entry.environment != task.environment
        unknown = tuple(one for one in found if one not in self._known)
        if unknown and not (elsewhere and self._new):
            if not elsewhere:
                raise diverged
            raise ReplayDiverged(
                f"{diverged.message}; it ran on another processor or with other libraries",
                hint="run it where it ran, or 'streamproc run --accept-divergence' records both digests and goes on",
            )
        for one in unknown:
            logger.warning(
                "%s, step %d, '%s': %d rows %s then, %d rows %s now; accepted, because the environment differs",
                task.name, one.step, one.topic, *one.then, *one.now,
            )  # fmt: skip
        go_on_from_what_was_written(task, entry, before)
        self.taken += unknown
