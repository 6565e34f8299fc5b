"""A `features` cut in parts that do not need each other, so that each may be computed when it suits it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.feature.derived import Derived
from streamproc.feature.operator import Features
from streamproc.feature.plan import EVER, plan_features
from streamproc.operators.expressions import expression_columns
from streamproc.operators.follow import is_followed

SCANS: Final = ("quantile", "ewma", "trend", "distinct", "top_k")
"""Aggregates that look at all events of their window for each row that is read."""


@dataclass(frozen=True, slots=True)
class Part:
    """Features that go together: those that a derived one is made of, and it.

    names       of the features, in the order of the definition
    columns     that they make, in that order
    columns_of  each feature's own
    reach_us    a row older than this, before the row that is read, changes nothing; -1 where that cannot be said,
                because tiles or numbers stand for rows that are gone (`hop`, `ever`, least and greatest text)
    scans_us    the spans that are scanned for each row that is read
    """

    names: tuple[str, ...]
    columns_of: tuple[tuple[str, ...], ...]
    reach_us: int
    scans_us: tuple[int, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for some in self.columns_of for column in some)


def parts_of(features: Features, schema: Schema) -> tuple[Part, ...]:
    """The parts of a `features` over a stream, in the order of their first features.

    With at_bound="not_covered" all is one part: which events go depends on the longest span of all.
    Raises DefinitionError for features that follow leaves: what a row sees is not in the rows of its key alone.
    """
    if features.corrections or is_followed(schema):
        raise DefinitionError(
            f"step '{features.verb}' follows leaves: its rows come again where entities merge and split",
            hint="read what it wrote, from a sink with latest=True: sp.FeatureTable",
        )
    plan = plan_features(
        dict(features.aggregates), schema, step=features.verb, coverage=dict(features.coverage), may_blank=False,
        events_per_key=features.events_per_key, aged=features.status,
    )  # fmt: skip
    made = dict(features.made)
    leader = dict.fromkeys(made, "")
    for name in made:
        leader[name] = name if features.at_bound == "stop" else next(iter(made))
    for name, one in made.items():
        if isinstance(one, Derived):
            joined = {leader[under] for under in expression_columns(one.expression) & made.keys()} | {leader[name]}
            first = min(joined, key=list(made).index)
            leader = {each: first if its in joined else its for each, its in leader.items()}

    def columns(name: str) -> tuple[str, ...]:
        return tuple(column.name for column in features.columns_of(name, made[name], Field(name, pl.Null())))

    planned = {one.name: one for one in plan.planned}
    parts = []
    for first in dict.fromkeys(leader.values()):
        names = tuple(name for name in made if leader[name] == first)
        inside = [planned[name] for name in names if name in planned]
        gone = any(one.tiling >= 0 or one.span_us >= EVER for one in inside)
        reach = max((one.span_us + 2 * one.absent.max_age_us for one in inside), default=1)
        scans = tuple(one.span_us for one in inside if dict(features.aggregates)[one.name].kind in SCANS)
        parts.append(Part(names, tuple(map(columns, names)), -1 if gone else reach, scans))
    return tuple(parts)


def only(features: Features, parts: tuple[Part, ...]) -> Features:
    """The same `features` with some of its parts alone."""
    names = {name for part in parts for name in part.names}
    return replace(features, made=tuple((name, one) for name, one in features.made if name in names))
