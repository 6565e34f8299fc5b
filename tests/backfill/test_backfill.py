"""A backfill covers what it was begun over, goes on after any death with the same bytes, and touches nothing live."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dying_log import DyingLog, Killed
from orders import SINKS, append, opened, orders, registry, rows_of, run, topology

from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.errors import InputError
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.backfill import Backfill, Span, backfill_worker, drop_backfill, open_backfill
from streamproc.runtime.binding import bind, plan_topology
from streamproc.runtime.offsets import source_places
from streamproc.runtime.replay import recorded_sums, replay_as_recorded
from streamproc.runtime.since_event import first_offsets
from streamproc.runtime.verify import verify

HERE = Path(__file__).parent


def filled(folder: Path, rows: int = 300) -> EmbeddedLog:
    """A log with so many orders on two partitions."""
    folder.mkdir(exist_ok=True)
    log = opened(folder)
    append(log, 0, rows)
    return log


def backfilled(log: Any, store: DirectoryCheckpoints | None = None, span: Span | None = None) -> Backfill:
    """A finished backfill with id `b`, in steps of 30 units."""
    opened_one = open_backfill(topology(), log, registry(), "b", span, checkpoints=store)
    backfill_worker(opened_one, checkpoints=store, checkpoint_every_s=0.0, step_units=30).run()
    return opened_one


def bytes_of(log: Log, backfill: Backfill) -> dict[str, list[bytes | None]]:
    """Every record of every sink, in order."""
    out: dict[str, list[bytes | None]] = {}
    for sink in backfill.binding.plan.sinks:
        for partition in range(log.topics()[sink.topic].partitions):
            place = TopicPartition(sink.topic, partition)
            at, end = 0, log.end_offset(place)
            values = out.setdefault(f"{sink.topic}-{partition}", [])
            while at < end:
                block = log.read(place, at)
                values += [block.value(row) for row in range(len(block))]
                at = int(block.offsets[-1]) + 1
    return out


def test_a_backfill_gives_the_rows_of_a_live_run_in_topics_of_its_own(tmp_path: Path) -> None:
    log = filled(tmp_path)
    run(log, topology(), None, close=True)
    before = {t: [log.end_offset(TopicPartition(t, p)) for p in range(s.partitions)] for t, s in log.topics().items()}
    groups = {group: log.committed(group) for group in log.groups()}
    done = backfilled(log)
    for sink in SINKS:
        assert rows_of(log, f"shop.{sink}.v1.b").equals(rows_of(log, f"shop.{sink}"))
        assert done.frames()[sink].height == rows_of(log, f"shop.{sink}").height > 0
    for topic, ends in before.items():
        assert [log.end_offset(TopicPartition(topic, p)) for p in range(len(ends))] == ends
    assert {group: log.committed(group) for group in groups} == groups
    assert all(".b" in group for group in set(log.groups()) - set(groups))
    assert verify(done.binding, log).findings == []
    assert replay_as_recorded(done.binding, log).sums == recorded_sums(done.binding, log)
    log.close()


@pytest.mark.parametrize("most", [16, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_backfill_that_died_at_any_call_goes_on_and_leaves_the_same_bytes(tmp_path: Path, most: int) -> None:
    calm = filled(tmp_path / "calm")
    expected = bytes_of(calm, backfilled(calm, DirectoryCheckpoints(tmp_path / "calm" / "checkpoints")))
    assert sum(map(len, expected.values())) > 100
    counting = DyingLog(filled(tmp_path / "counted"), 1 << 60)
    backfilled(counting, DirectoryCheckpoints(tmp_path / "counted" / "checkpoints"))
    deaths = 0
    base = filled(tmp_path / "base")
    base.close()
    for at in range(3, counting.calls, max(1, counting.calls // most)):
        folder = tmp_path / f"at{at}"
        shutil.copytree(tmp_path / "base", folder)
        store = DirectoryCheckpoints(folder / "checkpoints")
        log = opened(folder)
        with pytest.raises(Killed):
            backfilled(DyingLog(log, at, after=at % 2 == 1), store)
        log.close()
        log = opened(folder)
        again = backfilled(log, store)
        assert bytes_of(log, again) == expected, at
        assert verify(again.binding, log).findings == []
        deaths += 1
        log.close()
        shutil.rmtree(folder)
    assert deaths >= 15
    calm.close()


def test_a_backfill_killed_for_real_goes_on_and_leaves_the_same_bytes(tmp_path: Path) -> None:
    calm = filled(tmp_path / "calm", 4_000)
    expected = bytes_of(calm, backfilled(calm))
    calm.close()
    filled(tmp_path / "killed", 4_000).close()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE.parents[1]), str(HERE.parent / "upgrade")))}
    kills = 0
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, str(HERE / "run_backfill.py"), str(tmp_path / "killed")],
            env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        for _ in range(12 + 9 * kills):
            child.stdout.readline()
        time.sleep(0.01 * kills)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        kills += child.returncode == -signal.SIGKILL
    assert kills >= 2
    log = opened(tmp_path / "killed")
    assert bytes_of(log, backfilled(log)) == expected
    log.close()


def test_a_backfill_covers_offsets_and_rows_that_come_later_are_not_its_business(tmp_path: Path) -> None:
    log = filled(tmp_path, 200)
    places = source_places(plan_topology(topology(), registry()), log)
    ends = {place: log.end_offset(place) for place in places}
    append(log, 200, 100)
    span = Span(dict.fromkeys(places, 20), ends)
    done = backfilled(log, span=span)
    kept = []
    for place in places:
        at = 20
        while at < ends[place]:
            block = log.read(place, at, max_records=ends[place] - at)
            kept.append(len(block))
            at = int(block.offsets[-1]) + 1
    fates = recorded_sums(done.binding, log)
    assert sum(kept) == 160
    assert fates["shop.good.v1.b"].rows < 160
    ids = rows_of(log, "shop.good.v1.b")["id"]
    assert ids.max() < 200
    append(log, 300, 50)
    again = backfilled(log, span=span)
    assert recorded_sums(again.binding, log) == fates
    log.close()


def test_an_id_stands_for_one_piece_of_history(tmp_path: Path) -> None:
    log = filled(tmp_path)
    first = backfilled(log)
    append(log, 300, 100)
    assert backfilled(log).span == first.span, "without bounds it goes on over what it was begun over"
    places = source_places(plan_topology(topology(), registry()), log)
    other = Span(dict.fromkeys(places, 0), {place: log.end_offset(place) for place in places})
    with pytest.raises(InputError, match=r"was begun over another piece of history: orders:0 from 0 to .*another --id"):
        open_backfill(topology(), log, registry(), "b", other)
    for wrong in ("shadow", "B", "s0", "a.b", "tasks"):
        with pytest.raises(InputError, match="cannot be the id of a replay"):
            open_backfill(topology(), log, registry(), wrong)
    log.close()


def test_a_backfill_since_an_event_time_leaves_out_what_happened_before(tmp_path: Path) -> None:
    log = filled(tmp_path)
    plan = plan_topology(topology(), registry())
    moment = 150 * 1_000_000
    places = source_places(plan, log)
    span = Span(
        first_offsets(plan, log, moment), {place: log.end_offset(place) for place in places}, since_event_us=moment
    )
    backfilled(log, span=span)
    expected = orders(0, 300).filter((pl.col("amount") > 30) & (pl.col("at") >= moment))["id"].sort()
    assert rows_of(log, "shop.good.v1.b")["id"].to_list() == expected.to_list()
    again = backfilled(log)
    assert again.span.since_event_us == moment
    log.close()


def test_a_dropped_backfill_leaves_nothing(tmp_path: Path) -> None:
    log = filled(tmp_path)
    bind(topology(), log, registry())
    before = set(log.topics())
    done = backfilled(log)
    assert set(log.topics()) - before == set(drop_backfill(done))
    assert set(log.topics()) == before
    log.close()
