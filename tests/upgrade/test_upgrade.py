"""A new version goes on where the old one ended: no row twice, none missing, whatever dies on the way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dying_log import DyingLog, Killed
from orders import SINKS, append, opened, registry, rows_of, run, steps, topology

import streamproc as sp
from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.engine.compiled import SHADOW
from streamproc.errors import ForeignFingerprint, InputError, LogError
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import bind
from streamproc.runtime.control import Request, ask, create_control
from streamproc.runtime.drain import drain, drained_at, unfinished
from streamproc.runtime.replay import recorded_sums, replay_as_recorded, replay_by_event_time, source_ends
from streamproc.runtime.upgrade import REPLAY, older_versions, take_over
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog

EXPENSIVE = 60.0
ORDERED = ("ordered_2", "ordered_3", "ordered_4")
"""The steps that put rows into order again below a change of key."""


def half_run(folder: Path) -> EmbeddedLog:
    """Version 1 in the middle of its input: some rows are read, others lie in internal topics."""
    folder.mkdir(exist_ok=True)
    log = opened(folder)
    append(log, 0, 300)
    store = DirectoryCheckpoints(folder / "checkpoints")
    binding = bind(topology(), log, registry())
    worker = Worker(binding, log, checkpoints=store, until_end=source_ends(binding, log), steps=steps(25))
    left = iter(range(2))
    worker.on_commit = lambda _: None if next(left, None) is not None else worker.stop()
    worker.run()
    return log


def end(log: Any, store: DirectoryCheckpoints) -> dict[TopicPartition, int]:
    return dict(drain(bind(topology(), log, registry()), log, store))


def calm(log: Log, value: sp.Topology, until: dict[TopicPartition, int] | None = None) -> dict[str, pl.DataFrame]:
    """What one run of a version over the source would write, up to offsets and left open, or to the end and closed."""
    _, own, _ = replay_by_event_time(value, log, registry(), MemoryLog(now=1 << 60), ends=until, close=until is None)
    return {sink: rows_of(own, f"shop.{sink}") for sink in SINKS}


def less(whole: pl.DataFrame, part: pl.DataFrame) -> pl.DataFrame:
    """The rows of one frame without those of the other, which must all be there."""
    names = whole.columns
    both = pl.concat([whole.with_columns(_times=1), part.with_columns(_times=-1)])
    counts = both.group_by(names).agg(pl.col("_times").sum())
    assert counts["_times"].to_list() == [1 if times else 0 for times in counts["_times"]], "rows are distinct"
    return counts.filter(pl.col("_times") > 0).select(names).sort(names)


def require_old_below_and_new_above(log: EmbeddedLog, new: sp.Topology, at: dict[TopicPartition, int]) -> None:
    """Each sink holds what version 1 writes up to the cut, and what the new version writes beyond it."""
    first, second, whole = calm(log, topology(), at), calm(log, new, at), calm(log, new)
    for sink in SINKS:
        expected = pl.concat([first[sink], less(whole[sink], second[sink])])
        assert rows_of(log, f"shop.{sink}").equals(expected.sort(expected.columns)), sink


def test_a_drained_version_has_read_all_stages_to_one_place_and_checkpoints_stand_there(tmp_path: Path) -> None:
    log = half_run(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    binding = bind(topology(), log, registry())
    at = end(log, store)
    assert all(0 < offset < log.end_offset(place) for place, offset in at.items())
    assert drained_at(binding.names, log) == at
    assert unfinished(binding.names, log, at) == ""
    assert end(log, store) == at
    for sink, rows in calm(log, topology(), at).items():
        assert rows_of(log, f"shop.{sink}").equals(rows), sink
    assert verify(binding, log).findings == []
    log.close()


def test_equal_logic_takes_the_state_over_and_the_sinks_show_no_seam(tmp_path: Path) -> None:
    log = half_run(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    at = end(log, store)
    assert older_versions(topology(version=2), log) == [1]
    done = take_over(topology(version=2), log, registry(), store, old=1)
    assert (done.state, done.at, done.why) == ("reused", at, ())
    assert not any(f".{REPLAY}." in topic for topic in log.topics())
    run(log, topology(version=2), store, close=True)
    for sink, rows in calm(log, topology()).items():
        assert rows_of(log, f"shop.{sink}").equals(rows), sink
    live = bind(topology(version=2), log, registry())
    assert verify(live, log).findings == []
    assert replay_as_recorded(live, log, checkpoints=store).sums == recorded_sums(live, log)
    assert take_over(topology(version=2), log, registry(), store, old=1) == done
    log.close()


def test_a_changed_step_that_holds_nothing_keeps_the_state(tmp_path: Path) -> None:
    log = half_run(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    at = end(log, store)
    new = topology(version=2, dear=EXPENSIVE)
    assert take_over(new, log, registry(), store, old=1).state == "reused"
    run(log, new, store, close=True)
    require_old_below_and_new_above(log, new, at)
    log.close()


def test_another_state_is_computed_from_history_and_nothing_of_it_reaches_the_sinks(tmp_path: Path) -> None:
    log = half_run(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    at = end(log, store)
    new = topology(version=2, window="20s")
    done = take_over(new, log, registry(), store, old=1)
    assert (done.state, done.why) == ("replayed", ("what 'spend' holds differs",))
    run(log, new, store, close=True)
    require_old_below_and_new_above(log, new, at)
    log.close()


def test_a_shadow_runs_beside_and_takes_over_with_its_own_state(tmp_path: Path) -> None:
    log = half_run(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    new = topology(version=2, window="20s")
    shadow = bind(new, log, registry(), run=SHADOW)
    before = {sink: rows_of(log, f"shop.{sink}") for sink in SINKS}
    worker = Worker(shadow, log, checkpoints=store, until_end=source_ends(shadow, log), steps=steps(20))
    worker.on_commit = lambda _: worker.stop()
    worker.run()
    assert all(rows_of(log, f"shop.{sink}").equals(before[sink]) for sink in SINKS)
    at = end(log, store)
    assert take_over(new, log, registry(), store, old=1).state == "shadow"
    for sink, rows in calm(log, new, at).items():
        assert rows_of(log, f"shop.{sink}.v2").equals(rows), sink
    run(log, new, store, close=True)
    require_old_below_and_new_above(log, new, at)
    log.close()


def test_a_shadow_that_ran_ahead_cannot_take_over(tmp_path: Path) -> None:
    log = half_run(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    new = topology(version=2)
    shadow = bind(new, log, registry(), run=SHADOW)
    Worker(shadow, log, checkpoints=store, until_end=source_ends(shadow, log)).run()
    end(log, store)
    with pytest.raises(InputError, match="must not run ahead"):
        take_over(new, log, registry(), store, old=1)
    log.close()


def test_going_back_is_the_old_code_under_a_higher_version(tmp_path: Path) -> None:
    log = half_run(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    end(log, store)
    take_over(topology(version=2), log, registry(), store, old=1)
    worker = Worker(bind(topology(version=2), log, registry()), log, checkpoints=store, steps=steps(20))
    worker.open()
    for _ in range(3):
        worker.turn()
    worker.close()
    drain(bind(topology(version=2), log, registry()), log, store)
    assert take_over(topology(version=3), log, registry(), store, old=2).state == "reused"
    run(log, topology(version=3), store, close=True)
    for sink, rows in calm(log, topology()).items():
        assert rows_of(log, f"shop.{sink}").equals(rows), sink
    log.close()


def test_somebody_may_vouch_for_a_state_and_entry_0_says_who_was_adopted(tmp_path: Path) -> None:
    log = half_run(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    end(log, store)
    new = topology(version=2, least=5.0)
    with pytest.raises(ForeignFingerprint, match="what comes to 'dedupe' is made otherwise"):
        take_over(new, log, registry(), store, old=1, adopt=("ordered", *ORDERED, "spend", "shops"))
    with pytest.raises(InputError, match="has no step 'nosuch'"):
        take_over(new, log, registry(), store, old=1, adopt=("nosuch",))
    done = take_over(new, log, registry(), store, old=1, adopt=("dedupe", "ordered", *ORDERED, "spend", "shops"))
    assert done.state == "reused"
    live = bind(new, log, registry())
    first = log.read(TopicPartition(live.names.tasks, 0), 0, max_records=1).value(0) or b""
    assert b'"adopted":["dedupe","ordered","ordered_2","ordered_3","ordered_4","shops","spend"]' in first
    run(log, new, store, close=True)
    assert verify(live, log).findings == []
    log.close()


def test_without_an_end_there_is_no_take_over(tmp_path: Path) -> None:
    log = half_run(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    with pytest.raises(InputError, match="version 1 of 'shop' has not ended: no drain is in force"):
        take_over(topology(version=2), log, registry(), store, old=1)
    worker = Worker(bind(topology(), log, registry()), log)
    worker.open()
    worker.turn()
    with pytest.raises(LogError, match="workers of version 1 of 'shop' are running"):
        drain(bind(topology(), log, registry()), log, store, patience_s=0.1)
    worker.close()
    log.close()


@pytest.mark.parametrize("window", ["10s", "20s"])
@pytest.mark.parametrize("most", [9, pytest.param(10_000, marks=pytest.mark.long)])
def test_an_upgrade_that_died_at_any_call_can_be_done_again(tmp_path: Path, window: str, most: int) -> None:
    half_run(tmp_path / "base").close()
    new = topology(version=2, window=window)

    def upgrade(log: Any, folder: Path) -> dict[TopicPartition, int]:
        store = DirectoryCheckpoints(folder / "checkpoints")
        at = end(log, store)
        take_over(new, log, registry(), store, old=1)
        return at

    shutil.copytree(tmp_path / "base", tmp_path / "counted")
    log = opened(tmp_path / "counted")
    counting = DyingLog(log, 1 << 60)
    upgrade(counting, tmp_path / "counted")
    log.close()
    for death in range(1, counting.calls, max(1, counting.calls // most)):
        folder = tmp_path / f"at{death}"
        shutil.copytree(tmp_path / "base", folder)
        log = opened(folder)
        with pytest.raises(Killed):
            upgrade(DyingLog(log, death, after=death % 2 == 1), folder)
        log.close()
        log = opened(folder)
        at = upgrade(log, folder)
        run(log, new, DirectoryCheckpoints(folder / "checkpoints"), close=True)
        require_old_below_and_new_above(log, new, at)
        log.close()
        shutil.rmtree(folder)


def test_a_version_that_is_on_its_way_to_its_end_is_not_taken_over_from(tmp_path: Path) -> None:
    log = half_run(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    binding = bind(topology(), log, registry())
    create_control(log, binding.names)
    ask(log, binding.names, Request("drain", "somebody", 1, offsets=source_ends(binding, log)))
    with pytest.raises(InputError, match=r"has not ended: orders-\d is read to \d+ and not yet to \d+"):
        take_over(topology(version=2), log, registry(), store, old=1)
    at = end(log, store)
    assert at == source_ends(binding, log), "a drain that is in force stays where it is"
    assert take_over(topology(version=2), log, registry(), store, old=1).at == at
    log.close()
