"""What silence means: partitions that no longer hold time back, and feedback of which all was heard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamproc.engine.step import HEARD, IDLE, SETTLED, SLEEP
from streamproc.engine.units import Units
from streamproc.errors import LogUnavailable
from streamproc.event_time import MIN_TIME
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.task import Task

_HEARD_S: Final = 1.0


class Quiet:
    """How long the inputs of a live worker's tasks have been silent; `now` is the worker's monotonic clock."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._quiet_since: dict[tuple[int, int], float] = {}
        self._heard_at: dict[int, float] = {}

    def idle_marks(
        self, task: Task, ends: Mapping[TopicPartition, int], units: tuple[Units, ...], now: float
    ) -> tuple[tuple[int, int], ...]:
        """Verdicts that a source's partition gives nothing for so long that it no longer holds time back.

        Only a partition that was read to its end can be idle: the log itself is asked before the verdict. One that lags
        is late, not idle, and one that cannot be reached says nothing.  It is settled once the silence took as long as
        its rows may be late, too; at once if it never gave a row.
        """
        marks: list[tuple[int, int]] = []
        for c, feed in enumerate(task.feeds):
            source = task.source(c)
            if source is None or source.idle_after_us is None:
                continue
            if len(units[c]) or not feed.ended(ends[feed.channel.place]):
                self._quiet_since.pop((task.number, c), None)
                continue
            since = self._quiet_since.setdefault((task.number, c), now)
            given = task.state.channel_watermark[c] > MIN_TIME
            settled = (now - since) * 1e6 >= max(source.idle_after_us, source.lateness_us if given else 0)
            verdict = SETTLED if settled else IDLE
            if (now - since) * 1e6 < source.idle_after_us or task.state.channel_idle[c] >= SLEEP[verdict]:
                continue
            try:
                at_the_end = self._log.end_offset(feed.channel.place) <= feed.reached(self._log)
            except LogUnavailable:
                at_the_end = False
            if at_the_end:
                marks.append((c, verdict))
            else:
                self._quiet_since.pop((task.number, c), None)
        return tuple(marks)

    def heard_marks(self, task: Task, now: float) -> tuple[tuple[int, int], ...]:
        """Verdicts, once a second, that all feedback that was written by now is taken; the clock was read before.

        A record of a transaction that is still open counts as written, so the log is asked for its end with those.
        """
        if now - self._heard_at.get(task.number, now - _HEARD_S) < _HEARD_S or any(f.waiting for f in task.feeds):
            return ()
        try:
            ends = self._log.end_offsets([feed.channel.place for feed in task.feeds], isolation="read_uncommitted")
        except LogUnavailable:
            return ()
        if any(ends[feed.channel.place] > feed.next_offset for feed in task.feeds):
            return ()
        self._heard_at[task.number] = now
        return tuple((c, HEARD) for c in range(len(task.channels)))
