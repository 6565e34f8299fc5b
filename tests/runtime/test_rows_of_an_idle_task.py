"""A task that falls silent keeps nobody's rows: what waits in it for time goes on before the others' time passes it."""

from __future__ import annotations

import polars as pl
import pytest
from told_clock import Told

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import replay_as_recorded
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame

CALL = parse_contract(
    """{"type": "record", "name": "call", "sp:version": 1, "fields": [
    {"name": "who", "type": "string", "sp:role": "key"}, {"name": "n", "type": "long"},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}"""
)
SECOND = 1_000_000


def met(*, lateness: str) -> sp.Topology:
    """Each partition is brought into order by a task of its own; behind a change of key they meet."""
    calls = sp.source("calls", contract=CALL, lateness=lateness, idle_after="2s") | sp.ordered("n", name="in_order")
    return sp.Topology("met", sinks={"out": calls | sp.key_by("n") | sp.ordered("n")}, commit="5ms")


class Live:
    """A live worker, turn by turn."""

    def __init__(self, topology: sp.Topology) -> None:
        self.log, self.registry, self.clock = MemoryLog(now=2**60), MemoryRegistry([CALL]), Told()
        self.log.create_topic("calls", TopicSettings(2))
        self.binding = bind(topology, self.log, self.registry)
        self.worker = Worker(self.binding, self.log, clock=self.clock)
        self.worker.open()

    def write(self, who: str, *seconds: int) -> None:
        frame = pl.DataFrame({"who": [who] * len(seconds), "n": seconds, "at": [at * SECOND for at in seconds]})
        append_frame(self.log, self.registry, "calls", CALL, frame)

    def pass_time(self, seconds: int) -> None:
        """So many seconds, a turn or two in each."""
        for _ in range(2 * seconds + 8):
            self.worker.turn()
            self.clock.seconds += seconds / (2 * seconds + 8)

    @property
    def out(self) -> list[int]:
        return sorted(read_topic(self.log, self.registry, "met.out", {"n": pl.Int64})["n"].to_list())

    @property
    def late(self) -> int:
        return self.log.end_offset(TopicPartition("met.late", 0))


@pytest.mark.parametrize("lateness", ["0s", "10s"])
def test_what_waits_in_a_task_that_fell_silent_is_not_overtaken(lateness: str) -> None:
    live = Live(met(lateness=lateness))
    live.write("rare", 1, 3, 5)
    live.write("ann", 0, 2, 4)
    live.pass_time(30)
    live.write("ann", *range(6, 100))
    live.pass_time(30)
    live.write("rare", 100, 200)
    live.write("ann", 101, 200)
    live.pass_time(30)
    assert live.late == 0
    # The newest rows went on too: nothing was waited for any more.
    assert live.out == [*range(100), 100, 101, 200, 200]
    assert replay_as_recorded(live.binding, live.log).sums["met.out"].rows == len(live.out)


def test_a_silence_shorter_than_the_lateness_makes_no_row_late() -> None:
    live = Live(met(lateness="10s"))
    live.write("rare", 5)
    live.write("ann", 4)
    live.pass_time(4)
    live.write("ann", *range(20, 40))
    live.pass_time(4)
    assert live.out == []
    live.write("rare", 0, 1)
    live.write("ann", 41)
    live.pass_time(30)
    assert (live.late, live.out) == (0, [0, 1, 4, 5, *range(20, 40), 41])


def test_what_is_older_than_the_newest_row_is_late_once_nothing_is_waited_for() -> None:
    live = Live(met(lateness="10s"))
    live.write("rare", 5)
    live.write("ann", 4)
    live.pass_time(30)
    live.write("rare", 1, 6)
    live.pass_time(30)
    assert (live.late, live.out) == (1, [4, 5, 6])
