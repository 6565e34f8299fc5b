"""Producers and transactions: everything becomes visible in one SQLite transaction, or nothing does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from connectors.embedded.database import Database
from connectors.embedded.membership import EmbeddedMembership, Standing, check_standing
from connectors.embedded.pending import Pending
from connectors.embedded.stored import insert, partition_row, store_partition
from connectors.embedded.upkeep import Upkeep
from streamproc.errors import Fenced, LogBusy, LogError
from streamproc.ports import Block, Membership, TopicPartition


class EmbeddedTransaction:
    """Appends and offsets that wait for `commit`; they hold no lock until then."""

    def __init__(self, producer: EmbeddedProducer) -> None:
        self._producer = producer
        self._database = producer.database
        self._pending = Pending(producer.database.path.parent)
        self._offsets: dict[str, dict[TopicPartition, int]] = {}
        self._standings: list[Standing] = []
        self._known: set[TopicPartition] = set()
        self.open = True

    def append(self, block: Block) -> None:
        """Adds records to the end of the block's partition; its arrays must not change before the commit.

        Raises UnknownTopic, and LogError for bounds outside the buffer.
        """
        self._must_be_open()
        place = TopicPartition(block.topic, block.partition)
        if place not in self._known:
            with self._database.reading():
                partition_row(self._database, place)
            self._known.add(place)
        self._pending.add(block)

    def commit_offsets(self, group: str, offsets: Mapping[TopicPartition, int], *, membership: Membership | None = None,
                       owned: Iterable[int] = ()) -> None:
        """Commits next offsets to read for a group.

        With a membership, `commit` raises Fenced unless the member still is in its group and has held every partition
        in `owned` without a break since the generation that it had at this call.
        """
        self._must_be_open()
        if membership is not None:
            if not isinstance(membership, EmbeddedMembership):
                raise LogError(
                    f"the membership of '{membership.member}' is of another kind of log",
                    hint="join the group with the log that is written to",
                )
            self._standings.append(membership.standing(owned))
        self._offsets.setdefault(group, {}).update(offsets)

    def commit(self) -> dict[TopicPartition, tuple[int, int]]:
        """Makes all of it durable (fsync) and visible; gives the half-open offset range of each partition's appends.

        Raises Fenced, UnknownTopic (a topic was deleted meanwhile) and LogBusy; then nothing happened.  After LogBusy
        the transaction is still open, and may be committed again.
        """
        self._must_be_open()
        try:
            self._pending.settle()
            ranges: dict[TopicPartition, tuple[int, int]] = {}
            with self._database.writing():
                self._producer.check_epoch()
                for standing in self._standings:
                    check_standing(self._database, standing)
                for place in self._pending.partitions():
                    ranges[place] = self._write(place)
                for group, offsets in self._offsets.items():
                    self._write_offsets(group, offsets)
        except LogBusy:
            raise
        except BaseException:
            self.abort()
            raise
        self.abort()
        return ranges

    def abort(self) -> None:
        """Leaves no trace; does nothing after a commit."""
        self.open = False
        self._pending.discard()

    def _must_be_open(self) -> None:
        if not self.open:
            raise LogError("the transaction is over", hint="begin another one")

    def _write(self, place: TopicPartition) -> tuple[int, int]:
        row = partition_row(self._database, place)
        now = max(self._producer.now_us(), row.append_time)
        stamped, end, high_time = row.append_time, row.end, row.high_time
        for encoded in self._pending.blocks(place):
            if encoded.newest is None:
                stamped = now
            base, end = end, end + encoded.count
            high_time = insert(
                self._database, row, encoded, base=base, end=end, append_time=now, high_time=high_time
            )
        store_partition(self._database, replace(row, end=end, append_time=stamped, high_time=high_time))
        return row.end, end

    def _write_offsets(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        for place, offset in offsets.items():
            partition_row(self._database, place)
            self._database.execute(
                "INSERT OR REPLACE INTO committed SELECT ?, id, ?, ? FROM topic WHERE name = ?",
                (group, place.partition, int(offset), place.topic),
            )


class EmbeddedProducer:
    """Writes under a transactional id; opening another one of the same id fences this one, in any process."""

    def __init__(self, database: Database, transactional_id: str, *, now_us: Callable[[], int], upkeep: Upkeep) -> None:
        self.database = database
        self.now_us = now_us
        self._name = transactional_id
        self._upkeep = upkeep
        self._transaction: EmbeddedTransaction | None = None
        with database.writing():
            database.execute(
                "INSERT INTO producer VALUES(?, 1) ON CONFLICT(name) DO UPDATE SET epoch = epoch + 1",
                (transactional_id,),
            )
            (self._epoch,) = database.execute(
                "SELECT epoch FROM producer WHERE name = ?", (transactional_id,)
            ).fetchone()

    def begin(self) -> EmbeddedTransaction:
        """A new transaction; only one is open at a time.  Now and then retention and compaction run here."""
        if self._transaction is not None and self._transaction.open:
            raise LogError(
                f"the producer '{self._name}' has an open transaction", hint="commit or abort it before the next one"
            )
        self._upkeep.run_if_due()
        self._transaction = EmbeddedTransaction(self)
        return self._transaction

    def close(self) -> None:
        """Aborts an open transaction."""
        if self._transaction is not None:
            self._transaction.abort()

    def check_epoch(self) -> None:
        """Raises Fenced if a newer producer has the id; call it inside the commit's own SQLite transaction."""
        row = self.database.execute("SELECT epoch FROM producer WHERE name = ?", (self._name,)).fetchone()
        if row is None or row[0] != self._epoch:
            raise Fenced(
                f"a newer producer writes as '{self._name}'",
                hint="stop this worker and let the other one go on, or give each worker its own id",
            )
