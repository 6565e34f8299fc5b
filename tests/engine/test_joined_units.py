"""Units that a step takes from several reads are what they were in each, in no more memory than their records."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.engine.intake import SourceIntake
from streamproc.engine.timeline import ROW
from streamproc.engine.units import INDEX, KIND, Units, joined_units
from streamproc.ports import Block, TopicPartition, TopicSettings, block_of
from streamproc.runtime.binding import bind
from streamproc.testing import MemoryLog, append_frame

PAY = parse_contract(
    """{"type": "record", "name": "pay", "sp:version": 1, "fields": [
    {"name": "card", "type": "string", "sp:role": "key"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""
)
ROWS = 5_000


def block_and_intake() -> tuple[Block, SourceIntake]:
    """One large block, whose every seventh record nobody can read, some of them null."""
    log, registry = MemoryLog(now=2**60), MemoryRegistry([PAY])
    log.create_topic("pays", TopicSettings())
    append_frame(log, registry, "pays", PAY, pl.DataFrame({"card": [f"c{n}" for n in range(ROWS)], "at": range(ROWS)}))
    good = log.read(TopicPartition("pays", 0), 0)
    values = [good.value(row) if row % 7 else None if row % 2 else b"rubbish %d" % row for row in range(ROWS)]
    keys = [good.key(row) if row % 3 else None for row in range(ROWS)]
    transaction = log.producer("mixed").begin()
    log.create_topic("mixed", TopicSettings())
    transaction.append(block_of("mixed", 0, values, keys=keys))
    transaction.commit()
    topology = sp.Topology("t", sinks={"out": sp.source("mixed", contract=PAY, lateness="1s")})
    binding = bind(topology, log, registry)
    intake = binding.stages[0].intakes[0]
    assert isinstance(intake, SourceIntake)
    return log.read(TopicPartition("mixed", 0), 0), intake


def told(units: Units) -> list[tuple[int, bytes | None, bytes | None, str | None, object]]:
    """Of each unit its kind, value, key, why it is bad, and its row as it is read and as it came."""
    out = []
    for unit, record in zip(units.units.tolist(), units.records.tolist(), strict=True):
        value, key = (
            None if low < 0 else units.buffer[low:high].tobytes() for low, high in (record[:2], record[2:])
        )
        row: object = None
        if unit[KIND] == ROW:
            assert units.raw is not None
            at = unit[INDEX]
            low, high = int(units.raw.starts[at]), int(units.raw.ends[at])
            row = (units.frame.row(at), units.raw.buffer[low:high].tobytes(), units.meta[at].tolist())
        out.append((unit[KIND], value, key, None if unit[KIND] == ROW else units.reasons[unit[INDEX]], row))
    return out


def test_units_of_several_slices_are_what_they_were_in_the_block() -> None:
    block, intake = block_and_intake()
    whole = told(intake.units(block))
    assert {kind for kind, *_ in whole} != {ROW}
    dice = np.random.default_rng(1)
    for _ in range(20):
        cuts = [0, *sorted(dice.integers(0, ROWS, 6).tolist()), ROWS]
        parts = [
            intake.units(block.slice(low, high)) for low, high in itertools.pairwise(cuts) if high > low
        ]
        inner = [part.slice(1, len(part)) if len(part) > 1 else part for part in parts]
        assert told(joined_units(parts)) == whole
        assert told(joined_units(inner)) == [unit for part in inner for unit in told(part)]


def test_joining_two_slices_copies_their_records_and_not_the_block() -> None:
    block, intake = block_and_intake()
    two = joined_units([intake.units(block.slice(10, 20)), intake.units(block.slice(20, 25))])
    assert two.buffer.size <= block.buffer.size // 100
