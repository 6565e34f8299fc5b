"""How well the retail story found its persons, and their worth, where the truth is known.

Scored are events, not records: every order, return and mail of a person is one, and two events are a pair where they
are of one person. The truth never enters a topology; it is read here, after the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from streamproc.entities.cluster_quality import cluster_quality

SHARES: Final = (10, 25, 50, 100)
"""Percent of the events after which the quality of what was told is looked at."""
_TOPIC_OF: Final = {"orders": "sales.orders", "returns": "service.returns", "contacts": "marketing.contacts"}


@dataclass(frozen=True, slots=True)
class PersonQuality:
    """Of pairs of events: how many that were found are true, how many true ones were found, and what holds of an order
    and a return of one person; B-cubed asks of each event how far its entity is its person.

    events   of persons, which are those that are judged
    persons  that there are; entities: that were found
    """

    events: int
    persons: int
    entities: int
    precision: float
    recall: float
    f1: float
    b_cubed_f1: float
    order_return_recall: float


def judged_events(events: pl.DataFrame, links: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """Events of persons in the order of time: source, event, at, cents, person (the truth), writing, `told` and
    `found`.

    told   the entity that the topology gave the event when it happened
    found  the one that its writing belongs to in the end
    Raises ValueError where an event of a person is missing: recall would be too good.
    """
    last = links.sort("_partition", "_offset").group_by("record", maintain_order=True).last()
    known = truth.filter(pl.col("person").is_not_null())
    topic = pl.col("source").cast(pl.String).replace_strict(_TOPIC_OF).alias("topic")
    both = (
        events.with_columns(topic)
        .join(known.rename({"id": "event"}), on=("topic", "event"))
        .join(last.select("record", found="entity_id"), left_on="writing", right_on="record", how="left")
        .with_columns(pl.col("found").fill_null(pl.col("writing")))
    )
    return both.select(
        "source", "event", "at", "cents", "person", "customer_id", "writing", "found", told="entity"
    ).sort("at", "event")


def person_quality(judged: pl.DataFrame, by: str) -> PersonQuality:
    """The quality of `by`, which is "told" or "found", over these events."""
    pairs = cluster_quality(judged[by], judged["person"])
    return PersonQuality(
        judged.height, judged["person"].n_unique(), judged[by].n_unique(), pairs.precision, pairs.recall, pairs.f1,
        pairs.b_cubed_f1, _order_return_recall(judged, by),
    )  # fmt: skip


def at_shares(judged: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The events up to parts of the stream, by percent of them."""
    return {f"{share} %": judged.head(judged.height * share // 100) for share in SHARES}


def lifetime_values(judged: pl.DataFrame, customers: pl.DataFrame) -> pl.DataFrame:
    """What the topology says an entity is worth beside what its events say by the truth, a row an entity, worst first.

    Columns: entity, said, of_events, true (of the person who has most of its events), off (said - true), persons and
    strangers: events of other persons, absent: events of the person that are in other entities.
    """
    worth = pl.when(pl.col("source") == "orders").then(pl.col("cents")).when(pl.col("source") == "returns").then(
        -pl.col("cents")).otherwise(-60).fill_null(0).alias("worth")  # fmt: skip
    priced = judged.with_columns(worth)
    most = priced.group_by("found", "person").agg(pl.len().alias("n")).sort("n", "person", descending=[True, False])
    main = most.group_by("found", maintain_order=True).first().select("found", main="person", mine="n")
    totals = priced.group_by("person").agg(pl.len().alias("all"), pl.col("worth").sum().alias("true"))
    told = customers.sort("_partition", "_offset").group_by("entity", maintain_order=True).last()
    return (
        priced.group_by("found")
        .agg(of_events=pl.col("worth").sum(), n=pl.len(), persons=pl.col("person").n_unique())
        .join(main, on="found")
        .join(totals, left_on="main", right_on="person")
        .join(told.select("entity", said="lifetime_value"), left_on="found", right_on="entity", how="left")
        .select("said", "of_events", "true", "persons", entity="found", off=pl.col("said") - pl.col("true"),
                strangers=pl.col("n") - pl.col("mine"), absent=pl.col("all") - pl.col("mine"))
        .sort(pl.col("off").abs(), "entity", descending=[True, False])
    )  # fmt: skip


def _order_return_recall(judged: pl.DataFrame, by: str) -> float:
    """Of all pairs of an order and a return of one person, the share that is in one entity."""

    def pairs(keys: list[str]) -> int:
        counts = judged.group_by(keys).agg(
            ((pl.col("source") == "orders").sum().cast(pl.Int64) * (pl.col("source") == "returns").sum()).alias("n")
        )
        return int(counts["n"].sum())

    true = pairs(["person"])
    return pairs(["person", by]) / true if true else 1.0
