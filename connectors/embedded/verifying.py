"""Walks a whole log and tells what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from connectors.embedded.database import Database
from connectors.embedded.stored import BlockRow, next_row, partition_row, read_block
from connectors.embedded.upkeep import topic_settings
from streamproc.errors import CorruptLog, UnknownTopic
from streamproc.ports import TopicPartition


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with the offsets start..end of a partition; `text` is a whole sentence."""

    topic: str
    partition: int
    start: int
    end: int
    text: str


def findings(database: Database) -> Iterator[Finding]:
    """Everything that is wrong; nothing for a log that is well.  Others may write meanwhile.

    Each step is a transaction of its own, so that a long walk neither blocks writers nor keeps the WAL from shrinking.
    """
    try:
        with database.reading():
            (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
            topics = topic_settings(database)
    except CorruptLog as error:
        yield Finding("", -1, 0, 0, str(error))
        return
    if said != "ok":
        yield Finding("", -1, 0, 0, f"the file '{database.path}' is damaged: {said}")
    for topic, settings in topics.items():
        for number in range(settings.partitions):
            yield from _of_partition(database, TopicPartition(topic, number))


def _of_partition(database: Database, place: TopicPartition) -> Iterator[Finding]:
    reached: int | None = None
    while True:
        found: list[Finding] = []
        try:
            with database.reading():
                row = partition_row(database, place)
                # Retention may have removed what was to come next: then that is no hole.
                expected = row.start if reached is None else max(reached, row.start)
                stored = next_row(database, row, expected)
                if stored is None:
                    if expected < row.end:
                        found.append(_hole(place, expected, row.end))
                    stop = row.end
                else:
                    stop = stored.next
                    if stored.base > expected:
                        found.append(_hole(place, expected, stored.base))
                    elif stored.base < expected and reached is not None and expected == reached:
                        text = f"{_name(place)}: two blocks hold offset {stored.base}"
                        found.append(Finding(*place, stored.base, expected, text))
                    found += _of_block(database, place, stored)
        except UnknownTopic:
            return  # deleted while we walked
        except CorruptLog as error:
            yield Finding(*place, reached or 0, reached or 0, str(error))
            return
        yield from found
        if stored is None:
            return
        reached = stop


def _of_block(database: Database, place: TopicPartition, stored: BlockRow) -> list[Finding]:
    try:
        block = read_block(database, place, stored)
    except CorruptLog as error:
        return [Finding(*place, stored.base, stored.next, str(error))]
    offsets = block.offsets
    fine = offsets.size == 0 or (
        offsets[0] >= stored.base and offsets[-1] < stored.next and bool(np.all(np.diff(offsets) > 0))
    )
    if fine:
        return []
    text = f"{_name(place)}: the offsets of a block do not rise within {stored.base} to {stored.next}"
    return [Finding(*place, stored.base, stored.next, text)]


def _hole(place: TopicPartition, start: int, end: int) -> Finding:
    return Finding(*place, start, end, f"{_name(place)}: stored blocks are missing for the offsets {start} to {end}")


def _name(place: TopicPartition) -> str:
    return f"topic '{place.topic}', partition {place.partition}"
