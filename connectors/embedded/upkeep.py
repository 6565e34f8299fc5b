"""Retention: the oldest blocks go, by age, by size, or because someone said so.  And when it all runs by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from connectors.embedded.compaction import compact_topic, is_worth_compacting
from connectors.embedded.database import Database
from connectors.embedded.stored import PartitionRow, partition_row, store_partition
from streamproc.errors import CorruptLog, LogBusy, OffsetOutOfRange
from streamproc.ports import TopicPartition, TopicSettings


def topic_settings(database: Database) -> dict[str, TopicSettings]:
    """Every topic by name."""
    rows = database.execute(
        "SELECT name, partitions, retention_us, retention_bytes, compacted FROM topic ORDER BY name"
    )
    return {
        name: TopicSettings(partitions, age, size, bool(compacted)) for name, partitions, age, size, compacted in rows
    }


def remove_before(database: Database, partition: PartitionRow, before: int) -> int:
    """Removes the blocks that end at or below an offset, which becomes the start; gives how many records went."""
    if not partition.start <= before <= partition.end:
        if before < partition.start:
            return 0
        raise OffsetOutOfRange(
            f"partition {partition.partition.partition} of '{partition.partition.topic}' ends at {partition.end}, "
            f"before {before}",
            hint="give an offset up to its end",
        )
    (removed,) = database.execute(
        "SELECT coalesce(sum(count), 0) FROM block WHERE partition_id = ? AND next <= ?", (partition.id, before)
    ).fetchone()
    database.execute("DELETE FROM block WHERE partition_id = ? AND next <= ?", (partition.id, before))
    store_partition(database, replace(partition, start=before))
    return int(removed)


def enforce_retention(database: Database, now: int) -> dict[TopicPartition, int]:
    """Removes what the topics' settings let go; gives the number of records that went, where any did.

    Whole stored blocks go, oldest first, and never the youngest: a block whose newest record is younger than the limit
    stops it, and so does one without which the partition would be smaller than its size limit.  The space in the file
    is used again, the file does not shrink.
    """
    with database.reading():
        places = [
            (TopicPartition(name, number), settings)
            for name, settings in topic_settings(database).items()
            if settings.retention_us is not None or settings.retention_bytes is not None
            for number in range(settings.partitions)
        ]
    removed = {}
    for place, settings in places:
        with database.writing():
            row = partition_row(database, place)
            before = max(_aged(database, row, settings, now), _oversized(database, row, settings))
            count = remove_before(database, row, before) if before > row.start else 0
        if count:
            removed[place] = count
    return removed


def _aged(database: Database, row: PartitionRow, settings: TopicSettings, now: int) -> int:
    """The start offset that age allows."""
    if settings.retention_us is None:
        return row.start
    (base,) = database.execute(
        "SELECT base FROM block WHERE partition_id = ? AND newest >= ? ORDER BY next LIMIT 1",
        (row.id, now - settings.retention_us),
    ).fetchone() or (row.end,)
    return max(int(base), row.start)


def _oversized(database: Database, row: PartitionRow, settings: TopicSettings) -> int:
    """The start offset that size allows."""
    if settings.retention_bytes is None:
        return row.start
    size, start = 0, row.end
    for base, bytes_ in database.execute(
        "SELECT base, length(payload) FROM block WHERE partition_id = ? ORDER BY next DESC", (row.id,)
    ):
        size += bytes_
        start = base
        if size >= settings.retention_bytes:
            break
    return max(int(start), row.start)


class Upkeep:
    """Runs retention and compaction now and then, on the clock of the one who writes."""

    def __init__(self, database: Database, *, now_us: Callable[[], int], every_us: int) -> None:
        self._database, self._now_us, self._every_us = database, now_us, every_us
        self._last = now_us()

    def run_if_due(self) -> None:
        """Runs if the interval has passed.  A busy log is left for the next time, and a damaged topic as it is."""
        now = self._now_us()
        if 0 <= now - self._last < self._every_us:
            return
        self._last = now
        try:
            enforce_retention(self._database, now)
            with self._database.reading():
                topics = [
                    name
                    for name, settings in topic_settings(self._database).items()
                    if settings.compacted and is_worth_compacting(self._database, name)
                ]
            for name in topics:
                compact_topic(self._database, name)
        except (LogBusy, CorruptLog):
            # Whoever writes must not fail for what it did not ask for; reading the damaged topic says what is wrong.
            return
