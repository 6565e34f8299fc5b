"""What the steps of features, entities, learning, decisions, drift and quality make their columns of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from streamproc.decisions.abstain import Abstain
from streamproc.decisions.alert import Alert
from streamproc.decisions.bandit import Bandit
from streamproc.decisions.decide import Decide
from streamproc.decisions.decision_log import CHAIN
from streamproc.decisions.fallback import Fallback
from streamproc.decisions.review import CASE, CaseIds, Review
from streamproc.decisions.routing import Route
from streamproc.decisions.sample_ratio import SampleRatio
from streamproc.decisions.winner import Winner
from streamproc.drifting.drift import Drift
from streamproc.drifting.river_tests import RiverTest
from streamproc.drifting.windows import WindowTest
from streamproc.entities.block_copies import BLOCK, ENTRY, REVISION, TURN, BlockCopies
from streamproc.entities.block_pairs import OTHER, PAIR_COLUMNS, PLACE, WEIGHT, BlockPairs
from streamproc.entities.entity_views import EntityRows
from streamproc.entities.resolve import Resolve
from streamproc.entities.sharding import ResolvePairs
from streamproc.feature.derived import Derived
from streamproc.feature.leaves import OWN
from streamproc.feature.operator import CORRECTED_AT, Features
from streamproc.feature.plan import SOURCE
from streamproc.feature.together import Together
from streamproc.learning.operator import Learn
from streamproc.learning.retrain import Retrain
from streamproc.operator import Operator, StreamType
from streamproc.operators.aggregates import Aggregate
from streamproc.operators.expressions import expression_columns, expression_uses
from streamproc.operators.follow import LEAF, STEP, is_followed
from streamproc.operators.join import DELETED
from streamproc.operators.quality.drift_tally import DriftTally
from streamproc.operators.quality.freshness import Freshness
from streamproc.operators.quality.tally import RuleTally
from streamproc.operators.quality.verdicts import RuleVerdicts
from streamproc.planning.uses import (
    EVENT_TIME,
    NOTHING,
    ROWS,
    WATERMARK,
    StepUses,
    Uses,
    also,
    below,
    late,
    merged,
    met,
    of_aggregate,
    passing,
    released,
    summed,
    uses,
)

_COMMAND: Final = ("action", "record", "other")


def domain_uses(operator: Operator, inputs: Sequence[StreamType], out: StreamType, port: str) -> StepUses | None:
    """The rule of an operator of these domains, None for any other."""
    match operator:
        case Features():
            return _of_features(operator, inputs[0])
        case Together():
            return merged(inputs, out)
        case Resolve():
            return _of_resolve(operator, inputs) if port == "rows" else _of_capped(operator, inputs, out)
        case BlockCopies():
            return _of_copies(operator, inputs)
        case BlockPairs():
            return _of_pairs(operator, inputs[0])
        case ResolvePairs():
            return _of_resolved_pairs(operator, inputs, out, port)
        case EntityRows():
            return _of_entity_rows(operator, inputs[0], out)
        case Learn():
            return _of_learn(operator, inputs) if port == "rows" else _of_reports(operator, inputs, out, port)
        case Abstain():
            return _of_abstain(operator, inputs)
        case Bandit():
            return _of_bandit(operator, inputs) if port == "rows" else _of_arms(operator, inputs, out)
        case Winner():
            return _of_arms(operator, inputs, out)
        case Decide() if port == "log":
            return _of_log(operator, inputs[0])
        case Decide() | Route() | Fallback():
            return _of_decision(operator, inputs[0])
        case Alert():
            return _of_alert(operator, inputs[0])
        case CaseIds():
            return passing(inputs[0].schema) | {CASE: NOTHING}  # As a decision's id, of the row's place alone.
        case Review():
            return _of_review(operator, inputs)
        case Drift() | WindowTest() | RiverTest() | SampleRatio():
            return summed(operator, inputs, out)
        case RuleTally() | DriftTally() | RuleVerdicts() | Freshness() | Retrain():
            return summed(operator, inputs, out, timed=True)
    return None


# ── features ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_features(operator: Features, stream: StreamType) -> StepUses:
    """Each feature from what its aggregate reads; a derived one through those that it is computed from."""
    rows, key = passing(stream.schema), uses(0, stream.keyed_by or (), "GROUP_BY")
    shared = uses(0, (EVENT_TIME, WATERMARK), "WINDOW") if operator.max_lag_us is not None else NOTHING
    leaves = (LEAF, *OWN) if is_followed(stream.schema) else ()
    shared |= uses(0, leaves, "GROUP_BY")
    made: StepUses = {}
    for name, one in operator.made:
        if isinstance(one, Derived):
            of = _of_derived(one, made)
        else:
            of = of_aggregate(one, stream) | _of_sources(one, stream) | shared
        made |= dict.fromkeys((name, f"{name}_known", f"{name}_status"), of)
        made[f"{name}_age"] = of | uses(0, (EVENT_TIME,), "AGGREGATION")
    decides = late(0) | uses(0, leaves, "FILTER")
    if operator.corrections:
        made[CORRECTED_AT] = uses(0, (EVENT_TIME,), "TRANSFORMATION") | uses(0, (STEP,), "CONDITIONAL")
        made[DELETED] = shared | key | uses(0, (EVENT_TIME,), "WINDOW")
        decides |= key
    return also(rows | made, decides)


def _of_derived(one: Derived, made: StepUses) -> Uses:
    read = expression_uses(one.expression)
    of = NOTHING
    for columns, kind in ((read.values, "TRANSFORMATION"), (read.conditions, "CONDITIONAL")):
        for column in columns:
            of |= below(made.get(column, uses(0, (column,), "IDENTITY")), kind)  # type: ignore[arg-type]  # kinds
    return of


def _of_sources(one: Aggregate, stream: StreamType) -> Uses:
    """Which of the streams that came together the rows are of, where the aggregate asks."""
    if SOURCE not in stream.schema:
        return NOTHING
    if one.kind == "contributors":
        return uses(0, (SOURCE,), "AGGREGATION")
    return uses(0, (SOURCE,), "FILTER") if one.sources else NOTHING


# ── entities ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_resolve(operator: Resolve, inputs: Sequence[StreamType]) -> StepUses:
    """Everything that is compared decides which events there are; ids are made of ids, weights of what is compared."""
    read = operator.reads(frozenset(), *(stream.schema for stream in inputs))
    compared = {name for one in operator.stored if one.form != "raw" for name in (one.column, one.other) if name}
    ids = uses(0, (operator.record,), "TRANSFORMATION")
    decides = NOTHING
    for number, columns in enumerate(read):
        decides |= uses(number, (*columns, EVENT_TIME), "JOIN") | uses(number, (ROWS,), "IDENTITY")
    times = uses(0, (EVENT_TIME,), "IDENTITY")
    if len(inputs) > 1:
        ids |= uses(1, _COMMAND[1:], "TRANSFORMATION")
        times |= uses(1, (EVENT_TIME,), "IDENTITY")
        decides |= uses(0, (WATERMARK,), "SORT")
    weights = uses(0, compared, "TRANSFORMATION")
    made = dict.fromkeys(("entity_id", "other_id", "records", "matched"), ids)
    made |= dict.fromkeys(("weight", "posterior"), weights) | dict.fromkeys(("event", "reason", "size"), NOTHING)
    for name, _ in operator.golden:
        made |= {f"golden_{name}": uses(0, (name,), "AGGREGATION"), f"golden_{name}_from": ids}
    return also(passing(inputs[0].schema) | made | {EVENT_TIME: times}, decides)


def _of_capped(operator: Resolve, inputs: Sequence[StreamType], out: StreamType) -> StepUses:
    """Counts of pairs, from all that is compared; of the record's id its own column."""
    rows = _of_resolve(operator, inputs)
    counts = uses(0, operator.reads(frozenset(), *(stream.schema for stream in inputs))[0], "AGGREGATION")
    made = dict.fromkeys(out.schema.names, counts) | {"record": uses(0, (operator.record,), "TRANSFORMATION")}
    return {**made, EVENT_TIME: rows[EVENT_TIME], ROWS: rows[ROWS]}


def _of_copies(operator: BlockCopies, inputs: Sequence[StreamType]) -> StepUses:
    """Blocks are made of what their rules read; which copies there are, of these and of earlier ones of the record."""
    read = {name for one in operator.model.blocks for name in one.columns}
    decides = uses(0, (operator.record, *read), "GROUP_BY") | uses(0, (ROWS,), "IDENTITY")
    times = uses(0, (EVENT_TIME,), "IDENTITY")
    if len(inputs) > 1:
        decides |= uses(1, ("record",), "GROUP_BY") | uses(1, (ROWS,), "IDENTITY") | uses(0, (WATERMARK,), "SORT")
        times |= uses(1, (EVENT_TIME,), "IDENTITY")
    made = {BLOCK: uses(0, read, "TRANSFORMATION")} | dict.fromkeys((ENTRY, TURN, REVISION), NOTHING)
    return also(passing(inputs[0].schema) | made | {EVENT_TIME: times}, decides)


def _of_pairs(operator: BlockPairs, stream: StreamType) -> StepUses:
    """Weights are made of what is compared, and so is which pairs there are."""
    decides = uses(0, (*operator.compared, operator.record, *stream.schema.names[-4:], EVENT_TIME), "JOIN")
    made = dict.fromkeys(PAIR_COLUMNS, NOTHING) | {
        REVISION: uses(0, (REVISION,), "IDENTITY"), PLACE: uses(0, (ENTRY,), "TRANSFORMATION"),
        OTHER: uses(0, (operator.record,), "IDENTITY"), WEIGHT: uses(0, operator.compared, "TRANSFORMATION"),
    }  # fmt: skip
    return also(passing(stream.schema) | made, decides | uses(0, (ROWS,), "IDENTITY"))


def _of_resolved_pairs(
    operator: ResolvePairs, inputs: Sequence[StreamType], out: StreamType, port: str
) -> StepUses:  # fmt: skip
    """As of `resolve`, with the pairs that come."""
    rows = _of_resolve(operator.resolve, inputs) if port == "rows" else _of_capped(operator.resolve, inputs, out)
    pairs = uses(0, PAIR_COLUMNS, "JOIN")
    made = {name: of | pairs for name, of in rows.items()}
    weighed = uses(0, (WEIGHT,), "TRANSFORMATION")
    told = {"matched": uses(0, (OTHER,), "TRANSFORMATION")} if port == "rows" else {"matched": weighed}
    for name, of in (told | {"weight": weighed, "posterior": weighed}).items():
        if name in out.schema.names:
            made[name] |= of
    return made


def _of_entity_rows(operator: EntityRows, stream: StreamType, out: StreamType) -> StepUses:
    event = frozenset({"event"})
    if operator.kind == "links":
        links = {
            "record": uses(0, ("records",), "TRANSFORMATION"),
            "entity_id": uses(0, ("entity_id",), "IDENTITY") | uses(0, event, "CONDITIONAL"),
        }
        return also(passing(stream.schema) | links, uses(0, ("event", "records"), "FILTER"))
    made = {}
    for name in out.schema.names:
        (read,) = operator.reads(frozenset({name}), stream.schema)
        made[name] = uses(0, read - event or event, "IDENTITY")
    return also(passing(stream.schema) | made, uses(0, event, "FILTER"))


# ── learning and decisions ───────────────────────────────────────────────────────────────────────────────────────────


def _of_learn(operator: Learn, inputs: Sequence[StreamType]) -> StepUses:
    """A score from the row's inputs and, by what was learned, from the inputs and labels of rows before it."""
    score = uses(0, operator.inputs, "TRANSFORMATION")
    score |= uses(len(inputs) - 1, (operator.label,) if operator.label else (), "AGGREGATION")
    decides = NOTHING
    if operator.on:
        score |= met(inputs)
        decides = late(0)
    if operator.race is not None and operator.segment:  # No segment may be worse off with a new champion.
        score |= uses(0, (operator.segment,), "AGGREGATION")
    made = {operator.into: score}
    if operator.race is not None and operator.race.champion:
        made[operator.race.champion] = score
    if operator.calibrated:
        made[operator.calibrated] = score | uses(0, (operator.segment,) if operator.segment else (), "TRANSFORMATION")
    return also(passing(inputs[0].schema) | made, decides)


def _of_reports(operator: Learn, inputs: Sequence[StreamType], out: StreamType, port: str) -> StepUses:
    """What a model is worth, from inputs and labels, per segment; by what they are joined is no figure of it."""
    if port == "shadows":
        scored = _of_learn(operator, inputs)
        said = {name: scored[operator.into] for name in out.schema.names if name not in operator.on}
        return {name: scored[name] for name in (*operator.on, EVENT_TIME, ROWS)} | said
    segment = uses(0, (operator.segment,) if operator.segment and port != "importance" else (), "AGGREGATION")
    told = segment | uses(0, operator.inputs, "AGGREGATION")
    told |= uses(len(inputs) - 1, (operator.label,) if operator.label else (), "AGGREGATION")
    whole = summed(operator, inputs, out)
    made = dict.fromkeys(out.schema.names, told) | {"segment": segment}
    return {**made, EVENT_TIME: whole[EVENT_TIME], ROWS: whole[ROWS]}


def _of_abstain(operator: Abstain, inputs: Sequence[StreamType]) -> StepUses:
    """A threshold from the chances and labels of rows before; whether to decide from it and the row's own chance."""
    threshold = met(inputs) | uses(0, (operator.chance,), "AGGREGATION")
    threshold |= uses(1, (operator.label,) if operator.label else (), "AGGREGATION")
    made = {
        operator.into: threshold | uses(0, (operator.chance,), "TRANSFORMATION"),
        f"{operator.into}_threshold": threshold,
    }
    return also(passing(inputs[0].schema) | made, late(0))


def _of_bandit(operator: Bandit, inputs: Sequence[StreamType]) -> StepUses:
    """An arm from the row's key, and from the arms and rewards of rows before."""
    known = met(inputs) | uses(0, operator.on, "AGGREGATION")
    known |= uses(1, (operator.reward,) if operator.reward else (), "AGGREGATION")
    made = {
        operator.into: known | uses(0, operator.on, "TRANSFORMATION"),
        f"{operator.into}_propensity": known | uses(0, operator.on, "TRANSFORMATION"),
    }
    return also(passing(inputs[0].schema) | made, late(0))


def _of_arms(operator: Bandit | Winner, inputs: Sequence[StreamType], out: StreamType) -> StepUses:
    """What arms are worth, from rewards and from who drew which arm."""
    told = uses(0, operator.on, "AGGREGATION")
    told |= uses(0, (operator.arm, operator.propensity) if isinstance(operator, Winner) else (), "AGGREGATION")
    told |= uses(1, (operator.reward,) if operator.reward else (), "AGGREGATION")
    whole = summed(operator, inputs, out)
    return {**dict.fromkeys(out.schema.names, told), EVENT_TIME: whole[EVENT_TIME], ROWS: whole[ROWS]}


def _of_decision(operator: Decide | Route | Fallback, stream: StreamType) -> StepUses:
    """What is decided is computed from what the rules read; a decision's id is made of the row's place alone."""
    rows = passing(stream.schema)
    if isinstance(operator, Route):
        by = uses(0, operator.by, "TRANSFORMATION")
        return rows | {operator.into: by, f"{operator.into}_propensity": by}
    if isinstance(operator, Fallback):
        scores = [rung.score for rung in operator.rungs if isinstance(rung.score, str)]
        ages = [rung.age for rung in operator.rungs if rung.age]
        best = uses(0, operator.rungs[0].columns, "TRANSFORMATION")
        return rows | {
            operator.into: uses(0, scores, "TRANSFORMATION") | uses(0, ages, "CONDITIONAL"),
            f"{operator.into}_rung": uses(0, (*scores, *ages), "TRANSFORMATION"),
            f"{operator.into}_cause": best,
        }
    read = uses(0, operator.table.columns, "TRANSFORMATION")
    number, decision, rule = operator.made
    several = uses(0, operator.table.columns, "FILTER") if operator.table.hit == "unique" else NOTHING
    return also(rows | {number: NOTHING, decision: read, rule: read}, several)


def _of_log(operator: Decide, stream: StreamType) -> StepUses:
    """A line for each decision; its hash is made of all that this line and those before it hold."""
    made = _of_decision(operator, stream)
    body = uses(0, operator.logged, "AGGREGATION")
    return made | {"number": NOTHING, "logic": NOTHING, CHAIN: body}


def _of_alert(operator: Alert, stream: StreamType) -> StepUses:
    """A row where a key's alert is raised or resolved: what it is raised by decides that there is one."""
    read = (operator.what,) if isinstance(operator.what, str) else expression_columns(operator.what)
    key = stream.keyed_by or ()
    rows = passing(stream.schema)
    made = {name: rows[name] for name in (*key, EVENT_TIME)}
    made |= dict.fromkeys(("alert", "severity", "runbook"), NOTHING)
    made["status"] = uses(0, read, "TRANSFORMATION")
    plain = isinstance(operator.what, str)
    made["value"] = uses(0, read, "IDENTITY") if plain else NOTHING
    made["peak"] = uses(0, read, "AGGREGATION") if plain else NOTHING
    made["since"] = uses(0, (EVENT_TIME,), "TRANSFORMATION")
    made["alert_rows"] = uses(0, read, "AGGREGATION")
    made["cause"] = uses(0, (*key, EVENT_TIME), "TRANSFORMATION")
    decides = uses(0, read, "FILTER") | uses(0, key, "GROUP_BY") | uses(0, (EVENT_TIME,), "WINDOW") | late(0)
    return made | {ROWS: rows[ROWS] | decides}


def _of_review(operator: Review, inputs: Sequence[StreamType]) -> StepUses:
    """A row for each case that is closed, at the side "cases" for each that is opened too: the answer that counts, or
    that there was none in time, decides what it tells and when it comes.
    """
    closes = met(inputs) | uses(1, ("deed", "verdict"), "FILTER")
    made = passing(inputs[0].schema) | dict.fromkeys(("choices", "default", "answers"), NOTHING)
    text = bool(operator.subject) and inputs[0].schema[operator.subject].dtype == pl.String
    made["subject"] = uses(0, _named(operator.subject), "IDENTITY" if text else "TRANSFORMATION")
    made["priority"] = uses(0, _named(operator.priority), "TRANSFORMATION")
    made["asked_at"] = uses(0, (EVENT_TIME,), "IDENTITY")
    made["deadline"] = uses(0, (EVENT_TIME,), "TRANSFORMATION")
    made["status"] = closes
    told = (("verdict", "verdict"), ("answered_by", "by"), ("answered_at", EVENT_TIME), ("note", "note"))
    made |= {name: uses(1, (of,), "IDENTITY") | closes for name, of in told}
    times = uses(0, (EVENT_TIME,), "TRANSFORMATION") | uses(1, (EVENT_TIME,), "TRANSFORMATION")
    return also(made | {EVENT_TIME: times | closes}, closes | late(0) | released())


def _named(column: str) -> tuple[str, ...]:
    return (column,) if column else ()
