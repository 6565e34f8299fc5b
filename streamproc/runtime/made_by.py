"""Which recorded step made a record of a sink, and as which of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from streamproc.batch import Batch
from streamproc.engine.ablation import RecordedTask
from streamproc.engine.compiled import SinkWriter
from streamproc.engine.leaving import sink_blocks
from streamproc.errors import InputError, InputGone, OffsetOutOfRange, did_you_mean
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.journal import Entry, journal_entries
from streamproc.runtime.task import Task
from streamproc.wire import Decoder, split_frames

Values = Mapping[str, Any]


def decoded(binding: Binding, log: Log, place: TopicPartition, offset: int) -> Values | None:
    """A record as a row by its writer's schema; None if it cannot be read."""
    buffer = np.frombuffer(value_at(log, place, offset), np.uint8)
    ids, bodies = split_frames(buffer, np.zeros(1, np.int64), np.array([buffer.size]))
    if ids[0] < 0:
        return None
    rows = Decoder(binding.registry.schema_of(int(ids[0]))).decode(buffer, bodies, np.array([buffer.size]))
    return rows.frame.row(0, named=True) if rows.rows.size else None


def writer_of(binding: Binding, topic: str) -> SinkWriter:
    """The sink that writes a topic; raises InputError if none does."""
    writers = {writer.sink.topic: writer for stage in binding.stages for writer in stage.sinks}
    if topic not in writers:
        raise InputError(f"'{topic}' is no sink of '{binding.names.topology}'", hint=did_you_mean(topic, writers))
    return writers[topic]


def value_at(log: Log, place: TopicPartition, offset: int) -> bytes:
    """The value of a record; raises InputError where there is none."""
    where = f"{place.topic}-{place.partition}@{offset}"
    known = log.topics().get(place.topic)
    if known is None or place.partition >= known.partitions:
        raise InputError(f"{where}: the log has no such partition", hint="'streamproc topics' lists what is there")
    try:
        block = log.read(place, offset, max_records=1)
    except OffsetOutOfRange as gone:
        raise InputError(f"{where}: {gone.message}", hint=gone.hint) from None
    if not len(block) or int(block.offsets[0]) != offset:
        raise InputError(f"{where}: there is no record", hint=f"the topic ends at {log.end_offset(place)}")
    return block.value(0) or b""


def journal_of(binding: Binding, log: Log, number: int) -> tuple[Task, list[Entry]]:
    """A task and the entries of its steps from the first on."""
    place = TopicPartition(binding.names.tasks, number)
    entries = [entry for _, entry in journal_entries(log, place, log.start_offset(place), log.end_offset(place))]
    task = Task(binding, number, log)
    if entries and (entries[0].kind != "start" or entries[0].head.get("seed")):
        raise InputGone(
            f"the journal of {task.name} begins in the middle: what came before it cannot be named",
            hint='declare settings={"audit": "all"} before the first run, and begin without another run\'s state',
        )
    return task, entries[1:]


def makers_of(
    binding: Binding, log: Log, writer: SinkWriter, place: TopicPartition, offset: int
) -> Iterator[tuple[int, list[Entry], int]]:
    """Tasks that may have made a record, each with its steps up to that one, and where its records of it may begin.

    An entry says where the step before it delivered its rows. Nothing says it of a task's last step.
    """
    last: list[tuple[int, list[Entry]]] = []
    begin = 0
    for number in range(binding.task_count):
        stage, _ = binding.task_of(number)
        if stage.stage.index != writer.sink.stage:
            continue
        _, entries = journal_of(binding, log, number)
        for count, entry in enumerate(entries):
            for topic, partition, first, end in entry.delivered:
                if (topic, partition) == (place.topic, place.partition):
                    if first <= offset < end:
                        yield number, entries[:count], first
                        return
                    begin = max(begin, end if end <= offset else 0)
        if entries and place.topic in entries[-1].outputs:
            last.append((number, entries))
    yield from ((number, entries, begin) for number, entries in last)


def repeated(log: Log, place: TopicPartition, begin: int, offset: int, value: bytes) -> int:
    """How many equal records stand between two offsets."""
    found = 0
    while begin < offset:
        block = log.read(place, begin, max_records=offset - begin)
        if not len(block):
            break
        found += sum(block.value(row) == value for row in range(len(block)) if int(block.offsets[row]) < offset)
        begin = int(block.offsets[-1]) + 1
    return found


def row_made(made: Batch, writer: SinkWriter, task: RecordedTask, value: bytes, before: int) -> int | None:
    """The row that became a record, which is the `before`-th of those that became the same bytes."""
    if not len(made):
        return None
    hashed, _ = sink_blocks(task.stage, writer, made, task=task.task, step=0)
    body = value[5:]
    size = np.flatnonzero(hashed.ends - hashed.starts == len(body))
    same = [row for row in size.tolist() if hashed.buffer[hashed.starts[row] : hashed.ends[row]].tobytes() == body]
    return same[min(before, len(same) - 1)] if same else None
