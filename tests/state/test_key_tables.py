"""Tables of keys and of pairs behave as dictionaries do, through growth, release and restore."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from byte_columns import SHORT_KEYS, keys_from, texts
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamproc import slot_index
from streamproc.errors import StateError
from streamproc.key_order import sort_keys
from streamproc.state import IntTable, KeyTable, export_state, import_state

PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 9) | st.integers(-(2**63), 2**63 - 1)), max_size=50)
Machine = settings(deadline=None, max_examples=40, stateful_step_count=20)


class SlotModel:
    """A dictionary with a stack of freed slots: what both tables must be."""

    def __init__(self) -> None:
        self.slots: dict[Hashable, int] = {}
        self.free: list[int] = []
        self.used = 0

    def intern(self, keys: Sequence[Hashable]) -> tuple[list[int], list[bool]]:
        fresh = []
        for key in keys:
            fresh.append(key not in self.slots)
            if key not in self.slots:
                self.slots[key] = self.free.pop() if self.free else self.used
                self.used = max(self.used, self.slots[key] + 1)
        return [self.slots[key] for key in keys], fresh

    def release(self, keys: Sequence[Hashable]) -> np.ndarray:
        gone = [self.slots.pop(key) for key in keys]
        self.free.extend(gone)
        return np.array(gone, np.int64)


class KeyTableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.model = KeyTable(), SlotModel()

    @rule(keys=st.lists(SHORT_KEYS, max_size=120))
    def intern(self, keys: list[bytes]) -> None:
        slots, fresh = self.table.intern_marked(keys_from(keys))
        assert (slots.tolist(), fresh.tolist()) == self.model.intern(keys)

    @rule(start=st.integers(0, 2000), count=st.integers(0, 300))
    def intern_many(self, start: int, count: int) -> None:
        self.intern([b"customer-%06d" % n for n in range(start, start + count)])

    @rule(keys=st.lists(SHORT_KEYS, max_size=30))
    def find(self, keys: list[bytes]) -> None:
        assert self.table.find(keys_from(keys)).tolist() == [self.model.slots.get(key, -1) for key in keys]

    @rule(data=st.data(), share=st.integers(1, 5))
    def release(self, data: st.DataObject, share: int) -> None:
        keys = list(self.model.slots)[data.draw(st.integers(0, 4)) :: share]
        self.table.release(self.model.release(keys))

    @rule()
    def restore(self) -> None:
        stored = {name: array.copy() for name, array in export_state(self.table).items()}
        self.table = import_state(KeyTable(), stored)
        again = export_state(self.table)
        assert {name: array.tobytes() for name, array in again.items()} == {n: a.tobytes() for n, a in stored.items()}

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert (self.table.live, self.table.used) == (len(self.model.slots), self.model.used)
        assert self.table.capacity >= self.table.used
        slots = np.array(list(self.model.slots.values()), np.int64)
        keys = list(self.model.slots)
        assert texts(self.table.key_bytes(slots)) == keys
        assert [keys[at] for at in self.table.order(slots)] == sorted(keys)
        assert self.table.slots().tolist() == sorted(slots.tolist())


class IntTableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.model = IntTable(), SlotModel()

    @rule(pairs=PAIRS)
    def intern(self, pairs: list[tuple[int, int]]) -> None:
        columns = np.array(pairs, np.int64).reshape(-1, 2)
        slots, fresh = self.table.intern_marked(columns[:, 0], columns[:, 1])
        assert (slots.tolist(), fresh.tolist()) == self.model.intern(pairs)

    @rule(start=st.integers(0, 2000), count=st.integers(0, 400))
    def intern_many(self, start: int, count: int) -> None:
        self.intern([(n % 7, n) for n in range(start, start + count)])

    @rule(start=st.integers(0, 2000))
    def find(self, start: int) -> None:
        pairs = [(n % 7, n) for n in range(start, start + 20)]
        found = self.table.find(*np.array(pairs).T)
        assert found.tolist() == [self.model.slots.get(pair, -1) for pair in pairs]

    @rule(share=st.integers(1, 4))
    def release(self, share: int) -> None:
        self.table.release(self.model.release(list(self.model.slots)[::share]))

    @rule()
    def restore(self) -> None:
        self.table = import_state(IntTable(), export_state(self.table))

    @rule(count=st.integers(0, 500))
    def reserve(self, count: int) -> None:
        self.table.reserve(count)
        t = self.table.arrays
        assert 2 * (self.table.live + count) <= t.cells.size
        assert self.table.used + max(0, count - t.free.size) <= self.table.capacity

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert (self.table.live, self.table.used) == (len(self.model.slots), self.model.used)
        slots = np.array(list(self.model.slots.values()), np.int64)
        assert list(zip(*(c.tolist() for c in self.table.pairs(slots)), strict=True)) == list(self.model.slots)
        assert self.table.slots().tolist() == sorted(slots.tolist())


TestKeyTable = KeyTableMachine.TestCase
TestKeyTable.settings = Machine
TestIntTable = IntTableMachine.TestCase
TestIntTable.settings = Machine


@settings(deadline=None, max_examples=100)
@given(st.lists(SHORT_KEYS | st.binary(max_size=40), max_size=200))
def test_sorting_keys_is_sorting_bytes_and_stable(values: list[bytes]) -> None:
    keys = keys_from(values)
    order = sort_keys(keys.buffer, keys.starts, keys.ends)
    assert order.tolist() == sorted(range(len(values)), key=values.__getitem__)


@pytest.mark.parametrize("shared", [b"", b"a prefix that is longer than two words "])
def test_sorting_many_keys_with_a_common_beginning(shared: bytes) -> None:
    random = np.random.default_rng(1)
    tails = [random.integers(97, 100, int(n)).astype(np.uint8) for n in random.integers(0, 30, 3000)]
    values = [shared + tail.tobytes() for tail in tails]
    keys = keys_from(values)
    assert sort_keys(keys.buffer, keys.starts, keys.ends).tolist() == sorted(range(3000), key=values.__getitem__)


def test_keys_whose_hashes_collide_are_told_apart_by_their_bytes() -> None:
    keys = keys_from([b"one", b"two", b"three and more than eight", b"three and more than nine!", b"one"])
    keys.hashes[:] = 2**63
    table = KeyTable()
    assert table.intern(keys).tolist() == [0, 1, 2, 3, 0]
    table.release(np.array([1]))
    assert table.find(keys).tolist() == [0, -1, 2, 3, 0]


@pytest.mark.parametrize("length", [*range(1, 19), 24, 25, 31, 32, 33, 39, 40, 41, 47, 48, 49, 57])
def test_one_byte_anywhere_tells_keys_apart_whatever_their_length(length: int) -> None:
    """A record holds the first bytes of a key, the arena all of them: no byte may fall between the two."""
    plain = bytes(range(65, 65 + length))
    values = [plain, plain[:-1], plain + b"\0", *(plain[:at] + b"\xff" + plain[at + 1 :] for at in range(length))]
    keys = keys_from(values)
    keys.hashes[:] = 7
    table = KeyTable()
    table.intern(keys_from([b"x" * 60]))
    table.release(np.array([0]))  # What the slot's next key does not cover must not stay.
    assert table.intern(keys).tolist() == list(range(len(values)))
    assert table.find(keys).tolist() == list(range(len(values)))
    restored = import_state(KeyTable(), export_state(table))
    assert restored.find(keys_from(values)).tolist() == list(range(len(values)))


@pytest.mark.parametrize("crowded", [2**64 - 1, 0])
def test_runs_of_cells_that_wrap_around_the_end_survive_growth_and_release(crowded: int) -> None:
    values = [b"%d" % n for n in range(400)]
    keys = keys_from(values)
    # Half of the keys have one home at an end of the index, where a run wraps around.
    keys.hashes[::2] = crowded
    table, model = KeyTable(), SlotModel()
    for start in range(0, 400, 25):
        rows = np.arange(start, start + 25)
        assert table.intern(keys.take(rows)).tolist() == model.intern(values[start : start + 25])[0]
        table.release(model.release(list(model.slots)[::5]))
        expected = [model.slots.get(value, -1) for value in values]
        assert table.find(keys).tolist() == expected


def test_a_slot_is_released_once() -> None:
    table = KeyTable()
    table.intern(keys_from([b"a"]))
    table.release(np.array([0]))
    for slot in (0, 1, -1):
        with pytest.raises(StateError, match=f"slot {slot} is not in use; release each slot once"):
            table.release(np.array([slot]))
    pairs = IntTable()
    with pytest.raises(StateError, match="slot 0 is not in use"):
        pairs.release(np.array([0]))


def test_keys_that_were_given_out_stay_when_their_slot_gets_another_key() -> None:
    table = KeyTable()
    given_out = table.key_bytes(table.intern(keys_from([b"before"])))
    table.release(np.array([0]))
    assert table.intern(keys_from([b"after!"])).tolist() == [0]
    assert texts(given_out) == [b"before"]


def test_changing_keys_in_the_same_slots_do_not_let_the_arena_grow() -> None:
    table = KeyTable()
    for n in range(500):
        slots = table.intern(keys_from([b"%0*d" % (1 + n % 16, n)]))
        table.release(slots)
    assert export_state(table)["arena"].size <= 64


def test_an_insertion_moves_few_cells_however_many_keys_there_are() -> None:
    table = IntTable()
    most = 0
    for n in range(60_000):
        before = int(table.arrays.head[slot_index.CURSOR]) if table.arrays.old.size else 0
        old = table.arrays.old
        table.reserve(1)
        if table.arrays.old is old and old.size:
            most = max(most, int(table.arrays.head[slot_index.CURSOR]) - before)
        one = np.array([n])
        table.intern(one, one)
    assert table.live == 60_000
    assert 0 < most <= 4096 + 200


def test_the_hash_of_a_key_stays_with_its_slot() -> None:
    keys = keys_from([b"a", b"b", b"c"])
    table = KeyTable()
    assert table.key_bytes(table.intern(keys)).hashes.tolist() == keys.hashes.tolist()
