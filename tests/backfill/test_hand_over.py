"""From a backfill to the live run without a gap: no row twice, none missing, however many come in meanwhile."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dying_log import DyingLog, Killed
from orders import SINKS, append, opened, registry, rows_of, run, steps, topology

from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.errors import InputError, LogError
from streamproc.ports import Log
from streamproc.runtime.backfill import Backfill, Span, backfill_worker, open_backfill
from streamproc.runtime.binding import Binding, bind, plan_topology
from streamproc.runtime.handover import Tile, hand_over
from streamproc.runtime.offsets import source_places
from streamproc.runtime.replay import recorded_sums, replay_as_recorded, replay_by_event_time
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog


def begun(log: Any, store: DirectoryCheckpoints) -> Backfill:
    """A backfill over what is there now, that leaves time open."""
    places = source_places(plan_topology(topology(), registry()), log)
    span = Span({p: log.start_offset(p) for p in places}, {p: log.end_offset(p) for p in places}, close=False)
    return open_backfill(topology(), log, registry(), "b", span, checkpoints=store)


def handed_over(log: Any, store: DirectoryCheckpoints, side: Backfill) -> tuple[Binding, list[Tile]]:
    """The live run, ready to go on from the backfill."""
    live = bind(topology(), log, registry())
    return live, hand_over(side.binding, live, log, store, side.span.until)


def calm(log: Log) -> dict[str, pl.DataFrame]:
    """The sinks of one run over all that is in the source, closed."""
    _, run_log, _ = replay_by_event_time(topology(), log, registry(), MemoryLog(now=1 << 60))
    return {sink: rows_of(run_log, f"shop.{sink}") for sink in SINKS}


def require_one_floor(log: EmbeddedLog) -> None:
    """The rows of both runs together are those of one run over everything; live alone is neither."""
    for sink, expected in calm(log).items():
        first, second = rows_of(log, f"shop.{sink}.v1.b"), rows_of(log, f"shop.{sink}")
        both = pl.concat([first, second])
        assert both.sort(both.columns).equals(expected), sink
        assert 0 < second.height < expected.height


def test_rows_that_come_while_it_is_computed_and_handed_over_are_neither_lost_nor_doubled(tmp_path: Path) -> None:
    log = opened(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    append(log, 0, 200)
    enough, written = threading.Event(), [200]

    def produce() -> None:
        with EmbeddedLog(tmp_path / "log.db") as own:
            while not enough.is_set():
                append(own, written[0], 7)
                written[0] += 7

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        side = begun(log, store)
        backfill_worker(side, checkpoints=store, step_units=30).run()
        live, tiles = handed_over(log, store, side)
        run(log, topology(), store)
    finally:
        enough.set()
        producer.join()
    run(log, topology(), store, close=True)
    assert written[0] > 250
    assert [(tile.first, tile.cut) for tile in tiles] == [(0, end) for _, end in sorted(side.span.until.items())]
    assert all(tile.whole and tile.live_from == tile.cut for tile in tiles)
    require_one_floor(log)
    assert verify(live, log).findings == []
    assert replay_as_recorded(live, log, checkpoints=store).sums == recorded_sums(live, log)
    log.close()


def prepared(folder: Path) -> EmbeddedLog:
    """A finished backfill, and orders that came after it."""
    folder.mkdir()
    log = opened(folder)
    store = DirectoryCheckpoints(folder / "checkpoints")
    append(log, 0, 150)
    side = begun(log, store)
    backfill_worker(side, checkpoints=store, step_units=40).run()
    append(log, 150, 100)
    return log


def taken_up(log: Any) -> Backfill:
    return open_backfill(topology(), log, registry(), "b")


@pytest.mark.parametrize("most", [12, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_hand_over_that_died_at_any_call_is_done_or_not_done_and_can_be_done_again(tmp_path: Path, most: int) -> None:
    prepared(tmp_path / "base").close()
    shutil.copytree(tmp_path / "base", tmp_path / "counted")
    log = opened(tmp_path / "counted")
    counting = DyingLog(log, 1 << 60)
    handed_over(counting, DirectoryCheckpoints(tmp_path / "counted" / "checkpoints"), taken_up(counting))
    log.close()
    for at in range(1, counting.calls, max(1, counting.calls // most)):
        folder = tmp_path / f"at{at}"
        shutil.copytree(tmp_path / "base", folder)
        store = DirectoryCheckpoints(folder / "checkpoints")
        log = opened(folder)
        dying = DyingLog(log, at, after=at % 2 == 1)
        with pytest.raises(Killed):
            handed_over(dying, store, taken_up(dying))
        log.close()
        log = opened(folder)
        _, tiles = handed_over(log, store, taken_up(log))
        assert all(tile.whole for tile in tiles), at
        run(log, topology(), store, close=True)
        require_one_floor(log)
        log.close()
        shutil.rmtree(folder)


def test_a_hand_over_done_twice_tells_the_same_tiles(tmp_path: Path) -> None:
    log = prepared(tmp_path / "base")
    store = DirectoryCheckpoints(tmp_path / "base" / "checkpoints")
    _, first = handed_over(log, store, taken_up(log))
    run(log, topology(), store)
    assert handed_over(log, store, taken_up(log))[1] == first
    log.close()


def test_a_live_run_that_has_begun_takes_no_hand_over(tmp_path: Path) -> None:
    log = prepared(tmp_path / "base")
    run(log, topology(), None)
    with pytest.raises(InputError, match="has begun already"):
        handed_over(log, DirectoryCheckpoints(tmp_path / "base" / "checkpoints"), taken_up(log))
    log.close()


def test_a_backfill_that_is_not_finished_or_has_ended_time_is_not_handed_over(tmp_path: Path) -> None:
    log = opened(tmp_path)
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    append(log, 0, 150)
    side = begun(log, store)
    with pytest.raises(InputError, match=r"has not read orders-0 to .* run it to its end"):
        handed_over(log, store, side)
    worker = backfill_worker(side, checkpoints=store, step_units=20)
    worker.on_commit = lambda _: worker.stop()
    worker.run()
    with pytest.raises(InputError, match="run it to its end"):
        handed_over(log, store, side)
    closed = open_backfill(topology(), log, registry(), "closed")
    backfill_worker(closed).run()
    with pytest.raises(InputError, match=r"has ended time.*--no-close"):
        handed_over(log, store, closed)
    log.close()


def test_without_its_seed_the_live_run_does_not_begin_with_nothing(tmp_path: Path) -> None:
    log = prepared(tmp_path / "base")
    handed_over(log, DirectoryCheckpoints(tmp_path / "base" / "checkpoints"), taken_up(log))
    with pytest.raises(LogError, match=r"began with the state that shop\.v1\.b\.s0\.t0 left"):
        run(log, topology(), DirectoryCheckpoints(tmp_path / "elsewhere"))
    log.close()


def test_live_goes_on_from_its_seed_when_its_own_checkpoints_are_gone(tmp_path: Path) -> None:
    log = prepared(tmp_path / "base")
    store = DirectoryCheckpoints(tmp_path / "base" / "checkpoints")
    live, _ = handed_over(log, store, taken_up(log))
    worker = Worker(live, log, checkpoints=store, steps=steps(15), until_end=None)
    worker.open()
    for _ in range(6):
        worker.turn()
    worker.close()
    for name in store.tasks():
        if not name.endswith(".seed"):
            store.discard(name, keep_steps=())
    run(log, topology(), store, close=True)
    require_one_floor(log)
    log.close()
