"""Every record has one fate at every step: in = emitted + held + late + filtered + dead-lettered."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.engine.ledger import Ledger, StepFates
from streamproc.graph import Stream
from streamproc.ports import TopicSettings, block_of
from streamproc.runtime.binding import bind
from streamproc.runtime.task import Task
from streamproc.testing import MemoryLog, append_frame, drive

EVENT = parse_contract(
    """{"type": "record", "name": "event", "sp:version": 1, "fields": [{"name": "n", "type": "long"},
    {"name": "items", "type": {"type": "array", "items": "long"}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""
)
FATES = ("emitted", "held", "filtered", "late", "dead_lettered")


def counted(stream: Stream | dict[str, Stream], frame: pl.DataFrame, *, size: int = 100) -> list[dict[str, int]]:
    """The fates of the source after each step of `size` records."""
    log, registry = MemoryLog(now=2**60), MemoryRegistry([EVENT])
    log.create_topic("event", TopicSettings(1))
    append_frame(log, registry, "event", EVENT, frame)
    sinks = stream if isinstance(stream, dict) else {"o": stream}
    binding = bind(sp.Topology("t", sinks=sinks), log, registry)
    task, out = Task(binding, 0, log), []
    ends = {channel.place: log.end_offset(channel.place) for channel in task.channels}
    read = 0
    while not task.ended(ends):
        units, runs = task.choose(ends, most=size)
        fates = dict(task.run(units, runs).entry.fates["event"])
        read += int(runs[:, 1].sum())
        assert fates.pop("in") == read == sum(fates.values())
        out.append(fates)
    units, runs = task.choose(ends, most=size)
    fates = dict(task.run(units, runs, marks=task.close_marks()).entry.fates["event"])
    assert fates.pop("in") == read == sum(fates.values()) and fates["held"] == 0
    return [*out, fates]


def rows(*times: int, items: list[list[int]] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {"n": range(len(times)), "items": items or [[0, 1]] * len(times), "at": times},
        schema={"n": pl.Int64, "items": pl.List(pl.Int64), "at": pl.Int64},
    )


EVENTS = sp.source("event", contract=EVENT)


def test_a_row_of_many_is_held_until_the_last_of_them_goes() -> None:
    parts = EVENTS | sp.explode("items") | sp.ordered()
    seen = counted(parts, rows(1, 1, 2, 3), size=1)
    assert [fates["held"] for fates in seen] == [1, 2, 1, 1, 0]
    assert [fates["emitted"] for fates in seen] == [0, 0, 2, 3, 4]


def test_a_row_without_items_is_filtered() -> None:
    seen = counted(EVENTS | sp.explode("items") | sp.ordered(), rows(1, 2, 3, items=[[], [1], []]))
    assert seen[-1] == {"emitted": 1, "held": 0, "filtered": 2, "late": 0, "dead_lettered": 0}


def test_the_best_of_two_paths_counts() -> None:
    waits, goes = EVENTS | sp.ordered(), EVENTS | sp.where(pl.col("n") % 2 == 0)
    seen = counted({"waits": waits | sp.where(pl.col("n") == 1), "goes": goes}, rows(1, 2, 3, 4), size=1)
    # Rows 0 and 2 went at once; row 1 goes later, row 3 waits until the end and is filtered then.
    assert [fates["emitted"] for fates in seen] == [1, 1, 3, 3, 3]
    assert [fates["held"] for fates in seen] == [0, 1, 0, 1, 0]
    assert seen[-1]["filtered"] == 1


def test_a_row_that_is_late_on_one_path_and_leaves_on_another_was_emitted() -> None:
    slow = EVENTS | sp.key_by() | sp.tumbling("1us", n=sp.count())
    log_all = EVENTS | sp.where(pl.col("n") >= 0)
    made = drive(sp.Topology("t", sinks={"w": slow, "all": log_all}), event=rows(5, 1), contracts=(EVENT,))
    assert made.fates("event") == {"in": 2, "emitted": 2, "held": 0, "filtered": 0, "late": 0, "dead_lettered": 0}
    assert made.fates("key_by.s1")["late"] == 1 and made.late.height == 1


def test_a_row_that_waited_can_be_refused_much_later() -> None:
    late = EVENTS | sp.ordered() | sp.require(even=pl.col("n") % 2 == 0) | sp.ordered()
    seen = counted(late, rows(*range(10)), size=1)
    assert seen[-1] == {"emitted": 5, "held": 0, "filtered": 0, "late": 0, "dead_lettered": 5}
    assert [fates["dead_lettered"] for fates in seen] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]


def test_rows_that_came_too_late_for_the_second_input_of_a_join_are_late() -> None:
    left, right = (sp.source(topic, contract=EVENT) | sp.key_by() for topic in ("event", "other"))
    topology = sp.Topology("t", sinks={"o": left | sp.as_of(right)})
    made = drive(topology, event=rows(10, 11), other=rows(10, 3, 11), contracts=(EVENT,))
    assert made.fates("key_by_2.s2")["late"] == 1 and made.late.height == 1
    assert made.fates("key_by_2.s2")["in"] == 3


def test_records_that_cannot_be_read_are_counted_with_all_others() -> None:
    log, registry = MemoryLog(now=2**60), MemoryRegistry([EVENT])
    log.create_topic("event", TopicSettings(1))
    transaction = log.producer("p").begin()
    transaction.append(block_of("event", 0, [None, b"", b"\x01", b"\x00\x00\x00\x00\x63\x00"]))
    transaction.commit()
    append_frame(log, registry, "event", EVENT, rows(1, 2))
    binding = bind(sp.Topology("t", sinks={"o": EVENTS | sp.ordered()}), log, registry)
    task = Task(binding, 0, log)
    ends = {channel.place: 6 for channel in task.channels}
    entry = task.run(*task.choose(ends, most=10)).entry
    assert entry.fates["event"] == {
        "in": 6, "emitted": 1, "held": 1, "filtered": 0, "late": 0, "dead_lettered": 4
    }  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_ledger_equals_one_that_keeps_every_unit(data: st.DataObject) -> None:
    """Units come in steps; operators hold copies, release them, and say what became of units that they have."""
    ledger = Ledger(np.zeros((2, 5), np.int64))
    inputs: list[int] = []
    copies: dict[int, int] = {}
    best: dict[int, int] = {}
    said: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 5))):
        new = data.draw(st.lists(st.integers(0, 1), max_size=4))
        first = len(inputs)
        inputs += new
        step = StepFates(first, np.array(new, np.int64), np.ones(len(new), np.int64), 2)
        held: list[int] = []
        released: list[int] = []
        # Old copies may go, with a fate or without; what is not waiting is not heard of any more.
        for unit in [unit for unit, n in copies.items() if n]:
            going = data.draw(st.integers(0, copies[unit]))
            released += [unit] * going
            copies[unit] -= going
            if going and (fate := data.draw(st.sampled_from([None, 0, 2, 4]))) is not None:
                best[unit] = max(best.get(unit, -1), fate)
                {0: step.dead, 2: step.late, 4: step.emitted}[fate].append(np.array([unit]))
        for unit in range(first, len(inputs)):
            for fate in data.draw(st.lists(st.sampled_from([0, 2, 4]), max_size=2)):
                said[unit] = max(said.get(unit, -1), fate)
                {0: step.dead, 2: step.late, 4: step.emitted}[fate].append(np.array([unit, -1]))
            n = data.draw(st.integers(0, 2))
            held += [unit] * n
            copies[unit] = n
            if n:
                best[unit] = said.get(unit, -1)
        ledger = step.settle(ledger, [np.array(held, np.int64)] if held else [], [np.array(released, np.int64)])
        expected: dict[str, dict[str, int]] = {name: dict.fromkeys(FATES, 0) for name in ("a", "b")}
        for unit, number in enumerate(inputs):
            code = best.get(unit, said.get(unit, 1))
            code = 1 if code == -1 else code
            fate = {4: "emitted", 2: "late", 1: "filtered", 0: "dead_lettered"}[code]
            fate = "held" if copies.get(unit) and code != 4 else fate
            expected[("a", "b")[number]][fate] += 1
        summary: Any = ledger.summary(["a", "b"])
        assert {name: {fate: summary[name][fate] for fate in FATES} for name in ("a", "b")} == expected
        assert sum(summary[name]["in"] for name in ("a", "b")) == len(inputs)
        assert ledger.accounts.size == sum(n > 0 for n in copies.values())


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_end_of_it_does_not_depend_on_steps(size: int) -> None:
    parts = EVENTS | sp.explode("items") | sp.ordered() | sp.dedupe("items", within="2us", per="partition")
    sinks = {"parts": parts, "some": EVENTS | sp.require(small=pl.col("n") < 7)}
    seen = counted(sinks, rows(1, 5, 2, 9, 9, 10, 4, 12, 13, 20), size=size)
    assert seen[-1] == counted(sinks, rows(1, 5, 2, 9, 9, 10, 4, 12, 13, 20), size=2)[-1]
