"""What the cap of a block costs is told in the stream, beside the entities."""

from __future__ import annotations

import itertools
from typing import Any

import polars as pl
import pytest

import streamproc as sp
from benchmarks.entities import CROWDED, crowd
from streamproc.contracts.avro_schema import parse_contract
from streamproc.entities.capped import lost_at_most
from streamproc.entities.comparisons import block, compare
from streamproc.entities.explanation import explain_match
from streamproc.entities.linkage_model import LinkageModel
from streamproc.testing.drive import drive

PERSON = parse_contract(
    """{"type": "record", "name": "capped_person", "sp:version": 1, "fields": [
    {"name": "id", "type": "string"}, {"name": "name", "type": "string"}, {"name": "town", "type": "string"},
    {"name": "card", "type": "string"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}"""
)
MODEL = LinkageModel(
    (compare("name"), compare("card", "typing"), compare("town")), (block("name"), block("town", "card[:2]")), 0.01,
    ((0.9, 0.1), (0.9, 0.05, 0.03, 0.02), (0.8, 0.2)), ((0.05, 0.95), (0.001, 0.001, 0.004, 0.994), (0.3, 0.7)),
)  # fmt: skip


def topology(cap: int) -> sp.Topology:
    people = sp.source("people", contract=PERSON) | sp.key_by() | sp.resolve(MODEL, record="id", block_cap=cap)
    return sp.Topology("capped", sinks={"capped": people.side("capped"), "out": people | sp.entity_rows("records")})


def records(n: int) -> pl.DataFrame:
    """Half of them are one name; every card comes again with the name that it had."""
    number = pl.int_range(n)
    return pl.select(
        id=pl.format("r{}", number), name=pl.when(number % 2 == 0).then(pl.lit("test user")).otherwise(number % 10),
        town=pl.format("t{}", number % 3), card=pl.format("{}", 10_000 + number % (n // 6)), at=number,
    )  # fmt: skip


def told_naively(frame: pl.DataFrame, cap: int) -> list[dict[str, Any]]:
    """Record by record, block by block: what was there before it, newest first."""
    agreed = {frozenset(pair) for pair in _matches(frame)}
    blocks: dict[tuple[str, ...], list[str]] = {}
    out = []
    for row in frame.iter_rows(named=True):
        for rule, key in (("name", (row["name"],)), ("town + card[:2]", (row["town"], row["card"][:2]))):
            there = blocks.setdefault((rule, *key), [])
            if len(there) > cap:
                looked = there[-cap:]
                matched = sum(frozenset((row["id"], other)) in agreed for other in looked)
                out.append({"record": row["id"], "rule": rule, "held": len(there), "unseen": len(there) - cap,
                            "compared": cap, "matched": matched})  # fmt: skip
            there.append(row["id"])
    return out


def _matches(frame: pl.DataFrame) -> list[tuple[str, str]]:
    rows = frame.rows(named=True)
    pairs = [(a, b) for a, b in itertools.combinations(range(len(rows)), 2)
             if rows[a]["name"] == rows[b]["name"] or rows[a]["town"] == rows[b]["town"]]  # fmt: skip
    return [
        (rows[a]["id"], rows[b]["id"])
        for a, b in pairs
        if explain_match(MODEL, frame[[a, b]], names=("a", "b")).posterior >= 0.9
    ]


@pytest.mark.parametrize("cap", [1, 5])
def test_a_record_in_a_full_block_says_what_it_was_not_compared_with(cap: int) -> None:
    frame = records(48)
    ran = drive(topology(cap), people=frame, contracts=(PERSON,))
    expected = told_naively(frame, cap)
    columns = list(expected[0])
    assert ran["capped"].select(columns).to_dicts() == expected
    assert {row["rule"] for row in expected} == {"name", "town + card[:2]"}
    assert (sum(row["matched"] for row in expected) > 0) == (cap == 5)
    cut = drive(topology(cap), people=frame, contracts=(PERSON,), steps=itertools.cycle([1, 7, 2]))
    assert cut["capped"].select(columns).equals(ran["capped"].select(columns))


def test_blocks_that_are_not_full_cost_nothing() -> None:
    assert drive(topology(200), people=records(48), contracts=(PERSON,))["capped"].is_empty()


def test_ten_thousand_test_users_are_told_pair_by_pair() -> None:
    number = pl.int_range(10_000)
    frame = pl.select(id=pl.format("r{}", number), name=pl.lit("test user"), town=pl.lit("Ulm"),
                      card=pl.format("{}", number), at=number)  # fmt: skip
    ran = drive(topology(200), people=frame, contracts=(PERSON,))
    of_name = ran["capped"].filter(pl.col("rule") == "name")
    assert of_name["unseen"].sum() == sum(i - 200 for i in range(201, 10_000))
    assert of_name["compared"].unique().to_list() == [200] and ran["out"].height == 10_000


CROWD = parse_contract(
    """{"type": "record", "name": "capped_crowd", "sp:version": 1, "fields": [
    {"name": "record_id", "type": "string"}, {"name": "name", "type": "string"}, {"name": "town", "type": "string"},
    {"name": "card", "type": "string"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}"""
)


def apart(frame: pl.DataFrame, cap: int) -> tuple[int, pl.DataFrame]:
    """How many people end as two entities, and what the side tells of it."""
    people = sp.source("people", contract=CROWD) | sp.key_by() | sp.resolve(CROWDED, record="record_id", block_cap=cap)
    sinks = {"capped": people.side("capped"), "rows": people | sp.entity_rows("records"),
             "links": people | sp.entity_rows("links")}  # fmt: skip
    shown = frame.drop("person").with_columns(at=pl.int_range(pl.len()))
    ran = drive(sp.Topology("crowd", sinks=sinks), people=shown, contracts=(CROWD,))
    last = ran["links"].group_by("record", maintain_order=True).last().select("record", "entity_id")
    of = frame.join(last, left_on="record_id", right_on="record").group_by("person").agg(pl.col("entity_id").n_unique())
    told = lost_at_most(ran["capped"], ran["rows"].rename({"record_id": "record"}))
    return of.filter(pl.col("entity_id") > 1).height, told


@pytest.mark.parametrize(("users", "cap"), [(3_000, 20), (3_000, 200), (1_500, 50)])
def test_what_a_cap_loses_is_bounded_by_the_records_that_found_nobody(users: int, cap: int) -> None:
    frame = crowd(3_000, users)
    counted, told = apart(frame, cap)
    lost = counted - apart(frame, 1_000_000)[0]
    of_name = told.row(by_predicate=pl.col("rule") == "name", named=True)
    assert lost > 100
    assert lost <= of_name["left_alone"] < 10 * lost
    assert of_name["left_alone"] < of_name["full"] < users
    # Every pair that no one looked at, at the rate of the newest: nothing that a person could go by.
    assert of_name["pairs_by_rate"] > 2 * of_name["left_alone"]
