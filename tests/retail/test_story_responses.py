"""How persons answer mails, beside SQL over the same events and links."""

from __future__ import annotations

import duckdb
import polars as pl
import pytest
from told_story import Told

SQL = """
with seen as (  -- each event with all that had happened to the person by then
    select e.event, e."at", e.source, x.event as other, x."at" as other_at, x.source as other_source
    from events e join links l on l.record = e.writing join links k on k.entity_id = l.entity_id
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
"""Answers and mails that count at each event of a person: nothing of the topology but who is whom."""


@pytest.fixture(scope="module")
def expected(told: Told) -> pl.DataFrame:
    assert told.ran["links"]["record"].is_unique().all(), "SQL takes who is whom to be the same at all times"
    with duckdb.connect() as base:
        base.execute("set timezone = 'UTC'")
        base.register("events", told.ran["events"].with_columns(pl.col("source").cast(pl.String)).to_arrow())
        base.register("links", told.ran["links"].to_arrow())
        return base.sql(SQL).pl()


def test_the_response_at_every_event_is_what_sql_says(told: Told, expected: pl.DataFrame) -> None:
    events = told.ran["events"].filter(~pl.col("entity").str.starts_with("guest "))
    both = events.join(expected, on="event", how="left")
    assert both["asked"].null_count() == 0
    rate = pl.when(pl.col("asked") > 0).then(pl.col("answered") / pl.col("asked"))
    off = both.filter(~pl.col("response_90d").eq_missing(rate))
    assert off.height == 0, off
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
