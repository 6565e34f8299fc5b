"""Key bytes to dense slots, which index the owner's columns.

A slot has one record of 64 bytes, a cache line: where its bytes lie, how long they are, their first 8 bytes, their
hash, and the next 32 bytes.  All bytes lie in an arena too.  Bytes decide whether keys are equal, never only the hash.
A hit on a key of up to 40 bytes touches one cell of the index and one record: each is a wait for memory where the table
is large, and a third one, in the arena, would make the look-up half as dear again.

A freed slot keeps its room in the arena for the next key that gets the slot; a key that is too long for it gets a new
room of at least twice the size.  So the arena never holds more than twice the largest room of each slot, and nothing
ever has to be compacted, which would be a pause.
"""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from streamproc import slot_index as si
from streamproc.batch import Keys
from streamproc.columns import grow, next_rows, ready_a_page
from streamproc.errors import StateError
from streamproc.hashing import Bytes, Int64s, UInt64s, frozen, hash_bytes, load64
from streamproc.kernels import inlined, tight
from streamproc.key_order import key_prefix, key_prefixes, sort_keys

_START: Final = 0
_SIZE: Final = 1  # room << 32 | length + 1; a length field of 0 means that the slot is free
_PREFIX: Final = 2
_HASH: Final = 3
_WORDS: Final = 8
_NEXT: Final = 4
"""Where the bytes after the first 8 begin in a record, zero behind the key's end."""
_NEAR: Final = 8 + 8 * (_WORDS - _NEXT)
"""Bytes of a key that its record holds."""
_LOW: Final = 0xFFFFFFFF

Flags = npt.NDArray[np.bool_]


class KeyArrays(NamedTuple):
    """What kernels get of a KeyTable.

    cells, old  uint64[*]        the index, see `slot_index`
    records     int64[slots, 8]  where the bytes lie, room and length, first 8 bytes (big-endian), hash, bytes 8 to 40
    arena       uint8[*]         key bytes
    free        int64[slots]     stack of freed slots
    head        int64[8]         counters, see `slot_index`
    """

    cells: UInt64s
    old: UInt64s
    records: Int64s
    arena: Bytes
    free: Int64s
    head: Int64s


@inlined
def _same(records: Int64s, arena: Bytes, slot: int, buffer: Bytes, start: int, end: int, prefix: int) -> bool:
    length = end - start
    if records[slot, _PREFIX] != prefix or (records[slot, _SIZE] & _LOW) != length + 1:
        return False
    if length <= 8:
        return True
    if length < 16:
        tail = load64(buffer, end - 8) >> np.uint64(8 * (16 - length))
        return np.uint64(records[slot, _NEXT]) == tail
    # Places in the record are counted in bytes, from where the key's byte 0 would be.
    base = 8 * (_WORDS * slot + _NEXT) - 8
    near = min(length, _NEAR)
    at = 8
    while at + 8 <= near:
        if load64(records, base + at) != load64(buffer, start + at):
            return False
        at += 8
    if length <= _NEAR:
        return at == length or load64(records, base + length - 8) == load64(buffer, end - 8)
    base = records[slot, _START]
    while at + 8 <= length:
        if load64(arena, base + at) != load64(buffer, start + at):
            return False
        at += 8
    return at == length or load64(arena, base + length - 8) == load64(buffer, end - 8)


@inlined
def _keep_near(records: Int64s, slot: int, buffer: Bytes, start: int, end: int) -> None:
    """Writes bytes 8 to 40 of a key into its record."""
    for word in range(_WORDS - _NEXT):
        at = start + 8 + 8 * word
        if at + 8 <= end:
            records[slot, _NEXT + word] = np.int64(load64(buffer, at))
        elif at < end and end - start >= 8:
            records[slot, _NEXT + word] = np.int64(load64(buffer, end - 8) >> np.uint64(8 * (8 - (end - at))))
        else:
            records[slot, _NEXT + word] = 0


@inlined
def _search(
    index: UInt64s, records: Int64s, arena: Bytes, hash32: np.uint64,
    buffer: Bytes, start: int, end: int, prefix: int,
) -> int:  # fmt: skip
    if index.size == 0:
        return -1
    at = si.home(index, hash32)
    while index[at] != 0:
        if index[at] >> np.uint64(32) == hash32:
            slot = np.int64(index[at] & np.uint64(_LOW)) - 1
            if _same(records, arena, slot, buffer, start, end, prefix):
                return slot
        at += 1
        if at == index.size:
            at = 0
    return -1


@inlined
def _look_ahead(
    index: UInt64s, old: UInt64s, head: Int64s, records: Int64s, hashes: UInt64s, slots: Int64s, i: int
) -> None:
    """Fetches what rows some way ahead will need: cells, then records.  Their `slots` hold candidates."""
    far, near = i + 2 * si.AHEAD, i + si.AHEAD
    if far < hashes.size:
        si.prefetch_home(index, old, head, hashes[far] >> np.uint64(32))
    if near < hashes.size:
        slots[near] = si.candidate(index, old, head, hashes[near] >> np.uint64(32))
        if slots[near] >= 0:
            si.prefetch(records, _WORDS * slots[near])


@inlined
def _look_first(index: UInt64s, old: UInt64s, head: Int64s, hashes: UInt64s, slots: Int64s, first: int) -> None:
    for i in range(first, min(first + si.AHEAD, hashes.size)):
        slots[i] = si.candidate(index, old, head, hashes[i] >> np.uint64(32))


@tight
def _put(records: Int64s, arena: Bytes, head: Int64s, slot: int, buffer: Bytes, start: int, end: int) -> bool:
    """Writes a key's bytes into its slot's room, or a new one; False, and nothing done, if the arena is too small."""
    length = end - start
    base = records[slot, _START]
    room = records[slot, _SIZE] >> 32
    if length > room:
        room = max((length + 7) & ~7, 2 * room)
        base = head[si.ARENA]
        if base + room > arena.size:
            return False
        head[si.ARENA] = base + room
    for k in range(length):
        arena[base + k] = buffer[start + k]
    for k in range(length, room):
        arena[base + k] = 0
    records[slot, _START] = base
    records[slot, _SIZE] = (room << 32) | (length + 1)
    return True


@tight
def _intern(
    table: KeyArrays, buffer: Bytes, starts: Int64s, ends: Int64s, hashes: UInt64s, prefixes: Int64s,
    first: int, slots: Int64s, fresh: Flags,
) -> int:  # fmt: skip
    index, old, records, arena, free, head = table
    si.move_cells(index, old, head, starts.size - first)
    _look_first(index, old, head, hashes, slots, first)
    for i in range(first, starts.size):
        _look_ahead(index, old, head, records, hashes, slots, i)
        hash32 = hashes[i] >> np.uint64(32)
        prefix = prefixes[i]
        slot = slots[i]
        if slot < 0 or not _same(records, arena, slot, buffer, starts[i], ends[i], prefix):
            slot = _search(index, records, arena, hash32, buffer, starts[i], ends[i], prefix)
        if slot < 0:
            slot = _search(old, records, arena, hash32, buffer, starts[i], ends[i], prefix)
        if slot < 0:
            if not si.has_room(index, records.shape[0], head):
                return i
            slot = si.next_slot(free, head)
            if slot == head[si.USED]:
                records[slot, _START] = 0
                records[slot, _SIZE] = 0
            if not _put(records, arena, head, slot, buffer, starts[i], ends[i]):
                return i
            si.take_slot(free, head)
            records[slot, _PREFIX] = prefix
            records[slot, _HASH] = np.int64(hashes[i])
            _keep_near(records, slot, buffer, starts[i], ends[i])
            si.insert_cell(index, old, head, hash32, slot)
            fresh[i] = True
        slots[i] = slot
    return starts.size


@tight
def _find(
    table: KeyArrays, buffer: Bytes, starts: Int64s, ends: Int64s, hashes: UInt64s, prefixes: Int64s, slots: Int64s
) -> None:
    index, old, records, arena, _, head = table
    _look_first(index, old, head, hashes, slots, 0)
    for i in range(starts.size):
        _look_ahead(index, old, head, records, hashes, slots, i)
        hash32 = hashes[i] >> np.uint64(32)
        prefix = prefixes[i]
        slot = slots[i]
        if slot < 0 or not _same(records, arena, slot, buffer, starts[i], ends[i], prefix):
            slot = _search(index, records, arena, hash32, buffer, starts[i], ends[i], prefix)
        if slot < 0:
            slot = _search(old, records, arena, hash32, buffer, starts[i], ends[i], prefix)
        slots[i] = slot


@tight
def _release(table: KeyArrays, slots: Int64s) -> int:
    index, old, records, _, free, head = table
    for i in range(slots.size):
        slot = slots[i]
        if slot < 0 or slot >= head[si.USED] or (records[slot, _SIZE] & _LOW) == 0:
            return i
        si.remove_cell(index, old, np.uint64(records[slot, _HASH]) >> np.uint64(32), slot)
        records[slot, _SIZE] = (records[slot, _SIZE] >> 32) << 32
        si.give_slot(free, head, slot)
    return slots.size


@tight
def _gather(records: Int64s, arena: Bytes, slots: Int64s, bounds: Int64s, out: Bytes) -> None:
    for i in range(slots.size):
        base = records[slots[i], _START]
        for k in range(bounds[i + 1] - bounds[i]):
            out[bounds[i] + k] = arena[base + k]


@tight
def _rebuild(table: KeyArrays, hashes: UInt64s) -> None:
    index, old, records, arena, _, head = table
    for slot in range(head[si.USED]):
        size = records[slot, _SIZE] & _LOW
        if size != 0:
            start = records[slot, _START]
            records[slot, _PREFIX] = np.int64(key_prefix(arena, start, start + size - 1))
            records[slot, _HASH] = np.int64(hashes[slot])
            _keep_near(records, slot, arena, start, start + size - 1)
            si.insert_cell(index, old, head, hashes[slot] >> np.uint64(32), slot)


class KeyTable:
    """Keys to slots 0, 1, 2, ...; freed slots are taken again, the last freed one first.

    The owner keeps its columns at `capacity` rows (`grow(column, table.capacity)`) and clears what a new key finds.

    >>> from streamproc.keys import keys_of
    >>> import polars as pl
    >>> table = KeyTable()
    >>> table.intern(keys_of(pl.DataFrame({"card": ["x", "y", "x"]}), ["card"]))
    array([0, 1, 0])
    """

    __slots__ = ("_index", "arrays")
    EXPORTED: ClassVar = ("arena", "starts", "lengths", "rooms", "free")

    def __init__(self) -> None:
        self._index = si.GrowingIndex()
        self.arrays = KeyArrays(
            self._index.cells, self._index.old, np.zeros((0, _WORDS), np.int64), np.zeros(0, np.uint8),
            np.zeros(0, np.int64), np.zeros(si.HEAD, np.int64),
        )  # fmt: skip

    @property
    def live(self) -> int:
        """Keys held."""
        return int(self.arrays.head[si.LIVE])

    @property
    def used(self) -> int:
        """Slots ever handed out: all slots are below it."""
        return int(self.arrays.head[si.USED])

    @property
    def capacity(self) -> int:
        """Rows that a column of the owner needs now; grows by doubling, then by 2^16."""
        return self.arrays.records.shape[0]

    def intern(self, keys: Keys) -> Int64s:
        """The slot of each row's key; new keys get one in order of appearance.  Cost O(1) a row.

        Look at `capacity` afterwards.  The pause for growing is bounded, whatever the number of keys.
        """
        return self.intern_marked(keys)[0]

    def intern_marked(self, keys: Keys) -> tuple[Int64s, Flags]:
        """As `intern`, and which rows brought a new key: the owner clears what an earlier key left in their slots."""
        buffer, starts, ends, hashes, prefixes = _plain(keys)
        slots, fresh = np.empty(starts.size, np.int64), np.zeros(starts.size, np.bool_)
        self._make_room(0, 0)
        at = _intern(self.arrays, buffer, starts, ends, hashes, prefixes, 0, slots, fresh)
        while at < starts.size:
            self._make_room(1, int(ends[at] - starts[at]))
            at = _intern(self.arrays, buffer, starts, ends, hashes, prefixes, at, slots, fresh)
        return slots, fresh

    def find(self, keys: Keys) -> Int64s:
        """The slot of each row's key, -1 where it has none."""
        buffer, starts, ends, hashes, prefixes = _plain(keys)
        slots = np.empty(starts.size, np.int64)
        _find(self.arrays, buffer, starts, ends, hashes, prefixes, slots)
        return slots

    def release(self, slots: Int64s) -> None:
        """Frees distinct slots in the order given; raises StateError for one that is not in use."""
        done = _release(self.arrays, frozen(slots))
        if done < slots.size:
            raise StateError(f"slot {int(slots[done])} is not in use", hint="release each slot once")

    def order(self, slots: Int64s) -> Int64s:
        """The permutation that sorts slots by their key bytes (a shorter key before its extensions); stable.

        Cost O(n) passes over 8 bytes at a time, as deep as keys agree.
        """
        records = self.arrays.records[slots]
        starts = records[:, _START].copy()
        return sort_keys(self.arrays.arena, starts, starts + (records[:, _SIZE] & _LOW) - 1)

    def key_bytes(self, slots: Int64s) -> Keys:
        """The keys of slots in use, copied out."""
        records = self.arrays.records[slots]
        bounds = np.zeros(slots.size + 1, np.int64)
        np.cumsum((records[:, _SIZE] & _LOW) - 1, out=bounds[1:])
        out = np.empty(int(bounds[-1]), np.uint8)
        _gather(self.arrays.records, self.arrays.arena, frozen(slots), bounds, out)
        return Keys(out, bounds[:-1], bounds[1:], records[:, _HASH].copy().view(np.uint64))

    def key(self, slot: int) -> bytes:
        """The key of one slot in use."""
        start = int(self.arrays.records[slot, _START])
        return self.arrays.arena[start : start + (int(self.arrays.records[slot, _SIZE]) & _LOW) - 1].tobytes()

    def slots(self) -> Int64s:
        """The slots in use, ascending."""
        return np.flatnonzero(self.arrays.records[: self.used, _SIZE] & _LOW)

    def _make_room(self, count: int, length: int) -> None:
        t = self.arrays
        if not self._index.make_room(t.head, count):
            ready_a_page()
        records, free, arena = t.records, t.free, t.arena
        if count and t.head[si.FREE] == 0 and self.used == self.capacity:
            rows = next_rows(self.capacity, self.used + 1)
            records, free = grow(records, rows, fill=None), grow(free, rows, fill=None)
        # A reused slot may ask for twice its old room, which is less than twice the key's length.
        needed = int(t.head[si.ARENA]) + count * (2 * length + 8)
        if needed > arena.size:
            arena = grow(arena, 8 * next_rows(arena.size // 8, (needed + 7) // 8), fill=None)
        self.arrays = KeyArrays(self._index.cells, self._index.old, records, arena, free, t.head)

    def export(self) -> dict[str, npt.NDArray[Any]]:
        """Key bytes, bounds, room and free stack as arrays, without the index; a length of -1 marks a free slot."""
        t = self.arrays
        size = t.records[: self.used, _SIZE]
        return {
            "arena": t.arena[: int(t.head[si.ARENA])],
            "starts": t.records[: self.used, _START].copy(),
            "lengths": (size & _LOW) - 1,
            "rooms": size >> 32,
            "free": t.free[: int(t.head[si.FREE])],
        }

    @classmethod
    def restored(cls, arrays: dict[str, npt.NDArray[Any]], capacity: int) -> KeyTable:
        """The table of an export, with the same slots.  Cost O(slots + bytes)."""
        table = cls()
        starts, lengths, free = arrays["starts"], arrays["lengths"], arrays["free"]
        used, live = starts.size, int((lengths >= 0).sum())
        t = table.arrays
        table._index.make_room(t.head, live)
        t.head[si.LIVE], t.head[si.USED], t.head[si.FREE] = live, used, free.size
        t.head[si.ARENA] = arrays["arena"].size
        records, stack = grow(t.records, capacity), grow(t.free, capacity)
        arena = grow(t.arena, 8 * next_rows(0, (arrays["arena"].size + 7) // 8))
        arena[: arrays["arena"].size] = arrays["arena"]
        stack[: free.size] = free
        records[:used, _START] = starts
        records[:used, _SIZE] = (arrays["rooms"] << 32) | (lengths + 1)
        hashes = hash_bytes(arena, starts, starts + np.maximum(lengths, 0))
        table.arrays = KeyArrays(table._index.cells, table._index.old, records, arena, stack, t.head)
        _rebuild(table.arrays, hashes)
        return table


def _plain(keys: Keys) -> tuple[Bytes, Int64s, Int64s, UInt64s, Int64s]:
    # Prefixes are computed ahead: with few instructions a row, the processor waits for several rows at once.
    buffer, starts, ends = frozen(keys.buffer), frozen(keys.starts), frozen(keys.ends)
    prefixes = np.empty(starts.size, np.int64)
    key_prefixes(buffer, starts, ends, prefixes)
    return buffer, starts, ends, frozen(keys.hashes), frozen(prefixes)
