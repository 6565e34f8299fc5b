"""Another processor or library may give other bytes: the worker stops, or records both digests and goes on."""

from __future__ import annotations

import sys
from itertools import repeat
from types import ModuleType

import numba
import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import ReplayDiverged
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.replay import recorded_sums, replay_as_recorded, source_ends
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame

PRICE = parse_contract(
    """{"type": "record", "name": "price", "sp:version": 1, "fields": [{"name": "n", "type": "long"},
    {"name": "who", "type": "string", "sp:role": "key"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}"""
)
REGISTRY = MemoryRegistry([PRICE])

mathematics = ModuleType("mathematics")
"""A library that an author calls: no fingerprint of the logic sees into it."""
mathematics.third = 3.0  # type: ignore[attr-defined]
sys.modules["mathematics"] = mathematics


def divided(frame: pl.DataFrame) -> pl.DataFrame:
    """What the library gives."""
    return frame.select(part=pl.col("n") / mathematics.third)


def priced() -> sp.Topology:
    """Two stages: what the library gives is in the internal topic and in both sinks."""
    rows = sp.source("prices", contract=PRICE) | sp.stateless(divided, reads=("n",))
    spend = rows | sp.key_by() | sp.tumbling("4s", name="spend", n=sp.count(), parts=sp.total("part"))
    return sp.Topology("priced", sinks={"rows": rows, "spend": spend}, commit="5ms")


def append(log: MemoryLog, first: int, count: int) -> None:
    frame = pl.DataFrame({"n": range(first, first + count), "who": ["a"] * count})
    append_frame(log, REGISTRY, "prices", PRICE, frame.with_columns(at=pl.col("n") * 1_000_000))


def run(log: MemoryLog, *, accept: bool = False) -> Worker:
    binding = bind(priced(), log, REGISTRY)
    ends = source_ends(binding, log)
    worker = Worker(binding, log, until_end=ends, steps=repeat(5), accept_divergence=accept)
    worker.run()
    return worker


def recorded(log: MemoryLog, binding: Binding) -> list[list[object]]:
    """What was accepted, over all journals."""
    found: list[list[object]] = []
    for number in range(binding.task_count):
        place = TopicPartition(binding.names.tasks, number)
        for _, entry in journal_entries(log, place, 0, log.end_offset(place)):
            found += entry.head.get("accepted", ())
    return found


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog(now=2**60)
    log.create_topic("prices", TopicSettings())
    append(log, 0, 12)
    run(log)
    return log


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine, where the library divides otherwise."""
    monkeypatch.setattr(numba.config, "CPU_NAME", "another")
    monkeypatch.setattr(mathematics, "third", 3.000001)


def test_in_the_same_environment_nothing_is_accepted(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mathematics, "third", 3.000001)
    with pytest.raises(ReplayDiverged) as told:
        run(log, accept=True)
    assert "--accept-divergence" not in str(told.value)


def test_elsewhere_a_worker_stops_and_says_how_to_go_on(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch)
    with pytest.raises(ReplayDiverged, match=r"on another processor or with other libraries; .*--accept-divergence"):
        run(log)


def test_an_environment_that_gives_the_same_bytes_is_let_in(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CPU_NAME", "another")
    append(log, 12, 8)
    worker = run(log)
    assert worker.progress.restored_steps > 0
    assert recorded(log, worker.binding) == []


def test_accepted_once_both_digests_stay_in_the_journal_and_everybody_goes_on_by_it(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch)
    with monkeypatch.context() as quiet:
        quiet.setattr("logging.Logger.warning", lambda *_: None)
        worker = run(log, accept=True)
    binding = worker.binding
    accepted = recorded(log, binding)
    topics = {str(topic) for _, topic, _, _ in accepted}
    assert "priced.rows" in topics
    assert any(".edge." in topic for topic in topics), "an internal topic keeps what was written to it then"
    assert all(then != now for _, _, then, now in accepted)
    assert worker.progress.restored_steps > 0
    # Nobody has to say it again here; and the sums are those of the rows that lie in the topics.
    append(log, 12, 8)
    run(log)
    assert recorded(log, binding) == accepted
    assert verify(binding, log).findings == []
    report = replay_as_recorded(binding, log)
    assert report.accepted > 0
    assert report.sums == recorded_sums(binding, log)
    # Where it ran first, what came later is another's.
    monkeypatch.undo()
    with pytest.raises(ReplayDiverged):
        replay_as_recorded(binding, log)
