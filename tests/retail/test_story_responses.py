"""How persons answer mails, beside SQL over the same events and links."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import duckdb
import numpy as np
import polars as pl
import pytest
from told_story import Told

import streamproc as sp
from connectors.registry import FolderRegistry
from streamproc.contracts.model import Field, Schema
from streamproc.runtime.workspace import shipped_contracts
from streamproc.testing import drive
from streamproc.testing.drive import Driven
from streamproc.testing.naive_leaves import Link, Paid, became
from topologies.retail import retail
from topologies.retail.load import shipped_story
from topologies.retail.make_story import CONTACTS, MOVEMENTS, ORDERS, RETURNS
from topologies.retail.people import links as links_of_people
from topologies.retail.processes import PERSON
from topologies.retail.risk import became as became_of_orders
from topologies.retail.sources import persons

LONG_AGO = pl.lit(datetime(1970, 1, 1, tzinfo=UTC))

SQL = """
with seen as (  -- each event with all that had happened by then to whom it is of, as was known at that moment
    select e.event, e."at", e.source, x.event as other, x."at" as other_at, x.source as other_source
    from events e join linked l on l.record = e.writing and e."at" >= l.since and e."at" < l.until
    join linked k on k.entity_id = l.entity_id and e."at" >= k.since and e."at" < k.until
    join events x on x.writing = k.record and (x."at", x.event) <= (e."at", e.event)
        and x."at" + interval 97 days > e."at"
), answer as (
    select event, "at" from seen where source = 'orders' and other_source <> 'returns' group by event, "at"
    having max(other_at) filter (other_source = 'contacts' and other_at + interval 7 days > "at")
        > coalesce(max(other_at) filter (other_source = 'orders' and other <> event), timestamptz '0001-01-01')
)
select s.event, count(*) filter (a.event is not null and s.other_at + interval 90 days > s."at") as answered,
    count(*) filter (s.other_source = 'contacts') as asked
from seen s left join answer a on a.event = s.other group by s.event
"""
"""Answers and mails that count at each event of a person: nothing of the topology but who is whom, and since when."""
LINKED = """
select record, entity_id, "at" as since,
    coalesce(lead("at") over (partition by record order by "at", _offset), timestamptz '9999-01-01') as until
from links
"""
"""Of a writing the last link of a moment holds; it counts before the events of its moment."""


def answers(events: pl.DataFrame, links: pl.DataFrame) -> pl.DataFrame:
    """By SQL; links have record, entity_id, at and _offset."""
    with duckdb.connect() as base:
        base.execute("set timezone = 'UTC'")
        base.register("events", events.with_columns(pl.col("source").cast(pl.String)).to_arrow())
        base.register("links", links.to_arrow())
        base.execute(f"create table linked as {LINKED}")
        return base.sql(SQL).pl()


@pytest.fixture(scope="module")
def expected(told: Told) -> pl.DataFrame:
    links = told.ran["links"]
    assert links["record"].is_unique().all(), "who is whom is the same at all times"
    return answers(told.ran["events"], links.with_columns(at=LONG_AGO))


def compared(events: pl.DataFrame, expected: pl.DataFrame) -> pl.DataFrame:
    """Events of persons, and whether their response is the expected one."""
    both = events.filter(~pl.col("entity").str.starts_with("guest ")).join(expected, on="event", how="left")
    assert both["asked"].null_count() == 0
    rate = pl.when(pl.col("asked") > 0).then(pl.col("answered") / pl.col("asked"))
    return both.with_columns(right=pl.col("response_90d").eq_missing(rate))


def test_the_response_at_every_event_is_what_sql_says(told: Told, expected: pl.DataFrame) -> None:
    both = compared(told.ran["events"], expected)
    assert both["right"].all(), both.filter(~pl.col("right"))
    assert both.filter(pl.col("response_90d").is_null()).height == both.filter(pl.col("asked") == 0).height > 100
    assert both.filter((pl.col("response_90d") > 0) & (pl.col("response_90d") < 1)).height > 100


def test_no_mail_is_not_an_unanswered_one(told: Told) -> None:
    for topic in ("events", "customers"):
        no_mail = pl.col("response_status").cast(pl.String) == "NO_MAIL"
        assert told.ran[topic].select((no_mail == pl.col("response_90d").is_null()).all()).item()
        assert told.ran[topic]["response_90d"].max() == 1.0


def test_persons_are_told_with_the_response_of_their_last_event(told: Told) -> None:
    """But for those whose writings moved after it: they are told anew."""
    place = ("_partition", "_offset")
    customers = told.ran["customers"].sort(place).group_by("entity").last()
    events = told.ran["events"].sort(place).group_by("entity").last()
    both = customers.join(events.select("entity", "at", "response_90d"), on="entity", suffix="_then")
    untouched = both.filter(pl.col("at") == pl.col("at_then"))
    assert untouched.height > 0.9 * both.height > 1_000
    same = untouched["response_90d"].eq_missing(untouched["response_90d_then"])
    assert same.sum() >= 0.99 * untouched.height


# ── persons who merge between mail and answer ────────────────────────────────────────────────────────────────────────


class Timed:
    """Says since when each link holds."""

    def schema(self, rows: Schema) -> Schema:
        return Schema((*rows, Field("at", pl.Datetime("us", "UTC"))))

    def open(self) -> dict[str, int]:
        return {}

    def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], pl.DataFrame]:
        return state, rows.select("writing", "entity_id", at=pl.col("_event_time").cast(pl.Datetime("us", "UTC")))


TIMED = replace(retail, sinks={
    **retail.sinks, "since": links_of_people | sp.key_by() | sp.custom(Timed()),
    "became": became_of_orders | sp.select("event", "returned", "returned_at"),
})  # fmt: skip
NAMED = ("given_name", "surname", "date_of_birth")


def halves(people: int, events: int) -> dict[str, pl.DataFrame]:
    """Mails, orders and returns of persons who write their name, their address, or both: only who wrote both is known
    to be one person with the two others."""
    random = np.random.default_rng(4)
    story = shipped_story("2011-03", "2011-03", 11)
    topics = dict(story.topics)
    known = persons().filter(
        (pl.col("file") == "a") & pl.all_horizontal(pl.col(name).is_not_null() for name in PERSON)
    ).head(people)  # fmt: skip
    begin = topics[ORDERS]["ordered_at"].min()
    rows = []
    for n, (who, part) in enumerate(zip(random.integers(0, people, events).tolist(),
                                        random.choice(["name", "address", "both"], events, p=[0.45, 0.45, 0.1]),
                                        strict=True)):  # fmt: skip
        person = known.row(who, named=True)
        hidden = {"name": set(PERSON) - set(NAMED), "address": set(NAMED), "both": set()}[part]
        rows.append({name: None if name in hidden else person[name] for name in PERSON} | {"n": n})
    minutes = np.sort(random.choice(28 * 24 * 60, events, replace=False))
    made = pl.DataFrame(rows, schema_overrides=dict.fromkeys(PERSON, pl.String)).with_columns(
        at=begin + pl.Series(minutes).cast(pl.Int64) * pl.duration(minutes=1),
        kind=pl.Series(random.choice([CONTACTS, ORDERS, RETURNS], events, p=[0.45, 0.45, 0.1])),
    )  # fmt: skip
    for topic, name, time in ((CONTACTS, "contact_id", "sent_at"), (ORDERS, "order_id", "ordered_at"),
                              (RETURNS, "return_id", "returned_at")):  # fmt: skip
        mine = made.filter(pl.col("kind") == topic)
        like = topics[topic].head(1).select(pl.all().repeat_by(mine.height).explode())
        topics[topic] = like.with_columns(
            mine.select(*PERSON, pl.format("e{}", "n").alias(name), pl.col("at").alias(time)).get_columns()
        )
    return {**topics, MOVEMENTS: topics[MOVEMENTS].head(10)}


@pytest.fixture(scope="module", params=[1, 4])
def merged(request: pytest.FixtureRequest) -> Driven:
    return drive(TIMED, halves(60, 900), registry=FolderRegistry((shipped_contracts(),)), partitions=request.param)


def test_the_response_is_that_of_all_whom_a_person_turned_out_to_be(merged: Driven) -> None:
    """Mails to a name and orders from an address are one person's from the moment on at which somebody wrote both."""
    events, since = merged["events"], merged["since"].rename({"writing": "record"})
    moved = since.filter(~pl.col("record").is_first_distinct())
    assert moved.height > 20, "persons merge"
    both = compared(events, answers(events, since))
    assert both["right"].all(), both.filter(~pl.col("right"))
    alone = since.filter(pl.col("record").is_first_distinct()).with_columns(entity_id="record", at=LONG_AGO)
    never = compared(events, answers(events, alone))
    assert never.height == both.height and (~never["right"]).sum() > 100, "merges decide"
    at_last = since.group_by("record").last().with_columns(at=LONG_AGO)
    assert (~compared(events, answers(events, at_last))["right"]).sum() > 20, "and since when they hold"


def test_an_order_was_followed_by_a_return_of_whoever_the_person_turned_out_to_be(merged: Driven) -> None:
    """The label that the model of risk learns: of each order once, as a scan of everything has it."""
    day = 86_400_000_000
    links = [Link(*row) for row in
             merged["since"].sort("_offset").select("writing", "entity_id", pl.col("at").to_physical()).iter_rows()]
    paid = {
        source: [Paid(*row, None) for row in merged["events"].filter(pl.col("source").cast(pl.String) == source).select(
            "event", "writing", pl.col("at").to_physical()).iter_rows()]
        for source in ("orders", "returns")
    }  # fmt: skip
    told = {event: (returned, at) for event, returned, at in
            merged["became"].select("event", "returned", pl.col("returned_at").to_physical()).iter_rows()}  # fmt: skip
    assert merged["became"].height == len(paid["orders"]) > 300
    assert told == {order.name: became(order, paid["returns"], links, 14 * day) for order in paid["orders"]}
    first = [link for n, link in enumerate(links) if link.leaf not in {other.leaf for other in links[:n]}]
    alone = {order.name: became(order, paid["returns"], first, 14 * day)[0] for order in paid["orders"]}
    assert sum(alone[event] != returned for event, (returned, _) in told.items()) > 10, "merges decide"
