"""What each step makes its columns of, and what decides which rows it gives: one rule for each operator.

An operator that has none here, a person's own above all, gets the answer that is true of any: each of its columns may
come from all that it reads. A rule says less, and tests hold it to that: where a column that a rule does not name is
changed, nothing may change (`tests/lineage`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from streamproc.operator import Operator, StreamType
from streamproc.operators.aggregates import Aggregate
from streamproc.operators.as_of import AsOf
from streamproc.operators.changes import Changes
from streamproc.operators.columns import Drop, Rename, Select, Where, WithColumns
from streamproc.operators.dedupe import Dedupe
from streamproc.operators.definitions import Definitions
from streamproc.operators.explode import Explode
from streamproc.operators.follow import EPOCH, HAPPENED, LEAF, STEP, Follow
from streamproc.operators.harmonising.harmonise import Harmonise
from streamproc.operators.harmonising.ladder import Canonical
from streamproc.operators.harmonising.money import Money
from streamproc.operators.join import DELETED, Join
from streamproc.operators.join_columns import output_name, right_columns
from streamproc.operators.key_by import KeyBy
from streamproc.operators.lookback import Lookback
from streamproc.operators.ordered import Ordered
from streamproc.operators.outcomes import Outcomes
from streamproc.operators.quality.rule import Rule
from streamproc.operators.quality.rules import Rules
from streamproc.operators.sessions import Sessions
from streamproc.operators.stateless import Stateless
from streamproc.operators.union import Union
from streamproc.operators.windows import Windows
from streamproc.operators.within import Within
from streamproc.planning.domain_uses import domain_uses
from streamproc.planning.uses import (
    EVENT_TIME,
    NOTHING,
    ROWS,
    WATERMARK,
    StepUses,
    Uses,
    also,
    anything,
    columns_of,
    late,
    merged,
    met,
    of_aggregate,
    of_expression,
    passing,
    released,
    uses,
)


def step_uses(operator: Operator, inputs: Sequence[StreamType], out: StreamType, port: str = "rows") -> StepUses:
    """What a step makes each column of one of its outputs of, and its `EVENT_TIME` and `ROWS`.

    >>> import polars as pl
    >>> from streamproc.contracts.model import Field, Schema
    >>> rows = StreamType(Schema((Field("a", pl.Int64()), Field("b", pl.Int64()))))
    >>> [use.column for use in step_uses(Where((pl.col("a") > 0,)), [rows], rows)["b"]]
    ['b']
    """
    if port == "late":
        return passing(out.schema) | {ROWS: uses(0, (ROWS,), "IDENTITY") | late(0) | uses(0, (WATERMARK,), "FILTER")}
    for rule in (_of_rows, _of_keys, _of_two, domain_uses):
        found = rule(operator, inputs, out, port)
        if found is not None:
            return found
    return anything(operator, inputs, out, port)


# ── one row at a time ────────────────────────────────────────────────────────────────────────────────────────────────


def _of_rows(operator: Operator, inputs: Sequence[StreamType], out: StreamType, port: str) -> StepUses | None:
    schema = inputs[0].schema
    rows = passing(schema)
    match operator:
        case Where(predicates=predicates):
            return also(rows, uses(0, columns_of(predicates), "FILTER"))
        case WithColumns(made=made):
            return rows | {name: of_expression(one) for name, one in made}
        case Select(columns=columns):
            kept = {n: uses(0, (n,), "IDENTITY") if one is None else of_expression(one) for n, one in columns}
            return kept | {name: rows[name] for name in (EVENT_TIME, ROWS)}
        case Rename(names=names):
            new = dict(names)
            return {new.get(name, name): made for name, made in rows.items()}
        case Drop():
            return rows
        case KeyBy(columns=columns):
            return also(rows, uses(0, columns, "GROUP_BY"))  # It decides to which task a row goes.
        case Stateless(read=read):
            given = uses(0, schema.names if read is None else read, "TRANSFORMATION")
            return rows | dict.fromkeys(operator.gives(schema), given)
        case Explode(column=column):
            return also(rows | {column: uses(0, (column,), "TRANSFORMATION")}, uses(0, (column,), "FILTER"))
        case Changes(deleted=deleted):
            return rows | {DELETED: of_expression(deleted)}
        case Rules(acting=acting, tag=tag):
            tags, tests = _tests(acting, ("tag",)), _tests(acting, ("dead_letter", "stop"))
            rows = rows | ({tag: uses(0, tags, "TRANSFORMATION")} if tag else {})
            return also(rows, uses(0, tests, "FILTER"))
        case Definitions():
            return rows | _of_definitions(operator)
        case Harmonise(declared=declared):
            refusing = [c for _, one in declared if one.default is None and one.otherwise == "quarantine"
                        for c in one.reads]  # fmt: skip
            return also(rows | _of_harmonise(declared, inputs[0]), uses(0, refusing, "FILTER"))
    return None


def _tests(acting: Sequence[tuple[str, Rule]], actions: Sequence[str]) -> frozenset[str]:
    return columns_of(rule.test for _, rule in acting if rule.test is not None and rule.action in actions)


def _of_definitions(operator: Definitions) -> StepUses:
    """A flag from its owner's clauses; which version of them, and whose flag is canonical, the event time decides."""
    read = {
        owner: uses(0, columns_of(test for meaning in meanings for _, test in meaning.clauses), "TRANSFORMATION")
        for owner, meanings in operator.owners
    }
    dated = uses(0, (EVENT_TIME,), "CONDITIONAL")
    concept, chosen = operator.concept, [read[owner] for _, owner in operator.canonical]
    return {
        concept: dated.union(*chosen),
        f"{concept}_by": dated,
        **{f"{concept}_{owner}": dated | columns for owner, columns in read.items()},
        f"{concept}_because": dated.union(*read.values()),
    }


def _of_harmonise(declared: Sequence[tuple[str, Canonical]], stream: StreamType) -> StepUses:
    made: StepUses = {}
    for name, canonical in declared:
        from_row = uses(0, canonical.reads, "TRANSFORMATION")
        own = not type(canonical).__module__.startswith("streamproc.")
        # Rates are those of the row's event time; a type of a person's own is given that time too.
        if own or (isinstance(canonical, Money) and canonical.rates is not None):
            from_row |= uses(0, (EVENT_TIME,), "TRANSFORMATION")
        columns = [field.name for field in canonical.fields(name, stream.schema)]
        made |= dict.fromkeys((*columns, f"{name}_status"), from_row)
    return made


# ── what remembers, by key and time ──────────────────────────────────────────────────────────────────────────────────


def _of_keys(operator: Operator, inputs: Sequence[StreamType], out: StreamType, port: str) -> StepUses | None:
    stream = inputs[0]
    rows = passing(stream.schema)
    match operator:
        case Ordered(by=by):
            return also(rows, uses(0, (*by, EVENT_TIME, WATERMARK), "SORT") | late(0))
        case Dedupe(columns=columns):
            return also(rows, uses(0, columns, "FILTER") | late(0))
        case Windows(aggregates=aggregates) | Sessions(aggregates=aggregates):
            return _of_windows(aggregates, stream)
        case Lookback(aggregates=aggregates):
            return also(rows | {name: of_aggregate(one, stream) for name, one in aggregates}, late(0))
    return None


def _of_windows(aggregates: Sequence[tuple[str, Aggregate]], stream: StreamType) -> StepUses:
    """A row for each window: its bounds are made of event times, and so is when it comes."""
    key = stream.keyed_by or ()
    times = uses(0, (EVENT_TIME,), "AGGREGATION")
    by_key = uses(0, key, "GROUP_BY")
    return {
        **{name: uses(0, (name,), "IDENTITY") for name in key},
        "window_start": times | by_key,
        "window_end": times | by_key,
        **{name: of_aggregate(one, stream) for name, one in aggregates},
        "revision": by_key | uses(0, (EVENT_TIME,), "WINDOW"),
        EVENT_TIME: times,
        ROWS: uses(0, (ROWS,), "IDENTITY") | by_key | late(0) | released(),
    }


# ── several inputs ───────────────────────────────────────────────────────────────────────────────────────────────────


def _of_two(operator: Operator, inputs: Sequence[StreamType], out: StreamType, port: str) -> StepUses | None:
    match operator:
        case Union():
            return merged(inputs, out)
        case AsOf():
            return _of_as_of(operator, *inputs)
        case Within(suffix=suffix):
            return _of_pairs(inputs, _brought(*inputs, suffix=suffix, chosen=None))
        case Join(suffix=suffix, how=how):
            return _of_tables(inputs, suffix, either=how == "full")
        case Follow(column=column):
            return _of_follow(inputs, column)
        case Outcomes():
            return _of_outcomes(inputs, operator.on, operator.at)
    return None


def _brought(
    left: StreamType, right: StreamType, *, suffix: str, chosen: tuple[str, ...] | None, of: Iterable[str] = ()
) -> Mapping[str, Uses]:
    """The columns that a join brings from its right side, by their names in the output."""
    ours = tuple(of) or left.schema.names
    return {output_name(n, ours, suffix): uses(1, (n,), "IDENTITY") for n in right_columns(right, chosen)}


def _of_as_of(operator: AsOf, left: StreamType, right: StreamType) -> StepUses:
    """Left rows as they are. The right columns, and whether there are any, hang on which right row is the newest."""
    meeting = met((left, right))
    # Where both sides are in order of event time, nothing else decides which row came before.
    if left.ordered and right.ordered:
        meeting = frozenset(use for use in meeting if use.column != WATERMARK)
    status, age = f"{operator.prefix}_status", f"{operator.prefix}_age"
    ages = uses(0, (EVENT_TIME,), "TRANSFORMATION") | uses(1, (EVENT_TIME,), "TRANSFORMATION")
    brought = _brought(left, right, suffix=operator.suffix, chosen=operator.columns)
    made = passing(left.schema) | {name: of | meeting for name, of in brought.items()}
    return also(made | {status: meeting, age: meeting | ages}, late(0))


def _of_pairs(inputs: Sequence[StreamType], brought: Mapping[str, Uses]) -> StepUses:
    """A row for each pair, at the later of both event times; rows of both sides wait for partners."""
    meeting = met(inputs)
    made = passing(inputs[0].schema) | {name: of | meeting for name, of in brought.items()}
    times = uses(0, (EVENT_TIME,), "TRANSFORMATION") | uses(1, (EVENT_TIME,), "TRANSFORMATION")
    return also(made | {EVENT_TIME: times}, meeting | late(0) | late(1) | released())


def _of_tables(inputs: Sequence[StreamType], suffix: str, *, either: bool) -> StepUses:
    """A row whenever a side changes: what is told is the newest of both; `either` side alone may give the key."""
    left, right = inputs
    ours = [name for name in left.schema.names if name != left.schema.deletes]
    brought = _brought(left, right, suffix=suffix, chosen=None, of=ours)
    made = _of_pairs(inputs, brought) | {DELETED: met(inputs)}
    for mine, theirs in zip(left.keyed_by or (), right.keyed_by or (), strict=True) if either else ():
        made[mine] |= uses(1, (theirs,), "IDENTITY")
    gone = uses(0, (left.schema.deletes,), "FILTER") if left.schema.deletes else NOTHING
    made[DELETED] |= gone
    return also(made, gone)


def _of_follow(inputs: Sequence[StreamType], entity: str) -> StepUses:
    """A row of a leaf, with the entity that it belongs to: again whenever a link moves it."""
    rows, _ = inputs
    meeting = met(inputs) | uses(1, (entity,), "JOIN")
    leaf = uses(0, rows.keyed_by or (), "IDENTITY")
    made = passing(rows.schema) | {
        "entity": uses(1, (entity,), "IDENTITY") | leaf | meeting,
        LEAF: leaf,
        STEP: meeting,
        EPOCH: meeting,
        HAPPENED: uses(0, (EVENT_TIME,), "IDENTITY") | meeting,
        EVENT_TIME: uses(0, (EVENT_TIME,), "IDENTITY") | uses(1, (EVENT_TIME,), "IDENTITY"),
    }
    return also(made, meeting | late(0) | late(1) | released())


def _of_outcomes(inputs: Sequence[StreamType], on: Sequence[str], at: str) -> StepUses:
    """A row's id, at each moment at which it meets an event of its entity."""
    leaves = (LEAF, STEP, EPOCH, HAPPENED)
    meeting = met(inputs) | uses(0, leaves, "JOIN") | uses(1, leaves, "JOIN")
    times = uses(0, (EVENT_TIME,), "TRANSFORMATION") | uses(1, (EVENT_TIME,), "TRANSFORMATION")
    decides = meeting | late(0) | late(1) | released()
    made = {name: uses(0, (name,), "IDENTITY") for name in on}
    return {**made, at: times | meeting, EVENT_TIME: times, ROWS: uses(0, (ROWS,), "IDENTITY") | decides}
