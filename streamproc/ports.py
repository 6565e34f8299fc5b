"""The log as a port: what an adapter gives to the engine, and nothing of how.

What crosses the port is a **block**: one buffer of bytes plus integer columns. There is no object per message.
The adapters (`connectors/`) and the engine know only these names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class HeaderColumn:
    """One header over all records of a block: value bounds into the block's buffer; start -1 where a record lacks
    it."""

    name: str
    starts: Int64s
    ends: Int64s


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive records of one partition: a buffer and, per record, bounds into it.

    offsets     int64[n]  strictly increasing, gaps allowed; of a block that is being written: not read, the log assigns
                          them, so a block that was read can be written as it is
    timestamps  int64[n]  µs since 1970 UTC, the record's own time; of a block that is being written: empty (the log
                          stamps them with its append time) or n values to keep
    buffer      uint8[*]  values, keys and headers; bounds may lie in any order and overlap
    value_starts, value_ends, key_starts, key_ends  int64[n]; a start of -1 means null (not the same as empty)
    unreadable          (record, reason) of records that the log holds and cannot hand out: key and value are null.
                        One record may stand for a whole batch that does not inflate; the next one lies behind it

    The arrays are never changed after construction and may be views of memory that others read too.
    """

    topic: str
    partition: int
    offsets: Int64s
    timestamps: Int64s
    buffer: Bytes
    value_starts: Int64s
    value_ends: Int64s
    key_starts: Int64s
    key_ends: Int64s
    headers: tuple[HeaderColumn, ...] = ()
    unreadable: tuple[tuple[int, str], ...] = ()

    def __len__(self) -> int:
        return self.value_starts.size

    def slice(self, start: int, stop: int) -> Block:
        """Records start..stop of the block, sharing its buffer."""
        cut = slice(start, stop)
        return Block(
            self.topic,
            self.partition,
            self.offsets[cut],
            self.timestamps[cut],
            self.buffer,
            self.value_starts[cut],
            self.value_ends[cut],
            self.key_starts[cut],
            self.key_ends[cut],
            tuple(HeaderColumn(h.name, h.starts[cut], h.ends[cut]) for h in self.headers),
            tuple((row - start, why) for row, why in self.unreadable if start <= row < stop),
        )

    def value(self, row: int) -> bytes | None:
        """One record's value as bytes: for messages and tests, not for the hot path."""
        start = int(self.value_starts[row])
        return None if start < 0 else self.buffer[start : int(self.value_ends[row])].tobytes()

    def key(self, row: int) -> bytes | None:
        """One record's key as bytes: for messages and tests, not for the hot path."""
        start = int(self.key_starts[row])
        return None if start < 0 else self.buffer[start : int(self.key_ends[row])].tobytes()

    def header(self, row: int, name: str) -> bytes | None:
        """One record's first header of that name, or None."""
        for column in self.headers:
            if column.name == name and column.starts[row] >= 0:
                return self.buffer[int(column.starts[row]) : int(column.ends[row])].tobytes()
        return None


def block_of(
    topic: str,
    partition: int,
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[int] | None = None,
    headers: Sequence[Mapping[str, bytes]] | None = None,
) -> Block:
    """A block to be written, from Python values: for small things (journal entries, commands, tests).

    >>> len(block_of("t", 0, [b"a", None]))
    2
    """
    n = len(values)
    names = sorted({name for row in headers or () for name in row})
    cells: list[Sequence[bytes | None]] = [values, keys if keys is not None else [None] * n]
    cells += [[row.get(name) for row in headers or ()] for name in names]
    bounds: list[tuple[Int64s, Int64s]] = []
    parts: list[bytes] = []
    at = 0
    for column in cells:
        starts, ends = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
        for row, cell in enumerate(column):
            if cell is not None:
                starts[row], at = at, at + len(cell)
                ends[row] = at
                parts.append(cell)
        bounds.append((starts, ends))
    stamps = np.empty(0, np.int64) if timestamps is None else np.asarray(timestamps, np.int64)
    return Block(
        topic,
        partition,
        np.empty(0, np.int64),
        stamps,
        np.frombuffer(b"".join(parts), np.uint8),
        *bounds[0],
        *bounds[1],
        tuple(HeaderColumn(name, *pair) for name, pair in zip(names, bounds[2:], strict=True)),
    )


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """What a topic is: its partitions, and what may be deleted from it.

    retention_us    records whose timestamp is older than this may go; None keeps them for ever
    retention_bytes per partition, the oldest records beyond this size may go; None keeps them
    append_time     records get the log's own append time even where a timestamp was given; a log whose stamps are
                    always its own may ignore it
    compacted       of each key only the newest record must stay; a null value deletes the key; records without key and
                    the partition's last record stay, so that a reader below the end always finds a record
    """

    partitions: int = 1
    retention_us: int | None = None
    retention_bytes: int | None = None
    compacted: bool = False
    append_time: bool = field(default=False, compare=False)


class Membership(Protocol):
    """A worker's place in a group that shares out the partitions of one topic (the task topic)."""

    @property
    def member(self) -> str:
        """The member's id."""
        ...

    @property
    def generation(self) -> int:
        """Grows with every change of the assignment; a commit with an older one is refused with `Fenced`."""
        ...

    def poll(self) -> frozenset[int]:
        """Renews the lease and gives the partitions that are this member's now.

        A partition that moves away is no longer in the answer, and is given to its new owner only after this member
        called `released`, or its lease ran out.  Raises Fenced if this member itself lost its lease, left, or was
        started again elsewhere: then its work is not its own any more, and it joins anew.
        """
        ...

    def renew(self) -> None:
        """A sign of life in the middle of work, by which nothing moves away.  Raises Fenced like `poll`."""
        ...

    def released(self, partitions: Iterable[int]) -> None:
        """Says that the work on these partitions is finished and committed."""
        ...

    def leave(self) -> None:
        """Gives everything back at once; later polls and commits raise Fenced."""
        ...


class Transaction(Protocol):
    """Appends and offset commits that become visible together or not at all."""

    def append(self, block: Block) -> None:
        """Adds records to the end of the block's partition (visible after `commit`).

        The block's arrays may be kept until then, so they must not change.  Raises UnknownTopic.
        """
        ...

    def commit_offsets(
        self,
        group: str,
        offsets: Mapping[TopicPartition, int],
        *,
        membership: Membership | None = None,
        owned: Iterable[int] = (),
    ) -> None:
        """Commits next offsets to read for a group.

        With a membership, the commit holds only if the member still is in its group and has held every task partition
        in `owned` without a break since the generation that it has now: else `commit` raises `Fenced` and nothing
        becomes visible.  A partition that moves away is held until it was `released`.  A log may be stricter and refuse
        every generation but the group's current one.
        """
        ...

    def commit(self) -> dict[TopicPartition, tuple[int, int]]:
        """Makes all of it durable and visible; gives the half-open offset range that each partition's appends got.

        Raises Fenced if a newer producer has this transactional id, or the membership is stale (StaleMember), and
        LogBusy: then nothing happened.  After LogBusy the transaction is still open and may be committed again.
        Raises UnknownOutcome where the log cannot say what happened: close the producer, open it anew under the same id
        (which settles what was open), and believe only what is committed.
        """
        ...

    def abort(self) -> None:
        """Leaves no trace."""
        ...


class Producer(Protocol):
    """Writes under a stable transactional id; a newer producer of the same id fences this one."""

    def begin(self) -> Transaction:
        """A new transaction; only one is open at a time."""
        ...

    def close(self) -> None:
        """Aborts an open transaction and lets go."""
        ...


Isolation = Literal["read_committed", "read_uncommitted"]


class Log(Protocol):
    """Topics of partitions of records, with transactions and groups."""

    def topics(self) -> dict[str, TopicSettings]:
        """Every topic by name."""
        ...

    def create_topic(self, topic: str, settings: TopicSettings) -> None:
        """Creates the topic; the same settings twice are fine, other ones raise LogError."""
        ...

    def delete_topic(self, topic: str) -> None:
        """Removes topic, records and committed offsets; raises UnknownTopic."""
        ...

    def delete_records(self, partition: TopicPartition, before: int) -> None:
        """Removes whole stored blocks below an offset; `start_offset` becomes `before`.

        Does nothing below the start; raises OffsetOutOfRange beyond the end.
        """
        ...

    def start_offset(self, partition: TopicPartition) -> int:
        """The first offset that the log promises to hold; compaction leaves it, and may take records behind it."""
        ...

    def end_offset(self, partition: TopicPartition, *, isolation: Isolation = "read_committed") -> int:
        """One past the last committed record (the last stable offset); may ask over the network.

        With "read_uncommitted" one past the last record of all, also of transactions that are still open.
        """
        ...

    def end_offsets(
        self, partitions: Iterable[TopicPartition], *, isolation: Isolation = "read_committed"
    ) -> dict[TopicPartition, int]:
        """The ends of many partitions: one question where the log lies elsewhere."""
        ...

    def available(self, partition: TopicPartition, offset: int) -> int:
        """An offset up to which `read` from `offset` on answers at once; never beyond the end, and cheap.

        It may lag behind the end: nothing is said by it about what else the log holds.
        """
        ...

    def reached(self, partition: TopicPartition, offset: int) -> int:
        """Up to where it is known already that no record lies from `offset` on; the offset itself where that is not.

        Marks of transactions, and what was aborted, take offsets too: who has read every record may still stand below
        the end, and nothing that `read` gives tells so at once.  Cheap.
        """
        ...

    def offset_at(self, partition: TopicPartition, timestamp: int) -> int:
        """The first offset whose record timestamp is >= `timestamp` (µs), or the end offset."""
        ...

    def read(
        self, partition: TopicPartition, offset: int, *, max_records: int = 65_536, max_bytes: int = 16 << 20
    ) -> Block:
        """Committed records from `offset` on: as many as the bounds allow, at least one if there is one, else none.

        Raises OffsetOutOfRange below the start or beyond the end, CorruptLog for a damaged block, UnknownTopic.
        Waits while the log says that there is something and does not hand it out yet.  Every call of a log that lies
        elsewhere may raise LogUnavailable.
        """
        ...

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_us: int) -> bool:
        """Waits until one of the partitions has a record at or after its offset; False at the time-out."""
        ...

    def producer(self, transactional_id: str) -> Producer:
        """Opens the producer and fences every older one of the same id."""
        ...

    def join(self, group: str, topic: str, member: str, *, lease_us: int = 10_000_000) -> Membership:
        """Joins the group that shares out the partitions of `topic`.

        The same member again is a restart: it fences its older self, whose partitions are free at once.
        """
        ...

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """The group's committed next offsets; waits for a transaction that is about to change them."""
        ...

    def groups(self) -> list[str]:
        """Names of all groups that committed an offset."""
        ...

    def close(self) -> None:
        """Lets go of files and connections."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A log that fetches records before they are asked for; those that lie on the same machine need not."""

    def read_ahead(self, most_bytes: int, partitions: int) -> None:
        """From now on at most so many bytes are fetched ahead of so many partitions together; as much again may wait
        to be asked for."""
        ...


@runtime_checkable
class Marks(Protocol):
    """A producer of a log on several machines, of which one that stood still answers with what it knew before."""

    def mark(self, tasks: Mapping[TopicPartition, str], membership: Membership) -> None:
        """Writes to each of these partitions of the task topic, and to the offsets of its group, what no reader is
        given and only the machines that lead them now can take.

        What this process asks about them from then on is not older than that: answers that do not know of it raise
        LogUnavailable.  Raises as a commit does.
        """
        ...


@dataclass(frozen=True, slots=True)
class CheckpointManifest:
    """One checkpoint of one task: which blocks make each array of its state, and the journal step that it stands on.

    arrays maps "operator/array" to (dtype text, shape, content ids of consecutive blocks).
    """

    task: str
    step: int
    chain: str
    fingerprint: str
    head: Mapping[str, object] = field(default_factory=dict)
    arrays: Mapping[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = field(default_factory=dict)


class CheckpointStore(Protocol):
    """Where checkpoints lie. Blocks are content-addressed; a manifest is written last."""

    def put_blocks(self, blocks: Mapping[str, bytes]) -> int:
        """Stores the blocks that are not there yet, durably; gives how many bytes were new."""
        ...

    def get_block(self, content_id: str) -> bytes:
        """A block whose bytes match its id; raises CorruptSnapshot otherwise, or if it is missing."""
        ...

    def put_manifest(self, manifest: CheckpointManifest) -> None:
        """Publishes a checkpoint, durably and atomically."""
        ...

    def manifests(self, task: str) -> list[CheckpointManifest]:
        """The task's readable manifests, newest step first; damaged ones are left out."""
        ...

    def discard(self, task: str, *, keep_steps: Iterable[int]) -> None:
        """Deletes the task's other manifests, then blocks that no manifest names and that are older than an hour.

        Of manifests only those go that the last `manifests` call of this object saw (all, before there was one): what a
        new owner published since then is none of a late caller's business.
        """
        ...
