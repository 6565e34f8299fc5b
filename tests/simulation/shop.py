"""The topology that the simulation runs most: two stages with dedupe, a window and a join, and few rows."""

from __future__ import annotations

from functools import lru_cache

import polars as pl

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.testing.simulation.case import Case

SALE = parse_contract(
    '{"type": "record", "name": "sale", "sp:version": 1, "fields": ['
    '{"name": "id", "type": "long"}, {"name": "card", "type": "string", "sp:role": "key"},'
    '{"name": "shop", "type": "string"}, {"name": "amount", "type": "double"},'
    '{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)


def topology() -> sp.Topology:
    """Sales in order, each once; per shop a window, joined to each sale."""
    sales = sp.source("sales", contract=SALE, lateness="5s") | sp.require(sound=pl.col("amount").is_finite())
    once = sales | sp.ordered(by=("id", "card", "shop")) | sp.dedupe("id", within="1m", per="partition")
    shops = once | sp.key_by("shop") | sp.ordered(by=("id", "card"))
    spend = shops | sp.tumbling("10s", n=sp.count(), spend=sp.total("amount"))
    return sp.Topology(
        "shop",
        sinks={"spend": spend, "rated": shops | sp.as_of(spend | sp.select("shop", "n", "spend"), max_age="1m")},
        commit="100ms",
    )


@lru_cache(maxsize=4)
def case(partitions: int = 1, rows: int = 50) -> Case:
    """The topology bound, on topics of so many partitions."""
    return Case(topology(), MemoryRegistry([SALE]), partitions=partitions, rows=rows)


def till() -> sp.Topology:
    """The leanest topology with two stages and state in both: what most seeds run."""
    sales = sp.source("sales", contract=SALE, lateness="5s") | sp.select("id", "card", "at")
    once = sales | sp.ordered(by=("id", "card")) | sp.dedupe("id", within="1m", per="partition")
    cards = once | sp.key_by("card") | sp.ordered(by=("id",))
    return sp.Topology("till", sinks={"seen": cards | sp.features(n=sp.count().over("20s"))}, commit="100ms")


@lru_cache(maxsize=4)
def small(partitions: int = 1, rows: int = 40) -> Case:
    """The leanest topology bound."""
    return Case(till(), MemoryRegistry([SALE]), partitions=partitions, rows=rows)


def quiet() -> sp.Topology:
    """Partitions may be called idle: what comes late then depends on the clock, so only verdicts can be judged."""
    sales = sp.source("sales", contract=SALE, lateness="5s", idle_after="300ms") | sp.select("id", "card", "at")
    return sp.Topology("quiet", sinks={"seen": sales | sp.ordered(by=("id", "card"))}, commit="100ms")


@lru_cache(maxsize=2)
def idle(rows: int = 30) -> Case:
    """The topology with verdicts, on two partitions."""
    return Case(quiet(), MemoryRegistry([SALE]), partitions=2, rows=rows)


SHIPPED = {"customer_value": "customer_value", "people": "topology", "refunds": "refunds"}
"""The shipped topologies: the package, and the name in its module."""


@lru_cache(maxsize=1)
def shipped(name: str) -> Case:
    """A shipped topology on random rows of its contracts."""
    from importlib import import_module
    from importlib.resources import files
    from pathlib import Path

    from connectors.registry import FolderRegistry

    made: sp.Topology = getattr(import_module(f"topologies.{name}.topology"), SHIPPED[name])
    return Case(made, FolderRegistry((Path(str(files("schemas_avro"))),)), rows=24)
