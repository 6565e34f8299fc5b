"""The contract, rows and topologies that the tests of upgrades and backfills share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import streamproc as sp
from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import Log, TopicPartition, TopicSettings
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame

ORDER = parse_contract(
    '{"type": "record", "name": "order", "sp:version": 1, "fields": ['
    '{"name": "id", "type": "long"}, {"name": "card", "type": "string", "sp:role": "key"},'
    '{"name": "shop", "type": "string"}, {"name": "amount", "type": "double"},'
    '{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)
SECOND = 1_000_000
SINKS = ("good", "plain", "shops", "spend")


def orders(first: int, count: int) -> pl.DataFrame:
    """Orders number `first` and on, a second apart and up to three seconds out of order; some are below zero."""
    ids = np.arange(first, first + count)
    return pl.DataFrame(
        {
            "id": ids,
            "card": [f"c{n * n % 7}" for n in ids.tolist()],
            "shop": [f"s{n * 5 % 3}" for n in ids.tolist()],
            "amount": (ids * 37 % 101 - 9).astype(np.float64),
            "at": (ids - ids * 11 % 4) * SECOND,
        }
    )


def topology(
    *,
    version: int = 1,
    dear: float = 30.0,
    least: float = 0.0,
    window: str = "10s",
    settings: dict[str, str] | None = None,
) -> sp.Topology:
    """Two changes of key, each with windows, below `ordered`; and dear orders, once as they come.

    `plain` hides nothing: a row that is read twice is there twice, where `dedupe` would take it out.
    """
    rows = sp.source("orders", contract=ORDER, lateness="5s")
    straight = rows | sp.where(pl.col("amount") > least) | sp.ordered(by=("id",)) | sp.dedupe("id", within="1m")
    return sp.Topology(
        "shop",
        version=version,
        sinks={
            "plain": rows | sp.where(pl.col("amount") > dear, name="plain"),
            "good": straight | sp.where(pl.col("amount") > dear, name="dear"),
            "spend": straight
            | sp.key_by("card")
            | sp.tumbling(window, name="spend", n=sp.count(), spend=sp.total("amount")),
            "shops": straight | sp.key_by("shop") | sp.session("4s", name="shops", n=sp.count(), low=sp.min("amount")),
        },
        settings=settings or {},
        commit="5ms",
    )


def opened(folder: Path, *, partitions: int = 2, **settings: Any) -> EmbeddedLog:
    """A log with the empty source."""
    log = EmbeddedLog(folder / "log.db")
    if "orders" not in log.topics():
        log.create_topic("orders", TopicSettings(partitions, **settings))
    return log


_REGISTRY = MemoryRegistry((ORDER,))


def registry() -> MemoryRegistry:
    """The contracts, and those that runs derived for their sinks."""
    return _REGISTRY


def append(log: Log, first: int, count: int) -> None:
    """Orders onto the source."""
    append_frame(log, registry(), "orders", ORDER, orders(first, count))


def run(
    log: Log,
    value: sp.Topology,
    store: DirectoryCheckpoints | None,
    *,
    close: bool = False,
    every_s: float = 1e9,
    step: int = 40,
) -> Binding:
    """A worker from where the last one stopped to the end of what is there."""
    binding = bind(value, log, registry())
    Worker(
        binding,
        log,
        checkpoints=store,
        until_end=source_ends(binding, log),
        close=close,
        checkpoint_every_s=every_s,
        steps=steps(step),
    ).run()
    return binding


def steps(size: int) -> Iterator[int]:
    return repeat(size)


def starts(log: Log, topic: str) -> list[int]:
    """The first offset of each partition."""
    return [log.start_offset(TopicPartition(topic, p)) for p in range(log.topics()[topic].partitions)]


def rows_of(log: Log, topic: str) -> pl.DataFrame:
    """All rows of a topic, sorted."""
    frame = read_topic(log, registry(), topic)
    places = [TopicPartition(topic, p) for p in range(log.topics()[topic].partitions)]
    assert frame.height == sum(log.end_offset(place) - log.start_offset(place) for place in places)
    frame = frame.drop("_partition", "_offset")
    return frame.sort(frame.columns) if frame.width else frame
