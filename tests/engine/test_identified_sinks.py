"""Records that somebody acts on carry an id that a run again, however cut and on however many workers, gives again."""

from __future__ import annotations

import numpy as np
import polars as pl

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame

TICK = parse_contract(
    """{"type": "record", "name": "tick", "sp:version": 1, "fields": [
    {"name": "who", "type": "string", "sp:role": "key"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}"""
)
TICKS = sp.source("ticks", contract=TICK)
WINDOWS = TICKS | sp.key_by("who") | sp.tumbling("10us", n=sp.count())


def identities(topology: sp.Topology, sink: str, *, cuts: list[int], rows: int = 200) -> list[tuple[bytes, bytes]]:
    """(id, value) of each record of a sink, sorted, after a run in steps of these sizes."""
    log, registry = MemoryLog(now=2**60), MemoryRegistry([TICK])
    log.create_topic("ticks", TopicSettings(2))
    frame = pl.DataFrame({"who": [f"k{i % 7}" for i in range(rows)], "at": list(range(rows))})
    append_frame(log, registry, "ticks", TICK, frame)
    binding = bind(topology, log, registry)
    Worker(binding, log, until_end=source_ends(binding, log), close=True, in_stages=True, steps=iter(cuts)).run()
    found: list[tuple[bytes, bytes]] = []
    for partition in range(binding.partitions[f"{topology.name}.{sink}"]):
        place, at = TopicPartition(f"{topology.name}.{sink}", partition), 0
        while len(block := log.read(place, at)):
            for row in range(len(block)):
                header = block.header(row, "sp")
                assert header is not None
                assert len(header) == 32
                found.append((header[:16], block.value(row) or b""))
            at = int(block.offsets[-1]) + 1
    return sorted(found)


def test_every_row_has_an_id_of_its_own_and_the_cut_does_not_change_it() -> None:
    topology = sp.Topology("told", sinks={"windows": sp.sink(WINDOWS, identified=True)})
    whole = identities(topology, "windows", cuts=[10_000])
    assert len(whole) > 100
    assert len({identity for identity, _ in whole}) == len(whole)
    assert identities(topology, "windows", cuts=[3] * 500) == whole


def test_an_exploded_row_gives_as_many_ids_as_rows() -> None:
    lists = TICKS | sp.with_columns(part=pl.concat_list(pl.col("at"), pl.col("at"))) | sp.explode("part")
    topology = sp.Topology("told", sinks={"parts": sp.sink(lists, identified=True)})
    found = identities(topology, "parts", cuts=[10_000], rows=20)
    assert len(found) == 40
    assert len({identity for identity, _ in found}) == 40


def test_two_sinks_and_two_topologies_give_ids_of_their_own_and_bulk_sinks_none() -> None:
    sinks = {"windows": sp.sink(WINDOWS, identified=True), "plain": sp.sink(TICKS, contract=TICK, identified=True)}
    one, other = sp.Topology("one", sinks=sinks), sp.Topology("other", sinks=sinks)
    ids = [{i for i, _ in identities(t, s, cuts=[99])} for t in (one, other) for s in sinks]
    assert len(set.union(*ids)) == sum(map(len, ids))
    log, registry = MemoryLog(now=2**60), MemoryRegistry([TICK])
    log.create_topic("ticks", TopicSettings(1))
    append_frame(log, registry, "ticks", TICK, pl.DataFrame({"who": ["a"], "at": [1]}))
    binding = bind(sp.Topology("bulk", sinks={"plain": sp.sink(TICKS, contract=TICK)}), log, registry)
    Worker(binding, log, until_end=source_ends(binding, log)).run()
    block = log.read(TopicPartition("bulk.plain", 0), 0)
    assert np.array_equal(block.offsets, [0])
    assert block.headers == ()
