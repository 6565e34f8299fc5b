"""Features of entities that merge and split: each row sees what its entity's leaves said, wherever they were then."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from leaf_streams import LINK, PAYMENT, crashed_on, links, links_of, payments, random_streams

import streamproc as sp
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import DefinitionError, TypeMismatch
from streamproc.planning.column_versions import column_versions
from streamproc.runtime.binding import plan_topology
from streamproc.testing import drive
from streamproc.testing.naive_leaves import Paid, entity_at, known, seen, told_again
from streamproc.testing.topology_checks import check_topology

made: dict[str, Any] = {
    "n": sp.count().over("40us"), "recent": sp.count("amount").over("9us"), "spend": sp.total("amount").over("40us"),
    "low": sp.min("amount").over("25us"), "kinds": sp.distinct("amount").over("40us"),
    "middle": sp.quantile("amount", 0.5).over("40us"), "big": sp.count().where(pl.col("amount") > 1).over("40us"),
}  # fmt: skip
NAMES = ("entity", *made)
followed = payments | sp.follow(links, keep="40us") | sp.key_by("entity")
scored = followed | sp.features(**made)
TOPOLOGY = sp.Topology("t", sinks={"out": scored})


def valued(entity: str, mine: dict[int, list[Paid]]) -> tuple[Any, ...]:
    """An entity and its features, from its rows in each span."""
    values_of = {span: [one.amount for one in some if one.amount is not None] for span, some in mine.items()}
    exact = float(sum(map(Fraction, values_of[40]), Fraction())) if values_of[40] else 0.0
    values = sorted(values_of[40])
    half = (len(values) - 1) / 2
    middle = None if not values else (values[math.floor(half)] * 0.5 + values[math.ceil(half)] * 0.5)
    if values and half == math.floor(half):
        middle = values[int(half)]
    return (
        entity, len(mine[40]), len(values_of[9]), exact + 0.0, min(values_of[25], default=None),
        len(set(values_of[40])), middle, sum(one > 1 for one in values_of[40]),
    )  # fmt: skip


def expected(frames: dict[str, pl.DataFrame], rows: list[Paid]) -> dict[str, tuple[Any, ...]]:
    told = links_of(frames)
    return {
        row.name: valued(
            entity_at(row.leaf, row.at, told), {span: seen(row, rows, told, span) for span in (9, 25, 40)}
        )
        for row in rows
    }


def told_of(made: pl.DataFrame) -> tuple[dict[str, tuple[Any, ...]], list[Paid]]:
    rows = [Paid(*row) for row in made.select("id", "account", "at", "amount").iter_rows()]
    return {row[0]: row[1:] for row in made.select("id", *NAMES).iter_rows()}, rows


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("late", [False, True])
def test_features_of_entities_equal_a_scan_of_everything_for_every_row(partitions: int, late: bool) -> None:
    for seed in range(4):
        frames = random_streams(seed + 10 * late, late=late)
        ran = drive(TOPOLOGY, frames, partitions=partitions)
        made, rows = told_of(ran["out"])
        assert len(made) == ran["out"].height == frames["payments"].height - ran.late.height
        assert (ran.late.height > 0) == late
        assert made == expected(frames, rows)


@pytest.mark.parametrize("partitions", [1, 4])
def test_rows_that_a_step_between_drops_leave_nothing_behind_where_their_leaf_moves(partitions: int) -> None:
    dear = payments | sp.follow(links, keep="40us") | sp.where(pl.col("amount") > 1, name="dear")
    kept = sp.Topology("t", sinks={"out": dear | sp.key_by("entity") | sp.features(**made)})
    for seed in range(4):
        frames = random_streams(seed)
        found, rows = told_of(drive(kept, frames, partitions=partitions)["out"])
        assert 40 < len(rows) < 120 and found == expected(frames, rows)


corrected = followed | sp.features(corrections=True, since=sp.time_since_last().over("40us"), **made)
CORRECTED = sp.Topology("t", sinks={"out": corrected})


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("late", [False, True])
def test_entities_that_a_move_touches_are_told_again_as_a_scan_of_everything_has_them(
    partitions: int, late: bool
) -> None:
    again, gone = 0, 0
    for seed in range(4):
        frames = random_streams(seed + 10 * late, late=late)
        out = drive(CORRECTED, frames, partitions=partitions)["out"]
        first = out.filter(pl.col("corrected_at").is_null())
        plain, rows = told_of(first)
        told = links_of(frames)
        assert plain == expected(frames, rows) and not first["deleted"].any()
        corrections = out.filter(pl.col("corrected_at").is_not_null())
        columns = (pl.col("corrected_at").to_physical(), *NAMES, "since", "deleted")
        found = {row[:2]: row[1:] for row in corrections.select(columns).iter_rows()}
        assert len(found) == corrections.height, "one row for an entity and a moment"
        assert sorted(found) == told_again(rows, told, 40)
        for (moment, entity), row in found.items():
            mine = {span: known(entity, moment, rows, told, span) for span in (9, 25, 40)}
            since = moment - mine[40][-1].at if mine[40] else None
            assert row == (*valued(entity, mine), since, not mine[40])
            gone += not mine[40]
        again += len(found)
    assert again > 100 and gone > 20


def test_what_tells_corrections_is_made_by_their_step_and_leaves_the_features_versions_as_they_were() -> None:
    def versions(corrections: bool, **made: Any) -> dict[str, str]:
        step = followed | sp.features(corrections=corrections, **made) | sp.where(pl.col("n") > 0)
        plan = plan_topology(sp.Topology("t", sinks={"out": step}), MemoryRegistry((PAYMENT, LINK)))
        return column_versions(plan, plan.sinks[0])

    plain, told = versions(False, **made), versions(True, **made)
    assert {name: told[name] for name in plain} == plain
    others = versions(True, n=sp.count().over("20us"))  # Until when an entity has rows depends on the spans.
    assert told["deleted"] != others["deleted"] and told["corrected_at"] != others["corrected_at"]


def test_a_table_of_newest_features_holds_what_there_is_now() -> None:
    for seed in range(3):
        frames = random_streams(seed)
        out = drive(CORRECTED, frames)["out"]
        _, rows = told_of(out.filter(pl.col("corrected_at").is_null()))
        told = links_of(frames)
        table: dict[str, int] = {}
        moment = pl.coalesce(pl.col("corrected_at").to_physical(), "at")
        for entity, at, deleted in out.select("entity", moment, "deleted").iter_rows():
            table[entity] = at
            if deleted:
                del table[entity]
        last = max(*(row.at for row in rows), *(link.at for link in told))
        owners = {entity_at(row.leaf, last, told): row.at for row in sorted(rows, key=lambda one: one.at)}
        assert {entity for entity, at in owners.items() if at > last - 40} <= table.keys()
        # An alias stands there only if there was nothing to hand over any more when its last leaf left.
        for alias in table.keys() - owners.keys():
            assert any(table[alias] <= link.at - 40 for link in told)
        assert len(table) < len(set(out["entity"]))


@pytest.mark.long
def test_corrections_are_the_same_under_every_cut_restart_and_number_of_partitions() -> None:
    check_topology(
        CORRECTED, random_streams(5, rows=40), contracts=(PAYMENT, LINK), partitions=(1, 4), ordered=("out",), seeds=2
    )


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_crash_in_the_middle_of_a_hand_over_loses_and_repeats_nothing(partitions: int) -> None:
    frames = random_streams(3)
    ran, crashes, between = crashed_on(TOPOLOGY, frames, partitions=partitions)
    made, rows = told_of(ran["out"])
    assert made == expected(frames, rows) and len(made) == frames["payments"].height
    assert crashes > 3 and between > 0


@pytest.mark.long
def test_every_cut_restart_and_number_of_partitions_gives_the_same() -> None:
    check_topology(
        TOPOLOGY, random_streams(5, rows=40), contracts=(PAYMENT, LINK), partitions=(1, 4), ordered=("out",), seeds=2
    )


def test_a_leaf_takes_its_rows_along_and_leaves_none_behind() -> None:
    paid = [("p1", "a", 10), ("p2", "b", 11), ("p3", "a", 13), ("p4", "b", 15), ("p5", "a", 17), ("p6", "b", 18)]
    told = [("a", "e", 9), ("b", "e", 12), ("b", "f", 14), ("b", "e", 17)]
    frames = {
        "payments": pl.DataFrame([(i, k, 1.0, t) for i, k, t in paid], ["id", "account", "amount", "at"], orient="row"),
        "links": pl.DataFrame(
            [(n, *one) for n, one in enumerate(told)], ["n", "account", "entity_id", "at"], orient="row"
        ),
    }
    made = drive(TOPOLOGY, frames)["out"].sort("id")
    assert made.select("entity", "n").rows() == [("e", 1), ("b", 1), ("e", 3), ("f", 2), ("e", 5), ("e", 6)]


def test_what_cannot_follow_leaves_is_refused_by_name() -> None:
    followed = payments | sp.follow(links, keep="1h") | sp.key_by("entity")
    for step, message in (
        (sp.features(n=sp.count().ever()), r"n has no begin.*\.over"),
        (
            sp.features(n=sp.count().over("2h")),
            r"n looks back 2h, and sp.follow keeps rows of a leaf for 1h.*keep='2h'",
        ),
        (sp.features(n=sp.min("amount").over("1h").carry("1h")), r"n carries a value on"),
        (sp.features(n=sp.count().over("1h"), at_bound="not_covered"), r"at_bound='stop'"),
        (sp.features(n=sp.count().over("1h", hop="1m")), r"n is made of tiles"),
    ):
        with pytest.raises(DefinitionError, match=message):
            drive(sp.Topology("t", sinks={"out": followed | step}))
    with pytest.raises(DefinitionError, match=r"corrects what it said.*none do here"):
        drive(sp.Topology("t", sinks={"out": payments | sp.features(corrections=True, n=sp.count().over("1h"))}))
    unordered = sp.source("payments", contract=PAYMENT) | sp.key_by("account")
    with pytest.raises(DefinitionError, match=r"'follow'.*sp.ordered"):
        drive(sp.Topology("t", sinks={"out": unordered | sp.follow(links, keep="1h")}))
    with pytest.raises(TypeMismatch, match=r"'follow'.*one column of text"):
        other = sp.source("links", contract=LINK) | sp.key_by("account", "n") | sp.ordered()
        rows = sp.source("payments", contract=PAYMENT) | sp.key_by("account", "at") | sp.ordered()
        drive(sp.Topology("t", sinks={"out": rows | sp.follow(other, keep="1h")}))
