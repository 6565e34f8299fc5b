"""What happened, as rows of numbers: events, the records that they speak of, golden records, questions."""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from streamproc.entities.clustering import Room
from streamproc.entities.golden import write_golden
from streamproc.entities.linkage_model import Floats
from streamproc.entities.links import REVIEWED, constraint
from streamproc.entities.scoring import Scorer
from streamproc.entities.tables import MATCH, MUST, Edges, Entities, Int32s, Records
from streamproc.kernels import tight
from streamproc.ports import Int64s

EVENTS: Final = ("created", "joined", "corrected", "merged", "split", "removed", "review", "golden", "ignored")
CREATED, JOINED, CORRECTED, MERGED, SPLIT, REMOVED, REVIEW, GOLDEN, IGNORED = range(9)
REASONS: Final = (
    "new", "match", "must_link", "cannot_link", "withdrawn", "corrected", "deleted", "grey_zone", "transitivity",
    "too_large", "unknown_record",
)  # fmt: skip
NEW, MATCHES, BY_MUST, BY_CANNOT, WITHDRAWN, BY_CORRECTION, DELETED, GREY, TRANSITIVITY, TOO_LARGE, UNKNOWN = range(11)

OP, KIND, REASON, CLAIM, GENERATION, OTHER, OTHER_GENERATION, SUBJECT, MATCHED, SIZE, FROM, COUNT, GOLD = range(13)
"""Columns of an event: its operation, kind and reason, the claims of the entity and of the other one, the record that
came and the one that it agrees with best, the entity's size, the records that moved, its row among the golden ones."""
WIDTH: Final = 13


class Settings(NamedTuple):
    """numbers: cap of a block, mode, one record a source, whether pairs are given; weights: match, review."""

    numbers: Int64s
    weights: Floats
    golden_columns: Int64s
    golden_rules: Int64s


class Made(NamedTuple):
    """What was made: events, their weights, records that moved, golden rows, values and blocks that nobody may need.

    capped  int64[*, 5]: what full blocks cost, see `links`
    used    int64[6]: rows taken of each of these (events and weights go together)
    """

    events: Int64s
    weights: Floats
    moved: Int32s
    golden: Int32s
    values: Int32s
    blocks: Int32s
    capped: Int64s
    used: Int64s
    seen: Int32s
    found: Int32s
    found_weights: Floats
    grey: Int32s
    grey_weights: Floats
    votes: Int32s
    counts: Int64s


@tight
def event(made: Made, op: int, kind: int, reason: int, records: Records, founder: int, subject: int, size: int) -> int:
    """A new event of the entity that `founder` (a record, or -1) founded; gives its row."""
    row = made.used[0]
    made.used[0] += 1
    made.events[row, OP] = op
    made.events[row, KIND] = kind
    made.events[row, REASON] = reason
    made.events[row, CLAIM] = records.claim[founder] if founder >= 0 else -1
    made.events[row, GENERATION] = records.claim_generation[founder] if founder >= 0 else 0
    made.events[row, OTHER] = -1
    made.events[row, OTHER_GENERATION] = 0
    made.events[row, SUBJECT] = subject
    made.events[row, MATCHED] = -1
    made.events[row, SIZE] = size
    made.events[row, FROM] = made.used[1]
    made.events[row, COUNT] = 0
    made.events[row, GOLD] = -1
    made.weights[row] = np.nan
    return row


@tight
def name_other(made: Made, row: int, claim: int, generation: int) -> None:
    """Names the other entity of an event, by its claim."""
    made.events[row, OTHER] = claim
    made.events[row, OTHER_GENERATION] = generation


@tight
def name_moved(made: Made, row: int, record: int) -> None:
    """Names one more record that an event speaks of."""
    made.moved[made.used[1]] = record
    made.used[1] += 1
    made.events[row, COUNT] += 1


@tight
def gild(
    made: Made, op: int, reason: int, scorer: Scorer, records: Records, entities: Entities, settings: Settings, one: int
) -> None:
    """Tells the golden record of an entity, if any was asked for."""
    if settings.golden_columns.size == 0:
        return
    row = event(made, op, GOLDEN, reason, records, entities.founder[one], -1, entities.size[one])
    made.events[row, GOLD] = made.used[2]
    write_golden(
        scorer, records, entities, one, settings.golden_columns, settings.golden_rules, made.votes, made.golden,
        made.used[2],
    )  # fmt: skip
    made.used[2] += 1


@tight
def _best_edge(records: Records, edges: Edges, x: int, made: Made, row: int) -> bool:
    """Notes on an event the strongest edge from x into its own entity; gives whether a must-link is among them."""
    must = False
    best = -1
    h = records.first_half[x]
    while h >= 0:
        e, other = h >> 1, edges.half_record[h]
        if records.alive[other] != 0 and records.entity[other] == records.entity[x]:
            if edges.kind[e] == MUST:
                must = True
            elif edges.kind[e] == MATCH and (
                best < 0
                or edges.weight[e] > edges.weight[best >> 1]
                or (
                    edges.weight[e] == edges.weight[best >> 1]
                    and records.born[other] < records.born[edges.half_record[best]]
                )
            ):
                best = h
        h = edges.half_next[h]
    if best >= 0:
        made.events[row, MATCHED] = edges.half_record[best]
        made.weights[row] = edges.weight[best >> 1]
    return must


@tight
def say_why(records: Records, edges: Edges, made: Made, row: int, x: int) -> None:
    """Notes on a record's own event what it agrees with best, and the reason."""
    must = _best_edge(records, edges, x, made, row)
    if made.events[row, KIND] == CREATED:
        made.events[row, REASON] = NEW
    elif made.events[row, KIND] == JOINED:
        made.events[row, REASON] = BY_MUST if must else MATCHES


@tight
def tell_moves(made: Made, op: int, reason: int, records: Records, entities: Entities, use: Room, n: int) -> None:
    """Events for records that change their entity: merged where the old entity's id goes, split where it stays."""
    for i in range(n):
        use.done[i] = 0
    for i in range(n):
        old = records.entity[use.members[i]]
        if use.done[i] != 0 or old < 0:
            continue
        founder = use.founder[use.parent[i]]
        was = entities.founder[old]
        if founder == was:
            continue
        stays = records.mark[was] >= 0 and use.founder[use.parent[records.mark[was]]] == was
        size = use.size[use.parent[i]]
        row = event(made, op, SPLIT if stays else MERGED, reason, records, founder, -1, size)
        name_other(made, row, records.claim[was], records.claim_generation[was])
        for j in range(i, n):
            if records.entity[use.members[j]] == old and use.parent[j] == use.parent[i]:
                use.done[j] = 1
                name_moved(made, row, use.members[j])


@tight
def tell_reviews(made: Made, op: int, records: Records, edges: Edges, entities: Entities, x: int, grey: int) -> None:
    """Asks about pairs of the grey zone, and about pairs that match and yet stand in two entities."""
    asked = 0
    h = records.first_half[x]
    while h >= 0 and asked < REVIEWED:
        other = edges.half_record[h]
        match = edges.kind[h >> 1] == MATCH and records.alive[other] != 0
        if match and records.entity[other] != records.entity[x]:
            free = constraint(records, edges, x, other) < 0
            if free:
                _ask(made, op, TRANSITIVITY, records, entities, x, other, edges.weight[h >> 1])
                asked += 1
        h = edges.half_next[h]
    for i in range(grey):
        if asked < REVIEWED and records.entity[made.grey[i]] != records.entity[x]:
            _ask(made, op, GREY, records, entities, x, made.grey[i], made.grey_weights[i])
            asked += 1


@tight
def _ask(
    made: Made, op: int, reason: int, records: Records, entities: Entities, x: int, other: int, weight: float
) -> None:
    one, two = records.entity[x], records.entity[other]
    row = event(made, op, REVIEW, reason, records, entities.founder[one], x, entities.size[one])
    founder = entities.founder[two]
    name_other(made, row, records.claim[founder], records.claim_generation[founder])
    made.events[row, MATCHED] = other
    made.weights[row] = weight
    name_moved(made, row, x)
    name_moved(made, row, other)
