"""The embedded log: topics, transactions and groups in one SQLite file, for all processes of one machine."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from connectors.embedded.compaction import compact_topic
from connectors.embedded.database import Database
from connectors.embedded.membership import EmbeddedMembership
from connectors.embedded.reading import Reader
from connectors.embedded.stored import create_partition, partition_row, unknown
from connectors.embedded.upkeep import Upkeep, enforce_retention, remove_before, topic_settings
from connectors.embedded.verifying import Finding, findings
from connectors.embedded.writing import EmbeddedProducer
from streamproc.errors import LogError
from streamproc.ports import Block, Isolation, TopicPartition, TopicSettings

_NAME: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_LOOKS_S: Final = (0.001, 0.005)


def wall_clock_us() -> int:
    """The machine's time of day, µs since 1970 UTC."""
    return time.time_ns() // 1_000


def steady_clock_us() -> int:
    """The machine's monotonic clock, µs: the same for all its processes, never set back."""
    return time.monotonic_ns() // 1_000


class EmbeddedLog:
    """A log in one SQLite file (WAL mode): many processes read while one writes; writers wait for each other.

    path        the file; created if it is not there, unless `create` is false
    busy_us     how long a writer waits for another one before it raises LogBusy
    upkeep_us   how often a producer runs retention and compaction at the start of a transaction
    now_us      the clock that stamps records; lease_clock_us  the clock that counts leases

    A commit is on disk (fsync) when `commit` returns.  Use one EmbeddedLog for each thread and process.
    Raises InputError for a file that cannot be used, or is not a log.

    >>> from streamproc.ports import TopicPartition, TopicSettings, block_of
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder, EmbeddedLog(pathlib.Path(folder) / "log.db") as log:
    ...     log.create_topic("payments", TopicSettings())
    ...     transaction = log.producer("example").begin()
    ...     transaction.append(block_of("payments", 0, [b"one", b"two"]))
    ...     ranges = transaction.commit()
    ...     log.read(TopicPartition("payments", 0), 1).value(0)
    b'two'
    """

    def __init__(self, path: str | Path, *, create: bool = True, busy_us: int = 10_000_000,
                 upkeep_us: int = 60_000_000, now_us: Callable[[], int] = wall_clock_us,
                 lease_clock_us: Callable[[], int] = steady_clock_us) -> None:
        self.path = Path(path)
        self._now_us, self._lease_clock_us = now_us, lease_clock_us
        self._database = Database(self.path, create=create, busy_us=busy_us)
        self._reader = Reader(self._database)
        self._upkeep = Upkeep(self._database, now_us=now_us, every_us=upkeep_us)

    def __enter__(self) -> EmbeddedLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file; open transactions leave no trace."""
        self._database.close()

    def topics(self) -> dict[str, TopicSettings]:
        """Every topic by name."""
        with self._database.reading():
            return topic_settings(self._database)

    def create_topic(self, topic: str, settings: TopicSettings) -> None:
        """Creates the topic; the same settings twice are fine, other ones raise LogError."""
        if not _NAME.fullmatch(topic):
            raise LogError(f"'{topic}' cannot be a topic's name", hint="use 1 to 249 letters, digits, '.', '_' and '-'")
        if settings.partitions < 1:
            raise LogError(f"the topic '{topic}' has {settings.partitions} partitions", hint="give it at least one")
        with self._database.writing():
            there = topic_settings(self._database).get(topic)
            if there == settings:
                return
            if there is not None:
                raise LogError(
                    f"the topic '{topic}' exists with other settings: {there}, not {settings}",
                    hint="use another name, or delete the topic first",
                )
            made = self._database.execute(
                "INSERT INTO topic(name, partitions, retention_us, retention_bytes, compacted) VALUES(?,?,?,?,?)",
                (topic, settings.partitions, settings.retention_us, settings.retention_bytes, settings.compacted),
            )
            for number in range(settings.partitions):
                create_partition(self._database, made.lastrowid or 0, TopicPartition(topic, number))

    def delete_topic(self, topic: str) -> None:
        """Removes topic, records, committed offsets and memberships; raises UnknownTopic."""
        with self._database.writing():
            row = self._database.execute("SELECT id FROM topic WHERE name = ?", (topic,)).fetchone()
            if row is None:
                raise unknown(self._database, topic, 0)
            for statement in (
                "DELETE FROM block WHERE partition_id IN (SELECT id FROM partition WHERE topic_id = ?)",
                "DELETE FROM member WHERE group_id IN (SELECT id FROM consumer_group WHERE topic_id = ?)",
                "DELETE FROM share WHERE group_id IN (SELECT id FROM consumer_group WHERE topic_id = ?)",
                "DELETE FROM consumer_group WHERE topic_id = ?",
                "DELETE FROM partition WHERE topic_id = ?",
                "DELETE FROM committed WHERE topic_id = ?",
                "DELETE FROM topic WHERE id = ?",
            ):
                self._database.execute(statement, row)

    def delete_records(self, partition: TopicPartition, before: int) -> None:
        """Removes whole stored blocks below an offset; `start_offset` becomes `before`.

        Does nothing below the start; raises OffsetOutOfRange beyond the end.
        """
        with self._database.writing():
            remove_before(self._database, partition_row(self._database, partition), before)

    def start_offset(self, partition: TopicPartition) -> int:
        """The first offset that the log promises to hold.  Compaction leaves it; records behind it may be gone."""
        with self._database.reading():
            return partition_row(self._database, partition).start

    def end_offset(self, partition: TopicPartition, *, isolation: Isolation = "read_committed") -> int:
        """One past the last committed record; what is not committed lies in its writer's memory, not here."""
        with self._database.reading():
            return partition_row(self._database, partition).end

    def end_offsets(
        self, partitions: Iterable[TopicPartition], *, isolation: Isolation = "read_committed"
    ) -> dict[TopicPartition, int]:
        """The ends of many partitions."""
        return {place: self.end_offset(place, isolation=isolation) for place in partitions}

    def available(self, partition: TopicPartition, offset: int) -> int:
        """The end offset: all of it can be read at once."""
        return self.end_offset(partition)

    def reached(self, partition: TopicPartition, offset: int) -> int:
        """The offset: nothing but records takes offsets behind the last one."""
        return offset

    def offset_at(self, partition: TopicPartition, timestamp: int) -> int:
        """The first offset whose record timestamp is >= `timestamp` (µs), or the end offset.

        Reads as many rows as a binary search does, and one block.
        """
        return self._reader.offset_at(partition, timestamp)

    def read(self, partition: TopicPartition, offset: int, *, max_records: int = 65_536,
             max_bytes: int = 16 << 20) -> Block:
        """Committed records from `offset` on: as many as the bounds allow, at least one if there is one, else none.

        `max_bytes` bounds the bytes as stored before compression.  Each stored block's checksum is verified.
        Raises OffsetOutOfRange below the start or beyond the end, CorruptLog for a damaged block, UnknownTopic.
        """
        return self._reader.read(partition, offset, max_records=max_records, max_bytes=max_bytes)

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_us: int) -> bool:
        """Waits until one of the partitions has a record at or after its offset; False at the time-out.

        SQLite tells nobody of a commit: this looks every one to five milliseconds whether there was one.
        """
        limit = time.monotonic() + timeout_us / 1e6
        pause, longest = _LOOKS_S
        seen = None
        while True:
            version = self._database.changed_elsewhere()
            if version != seen:
                seen = version
                with self._database.reading():
                    if any(partition_row(self._database, place).end > offset for place, offset in partitions.items()):
                        return True
            left = limit - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 1.2, longest)

    def producer(self, transactional_id: str) -> EmbeddedProducer:
        """Opens the producer and fences every older one of the same id."""
        return EmbeddedProducer(self._database, transactional_id, now_us=self._now_us, upkeep=self._upkeep)

    def join(self, group: str, topic: str, member: str, *, lease_us: int = 10_000_000) -> EmbeddedMembership:
        """Joins the group that shares out the partitions of `topic`; the same member again fences its older self."""
        return EmbeddedMembership(
            self._database, group, topic, member, lease_us=lease_us, clock_us=self._lease_clock_us
        )

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """The group's committed next offsets."""
        with self._database.reading():
            rows = self._database.execute(
                "SELECT t.name, c.number, c.next FROM committed c JOIN topic t ON t.id = c.topic_id "
                "WHERE c.consumer_group = ? ORDER BY t.name, c.number",
                (group,),
            )
            return {TopicPartition(topic, number): offset for topic, number, offset in rows}

    def groups(self) -> list[str]:
        """Names of all groups that committed an offset."""
        with self._database.reading():
            rows = self._database.execute("SELECT DISTINCT consumer_group FROM committed ORDER BY consumer_group")
            return [name for (name,) in rows]

    def enforce_retention(self) -> dict[TopicPartition, int]:
        """Removes what the topics' settings let go; gives how many records went, where any did."""
        return enforce_retention(self._database, self._now_us())

    def compact(self, topic: str) -> int:
        """Keeps the newest record of each key, whatever the topic's settings; gives how many records went."""
        return compact_topic(self._database, topic)

    def check(self) -> Iterator[Finding]:
        """Reads every stored block and gives what is wrong with any: checksums, holes, counts, ends."""
        return findings(self._database)
