"""Records that come to, and leave, their blocks, as a kernel: what `block_pairs` does with the rows of many blocks."""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from streamproc.entities.interning import Values
from streamproc.entities.linkage_model import Floats
from streamproc.entities.links import ACROSS, BOTH, EDGES_KEPT, keep_strongest
from streamproc.entities.scoring import Scorer, pair_weight
from streamproc.entities.tables import Int32s
from streamproc.int_table import IntArrays, int_table_find, int_table_find_or_insert, int_table_release
from streamproc.kernels import kernel, tight
from streamproc.ports import Int64s
from streamproc.row_loops import copy_rows

CAP, MODE, SOURCE, RECORD = range(4)
"""Of `numbers`: the cap, which sources are compared, and the columns of source and record."""
OF_ROW, OF_ENTRY, NTH, OTHER = range(4)
"""Of a pair: its row, the entry of the record that came, how many newer ones the block has, the other record's id."""
HELD, COMPARED, AGREED = 2, 3, 4
"""Of a full block, behind row and entry."""
LEAVES: Final = -2


class Lists(NamedTuple):
    """The lists of blocks: values of each entry, its neighbours, and per block its newest entry and how many it has."""

    values: Values
    older: Int32s
    newer: Int32s
    newest: Int32s
    held: Int64s


@tight
def _leave(lists: Lists, block: int, e: int, counts: Int64s, gone: Int32s, n: int) -> int:
    """Takes an entry out of its block; notes in `gone` the values that nobody has any more."""
    older, newer = lists.older[e], lists.newer[e]
    if newer >= 0:
        lists.older[newer] = older
    else:
        lists.newest[block] = older
    if older >= 0:
        lists.newer[older] = newer
    lists.held[block] -= 1
    for f in range(lists.values.shape[1]):
        value = lists.values[e, f]
        if value >= 0:
            counts[value] -= 1
            if counts[value] == 0:
                gone[n] = value
                n += 1
    return n


@tight
def _enter(lists: Lists, block: int, e: int) -> None:
    first = lists.newest[block]
    lists.older[e] = first
    lists.newer[e] = -1
    if first >= 0:
        lists.newer[first] = e
    lists.newest[block] = e
    lists.held[block] += 1


@tight
def _look(
    use: Scorer, lists: Lists, block: int, x: int, numbers: Int64s, match: float, review: float, found: Int32s,
    weights: Floats, grey: Int32s, grey_weights: Floats, seen: Int32s, out: Int64s,
) -> None:  # fmt: skip
    """Weighs entry x against the newest of its block; `out`: how many match, are in doubt, were compared, agreed."""
    n_found, n_grey, compared, agreed = 0, 0, 0, 0
    mode, source = numbers[MODE], numbers[SOURCE]
    y = lists.newest[block]
    for j in range(numbers[CAP]):
        if y < 0:
            break
        seen[j] = y
        if mode == BOTH or (lists.values[x, source] == lists.values[y, source]) != (mode == ACROSS):
            compared += 1
            weight = pair_weight(use, lists.values, x, y, review)
            if weight >= match:
                agreed += 1
                n_found = keep_strongest(found, weights, n_found, EDGES_KEPT, j, weight)
            elif weight >= review:
                n_grey = keep_strongest(grey, grey_weights, n_grey, EDGES_KEPT, j, weight)
        y = lists.older[y]
    out[0] = n_found
    out[1] = n_grey
    out[2] = compared
    out[3] = agreed


@kernel
def pair_up(
    use: Scorer, lists: Lists, places: IntArrays, counts: Int64s, blocks: Int64s, entries: Int64s, came: Values,
    numbers: Int64s, match: float, review: float,
) -> tuple[Int64s, Floats, Int64s, Int32s]:  # fmt: skip
    """Lets rows come in order: pairs (int64[*, 4]) with their weights, full blocks (int64[*, 5]), values to forget.

    blocks, entries, came  per row its block, entry (or `LEAVES`) and values
    """
    index, old, pairs, live, free, head = places
    told, weights = np.empty((64 + blocks.size, 4), np.int64), np.empty(64 + blocks.size)
    full = np.empty((64, 5), np.int64)
    gone = np.empty(blocks.size * came.shape[1], np.int32)
    seen = np.empty(numbers[CAP], np.int32)
    found, found_weights = np.empty(EDGES_KEPT, np.int32), np.empty(EDGES_KEPT)
    grey, grey_weights = np.empty(EDGES_KEPT, np.int32), np.empty(EDGES_KEPT)
    out = np.empty(4, np.int64)
    n, n_full, n_gone = 0, 0, 0
    for i in range(blocks.size):
        block, record = blocks[i], came[i, numbers[RECORD]]
        x = int_table_find(index, old, pairs, block, record)
        if x >= 0:
            n_gone = _leave(lists, block, x, counts, gone, n_gone)
        if entries[i] == LEAVES:
            if x >= 0:
                int_table_release(index, old, pairs, live, free, head, x)
            continue
        if x < 0:
            x, _ = int_table_find_or_insert(index, old, pairs, live, free, head, block, record)
        for f in range(came.shape[1]):
            lists.values[x, f] = came[i, f]
            if came[i, f] >= 0:
                counts[came[i, f]] += 1
        _look(use, lists, block, x, numbers, match, review, found, found_weights, grey, grey_weights, seen, out)
        if n + 2 * EDGES_KEPT > weights.size:
            told, weights = _more(told, 2 * told.shape[0], n), _more_floats(weights, 2 * weights.size, n)
        for k in range(out[0] + out[1]):
            certain = k < out[0]
            j = found[k] if certain else grey[k - out[0]]
            told[n, OF_ROW] = i
            told[n, OF_ENTRY] = entries[i]
            told[n, NTH] = j
            told[n, OTHER] = lists.values[seen[j], numbers[RECORD]]
            weights[n] = found_weights[k] if certain else grey_weights[k - out[0]]
            n += 1
        if lists.held[block] > numbers[CAP]:
            if n_full == full.shape[0]:
                full = _more(full, 2 * n_full, n_full)
            full[n_full, OF_ROW] = i
            full[n_full, OF_ENTRY] = entries[i]
            full[n_full, HELD] = lists.held[block]
            full[n_full, COMPARED] = out[2]
            full[n_full, AGREED] = out[3]
            n_full += 1
        _enter(lists, block, x)
    return told[:n].copy(), weights[:n].copy(), full[:n_full].copy(), gone[:n_gone].copy()


@kernel
def _more(rows: Int64s, size: int, used: int) -> Int64s:
    more = np.empty((size, rows.shape[1]), np.int64)
    copy_rows(rows, more, used)
    return more


@kernel
def _more_floats(values: Floats, size: int, used: int) -> Floats:
    more = np.empty(size, np.float64)
    for i in range(used):
        more[i] = values[i]
    return more
