"""How sensitive the columns of a step are: as its operator says, and at least as what they are made of.

The rules of lineage say what a column is made of, so no operator has to think of it: a column whose value is passed on
or computed from another one is as sensitive as that one, and so is a time that is computed from event times. What only
decides which rows there are, or which branch an expression takes, gives no class.

A few columns are computed from sensitive ones and yet say nothing of them: `_harmless` names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from streamproc.contracts.sensitivity import LINKING, linked, strictest
from streamproc.decisions.abstain import Abstain
from streamproc.decisions.alert import Alert
from streamproc.decisions.bandit import Bandit
from streamproc.decisions.fallback import Fallback
from streamproc.decisions.routing import Route
from streamproc.decisions.sample_ratio import SampleRatio
from streamproc.drifting.drift import Drift
from streamproc.drifting.river_tests import RiverTest
from streamproc.drifting.windows import WindowTest
from streamproc.entities.resolve import Resolve
from streamproc.entities.sharding import ResolvePairs
from streamproc.feature.operator import Features
from streamproc.learning.operator import Learn
from streamproc.learning.retrain import Retrain
from streamproc.operator import Operator, StreamType
from streamproc.operators.changes import Changes
from streamproc.operators.harmonising.harmonise import Harmonise
from streamproc.operators.join import DELETED
from streamproc.operators.quality.drift_tally import DriftTally
from streamproc.operators.quality.freshness import Freshness
from streamproc.operators.quality.rules import Rules
from streamproc.operators.quality.tally import RuleTally
from streamproc.operators.quality.verdicts import RuleVerdicts
from streamproc.planning.plan import PlannedSink
from streamproc.planning.step_uses import step_uses
from streamproc.planning.uses import DIRECT, EVENT_TIME, Uses


def classed(
    operator: Operator, inputs: Sequence[StreamType], times: Sequence[str], out: StreamType, port: str = "rows"
) -> tuple[StreamType, str]:
    """One output of a step with the class of each of its columns, and the class of its event time.

    inputs, times  per input its columns, and the class of its event time
    out            what the operator says of the output

    Linking steps raise what becomes identifying (`sensitivity.linked`).  Cost: that of `step_uses`, or none where no
    input is sensitive.

    >>> import polars as pl
    >>> from streamproc.contracts.model import Field, Schema
    >>> from streamproc.operators.columns import Where
    >>> rows = StreamType(Schema((Field("name", pl.String(), pii="direct"), Field("n", pl.Int64()))))
    >>> made, time = classed(Where((pl.col("name") != "",)), [rows], ["quasi"], rows)
    >>> [field.pii for field in made.schema], time
    (['direct', ''], 'quasi')
    """
    time = ""
    if any(times) or any(field.pii for stream in inputs for field in stream.schema):
        made = step_uses(operator, inputs, out, port)

        def of(read: Uses) -> str:
            values = [use for use in read if use.kind in DIRECT]
            moments = (times[use.port] for use in values if use.column == EVENT_TIME)
            columns = (inputs[use.port].schema[use.column].pii for use in values if use.column[0] != EVENT_TIME[0])
            return strictest((*moments, *columns))

        harmless = _harmless(operator, out, port)
        fields = (
            field if field.name in harmless else replace(field, pii=strictest((field.pii, of(made[field.name]))))
            for field in out.schema
        )
        out, time = replace(out, schema=out.schema.with_fields(fields)), of(made[EVENT_TIME])
    return (replace(out, schema=linked(out.schema)) if operator.verb in LINKING and port == "rows" else out), time


def lowered(sink: PlannedSink) -> dict[str, tuple[str, str]]:
    """Columns that a sink's contract calls less sensitive than what they are made of: by name both classes."""
    declared = {field.name: field.pii for field in sink.contract.schema}
    carried = ((field.name, declared.get(field.name, field.pii), field.pii) for field in sink.type.schema)
    return {name: (told, own) for name, told, own in carried if strictest((told, own)) != told}


def _harmless(operator: Operator, out: StreamType, port: str) -> frozenset[str]:
    """Columns that say no more of what they are made of than the operator says itself.

    Figures over all rows (of a model, of a test, of a window of all keys), words and flags that the engine gives a row
    (a status, the rules that it breaks), arms drawn by a hash, and ids of entities, which stand for no other value.
    """
    names: Sequence[str] = ()
    match operator:
        case Rules(tag=tag):
            names = (tag,)
        case Changes():
            names = (DELETED,)
        case Harmonise(declared=declared):
            names = [f"{name}_status" for name, _ in declared]
        case Features(made=made):
            names = [f"{name}_{word}" for name, _ in made for word in ("status", "known")]
        case Resolve() | ResolvePairs():
            capped = ("rule", "held", "unseen", "compared", "matched")
            names = ("entity_id", "other_id") if port == "rows" else capped
        case Learn():
            champion = operator.race.champion if operator.race is not None else ""
            reports = [name for name in out.schema.names if name != "segment"]
            names = (champion,) if port == "rows" else () if port == "shadows" else reports
        case Bandit() | Route():
            names = (operator.into, f"{operator.into}_propensity") if port == "rows" else out.schema.names
        case Abstain(into=into):
            names = (f"{into}_threshold",)
        case Fallback(into=into):
            names = (f"{into}_rung", f"{into}_cause")
        case Alert():
            names = ("status", "alert_rows")
        case Retrain():
            names = ("reasons", "labels", "alarms")
        case Drift() | WindowTest() | RiverTest() | SampleRatio():
            names = out.schema.names
        case RuleTally() | DriftTally() | RuleVerdicts() | Freshness():
            names = out.schema.names
    return frozenset(names)
