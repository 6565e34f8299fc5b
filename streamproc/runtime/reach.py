"""Input that went before a task could read it: told with the choices that there are, never skipped."""

from __future__ import annotations

from streamproc.engine.compiled import Names
from streamproc.errors import OffsetOutOfRange
from streamproc.ports import TopicPartition


def out_of_reach(task: str, names: Names, place: TopicPartition, position: int, start: int) -> OffsetOutOfRange:
    """The error for a task whose next record was removed: topic, partition, both offsets, and what can be done."""
    return OffsetOutOfRange(
        f"{task} goes on at {place.topic}-{place.partition}@{position}, and the log now begins at {start}: "
        f"{start - position} offsets were removed before they were read",
        hint=f"choose: (a) put the records back from an archive, into a log of their own, and compute from there with "
        f"'streamproc replay {names.topology} --by-event-time'; (b) leave the gap, knowingly: give the topology "
        f"version={names.version + 1} and begin it with 'streamproc run {names.topology} --from earliest'; "
        f"(c) for the next time, keep '{place.topic}' for longer than its readers may stand still",
    )
