"""Checkpoints on a compacted topic of the log itself: no disk to share, no second system to run.

Blocks are written first and the manifest last, each in small transactions of a producer of its own, never in that of
the steps. One scan builds an index of names and offsets, later calls take in what was added; bytes are read when they
are asked for. See `checkpoint_records` for what lies in the topic.

Deleting is done by whoever saves a checkpoint, and several may: also one that lost its task an hour ago and wakes up in
the middle of it. So a block goes in two steps. First its name is announced (a doom); from then on nobody builds a new
checkpoint on it, and who needs its content puts it again, under another name. Then the manifests are read once more: a
block that one of them names stays, for its manifest may lie before the announcement. A manifest that lies behind it
is withdrawn by its own writer, who sees the announcement when it reads up to what it wrote. So either the deleter sees
the manifest or the writer the doom, whatever stands still for however long.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from connectors.checkpoint_index import TopicIndex
from connectors.checkpoint_records import (
    block_name,
    block_of_name,
    manifest_name,
    piece_count,
    pieces_of,
    plain,
    task_step_seal,
)
from connectors.checkpoints import manifest_body, manifest_of
from streamproc.errors import (
    CorruptLog,
    CorruptSnapshot,
    Fenced,
    LogBusy,
    LogError,
    LogUnavailable,
    OffsetOutOfRange,
    UnknownOutcome,
)
from streamproc.hashing import content_id
from streamproc.ports import Block, CheckpointManifest, Log, Producer, TopicPartition, TopicSettings, block_of

_HOUR: Final = 3600.0
_SWEEP_S: Final = 300.0
_SWEEP_PATIENCE_S: Final = 600.0
_SWEPT_AT_ONCE: Final = 4_000
_DOOM_S: Final = 24 * _HOUR
_STALE_S: Final = 12 * _HOUR
"""An index that was not brought up to date for so long may have missed tombstones: it is built anew."""
_TRANSACTION_BYTES: Final = 8 << 20
_SCAN_RECORDS: Final = 65_536
_AHEAD_RECORDS: Final = 128
_AHEAD_BYTES: Final = 8 << 20
_BUSY_COMMITS: Final = 3
_COMMITTED_US: Final = 10_000_000
_OLDER: Final = "resume from an older checkpoint, the journal re-executes what came after it"

Record = tuple[bytes, bytes | None]


class TopicCheckpoints:
    """A checkpoint store (`streamproc.ports.CheckpointStore`) in a compacted topic.

    topic    created with the first checkpoint: one partition, compacted
    member   who writes: its transactional id is "<topic>.<member>", so a restart fences its older self
    clock    seconds since 1970, compared with the log's stamps by `discard` alone
    damaged  names of manifests that the last `manifests` call left out

    Writing raises LogUnavailable where it is not known that a checkpoint was stored; the next one is none the worse.
    """

    def __init__(self, log: Log, topic: str, member: str, *, clock: Callable[[], float] = time.time) -> None:
        self._log, self._clock = log, clock
        self._place = TopicPartition(topic, 0)
        self._member = member
        self._producer: Producer | None = None
        self._index = TopicIndex()
        self._at: int | None = None
        self._holes = False
        self._followed = clock()
        self._swept = float("-inf")
        self._relied: dict[str, float] = {}
        self._listed: dict[str, list[str]] = {}
        self._ahead: Block | None = None
        self.damaged: tuple[str, ...] = ()

    def close(self) -> None:
        """Lets go of the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    # ── the port ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def put_blocks(self, blocks: Mapping[str, bytes]) -> int:
        """Stores the blocks that are not there yet, durably; gives how many bytes were new (before compression)."""
        self._follow()
        missing = []
        now = self._clock()
        for content in blocks:
            name = self._index.sound_block(content)
            if name is None:
                missing.append(content)
            else:
                self._relied[name] = now
        records: list[Record] = []
        size = 0
        for content in missing:
            records += pieces_of(block_name(content, uuid.uuid4().hex[:12]), blocks[content])
            size += len(blocks[content])
            if size >= _TRANSACTION_BYTES:
                self._write(records)
                records, size = [], 0
        self._write(records)
        return sum(len(blocks[content]) for content in missing)

    def get_block(self, content_id: str) -> bytes:
        """A block whose bytes match its id.  Raises CorruptSnapshot, naming the place, if it is missing or damaged."""
        for again in (False, True):
            if again or self._at is None:
                self._follow()
            for name in self._index.blocks_with(content_id):
                data = self._read(name)
                if data is not None and _fits(data, content_id):
                    return data
        damaged = [name for name in self._index.blocks_with(content_id) if self._index.stored(name) is not None]
        what = f"is damaged: {self._where(damaged[0])}" if damaged else "is missing"
        raise CorruptSnapshot(f"checkpoint block {content_id} in topic '{self._place.topic}' {what}", hint=_OLDER)

    def put_manifest(self, manifest: CheckpointManifest) -> None:
        """Publishes a checkpoint, durably and atomically; its blocks must be stored before.

        Raises LogUnavailable if one of its blocks was deleted meanwhile: then nothing was published.
        """
        self._follow()
        named = {block for _, _, blocks in manifest.arrays.values() for block in blocks}
        self._require(manifest, named)
        body = manifest_body(manifest)
        name = manifest_name(manifest.task, manifest.step, body)
        self._write(list(pieces_of(name, body)))
        try:
            self._require(manifest, named)
        except LogUnavailable:
            self._write(self._tombstones([name]))
            raise

    def manifests(self, task: str) -> list[CheckpointManifest]:
        """The task's readable manifests, newest step first; damaged ones are left out and listed in `damaged`."""
        self._follow()
        readable, damaged = [], []
        self._listed[task] = self._index.manifests(task)
        for name in self._listed[task]:
            manifest = self._manifest(name)
            if manifest is None:
                damaged.append(name)
            else:
                readable.append(manifest)
        self.damaged = tuple(damaged)
        return readable

    def discard(self, task: str, *, keep_steps: Iterable[int]) -> None:
        """Deletes the task's other manifests, then blocks that no manifest names and that are older than an hour.

        Of manifests only those go that the last `manifests` call saw: what a new owner published since then is none of
        a late caller's business. Blocks are looked at once in five minutes, and not at all while a manifest of any task
        cannot be read: nobody knows which ones it names.
        """
        seen = self._listed.pop(task, None)
        if seen is None:
            self._follow()
            seen = self._index.manifests(task)
        keep = set(keep_steps)
        gone = [name for name in seen if (said := task_step_seal(name)) is not None and said[1] not in keep]
        self._write(self._tombstones(gone))
        now = self._clock()
        if self._swept <= now < self._swept + _SWEEP_S:
            return
        self._swept = now
        while self._sweep():
            """There may be more than one announcement takes."""

    def tasks(self) -> list[str]:
        """The tasks that have manifests, by name."""
        self._follow()
        return self._index.tasks()

    # ── deleting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _sweep(self) -> bool:
        """Deletes old blocks that nobody names; whether there are more of them."""
        self._follow()
        began = self._clock()
        self._relied = {name: at for name, at in self._relied.items() if at > began - _HOUR}
        old = [name for name in self._index.old_blocks(int((began - _HOUR) * 1e6)) if name not in self._relied]
        named = self._named()
        if named is None:
            return False
        going = sorted(name for name in old if block_of_name(name) not in named)
        many, going = len(going) > _SWEPT_AT_ONCE, going[:_SWEPT_AT_ONCE]
        past = self._index.old_dooms(int((began - _DOOM_S) * 1e6))
        if not going:
            self._write(self._tombstones(past))
            return False
        doom = f"doom/{uuid.uuid4().hex[:12]}"
        self._write(list(pieces_of(doom, "\n".join(going).encode())))
        named = self._named()
        if named is None:
            return False
        gone = [name for name in going if block_of_name(name) not in named]
        records: list[Record] = [*self._tombstones([*gone, *past])]
        records += pieces_of(doom, "\n".join(gone).encode()) if gone else self._tombstones([doom])
        # Announcements end after a day. Who stood still here for long must begin again.
        self._write(records, still=lambda: abs(self._clock() - began) < _SWEEP_PATIENCE_S)
        return many and bool(gone)

    def _named(self) -> set[str] | None:
        """Content ids that some manifest names; None if one cannot be read."""
        if self._holes:
            return None
        named: set[str] = set()
        for task in self._index.tasks():
            for name in self._index.manifests(task):
                manifest = self._manifest(name)
                if manifest is None:
                    return None
                named.update(block for _, _, blocks in manifest.arrays.values() for block in blocks)
        return named

    def _tombstones(self, names: Iterable[str]) -> list[Record]:
        stored = ((name, self._index.stored(name)) for name in names)
        return [
            (f"{name}/{piece}".encode(), None) for name, found in stored if found for piece in sorted(found.offsets)
        ]

    def _require(self, manifest: CheckpointManifest, named: set[str]) -> None:
        if missing := sorted(content for content in named if self._index.sound_block(content) is None):
            raise LogUnavailable(
                f"the checkpoint of {manifest.task} at step {manifest.step} is not published: {len(missing)} of its "
                f"blocks ({missing[0]}, ...) are not in topic '{self._place.topic}' any more",
                hint="the next checkpoint stores them again",
            )

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _follow(self, least: int = 0) -> None:
        """Brings the index up to what is committed, at least up to an offset that is known to be."""
        now = self._clock()
        if abs(now - self._followed) > _STALE_S:
            self._forget()
        self._followed = now
        if self._at is None:
            if self._place.topic not in self._log.topics():
                return
            self._at = self._log.start_offset(self._place)
        try:
            while self._at != (end := self._log.end_offset(self._place)) or self._at < least:
                if self._at == end and not self._log.wait({self._place: self._at}, _COMMITTED_US):
                    raise LogUnavailable(
                        f"what was committed to '{self._place.topic}' cannot be read yet", hint="try again later"
                    )
                self._at = self._take(self._at, end)
        except OffsetOutOfRange:
            # Somebody deleted records, or the topic: what is there now counts.
            self._forget()
            self._follow(least)

    def _take(self, offset: int, end: int) -> int:
        """Takes in records from an offset on; gives the offset after them."""
        try:
            block = self._records(offset, _SCAN_RECORDS)
        except CorruptLog:
            # What lies in a damaged part is missing; what lies behind it is not.
            self._holes = True
            return self._beyond(offset, end)
        if block.unreadable:
            self._holes = True
        self._index.take(block)
        return int(block.offsets[-1]) + 1 if len(block) else max(end, offset)

    def _records(self, offset: int, most: int) -> Block:
        """Records from an offset on; a damaged one among them ends them early. CorruptLog if it is the first."""
        while True:
            try:
                return self._log.read(self._place, offset, max_records=most, max_bytes=_AHEAD_BYTES)
            except CorruptLog:
                if most == 1:
                    raise
                most = max(1, most // 8)

    def _beyond(self, offset: int, end: int) -> int:
        """An offset behind a damaged part from which on can be read again, the end if there is none."""
        bad, step = offset, 1
        while bad + step < end and not self._is_readable(bad + step):
            bad, step = bad + step, 2 * step
        good = min(bad + step, end)
        while bad + 1 < good:
            middle = (bad + good) // 2
            bad, good = (bad, middle) if self._is_readable(middle) else (middle, good)
        return good

    def _is_readable(self, offset: int) -> bool:
        try:
            self._log.read(self._place, offset, max_records=1)
        except CorruptLog:
            return False
        return True

    def _forget(self) -> None:
        self._index, self._at, self._ahead, self._holes = TopicIndex(), None, None, False

    def _read(self, name: str) -> bytes | None:
        """The bytes of a name, None if a piece is missing or damaged."""
        stored = self._index.stored(name)
        if stored is None or not stored.is_whole:
            return None
        parts = []
        for piece in range(stored.count):
            value = self._value(stored.offsets[piece], f"{name}/{piece}".encode())
            if value is None:
                return None
            parts.append(plain(value))
        return b"".join(parts)

    def _value(self, offset: int, key: bytes) -> bytes | None:
        """The sound value of the record at an offset, None if another or nothing sound lies there.

        Blocks of a checkpoint lie behind each other mostly, so what follows is read with it.
        """
        block = self._ahead
        row = -1 if block is None else _row_of(block, offset)
        if block is None or row < 0:
            try:
                block = self._records(offset, _AHEAD_RECORDS)
            except (CorruptLog, OffsetOutOfRange):
                return None
            row = _row_of(block, offset)
        self._ahead = block
        if row < 0 or block.key(row) != key:
            return None
        value = block.value(row)
        return value if value is not None and piece_count(key, value) else None

    def _manifest(self, name: str) -> CheckpointManifest | None:
        body = self._read(name)
        said = task_step_seal(name)
        if body is None or said is None or content_id(body) != said[2]:
            return None
        manifest = manifest_of(body)
        return manifest if (manifest.task, manifest.step) == said[:2] else None

    def _where(self, name: str) -> str:
        stored = self._index.stored(name)
        offsets = sorted(stored.offsets.values()) if stored is not None else []
        return f"'{name}' at offset {', '.join(map(str, offsets))}"

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _write(self, records: Sequence[Record], *, still: Callable[[], bool] = lambda: True) -> None:
        """Commits records and takes them into the index; nothing if `still` denies it once the transaction is open."""
        if not records:
            return
        if self._at is None:
            self._log.create_topic(self._place.topic, TopicSettings(compacted=True, append_time=True))
        if self._producer is None:
            self._producer = self._log.producer(f"{self._place.topic}.{self._member}")
        try:
            transaction = self._producer.begin()
            try:
                if not still():
                    transaction.abort()
                    return
                keys, values = [key for key, _ in records], [value for _, value in records]
                transaction.append(block_of(*self._place, values, keys=keys))
                for _ in range(_BUSY_COMMITS):
                    with contextlib.suppress(LogBusy):
                        ranges = transaction.commit()
                        break
                else:
                    ranges = transaction.commit()
            except LogError as error:
                if not isinstance(error, UnknownOutcome):
                    transaction.abort()
                raise
        except (LogBusy, UnknownOutcome) as error:
            self._let_go()
            raise LogUnavailable(
                f"it is not known whether a checkpoint was stored in '{self._place.topic}': {error.message}",
                hint="the next one will be",
            ) from error
        except (Fenced, LogUnavailable):
            self._let_go()
            raise
        self._follow(ranges[self._place][1])

    def _let_go(self) -> None:
        with contextlib.suppress(LogError):
            self.close()


def _row_of(block: Block, offset: int) -> int:
    row = int(np.searchsorted(block.offsets, offset))
    return row if row < len(block) and int(block.offsets[row]) == offset else -1


def _fits(data: bytes, content: str) -> bool:
    return content_id(data) == content
