"""Lineage against another run: a column that is not named changes nothing, one that gives a value does change it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from lineage_topologies import EVENT, EVERY
from perturbing import Effect, Subject, effects, unlisted, without_effect
from random_topologies import MOVED, Maker, built, random_rows

import streamproc as sp
from connectors.registry import FolderRegistry
from streamproc.contracts.registry import MemoryRegistry
from topologies.customer_value import customer_value
from topologies.customer_value.load import events, read_slice
from topologies.people.load import RECORDS, read_records, truth
from topologies.people.topology import people as resolved
from topologies.people.topology import topology as people
from topologies.refunds.load import events as refund_events
from topologies.refunds.topology import refunds

SHIPPED = FolderRegistry((Path(__file__).parents[2] / "schemas_avro",))

# Named, and yet without effect: what the engine cannot look into may use all that it reads; some columns only tell of
# nulls or of rows, and what they are told of is named all the same.
FUNCTIONS = {("function", made, "a", read) for made, read in (("twice", "n"), ("twice", "x"), ("x", "v"))}
STATUSES = {
    ("formed", f"euros_{word}", "a", "x") for word in ("rate_date", "rate_id", "status")
} | {("formed", "euros_status", "a", "at"), ("formed", "kilos_status", "a", "v")}  # fmt: skip
OF_ROWS = {
    ("both", f"of_{source}_{word}", source, column)
    for source, column in (("a", "v"), ("b", "x")) for word in ("age", "status")
}  # fmt: skip
REPORTS = {
    (sink, column, topic, of)
    for sink, columns in (
        ("calibration", ("contender", "labels", "n")),
        ("importance", ("cost_us", "input", "keep", "labels", "learner", "n", "reason")),
        ("metrics", ("contender", "delay", "failed", "given_up", "labels", "n")),
    )
    for column in columns for topic, of in (("a", "v"), ("y", "b"))
} | {("arms", column, "y", "b") for column in ("arm", "given_up", "high", "low", "rewards")}  # fmt: skip
CHOICES = {("best", "score_rung", "a", "x"), ("ratio", "arm", "a", "k"), ("ratio", "threshold", "a", "k"),
           ("routed", "arm_propensity", "a", "k"), ("winner", "n", "a", "v")} | {
    ("winner", column, "a", of) for column in ("arm", "given_up", "propensity", "rewards", "winner") for of in "kv"
}  # fmt: skip
ALARMS = {
    ("evidence", column, "a", "v") for column in ("detector", "partition", "promise", "run_length", "threshold")
} | {("report", "column", "a", "x"), ("report", "promise", "a", "x")}  # fmt: skip
OWN = {("crossed", made, "a", read) for made in "kvx" for read in ("at", "k", "v", "x")} - {
    ("crossed", "k", "a", "k"), ("crossed", "x", "a", "x"), ("crossed", "v", "a", "x")
} | {("crossed", "at", "a", read) for read in "kvx"} | {
    ("silent", "k", "a", "v"), ("silent", "k", "a", "x"), ("silent", "level", "a", "x")
}  # fmt: skip
ASKED = {("asked", column, "a", "at") for column in ("cut", "labels", "request", "since")}
"""Alarms whose times are moved a little stay before the same cut."""
COUNTED = {("capped", column, "a", "g") for column in ("compared", "held", "rule", "unseen")}
"""Pairs that were looked at, whatever their columns said."""
IDLE: dict[str, set[Effect]] = {
    "one_row_at_a_time": FUNCTIONS | STATUSES, "features": OF_ROWS, "learning": REPORTS | ASKED, "decisions": CHOICES,
    "watching": ALARMS, "shared_out": COUNTED, "a_persons_own": OWN,
}  # fmt: skip


def subject(name: str, partitions: int = 1) -> Subject:
    sinks, frames = EVERY[name]()
    return Subject(sp.Topology("t", sinks=sinks), frames, MemoryRegistry((EVENT,)), partitions)


SLOW = ("by_key_and_time", "joins", "features")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in SLOW else name for name in EVERY]
)
def test_what_is_not_named_changes_nothing_and_what_gives_a_value_changes_it(name: str) -> None:
    one = subject(name)
    found = effects(one, range(2))
    assert not unlisted(one, found)
    assert without_effect(one, found) == IDLE.get(name, set())


@pytest.mark.parametrize(
    "name",
    ["learning", *(pytest.param(name, marks=pytest.mark.long) for name in ("features", "by_key_and_time"))],
)
def test_what_is_not_named_changes_nothing_on_several_tasks(name: str) -> None:
    several = subject(name, partitions=3)
    assert not unlisted(several, effects(several, range(1)))


def shipped(name: str) -> Subject:
    if name == "people":
        persons = truth()["person"].unique(maintain_order=True)[:40]
        records = read_records().filter(truth()["person"].is_in(persons.implode()))
        told = records.head(8).select(
            action=pl.Series(["must_link", "cannot_link"] * 4), record="record_id",
            other=pl.col("record_id").reverse(), decided_at=records["recorded_at"].max(),
        )  # fmt: skip
        links = sp.Topology("people", sinks={**people.sinks, "links": resolved | sp.entity_rows("links")})
        return Subject(links, {RECORDS: records, "people.commands": told}, SHIPPED)
    lines = read_slice()
    customers = lines["CustomerID"].drop_nulls().unique(maintain_order=True)[:25]
    lines = lines.filter(pl.col("CustomerID").is_in(customers.implode()))
    if name == "refunds":
        return Subject(refunds, refund_events(lines), SHIPPED)
    return Subject(customer_value, events(lines), SHIPPED)


@pytest.mark.parametrize("name", ["refunds", "customer_value", pytest.param("people", marks=pytest.mark.long)])
def test_in_the_shipped_topologies_what_is_not_named_changes_nothing(name: str) -> None:
    one = shipped(name)
    found = effects(one, range(1))
    assert found and not unlisted(one, found)


def made_by_chance(seed: int) -> Subject:
    random = np.random.default_rng(seed)
    maker = Maker(random, plain=False, placed=False)
    recipes = maker.topology()
    known: dict[int, sp.graph.Stream] = {}
    sinks = {f"o{n}": built(recipe, known, placed=False, lateness=3) for n, recipe in enumerate(recipes)}
    topology = sp.Topology("t", sinks=sinks)
    topics = {stream.origin.topic for stream in known.values() if isinstance(stream.origin, sp.graph.Source)}
    frames = random_rows(random, sorted(topics), late=True, lateness=3)
    return Subject(topology, frames, MemoryRegistry((MOVED,)))


@pytest.mark.parametrize("seed", range(8))
def test_in_topologies_made_by_chance_what_is_not_named_changes_nothing(seed: int) -> None:
    one = made_by_chance(seed)
    assert not unlisted(one, effects(one, range(1)))


@pytest.mark.long
def test_in_many_topologies_made_by_chance_what_is_not_named_changes_nothing() -> None:
    changed = 0
    for seed in range(8, 150):
        one = made_by_chance(seed)
        found = effects(one, range(2))
        assert not unlisted(one, found), seed
        changed += len(found)
    assert changed > 4_000  # Else little was tried.
