"""Payments of accounts that merge and split, late and tied; and a worker that dies while rows are handed over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing.drive import Driven, driven, prepared
from streamproc.testing.naive_leaves import Link

PAYMENT = parse_contract("""{"type": "record", "name": "payment", "sp:version": 1, "fields": [
    {"name": "id", "type": "string"}, {"name": "account", "type": "string", "sp:role": "key"},
    {"name": "amount", "type": ["null", "double"], "default": null},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
LINK = parse_contract("""{"type": "record", "name": "link", "sp:version": 1, "fields": [
    {"name": "n", "type": "long"}, {"name": "account", "type": "string", "sp:role": "key"},
    {"name": "entity_id", "type": ["null", "string"], "default": null},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")

links = sp.source("links", contract=LINK, lateness="30us") | sp.key_by("account") | sp.ordered("n")
payments = sp.source("payments", contract=PAYMENT, lateness="30us") | sp.key_by("account") | sp.ordered("id")


def random_streams(seed: int, *, late: bool = False, rows: int = 160) -> dict[str, pl.DataFrame]:
    """Payments of a few accounts, and links that merge and split them, also several of one account at one moment."""
    random = np.random.default_rng(seed)
    at = np.sort(random.integers(0, 150, rows))
    back = random.integers(0, 60 if late else 15, rows) * (random.random(rows) < 0.3)
    order = np.argsort(at + back, kind="stable")
    amounts = random.choice([0.1, -0.1, 1e16, -1e16, 2.5, 7.0], rows)
    amount = [None if random.random() < 0.1 else float(amounts[i]) for i in order]
    accounts = [f"a{random.integers(7)}" for _ in range(rows)]
    paid = {
        "id": [f"p{i:04}" for i in random.permutation(rows)],
        "account": accounts,
        "amount": amount,
        "at": at[order],
    }
    count = rows // 3
    moments = np.sort(random.integers(0, 150, count))
    linked = {"n": np.arange(count), "account": [f"a{random.integers(7)}" for _ in range(count)],
              "entity_id": [None if random.random() < 0.2 else f"e{random.integers(4)}" for _ in range(count)],
              "at": moments}  # fmt: skip
    return {"payments": pl.DataFrame(paid), "links": pl.DataFrame(linked)}


def links_of(frames: dict[str, pl.DataFrame]) -> list[Link]:
    return [Link(account, entity, at) for _, account, entity, at in frames["links"].sort("at", "n").iter_rows()]


class Crash(Exception):
    """A worker dies."""


def crashing(random: np.random.Generator, after: int, most: int) -> Iterator[int]:
    for _ in range(after):
        yield int(random.integers(1, most))
    raise Crash


def crashed_on(topology: sp.Topology, frames: dict[str, pl.DataFrame], *, partitions: int) -> tuple[Driven, int, int]:
    """What a run gives whose worker dies every few steps; how often it died, and how often with rows handed over that
    nobody had taken in."""
    random = np.random.default_rng(partitions)
    registry = MemoryRegistry((PAYMENT, LINK))
    log = prepared(topology, frames, registry, partitions=partitions)
    binding = bind(topology, log, registry)
    crashes, between = 0, 0
    while True:
        worker = Worker(
            binding, log, until_end=source_ends(binding, log), close=True,
            steps=crashing(random, int(random.integers(3, 12)), 2 + 30 // partitions),
        )  # fmt: skip
        try:
            progress = worker.run()
            return driven(binding, log, registry, progress), crashes, between
        except Crash:
            crashes += 1
            between += in_flight(binding, log)


def in_flight(binding: Any, log: Any) -> bool:
    """Whether rows were handed over that nobody has taken in yet."""
    for stage in binding.stages:
        for edge in stage.edges:
            taken = log.committed(binding.names.group(edge.edge.to_stage))
            places = [place for place in taken if place.topic == edge.topic]
            if any(log.end_offset(place) > taken[place] for place in places):
                return True
    return False
