"""Which records of a component are one entity: strongest edges first, with a guard against transitivity.

The component of a record is what edges lead to. Within it every record begins alone; edges are gone through from the
strongest to the weakest (must-links first, ties by age), and each merges the two clusters at its ends unless

* a cannot-link stands between them, or both hold a record of one source where that may not be;
* most pairs across them speak against it. Up to five of the oldest records of each side are weighed against each other:
  fewer than half at a positive weight, and the edge is passed over.

The result is a function of the component's records and edges alone, whatever came first: so it can always be found
again, and a record that was taken away leaves no trace. Only the touched component is looked at.
"""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from streamproc.entities.links import EDGES_KEPT
from streamproc.entities.scoring import Scorer, pair_weight
from streamproc.entities.tables import CANNOT, CANNOTS, MUST, Edges, Entities, Int32s, Records
from streamproc.kernels import tight
from streamproc.ports import Int64s

SAMPLED: Final = 5
"""Records of each side that the guard weighs."""
COMPONENT: Final = 128
"""A new record looks at components of up to so many records; in a larger one it is judged by its own edges."""
COMMANDED: Final = 4096
"""A command, which a person gave, looks at components of up to so many."""


class Room(NamedTuple):
    """Scratch for one component: members in order of age, their clusters, edges."""

    members: Int32s
    parent: Int32s
    first: Int32s
    after: Int32s
    size: Int32s
    founder: Int32s
    slot: Int32s
    done: Int32s
    edge: Int32s
    seeds: Int32s


_ROOM: Final = [np.zeros(COMMANDED + 1, np.int32) for _ in range(8)]
_EDGES: Final = np.zeros((COMMANDED + 1) * EDGES_KEPT * 2, np.int32)
_SEEDS: Final = np.zeros(COMMANDED + 1, np.int32)  # one more than may be: too many are seen to be


def room() -> Room:
    """Scratch, the same for every call: kernels leave nothing in it."""
    return Room(*_ROOM, edge=_EDGES, seeds=_SEEDS)


@tight
def _add(records: Records, members: Int32s, n: int, most: int, record: int) -> int:
    if records.alive[record] == 0 or records.mark[record] >= 0:
        return n
    if n >= most:
        return -1
    records.mark[record] = n
    members[n] = record
    return n + 1


@tight
def collect(records: Records, edges: Edges, entities: Entities, use: Room, seeds: int, most: int) -> int:
    """The component around `use.seeds`, in order of age, each marked with its place; -1 if it is larger than `most`.

    Members of an entity count as connected.
    """
    n = 0
    for i in range(seeds):
        if n >= 0:
            n = _add(records, use.members, n, most, use.seeds[i])
    at = 0
    while n >= 0 and at < n:
        record = use.members[at]
        at += 1
        h = records.first_half[record]
        while h >= 0 and n >= 0:
            if edges.kind[h >> 1] <= MUST:
                n = _add(records, use.members, n, most, edges.half_record[h])
            h = edges.half_next[h]
        if n >= 0 and records.entity[record] >= 0:
            other = entities.head[records.entity[record]]
            while other >= 0 and n >= 0:
                n = _add(records, use.members, n, most, other)
                other = records.next_member[other]
    if n < 0:
        for i in range(most):
            records.mark[use.members[i]] = -1
        return -1
    gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            record = use.members[i]
            j = i
            while j >= gap and records.born[use.members[j - gap]] > records.born[record]:
                use.members[j] = use.members[j - gap]
                j -= gap
            use.members[j] = record
        gap //= 3
    for i in range(n):
        records.mark[use.members[i]] = i
    return n


@tight
def _before(records: Records, edges: Edges, e: int, f: int) -> bool:
    """Whether edge e is gone through before edge f."""
    if (edges.kind[e] == MUST) != (edges.kind[f] == MUST):
        return edges.kind[e] == MUST
    if edges.weight[e] != edges.weight[f]:
        return edges.weight[e] > edges.weight[f]
    ea, eb = records.born[edges.half_record[2 * e]], records.born[edges.half_record[2 * e + 1]]
    fa, fb = records.born[edges.half_record[2 * f]], records.born[edges.half_record[2 * f + 1]]
    if min(ea, eb) != min(fa, fb):
        return min(ea, eb) < min(fa, fb)
    return max(ea, eb) < max(fa, fb)


@tight
def _sorted_edges(records: Records, edges: Edges, use: Room, n: int) -> int:
    m = 0
    for i in range(n):
        h = records.first_half[use.members[i]]
        while h >= 0:
            there = records.alive[edges.half_record[h]] != 0
            if there and (h & 1) == 0 and edges.kind[h >> 1] <= MUST and m < use.edge.size:
                use.edge[m] = h >> 1
                m += 1
            h = edges.half_next[h]
    gap = 1
    while gap < m // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, m):
            e = use.edge[i]
            j = i
            while j >= gap and _before(records, edges, e, use.edge[j - gap]):
                use.edge[j] = use.edge[j - gap]
                j -= gap
            use.edge[j] = e
        gap //= 3
    return m


@tight
def _root(parent: Int32s, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@tight
def agree(scorer: Scorer, records: Records, a: int, b: int, apart: bool, counts: Int64s) -> None:
    """Counts one pair across two clusters in counts[0], and in counts[1] if it speaks for a merge.

    apart  whether only records of different sources are compared
    """
    if apart and records.source[a] == records.source[b]:
        return
    counts[0] += 1
    if pair_weight(scorer, records.values, a, b, 0.0) > 0.0:
        counts[1] += 1


@tight
def _may_merge(
    scorer: Scorer, records: Records, edges: Edges, use: Room, a: int, b: int, must: bool, cannots: bool,
    apart: bool, one_a_source: bool, counts: Int64s,
) -> bool:  # fmt: skip
    if cannots:
        i = use.first[a]
        while i >= 0:
            h = records.first_half[use.members[i]]
            while h >= 0:
                other = edges.half_record[h]
                there = edges.kind[h >> 1] == CANNOT and records.alive[other] != 0 and records.mark[other] >= 0
                if there and _root(use.parent, records.mark[other]) == b:
                    return False
                h = edges.half_next[h]
            i = use.after[i]
    if one_a_source:
        i = use.first[a]
        while i >= 0:
            j = use.first[b]
            while j >= 0:
                source = records.source[use.members[i]]
                if source >= 0 and source == records.source[use.members[j]]:
                    return False
                j = use.after[j]
            i = use.after[i]
    if must or (use.size[a] == 1 and use.size[b] == 1):
        return True
    counts[0] = 0
    counts[1] = 0
    i, p = use.first[a], 0
    while i >= 0 and p < SAMPLED:
        j, q = use.first[b], 0
        while j >= 0 and q < SAMPLED:
            agree(scorer, records, use.members[i], use.members[j], apart, counts)
            j, q = use.after[j], q + 1
        i, p = use.after[i], p + 1
    return 2 * counts[1] >= counts[0]


@tight
def _merge(use: Room, a: int, b: int) -> None:
    """Makes cluster b part of a; the list of members stays in order of age."""
    use.parent[b] = a
    use.size[a] += use.size[b]
    i, j = use.first[a], use.first[b]
    last = -1
    while i >= 0 or j >= 0:
        if j < 0 or (i >= 0 and i < j):
            chosen = i
            i = use.after[i]
        else:
            chosen = j
            j = use.after[j]
        if last < 0:
            use.first[a] = chosen
        else:
            use.after[last] = chosen
        last = chosen
    use.after[last] = -1


@tight
def cluster(
    scorer: Scorer, records: Records, edges: Edges, counters: Int64s, use: Room, n: int,
    apart: bool, one_a_source: bool, counts: Int64s,
) -> None:  # fmt: skip
    """The clusters of a collected component: `use.parent[i]` is the cluster of member i, `use.founder` its founder."""
    for i in range(n):
        use.parent[i] = i
        use.first[i] = i
        use.after[i] = -1
        use.size[i] = 1
    m = _sorted_edges(records, edges, use, n)
    for k in range(m):
        e = use.edge[k]
        a = _root(use.parent, records.mark[edges.half_record[2 * e]])
        b = _root(use.parent, records.mark[edges.half_record[2 * e + 1]])
        if a == b:
            continue
        if a > b:
            a, b = b, a
        must = edges.kind[e] == MUST
        if _may_merge(
            scorer, records, edges, use, a, b, must, counters[CANNOTS] > 0, apart, one_a_source, counts
        ):  # fmt: skip
            _merge(use, a, b)
    for i in range(n):
        use.parent[i] = _root(use.parent, i)
        use.founder[i] = -1
    for i in range(n):
        root, record = use.parent[i], use.members[i]
        best = use.founder[root]
        if best < 0 or records.claim_born[record] < records.claim_born[best]:
            use.founder[root] = record
