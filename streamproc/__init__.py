"""streamproc: joins the events of several business processes while they happen.

A stream is a recipe for columns; a topology is a named set of streams that leave; the engine is a function from
(state, batch) to (state, batches).

    import polars as pl
    import streamproc as sp

    orders = sp.source("sales.orders", contract="sales_order")
    busy = orders | sp.key_by("customer_id") | sp.tumbling("1d", orders=sp.count(), spend=sp.total("gross"))
    daily = sp.Topology("daily", sinks={"spend": busy})

Names are loaded when they are first used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

__version__ = "0.1.0"

_HOMES: Final = {
    "Answers": "streamproc.runtime.reactions.definition",
    "Breaker": "streamproc.runtime.reactions.definition",
    "Command": "connectors.handlers",
    "Coverage": "streamproc.operators.coverage",
    "Email": "connectors.handlers",
    "Event": "streamproc.reaction",
    "FeatureTable": "streamproc.runtime.feature_table",
    "GiveUp": "streamproc.reaction",
    "JsonLines": "connectors.handlers",
    "LinkageModel": "streamproc.entities.linkage_model",
    "Reaction": "streamproc.runtime.reactions.definition",
    "Reactions": "streamproc.runtime.reactions.definition",
    "Retry": "streamproc.runtime.reactions.definition",
    "Secret": "connectors.handlers",
    "ServedFeatures": "streamproc.runtime.served_features",
    "Sink": "streamproc.planning.topology",
    "Sla": "streamproc.planning.topology",
    "Stream": "streamproc.graph",
    "StreamprocError": "streamproc.errors",
    "Topology": "streamproc.planning.topology",
    "Truth": "streamproc.planning.topology",
    "TryLater": "streamproc.reaction",
    "Webhook": "connectors.handlers",
    "abstain": "streamproc.decisions.abstain",
    "alert": "streamproc.decisions.alert",
    "as_of": "streamproc.operators.as_of",
    "bandit": "streamproc.decisions.bandit",
    "block": "streamproc.entities.comparisons",
    "canonical": "streamproc.operators.harmonising",
    "changes": "streamproc.operators.changes",
    "cheapest": "streamproc.decisions.rules",
    "compare": "streamproc.entities.comparisons",
    "contributors": "streamproc.feature.definition",
    "count": "streamproc.operators.aggregates",
    "custom": "streamproc.operators.custom",
    "decide": "streamproc.decisions.decide",
    "dedupe": "streamproc.operators.dedupe",
    "definitions": "streamproc.operators.definitions",
    "derived": "streamproc.feature.derived",
    "distinct": "streamproc.operators.aggregates",
    "drift": "streamproc.drifting.drift",
    "drop": "streamproc.operators.columns",
    "entity_rows": "streamproc.entities.entity_views",
    "ewma": "streamproc.operators.aggregates",
    "explode": "streamproc.operators.explode",
    "fallback": "streamproc.decisions.fallback",
    "features": "streamproc.feature.definition",
    "feedback": "streamproc.graph",
    "first": "streamproc.operators.aggregates",
    "follow": "streamproc.operators.follow",
    "harmonise": "streamproc.operators.harmonising.harmonise",
    "importance": "streamproc.learning.importance",
    "key_by": "streamproc.operators.key_by",
    "join": "streamproc.operators.join",
    "last": "streamproc.operators.aggregates",
    "learn": "streamproc.learning.learn",
    "max": "streamproc.operators.aggregates",
    "mean": "streamproc.operators.aggregates",
    "meaning": "streamproc.operators.definitions",
    "min": "streamproc.operators.aggregates",
    "ordered": "streamproc.operators.ordered",
    "outcome": "streamproc.operators.outcome",
    "outcomes": "streamproc.operators.outcomes",
    "model_costs": "streamproc.runtime.model_costs",
    "model_version": "streamproc.runtime.model_store",
    "quantile": "streamproc.operators.aggregates",
    "race": "streamproc.learning.race",
    "read_features": "streamproc.runtime.feature_table",
    "rename": "streamproc.operators.columns",
    "require": "streamproc.operators.require",
    "resolve": "streamproc.entities.resolve",
    "retrain": "streamproc.learning.retrain",
    "review": "streamproc.decisions.review",
    "review_answers": "streamproc.decisions.review",
    "route": "streamproc.decisions.routing",
    "rule": "streamproc.operators.quality",
    "rules": "streamproc.operators.quality.rules",
    "rung": "streamproc.decisions.fallback",
    "sample_ratio": "streamproc.decisions.sample_ratio",
    "winner": "streamproc.decisions.winner",
    "select": "streamproc.operators.columns",
    "session": "streamproc.operators.sessions",
    "sharded": "streamproc.entities.sharding",
    "sink": "streamproc.planning.topology",
    "sliding": "streamproc.operators.windows",
    "source": "streamproc.graph",
    "splits": "streamproc.runtime.splits",
    "stateless": "streamproc.operators.stateless",
    "subscribe": "streamproc.runtime.subscribing",
    "table": "streamproc.graph",
    "time_since_last": "streamproc.operators.aggregates",
    "together": "streamproc.feature.together",
    "top_k": "streamproc.operators.aggregates",
    "total": "streamproc.operators.aggregates",
    "trend": "streamproc.operators.aggregates",
    "tumbling": "streamproc.operators.windows",
    "union": "streamproc.operators.union",
    "var": "streamproc.operators.aggregates",
    "when": "streamproc.decisions.rules",
    "where": "streamproc.operators.columns",
    "with_columns": "streamproc.operators.columns",
    "within": "streamproc.operators.within",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'streamproc' has no name '{name}'; it has: {', '.join(__all__)}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
