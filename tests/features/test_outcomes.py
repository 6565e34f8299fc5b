"""What became of rows whose entities merge and split: told once, and as a scan of everything has it."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from leaf_streams import LINK, PAYMENT, crashed_on, links, links_of, payments, random_streams
from river import linear_model, preprocessing

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.errors import DefinitionError, DuplicateName, UnknownColumn
from streamproc.graph import Stream
from streamproc.testing import drive
from streamproc.testing.naive_leaves import Link, Paid, became, entity_at
from streamproc.testing.topology_checks import check_topology

START = datetime(1970, 1, 1, tzinfo=UTC)
Told = dict[str, tuple[str, bool, int]]
"""By row: its entity at its own moment, what became of it, and when that was known."""

ASKED, COUNTS = pl.col("amount") > -1, pl.col("amount") < 0
"""Rows that wait, and rows that are events: some are both, and are none of their own outcome."""


def outcomes(rows: Stream, events: Stream, **more: Any) -> Stream:
    given = {"within": "12us", "on": "id", "into": "lost"} | more
    return sp.outcomes(rows, events, **given)


def topology(keep: str = "13us", *, apart: bool = False) -> sp.Topology:
    """Both sides of one `follow`, or each (`apart`) of its own."""
    followed = payments | sp.follow(links, keep=keep) | sp.key_by("entity")
    others = payments | sp.follow(links, keep="40us") | sp.key_by("entity") if apart else followed
    made = outcomes(followed | sp.where(ASKED), others | sp.where(COUNTS))
    return sp.Topology("t", sinks={"out": made, "in_time": payments})


TOPOLOGY = topology()


def rows_of(paid: pl.DataFrame) -> list[Paid]:
    return [Paid(*row) for row in paid.select("id", "account", "at", "amount").iter_rows()]


def expected(rows: list[Paid], told: list[Link], span: int = 12) -> Told:
    events = [row for row in rows if row.amount is not None and row.amount < 0]
    return {
        row.name: (entity_at(row.leaf, row.at, told), *became(row, events, told, span))
        for row in rows
        if row.amount is not None and row.amount > -1
    }


def told_of(out: pl.DataFrame) -> Told:
    made = {one: (entity, lost, (at - START).microseconds) for one, entity, lost, at in
            out.select("id", "entity", "lost", "lost_at").iter_rows()}  # fmt: skip
    assert len(made) == out.height, "each row is told once"
    return made


def moved(found: Told, rows: list[Paid], told: list[Link]) -> int:
    """Of how many rows something else would have become, had each stayed in the entity of its own moment."""
    stays = {name: (entity, lost) for name, (entity, lost, _) in found.items()}
    off = 0
    for row in (row for row in rows if row.name in stays):
        events = [e for e in rows if e.amount is not None and e.amount < 0 and row.at < e.at <= row.at + 12]
        off += any(entity_at(e.leaf, e.at, told) == stays[row.name][0] for e in events) != stays[row.name][1]
    return off


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("late", [False, True])
def test_what_became_of_every_row_equals_a_scan_of_everything(partitions: int, late: bool) -> None:
    hang = 0
    for seed in range(4):
        frames = random_streams(seed + 10 * late, late=late)
        ran = drive(TOPOLOGY, frames, partitions=partitions)
        rows, told = rows_of(ran["in_time"]), links_of(frames)
        found = told_of(ran["out"])
        assert (ran.late.height > 0) == late and found == expected(rows, told)
        assert {lost for _, lost, _ in found.values()} == {True, False}
        hang += moved(found, rows, told)
    assert hang > 40, "links decide"


@pytest.mark.parametrize("case", ["kept longer", "two follow"])
def test_it_does_not_matter_how_long_rows_are_kept_nor_by_how_many_steps(case: str) -> None:
    frames = random_streams(2)
    made = topology("80us") if case == "kept longer" else topology(apart=True)
    assert told_of(drive(made, frames, partitions=2)["out"]) == expected(rows_of(frames["payments"]), links_of(frames))


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_crash_in_the_middle_of_a_hand_over_loses_and_repeats_no_outcome(partitions: int) -> None:
    frames = random_streams(3)
    ran, crashes, between = crashed_on(TOPOLOGY, frames, partitions=partitions)
    assert told_of(ran["out"]) == expected(rows_of(frames["payments"]), links_of(frames))
    assert crashes > 3 and between > 0


def test_outcomes_are_the_same_under_every_cut_and_restart() -> None:
    check_topology(TOPOLOGY, random_streams(6, rows=24), contracts=(PAYMENT, LINK), ordered=("out",), seeds=1)


@pytest.mark.long
def test_outcomes_are_the_same_under_every_cut_restart_and_number_of_partitions() -> None:
    check_topology(
        TOPOLOGY, random_streams(5, rows=40), contracts=(PAYMENT, LINK), partitions=(1, 4), ordered=("out",), seeds=2
    )


def story(paid: list[tuple[str, str, float, int]], told: list[tuple[str, str | None, int]]) -> dict[str, pl.DataFrame]:
    """Payments (id, account, amount, at) and links (account, entity, at)."""
    made = [(n, *one) for n, one in enumerate(told)]
    return {
        "payments": pl.DataFrame(paid, ["id", "account", "amount", "at"], orient="row"),
        "links": pl.DataFrame(made, ["n", "account", "entity_id", "at"], orient="row"),
    }


STORIES: dict[str, tuple[list[tuple[str, float, int]], list[tuple[str, str | None, int]], tuple[bool, int]]] = {
    "an event after the merge": ([("a", -2, 15)], [("b", "a", 14)], (True, 15)),
    "an event before the merge, known when they merge": ([("a", -2, 13)], [("b", "a", 17)], (True, 17)),
    "an event of the moment at which they merge": ([("a", -2, 14)], [("b", "a", 14)], (True, 14)),
    "an event of the moment at which they part": ([("a", -2, 14)], [("b", "a", 12), ("b", None, 14)], (False, 22)),
    "an event before the row is none of its outcome": ([("a", -2, 9)], [("b", "a", 14)], (False, 22)),
    "an event of the row's own moment is none": ([("a", -2, 10), ("b", -2, 10)], [("b", "a", 14)], (False, 22)),
    "an event at the horizon is one": ([("a", -2, 22)], [("b", "a", 14)], (True, 22)),
    "an event behind the horizon is none": ([("a", -2, 23)], [("b", "a", 14)], (False, 22)),
    "a merge at the horizon counts": ([("a", -2, 13)], [("b", "a", 22)], (True, 22)),
    "with an event of that moment too": ([("a", -2, 22)], [("b", "a", 22)], (True, 22)),
    "a merge behind it does not": ([("a", -2, 13)], [("b", "a", 23)], (False, 22)),
    "the event's leaf comes to the row's": ([("a", -2, 13)], [("a", "b", 17)], (True, 17)),
    "a third entity takes both": ([("a", -2, 13)], [("a", "e", 15), ("b", "e", 19)], (True, 19)),
    "a split takes away what comes": ([("a", -2, 16)], [("b", "a", 12), ("b", None, 15)], (False, 22)),
    "unless they merge again": ([("a", -2, 16)], [("b", "a", 12), ("b", None, 15), ("b", "a", 18)], (True, 18)),
    "a split leaves what was told": ([("a", -2, 13)], [("b", "a", 12), ("b", None, 15), ("b", "a", 18)], (True, 13)),
    "told before it goes on, and not again": ([("b", -2, 11), ("a", -2, 13)], [("b", "a", 14)], (True, 11)),
    "passing through at one moment is no stay": ([("a", -2, 13)], [("b", "a", 15), ("b", None, 15)], (False, 22)),
    "there and back at one moment loses nothing": ([("b", -2, 16)], [("b", "a", 15), ("b", None, 15)], (True, 16)),
}
"""Of a row of leaf b at 10 that waits until 22: what happens, who belongs to whom, what becomes of it and when."""


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("case", STORIES)
def test_a_row_waits_for_whoever_it_belongs_to(case: str, partitions: int) -> None:
    happened, told, became_of_it = STORIES[case]
    paid = [("o", "b", 7.0, 10), *((f"r{n}", *one) for n, one in enumerate(happened)), ("z", "z", -2.0, 60)]
    frames = story(sorted(paid, key=lambda row: row[3]), told)
    assert told_of(drive(TOPOLOGY, frames, partitions=partitions)["out"]) == {"o": ("b", *became_of_it)}


def test_what_waits_is_kept_while_thousands_before_it_are_forgotten() -> None:
    """State closes its holes now and then: what stays is found again in its new place."""
    paid, told, known = [], [], {}
    for n in range(2_500):
        paid += [(f"o{n:04}", f"a{n}", 7.0, 4 * n), (f"r{n:04}", f"b{n}", -2.0, 4 * n + 2)]
        told += [(f"b{n}", f"a{n}", 4 * n + 3)] if n % 2 else []
        known[f"o{n:04}"] = (f"a{n}", True, 4 * n + 3) if n % 2 else (f"a{n}", False, 4 * n + 12)
    ran = drive(TOPOLOGY, story(paid, told), steps=itertools.repeat(300))
    assert told_of(ran["out"]) == known


def test_that_nothing_came_is_told_once_time_has_passed_the_horizon_and_not_before() -> None:
    paid = [("o", "b", 7.0, 10), ("p", "b", 7.0, 20), ("z", "z", -2.0, 62)]
    for last, known in ((52, {"o": ("b", False, 22)}), (51, {})):  # The watermark is 30 us behind what came last.
        frames = story([*paid[:2], ("z", "z", -2.0, last + 1)], [("y", "y", last + 1)])
        ran = drive(TOPOLOGY, frames, close=False)
        assert told_of(ran["out"]) == known


def test_what_cannot_wait_for_an_entity_is_refused_by_name() -> None:
    followed = payments | sp.follow(links, keep="13us") | sp.key_by("entity")
    plain = payments | sp.key_by("account")
    for made, kind, message in (
        (outcomes(plain, plain), DefinitionError, r"'outcomes'.*rows do not say.*sp\.follow"),
        (outcomes(followed, plain), DefinitionError, r"'outcomes_2'.*events do not say.*sp\.follow"),
        (outcomes(followed, followed, within="13us"), DefinitionError, r"_2' waits 13us.*keeps its rows for 13us"),
        (outcomes(followed, followed, on="account_id"), UnknownColumn, r"reads 'account_id'; did you mean 'account'"),
        (outcomes(followed, followed, on="entity"), DefinitionError, r"_2' knows rows by 'entity', which is an"),
        (outcomes(followed | sp.with_columns(lost=pl.lit(1)), followed), DuplicateName, r"'outcomes_2' makes 'lost'"),
    ):
        with pytest.raises(kind, match=message):
            drive(sp.Topology("t", sinks={"out": made}))


def test_whoever_waits_by_an_entity_that_may_merge_is_refused_and_told_the_way_out() -> None:
    model = linear_model.LogisticRegression()
    followed = payments | sp.follow(links, keep="13us") | sp.key_by("entity")
    known = followed | sp.features(n=sp.count().over("9us"), m=sp.mean("amount").over("9us").default(0.0))
    lost = known | sp.where(pl.col("amount") < 0)
    labels = lost | sp.with_columns(bad=pl.lit(True))
    renamed = known | sp.rename(entity="who") | sp.with_columns(copied=pl.col("who"), own=pl.col("id"))
    for rows, step in (
        (known, sp.learn(model, inputs=("n",), into="p", labels=sp.outcome(lost, within="9us"), on="entity")),
        (known, sp.learn(model, inputs=("n",), into="p", labels=labels, label="bad", horizon="9us", on="entity")),
        (known, sp.bandit(("a", "b"), rewards=sp.outcome(lost, within="9us"), on="entity", salt="s")),
        (known, sp.abstain("m", labels=sp.outcome(lost, within="9us"), on="entity", target=0.1)),
        (renamed, sp.bandit(("a", "b"), rewards=sp.outcome(renamed, within="9us"), on="who", salt="s")),
        (renamed, sp.bandit(("a", "b"), rewards=sp.outcome(renamed, within="9us"), on="copied", salt="s")),
    ):
        with pytest.raises(DefinitionError, match=r"by '\w+', which is another for the same row .*sp\.outcomes\("):
            drive(sp.Topology("t", sinks={"out": rows | step}))
    drive(sp.Topology("t", sinks={"out": renamed | sp.bandit(
        ("a", "b"), rewards=sp.outcome(lost, within="9us"), on="id", salt="s")}))  # fmt: skip


def test_a_step_that_remembers_does_not_take_rows_that_only_move_for_rows_that_happened() -> None:
    followed = payments | sp.follow(links, keep="13us") | sp.key_by("entity")
    for step in (
        sp.dedupe("id", within="9us"),
        sp.decide(sp.when(pl.col("amount") > 1, then="stop"), otherwise="go"),
        sp.as_of(payments | sp.select("account", "amount", "id")),
        sp.sample_ratio("account", weights={"a1": 0.5, "a2": 0.5}),
    ):
        with pytest.raises(DefinitionError, match=r"rows once each, and those of sp\.follow come again.*sp\.as_of\("):
            drive(sp.Topology("t", sinks={"out": followed | step}))


KNOWN_LABEL = parse_contract("""{"type": "record", "name": "known", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "lost", "type": "boolean"},
    {"name": "n", "type": "long"},
    {"name": "lost_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_learner_learns_what_became_of_whoever_a_row_belonged_to(partitions: int) -> None:
    """As if somebody who saw everything had told the labels, each when it was known: bit for bit."""

    def learned(labels: Stream) -> sp.Topology:
        known = followed | sp.where(ASKED) | sp.features(n=sp.count().over("9us"), t=sp.total("amount").over("9us"))
        model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
        made = known | sp.with_columns(t=pl.col("t").clip(-10, 10)) | sp.learn(
            model, inputs=("n", "t"), into="p", labels=labels, label="lost", horizon="12us", on="id", report=20
        )
        return sp.Topology("t", sinks={"scored": made, "metrics": made.side("metrics")})

    followed = payments | sp.follow(links, keep="13us") | sp.key_by("entity")
    became_of_rows = outcomes(followed | sp.where(ASKED), followed | sp.where(COUNTS))
    source = sp.source("known", contract=KNOWN_LABEL, lateness="30us") | sp.key_by("id") | sp.ordered("n")
    frames = random_streams(8)
    found = drive(learned(became_of_rows), frames, partitions=partitions)
    known = expected(rows_of(frames["payments"]), links_of(frames))
    labels = pl.DataFrame(
        [(name, lost, at) for name, (_, lost, at) in known.items()], ["id", "lost", "lost_at"], orient="row"
    ).sort("lost_at", ~pl.col("lost"), "id").with_row_index("n")  # At one moment what happened is told before silence.
    told = drive(
        learned(source), frames | {"known": labels}, partitions=partitions, contracts=(PAYMENT, LINK, KNOWN_LABEL)
    )
    for sink in ("scored", "metrics"):
        place = ["_partition", "_offset"]
        assert found[sink].sort(place).drop(place).equals(told[sink].sort(place).drop(place)), sink
    assert found["scored"]["p"].n_unique() > 50 and found["metrics"]["labels"].max() >= 20
