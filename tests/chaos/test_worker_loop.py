"""The worker's loop where things go wrong or there is nothing to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import auction
import polars as pl
import pytest
from child import step_sizes
from killing import FAR

import streamproc as sp
from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.errors import ForeignFingerprint, StepFailed, StreamprocError
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicPartition, TopicSettings
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.replay import recorded_sums, source_ends
from streamproc.runtime.restore import restore_task
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing.memory_log import MemoryLog


def simple(price: float = 0.0, *, key: str = "", idle_after: str | None = None) -> Topology:
    """The bids above a price, in order: one stage, or with a key two."""
    bids = sp.source("bids", contract="bid.v1", lateness="20ms", idle_after=idle_after)
    dear = bids | sp.where(pl.col("price") > price)
    dear = (dear | sp.key_by(key) if key else dear) | sp.ordered(by=("id", "auction"))
    return sp.Topology("simple", sinks={"dear": dear}, commit="10ms")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    with EmbeddedLog(tmp_path / "log.db") as opened:
        yield opened


def bound(log: Log, topology: Topology, *, partitions: int = 1, rows: int = 500) -> Binding:
    """The topology on a log with so many rows."""
    known = auction.registry()
    auction.create(log, bids=partitions)
    if rows:
        auction.append(log, known, 0, rows)
    return bind(topology, log, known)


def ends_after(binding: Binding, log: Log, commits: int, store: DirectoryCheckpoints | None = None) -> Worker:
    """A worker that is stopped after so many commits of 100 units."""
    worker = Worker(
        binding, log, checkpoints=store, until_end=source_ends(binding, log), steps=step_sizes(1, (100, 100))
    )
    left = iter(range(commits - 1))
    worker.on_commit = lambda _: None if next(left, None) is not None else worker.stop()
    return worker


def test_a_restore_without_checkpoints_after_the_first_commit_starts_where_the_task_started(log: EmbeddedLog) -> None:
    binding = bound(log, simple())
    ends_after(binding, log, 1).run()
    restored = restore_task(binding, 0, log, None)
    assert restored.steps == 1
    assert restored.task.offsets == {TopicPartition("bids", 0): 100}
    assert verify(binding, log).findings == []


def test_a_changed_topology_refuses_the_journal_and_says_what_to_do(log: EmbeddedLog) -> None:
    ends_after(bound(log, simple()), log, 1).run()
    changed = bind(simple(price=50.0), log, auction.registry())
    with pytest.raises(ForeignFingerprint, match=r"another logic.*version="):
        Worker(changed, log, until_end=source_ends(changed, log)).run()


def test_a_changed_number_of_partitions_of_a_source_is_refused_by_name() -> None:
    log = MemoryLog(now=FAR)
    ends_after(bound(log, simple(), rows=200), log, 1).run()
    log.delete_topic("bids")
    log.create_topic("bids", TopicSettings(2))
    with pytest.raises(StreamprocError, match=r"bids|tasks"):
        again = bind(simple(), log, auction.registry())
        Worker(again, log, until_end=source_ends(again, log)).run()


class Broken(Exception):
    """What the user's function raises."""


def test_a_step_that_raises_is_named_and_leaves_nothing_and_no_checkpoint(tmp_path: Path, log: EmbeddedLog) -> None:
    angry = False

    def twice(frame: pl.DataFrame) -> pl.DataFrame:
        if angry and frame.height and int(frame["id"].max() or 0) > 250:
            raise Broken
        return pl.DataFrame({"twice": frame["id"] * 2})

    bids = sp.source("bids", contract="bid.v1", lateness="20ms") | sp.stateless(twice, reads=("id",))
    binding = bound(log, sp.Topology("simple", sinks={"twice": bids | sp.ordered(by=("id", "auction"))}, commit="10ms"))
    angry = True
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    with pytest.raises(StepFailed, match=r"step .* raised Broken.*test_worker_loop.py line"):
        ends_after(binding, log, 9, store).run()
    assert verify(binding, log).findings == []
    restored = restore_task(binding, 0, log, store)
    assert restored.task.offsets[TopicPartition("bids", 0)] == 200
    assert [manifest.step for manifest in store.manifests(restored.task.name)] in ([], [2])
    angry = False
    Worker(binding, log, until_end=source_ends(binding, log), close=True).run()
    assert recorded_sums(binding, log)["simple.twice"].rows > 400


def test_empty_topics_end_at_once_and_a_silent_partition_holds_nobody_when_time_is_closed(log: EmbeddedLog) -> None:
    binding = bound(log, simple(), rows=0)
    assert Worker(binding, log, until_end=source_ends(binding, log)).run().units == 0
    wide = bound(EmbeddedLog(log.path.parent / "wide.db"), simple(), partitions=16, rows=10)
    with EmbeddedLog(log.path.parent / "wide.db") as other:
        Worker(wide, other, until_end=source_ends(wide, other), close=True).run()
        assert verify(wide, other).findings == []
        assert recorded_sums(wide, other)["simple.dear"].rows > 5


def test_rows_that_come_while_it_runs_are_for_the_next_finite_run(log: EmbeddedLog) -> None:
    binding = bound(log, simple(), rows=300)
    worker = Worker(binding, log, until_end=source_ends(binding, log), steps=step_sizes(1, (100, 100)))
    grown = iter([True])
    worker.on_commit = lambda _: auction.append(log, auction.registry(), 300, 300) if next(grown, False) else None
    assert worker.run().units == 301
    assert Worker(binding, log, until_end=source_ends(binding, log), close=True).run().units == 301
    assert verify(binding, log).findings == []


def test_a_partition_that_is_silent_for_long_lets_time_move_on(log: EmbeddedLog) -> None:
    binding = bound(log, simple(key="who", idle_after="100ms"), partitions=2, rows=0)
    only = auction.bids(0, 500).filter(pl.col("who") == "u1")
    auction.produce_frame(log, only, "bids", contract=auction.BID, schema_id=auction.registry().adopt(auction.BID))
    worker = Worker(binding, log)
    deadline = time.monotonic() + 20

    def stop_when_written(_: object) -> None:
        if worker.progress.written.get("simple.dear") or time.monotonic() > deadline:
            worker.stop()

    worker.on_commit = stop_when_written
    worker.run()
    assert worker.progress.written["simple.dear"] > 0
    assert verify(binding, log).findings == []
    with EmbeddedLog(log.path.parent / "patient.db") as other:
        patient = bound(other, simple(key="who"), partitions=2, rows=0)
        auction.produce_frame(
            other, only, "bids", contract=auction.BID, schema_id=auction.registry().adopt(auction.BID)
        )
        Worker(patient, other, until_end=source_ends(patient, other)).run()
        assert "simple.dear" not in recorded_sums(patient, other), "without it time waits"
