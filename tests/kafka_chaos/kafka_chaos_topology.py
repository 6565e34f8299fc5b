"""Bids and floor prices, and the topologies that brokers and workers are killed under.

`chain` stands below `ordered` and takes dedupe, an as-of join, changes of key and windows, so each row of its output is
known beforehand. `flat` works in order of arrival: only what does not depend on that order is known of it. `both` has
the sinks of the two.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import polars as pl

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicSettings

BID = parse_contract(
    '{"type": "record", "name": "bid", "sp:version": 1, "fields": [{"name": "seq", "type": "long"},'
    ' {"name": "id", "type": "long"}, {"name": "auction", "type": "string"}, {"name": "price", "type": "double"},'
    ' {"name": "who", "type": "string", "sp:role": "key"},'
    ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)
FLOOR = parse_contract(
    '{"type": "record", "name": "floor", "sp:version": 1, "fields": [{"name": "seq", "type": "long"},'
    ' {"name": "auction", "type": "string", "sp:role": "key"}, {"name": "floor", "type": "double"},'
    ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)
BEGIN = 1_700_000_000_000_000
STEP_US = 1_000
JITTER_US = 300_000
LATENESS = "400ms"
DEDUPE_US = 2_000_000
MAX_AGE_US = 1_000_000
WINDOW_US = 500_000
FLOOR_EVERY = 10
"""One floor price to so many bids."""
PARTITIONS = {"bids": 4, "floors": 2}

Row = dict[str, Any]


def registry() -> MemoryRegistry:
    """The contracts of both sources, known under the same ids in every process."""
    known = MemoryRegistry([BID, FLOOR])
    for contract in (BID, FLOOR):
        known.register(contract)
    return known


def create(log: Log) -> None:
    """Both topics, empty."""
    for topic, partitions in PARTITIONS.items():
        log.create_topic(topic, TopicSettings(partitions))


def rows(seed: int, bids: int) -> Iterator[tuple[str, Row]]:
    """Topic and row, in the order of producing: event times out of order by less than the lateness, ids come again.

    A repetition has its own price and time; some come within the span of dedupe, some behind it.
    """
    dice = random.Random(seed)
    for number in range(bids):
        again = dice.choice((3, 40, 900, 2_500)) if dice.random() < 0.08 else 0
        yield (
            "bids",
            {
                "seq": number,
                "id": max(0, number - again),
                "auction": f"a{dice.randrange(60)}",
                "price": round(dice.random() * 100, 3),
                "who": f"u{dice.randrange(97)}",
                "at": BEGIN + number * STEP_US + dice.randrange(JITTER_US),
            },
        )
        if number % FLOOR_EVERY == 0:
            # No two at one moment: multiples of 10 ms, told apart by their number.
            at = BEGIN + number * STEP_US + dice.randrange(JITTER_US // 10_000) * 10_000 + number // FLOOR_EVERY % 9_973
            yield (
                "floors",
                {"seq": number, "auction": f"a{dice.randrange(60)}", "floor": round(dice.random() * 60, 3), "at": at},
            )


def _chained() -> dict[str, Any]:
    bids = sp.source("bids", contract="bid.v1", lateness=LATENESS)
    floors = sp.source("floors", contract="floor.v1", lateness=LATENESS) | sp.key_by("auction")
    once = bids | sp.ordered(by="seq") | sp.dedupe("id", within=f"{DEDUPE_US}us")
    by_auction = once | sp.key_by("auction") | sp.ordered(by="seq")
    checked = by_auction | sp.as_of(floors | sp.ordered(by="seq"), max_age=f"{MAX_AGE_US}us", columns=("floor",))
    good = checked | sp.where(pl.col("price") >= pl.col("floor"))
    return {
        "checked": checked,
        "spend": good
        | sp.key_by("who")
        | sp.ordered(by="seq")
        | sp.tumbling(f"{WINDOW_US}us", n=sp.count(), spend=sp.total("price"), top=sp.max("price")),
    }


def _flat() -> dict[str, Any]:
    bids = sp.source("bids", contract="bid.v1", lateness=LATENESS)
    return {
        "passed": bids | sp.where(pl.col("price") >= 10.0),
        "once": bids | sp.dedupe("id", within=f"{DEDUPE_US}us"),
        "counted": bids
        | sp.key_by("auction")
        | sp.tumbling(f"{WINDOW_US}us", n=sp.count(), spend=sp.total("price"), top=sp.max("price")),
    }


def chain(commit: str = "200ms") -> Topology:
    """Dedupe by id, join with the auction's floor price, windows per bidder: four stages, all below `ordered`."""
    return sp.Topology("chain", commit=commit, sinks=_chained())


def flat(commit: str = "200ms") -> Topology:
    """The same bids in order of arrival: passed on, counted per auction and window, and once per id."""
    return sp.Topology("flat", commit=commit, sinks=_flat())


def both(commit: str = "200ms") -> Topology:
    """Both at once, reading the same bids."""
    return sp.Topology("both", commit=commit, sinks=_chained() | _flat())


TOPOLOGIES = {"chain": chain, "flat": flat, "both": both}
ORDERED, UNORDERED = ("checked", "spend"), ("passed", "once", "counted")
SINKS = {
    name: tuple(f"{name}.{sink}" for sink in sinks)
    for name, sinks in {"chain": ORDERED, "flat": UNORDERED, "both": ORDERED + UNORDERED}.items()
}
