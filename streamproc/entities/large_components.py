"""A record whose component is too large to be clustered anew: it is judged by its own edges."""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from streamproc.entities.clustering import SAMPLED, agree
from streamproc.entities.links import ACROSS
from streamproc.entities.membership import enter, free_entity, leave, new_entity
from streamproc.entities.scoring import Scorer
from streamproc.entities.tables import CANNOT, LARGE, MUST, Edges, Entities, Records
from streamproc.entities.telling import (
    CLAIM,
    CREATED,
    GENERATION,
    JOINED,
    KIND,
    MATCHES,
    MERGED,
    NEW,
    REASON,
    SIZE,
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
    x: int, kind: int, settings: Settings,
) -> None:  # fmt: skip
    """A record whose component is too large to be looked at: it joins along its own edges, the strongest first."""
    counters[LARGE] += 1
    mode, one_a_source = settings.numbers[1], settings.numbers[2] != 0
    if records.entity[x] < 0:
        enter(records, entities, new_entity(entities, counters, x), x)
    row = event(made, op, kind, NEW, records, x, x, 1)
    tried = 0
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
            one_a_source,
        ):  # fmt: skip
            _merge_large(made, op, records, entities, counters, x, other)
    one = records.entity[x]
    if entities.size[one] > 1 and kind == CREATED:
        made.events[row, KIND] = JOINED
    founder = entities.founder[one]
    made.events[row, CLAIM] = records.claim[founder]
    made.events[row, GENERATION] = records.claim_generation[founder]
    made.events[row, SIZE] = entities.size[one]
    say_why(records, edges, made, row, x)
    gild(made, op, made.events[row, REASON], scorer, records, entities, settings, one)


@tight
def _large_may_merge(
    made: Made, scorer: Scorer, records: Records, edges: Edges, entities: Entities, x: int, other: int, must: bool,
    apart: bool, one_a_source: bool,
) -> bool:  # fmt: skip
    h = records.first_half[x]
    while h >= 0:
        if edges.kind[h >> 1] == CANNOT and records.entity[edges.half_record[h]] == other:
            return False
        h = edges.half_next[h]
    made.counts[0] = 0
    made.counts[1] = 0
    a, p = entities.head[records.entity[x]], 0
    while a >= 0 and p < SAMPLED:
        b, q = entities.head[other], 0
        while b >= 0 and q < SAMPLED:
            if one_a_source and records.source[a] >= 0 and records.source[a] == records.source[b]:
                return False
            agree(scorer, records, a, b, apart, made.counts)
            b, q = records.next_member[b], q + 1
        a, p = records.next_member[a], p + 1
    return must or 2 * made.counts[1] >= made.counts[0]


@tight
def _merge_large(
    made: Made, op: int, records: Records, entities: Entities, counters: Int64s, x: int, other: int
) -> None:
    """Merges the entity of x with another: the older id survives. A new record that was alone makes no event."""
    mine = records.entity[x]
    a, b = entities.founder[mine], entities.founder[other]
    keep, gone = (mine, other) if records.claim_born[a] < records.claim_born[b] else (other, mine)
    quiet = entities.size[gone] == 1 and entities.head[gone] == x
    survivor, alias = entities.founder[keep], entities.founder[gone]
    row = -1
    if not quiet:
        row = event(
            made, op, MERGED, MATCHES, records, survivor, -1, entities.size[keep] + entities.size[gone]
        )  # fmt: skip
        name_other(made, row, records.claim[alias], records.claim_generation[alias])
    while entities.head[gone] >= 0:
        record = entities.head[gone]
        leave(records, entities, record)
        enter(records, entities, keep, record)
        if row >= 0:
            name_moved(made, row, record)
    free_entity(entities, counters, gone)
