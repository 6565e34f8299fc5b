"""Where a run begins is settled once, in entry 0 of every task."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from orders import append, opened, orders, registry, rows_of, run, topology

from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.cli.app import run as command
from streamproc.errors import ForeignFingerprint, InputError, LogError
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.first_start import begin, begun_tasks
from streamproc.runtime.offsets import offsets_at, source_places
from streamproc.runtime.replay import replay_as_recorded
from streamproc.runtime.restore import restore_task
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker

PLACES = [TopicPartition("orders", 0), TopicPartition("orders", 1)]


def filled(folder: Path) -> EmbeddedLog:
    """A log with two batches of orders, a second apart."""
    now = [1_000_000_000]
    log = EmbeddedLog(folder / "log.db", now_us=lambda: now[0])
    log.create_topic("orders", TopicSettings(2))
    append(log, 0, 100)
    now[0] += 1_000_000
    append(log, 100, 100)
    return log


def test_a_place_is_named_by_a_word_a_moment_or_offsets(tmp_path: Path) -> None:
    log = filled(tmp_path)
    sizes = [log.end_offset(place) for place in PLACES]
    first = [log.offset_at(place, 1_001_000_000) for place in PLACES]
    assert source_places(bind(topology(), log, registry()).plan, log) == PLACES
    for text, expected in (
        ("earliest", [0, 0]),
        ("latest", sizes),
        ("1970-01-01T00:16:41Z", first),
        (f"orders:0=7,orders:1={sizes[1]}", [7, sizes[1]]),
    ):
        assert list(offsets_at(log, PLACES, text).values()) == expected
    assert 0 < first[0] < sizes[0]
    for wrong, told in (
        ("orders:0=7", "orders:1 is not named"),
        ("orders:0=7,orders:1=0,x:0=1", "x:0 is no partition"),
        ("orders:0=7,orders:1=9999", "orders:1 holds offsets 0 to"),
        ("orders:0=7,orders", "'orders' is no offset"),
    ):
        with pytest.raises(InputError, match=told):
            offsets_at(log, PLACES, wrong)
    log.close()


def test_a_run_begins_where_entry_0_says_and_goes_on_from_there_without_checkpoints(tmp_path: Path) -> None:
    log = filled(tmp_path)
    binding = bind(topology(), log, registry())
    starts = offsets_at(log, PLACES, "1970-01-01T00:16:41Z")
    begin(binding, log, starts)
    assert log.committed(binding.names.group(0)) == starts
    run(log, topology(), None)
    append(log, 200, 100)
    run(log, topology(), None, close=True)
    expected = orders(100, 200).filter(pl.col("amount") > 30)
    assert rows_of(log, "shop.good")["id"].to_list() == expected["id"].sort().to_list()
    assert verify(binding, log).findings == []
    assert replay_as_recorded(binding, log).steps > 0
    log.close()


def test_after_the_first_start_another_one_is_refused(tmp_path: Path) -> None:
    log = filled(tmp_path)
    binding = bind(topology(), log, registry())
    begin(binding, log, {})
    assert begun_tasks(binding, log) == list(range(binding.task_count))
    before = {n: log.end_offset(TopicPartition(binding.names.tasks, n)) for n in range(binding.task_count)}
    with pytest.raises(InputError, match=r"version 1 of 'shop' has begun already .*new version="):
        begin(binding, log, offsets_at(log, PLACES, "latest"))
    assert before == {n: log.end_offset(TopicPartition(binding.names.tasks, n)) for n in range(binding.task_count)}
    log.close()


def test_a_first_start_waits_for_nobody_who_works(tmp_path: Path) -> None:
    log = filled(tmp_path)
    binding = bind(topology(), log, registry())
    worker = Worker(binding, log)
    worker.open()
    worker.turn()
    with pytest.raises(LogError, match="workers of version 1 of 'shop' are running; stop them"):
        begin(binding, log, {}, patience_s=0.1)
    worker.close()
    log.close()


def test_a_changed_number_of_partitions_stops_with_the_choices(tmp_path: Path) -> None:
    log = opened(tmp_path)
    append(log, 0, 50)
    run(log, topology(), DirectoryCheckpoints(tmp_path / "checkpoints"))
    log.delete_topic("orders")
    log.create_topic("orders", TopicSettings(3))
    with pytest.raises(ForeignFingerprint, match=r"began with \d+ tasks, and now .*'orders' has 3.*choose: \(a\)"):
        bind(topology(), log, registry())
    log.close()


def test_entry_0_keeps_who_began_it_and_how(tmp_path: Path) -> None:
    log = filled(tmp_path)
    binding = bind(topology(), log, registry())
    begin(binding, log, {}, heads={n: {"from": "earliest"} for n in range(binding.task_count)})
    head = restore_task(binding, 0, log, None).task.head
    assert (head["from"], head["start"], head["version"]) == ("earliest", {"orders-0": 0}, 1)
    log.close()


def test_the_command_begins_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(
        "import streamproc as sp\n"
        "from orders import ORDER\n"
        "shop = sp.Topology('shop', sinks={'out': sp.source('orders', contract=ORDER)})\n"
    )
    (tmp_path / ".streamproc").mkdir()
    with EmbeddedLog(tmp_path / ".streamproc" / "log.db") as log:
        log.create_topic("orders", TopicSettings(2))
        append(log, 0, 100)
    assert command(["run", "shop.py", "--until-end", "--from", "latest"]) == 0
    assert "nothing new" in capsys.readouterr().out
    assert command(["run", "shop.py", "--until-end", "--from", "earliest"]) == 2
    assert "has begun already" in capsys.readouterr().err
    with EmbeddedLog(tmp_path / ".streamproc" / "log.db") as log:
        append(log, 100, 30)
    assert command(["run", "shop.py", "--until-end"]) == 0
    assert "30 rows read" in capsys.readouterr().out
