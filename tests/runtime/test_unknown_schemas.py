"""Records whose schema nobody knows when they are read: the verdict stands in the journal, whatever is known later."""

from __future__ import annotations

import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicSettings, block_of
from streamproc.runtime.binding import bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import replay_as_recorded, source_ends
from streamproc.runtime.restore import restore_task
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame
from streamproc.testing.drive import driven
from streamproc.testing.memory_log import MemoryLog


def pay(version: int, more: str = "") -> Contract:
    moment = '{"type": "long", "logicalType": "timestamp-micros"}'
    return parse_contract(
        f'{{"type": "record", "name": "pay", "sp:version": {version}, "fields": ['
        '{"name": "card", "type": "string", "sp:role": "key"},'
        f' {{"name": "at", "type": {moment}, "sp:role": "event_time"}}{more}]}}'
    )


OLD, NEW = pay(1), pay(2, ', {"name": "note", "type": "string", "default": ""}')


def test_a_schema_that_is_registered_after_the_run_changes_nothing_of_what_is_run_again() -> None:
    log = MemoryLog(now=1_000_000)
    log.create_topic("pays", TopicSettings())
    before, after = MemoryRegistry([OLD]), MemoryRegistry([OLD, NEW])
    for part in range(4):
        contract = NEW if part % 2 else OLD
        rows = pl.DataFrame({"card": ["a", "b", "c"], "at": [10 * part, 10 * part + 1, 10 * part + 2], "note": "x"})
        append_frame(log, after, "pays", contract, rows.select(contract.schema.names))
    topology = sp.Topology("cards", sinks={"all": sp.source("pays", contract="pay.v1")})
    then = bind(topology, log, before)
    progress = Worker(then, log, until_end=source_ends(then, log), steps=iter([2, 2, 3] * 10)).run()
    made = driven(then, log, before, progress)
    assert made.fates("pays")["dead_lettered"] == 6
    assert set(made.dead_letters["reason"]) == {"unknown schema"}

    now = bind(topology, log, after)
    assert restore_task(now, 0, log, None).steps == progress.steps
    assert replay_as_recorded(now, log).steps == progress.steps


def test_who_reads_a_topic_as_rows_is_told_what_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Also of known contracts, where the bytes are none of theirs; a null is a deletion, and nothing is missing."""
    log, both = MemoryLog(now=1_000_000), MemoryRegistry([OLD, NEW])
    log.create_topic("pays", TopicSettings())
    rows = pl.DataFrame({"card": ["a", "b", "c"], "at": [1, 2, 3], "note": "x"})
    append_frame(log, both, "pays", OLD, rows.select(OLD.schema.names))
    append_frame(log, both, "pays", NEW, rows)
    transaction = log.producer("others").begin()
    transaction.append(block_of("pays", 0, [None, b"\x00\x00\x00\x00\x01", b"no frame", None]))
    transaction.commit()
    found = read_topic(log, MemoryRegistry([OLD]), "pays")
    assert found["_offset"].to_list() == [0, 1, 2]
    assert caplog.messages == ["left out 5 records of pays-0 from offset 0 on: no rows of a known contract"]
    caplog.clear()
    assert read_topic(log, both, "pays").height == 6
    assert caplog.messages == ["left out 2 records of pays-0 from offset 0 on: no rows of a known contract"]
