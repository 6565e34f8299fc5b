"""What people rely on when records become entities: ids, deletion, caps, weights that add up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pytest
from naive_entities import Claim, NaiveResolve, entity_id
from test_resolve_laws import COMMAND, PERSON, commands, model, people

import streamproc as sp
from streamproc.batch import ACCOUNT, C1, EVENT_TIME, ROW, WIDTH, Batch
from streamproc.entities.comparisons import block, compare
from streamproc.entities.entity_ids import current_ids
from streamproc.entities.explanation import explain_match
from streamproc.entities.interning import texts_of_keys
from streamproc.entities.linkage_model import LinkageModel, posterior
from streamproc.entities.resolve import Resolve
from streamproc.entities.splink_model import from_splink, to_splink
from streamproc.entities.tables import LARGE, UNSEEN, Tables
from streamproc.entities.training import train
from streamproc.errors import InputError
from streamproc.graph import Stream
from streamproc.operator import StepTime, StreamType
from streamproc.operators.key_by import KeyBy

STEP = sp.resolve(
    model(), record="id", source="source", review=0.3, threshold=0.8, source_order=("crm", "shop"),
    golden={"name": "longest", "town": "most_frequent", "note": "most_recent"}, commands=Stream(KeyBy(())),
).operator  # fmt: skip
NO_COMMANDS = pl.DataFrame(schema=COMMAND.schema.polars())


def fed(
    step: Resolve, state: Tables, frame: pl.DataFrame, orders: pl.DataFrame, at: int
) -> tuple[Tables, pl.DataFrame]:
    """Records, then commands, as one step."""
    ports = []
    for number, rows in enumerate((frame, orders)):
        meta = np.zeros((rows.height, WIDTH), np.int64)
        meta[:, ROW] = 2 * np.arange(rows.height) + 1 + (2 * frame.height if number else 0)
        meta[:, ACCOUNT] = np.arange(rows.height)
        meta[:, C1] = meta[:, EVENT_TIME] = at + np.arange(rows.height)
        ports.append(Batch(rows, meta))
    rows_of_both = frame.height + orders.height
    time = StepTime(np.full(rows_of_both, at + rows_of_both, np.int64), 1)
    state, output = step.process(state, tuple(ports), time)
    return state, output.rows.frame


def opened(step: object = STEP) -> tuple[Resolve, Tables]:
    assert isinstance(step, Resolve)
    return step, step.open(PERSON, COMMAND)


def partition(state: Tables) -> set[frozenset[str]]:
    slots = state.keys.slots()
    slots = slots[state.alive[slots] == 1]
    frame = pl.DataFrame({"r": texts_of_keys(state.keys, slots), "e": state.entity[slots]})
    return {frozenset(group) for group in frame.group_by("e").agg("r")["r"].to_list()}


def last_golden(events: pl.DataFrame, parts: set[frozenset[str]], state: Tables) -> set[tuple[object, ...]]:
    """The values of the last golden record of each entity that is there."""
    golden = events.filter(pl.col("event").cast(pl.String) == "golden").group_by("entity_id").last()
    ids = golden["entity_id"].to_list()
    now = [one == there for one, there in zip(ids, current_ids(state, ids, 0), strict=True)]
    rows = golden.filter(pl.Series(now, dtype=pl.Boolean)).select("size", pl.col("^golden_.*$")).rows()
    assert len(rows) == len(parts)
    return set(rows)


@pytest.mark.parametrize("seed", range(30))
def test_a_record_that_was_deleted_was_never_there(seed: int) -> None:
    random = np.random.default_rng(seed)
    frame = people(random, 60).drop_nulls("id").with_columns(id=pl.format("n{}", pl.int_range(pl.len())))
    gone = frame["id"].sample(15, seed=seed).to_list()
    orders = pl.DataFrame({"action": ["delete"] * 15, "record": gone, "other": [None] * 15}, COMMAND.schema.polars())
    step, with_all = opened()
    with_all, events = fed(step, with_all, frame, orders, 0)
    step, without = opened()
    without, fewer = fed(step, without, frame.filter(~pl.col("id").is_in(gone)), NO_COMMANDS, 0)
    parts = partition(without)
    assert partition(with_all) == parts
    assert last_golden(events, parts, with_all) == last_golden(fewer, parts, without)


@pytest.mark.parametrize("seed", range(20))
def test_every_id_ever_issued_resolves_and_members_follow_from_events(seed: int) -> None:
    random = np.random.default_rng(seed)
    step, state = opened()
    issued: set[str] = set()
    of: dict[str, str] = {}
    for at in range(6):
        state, events = fed(step, state, people(random, 12), commands(random, 6), 100 * at)
        for event, entity, records in events.select(
            pl.col("event").cast(pl.String), "entity_id", "records"
        ).iter_rows():
            if event in ("created", "joined", "corrected", "merged", "split"):
                of.update(dict.fromkeys(records, entity))
            elif event == "removed":
                del of[records[0]]
            issued |= {entity} - {None}
    ids = sorted(issued)
    now = dict(zip(ids, current_ids(state, ids, 0), strict=True))
    there = set(of.values())
    assert {entity for entity in now.values() if entity is not None} == there
    assert all(now[entity] == entity for entity in there)
    followed: dict[str, set[str]] = {}
    for record, entity in of.items():
        followed.setdefault(entity, set()).add(record)
    assert {frozenset(group) for group in followed.values()} == partition(state)


@dataclass
class Followed(NaiveResolve):
    """Knows where ids lead: to whoever carries them, and of a deleted record's to the oldest left of its entity."""

    leads: dict[Claim, Claim | None] = field(default_factory=dict)

    def delete(self, name: str) -> list[dict[str, Any]]:
        if name in self.there:
            gone, founder = self.there[name], self.partition[name]
            rest = [one for one in self.there.values() if self.partition[one.name] == founder and one is not gone]
            heir = min(rest, key=lambda one: one.claim_born, default=None)
            if heir is not None and founder == name:
                self.leads[heir.claim] = gone.claim  # which it carries from now on
            else:
                self.leads[gone.claim] = heir and heir.claim
        return super().delete(name)

    def now(self, claim: Claim | None) -> str | None:
        """What the id of a claim stands for."""
        carriers = {one.claim: one for one in self.there.values()}
        while claim is not None and claim not in carriers:
            claim = self.leads[claim]
        return None if claim is None else entity_id(self.there[self.partition[carriers[claim].name]].claim)


@pytest.mark.parametrize("seed", range(20))
def test_ids_lead_where_those_lead_whose_records_are_followed_one_by_one(seed: int) -> None:
    """Also those of records that were deleted and came again: they are others then, and their old ids stay behind."""
    random = np.random.default_rng(seed)
    step, state = opened()
    naive = Followed(step, list(step.schema(PERSON, COMMAND).schema.names))
    claims: set[Claim] = set()
    led = 0
    for at in range(10):
        frame, orders = people(random, 8), commands(random, 8)
        state, _ = fed(step, state, frame.drop_nulls("id"), orders, 100 * at)
        for row in frame.drop_nulls("id").iter_rows(named=True):
            naive.take(row, 0)
            claims.add((row["id"], naive.deleted.get(row["id"], 0)))
        for row in orders.iter_rows(named=True):
            naive.command(row)
        asked = sorted(claims)
        now = [naive.now(claim) for claim in asked]
        assert current_ids(state, [entity_id(claim) for claim in asked], 0) == now
        gone = [one for claim, one in zip(asked, now, strict=True) if claim[1] < naive.deleted.get(claim[0], 0)]
        led += sum(one is not None for one in gone)
    assert led > 3, "ids of deleted records lead to others"


def test_an_id_is_never_given_to_another_founder() -> None:
    same = {"source": "crm", "name": "anna", "town": "Ulm", "card": "12345", "born": 1.0, "note": 1}
    frame = pl.DataFrame([{"id": name, **same} for name in ("a", "b", "c")], PERSON.schema.polars())
    step, state = opened()
    state, first = fed(step, state, frame, NO_COMMANDS, 0)
    entity = first["entity_id"][0]
    orders = pl.DataFrame({"action": ["delete"], "record": ["a"], "other": [None]}, COMMAND.schema.polars())
    state, then = fed(step, state, frame[:0], orders, 10)
    assert then["event"].to_list() == ["removed", "golden"] and set(then["entity_id"]) == {entity}
    state, again = fed(step, state, frame[:1], NO_COMMANDS, 20)
    assert again["entity_id"][0] == entity and current_ids(state, [entity], 0) == [entity]
    orders = pl.DataFrame(
        {"action": ["cannot_link", "cannot_link"], "record": ["a", "a"], "other": ["b", "c"]}, COMMAND.schema.polars()
    )
    state, apart = fed(step, state, frame[:0], orders, 30)
    split = apart.filter(pl.col("event").cast(pl.String) == "split")
    assert split["records"].to_list() == [["a"]] and split["other_id"].to_list() == [entity]
    assert split["entity_id"][0] not in set(first["entity_id"])


@pytest.mark.parametrize("seed", range(10))
def test_weights_add_up(seed: int) -> None:
    random = np.random.default_rng(seed)
    frame = people(random, 40)
    for at in range(0, 40, 2):
        told = explain_match(model(), frame[at : at + 2], names=("left", "right"))
        total = told.prior + sum(bar.weight + bar.rarity for bar in told.bars)
        assert math.isclose(total, told.weight, abs_tol=1e-9) and told.posterior == posterior(told.weight)
        assert f"{told.posterior:.4f}" in told.to_text() and told.to_svg().count("<rect") >= 2 + len(told.bars)
        for number, bar in enumerate(told.bars):
            lacking = frame[at : at + 2].with_columns(pl.lit(None, frame.schema[bar.column]).alias(bar.column))
            without = explain_match(model(), lacking, names=("left", "right"))
            assert math.isclose(told.weight - without.weight, bar.weight + bar.rarity, abs_tol=1e-9), number


def test_ten_thousand_equal_records_stay_bounded_and_what_is_lost_is_counted() -> None:
    linkage = LinkageModel(
        (compare("name", "name"), compare("card", "typing")), (block("name"),), 0.001,
        ((0.9, 0.05, 0.02, 0.02, 0.01), (0.9, 0.05, 0.03, 0.02)),
        ((0.01, 0.01, 0.01, 0.07, 0.9), (0.001, 0.001, 0.004, 0.994)),
    )  # fmt: skip
    step, state = opened(sp.resolve(linkage, record="id", golden={"name": "most_frequent"}).operator)
    row = {"source": "crm", "name": "test user", "town": "Ulm", "card": "00000", "born": 1.0, "note": 1}
    frame = pl.DataFrame([{"id": f"t{i}", **row} for i in range(10_000)], PERSON.schema.polars())
    for start in range(0, 10_000, 500):
        state, _ = fed(step, state, frame[start : start + 500], NO_COMMANDS, start)
    assert len(partition(state)) == 1
    assert state.counters[LARGE] == 10_000 - 128
    assert state.rules[0, UNSEEN] == sum(i - 200 for i in range(201, 10_000))
    assert state.edge_weight.size < 17 * 10_000 + 70_000


def test_a_linkage_is_learned_without_labels_and_equal_every_time() -> None:
    random = np.random.default_rng(1)
    names = [f"{a}{b}" for a in ("an", "ber", "cla", "dor", "em", "fri", "gus") for b in ("na", "nd", "ra", "il", "ke")]
    true = pl.DataFrame({"name": [names[i] for i in random.integers(0, 35, 700)],
                         "card": [f"{i:05d}" for i in random.integers(0, 99_999, 700)],
                         "year": [f"y{i}" for i in random.integers(0, 70, 700)],
                         "town": [f"t{i}" for i in random.integers(0, 20, 700)]})  # fmt: skip
    twice = pl.concat([true, true[:300].with_columns(town=pl.lit("t1"))])
    comparisons = (
        compare("name", "name", frequencies=True),
        compare("card", "typing"),
        compare("town"),
        compare("year"),
    )
    blocks = (block("name", "year"), block("card"), block("town", "year"))
    trained = train(twice, comparisons, blocks)
    assert trained.model.to_json() == train(twice, comparisons, blocks).model.to_json()
    assert trained.matches == pytest.approx(300, rel=0.15)
    assert trained.model.m[1][0] > 0.85 and trained.model.u[1][0] < 0.001
    assert LinkageModel.from_json(trained.model.to_json()).version == trained.model.version
    assert not any(name in trained.model.to_json() for name in names)


def test_a_model_goes_to_splink_and_back() -> None:
    linkage = LinkageModel(
        (compare("name", "name", frequencies=True), compare("card", "typing")),
        (block("name[:2]", "card"), block("card")), 0.001, ((0.9, 0.05, 0.02, 0.02, 0.01), (0.9, 0.05, 0.03, 0.02)),
        ((0.01, 0.01, 0.01, 0.07, 0.9), (0.001, 0.001, 0.004, 0.994)),
    )  # fmt: skip
    back = from_splink(to_splink(linkage))
    assert back.to_json() == linkage.to_json()
    with pytest.raises(InputError, match="cannot be read: soundex"):
        from_splink(to_splink(linkage).replace("jaro_winkler_similarity(", "soundex("))


def test_mistakes_are_named_when_the_topology_is_planned() -> None:
    operator = sp.resolve(model(), record="nobody").operator
    with pytest.raises(sp.StreamprocError, match="reads 'nobody'"):
        operator.schema(PERSON)
    with pytest.raises(sp.StreamprocError, match=r"sp.key_by\(\)"):
        sp.resolve(model(), record="id").operator.schema(StreamType(PERSON.schema))
    with pytest.raises(sp.StreamprocError, match="have no column 'action'"):
        sp.resolve(model(), record="id").operator.schema(PERSON, PERSON)
