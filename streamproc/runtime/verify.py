"""Verification: what lies in the log, held against the journal, without running any code of the topology.

For every task: steps follow each other without gap; what each step consumed begins where the step before it ended, is
still
in the log, and has the recorded digest; the committed offsets are where the journal ends. For every topic that only
this
topology writes: the rows in the log are as many, and have the same sum of hashes, as the journals of all tasks say, so
none
is lost, doubled or changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash

from streamproc.engine.edges import read_edge
from streamproc.errors import CorruptLog, OffsetOutOfRange, UnknownTopic
from streamproc.hashing import record_digests, record_hashes, row_hashes, sum128
from streamproc.ports import Block, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.journal import Entry, journal_entries
from streamproc.runtime.replay import TopicSum, recorded_sums, sums_of_all_versions
from streamproc.runtime.task import Task


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as the journal says: where, and what."""

    place: str
    what: str


@dataclass(slots=True)
class VerifyReport:
    """What was looked at, and what was wrong."""

    tasks: int = 0
    steps: int = 0
    records: int = 0
    rows: int = 0
    findings: list[Finding] = field(default_factory=list)


def verify(binding: Binding, log: Log, *, on_step: Callable[[int], None] | None = None) -> VerifyReport:
    """Checks history against the journal; reads every consumed and delivered record once. Writes nothing."""
    report = VerifyReport()
    for number in range(binding.task_count):
        _verify_task(binding, number, log, report, on_step)
    _verify_topics(binding, log, report)
    return report


def _verify_task(
    binding: Binding,
    number: int,
    log: Log,
    report: VerifyReport,
    on_step: Callable[[int], None] | None,
) -> None:
    place = TopicPartition(binding.names.tasks, number)
    group = binding.names.group(binding.task_of(number)[0].stage.index)
    told = log.committed(group)
    start, end = log.start_offset(place), log.end_offset(place)
    if start == end:
        return
    task = Task(binding, number, log)
    report.tasks += 1
    before: Entry | None = None
    seen = -1
    # By number of the channel: two sources may read one partition.
    positions: dict[int, tuple[int, int]] = {}
    for offset, entry in _kept_entries(log, place, start, end):
        where = f"{place.topic}-{place.partition}@{offset}"
        if entry.kind == "start":
            start_of = entry.head["start"]
            positions = {
                number: (start_of[f"{c.place.topic}-{c.place.partition}"], 0) for number, c in enumerate(task.channels)
            }
        elif before is None or (entry.step > before.step + 1 and log.start_offset(place) > seen):
            # The journal was trimmed down to the step of a checkpoint: what that step read may be gone as well.
            positions = {number: (taken.last, taken.last_skip) for number, taken in enumerate(entry.ranges)}
        else:
            report.steps += 1
            if entry.step != before.step + 1:
                report.findings.append(Finding(where, f"step {entry.step} follows step {before.step}"))
            for channel in range(len(entry.ranges)):
                _verify_input(log, channel, entry, task, positions, report, place, offset)
            if on_step is not None:
                on_step(report.steps)
        before, seen = entry, offset
    committed = log.committed(group)
    ends: dict[TopicPartition, int] = {}
    for channel, (offset, _) in positions.items():
        place = task.channels[channel].place
        ends[place] = min(offset, ends.get(place, offset))
    for place, offset in ends.items():
        # Of a task that works meanwhile the journal's end lies between what was committed before and after it was read.
        if committed.get(place) != offset and not told.get(place, offset + 1) <= offset < committed.get(place, offset):
            report.findings.append(
                Finding(
                    f"{place.topic}-{place.partition}",
                    f"the committed offset is {committed.get(place)}, the journal of {task.name} ends at {offset}",
                )
            )


def _kept_entries(log: Log, place: TopicPartition, start: int, end: int) -> Iterator[tuple[int, Entry]]:
    """The journal's entries up to an end; of a journal whose owner trims it meanwhile, those that are still there."""
    while start < end:
        try:
            for offset, entry in journal_entries(log, place, start, end):
                start = offset + 1
                yield offset, entry
            return
        except OffsetOutOfRange:
            if (kept := log.start_offset(place)) <= start:
                raise
            start = kept


def _verify_input(
    log: Log,
    number: int,
    entry: Entry,
    task: Task,
    positions: dict[int, tuple[int, int]],
    report: VerifyReport,
    journal: TopicPartition,
    at: int,
) -> None:
    taken = entry.ranges[number]
    place = TopicPartition(taken.topic, taken.partition)
    where = f"{taken.topic}-{taken.partition}@{taken.first}"
    expected = positions.get(number)
    if expected is not None and expected != (taken.first, taken.skip):
        report.findings.append(
            Finding(where, f"step {entry.step} of {task.name} begins here, the step before it ended at {expected[0]}")
        )
    positions[number] = (taken.last, taken.last_skip)
    if not taken.records:
        return
    first = taken.first + (1 if taken.skip else 0)
    last = taken.last + (1 if taken.last_skip else 0)
    hashes: list[np.ndarray[tuple[int], np.dtype[np.uint64]]] = []
    try:
        for block in _blocks(log, place, first, last):
            hashes.append(
                record_hashes(block.buffer, block.key_starts, block.key_ends, block.value_starts, block.value_ends)
            )
    except (OffsetOutOfRange, UnknownTopic):
        if log.start_offset(journal) > at:
            return  # The task's owner has trimmed the past meanwhile: first the journal, then what its steps read.
        report.findings.append(Finding(where, f"step {entry.step} of {task.name} read from here; the records are gone"))
        return
    except CorruptLog as damage:
        report.findings.append(Finding(where, damage.message))
        return
    joined = np.concatenate([np.empty(0, np.uint64), *hashes])
    report.records += joined.size
    if joined.size != taken.records:
        report.findings.append(
            Finding(where, f"step {entry.step} of {task.name} read {taken.records} records, the log has {joined.size}")
        )
    elif xxhash.xxh3_128_hexdigest(joined.tobytes()) != taken.digest:
        at = sum(r.records for r in entry.ranges[:number])
        seen = entry.records[at : at + taken.records]
        changed = np.flatnonzero(record_digests(joined) != seen)
        row = int(changed[0]) if changed.size else 0
        report.findings.append(
            Finding(
                f"{taken.topic}-{taken.partition}@{first + row}",
                f"not the record that step {entry.step} of {task.name} read",
            )
        )


def _verify_topics(binding: Binding, log: Log, report: VerifyReport) -> None:
    """Rows and their sums, of sinks and edges, against the journals. Late rows and dead letters are counted."""
    edges = {edge.topic for stage in binding.stages for edge in stage.edges}
    sinks = {sink.topic for sink in binding.plan.sinks}
    for topic in sorted(edges | sinks | {binding.names.late, binding.names.dead_letters}):
        places = [TopicPartition(topic, p) for p in range(log.topics()[topic].partitions)]
        if any(log.start_offset(place) for place in places):
            continue  # Retention removed what was delivered: it cannot be counted any more, and it is nobody's fault.
        if log.topics()[topic].compacted:
            continue  # Of each key only the newest row has to be there: the older ones are in no digest of the log.
        wrote = _recorded(binding, log, topic, edge=topic in edges)
        rows, total, damages = _counted(log, places, edge=topic in edges)
        report.findings += damages
        report.rows += rows
        later = wrote if rows == wrote.rows else _recorded(binding, log, topic, edge=topic in edges)
        if later != wrote:
            # Somebody writes it: no moment is the same for journals and topic, but none of them can be ahead.
            if not wrote.rows <= rows <= later.rows:
                rows = _counted(log, places, edge=topic in edges)[0]
            if rows < wrote.rows:
                report.findings.append(Finding(topic, f"the journals said {wrote.rows} rows, the log then had {rows}"))
        elif rows != wrote.rows:
            report.findings.append(Finding(topic, f"the journals say {wrote.rows} rows, the log has {rows}"))
        elif topic in edges | sinks and f"{total[0]:016x}{total[1]:016x}" != wrote.sum:
            report.findings.append(
                Finding(
                    topic,
                    f"the {rows} rows in the log are not the ones that were written: the sums of their hashes differ",
                )
            )


def _recorded(binding: Binding, log: Log, topic: str, *, edge: bool) -> TopicSum:
    """What the journals say now of a topic; an edge has this version alone, a sink all of them."""
    alone = edge or bool(binding.names.run)
    sums = recorded_sums(binding, log) if alone else sums_of_all_versions(binding.names, log)
    return sums.get(topic, TopicSum(0, "0" * 32))


def _counted(log: Log, places: Sequence[TopicPartition], *, edge: bool) -> tuple[int, tuple[int, int], list[Finding]]:
    """Rows in the partitions of a topic and the sum of their hashes; and blocks that are damaged."""
    rows, total, damages = 0, (0, 0), []
    for place in places:
        try:
            for block in _blocks(log, place, 0, log.end_offset(place)):
                hashes = _rows_of(block, edge=edge)
                rows, total = rows + hashes.shape[0], sum128(hashes, start=total)
        except CorruptLog as damage:
            damages.append(Finding(f"{place.topic}-{place.partition}", damage.message))
    return rows, total, damages


def _rows_of(block: Block, *, edge: bool) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    if edge:
        _, _, _, _, _, starts, ends = read_edge(block)
        return row_hashes(block.buffer, starts, ends)
    gone = block.value_starts < 0
    starts = np.where(gone, np.maximum(block.key_starts, 0), block.value_starts + 5)
    return row_hashes(block.buffer, starts, np.where(gone, np.maximum(block.key_ends, 0), block.value_ends))


def _blocks(log: Log, place: TopicPartition, first: int, last: int) -> Iterator[Block]:
    while first < last:
        block = log.read(place, first, max_records=min(65_536, last - first))
        if not len(block):
            return
        if int(block.offsets[-1]) >= last:
            block = block.slice(0, int(np.searchsorted(block.offsets, last)))
            if not len(block):
                return
        yield block
        first = int(block.offsets[-1]) + 1
