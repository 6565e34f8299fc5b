"""Where entities merge and split an entity keeps its arm, and a decision the credit for what it drew."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.batch import WIDTH, Batch
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.operator import StepTime
from streamproc.testing import drive
from streamproc.testing.naive_leaves import Link, Paid, became, entity_at

AT = '{"name": "at", "type": "long", "sp:role": "event_time"}'
RECORD = parse_contract(f"""{{"type": "record", "name": "record", "sp:version": 1, "fields": [
    {{"name": "record", "type": "string", "sp:role": "key"}}, {{"name": "name", "type": "string"}}, {AT}]}}""")
COMMAND = parse_contract(f"""{{"type": "record", "name": "command", "sp:version": 1, "fields": [
    {{"name": "action", "type": "string"}}, {{"name": "record", "type": "string"}},
    {{"name": "other", "type": ["null", "string"]}}, {AT}]}}""")
VISIT = parse_contract(f"""{{"type": "record", "name": "visit", "sp:version": 1, "fields": [
    {{"name": "id", "type": "string"}}, {{"name": "record", "type": "string", "sp:role": "key"}},
    {{"name": "kind", "type": "string"}}, {AT}]}}""")
CONTRACTS = (RECORD, COMMAND, VISIT)
HALVES: Any = {"salt": "e", "weights": {"one": 0.5, "two": 0.5}}

linkage = sp.LinkageModel((sp.compare("name"),), (sp.block("name"),), 0.01, ((0.9, 0.1),), ((0.01, 0.99),))
people = sp.source("records", contract=RECORD) | sp.key_by() | sp.ordered("record") | sp.resolve(
    linkage, record="record", threshold=0.99,
    commands=sp.source("commands", contract=COMMAND) | sp.key_by() | sp.ordered("record"),
)  # fmt: skip
links = people | sp.entity_rows("links") | sp.key_by("record") | sp.ordered()
visits = sp.source("visits", contract=VISIT) | sp.key_by("record") | sp.ordered("id")
whose = visits | sp.as_of(links, columns=("entity_id",))
routed = whose | sp.with_columns(entity=pl.coalesce("entity_id", "record")) | sp.route("entity", **HALVES)
followed = visits | sp.follow(links, keep="90us") | sp.key_by("entity")
rewards = sp.outcomes(
    followed | sp.where(pl.col("kind") == "visit"), followed | sp.where(pl.col("kind") == "buy"),
    within="60us", on="id", into="bought",
)  # fmt: skip
drawn = visits | sp.where(pl.col("kind") == "visit") | sp.bandit(
    ("one", "two"), rewards=rewards, reward="bought", horizon="60us", on="id", salt="e", every=10, report=1
)  # fmt: skip


class Timed:
    """Says when each row happened."""

    def schema(self, rows: Schema) -> Schema:
        return Schema((*rows, Field("at", pl.Int64())))

    def open(self) -> dict[str, int]:
        return {}

    def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], pl.DataFrame]:
        return state, rows.select("record", "entity_id", at="_event_time")


told_links = people | sp.entity_rows("links") | sp.key_by() | sp.custom(Timed())
TOPOLOGY = sp.Topology("t", sinks={
    "routed": routed, "drawn": drawn, "arms": drawn.side("arms"), "links": told_links,
    "events": people | sp.entity_rows("events"),
})  # fmt: skip


def frames(seed: int) -> dict[str, pl.DataFrame]:
    """Thirty records of different people, of whom two are told to be one, and some of them not to be after all."""
    random = np.random.default_rng(seed)
    ids = [f"r{n:02}" for n in range(30)]
    commands = []
    for n in range(40):
        one, other = random.choice(ids, 2, replace=False).tolist()
        commands.append(("must_link", one, other, 100 + 20 * n))
        if random.random() < 0.5:
            commands.append(("withdraw", one, other, 100 + 20 * n + int(random.integers(1, 100))))
    commands.sort(key=lambda row: row[3])
    rows = 500
    kinds = np.where(random.random(rows) < 0.08, "buy", "visit")
    return {
        "records": pl.DataFrame({"record": ids, "name": [f"name {n}" for n in range(30)], "at": list(range(30))}),
        "commands": pl.DataFrame(commands, ["action", "record", "other", "at"], orient="row"),
        "visits": pl.DataFrame({
            "id": [f"v{n:03}" for n in range(rows)], "record": random.choice(ids, rows), "kind": kinds,
            "at": np.sort(random.integers(100, 1_000, rows)),
        }),
    }  # fmt: skip


def arm_of(entity: str) -> str:
    frame = pl.DataFrame({"entity": [entity]})
    batch = Batch(frame, np.zeros((1, WIDTH), np.int64))
    step = sp.route("entity", **HALVES).operator
    arm: str = step.process(None, (batch,), StepTime(np.zeros(0, np.int64), 1))[1].rows.frame["arm"][0]
    return arm


def links_in(ran: Any) -> list[Link]:
    """Links in the order in which they were told: the last of a moment holds."""
    told = ran["links"].sort("_partition", "_offset").select("record", "entity_id", "at")
    return [Link(*row) for row in told.iter_rows()]


@pytest.mark.parametrize("partitions", [1, 4])
def test_an_entity_keeps_its_arm_and_an_alias_goes_to_that_of_the_oldest(partitions: int) -> None:
    ran = drive(TOPOLOGY, frames(1), partitions=partitions, contracts=CONTRACTS)
    told = links_in(ran)
    found = {(record, at): (entity, arm) for record, at, entity, arm in
             ran["routed"].select("record", "at", "entity", "arm").iter_rows()}  # fmt: skip
    for (record, at), (entity, arm) in found.items():
        assert entity == entity_at(record, at, told) and arm == arm_of(entity)
    arms: dict[str, set[str]] = {}
    for entity, arm in found.values():
        arms.setdefault(entity, set()).add(arm)
    assert all(len(some) == 1 for some in arms.values()), "whoever stays keeps its arm"
    merged = ran["events"].filter(pl.col("event").cast(pl.String) == "merged")
    founders = {entity: number for number, entity in enumerate(dict.fromkeys(link.entity for link in told))}
    changed = 0
    for survivor, alias in merged.select("entity_id", "other_id").iter_rows():
        assert founders[survivor] < founders[alias], "the oldest survives"
        changed += arm_of(survivor) != arm_of(alias)
    assert merged.height > 10 and changed > 3, "an alias takes the arm of who survives, which may be another"


@pytest.mark.parametrize("partitions", [1, 4])
def test_what_a_decision_earned_counts_once_for_the_arm_that_it_drew(partitions: int) -> None:
    """Also where it was made under an id that is an alias by the time."""
    ran = drive(TOPOLOGY, frames(2), partitions=partitions, contracts=CONTRACTS)
    told = links_in(ran)
    rows = [Paid(name, record, at, None) for name, record, at in
            ran["routed"].filter(pl.col("kind") == "visit").select("id", "record", "at").iter_rows()]  # fmt: skip
    buys = [Paid(name, record, at, None) for name, record, at in
            ran["routed"].filter(pl.col("kind") == "buy").select("id", "record", "at").iter_rows()]  # fmt: skip
    arms = dict(ran["drawn"].select("id", "arm").iter_rows())
    assert len(arms) == ran["drawn"].height == len(rows)
    earned = {"one": [0, 0], "two": [0, 0]}
    by_merge = 0
    for row in rows:
        bought, _ = became(row, buys, told, 60)
        earned[arms[row.name]][0] += 1
        earned[arms[row.name]][1] += bought
        mine = entity_at(row.leaf, row.at, told)
        near = [buy for buy in buys if row.at < buy.at <= row.at + 60]
        by_merge += bought and not any(entity_at(buy.leaf, buy.at, told) == mine for buy in near)
    last = ran["arms"].sort("_offset").group_by("_partition", "arm").last()
    found = {
        arm: [last.filter(pl.col("arm") == arm)["n"].sum(),
              round(last.filter(pl.col("arm") == arm).select((pl.col("n") * pl.col("mean")).sum()).item(), 9)]
        for arm in earned
    }  # fmt: skip
    assert found == earned and last["given_up"].sum() == 0
    assert by_merge > 5 and min(n for n, _ in earned.values()) > 50
