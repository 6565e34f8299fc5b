"""What a live step waits for before it takes rows of other inputs.

A log hands out its partitions one after the other, so a worker that begins would find rows of one input while those of
another, written long before them, are still on their way. So the end of each input is noted when a task is opened, and
no row overtakes what stood in the log then: a table that was written before the stream is there when its first row is
looked up. An internal topic is empty at a first start: what stood in the sources above it is waited for, until it has
gone through the stages between. Beyond that a step waits only where the topology says so (`max_wait`), for an input
that is at its end and behind.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamproc.errors import LogUnavailable
from streamproc.event_time import MIN_TIME
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.above import Above, Writer
from streamproc.runtime.binding import Binding
from streamproc.runtime.task import Task

logger = logging.getLogger(__name__)

_FETCH_S: Final = 60.0
"""As long as a read waits for what the log says it has."""
_LOOK_S: Final = 1.0
"""Time between two looks that counts at most: a worker that rested, or restored other tasks, did not wait meanwhile."""


@dataclass(slots=True)
class _Stood:
    """What stood in a partition: its end then, up to where it was read at the last look, and how long nothing came."""

    end: int
    read: int
    looked: float
    silent_s: float = 0.0


@dataclass(slots=True)
class _Held:
    """Rows that wait for a channel at its end.

    since, read  since when, and up to where each channel was read then
    asked        whether the log was asked, when they had waited long enough, for what it holds of that channel
    """

    since: float
    read: list[int]
    asked: bool = False


class Awaited:
    """The channels that the next step of a task does not overtake; `now` is the worker's monotonic clock."""

    def __init__(self, binding: Binding, log: Log, *, max_wait_s: float) -> None:
        self._binding, self._log = binding, log
        self._max_wait_s = max_wait_s
        self._stood: dict[int, dict[int, _Stood]] = {}
        self._held_back: dict[int, _Held] = {}
        self._above: dict[int, Above] = {}
        self._unwritten: dict[int, dict[int, Writer]] = {}
        """Per task the channels that those who write them have yet to fill."""

    def opened(self, task: Task, now: float) -> None:
        """Notes what stands in the log for a task that begins or goes on.  Raises LogUnavailable."""
        inside = _inside(task)
        ends = self._log.end_offsets([task.channels[c].place for c in inside]) if len(inside) > 1 else {}
        before = self._stood.get(task.number, {})
        self._stood[task.number] = stood = {}
        for c in inside if ends else ():
            read, old = task.feeds[c].next_offset, before.get(c)
            silent_s = old.silent_s if old is not None and old.read == read else 0.0
            stood[c] = _Stood(ends[task.channels[c].place], read, now, silent_s)
        self._unwritten[task.number] = unwritten = {} if len({task.channels[c].inlet for c in inside}) < 2 else {
            c: writer
            for c in inside
            if (writer := _writer(task, c)) is not None and task.state.channel_watermark[c] <= MIN_TIME
        }  # fmt: skip
        if unwritten and task.number not in self._above:
            self._above[task.number] = Above.began(self._binding, self._log, frozenset(unwritten.values()))

    def channels(self, task: Task, ends: Mapping[TopicPartition, int], now: float) -> frozenset[int]:
        """The channels that what comes next must not overtake.

        ends  up to where each partition is at hand
        """
        if not self._max_wait_s:
            return self._standing(task, ends, now)
        held = self._overdue(task, now)
        if held is None:
            awake = (c for c in _inside(task) if not task.state.channel_idle[c])
            return self._standing(task, ends, now) | frozenset(awake)
        if not held.asked:
            held.asked = True
            # Who has waited long enough for an input that is silent may not overtake one that only comes slowly.
            with contextlib.suppress(LogUnavailable):
                self.opened(task, now)
        return self._standing(task, ends, now)

    def _standing(self, task: Task, ends: Mapping[TopicPartition, int], now: float) -> frozenset[int]:
        """Channels of which something that stood in the log has not come yet."""
        stood = self._stood.get(task.number, {})
        self._look_above(task, stood, now)
        for c, one in list(stood.items()):
            feed = task.feeds[c]
            if max(ends[feed.channel.place], feed.reached(self._log)) >= one.end:
                del stood[c]
                continue
            silent = not feed.waiting and feed.next_offset == one.read
            one.silent_s = one.silent_s + min(now - one.looked, _LOOK_S) if silent else 0.0
            one.read, one.looked = feed.next_offset, now
            if one.silent_s >= _FETCH_S:
                place = feed.channel.place
                logger.warning(
                    "%s goes on without %s-%d, of which nothing came in %.0f s: it stands at %d of %d",
                    task.name, place.topic, place.partition, _FETCH_S, one.read, one.end,
                )  # fmt: skip
                del stood[c]
        return frozenset(stood) | frozenset(self._unwritten.get(task.number, ()))

    def _look_above(self, task: Task, stood: dict[int, _Stood], now: float) -> None:
        """Whoever has written all that stood above a channel: that stands in the channel now."""
        unwritten = self._unwritten.get(task.number)
        if not unwritten:
            return
        above = self._above[task.number]
        written = above.look(frozenset(unwritten.values()), now)
        given_up = above.silent_s >= _FETCH_S
        if given_up:
            late = sorted({task.channels[c].place.topic for c, writer in unwritten.items() if writer not in written})
            logger.warning(
                "%s goes on without what stood above %s: nothing of it was read in %.0f s",
                task.name, ", ".join(late), _FETCH_S,
            )  # fmt: skip
        through = [c for c, writer in unwritten.items() if given_up or writer in written]
        if not through:
            return
        try:
            ends = self._log.end_offsets([task.channels[c].place for c in through])
        except LogUnavailable:
            return
        for c in through:
            del unwritten[c]
            stood[c] = _Stood(ends[task.channels[c].place], task.feeds[c].next_offset, now)

    def _overdue(self, task: Task, now: float) -> _Held | None:
        """What has waited for `max_wait` for a channel at its end, and goes now."""
        if not task.held_back:
            self._held_back.pop(task.number, None)
            return None
        read = [feed.next_offset for feed in task.feeds]
        held = self._held_back.setdefault(task.number, _Held(now, read))
        if all(int(task.state.positions[c, 0]) >= end for c, end in enumerate(held.read)):
            # What waited then is gone; others came.
            self._held_back[task.number] = held = _Held(now, read)
        return held if now - held.since >= self._max_wait_s else None


def _inside(task: Task) -> list[int]:
    return [c for c, apart in enumerate(task.stage.outside(task.channels)) if not apart]


def _writer(task: Task, c: int) -> Writer | None:
    """The task that writes an internal channel; None for a source's partition."""
    channel = task.channels[c]
    edge = task.stage.stage.inputs[channel.inlet].edge
    return None if edge is None else (edge.from_stage, channel.upstream)
