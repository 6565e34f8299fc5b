"""Versions of columns: a hash of all that makes a column, and of nothing else of its topology.

Two builds give a column the same version if its definition, the parameters that it depends on, and everything above it
(sources, contracts, steps, functions by their parsed source) are the same; how steps are called does not matter. Of a
`features` each column has a version of its own: changing one leaves the others as they were.
"""

from __future__ import annotations

from streamproc.decisions.decide import Decide
from streamproc.feature.derived import Derived
from streamproc.feature.operator import CORRECTED_AT, Features
from streamproc.learning.operator import Learn
from streamproc.operators.columns import Drop, Select, Where, WithColumns
from streamproc.operators.dedupe import Dedupe
from streamproc.operators.expressions import expression_columns
from streamproc.operators.join import DELETED
from streamproc.operators.key_by import KeyBy
from streamproc.operators.ordered import Ordered
from streamproc.planning.fingerprint import canonical_text, digest
from streamproc.planning.plan import Node, Plan, PlannedSink, Port

_SHOWN = 12


def column_versions(plan: Plan, sink: PlannedSink) -> dict[str, str]:
    """The version of each column of a sink, 12 hexadecimal digits, by name.

    A column that steps pass on as it is has the version that it has where it is made: in a `features` by its own
    definition, elsewhere by all that shapes that step. Which rows there are is no part of it.
    """
    return {name: column_version(plan, sink.port, name) for name in sink.type.schema.names}


def column_version(plan: Plan, port: Port, name: str) -> str:
    """The version of one column of what a step gives, see `column_versions`."""
    return digest(_made(plan, plan.nodes[port[0]], port[1], name))[:_SHOWN]


def _made(plan: Plan, node: Node, port: str, name: str) -> str:
    """What makes a column, found by going up while it passes as it is."""
    while port == "rows":
        if isinstance(node.origin, Features):
            made = dict(node.origin.made)
            of = next((n for n in made if name in (n, *(f"{n}{end}" for end in ("_known", "_status", "_age")))), None)
            if of is not None:
                return _feature_version(plan, node, of)
        if not _passes(node, name):
            break
        rank, port = node.inputs[0]
        node = plan.nodes[rank]
    return f"{node.meaning} {port} {name}"


def _passes(node: Node, name: str) -> bool:
    """Whether the step passes the column on as it is."""
    match node.origin:
        case Features(corrections=True) if name in (CORRECTED_AT, DELETED):
            return False
        case Features() | Where() | Drop() | KeyBy() | Ordered() | Dedupe():
            return True
        case WithColumns(made=made):
            return name not in dict(made)
        case Learn() as step:
            return name not in step.made.values()
        case Decide(made=made):
            return name not in made
        case Select(columns=columns):
            return any(column == name and expression is None for column, expression in columns)
    return False


def _feature_version(plan: Plan, node: Node, name: str) -> str:
    operator = node.origin
    assert isinstance(operator, Features)  # found so
    made = dict(operator.made)
    parts = []
    waiting, done = [name], set()
    while waiting:
        one = waiting.pop()
        if one in done or one not in made:
            continue
        done.add(one)
        parts.append((one, made[one]))
        definition = made[one]
        if isinstance(definition, Derived):
            waiting += sorted(expression_columns(definition.expression))
    above = [(plan.nodes[rank].meaning, port) for rank, port in node.inputs]
    shared = (operator.coverage, operator.max_lag_us, operator.events_per_key, operator.at_bound)
    return canonical_text((sorted((one for one in parts), key=lambda part: part[0]), shared, above))
