"""The golden record of an entity: per field, whose value survives.

    most_recent    the value with the latest event time
    most_frequent  the value that most records have; the most recent of them where several are equally frequent
    source_rank    the value of the source that stands first in the declared order; there the most recent one
    longest        the longest text; of equally long ones the most recent

Missing values never survive where another is there. Ties end with the record that came last.
"""

# mypy: disable-error-code="assignment,return-value,arg-type,no-any-return,operator,misc"
# (numbers in kernels are machine words: int and np.int64 are one type there, and mypy would tell them apart)

from __future__ import annotations

from typing import Final

from streamproc.entities.scoring import Scorer
from streamproc.entities.tables import Entities, Int32s, Records
from streamproc.kernels import tight
from streamproc.ports import Int64s

SURVIVORSHIP: Final = ("most_recent", "most_frequent", "source_rank", "longest")
LOOKED_AT: Final = 1000
"""Of a larger entity only the newest records are looked at."""
_LENGTH: Final = 0xFFFFFFFF


@tight
def _newer(records: Records, a: int, b: int) -> bool:
    if records.moment[a] != records.moment[b]:
        return records.moment[a] > records.moment[b]
    return records.born[a] > records.born[b]


@tight
def survivor(
    scorer: Scorer, records: Records, entities: Entities, entity: int, column: int, rule: int, votes: Int32s
) -> int:
    """The record whose value of a stored column survives, or -1 where none has one.

    votes  a zero for each value: scratch, zero again afterwards
    """
    if rule == 1:
        record, seen = entities.head[entity], 0
        while record >= 0 and seen < LOOKED_AT:
            if records.values[record, column] >= 0:
                votes[records.values[record, column]] += 1
            record, seen = records.next_member[record], seen + 1
    best = -1
    best_score = 0
    record, seen = entities.head[entity], 0
    while record >= 0 and seen < LOOKED_AT:
        value = records.values[record, column]
        if value >= 0:
            score = 0
            if rule == 1:
                score = votes[value]
            elif rule == 2:
                score = -records.rank[record]
            elif rule == 3:
                score = scorer.key_records[value, 1] & _LENGTH
            if best < 0 or score > best_score or (score == best_score and _newer(records, record, best)):
                best, best_score = record, score
        record, seen = records.next_member[record], seen + 1
    if rule == 1:
        record, seen = entities.head[entity], 0
        while record >= 0 and seen < LOOKED_AT:
            if records.values[record, column] >= 0:
                votes[records.values[record, column]] = 0
            record, seen = records.next_member[record], seen + 1
    return best


@tight
def write_golden(
    scorer: Scorer, records: Records, entities: Entities, entity: int, columns: Int64s, rules: Int64s,
    votes: Int32s, out: Int32s, row: int,
) -> None:  # fmt: skip
    """Writes to out[row] the surviving value of each field, then the record that it comes from."""
    for g in range(columns.size):
        record = survivor(scorer, records, entities, entity, columns[g], rules[g], votes)
        out[row, g] = records.values[record, columns[g]] if record >= 0 else -1
        out[row, columns.size + g] = record
