"""What a column of a step is made of: the words in which steps say it, and how they add up along a path.

The words are OpenLineage's. *Direct* is what gives the value: it is passed on as it is (IDENTITY), computed from the
row (TRANSFORMATION), or from many rows (AGGREGATION). *Indirect* is what only decides: which branch of an expression
holds (CONDITIONAL), which rows there are (FILTER), meet (JOIN, GROUP_BY, WINDOW), or when and in which order they come
(SORT).

Beside its columns a stream has three that nobody sees: the event time of its rows, which rows there are at all, and how
far time is in its stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import polars as pl

from streamproc.contracts.model import Schema
from streamproc.operator import Operator, StreamType
from streamproc.operators.aggregates import Aggregate
from streamproc.operators.expressions import expression_columns, expression_uses

Kind = Literal[
    "IDENTITY", "TRANSFORMATION", "AGGREGATION", "CONDITIONAL", "FILTER", "JOIN", "GROUP_BY", "WINDOW", "SORT"
]
DIRECT: Final[tuple[Kind, ...]] = ("IDENTITY", "TRANSFORMATION", "AGGREGATION")
"""From the least to the most that happens to a value."""
INDIRECT: Final[tuple[Kind, ...]] = ("CONDITIONAL", "FILTER", "JOIN", "GROUP_BY", "WINDOW", "SORT")

EVENT_TIME: Final = "\0event_time"
"""The event time of the rows of a stream."""
ROWS: Final = "\0rows"
"""Which rows of a stream there are, in which order and when."""
WATERMARK: Final = "\0watermark"
"""How far time is in the stage of a step: what all of its inputs decide together."""


class Use(NamedTuple):
    """A column of an input, by the input's number, that has a part in something."""

    port: int
    column: str
    kind: Kind


Uses = frozenset[Use]
StepUses = dict[str, Uses]
"""By column of what a step gives, `EVENT_TIME` and `ROWS` included."""

NOTHING: Final[Uses] = frozenset()

_OF_TIME: Final = frozenset({"time_since_last", "ewma", "trend"})
"""Aggregates whose value is made of event times too."""


def uses(port: int, columns: Iterable[str], kind: Kind) -> Uses:
    """These columns of an input, all of one kind.

    >>> uses(0, ("a",), "FILTER")
    frozenset({Use(port=0, column='a', kind='FILTER')})
    """
    return frozenset(Use(port, column, kind) for column in columns)


def of_expression(expression: pl.Expr) -> Uses:
    """What an expression reads of the first input.

    >>> sorted(use.kind for use in of_expression(pl.when(pl.col("a") > 0).then(pl.col("b"))))
    ['CONDITIONAL', 'TRANSFORMATION']
    """
    read = expression_uses(expression)
    kind: Kind = "IDENTITY" if read.as_it_is else "TRANSFORMATION"
    return uses(0, read.values, kind) | uses(0, read.conditions, "CONDITIONAL")


def columns_of(expressions: Iterable[pl.Expr]) -> frozenset[str]:
    """All columns that these expressions read."""
    return frozenset().union(*map(expression_columns, expressions))


def together(kind_above: Kind, kind: Kind) -> Kind:
    """Of what kind something is that has a part of one kind in what has a part of another in the result.

    >>> together("AGGREGATION", "TRANSFORMATION"), together("FILTER", "IDENTITY"), together("IDENTITY", "JOIN")
    ('AGGREGATION', 'FILTER', 'JOIN')
    """
    if kind in INDIRECT:
        return kind
    return kind_above if kind_above in INDIRECT else max(kind_above, kind, key=DIRECT.index)


def below(read: Iterable[Use], kind: Kind) -> Uses:
    """What is used where something is computed, within one step, from what uses this."""
    return frozenset(use._replace(kind=together(use.kind, kind)) for use in read)


# ── what several steps have in common ────────────────────────────────────────────────────────────────────────────────


def passing(schema: Schema) -> StepUses:
    """The first input's rows as they are."""
    return {name: uses(0, (name,), "IDENTITY") for name in (*schema.names, EVENT_TIME, ROWS)}


def also(made: StepUses, decides: Uses) -> StepUses:
    """The same, with more that decides which rows there are."""
    return made | {ROWS: made[ROWS] | decides}


def late(port: int) -> Uses:
    """Rows that come too late do not go on."""
    return uses(port, (EVENT_TIME,), "FILTER")


def released() -> Uses:
    """Rows come when time is so far."""
    return uses(0, (EVENT_TIME, WATERMARK), "WINDOW")


def of_aggregate(one: Aggregate, stream: StreamType) -> Uses:
    """What an aggregate over rows of a key is made of."""
    made = uses(0, (one.column,), "AGGREGATION") if one.column else NOTHING
    if one.kind in _OF_TIME:
        made |= uses(0, (EVENT_TIME,), "AGGREGATION")
    where = () if one.where_ is None else expression_columns(one.where_)
    return (
        made | uses(0, where, "FILTER") | uses(0, stream.keyed_by or (), "GROUP_BY") | uses(0, (EVENT_TIME,), "WINDOW")
    )


def merged(inputs: Sequence[StreamType], out: StreamType) -> StepUses:
    """The rows of several streams, each with what it has; time decides how they interleave."""
    ports = range(len(inputs))
    made = {
        name: NOTHING.union(*(uses(n, (name,), "IDENTITY") for n in ports if name in inputs[n].schema))
        for name in out.schema.names
    }
    times = NOTHING.union(*(uses(n, (EVENT_TIME,), "IDENTITY") for n in ports))
    rows = NOTHING.union(*(uses(n, (ROWS,), "IDENTITY") | uses(n, (EVENT_TIME,), "SORT") for n in ports))
    return made | {EVENT_TIME: times, ROWS: rows | uses(0, (WATERMARK,), "SORT")}


def met(inputs: Sequence[StreamType]) -> Uses:
    """What decides which rows of two streams meet: keys, event times, and which rows of the second one there are."""
    keys = [uses(n, (*(stream.keyed_by or ()), EVENT_TIME), "JOIN") for n, stream in enumerate(inputs)]
    gone = uses(1, (inputs[1].schema.deletes,), "JOIN") if inputs[1].schema.deletes else NOTHING
    return NOTHING.union(*keys) | uses(1, (ROWS,), "JOIN") | gone | uses(0, (WATERMARK,), "JOIN")


def anything(operator: Operator, inputs: Sequence[StreamType], out: StreamType, port: str = "rows") -> StepUses:
    """Every column from all that the step reads: columns, event time, and the rows that there are."""
    rows = out if port == "rows" else operator.schema(*inputs)
    read = operator.reads(frozenset(rows.schema.names), *(stream.schema for stream in inputs))
    whole, decides = NOTHING, uses(0, (WATERMARK,), "WINDOW")
    for number, (stream, columns) in enumerate(zip(inputs, read, strict=True)):
        there = (*(columns & frozenset(stream.schema.names)), EVENT_TIME)
        whole |= uses(number, there, "TRANSFORMATION")
        decides |= uses(number, there, "FILTER") | uses(number, stream.keyed_by or (), "GROUP_BY")
        decides |= uses(number, (ROWS,), "IDENTITY")
    return {**dict.fromkeys(out.schema.names, whole), EVENT_TIME: whole, ROWS: decides}


def summed(operator: Operator, inputs: Sequence[StreamType], out: StreamType, *, timed: bool = False) -> StepUses:
    """What tells of many rows together: every column from all that the step reads of its own accord.

    timed  columns tell event times too
    """
    read = operator.reads(frozenset(), *(stream.schema for stream in inputs))
    whole, times, decides = NOTHING, NOTHING, released()
    for number, (stream, columns) in enumerate(zip(inputs, read, strict=True)):
        whole |= uses(number, columns, "AGGREGATION")
        times |= uses(number, (EVENT_TIME,), "AGGREGATION")
        decides |= uses(number, columns, "FILTER") | uses(number, stream.keyed_by or (), "GROUP_BY")
        decides |= uses(number, (ROWS,), "IDENTITY") | uses(number, (EVENT_TIME,), "WINDOW")
    told = whole | times if timed else whole
    return {**dict.fromkeys(out.schema.names, told), EVENT_TIME: times, ROWS: decides}
