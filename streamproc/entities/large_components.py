"""A record whose component is too large to be clustered anew: it is judged by its own edges."""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from streamproc.entities.clustering import SAMPLED, Room, agree
from streamproc.entities.links import ACROSS
from streamproc.entities.membership import enter, free_entity, leave, new_entity
from streamproc.entities.scoring import Scorer
from streamproc.entities.tables import CANNOT, CANNOTS, LARGE, MUST, Edges, Entities, Records
from streamproc.entities.telling import (
    BY_CORRECTION,
    CLAIM,
    CORRECTED,
    CREATED,
    GENERATION,
    JOINED,
    KIND,
    MATCHES,
    MERGED,
    NEW,
    SIZE,
    SPLIT,
    Made,
    Settings,
    event,
    gild,
    name_moved,
    name_other,
    say_why,
)
from streamproc.kernels import tight
from streamproc.ports import Int64s


@tight
def join_large(
    made: Made, op: int, scorer: Scorer, records: Records, edges: Edges, entities: Entities, counters: Int64s,
    use: Room, x: int, kind: int, settings: Settings,
) -> None:  # fmt: skip
    """A record whose component is too large to be looked at: it joins along its own edges, the strongest first."""
    counters[LARGE] += 1
    mode, one_a_source = settings.numbers[1], settings.numbers[2] != 0
    if records.entity[x] < 0:
        enter(records, entities, new_entity(entities, counters, x), x)
    rest = -1
    founded = entities.founder[records.entity[x]] == x
    if kind == CORRECTED and one_a_source and _clashes(records, entities, x):
        rest = _leave_alone(records, entities, counters, x)
    row = event(made, op, kind, BY_CORRECTION if kind == CORRECTED else NEW, records, x, x, 1)
    tried, gone = 0, 0
    while tried < made.found.size:
        best = -1
        h = records.first_half[x]
        while h >= 0:
            e, other = h >> 1, edges.half_record[h]
            if edges.kind[e] <= MUST and records.alive[other] != 0 and records.entity[other] != records.entity[x]:
                better = best < 0 or edges.kind[e] > edges.kind[best >> 1]
                if not better and edges.kind[e] == edges.kind[best >> 1]:
                    better = edges.weight[e] > edges.weight[best >> 1]
                for k in range(tried):
                    if made.found[k] == h:
                        better = False
                if better:
                    best = h
            h = edges.half_next[h]
        if best < 0:
            break
        made.found[tried] = best
        tried += 1
        other = records.entity[edges.half_record[best]]
        if _large_may_merge(
            made, scorer, records, edges, entities, x, other, edges.kind[best >> 1] == MUST, mode == ACROSS,
            one_a_source, counters[CANNOTS] > 0,
        ):  # fmt: skip
            use.founder[gone] = _merge_large(records, entities, counters, x, other, gone)
            gone += 1
    one = records.entity[x]
    if entities.size[one] > 1 and kind == CREATED:
        made.events[row, KIND] = JOINED
    founder = entities.founder[one]
    made.events[row, CLAIM] = records.claim[founder]
    made.events[row, GENERATION] = records.claim_generation[founder]
    made.events[row, SIZE] = entities.size[one]
    say_why(records, edges, made, row, x)
    reason = BY_CORRECTION if kind == CORRECTED else MATCHES
    fresh = x if kind == CREATED or (rest >= 0 and not founded) else -1
    _tell_merges(made, op, reason, records, entities, use, gone, fresh, one)
    if rest >= 0:
        _tell_parting(made, op, reason, records, entities, x, rest, founded)
        gild(made, op, reason, scorer, records, entities, settings, rest)
    gild(made, op, reason, scorer, records, entities, settings, one)


@tight
def _clashes(records: Records, entities: Entities, x: int) -> bool:
    """Whether another record of x's entity is of its source."""
    other = entities.head[records.entity[x]]
    while other >= 0:
        if other != x and records.source[x] >= 0 and records.source[other] == records.source[x]:
            return True
        other = records.next_member[other]
    return False


@tight
def _leave_alone(records: Records, entities: Entities, counters: Int64s, x: int) -> int:
    """Takes a record out of its entity into one of its own; gives the entity that it leaves, of its oldest record."""
    old = records.entity[x]
    leave(records, entities, x)
    if entities.founder[old] == x:
        heir = entities.head[old]
        other = heir
        while other >= 0:
            if records.claim_born[other] < records.claim_born[heir]:
                heir = other
            other = records.next_member[other]
        entities.founder[old] = heir
    enter(records, entities, new_entity(entities, counters, x), x)
    return old


@tight
def _large_may_merge(
    made: Made, scorer: Scorer, records: Records, edges: Edges, entities: Entities, x: int, other: int, must: bool,
    apart: bool, one_a_source: bool, cannots: bool,
) -> bool:  # fmt: skip
    mine = records.entity[x]
    # What forbids a merge may stand between any two members, and is looked for from the smaller side.
    few, many = (mine, other) if entities.size[mine] <= entities.size[other] else (other, mine)
    a = entities.head[few]
    while a >= 0:
        h = records.first_half[a] if cannots else -1
        while h >= 0:
            if edges.kind[h >> 1] == CANNOT and records.entity[edges.half_record[h]] == many:
                return False
            h = edges.half_next[h]
        b = entities.head[many] if one_a_source and records.source[a] >= 0 else -1
        while b >= 0:
            if records.source[a] == records.source[b]:
                return False
            b = records.next_member[b]
        a = records.next_member[a]
    made.counts[0] = 0
    made.counts[1] = 0
    a, p = entities.head[mine], 0
    while a >= 0 and p < SAMPLED:
        b, q = entities.head[other], 0
        while b >= 0 and q < SAMPLED:
            agree(scorer, records, a, b, apart, made.counts)
            b, q = records.next_member[b], q + 1
        a, p = records.next_member[a], p + 1
    return must or 2 * made.counts[1] >= made.counts[0]


@tight
def _merge_large(records: Records, entities: Entities, counters: Int64s, x: int, other: int, number: int) -> int:
    """Merges the entity of x with another: the older id survives. Gives the founder of the one that is gone.

    Records that move for the first time are marked with its number.
    """
    mine = records.entity[x]
    a, b = entities.founder[mine], entities.founder[other]
    keep, gone = (mine, other) if records.claim_born[a] < records.claim_born[b] else (other, mine)
    alias = entities.founder[gone]
    while entities.head[gone] >= 0:
        record = entities.head[gone]
        leave(records, entities, record)
        enter(records, entities, keep, record)
        if records.mark[record] < 0:
            records.mark[record] = number
    free_entity(entities, counters, gone)
    return alias


@tight
def _tell_merges(
    made: Made, op: int, reason: int, records: Records, entities: Entities, use: Room, gone: int, fresh: int, one: int
) -> None:
    """An event for each entity that is gone, with the records that left it for entity `one`; takes their marks away.

    A record is named once, however often it moved on the way: there is room for no more.  `fresh` was never elsewhere.
    """
    if fresh >= 0:
        records.mark[fresh] = -1
    for number in range(gone):
        alias = use.founder[number]
        if alias == fresh:
            continue
        row = event(made, op, MERGED, reason, records, entities.founder[one], -1, entities.size[one])
        name_other(made, row, records.claim[alias], records.claim_generation[alias])
        record = entities.head[one]
        while record >= 0:
            if records.mark[record] == number:
                records.mark[record] = -1
                name_moved(made, row, record)
            record = records.next_member[record]


@tight
def _tell_parting(
    made: Made, op: int, reason: int, records: Records, entities: Entities, x: int, rest: int, founded: bool
) -> None:
    """Tells that x left its entity, or where x founded it, and so keeps its id, that the others left."""
    one = records.entity[x]
    if not founded:
        row = event(made, op, SPLIT, reason, records, entities.founder[one], -1, entities.size[one])
        old = entities.founder[rest]
        name_other(made, row, records.claim[old], records.claim_generation[old])
        name_moved(made, row, x)
        return
    kind = SPLIT if entities.founder[one] == x else MERGED
    row = event(made, op, kind, reason, records, entities.founder[rest], -1, entities.size[rest])
    name_other(made, row, records.claim[x], records.claim_generation[x])
    record = entities.head[rest]
    while record >= 0:
        name_moved(made, row, record)
        record = records.next_member[record]
