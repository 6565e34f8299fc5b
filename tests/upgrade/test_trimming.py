"""The past goes once nobody needs it, and what is left is enough: for a restore, a refusal, an audit."""

from __future__ import annotations

from pathlib import Path

import pytest
from orders import append, opened, registry, rows_of, run, starts, topology

from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.errors import ForeignFingerprint, InputError, InputGone, LogError, OffsetOutOfRange
from streamproc.planning.topology import Topology
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind, plan_topology
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.replay import recorded_sums, replay_as_recorded
from streamproc.runtime.restore import restore_task
from streamproc.runtime.trim import audit_us, retention_findings
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker

TASKS = "shop.v1.tasks"
NOW = {"audit": "0s"}


def worked(folder: Path, value: Topology, *, rounds: int = 3) -> tuple[EmbeddedLog, DirectoryCheckpoints]:
    """A log after some runs, each with a checkpoint after every commit."""
    log, store = opened(folder), DirectoryCheckpoints(folder / "checkpoints")
    for number in range(rounds):
        append(log, 200 * number, 200)
        run(log, value, store, every_s=0.0)
    return log, store


def undisturbed(folder: Path, rows: int) -> EmbeddedLog:
    """The same orders in one run, nothing trimmed."""
    folder.mkdir()
    log = opened(folder)
    for number in range(rows // 200):
        append(log, 200 * number, 200)
    run(log, topology(), None, close=True)
    return log


def test_the_journal_keeps_only_what_stands_behind_the_last_two_checkpoints(tmp_path: Path) -> None:
    log, store = worked(tmp_path, topology(settings=NOW))
    binding = bind(topology(settings=NOW), log, registry())
    for number in range(binding.task_count):
        kept = store.manifests(restore_task(binding, number, log, store).task.name)
        place = TopicPartition(TASKS, number)
        first = next(journal_entries(log, place, log.start_offset(place), log.end_offset(place)))[1]
        assert len(kept) == 2
        assert first.step == kept[1].step > 0
    log.close()


def test_internal_topics_keep_only_what_their_readers_older_checkpoint_has_not_consumed(tmp_path: Path) -> None:
    log, store = worked(tmp_path, topology(settings=NOW))
    binding = bind(topology(settings=NOW), log, registry())
    edges = [topic for topic in log.topics() if ".edge." in topic]
    assert edges
    for number in range(binding.task_count):
        task = restore_task(binding, number, log, store).task
        older = store.manifests(task.name)[1]
        for topic, partition, position in older.head["positions"]:  # type: ignore[attr-defined]
            if topic in edges:
                assert log.start_offset(TopicPartition(topic, partition)) == position > 0
    log.close()


def test_a_trimmed_run_goes_on_and_gives_the_rows_of_an_undisturbed_one(tmp_path: Path) -> None:
    log, store = worked(tmp_path, topology(settings=NOW))
    run(log, topology(settings=NOW), store, close=True, every_s=0.0)
    with undisturbed(tmp_path / "calm", 600) as calm:
        for sink in ("good", "shops", "spend"):
            assert rows_of(log, f"shop.{sink}").equals(rows_of(calm, f"shop.{sink}"))
        calm_sums = recorded_sums(bind(topology(), calm, registry()), calm)
    assert {t: s for t, s in recorded_sums(bind(topology(), log, registry()), log).items() if ".edge." not in t} == {
        t: s for t, s in calm_sums.items() if ".edge." not in t
    }
    assert verify(bind(topology(), log, registry()), log).findings == []
    log.close()


@pytest.mark.parametrize("kept", [0, 1])
def test_either_of_the_two_checkpoints_is_enough(tmp_path: Path, kept: int) -> None:
    log, store = worked(tmp_path, topology(settings=NOW))
    binding = bind(topology(settings=NOW), log, registry())
    whole = [restore_task(binding, number, log, store).task.state for number in range(binding.task_count)]
    for number in range(binding.task_count):
        name = restore_task(binding, number, log, store).task.name
        store.discard(name, keep_steps=[store.manifests(name)[kept].step])
    again = [restore_task(binding, number, log, store) for number in range(binding.task_count)]
    assert [restored.task.state.sums for restored in again] == [state.sums for state in whole]
    assert all((restored.steps > 0) == bool(kept) for restored in again)
    log.close()


def test_a_foreign_fingerprint_is_refused_when_entry_0_is_gone(tmp_path: Path) -> None:
    log, store = worked(tmp_path, topology(settings=NOW))
    changed = bind(topology(dear=50.0, settings=NOW), log, registry())
    with pytest.raises(ForeignFingerprint, match=r"another logic \(plain, topology\); give the changed topology"):
        restore_task(changed, 0, log, store)
    with pytest.raises(LogError, match=r"begins at step .* no sound checkpoint reaches back"):
        restore_task(bind(topology(), log, registry()), 0, log, None)
    log.close()


def test_an_audit_of_trimmed_steps_says_so_and_one_from_the_oldest_checkpoint_is_sound(tmp_path: Path) -> None:
    log, store = worked(tmp_path, topology(settings=NOW))
    binding = bind(topology(settings=NOW), log, registry())
    with pytest.raises(InputGone, match=r"begins at step .* were trimmed; '--from-checkpoint'"):
        replay_as_recorded(binding, log)
    report = replay_as_recorded(binding, log, checkpoints=store, from_checkpoint=True)
    assert report.steps > 0
    assert report.sums == recorded_sums(binding, log)
    log.close()


def test_nothing_is_trimmed_where_sources_keep_everything(tmp_path: Path) -> None:
    log, store = worked(tmp_path, topology())
    assert set(starts(log, TASKS)) == {0}
    assert replay_as_recorded(bind(topology(), log, registry()), log).steps > 0
    assert all(len(store.manifests(name)) == 2 for name in store.tasks())
    log.close()


def test_an_audit_interval_keeps_the_steps_of_that_time(tmp_path: Path) -> None:
    now = [0]
    log = EmbeddedLog(tmp_path / "log.db", now_us=lambda: now[0])
    log.create_topic("orders", TopicSettings(2))
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    value = topology(settings={"audit": "30m"})
    for number in range(20):
        now[0] = (1_000 + 10 * number) * 60_000_000
        append(log, 50 * number, 50)
        run(log, value, store, every_s=0.0)
    place = TopicPartition(TASKS, 0)
    block = log.read(place, log.start_offset(place), max_records=1)
    age = (now[0] - int(block.timestamps[0])) / 60e6
    assert 30 <= age <= 60
    assert len(store.manifests("shop.v1.s0.t0")) <= 5
    assert replay_as_recorded(bind(value, log, registry()), log, checkpoints=store, from_checkpoint=True).steps > 0
    log.close()


def test_by_default_the_journal_reaches_as_far_as_the_sources_do(tmp_path: Path) -> None:
    log = opened(tmp_path, retention_us=3_600_000_000)
    plan = plan_topology(topology(), registry())
    assert audit_us(plan, log.topics()) == 3_600_000_000
    assert retention_findings(plan, log.topics()) == []
    log.close()


def test_a_retention_that_is_shorter_than_what_must_be_run_again_is_found(tmp_path: Path) -> None:
    log = opened(tmp_path, retention_us=60_000_000)
    assert "at least 10m" in retention_findings(plan_topology(topology(), registry()), log.topics())[0]
    audited = plan_topology(topology(settings={"audit": "7d"}), registry())
    assert "keeps records for 1m, the topology wants to audit 1w" in retention_findings(audited, log.topics())[0]
    with pytest.raises(InputError, match="sets audit to 'soon'"):
        audit_us(plan_topology(topology(settings={"audit": "soon"}), registry()), log.topics())
    log.close()


def test_a_committed_offset_that_was_removed_stops_the_worker_with_the_choices(tmp_path: Path) -> None:
    log, store = worked(tmp_path, topology(), rounds=1)
    place = TopicPartition("orders", 1)
    at = log.end_offset(place)
    append(log, 200, 200)
    log.delete_records(place, log.end_offset(place))
    gone = log.end_offset(place)
    with pytest.raises(OffsetOutOfRange, match=f"orders-1@{at}, and the log now begins at {gone}") as told:
        run(log, topology(), store)
    assert all(way in str(told.value) for way in ("replay shop --by-event", "version=2", "run shop --from earliest"))
    with pytest.raises(OffsetOutOfRange, match=f"orders-1@{at}, and the log now begins at {gone}"):
        run(log, topology(), None)  # Without a checkpoint its first step is gone too, which is no choice to be made.
    log.close()


def test_a_live_worker_that_retention_overtakes_stops_and_skips_nothing(tmp_path: Path) -> None:
    log = opened(tmp_path, partitions=1)
    append(log, 0, 200)
    binding = bind(topology(), log, registry())
    worker = Worker(binding, log)
    worker.open()
    for _ in range(20):
        worker.turn()
    assert log.committed(binding.names.group(0))[TopicPartition("orders", 0)] == 200
    append(log, 200, 200)
    log.delete_records(TopicPartition("orders", 0), 300)
    with pytest.raises(OffsetOutOfRange, match=r"orders-0@200, and the log now begins at 300: 100 offsets"):
        for _ in range(2):  # It looks at what is committed before it believes that anything is lost.
            worker.turn()
    worker.close(save=False)
    assert log.committed(binding.names.group(0))[TopicPartition("orders", 0)] == 200
    log.close()
