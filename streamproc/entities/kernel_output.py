"""What the kernel writes into, and what several calls of it made together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from streamproc.entities import telling
from streamproc.entities.links import CAPPED_WIDTH, EDGES_KEPT, REVIEWED
from streamproc.entities.tables import ALIVE, Tables
from streamproc.entities.telling import WIDTH, Made
from streamproc.ports import Int64s


@dataclass(frozen=True, slots=True)
class Told:
    """What calls of the kernel made, one after the other; see `Made`."""

    events: Int64s
    weights: np.ndarray[tuple[int], np.dtype[np.float64]]
    moved: np.ndarray[tuple[int], np.dtype[np.int32]]
    golden: np.ndarray[tuple[int, int], np.dtype[np.int32]]
    values: np.ndarray[tuple[int], np.dtype[np.int32]]
    blocks: np.ndarray[tuple[int], np.dtype[np.int32]]
    capped: Int64s

    @classmethod
    def nothing(cls, golden: int) -> Told:
        none = np.empty(0, np.int32)
        return cls(
            np.empty((0, WIDTH), np.int64), np.empty(0), none, np.empty((0, 2 * golden), np.int32), none, none,
            np.empty((0, CAPPED_WIDTH), np.int64),
        )  # fmt: skip

    def then(self, made: Made) -> Told:
        events, moved, golden, values, blocks, capped = made.used.tolist()
        now = made.events[:events]
        now[:, telling.FROM] += self.moved.size
        now[:, telling.GOLD] += np.where(now[:, telling.GOLD] >= 0, len(self.golden), 0)
        parts: tuple[Any, ...] = (
            now, made.weights[:events], made.moved[:moved], made.golden[:golden], made.values[:values],
            made.blocks[:blocks], made.capped[:capped],
        )  # fmt: skip
        if not len(self.events):
            return Told(*parts)
        mine: tuple[Any, ...] = (
            self.events, self.weights, self.moved, self.golden, self.values, self.blocks, self.capped
        )  # fmt: skip
        joined: list[Any] = [np.concatenate(pair) for pair in zip(mine, parts, strict=True)]
        return Told(*joined)


_SCRATCH: Final[dict[str, np.ndarray[tuple[int], np.dtype[np.int32]]]] = {}
"""Scratch that is zero between calls, kept so that a batch of one row does not make it anew."""


def _scratch(name: str, size: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    if name not in _SCRATCH or _SCRATCH[name].size < size:
        _SCRATCH[name] = np.zeros(2 * size, np.int32)
    return _SCRATCH[name]


def room_for(state: Tables, rows: int, wide: int, *, golden: int, stored: int, entries: int, block_cap: int) -> Made:
    """Room for so many operations, and for one that makes `wide` events."""
    events = 3 * rows + wide
    alive = int(state.counters[ALIVE])
    lists = 64 + (rows + 1) * max(stored, entries)
    return Made(
        np.empty((events, WIDTH), np.int64), np.empty(events), np.empty(2 * (alive + rows) + 4096, np.int32),
        np.empty((events if golden else wide, 2 * golden), np.int32), np.empty(lists, np.int32),
        np.empty(lists, np.int32), np.empty((rows + entries, CAPPED_WIDTH), np.int64), np.zeros(6, np.int64),
        _scratch("seen", entries * block_cap), np.empty(EDGES_KEPT, np.int32), np.empty(EDGES_KEPT),
        np.empty(REVIEWED, np.int32), np.empty(REVIEWED), _scratch("votes", state.kept.counts.size),
        np.zeros(2, np.int64),
    )  # fmt: skip


def release_blocks(state: Tables, emptied: Int64s) -> None:
    """Frees those of these blocks that hold nobody."""
    if not emptied.size:
        return
    gone = np.unique(emptied)
    gone = gone[state.block_count[gone] == 0]
    if gone.size:
        state.block_table.release(gone)
