"""How late rows may come: what contracts promise of their topics, and what that means for steps that join them.

A row's *lag* is its record's own timestamp minus its event time: how old it was when it came into the log. Both are
data, so whoever reads the same records finds the same lags. A contract promises a bound (`"sp:sla": {"freshness":
"5m"}`), and from where on to warn (`freshness_warn`, half of it unless it says so).

A join has all that it needs of a moment once its slower side is there and no earlier row can come any more: its bound
is that of the slower side, plus the lateness of its sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamproc.contracts.model import Contract
from streamproc.event_time import span_us
from streamproc.graph import Source
from streamproc.operators.union import Union
from streamproc.planning.plan import Node, Plan

OK: Final = "ok"
WARN: Final = "warn"
LATE: Final = "late"
UNPROMISED: Final = "unpromised"


@dataclass(frozen=True, slots=True)
class Bound:
    """How much lag is warned of, and how much is too late, in µs; None for both: nothing is promised."""

    warn_us: int | None = None
    late_us: int | None = None

    def verdict(self, lag_us: int) -> str:
        """What to say of a lag: at a bound it is kept still.

        >>> [Bound(5, 9).verdict(lag) for lag in (5, 6, 9, 10)], Bound().verdict(1)
        (['ok', 'warn', 'warn', 'late'], 'unpromised')
        """
        if self.warn_us is None or self.late_us is None:
            return UNPROMISED
        return OK if lag_us <= self.warn_us else WARN if lag_us <= self.late_us else LATE


@dataclass(frozen=True, slots=True)
class JoinSides:
    """A step that joins: the topics above each of its inputs, and the lateness that it waits for.

    bound  that of its slower side plus lateness; nothing is promised where a side promises nothing
    """

    step: str
    sides: tuple[tuple[str, ...], ...]
    lateness_us: int
    bound: Bound


def promised(contract: Contract) -> Bound:
    """What a contract says of freshness."""
    given = contract.sla.get("freshness")
    if given is None:
        return Bound()
    late = span_us(str(given))
    warn = contract.sla.get("freshness_warn")
    return Bound(late // 2 if warn is None else span_us(str(warn)), late)


def promises(plan: Plan) -> Mapping[str, Bound]:
    """What each source topic promises; of several contracts of one topic the first source's."""
    found: dict[str, Bound] = {}
    for node in plan.sources:
        if isinstance(node.origin, Source) and node.contract is not None:
            found.setdefault(node.origin.topic, promised(node.contract))
    return found


def joins(plan: Plan) -> list[JoinSides]:
    """The steps that join several inputs, in the plan's order."""
    bounds = promises(plan)
    above: list[frozenset[int]] = []
    for node in plan.nodes:
        own = frozenset({node.rank}) if isinstance(node.origin, Source) else frozenset[int]()
        above.append(own.union(*(above[rank] for rank, _ in node.inputs)))
    return [
        _sides(plan, node, [above[rank] for rank, _ in node.inputs], bounds)
        for node in plan.nodes
        if len(node.inputs) > 1 and not isinstance(node.origin, Union)
    ]


def _sides(plan: Plan, node: Node, ranks: list[frozenset[int]], bounds: Mapping[str, Bound]) -> JoinSides:
    sources = {rank: plan.nodes[rank].origin for one in ranks for rank in one}
    topic = {rank: origin.topic for rank, origin in sources.items() if isinstance(origin, Source)}
    lateness = max((origin.lateness_us for origin in sources.values() if isinstance(origin, Source)), default=0)
    sides = tuple(tuple(sorted({topic[rank] for rank in one})) for one in ranks)
    warns = [bounds[name].warn_us for side in sides for name in side]
    lates = [bounds[name].late_us for side in sides for name in side]
    bound = Bound()
    if warns and None not in warns and None not in lates:
        bound = Bound(max(us or 0 for us in warns) + lateness, max(us or 0 for us in lates) + lateness)
    return JoinSides(node.name, sides, lateness, bound)
