"""Members of entities as kernels: entering, leaving, and making what was clustered the entities."""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from streamproc.entities.clustering import Room
from streamproc.entities.tables import ENTITIES, FREE_ENTITY, RETIRED, Entities, Records
from streamproc.kernels import tight
from streamproc.ports import Int64s


@tight
def enter(records: Records, entities: Entities, one: int, record: int) -> None:
    """Puts a record at the head of an entity's members."""
    first = entities.head[one]
    records.entity[record] = one
    records.next_member[record] = first
    records.previous_member[record] = -1
    if first >= 0:
        records.previous_member[first] = record
    entities.head[one] = record
    entities.size[one] += 1


@tight
def leave(records: Records, entities: Entities, record: int) -> None:
    """Takes a record out of its entity."""
    one = records.entity[record]
    before, after = records.previous_member[record], records.next_member[record]
    if before >= 0:
        records.next_member[before] = after
    else:
        entities.head[one] = after
    if after >= 0:
        records.previous_member[after] = before
    entities.size[one] -= 1
    records.entity[record] = -1


@tight
def new_entity(entities: Entities, counters: Int64s, founder: int) -> int:
    """A new entity without members; gives its slot."""
    one = counters[FREE_ENTITY] - 1
    if one >= 0:
        counters[FREE_ENTITY] = entities.size[one]
    else:
        one = counters[ENTITIES]
        counters[ENTITIES] += 1
    entities.head[one] = -1
    entities.size[one] = 0
    entities.founder[one] = founder
    return one


@tight
def free_entity(entities: Entities, counters: Int64s, one: int) -> None:
    """Takes an entity away."""
    entities.head[one] = -1
    entities.founder[one] = -1
    entities.size[one] = counters[FREE_ENTITY]
    counters[FREE_ENTITY] = one + 1


@tight
def write_back(records: Records, entities: Entities, counters: Int64s, use: Room, n: int, x: int) -> None:
    """Makes the clusters the entities. `use.slot` of a cluster becomes its entity, `use.done` whether it changed."""
    for i in range(n):
        use.slot[i] = -1
        use.done[i] = 0
    for i in range(n):
        record, root = use.members[i], use.parent[i]
        old = records.entity[record]
        if old < 0 or record == x or entities.founder[old] != use.founder[root]:
            use.done[root] = 1
        if old >= 0 and entities.founder[old] == use.founder[root]:
            use.slot[root] = old
            if entities.size[old] != use.size[root]:
                use.done[root] = 1
    # Entities whose id goes are freed; each is met through its founder, who is among the members.
    for i in range(n):
        old = records.entity[use.members[i]]
        if old >= 0 and entities.founder[old] == use.members[i] and use.founder[use.parent[i]] != use.members[i]:
            free_entity(entities, counters, old)
    for i in range(n):
        root = use.parent[i]
        if use.done[root] == 1:
            if use.slot[root] < 0:
                use.slot[root] = new_entity(entities, counters, use.founder[root])
            else:
                entities.head[use.slot[root]] = -1
                entities.size[use.slot[root]] = 0
            use.done[root] = 2
    for i in range(n):
        root = use.parent[i]
        if use.done[root] == 2:
            records.entity[use.members[i]] = -1
            enter(records, entities, use.slot[root], use.members[i])


@tight
def hand_on(records: Records, entities: Entities, counters: Int64s, successors: Int64s, x: int) -> None:
    """A record goes: if it founded its entity, the oldest one that is left carries its claim from now on."""
    one = records.entity[x]
    heir = -1
    record = entities.head[one]
    while record >= 0:
        if record != x and (heir < 0 or records.claim_born[record] < records.claim_born[heir]):
            heir = record
        record = records.next_member[record]
    if heir >= 0 and entities.founder[one] == x:
        # The heir's own claim is carried by nobody now, and leads to the one that the heir takes over.
        _retire(records, counters, successors, heir, x)
        records.claim[heir] = records.claim[x]
        records.claim_generation[heir] = records.claim_generation[x]
        records.claim_born[heir] = records.claim_born[x]
        entities.founder[one] = heir
    else:
        _retire(records, counters, successors, x, heir)
    leave(records, entities, x)
    if entities.head[one] < 0:
        free_entity(entities, counters, one)


@tight
def _retire(records: Records, counters: Int64s, successors: Int64s, old: int, new: int) -> None:
    """The claim of a record leads to that of another from now on: to a claim and not to its record, which may go and
    come again as another one."""
    at = counters[RETIRED]
    successors[at, 0] = records.claim[old]
    successors[at, 1] = records.claim_generation[old]
    successors[at, 2] = records.claim[new] if new >= 0 else -1
    successors[at, 3] = records.claim_generation[new] if new >= 0 else -1
    counters[RETIRED] += 1
