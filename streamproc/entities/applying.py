"""One operation after the other on the tables of `resolve`, as one kernel, and what each of them makes known.

An operation is a record that came (again), a must-link, a cannot-link, the withdrawal of such, or a deletion. Each
touches one component; what changed in it becomes events.
"""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import NamedTuple

from streamproc.entities.clustering import COMMANDED, COMPONENT, Room, cluster, collect
from streamproc.entities.large_components import join_large
from streamproc.entities.linkage_model import Floats
from streamproc.entities.links import (
    ACROSS,
    REVIEWED,
    add_edge,
    constraint,
    drop_edge,
    drop_matches,
    enter_blocks,
    find_matches,
    leave_blocks,
    take_matches,
)
from streamproc.entities.membership import hand_on, write_back
from streamproc.entities.scoring import Scorer
from streamproc.entities.tables import (
    ALIVE,
    BORN,
    CANNOT,
    EDGES,
    LARGE,
    MUST,
    RETIRED,
    Blocks,
    Edges,
    Entities,
    Int32s,
    Records,
)
from streamproc.entities.telling import (
    BY_CANNOT,
    BY_CORRECTION,
    BY_MUST,
    CLAIM,
    CORRECTED,
    CREATED,
    DELETED,
    GENERATION,
    IGNORED,
    JOINED,
    MATCHES,
    REMOVED,
    TOO_LARGE,
    UNKNOWN,
    WITHDRAWN,
    Made,
    Settings,
    event,
    gild,
    name_moved,
    say_why,
    tell_moves,
    tell_reviews,
)
from streamproc.kernels import tight
from streamproc.ports import Int64s

RECORD, MUST_LINK, CANNOT_LINK, WITHDRAW, DELETE = 0, 1, 2, 3, 4
"""Operations."""


class Operations(NamedTuple):
    """What is to be done, in order.

    ops       int64[k, 4]: operation, record, other record or -1, row of the columns below or -1
    values, blocks, source, rank, moment  per row of records that came
    given_from, given, given_weights      where pairs are found elsewhere: per row where its pairs begin, the other
                                          records, and the weights
    """

    ops: Int64s
    values: Int32s
    blocks: Int64s
    source: Int32s
    rank: Int32s
    moment: Int64s
    given_from: Int64s
    given: Int64s
    given_weights: Floats


@tight
def _component(
    made: Made, op: int, reason: int, scorer: Scorer, records: Records, edges: Edges, entities: Entities,
    counters: Int64s, use: Room, n: int, x: int, kind: int, settings: Settings,
) -> None:  # fmt: skip
    """Clusters a collected component anew and tells what changed; `kind` is the event of record x (-1: none)."""
    mode, one_a_source = settings.numbers[1], settings.numbers[2] != 0
    cluster(scorer, records, edges, counters, use, n, mode == ACROSS, one_a_source, made.counts)
    row = -1
    if kind >= 0:
        root = use.parent[records.mark[x]]
        named = kind
        if kind == CREATED and use.size[root] > 1:
            named = JOINED
        row = event(made, op, named, reason, records, use.founder[root], x, use.size[root])
    tell_moves(made, op, reason, records, entities, use, n)
    write_back(records, entities, counters, use, n, x)
    for i in range(n):
        records.mark[use.members[i]] = -1
    if row >= 0:
        say_why(records, edges, made, row, x)
    for i in range(n):
        root = use.parent[i]
        if use.done[root] == 2:
            use.done[root] = 3
            gild(made, op, reason, scorer, records, entities, settings, use.slot[root])


@tight
def _gild_heirs(
    made: Made, i: int, row: int, scorer: Scorer, records: Records, entities: Entities, settings: Settings,
    use: Room, n: int,
) -> None:  # fmt: skip
    """Where the rest of an entity stays as it is, its golden record may still have lost a value: it is told anew."""
    for k in range(n):
        record = use.members[k]
        one = records.entity[record]
        same = records.claim[entities.founder[one]] == made.events[row, CLAIM]
        same = same and records.claim_generation[entities.founder[one]] == made.events[row, GENERATION]
        if same:
            if use.done[use.parent[k]] != 3:
                gild(made, i, DELETED, scorer, records, entities, settings, one)
            return


@tight
def _forget_values(records: Records, value_counts: Int64s, made: Made, x: int) -> None:
    for f in range(records.values.shape[1]):
        value = records.values[x, f]
        if value >= 0:
            value_counts[value] -= 1
            if value_counts[value] == 0:
                made.values[made.used[3]] = value
                made.used[3] += 1


@tight
def _take_record(
    i: int, x: int, row: int, todo: Operations, settings: Settings, scorer: Scorer, value_counts: Int64s,
    records: Records, blocks: Blocks, edges: Edges, entities: Entities, counters: Int64s, use: Room, made: Made,
) -> None:  # fmt: skip
    seeds = 1
    use.seeds[0] = x
    kind = CREATED
    if records.alive[x] != 0:
        kind = CORRECTED
        made.used[4] = leave_blocks(blocks, x, made.blocks, made.used[4])
        seeds = drop_matches(records, edges, counters, x, use.seeds, seeds)
        _forget_values(records, value_counts, made, x)
    else:
        records.alive[x] = 1
        counters[ALIVE] += 1
        records.born[x] = counters[BORN]
        counters[BORN] += 1
        records.claim[x] = x
        records.claim_generation[x] = records.generation[x]
        records.claim_born[x] = records.born[x]
        records.entity[x] = -1
    for f in range(records.values.shape[1]):
        value = todo.values[row, f]
        records.values[x, f] = value
        if value >= 0:
            value_counts[value] += 1
    records.source[x] = todo.source[row]
    records.rank[x] = todo.rank[row]
    records.moment[x] = todo.moment[row]
    chosen = todo.blocks[row]
    if settings.numbers[3] != 0:
        grey = take_matches(
            scorer, records, edges, counters, x, todo.given, todo.given_weights, todo.given_from[row],
            todo.given_from[row + 1], settings.weights[0], made.found, made.found_weights, made.grey, made.grey_weights,
        )  # fmt: skip
    else:
        grey = find_matches(
            scorer, records, blocks, edges, counters, x, chosen, settings.numbers[0], settings.numbers[1],
            settings.weights[0], settings.weights[1], made.seen, made.found, made.found_weights, made.grey,
            made.grey_weights, i, made.capped, made.used,
        )  # fmt: skip
    enter_blocks(blocks, x, chosen)
    n = collect(records, edges, entities, use, seeds, COMPONENT)
    if n >= 0:
        reason = BY_CORRECTION if kind == CORRECTED else MATCHES
        _component(made, i, reason, scorer, records, edges, entities, counters, use, n, x, kind, settings)
    else:
        join_large(made, i, scorer, records, edges, entities, counters, use, x, kind, settings)
    tell_reviews(made, i, records, edges, entities, x, grey)


@tight
def _take_command(
    i: int, op: int, x: int, y: int, settings: Settings, scorer: Scorer, value_counts: Int64s,
    records: Records, blocks: Blocks, edges: Edges, entities: Entities, counters: Int64s, successors: Int64s,
    use: Room, made: Made,
) -> None:  # fmt: skip
    reason = (BY_MUST, BY_CANNOT, WITHDRAWN, DELETED)[op - 1]
    seeds, row, rest = 0, -1, -1
    if op == DELETE:
        if records.alive[x] == 0:
            event(made, i, IGNORED, UNKNOWN, records, -1, x, 0)
            return
        made.used[4] = leave_blocks(blocks, x, made.blocks, made.used[4])
        seeds = drop_matches(records, edges, counters, x, use.seeds, seeds)
        founder = entities.founder[records.entity[x]]
        rest = records.entity[x]
        size = entities.size[rest] - 1
        row = event(made, i, REMOVED, DELETED, records, founder, x, size)
        name_moved(made, row, x)
        other = entities.head[records.entity[x]]
        while other >= 0:
            if other != x and seeds < use.seeds.size:
                use.seeds[seeds] = other
                seeds += 1
            other = records.next_member[other]
        # A must-link may have led through the record.
        h = records.first_half[x]
        while h >= 0:
            if edges.kind[h >> 1] == MUST and seeds < use.seeds.size:
                use.seeds[seeds] = edges.half_record[h]
                seeds += 1
            h = edges.half_next[h]
        hand_on(records, entities, counters, successors, x)
        _forget_values(records, value_counts, made, x)
        records.alive[x] = 0
        records.generation[x] += 1
        counters[ALIVE] -= 1
        for f in range(records.values.shape[1]):
            records.values[x, f] = -1
    else:
        e = constraint(records, edges, x, y)
        if e >= 0:
            drop_edge(records, edges, counters, e)
        if op == WITHDRAW and e < 0:
            event(made, i, IGNORED, UNKNOWN, records, -1, x, 0)
            return
        if op == MUST_LINK:
            add_edge(records, edges, counters, x, y, 0.0, MUST, 0)
        elif op == CANNOT_LINK:
            add_edge(records, edges, counters, x, y, 0.0, CANNOT, 0)
        use.seeds[0] = x
        use.seeds[1] = y
        seeds = 2
    n = collect(records, edges, entities, use, seeds, COMMANDED)
    if n > 0:
        changed_alone = x if op == DELETE else -1
        _component(made, i, reason, scorer, records, edges, entities, counters, use, n, changed_alone, -1, settings)
        if op == DELETE:
            _gild_heirs(made, i, row, scorer, records, entities, settings, use, n)
    elif n < 0:
        counters[LARGE] += 1
        if op != DELETE:
            event(made, i, IGNORED, TOO_LARGE, records, -1, x, 0)
        elif entities.size[rest] > 0 and entities.head[rest] >= 0:
            # The record is gone all the same, and its values with it.
            gild(made, i, DELETED, scorer, records, entities, settings, rest)


@tight
def apply(
    begin: int, todo: Operations, settings: Settings, scorer: Scorer, value_counts: Int64s, records: Records,
    blocks: Blocks, edges: Edges, entities: Entities, counters: Int64s, successors: Int64s | None, use: Room,
    made: Made, edges_wanted: int,
) -> int:  # fmt: skip
    """Carries out operations from number `begin` on; stops early where room is short; gives how many are done.

    successors  None where no command can come: Numba then leaves out all that serves commands
    """
    for i in range(begin, todo.ops.shape[0]):
        wide = 4 * (COMMANDED if todo.ops[i, 0] != RECORD else COMPONENT) + 4 * REVIEWED + 16
        if made.used[0] + wide > made.events.shape[0] or made.used[2] + wide > made.golden.shape[0]:
            return i
        if made.used[1] + counters[ALIVE] + 64 > made.moved.size:
            return i
        if counters[EDGES] + edges_wanted > edges.weight.size:
            return i
        if successors is not None and counters[RETIRED] + 2 > successors.shape[0]:
            return i
        if made.used[3] + records.values.shape[1] > made.values.size:
            return i
        if made.used[4] + blocks.entry_next.shape[1] > made.blocks.size:
            return i
        if made.used[5] + blocks.entry_next.shape[1] > made.capped.shape[0]:
            return i
        op, x, y, row = todo.ops[i, 0], todo.ops[i, 1], todo.ops[i, 2], todo.ops[i, 3]
        if op == RECORD:
            _take_record(
                i, x, row, todo, settings, scorer, value_counts, records, blocks, edges, entities, counters, use, made
            )  # fmt: skip
        elif successors is not None:
            _take_command(
                i, op, x, y, settings, scorer, value_counts, records, blocks, edges, entities, counters, successors,
                use, made,
            )  # fmt: skip
    return todo.ops.shape[0]
