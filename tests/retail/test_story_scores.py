"""The story of other months and another seed, by the truth: persons, worth, and what the model is good for."""

from __future__ import annotations

import itertools

import duckdb
import polars as pl
import pytest
from told_story import Told

import streamproc as sp
from streamproc.cli.demo_blocks import recall_of_blocks, written_blocks
from streamproc.cli.demo_facts import model_facts
from streamproc.cli.demo_score import at_shares, lifetime_values, person_quality
from streamproc.testing import drive
from topologies.retail.make_story import CONTACTS, ORDERS, RATES, RETURNS
from topologies.retail.people import LINKAGE, people
from topologies.retail.risk import HORIZON
from topologies.retail.value import MAIL_CENTS

SQL = f"""
with happened as (
    select 'orders' as source, order_id as event, ordered_at as "at", gross as amount, currency from orders
        where gross > 0 and order_id not like 'A%'
    union all select 'returns', return_id, returned_at, -amount, currency from returns where amount > 0
), priced as (
    select h.source, h.event, h."at",
        case when h."at" - r.published_at <= interval 7 days
            then round_even(h.amount * 100 / r.rate, 0)::bigint end as worth
    from happened h asof left join rates r on h.currency = r.currency and h."at" >= r.published_at
    union all select 'contacts', contact_id, sent_at, -{MAIL_CENTS} from contacts
)
select p.source, p.event, p."at", coalesce(p.worth, 0) as worth, t.person
from priced p join truth t on t.id = p.event and t.topic = case p.source when 'orders' then '{ORDERS}'
    when 'returns' then '{RETURNS}' else '{CONTACTS}' end
where t.person is not null
order by p."at", p.event
"""
"""What each event of a person is worth, from the raw topics and the truth: nothing of the topology is in it."""


@pytest.fixture(scope="module")
def priced(told: Told) -> pl.DataFrame:
    topics = told.story.topics
    with duckdb.connect() as base:
        base.execute("set timezone = 'UTC'")
        for name, frame in (("orders", topics[ORDERS]), ("returns", topics[RETURNS]), ("contacts", topics[CONTACTS]),
                            ("rates", topics[RATES]), ("truth", told.story.truth)):  # fmt: skip
            base.register(name, frame.to_arrow())
        return base.sql(SQL).pl()


def test_persons_are_found_over_the_whole_slice_and_at_parts_of_it(told: Told) -> None:
    whole = person_quality(told.judged, "found")
    parts = (person_quality(events, "told") for events in at_shares(told.judged).values())
    for quality in (whole, person_quality(told.judged, "told"), *parts):
        assert quality.f1 >= 0.99 and quality.precision >= 0.999 and quality.order_return_recall >= 0.97, quality
    assert whole.events == told.story.truth["person"].count() - _refused(told)
    assert whole.persons > 2_000


def test_the_score_would_see_persons_that_are_mixed_up_or_torn_apart(told: Told) -> None:
    mixed = told.judged.with_columns(found=pl.col("found").str.slice(0, 2))
    torn = told.judged.with_columns(found=pl.col("found") + pl.col("source").cast(pl.String))
    assert person_quality(mixed, "found").precision < 0.1
    assert person_quality(torn, "found").order_return_recall == 0.0
    assert person_quality(torn, "found").f1 < 0.99


def test_the_recall_of_blocks_is_what_a_count_pair_by_pair_gives(told: Told) -> None:
    """Of a tenth of the persons; whether a pair agrees in a rule by its values, not by the names of blocks."""
    some = told.judged.filter(pl.col("person").hash(1) % 10 == 0)
    blocks = written_blocks(told.ran.binding, told.ran.log)
    assert blocks["writing"].n_unique() == blocks.height and set(some["writing"]) <= set(blocks["writing"])
    columns = dict.fromkeys(name for rule in LINKAGE.blocks for name in rule.columns)
    rows = people.inputs[0] | sp.select("writing", *columns)
    topics = {topic: told.story.topics[topic] for topic in (ORDERS, RETURNS, CONTACTS)}
    frame = drive(sp.Topology("w", sinks={"w": rows}), topics, registry=told.ran.binding.registry)["w"]
    known = {row["writing"]: row for row in frame.to_dicts()}

    def agree(a: str, b: str) -> bool:
        parts = ([(name, letters or None) for name, letters in rule.parts] for rule in LINKAGE.blocks)
        one, other = known[a], known[b]
        return a == b or any(
            all(one[name] is not None and other[name] is not None and one[name][:n] == other[name][:n]
                for name, n in rule) for rule in parts
        )  # fmt: skip

    pairs = [agree(a, b) for writings in some.group_by("person").agg("writing")["writing"].to_list()
             for a, b in itertools.combinations(writings, 2)]  # fmt: skip
    assert len(pairs) > 500
    assert recall_of_blocks(some, blocks) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    # What is found is at most what blocks bring together, but for what hangs together through others.
    assert recall_of_blocks(told.judged, blocks) >= 0.99
    none = blocks.with_columns(blocks=pl.lit([], pl.List(pl.Int64)))
    assert recall_of_blocks(told.judged, none) < 0.95, "without blocks only events of one writing are together"


def test_every_event_is_worth_what_sql_says(told: Told, priced: pl.DataFrame) -> None:
    sign = pl.when(pl.col("source") == "orders").then(1).otherwise(-1)
    ours = told.judged.with_columns(pl.col("source").cast(pl.String), worth=pl.col("cents") * sign)
    both = priced.join(ours.select("source", "event", "worth"), on=("source", "event"), suffix="_ours", how="left")
    assert both.height == ours.height
    money = both.filter(pl.col("source") != "contacts")
    assert money.height > 3_000
    assert (money["worth"] == money["worth_ours"]).all()


def test_what_persons_are_worth_is_sql_with_the_truth_within_the_linking_error(
    told: Told, priced: pl.DataFrame
) -> None:
    values = lifetime_values(told.judged, told.ran["customers"])
    assert values["said"].null_count() == 0
    # However persons are cut, each event counts once.
    assert values["said"].sum() == priced["worth"].sum()
    true = dict(priced.group_by("person").agg(pl.col("worth").sum()).rows())
    main = told.judged.group_by("found", "person").len().sort("len", descending=True).unique("found", keep="first")
    person = dict(main.select("found", "person").rows())
    found = told.judged.select("source", "event", "found").cast({"source": pl.String})
    worth = priced.join(found, on=("source", "event"))
    of_events = dict(worth.group_by("found").agg(pl.col("worth").sum()).rows())
    wrong = 0
    for row in values.iter_rows(named=True):
        assert row["said"] == of_events[row["entity"]], row
        if row["strangers"] or row["absent"]:
            wrong += 1  # Row by row: it is off by the worth of the events that are with another entity.
        else:
            assert row["said"] == true[person[row["entity"]]], row
    assert wrong <= 0.005 * values.height


def test_the_worth_told_after_each_event_is_the_sum_up_to_it(told: Told, priced: pl.DataFrame) -> None:
    events = told.ran["events"].select("source", "event", "entity", "lifetime_value").cast({"source": pl.String})
    stayed = told.judged.group_by("found").agg((pl.col("told") == pl.col("found")).all().alias("stayed"))
    rows = (
        priced.join(events, on=("source", "event"))
        .join(stayed.filter("stayed"), left_on="entity", right_on="found")
        .sort("at", "event")
        .with_columns(sum=pl.col("worth").cum_sum().over("entity"))
    )
    assert rows.height > 0.99 * told.judged.height
    assert rows.filter(pl.col("sum") != pl.col("lifetime_value")).height == 0


def test_the_model_beats_what_costs_nothing_at_the_true_delay(told: Told) -> None:
    model = model_facts(told.ran["metrics"])
    for floor in ("prior", "no_change", "last_score"):
        for figure in ("brier", "brier_of_last"):
            assert model["model"][figure] < model[floor][figure], (floor, figure, model)


def test_labels_have_the_share_that_brute_force_finds(told: Told) -> None:
    days = int(HORIZON.removesuffix("d"))
    returns = told.judged.filter(pl.col("source") == "returns").select("told", back="at")
    orders = told.judged.filter(pl.col("source") == "orders").with_row_index("n")
    hit = orders.join(returns, on="told").filter(
        (pl.col("back") >= pl.col("at")) & (pl.col("back") - pl.col("at") <= pl.duration(days=days))
    )
    share = hit["n"].n_unique() / orders.height
    bins = told.ran["calibration"].filter(pl.col("contender") == "model")
    last = bins.filter(pl.col("labels") == pl.col("labels").max().over("_partition"))
    each = last.explode("bin_n", "bin_true").filter(pl.col("bin_n") > 0)
    assert each["bin_n"].sum() > 0.9 * orders.height
    # The orders of the last days are still without a label, and there is a report only every 100 labels.
    assert (each["bin_n"] * each["bin_true"]).sum() / each["bin_n"].sum() == pytest.approx(share, abs=0.01)


def _refused(told: Told) -> int:
    """Events of persons that rules refused: orders without worth."""
    refused = told.story.topics[ORDERS].filter((pl.col("gross") <= 0) | pl.col("order_id").str.starts_with("A"))
    known = told.story.truth.filter((pl.col("topic") == ORDERS) & pl.col("person").is_not_null())
    return refused.join(known, left_on="order_id", right_on="id", how="semi").height
