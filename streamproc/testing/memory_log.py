"""A log in memory, for tests: topics, transactions, fencing and groups of one process.

Nothing expires here: no retention, no compaction, no leases that run out. A read ends where an appended block ends.
What a durable log promises beyond that is the business of `connectors.embedded` and of the conformance suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from streamproc.errors import Fenced, LogError, OffsetOutOfRange, UnknownTopic, did_you_mean
from streamproc.ports import Block, HeaderColumn, Isolation, Membership, TopicPartition, TopicSettings


@dataclass(slots=True)
class _Partition:
    blocks: list[Block] = field(default_factory=list)
    start: int = 0
    end: int = 0
    newest: int = 0


@dataclass(slots=True)
class _Group:
    members: dict[str, set[int]] = field(default_factory=dict)
    generation: int = 0


class MemoryLog:
    """A log for one process; `now` (µs) stamps appended records and moves only when it is set."""

    def __init__(self, *, now: int = 0) -> None:
        self.now = now
        self._settings: dict[str, TopicSettings] = {}
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._offsets: dict[str, dict[TopicPartition, int]] = {}
        self._epochs: dict[str, int] = {}
        self._groups: dict[tuple[str, str], _Group] = {}

    def topics(self) -> dict[str, TopicSettings]:
        """Every topic by name."""
        return dict(sorted(self._settings.items()))

    def create_topic(self, topic: str, settings: TopicSettings) -> None:
        """Creates the topic; other settings for a known one raise LogError."""
        have = self._settings.get(topic)
        if have is not None and have != settings:
            raise LogError(
                f"topic '{topic}' exists with other settings: {have}", hint="delete it, or keep its settings"
            )
        self._settings[topic] = settings
        for partition in range(settings.partitions):
            self._partitions.setdefault(TopicPartition(topic, partition), _Partition())

    def delete_topic(self, topic: str) -> None:
        """Removes topic, records and committed offsets."""
        if topic not in self._settings:
            raise self._unknown(topic)
        del self._settings[topic]
        for place in [place for place in self._partitions if place.topic == topic]:
            del self._partitions[place]
            for offsets in self._offsets.values():
                offsets.pop(place, None)

    def delete_records(self, partition: TopicPartition, before: int) -> None:
        """Removes records below an offset."""
        have = self._at(partition)
        if not have.start <= before <= have.end:
            raise OffsetOutOfRange(
                f"{partition.topic}-{partition.partition} holds {have.start} to {have.end}, not {before}",
                hint="name an offset inside",
            )
        have.start = before
        have.blocks = [block for block in have.blocks if int(block.offsets[-1]) >= before]

    def replace_block(self, partition: TopicPartition, block: Block) -> None:
        """Puts a block in place of the stored one with its first offset: tampering, for tests of audits."""
        have = self._at(partition)
        firsts = [int(stored.offsets[0]) for stored in have.blocks]
        have.blocks[firsts.index(int(block.offsets[0]))] = block

    def start_offset(self, partition: TopicPartition) -> int:
        """The first offset held."""
        return self._at(partition).start

    def end_offset(self, partition: TopicPartition, *, isolation: Isolation = "read_committed") -> int:
        """One past the last committed record."""
        return self._at(partition).end

    def available(self, partition: TopicPartition, offset: int) -> int:
        """The end offset."""
        return self._at(partition).end

    def offset_at(self, partition: TopicPartition, timestamp: int) -> int:
        """The first offset whose timestamp is at or after the moment, or the end offset."""
        have = self._at(partition)
        for block in have.blocks:
            later = np.flatnonzero((block.timestamps >= timestamp) & (block.offsets >= have.start))
            if later.size:
                return int(block.offsets[later[0]])
        return have.end

    def read(
        self, partition: TopicPartition, offset: int, *, max_records: int = 65_536, max_bytes: int = 16 << 20
    ) -> Block:
        """Records from an offset on, at most those of one appended block."""
        have = self._at(partition)
        if not have.start <= offset <= have.end:
            raise OffsetOutOfRange(
                f"'{partition.topic}' partition {partition.partition} holds {have.start} to {have.end}, not {offset}",
                hint="read from the start, or restore the topic from an archive",
            )
        for block in have.blocks:
            if int(block.offsets[-1]) < offset:
                continue
            first = int(np.searchsorted(block.offsets, offset))
            sizes = np.maximum(block.value_ends - block.value_starts, 0) + np.maximum(
                block.key_ends - block.key_starts, 0
            )
            fits = int(np.searchsorted(np.cumsum(sizes[first : first + max_records]), max_bytes, side="right"))
            return block.slice(first, first + max(1, min(fits, max_records)))
        return _empty(partition)

    def wait(self, partitions: Mapping[TopicPartition, int], timeout_us: int) -> bool:
        """Whether something is there; nobody else writes, so waiting would be in vain."""
        return any(self.end_offset(place) > offset for place, offset in partitions.items())

    def producer(self, transactional_id: str) -> MemoryProducer:
        """Opens the producer and fences older ones of the id."""
        self._epochs[transactional_id] = self._epochs.get(transactional_id, 0) + 1
        return MemoryProducer(self, transactional_id, self._epochs[transactional_id])

    def join(self, group: str, topic: str, member: str, *, lease_us: int = 10_000_000) -> MemoryMembership:
        """Joins the group that shares out the partitions of a topic."""
        if topic not in self._settings:
            raise self._unknown(topic)
        return MemoryMembership(self, group, topic, member)

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """The group's committed next offsets."""
        return dict(self._offsets.get(group, {}))

    def groups(self) -> list[str]:
        """Groups that committed an offset."""
        return sorted(self._offsets)

    def close(self) -> None:
        """Nothing to let go of."""

    def _at(self, place: TopicPartition) -> _Partition:
        if place not in self._partitions:
            if place.topic in self._settings:
                raise UnknownTopic(
                    f"topic '{place.topic}' has no partition {place.partition}",
                    hint=f"it has {self._settings[place.topic].partitions}",
                )
            raise self._unknown(place.topic)
        return self._partitions[place]

    def _unknown(self, topic: str) -> UnknownTopic:
        return UnknownTopic(f"the log has no topic '{topic}'", hint=did_you_mean(topic, self._settings))


class MemoryTransaction:
    """Appends and offsets that become visible together."""

    def __init__(self, producer: MemoryProducer) -> None:
        self._producer = producer
        self._blocks: list[Block] = []
        self._offsets: list[tuple[str, Mapping[TopicPartition, int], Membership | None, tuple[int, ...]]] = []

    def append(self, block: Block) -> None:
        """Adds records (visible after `commit`)."""
        self._producer.log._at(TopicPartition(block.topic, block.partition))
        self._blocks.append(block)

    def commit_offsets(
        self,
        group: str,
        offsets: Mapping[TopicPartition, int],
        *,
        membership: Membership | None = None,
        owned: Iterable[int] = (),
    ) -> None:
        """Commits next offsets to read."""
        self._offsets.append((group, dict(offsets), membership, tuple(owned)))

    def commit(self) -> dict[TopicPartition, tuple[int, int]]:
        """Makes all of it visible, or raises Fenced and changes nothing."""
        log = self._producer.log
        self._producer.check()
        for _, _, membership, owned in self._offsets:
            if isinstance(membership, MemoryMembership):
                membership.check(owned)
        ranges: dict[TopicPartition, tuple[int, int]] = {}
        for block in self._blocks:
            n = len(block)
            if not n:
                continue
            place = TopicPartition(block.topic, block.partition)
            have = log._at(place)
            # Append times never go back, also when the clock does.
            have.newest = max(have.newest, log.now)
            stamps = block.timestamps if block.timestamps.size else np.full(n, have.newest, np.int64)
            have.blocks.append(replace(block, offsets=np.arange(have.end, have.end + n), timestamps=stamps))
            ranges[place] = (ranges.get(place, (have.end, 0))[0], have.end + n)
            have.end += n
        for group, offsets, _, _ in self._offsets:
            log._offsets.setdefault(group, {}).update(offsets)
        self._producer.open = None
        return ranges

    def abort(self) -> None:
        """Leaves no trace."""
        self._blocks.clear()
        self._offsets.clear()
        self._producer.open = None


class MemoryProducer:
    """Writes under a transactional id."""

    def __init__(self, log: MemoryLog, transactional_id: str, epoch: int) -> None:
        self.log = log
        self.open: MemoryTransaction | None = None
        self._id = transactional_id
        self._epoch = epoch

    def check(self) -> None:
        """Raises Fenced if a newer producer has the id."""
        if self.log._epochs[self._id] != self._epoch:
            raise Fenced(f"another producer opened '{self._id}'", hint="only one worker may run under an id")

    def begin(self) -> MemoryTransaction:
        """A new transaction."""
        self.check()
        if self.open is not None:
            raise LogError(f"'{self._id}' has an open transaction", hint="commit or abort it first")
        self.open = MemoryTransaction(self)
        return self.open

    def close(self) -> None:
        """Aborts what is open."""
        if self.open is not None:
            self.open.abort()


class MemoryMembership:
    """A place in a group; shares move when members come and go."""

    def __init__(self, log: MemoryLog, group: str, topic: str, member: str) -> None:
        self._log = log
        self._topic = topic
        self._member = member
        self._key = (group, topic)
        self._group = log._groups.setdefault(self._key, _Group())
        self._seen = 0
        self._group.members.setdefault(member, set())
        self._group.generation += 1

    @property
    def member(self) -> str:
        """The member's id."""
        return self._member

    @property
    def generation(self) -> int:
        """The generation that the last `poll` saw."""
        return self._seen

    def poll(self) -> frozenset[int]:
        """The partitions that are this member's now."""
        members = self._group.members
        if self._member not in members:
            raise Fenced(f"'{self._member}' left the group", hint="join again")
        count = self._log.topics()[self._topic].partitions
        names = sorted(members)
        target = {p for p in range(count) if names[p % len(names)] == self._member}
        taken = {p for name, mine in members.items() if name != self._member for p in mine}
        keep = members[self._member] & target
        members[self._member] |= target - taken
        self._seen = self._group.generation
        return frozenset(keep | (target - taken))

    def renew(self) -> None:
        """Nothing runs out here."""
        self.poll()

    def released(self, partitions: Iterable[int]) -> None:
        """The work on these partitions is finished."""
        self._group.members[self._member] -= set(partitions)
        self._group.generation += 1

    def leave(self) -> None:
        """Gives everything back."""
        self._group.members.pop(self._member, None)
        self._group.generation += 1

    def check(self, owned: Iterable[int]) -> None:
        """Raises Fenced unless the member has these partitions in the current generation."""
        mine = self._group.members.get(self._member)
        if mine is None or not set(owned) <= mine:
            raise Fenced(
                f"'{self._member}' does not own {sorted(owned)} any more", hint="poll the group, and restore the tasks"
            )


def _empty(place: TopicPartition) -> Block:
    none = np.empty(0, np.int64)
    headers: tuple[HeaderColumn, ...] = ()
    return Block(place.topic, place.partition, none, none, np.empty(0, np.uint8), none, none, none, none, headers)
