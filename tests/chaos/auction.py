"""Bids and prices of an auction house: what the chaos tests feed, and the topologies that they kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

import streamproc as sp
from connectors.embedded import EmbeddedLog
from connectors.files.produce import produce_frame
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicSettings, block_of

BID = parse_contract(
    '{"type": "record", "name": "bid", "sp:version": 1, "fields": [{"name": "id", "type": "long"},'
    ' {"name": "auction", "type": "long"}, {"name": "price", "type": "double"},'
    ' {"name": "who", "type": "string", "sp:role": "key"},'
    ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)
PRICE = parse_contract(
    '{"type": "record", "name": "price", "sp:version": 1, "fields": [{"name": "id", "type": "long"},'
    ' {"name": "auction", "type": "long", "sp:role": "key"}, {"name": "floor", "type": "double"},'
    ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)
BEGIN = 1_700_000_000_000_000
STEP_US = 1_000


def registry() -> MemoryRegistry:
    """The contracts of both sources, known under the same ids in every process."""
    known = MemoryRegistry([BID, PRICE])
    for contract in (BID, PRICE):
        known.register(contract)
    return known


def write_contracts(folder: Path) -> None:
    """The same contracts as files, for the command line."""
    import orjson

    folder.mkdir(parents=True, exist_ok=True)
    for contract in (BID, PRICE):
        (folder / f"{contract.name}.avsc").write_bytes(orjson.dumps(contract.avro))


def create(log: Log, *, bids: int = 1, prices: int = 1) -> None:
    """Both topics, empty."""
    log.create_topic("bids", TopicSettings(bids))
    log.create_topic("prices", TopicSettings(prices))


def bids(first: int, count: int) -> pl.DataFrame:
    """Rows `first..first+count`: a millisecond apart, disorder of 5 ms, late ones, duplicates, bad prices."""
    number = np.arange(first, first + count)
    dice = np.random.default_rng(first)
    late = np.where(dice.random(count) < 0.01, 500_000, 0)
    return pl.DataFrame(
        {
            "id": number - np.where(dice.random(count) < 0.05, 3, 0),
            "auction": dice.integers(0, 40, count),
            "price": np.round(dice.random(count) * 100 - 3, 3),
            "who": [f"u{w}" for w in dice.integers(0, 60, count)],
            "at": BEGIN + number * STEP_US + dice.integers(0, 5_000, count) - late,
        }
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def prices(first: int, count: int) -> pl.DataFrame:
    """Rows of the stream of floor prices, over the same span of time as as many bids, a tenth as many."""
    number = np.arange(first, first + count, 10)
    dice = np.random.default_rng(first + 1)
    return pl.DataFrame(
        {
            "id": number,
            "auction": dice.integers(0, 40, number.size),
            "floor": np.round(dice.random(number.size) * 10, 3),
            "at": BEGIN + number * STEP_US + dice.integers(0, 5_000, number.size),
        }
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def append(log: EmbeddedLog, known: MemoryRegistry, first: int, count: int, *, ahead: int = 0) -> None:
    """Writes the next rows of both streams, and one record that nobody can read.

    ahead  the prices that are there already belong to so many bids that are not
    """
    priced = first + ahead if first else 0
    produce_frame(log, bids(first, count), "bids", contract=BID, schema_id=known.adopt(BID), producer_id="bids")
    told = prices(priced, first + count + ahead - priced)
    produce_frame(log, told, "prices", contract=PRICE, schema_id=known.adopt(PRICE), producer_id="prices")
    transaction = log.producer("rubbish").begin()
    transaction.append(block_of("bids", 0, [b"rubbish %d" % first]))
    transaction.commit()


def narrow(commit: str = "10ms") -> Topology:
    """Two stages of one input each: with one partition every payload has one place."""
    good = sp.source("bids", contract="bid.v1", lateness="20ms") | sp.require(positive=pl.col("price") > 0)
    once = good | sp.ordered(by=("id", "auction")) | sp.dedupe("id", within="1s", per="partition")
    mine = once | sp.key_by("who") | sp.ordered(by=("id", "auction"))
    return sp.Topology(
        "narrow",
        commit=commit,
        sinks={
            "good": good,
            "back": mine | sp.features(n=sp.count().over("100ms"), spent=sp.total("price").over("1s")),
            "spend": mine | sp.tumbling("50ms", n=sp.count(), spend=sp.total("price"), top=sp.max("price")),
        },
    )


def wide(commit: str = "10ms") -> Topology:
    """Three stages over two sources: dedupe by id, change of key to the auction, as-of join with its floor price."""
    good = sp.source("bids", contract="bid.v1", lateness="20ms") | sp.require(positive=pl.col("price") > 0)
    once = good | sp.ordered(by=("id", "auction", "who")) | sp.dedupe("id", within="1s")
    floor = sp.source("prices", contract="price.v1", lateness="20ms") | sp.key_by("auction") | sp.ordered(by=("id",))
    by_auction = once | sp.key_by("auction") | sp.ordered(by=("id", "who"))
    return sp.Topology(
        "wide",
        commit=commit,
        sinks={
            "once": once,
            "spend": once | sp.key_by("who") | sp.tumbling("50ms", n=sp.count(), spend=sp.total("price")),
            "checked": by_auction | sp.as_of(floor, max_age="2s", columns=("floor",)),
            "hot": by_auction
            | sp.features(n=sp.count().over("200ms"), mean=sp.mean("price").over("200ms"))
            | sp.where(pl.col("n") > 2),
        },
    )


def learned(commit: str = "10ms") -> Topology:
    """A model in a stage of its own: is a bid followed by a floor price of its auction within 100 ms?"""
    from river import linear_model, preprocessing

    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    rows = sp.source("bids", contract="bid.v1", lateness="20ms") | sp.ordered(by=("id", "auction", "who"))
    floors = sp.source("prices", contract="price.v1", lateness="20ms") | sp.ordered(by=("id", "auction"))
    silence = sp.outcome(floors, within="100ms")
    scored = rows | sp.learn(
        model, inputs=("price", "id"), labels=silence, on="auction", into="chance", every=3, report=50
    )
    return sp.Topology("learned", commit=commit, sinks={"scored": scored, "metrics": scored.side("metrics")})


def answered(commit: str = "10ms") -> Topology:
    """Two models: each has labels that come before their rows.

    One guesses the floor price under the id of a bid, in the order of time: of labels that are there far ahead, most
    wait in front of it. The other guesses in which auction whoever bids will bid next, in the order of arrival, which
    is one only where each topic has one partition: where that bid is ahead in the log, it waits for its row.
    """
    from river import linear_model, preprocessing

    model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    came = sp.source("bids", contract="bid.v1", lateness="20ms")
    floors = sp.source("prices", contract="price.v1", lateness="20ms") | sp.ordered(by=("id", "auction"))
    scored = came | sp.ordered(by=("id", "auction", "who")) | sp.learn(
        model, inputs=("price", "auction"), labels=floors, on="id", label="floor", horizon="2s", into="guess",
        every=3, report=50,
    )  # fmt: skip
    mine = came | sp.key_by("who")
    following = mine | sp.learn(
        model, inputs=("price", "id"), labels=mine | sp.where(pl.col("id") % 4 == 0), on="who", label="auction",
        horizon="300ms", into="next_auction", every=2, report=500, name="following",
    )  # fmt: skip
    metrics, worth = scored.side("metrics"), following.side("metrics")
    sinks = {"scored": scored, "metrics": metrics, "following": following, "worth": worth}
    return sp.Topology("answered", commit=commit, sinks=sinks)


def entities(commit: str = "10ms") -> Topology:
    """Bids as records of people who come again, corrected: who makes the same kind of bids may be one person."""
    linkage = sp.LinkageModel(
        (sp.compare("price", "number", limits=(0.5, 3.0)), sp.compare("auction")), (sp.block("who"),), 0.05,
        ((0.3, 0.5, 0.15, 0.05), (0.7, 0.3)), ((0.001, 0.01, 0.06, 0.929), (0.03, 0.97)),
    )  # fmt: skip
    bidders = sp.source("bids", contract="bid.v1", lateness="20ms") | sp.where(pl.col("id") % 3 == 0) | sp.with_columns(
        record=pl.format("r{}", pl.col("id") // 12), auction=pl.col("auction").cast(pl.String)
    )  # fmt: skip
    people = bidders | sp.key_by() | sp.resolve(
        linkage, record="record", threshold=0.8, review=0.3, golden={"price": "most_recent", "auction": "most_frequent"}
    )  # fmt: skip
    kinds = ("records", "events", "golden", "review", "links")
    sinks = {kind: people | sp.entity_rows(kind, name=f"{kind}_rows") for kind in kinds}  # type: ignore[arg-type]
    return sp.Topology("entities", commit=commit, sinks={**sinks, "capped": people.side("capped")})


TOPOLOGIES = {"narrow": narrow, "entities": entities, "wide": wide, "learned": learned, "answered": answered}
AHEAD = {"answered": 3_000}
"""Of how many bids the prices, which are labels, are in the log before the bids are."""
