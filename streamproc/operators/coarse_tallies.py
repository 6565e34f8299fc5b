"""Tallies that keep so many codes at most: beyond that codes are made coarser, and an estimate is read from them.

A slot holds a sorted *run* of codes. A run that would be longer than its bound goes one level up:

    values     code: the float's ordered bits but for the last ones, so that a code stands for an interval of a stated
               relative width. One level up the next bit goes too: intervals are twice as wide. Beside each code stands
               how many values fell there.
    set        level 0: the 64-bit hash of a value. Level 1: registers of a HyperLogLog, each with the largest place of
               a leading one among the hashes that fell there.

The level of a run is the least at which its codes fit, a function of what was seen: neither order, nor cut, nor the way
in which parts were merged can show. That is what quantile sketches with random choices (KLL) cannot give. Coarsening
all intervals at once is the uniform collapse of UDDSketch (Epicoco, Melle, Cafaro and Pulimeno, 2020) over the
intervals of DDSketch (Masson, Rim and Lee, 2019), here by bits of the float instead of logarithms, whose last bit
differs between machines.

Runs lie in blocks of powers of two in one arena; merging two of them is one pass over both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from streamproc.columns import grow, next_rows
from streamproc.errors import DefinitionError
from streamproc.hashing import UInt64s
from streamproc.kernels import inlined, kernel, tight
from streamproc.operators.accumulators import Reading
from streamproc.operators.hyperloglog import REGISTERS, VALUE_BITS, register_of
from streamproc.operators.values import Flags
from streamproc.ports import Int64s

START: Final = 0
SIZE: Final = 1
BLOCK: Final = 2
"""Its block holds 2**(this - 1) codes; 0 for none."""
LEVEL: Final = 3
"""Words of a run."""
_BLOCKS: Final = 40
_TOP: Final = _BLOCKS
"""Where the height of the arena stands, behind the first free block of each size."""

VALUES: Final = 0
SET: Final = 1


class RunArrays(NamedTuple):
    """The arrays of `CoarseTallies`, as kernels take them.

    shape    (VALUES or SET, bound, bits that level 0 leaves out of a float)
    scratch  int64[4, 2 * the longest run]: codes and numbers of two runs
    """

    runs: Int64s
    codes: Int64s
    numbers: Int64s
    blocks: Int64s
    shape: Int64s
    scratch: Int64s


@inlined
def _limit(t: RunArrays, level: int) -> int:
    return REGISTERS if t.shape[0] == SET and level > 0 else int(t.shape[1])


@inlined
def _same(t: RunArrays, level: int, a: int, b: int) -> bool:
    """Whether two codes of one level are one: registers are by their number."""
    return (a >> VALUE_BITS) == (b >> VALUE_BITS) if t.shape[0] == SET and level > 0 else a == b


@tight
def _coarser(t: RunArrays, at: int, size: int, level: int) -> int:
    """Brings the run in scratch rows `at` one level up, in place; its new size."""
    codes, numbers = t.scratch[at], t.scratch[at + 1]
    if t.shape[0] == SET and size == 1:
        codes[0] = register_of(np.uint64(codes[0]))
        return 1
    if t.shape[0] == SET:
        # Numbers are no use here: their row has room for the registers.
        for register in range(REGISTERS):
            numbers[register] = 0
        for i in range(size):
            entry = register_of(np.uint64(codes[i]))
            register = entry >> VALUE_BITS
            numbers[register] = max(numbers[register], entry)
        found = 0
        for register in range(REGISTERS):
            if numbers[register]:
                codes[found] = numbers[register]
                found += 1
        return found
    found = 0
    for i in range(size):
        code = codes[i] >> 1
        if found and codes[found - 1] == code:
            numbers[found - 1] += numbers[i]
        else:
            codes[found], numbers[found] = code, numbers[i]
            found += 1
    return found


@tight
def _load(t: RunArrays, slot: int, at: int, level: int) -> int:
    """Copies a run into scratch rows `at`, at a level of at least its own; its size there."""
    start, size, have = t.runs[slot, START], int(t.runs[slot, SIZE]), t.runs[slot, LEVEL]
    for i in range(size):
        t.scratch[at, i] = t.codes[start + i]
        if t.shape[0] == VALUES:
            t.scratch[at + 1, i] = t.numbers[start + i]
    while have < level:
        size = _coarser(t, at, size, have)
        have += 1
    return size


@inlined
def _give_back(t: RunArrays, slot: int) -> None:
    block = t.runs[slot, BLOCK]
    if block:
        t.codes[t.runs[slot, START]] = t.blocks[block - 1]
        t.blocks[block - 1] = t.runs[slot, START]
        t.runs[slot, BLOCK] = 0


@tight
def _store(t: RunArrays, slot: int, at: int, size: int, level: int) -> bool:
    """Makes scratch rows `at` the slot's run; False, with nothing changed, if the arena has no room."""
    block = 1
    while (1 << (block - 1)) < size:
        block += 1
    if t.runs[slot, BLOCK] != block:
        start = t.blocks[block - 1]
        if start >= 0:
            t.blocks[block - 1] = t.codes[start]
        else:
            start = t.blocks[_TOP]
            if start + (1 << (block - 1)) > t.codes.size:
                return False
            t.blocks[_TOP] += 1 << (block - 1)
        _give_back(t, slot)
        t.runs[slot, START], t.runs[slot, BLOCK] = start, block
    start = t.runs[slot, START]
    for i in range(size):
        t.codes[start + i] = t.scratch[at, i]
        if t.shape[0] == VALUES:
            t.numbers[start + i] = t.scratch[at + 1, i]
    t.runs[slot, SIZE], t.runs[slot, LEVEL] = size, level
    return True


@tight
def _merged(t: RunArrays, n: int, m: int, level: int) -> int:
    """The runs in scratch rows 0 and 2, both of this level, into rows 4; how many codes they have together."""
    i, j, found, counted = 0, 0, 0, t.shape[0] == VALUES
    while i < n or j < m:
        if i < n and j < m and _same(t, level, t.scratch[0, i], t.scratch[2, j]):
            t.scratch[4, found] = max(t.scratch[0, i], t.scratch[2, j])
            if counted:
                t.scratch[5, found] = t.scratch[1, i] + t.scratch[3, j]
            i, j = i + 1, j + 1
        elif j == m or (i < n and t.scratch[0, i] < t.scratch[2, j]):
            t.scratch[4, found] = t.scratch[0, i]
            if counted:
                t.scratch[5, found] = t.scratch[1, i]
            i += 1
        else:
            t.scratch[4, found] = t.scratch[2, j]
            if counted:
                t.scratch[5, found] = t.scratch[3, j]
            j += 1
        found += 1
    return found


@tight
def _one_more(t: RunArrays, slot: int, code: int, number: int) -> bool:
    """Puts one code, of the run's level, where it has room for it; False if it has none."""
    start, size, level = t.runs[slot, START], t.runs[slot, SIZE], t.runs[slot, LEVEL]
    low, high = 0, int(size)
    while low < high:
        middle = (low + high) >> 1
        if t.codes[start + middle] < code and not _same(t, level, t.codes[start + middle], code):
            low = middle + 1
        else:
            high = middle
    if low < size and _same(t, level, t.codes[start + low], code):
        t.codes[start + low] = max(t.codes[start + low], code)
        if t.shape[0] == VALUES:
            t.numbers[start + low] += number
        return True
    block = t.runs[slot, BLOCK]
    if block == 0 or size == 1 << (block - 1) or size == _limit(t, level):
        return False
    for i in range(start + size, start + low, -1):
        t.codes[i] = t.codes[i - 1]
        if t.shape[0] == VALUES:
            t.numbers[i] = t.numbers[i - 1]
    t.codes[start + low] = code
    if t.shape[0] == VALUES:
        t.numbers[start + low] = number
    t.runs[slot, SIZE] += 1
    return True


@tight
def _join(t: RunArrays, slot: int, m: int, level: int) -> bool:
    """Merges scratch rows 2, of this level, into a slot; False, with nothing changed, if the arena has no room."""
    n = 0
    if t.runs[slot, LEVEL] > level:
        have = t.runs[slot, LEVEL]
        while level < have:
            m = _coarser(t, 2, m, level)
            level += 1
    n = _load(t, slot, 0, level)
    size = _merged(t, n, m, level)
    while size > _limit(t, level):
        size = _coarser(t, 4, size, level)
        level += 1
    return _store(t, slot, 4, size, level)


@tight
def _merge(t: RunArrays, into: int, source: int) -> bool:
    size, level = t.runs[source, SIZE], t.runs[source, LEVEL]
    if size == 0:
        return True
    if size == 1 and t.runs[into, SIZE] and t.runs[into, LEVEL] >= level:
        _load(t, source, 2, t.runs[into, LEVEL])
        if _one_more(t, into, t.scratch[2, 0], t.scratch[3, 0]):
            return True
    return _join(t, into, _load(t, source, 2, level), level)


@tight
def _merge_all(t: RunArrays, into: Int64s, source: Int64s, start: int) -> int:
    for i in range(start, into.size):
        if not _merge(t, into[i], source[i]):
            return i
    return -1


@tight
def _add_all(t: RunArrays, slots: Int64s, codes: Int64s, valid: Flags, start: int) -> int:
    for i in range(start, slots.size):
        if valid[i]:
            t.scratch[2, 0], t.scratch[3, 0] = codes[i], 1
            slot, level = slots[i], 0
            if t.runs[slot, SIZE]:
                while level < t.runs[slot, LEVEL]:
                    _coarser(t, 2, 1, level)
                    level += 1
                if _one_more(t, slot, t.scratch[2, 0], 1):
                    continue
            if not _join(t, slot, 1, level):
                return i
    return -1


@kernel
def _clear_all(t: RunArrays, slots: Int64s) -> None:
    for i in range(slots.size):
        _give_back(t, slots[i])
        t.runs[slots[i], SIZE] = t.runs[slots[i], LEVEL] = 0


@dataclass(slots=True)
class CoarseTallies:
    """Runs of codes by slot; `shape` and the words of `runs` are as in `RunArrays`."""

    shape: Int64s
    runs: Int64s
    codes: Int64s
    numbers: Int64s
    blocks: Int64s

    def grow(self, slots: int) -> None:
        """Makes room; new slots are empty."""
        self.runs = grow(self.runs, slots)

    def add(self, slots: Int64s, values: Int64s | UInt64s, valid: Flags) -> None:
        """Takes in the valid ones: ordered codes of finite floats, or hashes."""
        codes = values.view(np.int64) if self.shape[0] == SET else values >> self.shape[2]
        arrays, at = self._arrays(), 0
        while (at := _add_all(arrays, slots, codes, valid, at)) >= 0:
            arrays = self._more_room()

    def add_each(self, slots: Int64s, values: Int64s, valid: Flags) -> Reading:
        """Refused: a reading is as long as a run."""
        raise DefinitionError("an estimate has no value per row of a window", hint="emit='close'")

    def merge(self, into: Int64s, source: Int64s) -> None:
        """Both together, at the level at which they fit."""
        arrays, at = self._arrays(), 0
        while (at := _merge_all(arrays, into, source, at)) >= 0:
            arrays = self._more_room()

    def clear(self, slots: Int64s) -> None:
        """Back to nothing."""
        _clear_all(self._arrays(), slots)

    def read(self, slots: Int64s) -> Reading:
        """(words of the runs, codes, numbers): where each run lies; good until the next change."""
        return self.runs[slots], self.codes, self.numbers

    def _arrays(self) -> RunArrays:
        longest = 2 * max(int(self.shape[1]), REGISTERS) + 1
        scratch = np.empty((6, longest), np.int64)
        return RunArrays(self.runs, self.codes, self.numbers, self.blocks, self.shape, scratch)

    def _more_room(self) -> RunArrays:
        longest = max(int(self.shape[1]), REGISTERS)
        rows = next_rows(self.codes.size, int(self.blocks[_TOP]) + 2 * longest)
        self.codes = grow(self.codes, rows)
        if self.shape[0] == VALUES:
            self.numbers = grow(self.numbers, rows)
        return self._arrays()


def _empty(kind: int, bound: int, dropped_bits: int) -> CoarseTallies:
    blocks = np.full(_BLOCKS + 1, -1, np.int64)
    blocks[_TOP] = 0
    none = np.zeros(0, np.int64)
    return CoarseTallies(
        np.array([kind, bound, dropped_bits], np.int64), np.zeros((0, 4), np.int64), none, none.copy(), blocks
    )


def coarse_values(bits: int, bound: int) -> CoarseTallies:
    """Values by their leading `bits` bits behind the first, `bound` >= 2 intervals at most.

    An interval is 2**-bits of its values wide; where more than `bound` of them hold a value, twice that, and so on.
    """
    return _empty(VALUES, bound, 52 - bits)


def coarse_set(bound: int) -> CoarseTallies:
    """Different values: up to `bound` of them by their hashes, beyond by registers."""
    return _empty(SET, bound, 0)


_REST: Final = np.int64(2**63 - 1)
_LARGEST: Final = np.int64(0x7FEFFFFFFFFFFFFF)
"""The ordered bits of the largest finite float; those of the smallest are its complement."""
_SMALLEST: Final = 2.2250738585072014e-308
"""Below it floats have fewer bits, so no relative width: zero stands for them."""


@inlined
def _as_float(code: np.int64) -> float:
    return float(np.int64(code ^ _REST if code < 0 else code).view(np.float64))


@tight
def _middle(code: int, shift: int) -> float:
    """What stands for an interval: the middle of its first and its last finite float."""
    low = np.int64(code) << shift
    high = low | np.int64((np.uint64(1) << np.uint64(shift)) - np.uint64(1))
    value = _as_float(max(low, ~_LARGEST)) * 0.5 + _as_float(min(high, _LARGEST)) * 0.5
    return 0.0 if abs(value) < _SMALLEST else value


@kernel
def quantiles(
    runs: Int64s, codes: Int64s, numbers: Int64s, dropped_bits: int, share: float, out: UInt64s, has: Flags
) -> None:
    """The quantile of each run, between neighbours linearly, as the bits of a float; `has` is 0 for an empty one."""
    for i in range(runs.shape[0]):
        start, size, shift = runs[i, START], runs[i, SIZE], dropped_bits + runs[i, LEVEL]
        n = np.int64(0)
        for k in range(start, start + size):
            n += numbers[k]
        has[i] = n > 0
        if n == 0:
            continue
        place = share * np.float64(n - 1)
        below = np.int64(place)
        rest = place - np.float64(below)
        k, passed = start, numbers[start]
        while passed <= below:
            k += 1
            passed += numbers[k]
        value = _middle(codes[k], shift)
        if rest > 0.0 and passed <= below + 1:
            value = value * (1.0 - rest) + _middle(codes[k + 1], shift) * rest
        out[i] = np.float64(value + 0.0).view(np.uint64)
