"""Which sinks of a plan promise the same rows however many workers run it, wherever, and whatever happens to them."""

from __future__ import annotations

from streamproc.operators.ordered import Ordered
from streamproc.planning.plan import Plan


def below_ordered(plan: Plan) -> set[str]:
    """Sinks on whose every path, below the last change of key, rows are brought into the order of event time.

    A way back to a source or to a change of key without that is a place where rows of several tasks may meet in
    another order in each run.
    """
    nodes = {node.rank: node for node in plan.nodes}

    def in_order(rank: int) -> bool:
        node = nodes[rank]
        if isinstance(node.origin, Ordered):
            return True
        return bool(node.inputs) and not node.moves and all(in_order(port[0]) for port in node.inputs)

    return {sink.name for sink in plan.sinks if in_order(sink.port[0])}
