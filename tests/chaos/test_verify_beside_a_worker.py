"""`verify` of a topology that works meanwhile: what moves under its hands is no finding, what is wrong still is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import auction
import polars as pl
import pytest
from child import step_sizes

import streamproc as sp
from connectors.embedded import EmbeddedLog
from streamproc.ports import Block, TopicPartition
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame

JOURNAL, SINK = TopicPartition("simple.v1.tasks", 0), "simple.dear"


class Watched(EmbeddedLog):
    """A log that calls somebody once, when the sink is read for the first time."""

    meanwhile: Callable[[], None] | None = None

    def read(
        self, partition: TopicPartition, offset: int, *, max_records: int = 65_536, max_bytes: int = 16 << 20
    ) -> Block:
        """Records from an offset on."""
        if partition.topic == SINK and (then := self.meanwhile) is not None:
            self.meanwhile = None
            then()
        return super().read(partition, offset, max_records=max_records, max_bytes=max_bytes)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Watched]:
    with Watched(tmp_path / "log.db") as opened:
        yield opened


def worked(log: Watched, first: int, rows: int, *, step: int) -> Binding:
    """The topology after a worker took in more bids, so many in a step."""
    known = auction.registry()
    if not first:
        auction.create(log, bids=1)
    auction.append(log, known, first, rows)
    bids = sp.source("bids", contract="bid.v1", lateness="20ms")
    dear = bids | sp.where(pl.col("price") > 0) | sp.ordered(by=("id", "auction"))
    binding = bind(sp.Topology("simple", sinks={"dear": dear}, commit="10ms"), log, known)
    Worker(binding, log, until_end=source_ends(binding, log), steps=step_sizes(1, (step, step))).run()
    return binding


def test_a_journal_that_its_owner_trims_meanwhile_is_verified_as_far_as_it_is_kept(log: Watched) -> None:
    binding = worked(log, 0, 300, step=1)
    seen: list[int] = []

    def on_step(step: int) -> None:
        seen.append(step)
        if step == 5:
            worked(log, 300, 20, step=1)
            log.delete_records(JOURNAL, 290)

    assert verify(binding, log, on_step=on_step).findings == []
    # A journal is read 256 entries at a time; of those that were there at the start, some went before it came to them.
    assert 256 < len(seen) < 299


def test_rows_that_are_written_while_they_are_counted_are_no_finding(log: Watched) -> None:
    binding = worked(log, 0, 200, step=100)
    log.meanwhile = lambda: worked(log, 200, 200, step=100)  # type: ignore[assignment, return-value]
    report = verify(binding, log)
    assert report.findings == []
    assert log.meanwhile is None
    assert verify(binding, log).rows > 300


def test_rows_that_nobody_wrote_are_found_beside_a_worker_too(log: Watched) -> None:
    binding = worked(log, 0, 200, step=100)
    topology = binding.plan.sinks[0].contract
    rows = auction.bids(0, 1)
    append_frame(log, binding.registry, SINK, topology, rows.select(topology.schema.names))
    assert [finding.place for finding in verify(binding, log).findings] == [SINK]
