"""Records whose schema nobody knows when they are read: the verdict stands in the journal, whatever is known later."""

from __future__ import annotations

import polars as pl

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicSettings
from streamproc.runtime.binding import bind
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
