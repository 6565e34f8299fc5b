"""Edges and blocks of records as kernels: adding, taking away, and finding the candidates of a new record."""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Final

from streamproc.entities.linkage_model import Floats
from streamproc.entities.scoring import Scorer, pair_weight, pattern_of
from streamproc.entities.tables import (
    CANNOT,
    CANNOTS,
    DROPPED_EDGES,
    EDGES,
    FREE_EDGE,
    FULL,
    MATCH,
    MATCHED,
    NO_EDGE,
    SEEN,
    UNSEEN,
    WEIGHED,
    Blocks,
    Edges,
    Int32s,
    Records,
)
from streamproc.kernels import tight
from streamproc.ports import Int64s

EDGES_KEPT: Final = 16
"""Of the pairs of a new record that match, so many are kept, the strongest."""
REVIEWED: Final = 4
"""Of the pairs of a new record in the grey zone, so many are asked about, the strongest."""
BOTH, ACROSS, WITHIN = 0, 1, 2
OF_OP, OF_ENTRY, HELD, COMPARED, AGREED = range(5)
"""Columns of what is told of a full block: the operation and the entry of the record that came, how many records the
block held, and of those that were looked at how many were compared and how many of these matched."""
CAPPED_WIDTH: Final = 5


@tight
def add_edge(
    records: Records, edges: Edges, counters: Int64s, a: int, b: int, weight: float, kind: int, pattern: int
) -> int:
    """A new edge between two records."""
    e = counters[FREE_EDGE] - 1
    if e >= 0:
        counters[FREE_EDGE] = edges.half_next[2 * e]
    else:
        e = counters[EDGES]
        counters[EDGES] += 1
    edges.weight[e] = weight
    edges.kind[e] = kind
    edges.pattern[e] = pattern
    for side in range(2):
        owner, other = (a, b) if side == 0 else (b, a)
        h = 2 * e + side
        first = records.first_half[owner]
        edges.half_record[h] = other
        edges.half_next[h] = first
        edges.half_previous[h] = -1
        if first >= 0:
            edges.half_previous[first] = h
        records.first_half[owner] = h
    if kind == CANNOT:
        counters[CANNOTS] += 1
    return e


@tight
def drop_edge(records: Records, edges: Edges, counters: Int64s, e: int) -> None:
    """Takes an edge away."""
    if edges.kind[e] == CANNOT:
        counters[CANNOTS] -= 1
    for side in range(2):
        h = 2 * e + side
        before, after = edges.half_previous[h], edges.half_next[h]
        if before >= 0:
            edges.half_next[before] = after
        else:
            records.first_half[edges.half_record[h ^ 1]] = after
        if after >= 0:
            edges.half_previous[after] = before
    edges.kind[e] = NO_EDGE
    edges.half_next[2 * e] = counters[FREE_EDGE]
    counters[FREE_EDGE] = e + 1


@tight
def drop_matches(records: Records, edges: Edges, counters: Int64s, record: int, seeds: Int32s, n: int) -> int:
    """Takes a record's match edges away; notes its old neighbours in `seeds`, of which there are `n`."""
    h = records.first_half[record]
    while h >= 0:
        after = edges.half_next[h]
        if edges.kind[h >> 1] == MATCH:
            if n < seeds.size:
                seeds[n] = edges.half_record[h]
                n += 1
            drop_edge(records, edges, counters, h >> 1)
        h = after
    return n


@tight
def constraint(records: Records, edges: Edges, a: int, b: int) -> int:
    """The must-link or cannot-link between two records, as the number of its edge, or -1."""
    h = records.first_half[a]
    while h >= 0:
        if edges.half_record[h] == b and edges.kind[h >> 1] != MATCH:
            return h >> 1
        h = edges.half_next[h]
    return -1


@tight
def enter_blocks(blocks: Blocks, record: int, chosen: Int64s) -> None:
    """Puts a record at the head of its blocks; -1 in `chosen` is no block."""
    width = blocks.entry_next.shape[1]
    for k in range(width):
        one = chosen[k]
        blocks.entry_block[record, k] = one
        if one < 0:
            continue
        entry = record * width + k
        first = blocks.head[one]
        blocks.entry_next[record, k] = first
        blocks.entry_previous[record, k] = -1
        if first >= 0:
            blocks.entry_previous[first // width, first % width] = entry
        blocks.head[one] = entry
        blocks.held[one] += 1


@tight
def leave_blocks(blocks: Blocks, record: int, emptied: Int32s, n: int) -> int:
    """Takes a record out of its blocks; notes in `emptied` those that it leaves empty, of which there are `n`."""
    width = blocks.entry_next.shape[1]
    for k in range(width):
        one = blocks.entry_block[record, k]
        if one < 0:
            continue
        before, after = blocks.entry_previous[record, k], blocks.entry_next[record, k]
        if before >= 0:
            blocks.entry_next[before // width, before % width] = after
        else:
            blocks.head[one] = after
        if after >= 0:
            blocks.entry_previous[after // width, after % width] = before
        blocks.entry_block[record, k] = -1
        blocks.held[one] -= 1
        if blocks.held[one] == 0:
            emptied[n] = one
            n += 1
    return n


@tight
def keep_strongest(records: Int32s, weights: Floats, n: int, most: int, record: int, weight: float) -> int:
    """Puts a pair into a list in falling order of weight, of which `most` are kept; gives their number."""
    if n == most and weight <= weights[n - 1]:
        return n
    at = min(n, most - 1)
    while at > 0 and weights[at - 1] < weight:
        records[at] = records[at - 1]
        weights[at] = weights[at - 1]
        at -= 1
    records[at] = record
    weights[at] = weight
    return min(n + 1, most)


@tight
def find_matches(
    use: Scorer, records: Records, blocks: Blocks, edges: Edges, counters: Int64s, x: int, chosen: Int64s,
    cap: int, mode: int, match: float, review: float, seen: Int32s,
    found: Int32s, found_weights: Floats, grey: Int32s, grey_weights: Floats, op: int, capped: Int64s, used: Int64s,
) -> int:  # fmt: skip
    """Weighs a new record against its blocks: adds edges to those that match; gives how many are in the grey zone.

    Of each block the newest `cap` records are looked at; of one that holds more, a row of `capped` says what that cost
    (`used[5]` counts them). A pair that a person has decided is weighed all the same, but not asked about.
    """
    width = blocks.entry_next.shape[1]
    n_seen, n_found, n_grey = 0, 0, 0
    for k in range(width):
        one = chosen[k]
        if one < 0:
            continue
        rule = blocks.entry_rule[k]
        full = blocks.held[one] > cap
        if full:
            blocks.rules[rule, UNSEEN] += blocks.held[one] - cap
        elif blocks.held[one] == cap:
            blocks.rules[rule, FULL] += 1
        compared, agreed = 0, 0
        entry = blocks.head[one]
        for _ in range(cap):
            if entry < 0:
                break
            y = entry // width
            entry = blocks.entry_next[y, entry % width]
            if y == x:
                continue
            if records.mark[y] < 0:
                records.mark[y] = 0
                seen[n_seen] = y
                n_seen += 1
                if mode == BOTH or (records.source[x] == records.source[y]) != (mode == ACROSS):
                    counters[WEIGHED] += 1
                    weight = pair_weight(use, records.values, x, y, review)
                    records.mark[y] = 2 if weight >= match else 1
                    if full:
                        blocks.rules[rule, SEEN] += 1
                        if weight >= match:
                            blocks.rules[rule, MATCHED] += 1
                    if weight >= match:
                        if n_found == EDGES_KEPT:
                            counters[DROPPED_EDGES] += 1
                        n_found = keep_strongest(found, found_weights, n_found, EDGES_KEPT, y, weight)
                    elif weight >= review and constraint(records, edges, x, y) < 0:
                        n_grey = keep_strongest(grey, grey_weights, n_grey, REVIEWED, y, weight)
            if records.mark[y] > 0:
                compared += 1
                if records.mark[y] == 2:
                    agreed += 1
        if full:
            row = used[5]
            used[5] += 1
            capped[row, OF_OP] = op
            capped[row, OF_ENTRY] = k
            capped[row, HELD] = blocks.held[one]
            capped[row, COMPARED] = compared
            capped[row, AGREED] = agreed
    for i in range(n_seen):
        records.mark[seen[i]] = -1
    _keep(use, records, edges, counters, x, found, found_weights, n_found)
    return n_grey


@tight
def take_matches(
    use: Scorer, records: Records, edges: Edges, counters: Int64s, x: int, given: Int64s, weights: Floats, begin: int,
    end: int, match: float, found: Int32s, found_weights: Floats, grey: Int32s, grey_weights: Floats,
) -> int:  # fmt: skip
    """As `find_matches`, where pairs of the record were found elsewhere: those from `begin` to `end`, in their order.

    A pair that several blocks brought is there several times, and taken once.
    """
    n_found, n_grey = 0, 0
    for i in range(begin, end):
        y = given[i]
        if records.alive[y] == 0 or y == x or records.mark[y] >= 0:
            continue
        records.mark[y] = 0
        counters[WEIGHED] += 1
        if weights[i] >= match:
            if n_found == EDGES_KEPT:
                counters[DROPPED_EDGES] += 1
            n_found = keep_strongest(found, found_weights, n_found, EDGES_KEPT, y, weights[i])
        elif constraint(records, edges, x, y) < 0:
            n_grey = keep_strongest(grey, grey_weights, n_grey, REVIEWED, y, weights[i])
    for i in range(begin, end):
        records.mark[given[i]] = -1
    _keep(use, records, edges, counters, x, found, found_weights, n_found)
    return n_grey


@tight
def _keep(
    use: Scorer, records: Records, edges: Edges, counters: Int64s, x: int, found: Int32s, weights: Floats, n: int
) -> None:
    """Makes edges, the weakest first: a record's list of edges then begins with the strongest."""
    for i in range(n - 1, -1, -1):
        pattern = pattern_of(use, records.values, x, found[i])
        add_edge(records, edges, counters, x, found[i], weights[i], MATCH, pattern)
